package route

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func TestWeightsEpsilonGreedy(t *testing.T) {
	f := func(b BanditSpec, arms []Evidence, want ...int) {
		t.Helper()
		b.Policy = "epsilon_greedy"
		if got := b.Weights(arms, nil); !slices.Equal(got, want) {
			t.Errorf("%+v of %v: %v, want %v", b, arms, got, want)
		}
	}
	tenth := BanditSpec{Epsilon: 0.1}
	good, bad := Evidence{100, 90}, Evidence{100, 10}
	f(tenth, nil)
	f(tenth, []Evidence{bad}, 10000)
	f(tenth, []Evidence{bad, good}, 500, 9500)
	f(tenth, []Evidence{good, good}, 5000, 5000)
	f(tenth, []Evidence{good, bad, good}, 4834, 333, 4833)
	f(tenth, []Evidence{{}, {}, {}}, 3334, 3333, 3333)
	f(tenth, []Evidence{{}, bad}, 9500, 500) // an arm without evidence is believed to be middling
	f(tenth, []Evidence{{}, good}, 500, 9500)
	f(BanditSpec{}, []Evidence{bad, good}, 0, 10000)
	f(BanditSpec{Epsilon: 1}, []Evidence{bad, good}, 5000, 5000)
	f(BanditSpec{Floor: 2000}, []Evidence{good, bad, bad}, 6000, 2000, 2000)
	f(BanditSpec{Ceiling: 6000}, []Evidence{good, bad, bad}, 6000, 2000, 2000)
	f(BanditSpec{Floor: 1000, Ceiling: 5000}, []Evidence{bad, good}, 5000, 5000)
	f(BanditSpec{Epsilon: 0.06, Floor: 500}, []Evidence{good, bad, bad}, 9000, 500, 500)
	f(BanditSpec{Floor: 9000}, []Evidence{good, bad}, 5000, 5000) // cannot be kept
	f(BanditSpec{Ceiling: 10}, []Evidence{good, bad, bad}, 3334, 3333, 3333)
}

// TestWeightsThompson knows the probability that an arm is best from integrals.
func TestWeightsThompson(t *testing.T) {
	f := func(arms []Evidence, want ...float64) {
		t.Helper()
		got := (&BanditSpec{Policy: "thompson"}).Weights(arms, seeded(7))
		sum := 0
		for i, w := range got {
			sum += w
			off := math.Abs(float64(w)/FullWeight - want[i])
			if off > 4*math.Sqrt(want[i]*(1-want[i])/draws) { // standard errors
				t.Errorf("%v: %v, want %v", arms, got, want)
			}
		}
		if sum != FullWeight {
			t.Errorf("%v: the weights %v sum to %d", arms, got, sum)
		}
	}
	f([]Evidence{{5, 5}}, 1)
	f([]Evidence{{1, 1}, {}}, 2.0/3, 1.0/3)            // E[X] of Beta(2, 1)
	f([]Evidence{{2, 2}, {}}, 3.0/4, 1.0/4)            // of Beta(3, 1)
	f([]Evidence{{1, 1}, {1, 0}}, 5.0/6, 1.0/6)        // Beta(2, 1) against Beta(1, 2)
	f([]Evidence{{1, 1}, {}, {}}, 1.0/2, 1.0/4, 1.0/4) // integral of 2x x²
	f([]Evidence{{1000, 900}, {1000, 100}}, 1, 0)
}

func TestWeightsWithoutEvidence(t *testing.T) {
	b := BanditSpec{Policy: "thompson", Floor: 100, Ceiling: 9000}
	got := b.Weights(make([]Evidence, 4), seeded(1))
	if !slices.Equal(got, []int{2500, 2500, 2500, 2500}) {
		t.Errorf("%v, want equal weights", got)
	}
}

// TestWeightsKeepBounds holds random specs and evidence against bounds and sum.
func TestWeightsKeepBounds(t *testing.T) {
	r := seeded(3)
	for range 2000 {
		b := BanditSpec{Policy: "epsilon_greedy", Epsilon: r.Float64()}
		if r.IntN(50) == 0 { // slow
			b.Policy = "thompson"
		}
		arms := make([]Evidence, 1+r.IntN(9))
		for i := range arms {
			n := math.Exp(12 * r.Float64())
			arms[i] = Evidence{N: n, Reward: n * r.Float64()}
		}
		share := FullWeight / len(arms)
		b.Floor, b.Ceiling = r.IntN(share+1), share+1+r.IntN(FullWeight-share+1)
		sum := 0
		got := b.Weights(arms, r)
		for _, w := range got {
			sum += w
			if w < b.Floor || w > b.Ceiling {
				t.Fatalf("%+v of %v: %v leaves the bounds", b, arms, got)
			}
		}
		if sum != FullWeight {
			t.Fatalf("%+v of %v: %v sums to %d", b, arms, got, sum)
		}
	}
}

// simulate sends requests to arms whose answers are good that often, and returns
// the last weights and the share of all rewards that could have been had.
func simulate(b *BanditSpec, rates []float64, r *rand.Rand) (weights []int, won float64) {
	const rounds, requests = 60, 100
	arms := make([]Evidence, len(rates))
	for range rounds {
		weights = b.Weights(arms, r)
		for range requests {
			at, x := 0, r.IntN(FullWeight)
			for x >= weights[at] {
				x -= weights[at]
				at++
			}
			arms[at].N++
			won += rates[at]
			if r.Float64() < rates[at] {
				arms[at].Reward++
			}
		}
	}
	return weights, won / (rounds * requests * slices.Max(rates))
}

// TestBanditFindsBetterArm wants both policies to find the best of three arms;
// equal shares would win 0.62 of what there is.
func TestBanditFindsBetterArm(t *testing.T) {
	f := func(b BanditSpec, weight int, won float64) {
		t.Helper()
		for seed := range uint64(5) {
			weights, share := simulate(&b, []float64{0.05, 0.15, 0.08}, seeded(seed))
			if weights[1] < weight || share < won {
				t.Errorf("%s, seed %d: weights %v, won %.3f", b.Policy, seed, weights, share)
			}
		}
	}
	f(BanditSpec{Policy: "thompson"}, 7000, 0.88)
	f(BanditSpec{Policy: "thompson", Floor: 500}, 7000, 0.86)
	f(BanditSpec{Policy: "epsilon_greedy", Epsilon: 0.1, HalfLife: time.Hour}, 9000, 0.85)
}

func BenchmarkWeights(b *testing.B) {
	spec := BanditSpec{Policy: "thompson", Floor: 100}
	arms := []Evidence{{1000, 500}, {1000, 480}, {1000, 510}}
	r := seeded(1)
	for b.Loop() {
		spec.Weights(arms, r)
	}
}
