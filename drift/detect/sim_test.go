package detect

import (
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// exact is a standard normal stream whose reference has no error: as if it had 10^9
// rows.
func exact(t testing.TB) Stream {
	var edges []float64
	for _, p := range []float64{1e-5, .005, .02, .05, .1, .2, .3, .4, .5} {
		edges = append(edges, distuv.UnitNormal.Quantile(p))
	}
	for i := len(edges) - 2; i >= 0; i-- {
		edges = append(edges, -edges[i])
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
			to = distuv.UnitNormal.CDF(edges[i])
		}
		counts[i] = uint64(1e9 * (to - below))
		below = to
	}
	return Stream{Name: "normal", Layout: l, Reference: [][]uint64{counts}}
}

// simulate returns the mean, and its standard error, of how many values it takes to an
// alarm when all after the first 200 are shifted; without a shift there are no first.
func simulate(t *testing.T, runs int, every, shift float64) (mean, e float64) {
	s := exact(t)
	r := rand.New(rand.NewPCG(20, 26))
	clean := 200
	if shift == 0 {
		clean = 0
	}
	counts := make([]uint64, s.Layout.Bins())
	square := 0.0
	for range runs {
		d := only(t, s)
		n := 0
		for i := 0; n == 0; i++ {
			x := r.NormFloat64()
			if i >= clean {
				x += shift
			}
			clear(counts)
			counts[s.Layout.Bin(sketch.Number(x))] = 1
			if err := d.Tick(counts, 0); err != nil {
				t.Fatal(err)
			}
			switch {
			case d.Evidence() < every:
			case i < clean:
				d.Reset()
			default:
				n = i - clean + 1
			}
		}
		mean += float64(n) / float64(runs)
		square += float64(n) * float64(n) / float64(runs)
	}
	return mean, math.Sqrt((square - mean*mean) / float64(runs))
}

// count returns how many runs there are: fewer when tests must be short.
func count(all int) int {
	if testing.Short() {
		return all / 10
	}
	return all
}

// TestRunLength wants a mean time to a false alarm of the promised one, and not much
// more: the promise is used up.
func TestRunLength(t *testing.T) {
	mean, e := simulate(t, count(400), 1000, 0)
	t.Logf("%.0f +- %.0f values to a false alarm, 1000 are promised", mean, e)
	if mean < 1000-3*e || mean > 1400+3*e {
		t.Errorf("a false alarm comes after %.0f +- %.0f values, 1000 are promised", mean, e)
	}
}

// TestDelayOfRiver compares with river's detectors at their run lengths, which were
// measured on standard normal events: ADWIN at its defaults 2,000,000 and then 458,
// 121 and 50 events for these shifts, Page-Hinkley 1,600 and 114, 59 and 29. An alarm
// at 1300 comes once in 1,600 values; one at 2,000,000 is as rare at least.
func TestDelayOfRiver(t *testing.T) {
	f := func(every, shift, theirs float64) {
		t.Helper()
		mean, e := simulate(t, count(400), every, shift)
		t.Logf("alarm at %7.0f, shift %.2f: %5.1f +- %3.1f values, river's %3.0f", every, shift,
			mean, e, theirs)
		if mean > theirs+3*e {
			t.Errorf("alarm at %.0f: a shift of %v is seen after %.1f values, by river after %.0f",
				every, shift, mean, theirs)
		}
	}
	f(2_000_000, 0.25, 458)
	f(2_000_000, 0.5, 121)
	f(2_000_000, 1, 50)
	f(1300, 0.25, 114)
	f(1300, 0.5, 59)
	f(1300, 1, 29)
}
