package evidence

import (
	"math"
	"math/rand/v2"
	"sort"
	"testing"

	"gonum.org/v1/gonum/mathext"
)

// octave8 are bounds in seconds of 8 buckets an octave, from 1 ms to 4 s.
var octave8 = func() (b []float64) {
	for i := -80; i <= 16; i++ {
		b = append(b, math.Exp2(float64(i)/8))
	}
	return b
}()

func mustLatency(t *testing.T, quantile, ratio float64) *Latency {
	t.Helper()
	l, err := NewLatency(quantile, ratio, octave8)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestBetaBinomial compares with the two forms in which the mixture is published,
// and sums it over all outcomes.
func TestBetaBinomial(t *testing.T) {
	confseq := func(k, n, q float64) float64 {
		g, h := q, 1-q
		s, v, r := k-q*n, q*h*n, concentration*q*h
		return v/(g*h)*math.Log(g+h) - (v+h*s)/(h*(g+h))*math.Log(g) -
			(v-g*s)/(g*(g+h))*math.Log(h) +
			mathext.Lbeta((r+v-g*s)/(g*(g+h)), (r+v+h*s)/(h*(g+h))) -
			mathext.Lbeta(r/(g*(g+h)), r/(h*(g+h)))
	}
	// The mixture of n draws one after the other, as Polya's urn.
	urn := func(k, n, q float64) (l float64) {
		a, b := concentration*q, concentration*(1-q)
		for i := range int(k) {
			l += math.Log((a + float64(i)) / (a + b + float64(i)) / q)
		}
		for i := range int(n - k) {
			l += math.Log((b + float64(i)) / (a + b + k + float64(i)) / (1 - q))
		}
		return l
	}
	for _, q := range []float64{0.01, 0.5, 0.95, 0.99} {
		for _, n := range []float64{0, 1, 30, 1000} {
			for k := 0.0; k <= n; k += max(1, n/10) {
				near(t, "confseq's form", betaBinomial(k, n, q), confseq(k, n, q))
				near(t, "urn", betaBinomial(k, n, q), urn(k, n, q))
			}
		}
	}
}

// TestBetaBinomialGolden has values of confseq 0.0.11's BetaBinomialMixture and, by
// its odds, of savvi 0.3.1's Multinomial.
func TestBetaBinomialGolden(t *testing.T) {
	for _, g := range []struct{ k, n, q, want float64 }{
		{45, 100, 0.5, -0.0964635407189},
		{2250, 5000, 0.5, 22.5856850576},
		{2510, 5000, 0.5, -1.92914027789},
		{85, 100, 0.95, 3.45225427811},
		{4275, 5000, 0.95, 314.428226752},
		{4769, 5000, 0.95, -1.18217291973},
		{89, 100, 0.99, 10.4673596328},
		{4969, 5000, 0.99, 2.30762185674},
		{42, 300, 0.1, 1.0310337518184838},
		{43, 1040, 0.01, 25.34417488637781},
		{1000, 1900, 0.5, 1.0020535974324503},
		{700, 9700, 0.05, 41.49626235507958},
	} {
		near(t, "golden value", betaBinomial(g.k, g.n, g.q), g.want)
	}
}

// TestBetaBinomialHuge compares with Stirling's formula where k is as expected:
// then E is close to sqrt(c/(n+c)).
func TestBetaBinomialHuge(t *testing.T) {
	for _, n := range []float64{1e6, 1e9, 1e12} {
		want := -math.Log((n+concentration)/concentration) / 2
		if got := betaBinomial(n/4, n, 0.25); math.Abs(got-want) > 0.01 {
			t.Errorf("n %g: got %v, want about %v", n, got, want)
		}
	}
}

// TestLatencyGolden has a value of confseq 0.0.11's QuantileABTest, with as much
// concentration as whole numbers allow it, on samples that each have a bucket.
func TestLatencyGolden(t *testing.T) {
	f := func(quantile, want float64) {
		t.Helper()
		var canary, stable, bounds []float64
		for i := range 400 {
			canary = append(canary, 1.3*(1+math.Mod(float64(i)*0.618033988749895, 1)))
		}
		for i := range 1600 {
			stable = append(stable, 1+math.Mod(float64(i)*0.7548776662466927, 1))
		}
		bounds = append(append(bounds, canary...), stable...)
		sort.Float64s(bounds)
		l, err := NewLatency(quantile, 1, bounds)
		if err != nil {
			t.Fatal(err)
		}
		histogram := func(samples []float64) []uint64 {
			counts := make([]uint64, len(bounds))
			for _, x := range samples {
				counts[sort.SearchFloat64s(bounds, x)]++
			}
			return counts
		}
		got := l.Harm(histogram(canary), histogram(stable))
		if math.Abs(got-want) > 0.02*want {
			t.Errorf("quantile %v: got %v, want %v", quantile, got, want)
		}
	}
	f(0.5, 68.1617502002)
	f(0.9, 138.88283289)
}

// TestOneSided looks for the minimum by hand, and sums over all outcomes: e-values
// are at most 1 on average when the share below is the quantile or on the side
// that is allowed.
func TestOneSided(t *testing.T) {
	for _, q := range []float64{0.5, 0.95, 0.99} {
		l := mustLatency(t, q, 1)
		for _, n := range []int{1, 2, 7, 40, 300} {
			lowest := math.Inf(1)
			for k := range n + 1 {
				lowest = min(lowest, betaBinomial(float64(k), float64(n), q))
			}
			near(t, "minimum", betaBinomial(l.least(float64(n)), float64(n), q), lowest)
			expect := func(p float64, logE func(k, n float64) float64) (sum float64) {
				for k := range n + 1 {
					sum += binomial(n, k, p) * math.Exp(logE(float64(k), float64(n)))
				}
				return sum
			}
			for _, shift := range []float64{0, 0.3, 0.9} {
				if e := expect(q+shift*(1-q), l.tooFew); e > 1+1e-9 {
					t.Errorf("q %v, n %d: tooFew is %v on average", q, n, e)
				}
				if e := expect(q-shift*q, l.tooMany); e > 1+1e-9 {
					t.Errorf("q %v, n %d: tooMany is %v on average", q, n, e)
				}
			}
		}
	}
}

// samples are durations beside their histogram.
type samples struct {
	all    []float64
	counts []uint64
}

func newSamples() *samples { return &samples{counts: make([]uint64, len(octave8))} }

func (s *samples) add(x float64) {
	s.all = append(s.all, x)
	s.counts[min(sort.SearchFloat64s(octave8, x), len(octave8)-1)]++
}

// share counts those below x, and those up to it.
func (s *samples) share(x float64) (below, upTo float64) {
	for _, y := range s.all {
		if y < x {
			below++
		}
		if y <= x {
			upTo++
		}
	}
	return below, upTo
}

// TestLatencyBound holds the buckets' evidence against that of the samples
// themselves at every place where the stable version's quantile may be: it must
// never be more, and not much less.
func TestLatencyBound(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		canary, stable := newSamples(), newSamples()
		slower := 1 + r.Float64()
		for range 400 {
			stable.add(0.05 * math.Exp(r.NormFloat64()/2))
			canary.add(0.05 * math.Exp(r.NormFloat64()/2) * slower)
		}
		l := mustLatency(t, []float64{0.5, 0.9}[r.IntN(2)], 1+r.Float64()/2)
		nc, ns := float64(len(canary.all)), float64(len(stable.all))
		harm, sound := math.Inf(1), math.Inf(1)
		for i := range 4000 {
			x := octave8[0] * math.Pow(octave8[96]/octave8[0], float64(i)/4000)
			below, upTo := stable.share(x)
			cBelow, cUpTo := canary.share(l.ratio * x)
			harm = min(harm, l.tooMany(below, ns)+l.tooFew(cUpTo, nc))
			sound = min(sound, l.tooFew(upTo, ns)+l.tooMany(cBelow, nc))
		}
		if got := l.Harm(canary.counts, stable.counts); got > harm+1e-9 {
			t.Errorf("Harm is %v, of the samples %v", got, harm)
		}
		if got := l.Sound(canary.counts, stable.counts); got > sound+1e-9 {
			t.Errorf("Sound is %v, of the samples %v", got, sound)
		}
	}
}

func TestLatencyDirection(t *testing.T) {
	f := func(slower, ratio float64, harm, sound bool) {
		t.Helper()
		l := mustLatency(t, 0.95, ratio)
		canary, stable := newSamples(), newSamples()
		r := rand.New(rand.NewPCG(7, 8))
		for range 20_000 {
			stable.add(0.05 * math.Exp(r.NormFloat64()/4))
			canary.add(0.05 * math.Exp(r.NormFloat64()/4) * slower)
		}
		if got := l.Harm(canary.counts, stable.counts); got >= enough(0.01) != harm {
			t.Errorf("%v times as slow, %v allowed: Harm is %v", slower, ratio, got)
		}
		if got := l.Sound(canary.counts, stable.counts); got >= enough(0.01) != sound {
			t.Errorf("%v times as slow, %v allowed: Sound is %v", slower, ratio, got)
		}
	}
	f(1, 1, false, false)
	f(1, 1.3, false, true)
	f(1.5, 1, true, false)
	f(1.5, 1.2, true, false)
	f(1.5, 1.5, false, false)
	f(1.5, 2, false, true)
	f(0.5, 1, false, true)
	f(0.3, 3, false, true)
}

func TestLatencyEdges(t *testing.T) {
	l := mustLatency(t, 0.99, 1.1)
	empty := make([]uint64, len(octave8))
	one := append([]uint64{}, empty...)
	one[40] = 1e12
	last := append([]uint64{}, empty...)
	last[len(last)-1] = 1e9
	type arms struct{ canary, stable []uint64 }
	f := func(what string, a arms, harm, sound bool) {
		t.Helper()
		if got := l.Harm(a.canary, a.stable); (got > 10) != harm || math.IsNaN(got) {
			t.Errorf("%s: Harm is %v", what, got)
		}
		if got := l.Sound(a.canary, a.stable); (got > 10) != sound || math.IsNaN(got) {
			t.Errorf("%s: Sound is %v", what, got)
		}
	}
	f("nothing", arms{nil, nil}, false, false)
	f("no canary", arms{empty, one}, false, false)
	f("no stable", arms{one, empty}, false, false)
	f("a constant", arms{one, one}, false, true)
	f("beyond the last bound", arms{last, one}, true, false)
	f("both beyond the last bound", arms{last, last}, false, false)
	f("stable beyond the last bound", arms{one, last}, false, true)
	if l.Bucket(empty) != -1 || l.Value(nil) != 0 {
		t.Errorf("the quantile of nothing is in bucket %d", l.Bucket(empty))
	}
	if l.Bucket(one) != 40 || l.Value(one) != octave8[40] {
		t.Errorf("the quantile is in bucket %d", l.Bucket(one))
	}
	for _, bad := range []struct {
		quantile, ratio float64
		bounds          []float64
	}{
		{0, 1, octave8}, {1, 1, octave8}, {math.NaN(), 1, octave8}, {0.5, 0.9, octave8},
		{0.5, math.NaN(), octave8}, {0.5, math.Inf(1), octave8}, {0.5, 1, nil},
		{0.5, 1, []float64{2, 1}}, {0.5, 1, []float64{math.NaN(), 1}},
		{0.5, 1, []float64{1, math.Inf(1)}},
	} {
		if _, err := NewLatency(bad.quantile, bad.ratio, bad.bounds); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

// TestRoundedBounds has bounds in whole nanoseconds, as the gateway has them, which
// are to be as good as exact ones for a ratio of whole buckets.
func TestRoundedBounds(t *testing.T) {
	var rounded []float64
	for i := range 97 {
		rounded = append(rounded, math.Floor(1e3*math.Exp2(float64(i)/8)))
	}
	canary, stable := make([]uint64, 97), make([]uint64, 97)
	for i := range 40 {
		canary[5+i], stable[i] = 100, 100
	}
	for _, buckets := range []float64{1, 3, 8} {
		l, err := NewLatency(0.9, math.Exp2(buckets/8), rounded)
		if err != nil {
			t.Fatal(err)
		}
		harm, sound := math.Inf(1), math.Inf(1)
		c, s := l.cumulated(canary), l.cumulated(stable)
		for b := range rounded {
			up := min(b+int(buckets)+1, 97)
			harm = min(harm, l.tooMany(s[b], 4000)+l.tooFew(c[up], 4000))
			sound = min(sound, l.tooFew(s[b+1], 4000)+l.tooMany(c[below(b, int(buckets))], 4000))
		}
		near(t, "Harm", l.Harm(canary, stable), harm)
		near(t, "Sound", l.Sound(canary, stable), sound)
	}
}

// below is how many buckets are below so many times the lower bound of bucket b.
func below(b, buckets int) int {
	if b == 0 {
		return 0
	}
	return min(b+buckets, 96)
}

func TestSlow(t *testing.T) {
	l := mustLatency(t, 0.99, math.Exp2(2./8))
	canary, stable := make([]uint64, len(octave8)), make([]uint64, len(octave8))
	for b := range octave8 {
		canary[b], stable[b] = 1, 2
	}
	if got, want := l.Slow(90, 0.2, canary, stable), (Cell{0.2, 4, 12}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := l.Slow(96, 0.2, canary, stable), (Cell{0.2, 0, 0}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := l.Slow(-1, 0.2, canary, stable), (Cell{0.2, 94, 192}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func BenchmarkLatencyHarm(b *testing.B) {
	l, _ := NewLatency(0.99, 1, octave8)
	canary, stable := make([]uint64, len(octave8)), make([]uint64, len(octave8))
	for i := range canary {
		canary[i], stable[i] = uint64(i), uint64(9*i)
	}
	for b.Loop() {
		l.Harm(canary, stable)
	}
}
