package distance

import (
	"math"
	"testing"
)

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-8*max(1, math.Abs(want)) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// TestGolden compares with scipy 1.17.1: jensenshannon(p, q, 2), entropy both ways of
// smoothed shares, chi2.ppf, ks_2samp of bin numbers, and wasserstein_distance of
// values spread over the bins (2,000 for each count, which gives seven figures).
func TestGolden(t *testing.T) {
	live, reference := []uint64{5, 40, 55, 80, 20}, []uint64{10, 100, 200, 150, 40}
	psi, noise := PSI(live, reference)
	near(t, "PSI", psi, 0.0810254791025504)
	near(t, "the noise of PSI", noise, 0.06641410325746808)
	near(t, "Jensen-Shannon", JensenShannon(live, reference), 0.12071210063067336)
	near(t, "KS", KS(live, reference), 0.12)
	near(t, "Wasserstein", Wasserstein(live, reference, []float64{0, 1, 3, 4}), 0.1904)
}

func TestBounds(t *testing.T) {
	f := func(live, reference []uint64, want [3]float64) {
		t.Helper()
		near(t, "Jensen-Shannon", JensenShannon(live, reference), want[0])
		near(t, "KS", KS(live, reference), want[1])
		near(t, "Wasserstein", Wasserstein(live, reference, []float64{0, 10}), want[2])
	}
	f([]uint64{1, 2, 1}, []uint64{10, 20, 10}, [3]float64{0, 0, 0})
	f([]uint64{7, 0, 0}, []uint64{0, 0, 3}, [3]float64{1, 1, 10})
	f([]uint64{0, 0, 9}, []uint64{1, 0, 0}, [3]float64{1, 1, 10})
	f([]uint64{0, 4, 0}, []uint64{2, 0, 2}, [3]float64{1, 0.5, 2.5})
	none, some := make([]uint64, 3), []uint64{1, 1, 1}
	for _, empty := range [][2][]uint64{{none, some}, {some, none}, {nil, nil}} {
		psi, noise := PSI(empty[0], empty[1])
		for _, d := range []float64{psi, noise, JensenShannon(empty[0], empty[1]),
			KS(empty[0], empty[1]), Wasserstein(empty[0], empty[1], nil)} {
			if !math.IsNaN(d) {
				t.Errorf("the distance of %v is %v", empty, d)
			}
		}
	}
}
