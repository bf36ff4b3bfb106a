package detect

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-ml/millrace/drift/sketch"
)

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-5*max(1, math.Abs(want)) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// tied is a numeric stream with bins of very different size.
func tied(t testing.TB) Stream {
	l, err := sketch.Numeric([]float64{0, 1, 2, 5})
	if err != nil {
		t.Fatal(err)
	}
	return Stream{Name: "tied", Layout: l, Reference: [][]uint64{{2, 300, 40, 600, 3, 30, 0}}}
}

func named(t testing.TB) Stream {
	l, err := sketch.Categorical([]string{"a", "b", "c"})
	if err != nil {
		t.Fatal(err)
	}
	return Stream{Name: "named", Layout: l, Reference: [][]uint64{{500, 300, 150, 2, 0}}}
}

func only(t testing.TB, s Stream) *Detector {
	t.Helper()
	all, err := New([]Stream{s}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// outcomes calls f with all counts of n values in so many bins, and how many orders
// there are of each.
func outcomes(n, bins int, f func(counts []uint64, orders float64)) {
	counts := make([]uint64, bins)
	var place func(bin, left int, orders float64)
	place = func(bin, left int, orders float64) {
		if bin == bins-1 {
			counts[bin] = uint64(left)
			f(counts, orders)
			return
		}
		ways := 1.0 // to choose k of left
		for k := range left + 1 {
			counts[bin] = uint64(k)
			place(bin+1, left-k, orders*ways)
			ways *= float64(left-k) / float64(k+1)
		}
	}
	place(0, n, 1)
}

func cloned(all [][]float64) (copies [][]float64) {
	for _, one := range all {
		copies = append(copies, slices.Clone(one))
	}
	return copies
}

// expectation returns what each bet pays on average for a tick of n values that are
// distributed as q, after what the detector has seen before.
func expectation(t *testing.T, d *Detector, n int, q []float64) []float64 {
	t.Helper()
	mean := make([]float64, len(d.kind.weights))
	outcomes(n, len(q), func(counts []uint64, p float64) {
		for i, c := range counts {
			p *= math.Pow(q[i], float64(c))
		}
		c := *d
		c.state.Live = cloned(d.state.Live)
		c.state.Wealth = make([]float64, len(mean)) // so that the wealth after is L
		if err := c.Tick(counts, 0); err != nil {
			t.Fatal(err)
		}
		for i, l := range c.state.Wealth {
			mean[i] += p * l
		}
	})
	return mean
}

// TestExpectation sums over all ticks that there can be: no bet may win on average.
func TestExpectation(t *testing.T) {
	for _, s := range []Stream{tied(t), named(t)} {
		d := only(t, s)
		sum := 0.0
		for _, w := range d.kind.weights {
			sum += w
		}
		near(t, "the sum of weights", sum, 1)
		for range 2 { // without and with a recent histogram that is far off
			for n := range 4 {
				for i, e := range expectation(t, d, n+1, d.null.q) {
					if e > 1+1e-6 || e < 0.5 {
						t.Errorf("%s: bet %d pays %v on average for %d values", s.Name, i, e, n+1)
					}
				}
			}
			far := make([]uint64, d.kind.bins)
			far[2], far[3], far[4] = 30, 3, 1
			if err := d.Tick(far, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFiniteReference takes as the truth what is off from the reference by just as
// much as is allowed for, in the direction that pays a bet most: it pays 1.
func TestFiniteReference(t *testing.T) {
	d := only(t, tied(t))
	for i := range shapes {
		ratios := make([]float64, d.kind.bins)
		chi := 0.0
		d.null.tilt(shapes[i].mean, shapes[i].deviation, ratios)
		for b, q := range d.null.q {
			chi += q * (ratios[b] - 1) * (ratios[b] - 1)
		}
		chi = math.Sqrt(chi)
		truth := slices.Clone(d.null.q)
		for b, q := range d.null.q {
			truth[b] += q * (ratios[b] - 1) / chi * fixedQuantile / math.Sqrt(d.null.rows)
		}
		near(t, fmt.Sprintf("shape %d", i), expectation(t, d, 2, truth)[i], 1)
		near(t, fmt.Sprintf("shape %d in the reference", i), expectation(t, d, 1, d.null.q)[i],
			1/(1+chi*fixedQuantile/math.Sqrt(d.null.rows)))
	}
}

// TestShapes compares bets with the probabilities of a normal distribution, in a
// reference with many narrow bins.
func TestShapes(t *testing.T) {
	var edges []float64
	for i := range 60 {
		edges = append(edges, float64(i-30)/10+0.05)
	}
	l, err := sketch.Numeric(edges)
	if err != nil {
		t.Fatal(err)
	}
	counts := make([]uint64, l.Bins())
	below := 0.0
	for i := range counts[:l.Regular()] {
		to := 1.0
		if i < len(edges) {
			to = (1 + math.Erf(edges[i]/math.Sqrt2)) / 2
		}
		counts[i] = uint64(1e12 * (to - below))
		below = to
	}
	n := only(t, Stream{Name: "normal", Layout: l, Reference: [][]uint64{counts}}).null
	ratios := make([]float64, len(counts))
	for _, s := range shapes {
		n.tilt(s.mean, s.deviation, ratios)
		for i := 10; i < 50; i++ {
			x := (edges[i-1] + edges[i]) / 2
			z := (x - s.mean) / s.deviation
			want := math.Exp((x*x-z*z)/2) / s.deviation
			if math.Abs(ratios[i]/want-1) > 0.01 {
				t.Errorf("mean %v, deviation %v: at %.2f the ratio is %v, want %v", s.mean,
					s.deviation, x, ratios[i], want)
			}
		}
	}
}

// TestRecursion compares with the sum, over all ticks at which bets may have begun, of
// what they would own.
func TestRecursion(t *testing.T) {
	d := only(t, tied(t))
	r := rand.New(rand.NewPCG(1, 1))
	var paid [][]float64 // by each bet at each tick
	for range 30 {
		counts := make([]uint64, d.kind.bins)
		for range 1 + r.IntN(3) {
			counts[r.IntN(6)]++
		}
		alone := *d
		alone.state.Live = cloned(d.state.Live)
		alone.state.Wealth = make([]float64, len(d.kind.weights))
		if err := errors.Join(alone.Tick(counts, 0), d.Tick(counts, 0)); err != nil {
			t.Fatal(err)
		}
		paid = append(paid, alone.state.Wealth)
	}
	evidence := 0.0
	for bet, w := range d.kind.weights {
		for begin := range paid {
			product := w
			for _, l := range paid[begin:] {
				product *= l[bet]
			}
			evidence += product
		}
	}
	near(t, "the evidence", d.Evidence(), evidence)
}

// TestNothingBreaks has ticks that are empty, huge, of one bin, or in turn.
func TestNothingBreaks(t *testing.T) {
	for _, s := range []Stream{tied(t), named(t)} {
		d := only(t, s)
		empty := make([]uint64, d.kind.bins)
		if err := d.Tick(empty, 0); err != nil || d.Evidence() != 0 {
			t.Errorf("an empty tick: %v, evidence %v", err, d.Evidence())
		}
		for bin := range empty {
			for _, n := range []uint64{1, 1000, 1 << 53, 3} {
				counts := slices.Clone(empty)
				counts[bin] = n
				for range 50 {
					if err := d.Tick(counts, 0); err != nil {
						t.Fatal(err)
					}
				}
				if m := d.Evidence(); !(m >= 0 && m <= most) {
					t.Fatalf("%s: evidence %v after %d values in bin %d", s.Name, m, n, bin)
				}
			}
		}
		d.Reset()
		if d.Evidence() != 0 {
			t.Errorf("after Reset the evidence is %v", d.Evidence())
		}
	}
}

func TestRefused(t *testing.T) {
	s := tied(t)
	f := func(reference [][]uint64) {
		t.Helper()
		_, err := New([]Stream{{Layout: s.Layout, Reference: reference}}, 0)
		if !errors.Is(err, ErrReference) {
			t.Errorf("%v: %v", reference, err)
		}
	}
	f(nil)
	f([][]uint64{{1, 2, 3}})
	f([][]uint64{make([]uint64, 7)})
	f([][]uint64{s.Reference[0], make([]uint64, 7)})
	d := only(t, s)
	for _, err := range []error{d.Tick(make([]uint64, 6), 0), d.Tick(s.Reference[0], 1),
		d.Tick(s.Reference[0], -1)} {
		if !errors.Is(err, ErrCounts) {
			t.Error(err)
		}
	}
}

func TestState(t *testing.T) {
	d, twin := only(t, tied(t)), only(t, tied(t))
	tick := func(d *Detector) {
		t.Helper()
		if err := d.Tick([]uint64{0, 3, 3, 9, 1, 0, 0}, 0); err != nil {
			t.Fatal(err)
		}
	}
	tick(d)
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, twin); err != nil {
		t.Fatal(err)
	}
	tick(d)
	tick(twin)
	if d.Evidence() != twin.Evidence() || d.Evidence() == 0 {
		t.Errorf("evidence is %v, after a restart %v", d.Evidence(), twin.Evidence())
	}
	before := twin.Evidence()
	for _, bad := range []string{`{}`, `[]`, `{"slot":1,"wealth":[],"live":[]}`, `null`,
		`{"slot":0,"wealth":[1e16,0,0,0,0,0,0,0,0,0,0,0,0,0],"live":[[1,0,0,0,0,0,0]]}`,
		`{"slot":0,"wealth":[1,0,0,0,0,0,0,0,0,0,0,0,0,0],"live":[[1,1,0,0,0,0,0]]}`} {
		if err := json.Unmarshal([]byte(bad), twin); err == nil && bad != "null" {
			t.Errorf("%s is a state", bad)
		}
	}
	if twin.Evidence() != before {
		t.Error("a bad state has changed the detector")
	}
	if err := json.Unmarshal(text, only(t, named(t))); err == nil {
		t.Error("the state of another stream is taken")
	}
}

func TestName(t *testing.T) {
	f := func(evidence []float64, want ...int) {
		t.Helper()
		if got := Name(evidence, 100); !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", evidence, got, want)
		}
	}
	f(nil)
	f([]float64{99})
	f([]float64{100}, 0)
	f([]float64{1, 399, 2, 0})
	f([]float64{1, 400, 2, 0}, 1)
	f([]float64{200, 0, 1, 200}, 0, 3)
	f([]float64{100, 100, 100, 100}, 0, 1, 2, 3)
	f([]float64{120, 1000, 10, 130}, 1)
	f([]float64{134, 1000, 10, 199}, 1, 3, 0)
	if got := Average([]float64{1, 2, 6}); got != 3 || Average(nil) != 0 {
		t.Errorf("the average is %v", got)
	}
}

// TestSlots has a stream that is a in one hour and b in the next. With a reference
// for each it must not alarm; when a's share falls in its hour it must.
func TestSlots(t *testing.T) {
	s := named(t)
	s.Reference = [][]uint64{{9000, 900, 90, 10, 0}, {900, 9000, 90, 10, 0}}
	d := only(t, s)
	a, b := []uint64{900, 90, 9, 1, 0}, []uint64{90, 900, 9, 1, 0}
	tick := func(slot int, counts []uint64) {
		t.Helper()
		if err := d.Tick(counts, slot); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		tick(0, a)
		tick(1, b)
	}
	if m := d.Evidence(); m > 200 {
		t.Errorf("a stream that is as expected has evidence %v", m)
	}
	for range 10 {
		tick(0, []uint64{800, 190, 9, 1, 0})
		tick(1, b)
	}
	if m := d.Evidence(); m < 1e6 {
		t.Errorf("a change in one of two hours has evidence %v", m)
	}
}

func TestTickDoesNotAllocate(t *testing.T) {
	for _, s := range []Stream{tied(t), named(t)} {
		d := only(t, s)
		counts := slices.Clone(s.Reference[0])
		if n := testing.AllocsPerRun(100, func() { _ = d.Tick(counts, 0) }); n != 0 {
			t.Errorf("%s: a tick allocates %v times", s.Name, n)
		}
	}
}

func FuzzState(f *testing.F) {
	text, err := json.Marshal(only(f, tied(f)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"slot":0,"wealth":[1],"live":[[1]]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d := only(t, tied(t))
		_ = d.UnmarshalJSON(text)
		if err := d.Tick([]uint64{1, 2, 3, 4, 5, 6, 7}, 0); err != nil {
			t.Fatal(err)
		}
		if m := d.Evidence(); !(m >= 0 && m <= most) {
			t.Errorf("evidence %v", m)
		}
	})
}

func BenchmarkTick(b *testing.B) {
	for _, rows := range []int{1, 100} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			s := tied(b)
			d := only(b, s)
			counts := make([]uint64, d.kind.bins)
			r := rand.New(rand.NewPCG(1, 1))
			for range rows {
				counts[r.IntN(4)]++
			}
			b.ReportAllocs()
			for b.Loop() {
				_ = d.Tick(counts, 0)
			}
		})
	}
}
