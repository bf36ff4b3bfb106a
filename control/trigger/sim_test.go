package trigger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The promises, kept or not in simulated weeks with fixed seeds: events come, some again
// and again, people cancel and retry, the server fails in all ways, and the process is
// killed between any two steps.

// server is a pipeline server in simulated time.
type server struct {
	t         *testing.T
	r         *rand.Rand
	now       time.Time
	guarantee Guarantee
	runs      map[string]*serverRun // by name
	order     []*serverRun
	spec      Spec
	ours      func(name string) State
}

type serverRun struct {
	name           string
	began, visible time.Time
	ends           time.Time
	end            State
}

func (s *server) chance(percent int) bool { return s.r.IntN(100) < percent }

func (s *server) active(r *serverRun) bool { return s.now.Before(r.ends) }

// begin starts a run, and looks whether it may.
func (s *server) begin(name string) {
	s.t.Helper()
	if s.runs[name] != nil {
		s.t.Errorf("%s: %s has started twice", s.guarantee, name)
	}
	others, today := 0, 1
	for _, o := range s.order {
		// What is lost may run there still, as people are told.
		if s.active(o) && s.ours(o.name) != Lost {
			others++
		}
		if s.now.Sub(o.began) < day-s.spec.StartTimeout-time.Hour {
			today++
		}
	}
	if others >= s.spec.MaxRuns || today > s.spec.DailyBudget {
		s.t.Errorf("%s: %s is beside %d others, the %dth of a day", s.guarantee, name, others,
			today)
	}
	run := &serverRun{name: name, began: s.now,
		visible: s.now.Add(time.Duration(s.r.Int64N(int64(s.spec.Settle)))),
		ends:    s.now.Add(time.Duration(s.r.Int64N(int64(3 * time.Hour)))),
		end:     []State{Succeeded, Failed}[s.r.IntN(2)]}
	if s.chance(5) {
		run.ends = s.now.Add(1e4 * time.Hour) // it hangs
	}
	s.runs[name] = run
	s.order = append(s.order, run)
}

func (s *server) Start(_ context.Context, r Run) (Status, error) {
	name := r.Name()
	unsure := &Fault{Kind: ErrUncertain, Text: "no answer"}
	switch {
	case s.chance(10):
		return Status{}, errors.New("connection refused")
	case s.chance(10):
		return Status{}, unsure // it did not get through
	case s.chance(2):
		return Status{}, &Fault{Kind: ErrRefused, Text: "403"}
	}
	if s.runs[name] == nil || s.guarantee != Keeps && !s.visible(name) {
		s.begin(name)
	}
	if s.chance(15) {
		return Status{}, unsure // the answer was lost
	}
	return Status{State: Running, External: name}, nil
}

// visible says whether a run can be found by its name.
func (s *server) visible(name string) bool {
	run := s.runs[name]
	return s.guarantee == Finds && run != nil && !s.now.Before(run.visible)
}

func (s *server) Status(_ context.Context, r Run) (Status, error) {
	name := r.Name()
	if r.External == "" && !s.visible(name) {
		return Status{}, &Fault{Kind: ErrGone, Text: "no run is called " + name}
	}
	run := s.runs[name]
	switch {
	case s.chance(5):
		return Status{}, errors.New("500")
	case s.chance(5):
		return Status{}, &Fault{Kind: ErrGone, Text: "a replica lags behind"}
	case s.chance(2):
		return Status{State: "dancing"}, nil
	case s.active(run):
		return Status{State: Running, External: name}, nil
	}
	return Status{State: run.end, External: name}, nil
}

func (s *server) Cancel(_ context.Context, external string) error {
	if run := s.runs[external]; s.active(run) && s.chance(70) {
		run.ends, run.end = s.now, Failed
	}
	return nil
}

// plane is who runs the state machine. It keeps nothing but the disk.
type plane struct {
	*server
	disk  map[string]Run
	kills int
}

// killed says that the process dies now; what was not stored is lost.
func (p *plane) killed() bool {
	if p.chance(3) {
		p.kills++
		return true
	}
	return false
}

func (p *plane) history() []Run {
	var all []Run
	for _, id := range slices.Sorted(maps.Keys(p.disk)) {
		all = append(all, p.disk[id])
	}
	return all
}

func (p *plane) tell(e Event) {
	r, fresh := Decide(p.history(), e, p.spec, p.now)
	if fresh && !p.killed() {
		p.disk[r.ID] = r
	}
}

// person does something to a run.
func (p *plane) person() {
	all := p.history()
	if len(all) == 0 {
		return
	}
	r := all[p.r.IntN(len(all))]
	after, err := r.Cancel("ann", p.now)
	if p.chance(50) {
		after, err = r.Retry(all, p.spec, "ann", p.now)
	}
	if err == nil && !p.killed() {
		p.disk[r.ID] = after
	}
}

// step takes the turn of each run.
func (p *plane) step() {
	for _, r := range p.history() {
		if r.State.Done() {
			continue
		}
		r, action := r.Turn(p.now)
		if p.killed() {
			return
		}
		p.disk[r.ID] = r
		if action == Wait || p.killed() {
			continue
		}
		o := Act(context.Background(), p, r, action)
		o.Jitter = p.r.Float64()
		if p.chance(5) { // a person is faster than the answer
			p.person()
		}
		if p.killed() {
			return
		}
		p.disk[r.ID] = p.disk[r.ID].Next(o, p.now)
	}
}

func simulate(t *testing.T, g Guarantee, seed uint64) *plane {
	t.Helper()
	s := &server{t: t, r: rand.New(rand.NewPCG(seed, 26)), now: t0, guarantee: g,
		runs: map[string]*serverRun{}, spec: spec(g)}
	s.spec.Cooldown, s.spec.RunTimeout, s.spec.MaxFailures = time.Hour, 6*time.Hour, 4
	s.spec.Settle = 15 * time.Minute // longer than steps are
	s.spec.MaxRuns = 1 + int(seed%2)
	p := &plane{server: s, disk: map[string]Run{}}
	s.ours = func(name string) State {
		for _, r := range p.disk {
			if r.Name() == name {
				return r.State
			}
		}
		return Lost // an earlier attempt
	}
	for n := range 14 * 24 * 60 / 2 {
		s.now = s.now.Add(2 * time.Minute)
		if s.chance(3) {
			p.tell(Event{ID: fmt.Sprint("alarm/", n/300), Reason: "drift"})
		}
		if s.chance(1) {
			p.person()
		}
		p.step()
	}
	return p
}

func TestSimulation(t *testing.T) {
	ends := map[State]int{}
	kills, starts := 0, 0
	for _, g := range []Guarantee{Keeps, Finds, Blind} {
		for seed := range uint64(8) {
			p := simulate(t, g, seed)
			kills, starts = kills+p.kills, starts+len(p.order)
			for _, r := range p.disk {
				ends[r.State]++
				there := p.runs[r.Name()]
				switch {
				case r.State == Succeeded && (there == nil || there.end != Succeeded),
					r.State == Cancelled && there != nil && p.active(there),
					r.State == Failed && r.Started.IsZero() && there != nil,
					r.State == Suppressed && there != nil:
					t.Errorf("%s, seed %d: %+v is %+v there", g, seed, r, there)
				}
			}
		}
	}
	t.Logf("%d kills, %d starts, ends %v", kills, starts, ends)
	for _, s := range []State{Succeeded, Failed, Lost, Cancelled, Suppressed} {
		if ends[s] == 0 {
			t.Errorf("no run has ended as %s", s)
		}
	}
	if kills < 1000 || starts < 300 {
		t.Errorf("%d kills and %d starts prove little", kills, starts)
	}
}
