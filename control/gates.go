package control

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/notify"
	"github.com/millrace-ml/millrace/control/rollout"
)

// gates are the hooks that one rollout asks before it goes on. They are asked in the background;
// until all have agreed, the rollout is held where it is.
type gates struct {
	mu    sync.Mutex
	asked map[string]asked // by what is asked for and who is asked. Guarded by mu.
}

// asked is a question to a hook.
type asked struct {
	answer  notify.Answer // the last, once it is over
	over    bool
	under   bool // it is asked now
	attempt int
	again   time.Time // when one that does not allow is asked again
}

// askAgain is how long a hook that said no is left alone.
const askAgain = 10 * time.Second

// moments are what hooks are asked about, by the words of the settings.
var moments = map[string]string{
	"start": notify.BeforeStart, "step": notify.BeforeStep,
	"promotion": notify.BeforePromotion, "end": notify.AfterEnd,
}

// moment is what a rollout that goes on to next has to ask about; empty for nothing.
func moment(before, next *rollout.State) string {
	switch {
	case next.Phase == rollout.Promoting && before.Phase != rollout.Promoting:
		return "promotion"
	case next.Phase == rollout.Done || next.Paused || next.Phase == rollout.Promoting:
		return ""
	case before.Phase == rollout.Pending:
		return "start"
	case next.Phase != before.Phase || next.Step != before.Step:
		return "step"
	}
	return ""
}

// held asks the hooks whether a rollout may go on to next, and says what holds it.
func (p *Plane) held(
	e *endpoint, r *run, next *rollout.State, now time.Time,
) string {
	at := moment(&r.state, next)
	if at == "" || e.spec.Canary == nil {
		return ""
	}
	for i := range e.spec.Canary.Hooks {
		h := &e.spec.Canary.Hooks[i]
		if len(h.On) > 0 && !slices.Contains(h.On, at) {
			continue
		}
		id := fmt.Sprintf("%s/%s-%d/%d", r.state.ID, at, next.Step+1, i)
		a, due := r.gates.next(id, now)
		if due {
			question := p.event(fmt.Sprintf("%s/%d", id, a.attempt), moments[at], next)
			p.spawn(func() { r.gates.answered(id, p.askHook(h, question)) })
		}
		switch {
		case !a.over:
			return "the hook " + h.URL + " is asked"
		case !a.answer.Allowed:
			return "the hook " + h.URL + " does not agree: " + a.answer.Reason
		}
	}
	return ""
}

// next returns what is known of a question, and whether it is to be asked now. The old answer
// holds until there is another.
func (g *gates) next(id string, now time.Time) (asked, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.asked[id]
	if a.under || a.over && (a.answer.Allowed || now.Before(a.again)) {
		return a, false
	}
	a.under, a.attempt, a.again = true, a.attempt+1, now.Add(askAgain)
	if g.asked == nil {
		g.asked = make(map[string]asked)
	}
	g.asked[id] = a
	return a, true
}

// answered takes the answer to a question.
func (g *gates) answered(id string, answer notify.Answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.asked[id]
	a.answer, a.over, a.under = answer, true, false
	g.asked[id] = a
}

// askHook asks a hook, which has a timeout.
func (p *Plane) askHook(h *config.Hook, question notify.Event) notify.Answer {
	r := notify.DefaultReceiver()
	r.Name, r.Secret, r.Fetch.Origin = h.URL, os.Getenv(h.SecretEnv), h.URL
	r.Fetch.Allow = hostOf(h.URL)
	if r.Secret == "" {
		return notify.Answer{Reason: "the environment variable " + h.SecretEnv + " has no secret"}
	}
	gate, err := notify.NewGate(r)
	if err != nil {
		return notify.Answer{Reason: err.Error()}
	}
	defer gate.Close()
	return gate.Ask(p.ctx, question)
}

// event is what is told of a rollout.
func (p *Plane) event(id, kind string, s *rollout.State) notify.Event {
	return notify.Event{ID: id, Type: kind, Time: time.Now(), Data: notify.Data{
		Rollout: &notify.Rollout{ID: s.ID, Stable: s.Stable.Version, Canary: s.Canary.Version,
			Step: s.Step + 1, Weight: s.Weight()},
		Endpoint: s.Endpoint, Model: s.Model, Reason: s.Reason, Sentence: s.Sentence()}}
}

// tell lets those know of a rollout's step who want to: hooks of its end, and chats.
func (p *Plane) tell(e *endpoint, s *rollout.State) {
	c := e.spec.Canary
	if c == nil {
		return
	}
	id := fmt.Sprintf("%s/%s-%d/%d", s.ID, s.Phase, s.Step+1, len(s.History))
	if s.Phase == rollout.Done {
		for i := range c.Hooks {
			h := c.Hooks[i]
			if len(h.On) == 0 || slices.Contains(h.On, "end") {
				told := p.event(id, moments["end"], s)
				p.spawn(func() {
					if a := p.askHook(&h, told); !a.Allowed {
						p.log.Warn("a hook was not told of the end of a rollout", "rollout",
							told.Data.Rollout.ID, "hook", h.URL, "reason", a.Reason)
					}
				})
			}
		}
	}
	p.inform(c.Notify, p.event(id, "rollout."+string(s.Phase), s))
}
