package rollout

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// The promises, kept or not by simulated rollouts with fixed seeds.

// world is what a simulated rollout meets.
type world struct {
	risk     float64 // the canary's errors are as many times as likely
	errors   float64 // of the stable version
	slower   float64 // the canary's answers take as many times as long
	disagree float64 // share of copies answered otherwise
	sticky   bool    // users stick to their arm, some have most errors, some are slow
	drift    bool    // errors and latencies rise and fall by large factors
}

// start is when simulated rollouts begin.
var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const (
	simUsers   = 60_000
	simHorizon = 100_000               // requests
	simEvery   = 10 * time.Millisecond // comes a request
	simPause   = 1_000                 // requests after which there is a look in any case
)

// sim counts requests as the gateway does.
type sim struct {
	world
	r      *rand.Rand
	counts trial.Counts
	shadow ShadowCounts
	users  []simUser
	watcher
}

type simUser struct {
	place, prone, slow      float64
	picked, failed, counted bool
}

func newSim(w world, seed uint64) *sim {
	s := &sim{world: w, r: rand.New(rand.NewPCG(seed, 26)), watcher: watcher{split: 1}}
	if !w.sticky {
		return s
	}
	s.users = make([]simUser, simUsers)
	for i := range s.users {
		s.users[i] = simUser{place: s.r.Float64(), prone: 0.5,
			slow: math.Exp(s.r.NormFloat64() / 3)}
		if s.r.IntN(20) == 0 {
			s.users[i].prone = 10
		}
	}
	return s
}

// cell returns the cell of a weight.
func (s *sim) cell(weight float64) *trial.Cell {
	rho := weight / 100
	cells := s.counts.Cells
	i := sort.Search(len(cells), func(i int) bool { return cells[i].Rho >= rho })
	if i == len(cells) || cells[i].Rho != rho {
		k := trial.Cell{Rho: rho}
		k.Canary.Latency = make([]uint64, len(trial.Bounds))
		k.Stable.Latency = make([]uint64, len(trial.Bounds))
		s.counts.Merge(trial.Counts{Cells: []trial.Cell{k}})
	}
	return &s.counts.Cells[i]
}

// request sends one with the canary's weight, as the i-th of all.
func (s *sim) request(i int, weight, shadowing float64) {
	swing := 0.5
	if s.drift {
		swing = 0.5 - 0.5*math.Cos(float64(i)*math.Pi/6_000)
	}
	s.bad = false
	if s.r.Float64()*100 < shadowing {
		s.shadow.Compared++
		s.told = true
		if s.r.Float64() < s.disagree {
			s.shadow.Disagreed++
			s.bad = true
		}
	}
	if weight == 0 {
		return
	}
	u := &simUser{place: s.r.Float64(), prone: 1, slow: 1}
	if s.sticky {
		u = &s.users[s.r.IntN(simUsers)]
	}
	c := s.cell(weight)
	arm, p := &c.Stable, s.errors*u.prone*math.Pow(9, swing-0.5)
	seconds := 0.02 * math.Exp(s.r.NormFloat64()/2) * u.slow * (1 + swing)
	canary := u.place < c.Rho
	if canary {
		arm = &c.Canary
		p *= s.risk
		seconds *= s.slower
	}
	arm.Requests++
	if canary {
		s.told = true
		s.canary++
	}
	if !u.picked {
		u.picked = true
		s.pick(c, canary)
		arm.Picked++
	}
	if s.r.Float64() < p {
		if !u.failed {
			u.failed = true
			arm.Errors++
			s.told, s.bad = true, s.bad || canary
		}
		return
	}
	if !u.counted {
		u.counted = true
		bucket := min(sort.SearchFloat64s(trial.Bounds, seconds), len(trial.Bounds)-1)
		arm.Latency[bucket]++
		s.answer(bucket, canary)
	}
}

// run returns the rollout after its end, or when it waits for a person, and how many
// requests there were in all.
func (s *sim) run(spec Spec) (State, int) {
	st, _ := Begin("r", spec, Subject{}, start).Next(Observation{}, start)
	for i := 1; i <= simHorizon; i++ {
		s.request(i, st.Weight(), st.Shadowing())
		now := start.Add(time.Duration(i) * simEvery)
		if !s.every && i%simPause != 0 && !s.matters(&st, now) {
			continue
		}
		st, _ = st.Next(Observation{Counts: s.counts, Shadow: s.shadow}, now)
		s.looked(&st)
		if st.Phase == Done || st.Paused {
			return st, i
		}
	}
	return st, simHorizon
}

// spread calls f for each of n seeds, on all cores.
func spread(n int, f func(seed int)) {
	var wg sync.WaitGroup
	const workers = 4
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}

// outcomes counts how simulated rollouts ended.
type outcomes struct {
	sync.Mutex
	ends     map[string]int // by verdict and guard
	requests int
	last     string
}

func (o *outcomes) add(st State, requests int) {
	o.Lock()
	defer o.Unlock()
	if o.ends == nil {
		o.ends = make(map[string]int)
	}
	o.ends[fmt.Sprintf("%s %s", st.Verdict, st.Guard)]++
	o.requests += requests
	o.last = st.Sentence()
}

// simulated is how many rollouts a test has.
func simulated(all int) int {
	if testing.Short() {
		return all / 10
	}
	return all
}

func simSpec() Spec {
	return Spec{Shadow: ShadowStage{Percent: 20, Requests: 300}, Steps: []float64{5, 20, 50},
		Step: StepRule{MinTime: 20 * time.Second}, Guards: []GuardSpec{{Metric: Errors},
			{Metric: Latency, Quantile: 0.95}, {Metric: Disagreement}}}
}

func TestSoundVersions(t *testing.T) {
	runs := simulated(1000)
	var o outcomes
	spread(runs, func(i int) {
		w := world{risk: 1, slower: 1, errors: []float64{0.001, 0.005, 0.02}[i%3], disagree: 0.01,
			sticky: i%2 == 0, drift: i%4 < 3}
		o.add(newSim(w, uint64(i)).run(simSpec()))
	})
	rolledBack := 0
	for end, n := range o.ends {
		if len(end) > 6 && end[:6] == "failed" {
			rolledBack += n
		}
	}
	t.Logf("%v, %d requests on average; as in %q", o.ends, o.requests/runs, o.last)
	if rolledBack > runs/20 {
		t.Errorf("%d of %d sound versions were rolled back", rolledBack, runs)
	}
	if n := o.ends["successful "]; n < runs*9/10 {
		t.Errorf("only %d of %d sound versions were promoted", n, runs)
	}
}

func TestBadVersions(t *testing.T) {
	runs := simulated(350)
	f := func(guard string, w world) {
		t.Helper()
		var o outcomes
		spread(runs, func(i int) {
			w := w
			w.sticky, w.drift = i%2 == 0, i%4 < 2
			o.add(newSim(w, uint64(i)).run(simSpec()))
		})
		t.Logf("%v, %d requests on average; as in %q", o.ends, o.requests/runs, o.last)
		if n := o.ends["failed "+guard]; n < runs*95/100 {
			t.Errorf("only %d of %d were rolled back by %s", n, runs, guard)
		}
	}
	f(Errors, world{risk: 3, slower: 1, errors: 0.01})
	f("latency p95", world{risk: 1, slower: 1.5, errors: 0.002})
	f(Disagreement, world{risk: 1, slower: 1, errors: 0.002, disagree: 0.05})
}

// TestRequestsNeeded says how many requests of its own a sound canary takes to show it
// by the default guards, at 5 percent: the numbers in GuardSpec's comment.
func TestRequestsNeeded(t *testing.T) {
	f := func(errors, want float64) {
		t.Helper()
		needed := make([]int, simulated(60))
		spread(len(needed), func(i int) {
			s := newSim(world{risk: 1, slower: 1, errors: errors}, uint64(i))
			st, _ := s.run(Spec{Steps: []float64{5}, Step: StepRule{MinTime: time.Second}})
			needed[i] = int(st.canaryRequests())
			if st.Phase != Done || st.Verdict != Successful {
				needed[i] = simHorizon
			}
		})
		slices.Sort(needed)
		got, most := needed[len(needed)/2], needed[len(needed)*9/10]
		t.Logf("with errors of %v: %d requests, in nine of ten cases %d", errors, got, most)
		if !testing.Short() && math.Abs(float64(got)-want) > 0.2*want {
			t.Errorf("with errors of %v: %d requests, want %v", errors, got, want)
		}
	}
	f(0.001, 450)
	f(0.005, 600)
	f(0.01, 1200)
}

func BenchmarkNext(b *testing.B) {
	b.ReportAllocs()
	s := newSim(world{risk: 1, slower: 1, errors: 0.01, disagree: 0.01}, 1)
	steps := []float64{1, 2, 5, 10, 20, 50}
	spec := simSpec()
	spec.Steps = steps
	st := Begin("r", spec, Subject{}, start)
	for i, w := range steps {
		for range 10_000 {
			s.request(i, w, 20)
		}
		st, _ = st.Next(Observation{Counts: s.counts, Shadow: s.shadow},
			start.Add(time.Duration(i)*time.Minute))
	}
	for b.Loop() {
		st.Next(Observation{Counts: s.counts, Shadow: s.shadow}, start.Add(10*time.Minute))
	}
}
