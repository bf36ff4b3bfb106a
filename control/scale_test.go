package control

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route"
)

// tableGateway builds the table, as a real one does, and no more.
type tableGateway struct{ endpoints int }

func (g *tableGateway) Publish(specs []route.Spec, aliases route.Aliases) error {
	_, err := route.New(specs, aliases)
	g.endpoints = len(specs)
	return err
}

func (g *tableGateway) Configure([]config.Model) error  { return nil }
func (g *tableGateway) Observe(string, string) Observed { return Observed{} }

// The bounds of what one server is to have.
const manyEndpoints, manyVersions = 1000, 5000

// many is the settings of as much as a server is to have: each version has an alias, which an
// endpoint names as its stable version, its canary or a shadow.
func many(t testing.TB) config.Config {
	t.Helper()
	c := config.Default()
	const each = manyVersions / manyEndpoints
	add := func(kind, name, spec string) {
		if err := c.Add(config.Resource{Kind: kind, Name: name, Spec: []byte(spec)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range manyEndpoints {
		aliases := ""
		for v := range each {
			aliases += fmt.Sprintf(`, "a%d": "%d"`, v, v+1)
		}
		add("Model", fmt.Sprintf("model-%04d", i), `{"aliases": {"none": "1"`+aliases+`}}`)
		add("Endpoint", fmt.Sprintf("endpoint-%04d", i), fmt.Sprintf(`{"model": "model-%04d",
			"stable": "@a0", "canary": {"watch": %q}, "arms": [{"name": "b", "version": "@a2",
			"weight": 10}], "shadows": [{"version": "@a3", "percent": 1}]}`, i, watched(i)))
	}
	return c
}

// watched is the alias that an endpoint watches: one in fifty has a rollout to begin.
func watched(i int) string {
	if i%50 == 0 {
		return "@a1"
	}
	return "@none"
}

// openMany starts a plane of that size, whose loops do not run.
func openMany(t testing.TB) *Plane {
	t.Helper()
	file := many(t)
	p, err := Open(Config{Data: t.TempDir(), File: "millrace.yaml", manual: true,
		Log: slog.New(slog.DiscardHandler)}, new(tableGateway), loaded, &file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// move makes a change of one endpoint, another each time.
func move(n int) Change {
	c := texts("Endpoint", fmt.Sprintf("endpoint-%04d", n%manyEndpoints), fmt.Sprintf(
		`{"model": "model-%04d", "stable": "@a%d", "priority": %d}`, n%manyEndpoints, n%5, n/5%60))
	c.TakeOver = true
	return c
}

// TestMany holds the time of changes and the memory at that size against their bounds, which leave
// room for a machine that others use, too.
func TestMany(t *testing.T) {
	before := heap()
	p := openMany(t)
	if got := heap() - before; got > 64<<20 {
		t.Errorf("it takes %d MiB", got>>20)
	} else {
		t.Logf("it takes %d KiB", got>>10)
	}
	fastest := func(what string, most time.Duration, f func(i int)) {
		t.Helper()
		best := time.Hour
		for i := range 5 {
			start := time.Now()
			f(i)
			best = min(best, time.Since(start))
		}
		t.Logf("%s takes %v", what, best)
		if best > most {
			t.Errorf("%s takes %v", what, best)
		}
	}
	fastest("apply", 100*time.Millisecond, func(i int) {
		if _, err := p.Apply(t.Context(), move(i)); err != nil {
			t.Fatal(err)
		}
	})
	p.mu.Lock()
	fastest("publish", 50*time.Millisecond, func(int) {
		p.published = published{}
		if err := p.publish(); err != nil {
			t.Fatal(err)
		}
	})
	p.mu.Unlock()
	p.look(time.Now())
	if n := len(p.view.rollouts); n < manyEndpoints/50-1 {
		t.Errorf("%d rollouts have begun", n)
	}
	fastest("look", 100*time.Millisecond, func(int) { p.look(time.Now()) })
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkApply(b *testing.B) {
	p := openMany(b)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if _, err := p.Apply(b.Context(), move(n)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	p := openMany(b)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if _, err := p.view.with(move(n)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTable(b *testing.B) {
	p := openMany(b)
	b.ReportAllocs()
	for b.Loop() {
		p.view.table()
	}
}

func BenchmarkPublishSame(b *testing.B) {
	p := openMany(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.publish(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPublishNew(b *testing.B) {
	p := openMany(b)
	b.ReportAllocs()
	for b.Loop() {
		p.published = published{}
		if err := p.publish(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLook(b *testing.B) {
	p := openMany(b)
	p.look(time.Now())
	b.ReportAllocs()
	for b.Loop() {
		p.look(time.Now())
	}
}

// TestLongRollout saves a rollout as a day of it does, and wants the file to stop growing, and
// what people change to be in the audit log as the latest, in a log that the day has not filled.
func TestLongRollout(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint(`, "step": {"min_time": "720h", "max_time": "720h"}`)
	b.look(0)
	b.look(time.Second)
	hour := func(between time.Duration) (saves uint64, size int64) {
		t.Helper()
		before, err := b.store.Stats()
		if err != nil {
			t.Fatal(err)
		}
		for range time.Hour / between {
			b.traffic(100, 0)
			b.look(between)
		}
		after, err := b.store.Stats()
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(b.cfg.Data, storeFile))
		if err != nil {
			t.Fatal(err)
		}
		return after.Revision - before.Revision, info.Size()
	}
	first, _ := hour(5 * time.Second)
	_, early := hour(5 * time.Second)
	var last uint64
	var size int64
	for range 22 {
		last, size = hour(30 * time.Second)
	}
	stats, err := b.store.Stats()
	if err != nil {
		t.Fatal(err)
	}
	state := len(encode(b.state()))
	t.Logf("an hour saves %d times, later %d, each %d bytes, of which the log has %d: %d KiB in a "+
		"day; the file has %d KiB, after two hours %d", first, last, state,
		stats.LogBytes/stats.Changes, stats.LogBytes>>10, size>>10, early>>10)
	if first > 300 || last > 61 || last < 59 {
		t.Errorf("an hour saves %d times, later %d", first, last)
	}
	if stats.LogBytes > 1<<20 || size > early {
		t.Errorf("the log has %d bytes, the file %d", stats.LogBytes, size)
	}
	if s := b.state(); s.Phase != rollout.Step {
		t.Fatalf("the rollout is %s: %s", s.Phase, s.Reason)
	}
	for _, q := range []store.Query{{Who: "ana"}, {Quiet: true, Kind: config.KindEndpoint}} {
		changes, err := b.store.Audit(t.Context(), q)
		if err != nil || len(changes) == 0 || len(changes) > 2 ||
			changes[0].By != ana || len(changes[0].New.Spec) == 0 {
			t.Errorf("%+v: the audit log has %d changes of ana's, %v", q, len(changes), err)
		}
	}
}
