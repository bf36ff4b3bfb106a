package control

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/experiment"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route"
)

// armCounts counts for the arms in force, by the version that serves.
func (g *fakeGateway) armCounts(endpoint string) (all []ArmCount) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.specs {
		for _, a := range s.Arms {
			if s.Name != endpoint {
				break
			}
			version := a.Version
			if alias, ok := strings.CutPrefix(version, "@"); ok {
				version = g.aliases[a.Model][alias]
			}
			if v, err := loaded.Acquire([]byte(a.Model), []byte(version)); err == nil {
				version = v.Version()
				v.Release()
			}
			c := g.arms[endpoint+"/"+a.Name]
			rewards := g.arms[endpoint+"/"+a.Model+"/"+version]
			all = append(all, ArmCount{Name: a.Name, Version: version, Weight: a.Weight,
				Requests: c.Requests, Rewards: rewards.Rewards, Reward: rewards.Reward})
		}
	}
	return all
}

// calls sends requests to an arm of endpoint e that version is behind. Those of rewards earn the
// same each.
func (b *bench) calls(arm string, requests, rewards uint64, reward float64) {
	version := map[string]string{"stable": "1", "bold": "2"}[arm]
	b.gw.mu.Lock()
	defer b.gw.mu.Unlock()
	if b.gw.arms == nil {
		b.gw.arms = make(map[string]ArmCount)
	}
	c, r := b.gw.arms["e/"+arm], b.gw.arms["e/m/"+version]
	c.Requests += requests
	r.Rewards += rewards
	r.Reward += float64(rewards) * reward
	b.gw.arms["e/"+arm], b.gw.arms["e/m/"+version] = c, r
}

// abTest is an endpoint whose stable version stands beside version 2, with more keys.
func (b *bench) abTest(more string) {
	b.t.Helper()
	b.put("Endpoint", "e", `{"model": "m", "stable": "1",
		"arms": [{"name": "bold", "version": "2", "weight": 40}]`+more+`}`)
}

// test returns a record.
func (b *bench) test(name string) Test {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.view.tests[name]
	if t == nil {
		b.t.Fatalf("there is no test %s", name)
	}
	return t.status
}

// counted is what a test has at last, as requests/rewards of each arm.
func counted(t *Test) string {
	text := ""
	for _, c := range t.Points[len(t.Points)-1].Arms {
		text += fmt.Sprintf(" %d/%d", c.Requests, c.Rewards)
	}
	return text
}

// runs returns the runs of a bench's outbox.
func (b *bench) experiments() []experiment.Stored {
	b.t.Helper()
	b.mu.Lock()
	box, err := b.openOutbox(localOutbox)
	b.mu.Unlock()
	var all []experiment.Stored
	if err == nil {
		all, err = box.Records()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// TestABTest takes a test from its beginning to its end, over a restart, and wants the run that it
// leaves to have all of it, and nothing of before.
func TestABTest(t *testing.T) {
	b := open(t)
	b.put("Endpoint", "e", `{"model": "m", "stable": "1"}`)
	b.calls("stable", 500, 90, 0.5)
	b.look(0)
	b.abTest("")
	b.look(time.Second)
	if s := b.test("e/1"); s.Setup.Arms[0].Weight != 6000 || counted(&s) != " 0/0 0/0" {
		t.Errorf("it begins with %+v,%s", s.Setup, counted(&s))
	}
	for range 100 {
		b.calls("stable", 6, 6, 0.5)
		b.calls("bold", 4, 4, 0.75)
		b.look(time.Second)
	}
	b.restart()
	b.calls("stable", 0, 690, 0.5) // the rewards are on disk
	b.calls("bold", 0, 400, 0.75)
	b.look(time.Minute)
	b.calls("stable", 600, 600, 0.5)
	b.calls("bold", 400, 400, 0.75)
	b.abTest(`, "bandit": {"policy": "thompson", "floor": 5}`)
	b.calls("stable", 77, 0, 0) // of the next test
	b.look(time.Second)
	b.look(0)
	s := b.test("e/1")
	if counted(&s) != " 1200/1200 800/800" || s.Reason != "the arms have changed" {
		t.Errorf("it ends with%s, %s", counted(&s), s.Reason)
	}
	want := "bold earns more than all others: stable (version 1) earns 0.5 ("
	if got := s.Sentence(); !strings.HasPrefix(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
	b.act()
	b.act()
	all := b.experiments()
	if len(all) != 1 {
		t.Fatalf("there are %d runs", len(all))
	}
	r := all[0].Record
	b.wantRun(r)
	if next := b.test("e/2"); next.Setup.Bandit == nil || counted(&next) != " 0/0 0/0" {
		t.Errorf("the next is %+v,%s", next.Setup, counted(&next))
	}
	events := b.status("e").Events
	if n := len(events); n != 3 || !strings.Contains(events[1].Text, "test e/1 is over") {
		t.Errorf("events %+v", events)
	}
}

// wantRun checks the run of TestABTest.
func (b *bench) wantRun(r experiment.Record) {
	b.t.Helper()
	if err := r.Validate(); err != nil {
		b.t.Error(err)
	}
	got := fmt.Sprint(r.Status, r.Params["strategy"], r.Params["stable.version"],
		r.Params["bold.version"], r.Params["bold.weight"], r.Tags["millrace.best"],
		r.Tags["millrace.model_version.bold"])
	if want := "finishedab_test1240boldmodels:/m/2"; got != want {
		b.t.Errorf("the run has %s, want %s", got, want)
	}
	last := make(map[string]float64)
	for _, s := range r.Series {
		if n := len(s.Points); n < 10 || n > maxTestPoints {
			b.t.Errorf("%s has %d points", s.Name, n)
		}
		p := s.Points[len(s.Points)-1]
		last[s.Name] = p.Value
		if p.Step != 2000 {
			b.t.Errorf("%s ends at %d", s.Name, p.Step)
		}
	}
	for name, want := range map[string]float64{"stable.requests": 1200, "bold.requests": 800,
		"stable.feedback": 1200, "bold.reward": 0.75, "stable.reward": 0.5, "bold.weight": 40} {
		if last[name] != want {
			b.t.Errorf("%s ends with %v, want %v", name, last[name], want)
		}
	}
	var files []string
	for _, a := range r.Artifacts {
		files = append(files, a.Path)
	}
	if want := []string{"test.json", "weight.svg", "requests.svg", "reward.svg"}; !slices.Equal(
		files, want) {
		b.t.Errorf("files %v", files)
	}
}

// TestTestEnds ends tests in all ways.
func TestTestEnds(t *testing.T) {
	f := func(why string, end func(b *bench)) {
		t.Helper()
		b := open(t)
		b.put("Model", "m", `{"aliases": {"x": "2"}}`)
		b.put("Endpoint", "e", `{"model": "m", "stable": "1",
			"arms": [{"name": "bold", "version": "@x", "weight": 40}]}`)
		b.look(0)
		b.calls("bold", 10, 0, 0)
		end(b)
		b.look(time.Second)
		if s := b.test("e/1"); s.Reason != why || why != "" && counted(&s) != " 0/0 10/0" {
			t.Errorf("%q: %q with%s", why, s.Reason, counted(&s))
		}
		b.act()
		b.look(time.Second)
		if n := len(b.experiments()); why != "" && n != 1 || why == "" && n != 0 {
			t.Errorf("%q: %d runs", why, n)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		gone := b.view.endpoints["e"] == nil
		if n := len(b.view.tests); gone && n != 0 || !gone && n == 0 {
			t.Errorf("%q: %d records", why, n)
		}
	}
	f("", func(*bench) {})
	f("", func(b *bench) { b.put("Endpoint", "f", `{"model": "m", "stable": "1"}`) })
	f("the arms have changed", func(b *bench) { b.put("Model", "m", `{"aliases": {"x": "3"}}`) })
	f("the arms have changed", func(b *bench) {
		b.abTest("")
		b.abTest(`, "bandit": {"policy":
		"epsilon_greedy"}`)
	})
	f("the arms were taken out", func(b *bench) {
		b.put("Endpoint", "e", `{"model": "m", "stable": "1"}`)
	})
	f("the endpoint was deleted", func(b *bench) { b.remove("Endpoint", "e") })
}

// TestTestWaits wants no test before its arms are in force, no run of one that nobody called, and
// one of a test that goes on each hour.
func TestTestWaits(t *testing.T) {
	b := open(t)
	b.now = b.now.Add(-24 * time.Hour)
	b.gw.mu.Lock()
	b.gw.down = fmt.Errorf("not now")
	b.gw.mu.Unlock()
	_, _ = b.Apply(t.Context(), texts("Endpoint", "e", `{"model": "m", "stable": "1",
		"arms": [{"name": "bold", "weight": 40}]}`))
	b.look(time.Second)
	if n := len(b.view.tests); n != 0 {
		t.Errorf("%d tests", n)
	}
	b.gw.mu.Lock()
	b.gw.down = nil
	b.gw.mu.Unlock()
	b.look(time.Second)
	b.look(time.Second)
	if s := b.test("e/1"); s.Setup.Arms[1].Version == "" {
		t.Errorf("%+v", s.Setup)
	}
	b.look(2 * time.Hour)
	b.act()
	if n := len(b.experiments()); n != 0 {
		t.Errorf("%d runs", n)
	}
	b.calls("bold", 5, 0, 0)
	for range 3 {
		b.look(40 * time.Minute)
		b.act()
	}
	all := b.experiments()
	if len(all) != 1 || all[0].Record.Status != experiment.Running || all[0].Record.Series != nil {
		t.Errorf("%+v", all)
	}
}

// TestManyTests wants the records of an endpoint's tests, and the points of a long one, bounded.
func TestManyTests(t *testing.T) {
	b := open(t)
	for i := range 30 {
		b.abTest(fmt.Sprintf(`, "bandit": {"policy": "thompson", "floor": %d}`, i))
		b.look(time.Second)
		b.look(time.Second)
		b.act()
	}
	if n := len(b.view.tests); n > keepTests+1 {
		t.Errorf("%d records", n)
	}
	for range 1000 {
		b.calls("stable", 1, 0, 0)
		b.look(time.Minute)
	}
	s := b.test("e/30")
	if n := len(s.Points); n > maxTestPoints || n < maxTestPoints/3 {
		t.Errorf("%d points", n)
	}
	size := len(encode(s))
	stats, err := b.store.Stats()
	t.Logf("%d points, %d bytes; the log has %d in %d changes", len(s.Points), size,
		stats.LogBytes, stats.Changes)
	if err != nil || size > 64<<10 || stats.LogBytes > 2<<20 {
		t.Errorf("%d bytes, %+v, %v", size, stats, err)
	}
	changes, err := b.store.Audit(t.Context(), store.Query{Quiet: true, Who: author.Who})
	if err != nil || len(changes) > 60 {
		t.Errorf("%d changes are not quiet, %v", len(changes), err)
	}
}

// TestBounds simulates tests that are looked at again and again, and wants an arm that is no better
// to stand out as seldom as promised.
func TestBounds(t *testing.T) {
	const runs, looks, between = 200, 40, 50
	f := func(a, b float64, parts int, holds func(found float64) bool) {
		t.Helper()
		found := 0
		for seed := range runs {
			r := rand.New(rand.NewPCG(uint64(seed), 5))
			s := Test{Setup: Setup{Arms: make([]route.ArmSpec, 2)},
				Points: []TestPoint{{Arms: make([]ArmCount, 2)}}}
			arms := s.Points[0].Arms
			for look := 0; look < looks && s.best() < 0; look++ {
				for n := range between {
					x := 0.0
					for range parts { // the mean of some of 0 and 1
						if r.Float64() < []float64{a, b}[n%2] {
							x += 1 / float64(parts)
						}
					}
					arms[n%2].Rewards++
					arms[n%2].Reward += x
				}
			}
			if s.best() >= 0 {
				found++
			}
		}
		got := float64(found) / float64(runs)
		t.Logf("%v and %v in %d parts: an arm stands out in %.1f %%", a, b, parts, 100*got)
		if !holds(got) {
			t.Errorf("%v and %v: an arm stands out in a share of %v", a, b, got)
		}
	}
	seldom := func(found float64) bool { return found <= 1-testConfidence }
	f(0.3, 0.3, 1, seldom)
	f(0.5, 0.5, 4, seldom)
	f(0.2, 0.4, 1, func(found float64) bool { return found >= 0.95 })
}

// abDeliver takes a test to its end, from wherever that was left.
func (b *bench) abDeliver() error {
	for _, arms := range []string{`[{"name": "bold", "version": "2", "weight": 40}]`, "[]"} {
		spec := `{"model": "m", "stable": "1", "arms": ` + arms + `}`
		if _, err := b.Apply(b.t.Context(), texts("Endpoint", "e", spec)); err != nil {
			return err
		}
		for range 3 {
			b.look(10 * time.Second)
			b.calls("bold", 10, 5, 0.6)
		}
		b.act()
	}
	return nil
}

// TestABTestKilled kills the plane before and after each thing that it does in a test. What goes
// on with what is left has each test end, and each that was called leave one run.
func TestABTestKilled(t *testing.T) {
	b := open(t)
	var all []*left
	b.cfg.step = func(what string) {
		if strings.HasPrefix(what, "act") {
			b.mu.Lock()
			defer b.mu.Unlock()
		}
		all = append(all, b.leave(fmt.Sprintf("%d (%s)", len(all), what)))
	}
	b.Plane.cfg.step = b.cfg.step
	if err := b.abDeliver(); err != nil {
		t.Fatal(err)
	}
	b.Plane.cfg.step = nil
	if len(all) < 10 {
		t.Errorf("it was killed %d times", len(all))
	}
	for _, l := range all {
		l.start(config.Default())
		if err := l.abDeliver(); err != nil {
			t.Errorf("killed at %s: %v", l.at, err)
		}
		called := 0
		for name, r := range l.view.tests {
			if s := &r.status; s.Ended.IsZero() || s.Recorded.Before(s.Ended) {
				t.Errorf("killed at %s: %s is left with %+v", l.at, name, s)
			} else if s.requests() > 0 {
				called++
			}
		}
		runs := l.experiments()
		for _, r := range runs {
			if r.Record.Status != experiment.Finished {
				t.Errorf("killed at %s: %s is %s", l.at, r.Record.ID, r.Record.Status)
			}
		}
		if len(runs) != called || called == 0 {
			t.Errorf("killed at %s: %d runs of %d tests", l.at, len(runs), called)
		}
		l.close()
	}
}
