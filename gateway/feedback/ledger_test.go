package feedback

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// open opens a ledger for 100 decisions that is closed with the test.
func open(t testing.TB, path string) *Ledger {
	t.Helper()
	l, err := Open(Config{Path: path, Capacity: 100, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func fresh(t testing.TB) string { return filepath.Join(t.TempDir(), "feedback.db") }

// decide notes a decision for version 1 that was taken now.
func decide(l *Ledger, id string) {
	d := Decision{Endpoint: "e", Arm: "a", Model: "m", Version: "1"}
	l.Decide(0, []byte(id), &d, time.Now().UnixNano())
}

// give gives a reward and wants a result.
func give(t testing.TB, l *Ledger, id string, want Result) {
	t.Helper()
	reward := 1.0
	if _, got, err := l.Give(Given{ID: id, Reward: &reward}); got != want || err != nil {
		t.Errorf("Give(%.20s) = %v, %v; want %v", id, got, err, want)
	}
}

// counted returns how many rewards count.
func counted(l *Ledger) (n int64) {
	for _, r := range l.Counts() {
		for _, s := range r.Series {
			for _, b := range s.Buckets {
				n += b.N
			}
		}
	}
	return n
}

func TestGiveAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, fresh(t))
		decide(l, "x")
		time.Sleep(time.Minute)
		reward := 0.25
		g := Given{ID: "x", Reward: &reward, Label: json.RawMessage(`{"a":1}`)}
		f, result, err := l.Give(g)
		if result != Accepted || err != nil {
			t.Fatalf("Give = %v, %v", result, err)
		}
		label, _ := f.Label.(json.RawMessage)
		if f.ID != "x" || f.Endpoint != "e" || f.Model != "m" || f.Version != "1" ||
			f.Route != "a" || !f.Time.Equal(time.Now()) ||
			*f.Reward != 0.25 || string(label) != `{"a":1}` {
			t.Errorf("feedback %+v", f)
		}
		give(t, l, "x", Duplicate)
		give(t, l, "y", Unknown)
		decide(l, "x") // the client uses the id again, too soon
		give(t, l, "x", Duplicate)
		if got := l.Stats(); got != (Stats{Accepted: 1, Duplicate: 2, Unknown: 1, Pending: 1}) {
			t.Errorf("%+v", got)
		}
	})
}

// TestGiveLabelOnly wants a label to use the id up, and to count nothing.
func TestGiveLabelOnly(t *testing.T) {
	l := open(t, fresh(t))
	decide(l, "x")
	f, result, err := l.Give(Given{ID: "x", Label: json.RawMessage(`"cat"`)})
	if result != Accepted || err != nil || f.Reward != nil {
		t.Fatalf("Give = %+v, %v, %v", f, result, err)
	}
	give(t, l, "x", Duplicate)
	if n := counted(l); n != 0 {
		t.Errorf("a label counts as %d rewards", n)
	}
}

func TestGiveRefuses(t *testing.T) {
	l := open(t, fresh(t))
	f := func(g Given, want string) {
		t.Helper()
		decide(l, g.ID)
		_, _, err := l.Give(g)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40v: %v, want %q", g, err, want)
		}
	}
	reward := func(r float64) *float64 { return &r }
	f(Given{Reward: reward(1)}, "id of the request is missing")
	f(Given{ID: strings.Repeat("x", MaxID+1), Reward: reward(1)}, "the id has 1025 bytes")
	f(Given{ID: "x"}, "neither reward nor label")
	f(Given{ID: "x", Label: json.RawMessage("null")}, "neither reward nor label")
	f(Given{ID: "x", Label: json.RawMessage("{")}, "no JSON")
	f(Given{ID: "x", Reward: reward(-0.01)}, "the reward is -0.01; 0 to 1")
	f(Given{ID: "x", Reward: reward(1e9)}, "the reward is 1e+09; 0 to 1")
	f(Given{ID: "x", Reward: reward(math.NaN())}, "NaN")
	f(Given{ID: "x", Reward: reward(math.Inf(1))}, "+Inf")
	if got := l.Stats(); got != (Stats{Invalid: 9, Pending: 7}) {
		t.Errorf("%+v", got) // what was refused has used no decision up
	}
	give(t, l, "x", Accepted)
	longest := strings.Repeat("y", MaxID)
	decide(l, longest)
	give(t, l, longest, Accepted)
}

func TestGiveLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, fresh(t))
		for _, id := range []string{"early", "late", "replaced"} {
			decide(l, id)
		}
		time.Sleep(time.Hour - time.Nanosecond)
		decide(l, "replaced")
		give(t, l, "early", Accepted)
		time.Sleep(time.Nanosecond)
		give(t, l, "late", Late)
		give(t, l, "late", Late)
		give(t, l, "replaced", Accepted)
		time.Sleep(time.Hour - 2*time.Nanosecond)
		give(t, l, "early", Duplicate)
		time.Sleep(time.Nanosecond)
		give(t, l, "early", Unknown) // forgotten
		decide(l, "early")
		give(t, l, "early", Accepted) // another request by now
		if n := counted(l); n != 3 {
			t.Errorf("%d rewards count, want 3", n)
		}
	})
}

func TestReopen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := fresh(t)
		l := open(t, path)
		decide(l, "given")
		decide(l, "open")
		give(t, l, "given", Accepted)
		before := l.Counts()
		l.Close()
		_, _, err := l.Give(Given{ID: "open", Label: json.RawMessage("1")})
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}

		l = open(t, path)
		if fmt.Sprint(l.Counts()) != fmt.Sprint(before) {
			t.Errorf("counts %v, were %v", l.Counts(), before)
		}
		give(t, l, "given", Duplicate)
		give(t, l, "open", Accepted)
		decide(l, "given")
		give(t, l, "given", Duplicate)
		decide(l, "late")
		l.Close()

		time.Sleep(time.Hour)
		l = open(t, path)
		give(t, l, "given", Late)
		give(t, l, "late", Late)
		decide(l, "given")
		give(t, l, "given", Accepted)
		if n := counted(l); n != 3 {
			t.Errorf("%d rewards count, want 3", n)
		}
	})
}

// TestReopenMany opens the ledger again with more and with less room than there are decisions.
func TestReopenMany(t *testing.T) {
	path := fresh(t)
	const n = 3*recordsPerValue + 7
	reopen := func(capacity int) *Ledger {
		t.Helper()
		l, err := Open(Config{Path: path, Capacity: capacity, TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	l := reopen(n)
	arms := []*Decision{{Endpoint: "e", Arm: "a", Model: "m", Version: "1"},
		{Endpoint: "e", Arm: "b", Model: "m", Version: "2", Trial: new(trial.Source)}}
	for i := range n {
		l.Decide(0, fmt.Append(nil, i), arms[i%2], time.Now().UnixNano())
	}
	l.Close()
	l = reopen(2 * n)
	if got := l.Stats().Pending; got != n {
		t.Errorf("%d decisions wait, want %d", got, n)
	}
	reward := 1.0
	f, result, err := l.Give(Given{ID: "1", Reward: &reward})
	if result != Accepted || f.Route != "b" || f.Version != "2" || err != nil {
		t.Errorf("%+v, %v, %v", f, result, err)
	}
	l.Close()
	l = reopen(10)
	give(t, l, fmt.Sprint(n-11), Unknown)
	give(t, l, fmt.Sprint(n-10), Accepted)
	give(t, l, fmt.Sprint(n-1), Accepted)
	give(t, l, "1", Duplicate)
	l.Close()
	if got := reopen(n).Stats().Pending; got != 8 {
		t.Errorf("%d decisions wait, want 8", got)
	}
}

// TestForgetsBeyondCapacity gives ten times as much as is remembered, in memory
// and on disk, and replays all of it: none may count twice.
func TestForgetsBeyondCapacity(t *testing.T) {
	path := fresh(t)
	cfg := Config{Path: path, Capacity: 20, TTL: time.Hour}
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]string, 200)
	for i := range ids {
		ids[i] = fmt.Sprint("id", i)
		decide(l, ids[i])
		give(t, l, ids[i], Accepted)
	}
	replay := func(l *Ledger) {
		t.Helper()
		for i, id := range ids {
			give(t, l, id, map[bool]Result{true: Duplicate, false: Unknown}[i >= 180])
		}
		if n := counted(l); n != 200 {
			t.Errorf("%d rewards count, want 200", n)
		}
	}
	replay(l)
	l.Close()
	l, err = Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	replay(l)
}

// TestGiveConcurrently has several clients give each id at the same time, while
// the clients of others use the same ids again.
func TestGiveConcurrently(t *testing.T) {
	l, err := Open(Config{Path: fresh(t), Capacity: 1000, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const ids, clients = 50, 8
	for i := range ids {
		decide(l, fmt.Sprint(i))
	}
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := range ids {
				reward := 0.5
				_, result, err := l.Give(Given{ID: fmt.Sprint(i), Reward: &reward})
				if err != nil || result != Accepted && result != Duplicate {
					t.Errorf("Give = %v, %v", result, err)
				}
				decide(l, fmt.Sprint(i))
			}
		})
	}
	wg.Wait()
	s := l.Stats()
	if s.Accepted != ids || s.Duplicate != ids*(clients-1) || counted(l) != ids {
		t.Errorf("%+v, %d rewards count; want each of %d once", s, counted(l), ids)
	}
}

// TestSeriesAreBounded serves more versions than are kept.
func TestSeriesAreBounded(t *testing.T) {
	l := open(t, fresh(t))
	full := &change{series: make(map[key]*Series)}
	for i := range maxSeries {
		k := key{"e", "m", fmt.Sprint(i)}
		s := &Series{Endpoint: k.endpoint, Model: k.model, Version: k.version}
		s.add(int64(1000*(maxSeries-i)), 1) // the last one is the oldest
		full.series[k] = s
	}
	if err := l.store.write(full); err != nil {
		t.Fatal(err)
	}
	l.kept.apply(full)
	l.Decide(1, []byte("x"), &Decision{Endpoint: "e", Model: "m", Version: "new"},
		time.Now().UnixNano())
	give(t, l, "x", Accepted)
	series := slices.Collect(func(yield func(string) bool) {
		for _, r := range l.Counts() {
			for _, s := range r.Series {
				yield(s.Version)
			}
		}
	})
	oldest := fmt.Sprint(maxSeries - 1)
	if len(series) != maxSeries || !slices.Contains(series, "new") ||
		slices.Contains(series, oldest) {
		t.Errorf("%d series are kept", len(series))
	}
}

func TestConfigValidate(t *testing.T) {
	good := DefaultConfig()
	good.Path = "x"
	if err := good.Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	bad := Config{TTL: time.Millisecond, Capacity: -1}
	_, err := Open(bad)
	for _, key := range []string{"path", "capacity", "ttl"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("no fault of %s in: %v", key, err)
		}
	}
}
