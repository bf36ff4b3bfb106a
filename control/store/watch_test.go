package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatch has writers at work while some watch, stop, and resume. Each has to
// see every change once, in order.
func TestWatch(t *testing.T) {
	s := opened(t, config(t))
	const writers, each = 4, 100
	const last = 3 * writers * each // revisions
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("%d-%d", w, i)
				do(t, s, Txn{Put: []Resource{resource("Model", name, fmt.Sprint(i)),
					resource("Model", "shared", fmt.Sprint(w*each+i))}})
				do(t, s, Txn{Delete: []Key{{"Model", name}}})
			}
		})
	}
	for watcher := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(watcher)))
			there := make(map[Key]string)
			from := uint64(0)
			for from < last {
				left := 1 + r.IntN(200) // until it stops and resumes
				for e, err := range s.Watch(t.Context(), from) {
					if err != nil || e.Revision != from+1 {
						t.Errorf("revision %d behind %d, %v", e.Revision, from, err)
						return
					}
					from = e.Revision
					if e.Resource == nil {
						if there[e.Key] == "" {
							t.Errorf("%v was deleted, but not there", e.Key)
						}
						delete(there, e.Key)
					} else if there[e.Key] = string(e.Resource.Spec); e.Resource.Revision != from {
						t.Errorf("%v at %d", e.Resource, from)
					}
					if left--; left == 0 || from == last {
						break
					}
				}
			}
			if len(there) != 1 {
				t.Errorf("a watcher knows %v", there)
			}
		})
	}
	wg.Wait()
}

// TestWatchWaits wants a watch that has seen all to hear of the next change, and
// to end with its context, and with the store.
func TestWatchWaits(t *testing.T) { synctest.Test(t, watchWaits) }

func watchWaits(t *testing.T) {
	b, err := Open(config(t))
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, "a", `1`)
	type got struct {
		Event
		err error
	}
	watch := func(ctx context.Context) <-chan got {
		c := make(chan got)
		go func() {
			defer close(c)
			for e, err := range b.Watch(ctx, 1) {
				c <- got{e, err}
			}
		}()
		return c
	}
	ctx, cancel := context.WithCancel(t.Context())
	first, second := watch(ctx), watch(t.Context())
	synctest.Wait()
	select {
	case e := <-first:
		t.Fatalf("%+v", e)
	default:
	}
	put(t, b, "b", `1`)
	for _, c := range []<-chan got{first, second} {
		if e := <-c; e.err != nil || e.Revision != 2 || e.Name != "b" {
			t.Errorf("%+v", e)
		}
	}
	cancel()
	if e := <-first; !errors.Is(e.err, context.Canceled) {
		t.Errorf("%+v", e)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if e := <-second; !errors.Is(e.err, ErrClosed) {
		t.Errorf("%+v", e)
	}
	for _, c := range []<-chan got{first, second} {
		if e, more := <-c; more {
			t.Errorf("%+v", e)
		}
	}
}

// history opens a store that keeps little.
func history(t *testing.T, h History) *Bolt {
	t.Helper()
	cfg := config(t)
	cfg.History = h
	return opened(t, cfg)
}

// TestHistory wants the log bounded by each of its bounds, and watches that ask
// for more to hear so.
func TestHistory(t *testing.T) {
	f := func(h History, changes, most int, step time.Duration) {
		t.Helper()
		s := history(t, h)
		now := time.Now()
		s.now = func() time.Time { return now }
		for i := range changes {
			put(t, s, fmt.Sprint(i%3), fmt.Sprintf(`"%010d"`, i))
			now = now.Add(step)
		}
		stats, err := s.Stats()
		if err != nil || int(stats.Changes) > most || int(stats.Changes) < most/2 {
			t.Errorf("%+v, %v; want %d changes at most", stats, err, most)
		}
		if int(stats.LogBytes) > h.MaxBytes || int(stats.Compacted) != changes-int(stats.Changes) {
			t.Errorf("%+v", stats)
		}
		f := func(from uint64, want error) {
			t.Helper()
			for e, err := range s.Watch(t.Context(), from) {
				if !errors.Is(err, want) || err == nil && e.Revision != from+1 {
					t.Errorf("from %d: %+v, %v", from, e, err)
				}
				break
			}
		}
		f(0, ErrCompacted)
		f(stats.Compacted-1, ErrCompacted)
		f(stats.Compacted, nil)
		f(stats.Revision+1, ErrCompacted)
	}
	age := time.Hour
	f(History{MaxChanges: 10, MaxBytes: 1 << 20, MaxAge: age}, 30, 10, 0)
	f(History{MaxChanges: 1, MaxBytes: 1 << 20, MaxAge: age}, 5, 1, 0)
	f(History{MaxChanges: 100, MaxBytes: 2000, MaxAge: age}, 60, 20, 0)
	f(History{MaxChanges: 100, MaxBytes: 1 << 20, MaxAge: age}, 40, 13, 5*time.Minute)
}

// TestHistoryClockJumps sets the clock on by a century for one change, and back.
func TestHistoryClockJumps(t *testing.T) {
	s := history(t, History{MaxChanges: 1000, MaxBytes: 1 << 20, MaxAge: time.Hour})
	now := time.Now()
	s.now = func() time.Time { return now }
	for range 200 {
		put(t, s, "a", `1`)
	}
	now = now.AddDate(100, 0, 0)
	put(t, s, "a", `1`)
	now = now.AddDate(-200, 0, 0)
	put(t, s, "a", `1`)
	if stats, err := s.Stats(); err != nil || stats.Changes < 100 || stats.Revision != 202 {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestAudit(t *testing.T) {
	s := opened(t, config(t))
	const n = 2500 // more than are read at once
	for i := 0; i < n; i += 100 {
		var txn Txn
		for j := i; j < i+100; j++ {
			txn.Put = append(txn.Put, resource("Model", fmt.Sprint(j), `1`))
		}
		do(t, s, txn)
	}
	_, err := s.Txn(t.Context(), Txn{Put: []Resource{resource("Model", "7", `2`)},
		Delete: []Key{{"Model", "8"}}, By: Author{"eve", "127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	f := func(q Query, want ...uint64) {
		t.Helper()
		page, err := s.Audit(t.Context(), q)
		var got []uint64
		for _, ch := range page {
			got = append(got, ch.Revision)
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v: %v, want %v; %v", q, got, want, err)
		}
	}
	f(Query{Limit: 3}, n+2, n+1, n)
	f(Query{Limit: 2, Before: 3}, 2, 1)
	f(Query{Before: 1})
	f(Query{Before: n * 2, Limit: 1}, n+2)
	f(Query{Who: "eve"}, n+2, n+1)
	f(Query{Kind: "Model", Name: "7"}, n+1, 8)
	f(Query{Name: "7", Limit: 1, Before: n + 1}, 8)
	f(Query{Kind: "Mode"})
	page, err := s.Audit(t.Context(), Query{Who: "eve"})
	if err != nil || len(page) != 2 {
		t.Fatal(page, err)
	}
	deleted, changed := page[0], page[1]
	if deleted.New != nil || string(deleted.Old.Spec) != `1` || deleted.Old.Revision != 9 ||
		deleted.Key != (Key{"Model", "8"}) || deleted.By != (Author{"eve", "127.0.0.1"}) ||
		time.Since(deleted.Time) > time.Minute {
		t.Errorf("%+v", deleted)
	}
	if string(changed.Old.Spec) != `1` || string(changed.New.Spec) != `2` ||
		changed.New.Revision != n+1 || !changed.New.Updated.Equal(changed.Time) {
		t.Errorf("%+v", changed)
	}
	pages := 0
	for q := (Query{Limit: 1000}); ; pages++ {
		page, err := s.Audit(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) < 1000 {
			break
		}
		q.Before = page[len(page)-1].Revision
	}
	if page, _ := s.Audit(t.Context(), Query{}); len(page) != defaultPage || pages != 2 {
		t.Errorf("%d pages, and one of %d", pages, len(page))
	}
}

// TestStatusOnly has a resource change in its spec, its status, and nothing, and wants the log to
// have bodies where a spec has changed, and whoever watches to know all in the end.
func TestStatusOnly(t *testing.T) {
	s := opened(t, config(t))
	status := `"` + strings.Repeat("x", 10_000) + `"`
	save := func(who Author, owner, spec, status string) {
		t.Helper()
		r := resource("Endpoint", "a", spec)
		r.Owner, r.Status = owner, json.RawMessage(status)
		if _, err := s.Txn(t.Context(), Txn{Put: []Resource{r}, By: who}); err != nil {
			t.Fatal(err)
		}
	}
	self := Author{"rollout", Self}
	save(tester, "api", `1`, "")
	save(self, "api", `1`, status)
	save(tester, "api", `1`, status)
	save(tester, "api", `2`, status)
	save(tester, "file", `2`, status)
	save(self, "file", `2`, status[:99]+`"`)
	f := func(q Query, want string) {
		t.Helper()
		page, err := s.Audit(t.Context(), q)
		got := ""
		for i := range page {
			c := &page[i]
			old := c.Old
			if old == nil {
				old = new(Resource)
			}
			got += fmt.Sprintf(" %d:%v:%s/%d>%s/%d", c.Revision, c.StatusOnly(), old.Spec,
				len(old.Status), c.New.Spec, len(c.New.Status))
			if c.New.Revision != c.Revision || c.Revision > 1 && old.Revision != c.Revision-1 ||
				c.Key != (Key{"Endpoint", "a"}) || c.By.Who == "" || c.New.Owner == "" {
				t.Errorf("%+v", c)
			}
		}
		if err != nil || got != want {
			t.Errorf("%+v:%s, want%s, %v", q, got, want, err)
		}
	}
	const changes = " 5:false:2/10002>2/10002 4:false:1/10002>2/10002 3:true:/0>/0"
	f(Query{}, " 6:true:/0>/0"+changes+" 2:true:/0>/0 1:false:/0>1/0")
	f(Query{Quiet: true}, changes+" 1:false:/0>1/0")
	f(Query{Quiet: true, Limit: 2}, changes[:48])
	f(Query{Quiet: true, Who: "rollout"}, "")

	watch := func(want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		got := ""
		for e, err := range s.Watch(ctx, 0) {
			if err != nil {
				break
			}
			got += fmt.Sprintf(" %d", e.Revision)
			if e.Resource != nil {
				got += fmt.Sprintf(":%s/%d", e.Resource.Spec, len(e.Resource.Status))
			}
		}
		if got != want {
			t.Errorf("watched%s, want%s", got, want)
		}
	}
	watch(" 1:1/0 4:2/10002 5:2/10002 6:2/100")
	do(t, s, Txn{Delete: []Key{{"Endpoint", "a"}}})
	watch(" 1:1/0 4:2/10002 5:2/10002 7")
}

// TestStatusOnlyOften has more changes of a status than Watch reads at once, which it leaves out,
// before one that it gives.
func TestStatusOnlyOften(t *testing.T) {
	s := opened(t, config(t))
	r := Resource{Key: Key{"Rollout", "a/1"}, Owner: "api"}
	for i := range 3 * watchChanges {
		r.Status = json.RawMessage(fmt.Sprint(i))
		do(t, s, Txn{Put: []Resource{r}})
	}
	var got []uint64
	for e, err := range s.Watch(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.Revision); len(got) == 2 {
			break
		}
	}
	if len(got) != 2 || got[0] != 1 || got[1] != 3*watchChanges {
		t.Errorf("%v", got)
	}
}
