package performance

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/millrace-ml/millrace/drift"
)

const promise = 1000 // ticks between false alarms

func mustHarm(t testing.TB, reference Losses, c drift.Config) *Harm {
	t.Helper()
	h, err := NewHarm(reference, c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// count returns how many runs there are: fewer when tests must be short.
func count(all int) int {
	if testing.Short() {
		return all / 10
	}
	return all
}

// chance draws losses of 0 and 1.
func chance(rate float64) func(*rand.Rand) float64 {
	return func(r *rand.Rand) float64 {
		if r.Float64() < rate {
			return 1
		}
		return 0
	}
}

// square draws losses between, whose mean is a third of the most.
func square(most float64) func(*rand.Rand) float64 {
	return func(r *rand.Rand) float64 { x := r.Float64(); return most * x * x }
}

// stream is a simulated model: losses are as before until they change after so many ticks.
type stream struct {
	reference     int // rows
	before, after func(*rand.Rand) float64
	clean         int // ticks
	rows          int // a tick
	horizon       int
	tolerance     float64
}

// runs returns the mean number of ticks from the change to an alarm, and its standard
// error. Each run has a reference of its own.
func (s stream) runs(t *testing.T, n int) (mean, e float64) {
	t.Helper()
	square := 0.0
	for run := range n {
		r := rand.New(rand.NewPCG(uint64(run), 6))
		var reference Losses
		for range s.reference {
			_ = reference.Add(s.before(r))
		}
		h := mustHarm(t, reference, drift.Config{FalseAlarmEvery: promise, Tolerance: s.tolerance})
		length := s.horizon
		for tick := range s.clean + s.horizon {
			var l Losses
			draw := s.before
			if tick >= s.clean {
				draw = s.after
			}
			for range s.rows {
				_ = l.Add(draw(r))
			}
			if err := h.Tick(l); err != nil {
				t.Fatal(err)
			}
			if !h.Report().Alarm {
				continue
			}
			if tick >= s.clean {
				length = tick - s.clean + 1
				break
			}
			h.Reset()
		}
		mean += float64(length) / float64(n)
		square += float64(length) * float64(length) / float64(n)
	}
	return mean, math.Sqrt((square - mean*mean) / float64(n))
}

// TestRunLength wants the mean time to a false alarm to be as long as promised.
func TestRunLength(t *testing.T) {
	f := func(name string, s stream) {
		t.Helper()
		s.horizon = 2500
		if s.after == nil {
			s.after = s.before
		}
		mean, e := s.runs(t, count(150))
		t.Logf("%-30s %4.0f +- %2.0f ticks, cut off at %d", name, mean, e, s.horizon)
		if mean < promise-3*e {
			t.Errorf("%s: a false alarm every %.0f +- %.0f ticks, promised are %d", name, mean, e,
				promise)
		}
	}
	f("5 %", stream{reference: 10_000, before: chance(.05), rows: 1})
	f("5 %, 20 rows", stream{reference: 10_000, before: chance(.05), rows: 20})
	f("40 %", stream{reference: 10_000, before: chance(.4), rows: 1})
	f("0.1 %", stream{reference: 10_000, before: chance(.001), rows: 20})
	f("5 %, reference of 300", stream{reference: 300, before: chance(.05), rows: 5})
	f("losses between", stream{reference: 10_000, before: square(1), rows: 5})
	f("10 -> 12 %, tolerated", stream{reference: 10_000, before: chance(.1), after: chance(.12),
		rows: 20, tolerance: .1})
}

// TestExact wants the promise to be used up, when the reference has no error.
func TestExact(t *testing.T) {
	total, n := 0.0, count(150)
	for run := range n {
		r := rand.New(rand.NewPCG(uint64(run), 7))
		h := mustHarm(t, Losses{1 << 50, 1 << 48}, drift.Config{FalseAlarmEvery: promise})
		for ticks := 1.0; ; ticks++ {
			_ = h.Tick(Losses{1, chance(.25)(r)})
			if h.Report().Alarm {
				total += ticks
				break
			}
		}
	}
	mean := total / float64(n)
	t.Logf("a false alarm every %.0f ticks", mean)
	if e := mean / math.Sqrt(float64(n)); mean < promise-3*e || mean > 1.5*promise+3*e {
		t.Errorf("a false alarm comes every %.0f ticks, promised are %d", mean, promise)
	}
}

// TestDelay measures how many rows harm goes unseen, after 200 without.
func TestDelay(t *testing.T) {
	f := func(name string, before, after func(*rand.Rand) float64, most float64) {
		t.Helper()
		s := stream{10_000, before, after, 200, 1, 20_000, 0}
		mean, e := s.runs(t, count(100))
		t.Logf("%-30s %5.0f +- %3.0f rows", name, mean, e)
		if mean > most+3*e {
			t.Errorf("%s: seen after %.0f rows, want %.0f", name, mean, most)
		}
	}
	f("5 -> 10 %", chance(.05), chance(.1), 140)
	f("5 -> 20 %", chance(.05), chance(.2), 40)
	f("5 -> 50 %", chance(.05), chance(.5), 15)
	f("20 -> 25 %", chance(.2), chance(.25), 240)
	f("mean of losses .25 -> .33", square(.75), square(1), 180)
}

// TestReplicas wants the losses of replicas to give the evidence of one, and restarts in
// between to change nothing.
func TestReplicas(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	c := drift.Config{FalseAlarmEvery: promise}
	one, all := mustHarm(t, Losses{1000, 50}, c), mustHarm(t, Losses{1000, 50}, c)
	for tick := range 50 {
		var whole Losses
		var parts [3]Losses
		for range 10 {
			loss := chance(.05 + float64(tick)/100)(r)
			if err := errors.Join(whole.Add(loss), parts[r.IntN(3)].Add(loss)); err != nil {
				t.Fatal(err)
			}
		}
		parts[0].Merge(parts[1])
		parts[0].Merge(parts[2])
		if err := errors.Join(one.Tick(whole), all.Tick(parts[0]), all.Tick(Losses{})); err != nil {
			t.Fatal(err)
		}
		if one.Report() != all.Report() {
			t.Fatalf("tick %d: one says %+v, all %+v", tick, one.Report(), all.Report())
		}
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		all = mustHarm(t, Losses{1000, 50}, c)
		if err := json.Unmarshal(text, all); err != nil {
			t.Fatal(err)
		}
	}
	if r := all.Report(); !r.Alarm || r.Ticks != 50 || r.Recent < .2 || r.Expected != .05 {
		t.Errorf("after 50 ticks of growing harm: %+v", r)
	}
	text, _ := json.Marshal(all)
	other := mustHarm(t, Losses{1000, 51}, c)
	if err := json.Unmarshal(text, other); !errors.Is(err, ErrState) {
		t.Errorf("the state of another reference: %v", err)
	}
	all.Reset()
	if r := all.Report(); r.Evidence != 0 || r.Ticks != 0 {
		t.Errorf("after Reset: %+v", r)
	}
}

func TestHarmFaults(t *testing.T) {
	c := drift.Config{FalseAlarmEvery: promise}
	f := func(want error, reference Losses, c drift.Config) {
		t.Helper()
		if _, err := NewHarm(reference, c); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%+v: the error is %v, want %v", reference, err, want)
		}
	}
	f(nil, Losses{1000, 50}, drift.Config{})
	f(ErrReference, Losses{100, 5}, c)
	f(ErrReference, Losses{1000, 1000}, c)
	f(ErrReference, Losses{1000, 500}, drift.Config{FalseAlarmEvery: promise, Tolerance: 1})
	f(ErrLoss, Losses{1000, 1001}, c)
	f(ErrLoss, Losses{1000, math.NaN()}, c)
	h := mustHarm(t, Losses{1000, 0}, c)
	for _, l := range []Losses{{1, 2}, {1, -1}, {1, math.NaN()}, {0, 1}} {
		if err := h.Tick(l); !errors.Is(err, ErrLoss) {
			t.Errorf("%+v: the error is %v", l, err)
		}
	}
	var l Losses
	for _, x := range []float64{-.1, 1.1, math.NaN(), math.Inf(1)} {
		if err := l.Add(x); !errors.Is(err, ErrLoss) || l.Rows != 0 {
			t.Errorf("a loss of %v: %v, %+v", x, err, l)
		}
	}
	// All wrong, at once and much: the evidence stays a number.
	for range 5 {
		if err := h.Tick(Losses{1 << 40, 1 << 40}); err != nil {
			t.Fatal(err)
		}
	}
	if r := h.Report(); !r.Alarm || r.Evidence > most || r.Evidence != r.Evidence {
		t.Errorf("all are wrong: %+v", r)
	}
	for _, text := range []string{"", "{}", `{"reference":{"rows":1000,"sum":0},"recent":2}`,
		`{"reference":{"rows":1000,"sum":0},"wealth":[-1]}`} {
		if err := h.UnmarshalJSON([]byte(text)); err == nil || h.Report().Ticks != 5 {
			t.Errorf("the state %q is taken", text)
		}
	}
}
