package drift

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// regions draws a segment, of which every next is half as frequent, and numbers around
// its place in the list, with a shift in one of them.
func regions(shifted int, shift float64) source {
	texts := [...][]byte{[]byte("north"), []byte("south"), []byte("east"), []byte("west")}
	return func(r *rand.Rand, row []sketch.Value) {
		at := min(int(r.ExpFloat64()/0.7), len(texts)-1)
		row[0] = sketch.Text(texts[at])
		for i := range row[1:] {
			x := float64(at) + r.NormFloat64()
			if at == shifted {
				x += shift
			}
			row[1+i] = sketch.Number(x)
		}
	}
}

// segmented builds a reference with segments.
func segmented(t testing.TB, r *rand.Rand, size [2]int, draw source) *reference.Profile {
	t.Helper()
	c, err := reference.NewCollector(names(size[1]), reference.Options{Segment: "x0",
		MaxSegments: 3})
	if err != nil {
		t.Fatal(err)
	}
	row := make([]sketch.Value, size[1])
	for i := range size[0] {
		draw(r, row)
		if err := c.Add(noon.Add(time.Duration(i)*time.Second), row); err != nil {
			t.Fatal(err)
		}
	}
	p, err := c.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustSegments(t testing.TB, p *reference.Profile) (*SegmentWindow, *SegmentMonitor) {
	t.Helper()
	w, err := NewSegmentWindow(p, names(len(p.Features)))
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewSegmentMonitor(p, Config{FalseAlarmEvery: promise})
	if err != nil {
		t.Fatal(err)
	}
	return w, m
}

// TestSegments lets one of four segments drift, with the rows in two replicas of which one
// sends its windows in binary form, and restarts in between. The segments' counts must
// add up to those of all rows.
func TestSegments(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 6))
	p := segmented(t, r, [2]int{8000, 3}, regions(-1, 0))
	_, m := mustSegments(t, p)
	row := make([]sketch.Value, 3)
	for tick := range 40 {
		one, _ := mustSegments(t, p)
		two, _ := mustSegments(t, p)
		want, got := mustWindow(t, p), mustWindow(t, p)
		for range 50 {
			regions(1, .7)(r, row)
			if err := errors.Join([...]*SegmentWindow{one, two}[r.IntN(2)].Add(row),
				want.Add(row)); err != nil {
				t.Fatal(err)
			}
		}
		data, err := two.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		sent, _ := mustSegments(t, p)
		if err := errors.Join(sent.UnmarshalBinary(data), one.Merge(sent),
			one.AddTo(got)); err != nil {
			t.Fatal(err)
		}
		for i := range want.sketches {
			if !slices.Equal(got.sketches[i].Counts(), want.sketches[i].Counts()) {
				t.Fatalf("tick %d: the segments add up to %v, not %v", tick,
					got.sketches[i].Counts(), want.sketches[i].Counts())
			}
		}
		report, err := m.Tick(one, noon)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		_, m = mustSegments(t, p)
		if err := json.Unmarshal(text, m); err != nil || !reflect.DeepEqual(m.Report(), report) {
			t.Fatalf("tick %d: after a restart %+v, before %+v, %v", tick, m.Report(), report, err)
		}
	}
	report := m.Report()
	if !report.Alarm || len(report.Segments) != 4 {
		t.Fatalf("the report is %+v", report)
	}
	for i, want := range []string{"north", "south", "east", ""} {
		s := report.Segments[i]
		if s.Value != want || s.Named != (want == "south") || s.Alarm != s.Named || s.Ticks != 40 {
			t.Errorf("segment %q: %+v", want, s)
		}
	}
	m.Reset()
	if r := m.Report(); r.Evidence != 0 || r.Alarm || r.Segments[1].Ticks != 0 {
		t.Errorf("after Reset: %+v", r)
	}
}

// TestSegmentRunLength wants the promise to hold for all segments together, also where
// a segment has no value in some bins of the whole reference.
func TestSegmentRunLength(t *testing.T) {
	n, horizon := count(80), 2000
	total, square := 0.0, 0.0
	for run := range n {
		r := rand.New(rand.NewPCG(uint64(run), 66))
		p := segmented(t, r, [2]int{4000, 2}, regions(-1, 0))
		w, m := mustSegments(t, p)
		row := make([]sketch.Value, 2)
		length := horizon
		for tick := range horizon {
			w.Reset()
			for range 3 {
				regions(-1, 0)(r, row)
				_ = w.Add(row)
			}
			if report, err := m.Tick(w, noon); err != nil || report.Alarm {
				length = tick + 1
				break
			}
		}
		total += float64(length) / float64(n)
		square += float64(length) * float64(length) / float64(n)
	}
	e := math.Sqrt((square - total*total) / float64(n))
	t.Logf("a false alarm every %.0f +- %.0f ticks in %d streams, cut off at %d", total, e, n,
		horizon)
	if total < promise-3*e {
		t.Errorf("a false alarm every %.0f +- %.0f ticks, promised are %d", total, e, promise)
	}
}

func TestSegmentFaults(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 6))
	p := segmented(t, r, [2]int{4000, 2}, regions(-1, 0))
	w, m := mustSegments(t, p)
	plain := profile(t, r, [2]int{500, 2}, normal(0, 1))
	other := segmented(t, r, [2]int{4000, 2}, regions(-1, 0))
	foreign, _ := mustSegments(t, other)
	f := func(name string, err, want error) {
		t.Helper()
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: the error is %v, want %v", name, err, want)
		}
	}
	_, err := NewSegmentWindow(plain, names(2))
	f("no segments", err, ErrNoSegments)
	_, err = NewSegmentMonitor(plain, Config{FalseAlarmEvery: 10})
	f("no segments", err, ErrNoSegments)
	_, err = NewSegmentMonitor(p, Config{})
	f("no promise", err, nil)
	_, err = NewSegmentWindow(p, []string{"x1"})
	f("no column", err, ErrRow)
	f("a short row", w.Add(nil), ErrRow)
	f("a long row", w.Add(make([]sketch.Value, 3)), ErrRow)
	_, err = m.Tick(foreign, noon)
	f("another profile", err, nil)
	data, _ := w.AppendBinary(nil)
	f("cut data", w.UnmarshalBinary(data[:len(data)-1]), sketch.ErrData)
	f("longer data", w.UnmarshalBinary(append(data, 0)), sketch.ErrData)
	text, _ := json.Marshal(m)
	_, otherMonitor := mustSegments(t, other)
	f("another state", otherMonitor.UnmarshalJSON(text), ErrState)
	f("a short state", m.UnmarshalJSON([]byte("[]")), ErrState)
	f("no state", m.UnmarshalJSON([]byte("{")), nil)
}

// TestSegmentMemory wants a segment of 50 features to take no more than 110 KiB: each has
// other counts, so that features share nothing.
func TestSegmentMemory(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 6))
	c, err := reference.NewCollector(names(50), reference.Options{Segment: "x0"})
	if err != nil {
		t.Fatal(err)
	}
	row := make([]sketch.Value, 50)
	for range 20_000 {
		normal(0, 1)(r, row)
		row[0] = sketch.Text(fmt.Append(nil, "v", r.IntN(20)))
		if err := c.Add(noon, row); err != nil {
			t.Fatal(err)
		}
	}
	p, err := c.Build()
	if err != nil {
		t.Fatal(err)
	}
	const n = 10
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var kept [n]any
	for i := range kept {
		w, m := mustSegments(t, p)
		kept[i] = [2]any{w, m}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := float64(after.HeapAlloc-before.HeapAlloc) / n / 1024
	t.Logf("%.0f KiB each", each)
	if each > 11*110 {
		t.Errorf("a window and a monitor of 11 segments take %.0f KiB", each)
	}
	runtime.KeepAlive(kept)
}

func BenchmarkSegmentWindow(b *testing.B) {
	r := rand.New(rand.NewPCG(4, 6))
	p := segmented(b, r, [2]int{8000, 50}, regions(-1, 0))
	w, _ := mustSegments(b, p)
	rows := make([][]sketch.Value, 256)
	for i := range rows {
		rows[i] = make([]sketch.Value, 50)
		regions(-1, 0)(r, rows[i])
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := w.Add(rows[i%len(rows)]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/50, "ns/value")
}
