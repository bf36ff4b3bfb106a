package drift

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

var noon = time.Date(2026, 1, 4, 12, 0, 0, 0, time.UTC)

func mustWindow(t testing.TB, p *reference.Profile) *Window {
	t.Helper()
	w, err := NewWindow(p, names(len(p.Features)))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func mustMonitor(t testing.TB, p *reference.Profile) *Monitor {
	t.Helper()
	m, err := NewMonitor(p, Config{FalseAlarmEvery: promise})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// mixed draws three features that are correlated and two of categories.
func mixed(flip bool) source {
	numbers, texts := correlated(0.8, flip), category(0.01, 0.02)
	return func(r *rand.Rand, row []sketch.Value) {
		numbers(r, row[:3])
		texts(r, row[3:])
	}
}

// TestReplicas shares the rows of each tick between three replicas, one of which sends
// its windows in binary form. The monitor of all must say what that of one process
// does, with restarts in between.
func TestReplicas(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	p := profile(t, r, [2]int{4000, 5}, mixed(false))
	one, all := mustMonitor(t, p), mustMonitor(t, p)
	whole := mustWindow(t, p)
	row := make([]sketch.Value, 5)
	for tick := range 30 {
		whole.Reset()
		parts := []*Window{mustWindow(t, p), mustWindow(t, p), mustWindow(t, p)}
		for range 40 {
			mixed(tick > 20)(r, row)
			if err := errors.Join(whole.Add(row), parts[r.IntN(3)].Add(row)); err != nil {
				t.Fatal(err)
			}
		}
		data, err := parts[2].AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		sent := mustWindow(t, p)
		if err := errors.Join(sent.UnmarshalBinary(data), sent.Merge(parts[0]),
			sent.Merge(parts[1])); err != nil {
			t.Fatal(err)
		}
		want, err := one.Tick(whole, noon)
		if err != nil {
			t.Fatal(err)
		}
		got, err := all.Tick(sent, noon)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("tick %d: replicas say %+v, %v, one process %+v", tick, got, err, want)
		}
		state, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		all = mustMonitor(t, p)
		if err := json.Unmarshal(state, all); err != nil {
			t.Fatal(err)
		}
	}
	report := all.Report()
	last := report.Streams[len(report.Streams)-1]
	if !report.Alarm || last.Name != Joint || !last.Named || report.Ticks != 30 {
		t.Errorf("a correlation that has flipped gives %+v", report)
	}
	all.Reset()
	if report := all.Report(); report.Evidence != 0 || report.Alarm || report.Ticks != 0 {
		t.Errorf("after Reset: %+v", report)
	}
}

// TestNamed lets two of twenty features drift.
func TestNamed(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	p := profile(t, r, [2]int{10_000, 20}, normal(0, 1))
	w, m := mustWindow(t, p), mustMonitor(t, p)
	row := make([]sketch.Value, 20)
	first := uint64(0)
	for range 40 {
		w.Reset()
		for range 10 {
			normal(0, 1)(r, row)
			row[4] = sketch.Number(row[4].Float() + 0.5)
			if r.IntN(10) == 0 {
				row[13] = sketch.Missing()
			}
			if err := w.Add(row); err != nil {
				t.Fatal(err)
			}
		}
		report, err := m.Tick(w, noon)
		if err != nil {
			t.Fatal(err)
		}
		if report.Alarm && first == 0 {
			first = report.Ticks
		}
	}
	var named []string
	for _, s := range m.Report().Streams {
		if s.Named {
			named = append(named, s.Name)
		}
	}
	if first == 0 || first > 15 || !slices.Equal(named, []string{"x4", "x13", Joint}) {
		t.Errorf("alarm after %d ticks, in the end by %v", first, named)
	}
}

// TestPeriodic has a stream that rises and falls with the hour of the day. With a
// reference for each hour there is no alarm in 60 days, without there is.
func TestPeriodic(t *testing.T) {
	run := func(season reference.Season) Report {
		r := rand.New(rand.NewPCG(3, 3))
		draw := func(at time.Time, row []sketch.Value) {
			hour := float64(at.Hour()) + float64(at.Minute())/60
			row[0] = sketch.Number(2*math.Sin(hour/12*math.Pi) + r.NormFloat64())
		}
		c, err := reference.NewCollector(names(1), reference.Options{Season: season})
		if err != nil {
			t.Fatal(err)
		}
		row := make([]sketch.Value, 1)
		at := noon
		for range 60 * 24 * 60 {
			draw(at, row)
			if err := c.Add(at, row); err != nil {
				t.Fatal(err)
			}
			at = at.Add(time.Minute)
		}
		p, err := c.Build()
		if err != nil {
			t.Fatal(err)
		}
		w, m := mustWindow(t, p), mustMonitor(t, p)
		var report Report
		for range 60 * 24 * 4 { // ticks of a quarter of an hour
			w.Reset()
			begin := at
			for range 15 {
				draw(at, row)
				if err := w.Add(row); err != nil {
					t.Fatal(err)
				}
				at = at.Add(time.Minute)
			}
			if report, err = m.Tick(w, begin); err != nil {
				t.Fatal(err)
			}
			if report.Alarm {
				break
			}
		}
		return report
	}
	if report := run(reference.HourOfDay); report.Alarm {
		t.Errorf("with hours: %+v", report)
	}
	if report := run(reference.NoSeason); !report.Alarm {
		t.Errorf("without hours: %+v", report)
	}
}

func TestRefused(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	p, other := profile(t, r, [2]int{500, 2}, normal(0, 1)), profile(t, r, [2]int{500, 2}, tied)
	if _, err := NewWindow(p, []string{"x0", "y"}); !errors.Is(err, reference.ErrColumn) {
		t.Errorf("a column is missing: %v", err)
	}
	for _, c := range []Config{{}, {0.5, 0}, {math.NaN(), 0}, {math.Inf(1), 0}, {100, -0.1},
		{100, 1.1}, {100, math.NaN()}} {
		if _, err := NewMonitor(p, c); err == nil {
			t.Errorf("%+v is promised", c)
		}
	}
	w, m := mustWindow(t, p), mustMonitor(t, p)
	if err := w.Add(make([]sketch.Value, 3)); !errors.Is(err, ErrRow) {
		t.Errorf("a row of three: %v", err)
	}
	if _, err := m.Tick(mustWindow(t, other), noon); err == nil {
		t.Error("a window of another profile is taken")
	}
	if err := w.Merge(mustWindow(t, other)); !errors.Is(err, sketch.ErrMismatch) {
		t.Errorf("windows of two profiles: %v", err)
	}
	state, err := json.Marshal(mustMonitor(t, other))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(state, m); !errors.Is(err, ErrState) {
		t.Errorf("the state of another profile: %v", err)
	}
	if report, err := m.Tick(w, noon); err != nil || report.Ticks != 0 || report.Evidence != 0 {
		t.Errorf("an empty window: %+v, %v", report, err)
	}
	data, err := w.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if err := w.UnmarshalBinary(data[:n]); !errors.Is(err, sketch.ErrData) {
			t.Errorf("%d of %d bytes: %v", n, len(data), err)
		}
	}
	if err := w.UnmarshalBinary(append(data, 1)); !errors.Is(err, sketch.ErrData) {
		t.Errorf("a byte too many: %v", err)
	}
}

// TestChangedTypes sends what a feature never had: texts, huge numbers, one value only.
func TestChangedTypes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	p := profile(t, r, [2]int{5000, 3}, normal(0, 1))
	f := func(v sketch.Value) {
		t.Helper()
		w, m := mustWindow(t, p), mustMonitor(t, p)
		row := make([]sketch.Value, 3)
		ticks := 0
		for report := (Report{}); !report.Alarm && ticks < 100; ticks++ {
			w.Reset()
			normal(0, 1)(r, row)
			row[1] = v
			err := w.Add(row)
			if err == nil {
				report, err = m.Tick(w, noon)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if ticks > 40 {
			t.Errorf("%v is seen after %d rows", v, ticks)
		}
	}
	f(sketch.Missing())
	f(sketch.Number(math.NaN()))
	f(sketch.Number(math.Inf(1)))
	f(sketch.Number(-math.MaxFloat64))
	f(sketch.Number(0))
	f(sketch.Integer(math.MinInt64))
	f(sketch.Text([]byte("0.3")))
}

func TestAddDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	p := profile(t, r, [2]int{4000, 5}, mixed(false))
	w := mustWindow(t, p)
	row := make([]sketch.Value, 5)
	mixed(false)(r, row)
	if n := testing.AllocsPerRun(100, func() { _ = w.Add(row) }); n != 0 {
		t.Errorf("a row allocates %v times", n)
	}
}

// TestMemory wants 1,000 monitors of 50 features, with a reference and a window each,
// in 100 MB.
func TestMemory(t *testing.T) {
	var text strings.Builder
	p := profile(t, rand.New(rand.NewPCG(1, 1)), [2]int{10_000, 50}, normal(0, 1))
	if err := p.Write(&text); err != nil {
		t.Fatal(err)
	}
	const n = 50
	var keep [n]*Monitor
	var windows [n]*Window
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range keep {
		p, err := reference.Read(bytes.NewReader([]byte(text.String())))
		if err != nil {
			t.Fatal(err)
		}
		keep[i], windows[i] = mustMonitor(t, p), mustWindow(t, p)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (after.HeapAlloc - before.HeapAlloc) / n
	t.Logf("%d bytes a monitor; its profile has %d as JSON", each, text.Len())
	if each > 100_000 {
		t.Errorf("a monitor of 50 features takes %d bytes, 100000 are allowed", each)
	}
	runtime.KeepAlive(keep)
	runtime.KeepAlive(windows)
}

func BenchmarkAdd(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	w := mustWindow(b, profile(b, r, [2]int{10_000, 50}, normal(0, 1)))
	rows := make([][]sketch.Value, 256)
	for i := range rows {
		rows[i] = make([]sketch.Value, 50)
		normal(0, 1)(r, rows[i])
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		_ = w.Add(rows[i%len(rows)])
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/50, "ns/value")
}

func BenchmarkTick(b *testing.B) {
	for _, rows := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 1))
			p := profile(b, r, [2]int{10_000, 50}, normal(0, 1))
			w, m := mustWindow(b, p), mustMonitor(b, p)
			row := make([]sketch.Value, 50)
			for range rows {
				normal(0, 1)(r, row)
				_ = w.Add(row)
			}
			b.ReportAllocs()
			for b.Loop() {
				_, _ = m.Tick(w, noon)
			}
		})
	}
}
