package control

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/evidence"
	"github.com/millrace-ml/millrace/control/experiment"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route"
)

// recordInterval is how often the run of a test that goes on is brought up to date.
const recordInterval = time.Hour

// recordTests gives tests to the outbox of experiments: each once it is over, and each hour before.
// It may do so twice, which does no harm.
func (p *Plane) recordTests(now time.Time) {
	p.mu.Lock()
	due := slices.DeleteFunc(sorted(p.view.tests), func(t *testRecord) bool {
		s := &t.status
		if s.Ended.IsZero() {
			return now.Sub(s.Began) < recordInterval || now.Sub(s.Recorded) < recordInterval
		}
		return !s.Recorded.Before(s.Ended)
	})
	p.mu.Unlock()
	for _, t := range due {
		err := p.recordTest(t)
		p.mu.Lock()
		p.complain("a test cannot be kept for MLflow yet", err, "test", t.Name)
		if t = p.view.tests[t.Name]; err == nil && t != nil {
			status := t.status
			status.Recorded = now
			if !status.Ended.IsZero() && now.Before(status.Ended) {
				status.Recorded = status.Ended // the clock has gone back
			}
			p.keepTest(t, status)
		}
		p.mu.Unlock()
	}
}

// keepTest stores the record of a test. Callers hold mu.
func (p *Plane) keepTest(t *testRecord, status Test) {
	err := p.commit(context.WithoutCancel(p.ctx),
		store.Txn{By: author, Put: []store.Resource{t.with(status)}})
	p.complain("what is known of a test cannot be kept yet", err, "test", t.Name)
}

// recordTest gives a test to the outbox. One that nobody has called leaves no run.
func (p *Plane) recordTest(t *testRecord) error {
	s := &t.status
	if s.requests() == 0 {
		return nil
	}
	p.mu.Lock()
	model := s.Setup.Arms[0].Model
	sources := make([]string, len(s.Setup.Arms))
	for i, a := range s.Setup.Arms {
		sources[i] = p.view.version(a.Model, a.Version).RunID
	}
	box, under, err := p.outboxOfModel(model)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	run := runOfTest(t.Name, s, sources)
	run.Experiment = under
	p.step("act")
	defer p.step("acted")
	return box.Add(run)
}

// outboxOfModel returns where the runs about a model go, and the experiment that they are under.
// Callers hold mu.
func (p *Plane) outboxOfModel(model string) (*experiment.Outbox, string, error) {
	name, under := localOutbox, "millrace"
	if f := p.followerOf(model); f != nil && f.spec.MLflow != nil {
		name, under = outboxOf(f.name), cmp.Or(f.spec.MLflow.Experiment, under)
	}
	box, err := p.openOutbox(name)
	return box, under, err
}

// runOfTest is a test as a run of MLflow. sources are the runs that made the versions, empty where
// none is known. Series come at the end: while the test goes on its points move.
func runOfTest(name string, t *Test, sources []string) experiment.Record {
	r := experiment.Record{
		ID:   "test/" + name + "/" + t.Began.UTC().Format("20060102T150405.000"),
		Name: "test " + name, Status: experiment.Running, Start: t.Began, Params: t.params(),
		Tags: map[string]string{"mlflow.note.content": t.Sentence(), "millrace.test": name,
			"millrace.reason": t.Reason, "millrace.best": t.bestName()},
	}
	for i, a := range t.Setup.Arms {
		arm := ofMLflow(a.Name)
		r.Tags["millrace.model_version."+arm] = fmt.Sprintf("models:/%s/%s", a.Model, a.Version)
		if sources[i] != "" {
			r.Tags["millrace.source_run."+arm] = sources[i]
		}
	}
	all := t.series()
	text, _ := json.MarshalIndent(t, "", "  ") // of a type of ours, which can be written
	r.Artifacts = []experiment.Artifact{{Path: "test.json", Content: text}}
	for _, c := range []struct{ of, title, unit string }{
		{"weight", "weights", "percent"}, {"requests", "requests", "requests"},
		{"reward", "mean rewards with bounds", "reward"},
	} {
		chart := experiment.Chart{Title: name + ": " + c.title, Y: c.unit}
		for _, s := range all {
			if _, what, _ := strings.Cut(s.Name, "."); strings.HasPrefix(what, c.of) {
				chart.Series = append(chart.Series, s)
			}
		}
		r.Artifacts = append(r.Artifacts, experiment.Artifact{Path: c.of + ".svg",
			Content: chart.SVG()})
	}
	if !t.Ended.IsZero() {
		r.Status, r.End, r.Series = experiment.Finished, t.Ended, all
	}
	return r
}

// params are what a test compares, in the form of MLflow.
func (t *Test) params() map[string]string {
	params := map[string]string{"endpoint": t.Endpoint, "model": t.Setup.Arms[0].Model,
		"strategy": "ab_test", "arms": strconv.Itoa(len(t.Setup.Arms))}
	for _, a := range t.Setup.Arms {
		arm := ofMLflow(a.Name)
		params[arm+".version"], params[arm+".weight"] = a.Version, percent(a.Weight)
		if a.Model != t.Setup.Arms[0].Model {
			params[arm+".model"] = a.Model
		}
	}
	if b := t.Setup.Bandit; b != nil {
		params["strategy"] = b.Policy
		params["epsilon"] = strconv.FormatFloat(b.Epsilon, 'g', -1, 64)
		params["half_life"], params["interval"] = b.HalfLife.String(), b.Interval.String()
		params["floor"], params["ceiling"] = percent(b.Floor), percent(b.Ceiling)
	}
	return params
}

func percent(weight int) string {
	return strconv.FormatFloat(float64(weight)*100/route.FullWeight, 'g', -1, 64)
}

// series are the metrics of all arms over time.
func (t *Test) series() []experiment.Series {
	var all []experiment.Series
	for i, a := range t.Setup.Arms {
		of := make(map[string][]experiment.Point)
		for k := range t.Points {
			at, c := &t.Points[k], t.Points[k].Arms[i]
			add := func(name string, value float64) {
				of[name] = append(of[name], experiment.Point{Time: at.Time,
					Step: int64(at.requests()), Value: value})
			}
			low, high := t.bounds(c)
			add("weight", float64(c.Weight)*100/route.FullWeight)
			add("requests", float64(c.Requests))
			add("feedback", float64(c.Rewards))
			add("reward", mean(c))
			add("reward_low", low)
			add("reward_high", high)
		}
		for _, name := range []string{"weight", "requests", "feedback", "reward", "reward_low",
			"reward_high"} {
			all = append(all, experiment.Series{Name: ofMLflow(a.Name) + "." + name,
				Points: of[name]})
		}
	}
	return all
}

// mean is the mean reward of an arm, NaN where it had none.
func mean(c ArmCount) float64 { return c.Reward / float64(c.Rewards) }

// testConfidence is the chance that the bounds of all arms hold, at all looks together.
const testConfidence = 0.95

// bounds returns the bounds of an arm's mean reward. A reward between 0 and 1 speaks at most as
// strongly for a high, or a low, mean as one of 1 with that chance and of 0 else, since the
// likelihoods that Rate mixes are convex in it; so parts of a success count as none, or as one.
func (t *Test) bounds(c ArmCount) (low, high float64) {
	level := (1 - testConfidence) / float64(2*len(t.Setup.Arms))
	least := min(uint64(math.Floor(c.Reward)), c.Rewards)
	most := min(uint64(math.Ceil(c.Reward)), c.Rewards)
	low, _ = evidence.Rate{Bad: least, Good: c.Rewards - least}.Between(level)
	_, high = evidence.Rate{Bad: most, Good: c.Rewards - most}.Between(level)
	return low, high
}

// best returns the arm whose mean reward is beyond the bounds of all others, -1 where none is.
func (t *Test) best() int {
	last := t.Points[len(t.Points)-1].Arms
	low, high := make([]float64, len(last)), make([]float64, len(last))
	for i := range last {
		low[i], high[i] = t.bounds(last[i])
	}
	for i := range last {
		if low[i] > max(slices.Max(append(high[:i:i], high[i+1:]...)), 0) {
			return i
		}
	}
	return -1
}

func (t *Test) bestName() string {
	if i := t.best(); i >= 0 {
		return t.Setup.Arms[i].Name
	}
	return ""
}

// Sentence says what a test has found, for people.
func (t *Test) Sentence() string {
	last := t.Points[len(t.Points)-1].Arms
	parts := make([]string, len(last))
	rewards := uint64(0)
	for i, c := range last {
		a := t.Setup.Arms[i]
		rewards += c.Rewards
		parts[i] = fmt.Sprintf("%s (version %s) had %d requests and no rewards", a.Name, a.Version,
			c.Requests)
		if c.Rewards > 0 {
			low, high := t.bounds(c)
			parts[i] = fmt.Sprintf("%s (version %s) earns %.3g (%.3f to %.3f) over %d rewards of "+
				"%d requests", a.Name, a.Version, mean(c), low, high, c.Rewards, c.Requests)
		}
	}
	text := strings.Join(parts, "; ")
	switch best := t.best(); {
	case best >= 0:
		return fmt.Sprintf("%s earns more than all others: %s.", t.Setup.Arms[best].Name, text)
	case rewards > 0:
		return fmt.Sprintf("No arm stands out: %s.", text)
	}
	return text + "."
}

// arms lists a test's arms for people.
func (t *Test) arms() string {
	list := make([]string, len(t.Setup.Arms))
	for i, a := range t.Setup.Arms {
		list[i] = fmt.Sprintf("%s (version %s)", a.Name, a.Version)
	}
	return strings.Join(list, ", ")
}

// requests is how many requests all arms have had.
func (p *TestPoint) requests() (n uint64) {
	for i := range p.Arms {
		n += p.Arms[i].Requests
	}
	return n
}

func (t *Test) requests() uint64 { return t.Points[len(t.Points)-1].requests() }
