package trials_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/route"
)

// banditSettings lets version 2 begin with less than version 1.
const banditSettings = `endpoints:
  - name: offers
    model: sum
    stable: "1"
    arms: [{name: bold, version: "2", weight: 30}]
    bandit: {policy: thompson, floor: 5, interval: 1s}
`

// rewards is the probability of a reward of 1, by version.
var rewards = map[string]float64{"1": 0.4, "2": 0.8}

// told is what clients have told a server, by version.
type told struct {
	mu         sync.Mutex
	given      map[string]route.Evidence // answered with accepted
	unanswered map[string]int            // sent, and the server died
	ids        []string                  // that were accepted
}

func newTold() *told {
	return &told{given: make(map[string]route.Evidence), unanswered: make(map[string]int)}
}

// clients have requests answered and give rewards for the answers, until so
// many were accepted or the server is gone.
func (d *told) clients(p *process, until int) *sync.WaitGroup {
	wait := new(sync.WaitGroup)
	for c := range 8 {
		wait.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), uint64(until)))
			for d.once(p, rng) && d.accepted() < until {
			}
		})
	}
	return wait
}

// once has one request answered and rewarded, and returns false when the server
// is gone.
func (d *told) once(p *process, rng *rand.Rand) bool {
	a, err := p.send(request{endpoint: "offers"})
	if err != nil {
		return false
	}
	reward := 0.0
	if rng.Float64() < rewards[a.version] {
		reward = 1
	}
	status, text, err := p.post("/v2/feedback",
		fmt.Sprintf(`{"id": %q, "reward": %v}`, a.id, reward))
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.unanswered[a.version]++
		return false
	}
	if a.status != http.StatusOK || status != http.StatusOK || !contains(text, "accepted") {
		p.t.Errorf("%+v was followed by feedback that is answered with %d %s", a, status, text)
		return false
	}
	e := d.given[a.version]
	d.given[a.version] = route.Evidence{N: e.N + 1, Reward: e.Reward + reward}
	d.ids = append(d.ids, a.id)
	return true
}

func (d *told) accepted() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.ids)
}

// weights returns the percent of each arm.
func (p *process) weights(endpoint string) map[string]float64 {
	p.t.Helper()
	var s struct {
		Arms []struct {
			Name    string
			Percent float64
		}
	}
	if err := json.Unmarshal([]byte(p.admin("/endpoints/"+endpoint)), &s); err != nil {
		p.t.Fatal(err)
	}
	weights := make(map[string]float64)
	for _, a := range s.Arms {
		weights[a.Name] = a.Percent
	}
	return weights
}

// TestBandit gives rewards for real answers: the weights move to the version
// that earns more. After kill -9 every reward that was accepted is still there,
// the weights are what they were, and it goes on.
func TestBandit(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1, 2)
	file := settings(t, dir, banditSettings)
	p := launch(t, file)
	if w := p.weights("offers"); w["bold"] != 30 {
		t.Errorf("the weights begin at %v", w)
	}
	d := newTold()
	d.clients(p, 400).Wait()
	eventually(t, "the better version has all but the floor", func() bool {
		return p.weights("offers")["bold"] == 95
	})

	// The weights of the settings are where it begins, once only.
	wantTexts(t, p.hangup(), "settings taken over")
	if w := p.weights("offers"); w["bold"] != 95 {
		t.Errorf("the weights are %v after SIGHUP", w)
	}

	// Killed while feedback comes.
	wait := d.clients(p, math.MaxInt)
	eventually(t, "more feedback comes", func() bool { return d.accepted() > 600 })
	p.kill()
	wait.Wait()
	if p.t.Failed() {
		return
	}
	d.hold(t, dir)

	p = launch(t, file)
	w := p.weights("offers")
	if w["bold"] != 95 || w["stable"] != 5 {
		t.Errorf("the weights are %v after kill -9", w)
	}
	for id, want := range map[string]string{d.ids[0]: "duplicate",
		d.ids[len(d.ids)-1]: "duplicate"} {
		status, text, err := p.post("/v2/feedback", fmt.Sprintf(`{"id": %q, "reward": 1}`, id))
		if err != nil || status != http.StatusOK || !contains(text, want) {
			t.Errorf("feedback of before kill -9 is answered with %d %s, %v", status, text, err)
		}
	}
	before := d.accepted()
	d.clients(p, before+100).Wait()
	n := p.metric("millrace_endpoint_requests_total", `endpoint="offers"`, `route="bold"`)
	if n < 70 {
		t.Errorf("version 2 answers %v of 100 requests after kill -9", n)
	}
	p.term()
	d.hold(t, dir)
	t.Logf("rewards by version %v; the server died in %v more", d.given, d.unanswered)
}

// hold holds what was told against what lies on the disk. No server may run.
func (d *told) hold(t *testing.T, dir string) {
	t.Helper()
	cfg := feedback.DefaultConfig()
	cfg.Path = filepath.Join(dir, "data", "feedback.db")
	ledger, err := feedback.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	arms := []feedback.Arm{{Model: "sum", Version: "1"}, {Model: "sum", Version: "2"}}
	got := ledger.Counts().Evidence("offers", arms, 0, time.Now())
	if err := ledger.Close(); err != nil {
		t.Fatal(err)
	}
	for i, arm := range arms {
		want, lost := d.given[arm.Version], float64(d.unanswered[arm.Version])
		if got[i].N < want.N || got[i].N > want.N+lost || got[i].Reward < want.Reward ||
			got[i].Reward > want.Reward+lost {
			t.Errorf("version %s has %+v on the disk; %+v was accepted, %v had no answer",
				arm.Version, got[i], want, lost)
		}
	}
}

// TestFeedback sends what clients send by mistake.
func TestFeedback(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1, 2)
	file := settings(t, dir, "endpoints:\n  - {name: offers, model: sum, stable: '1'}\n")
	p := launch(t, file)
	f := func(body string, status int, part string) {
		t.Helper()
		got, text, err := p.post("/v2/feedback", body)
		if err != nil || got != status || !contains(text, part) {
			t.Errorf("%.100s is answered with %d %s, %v", body, got, text, err)
		}
	}
	p.ask(request{endpoint: "offers", id: "a"})
	f(`{"id": "a", "reward": 1e9}`, 400, "reward")
	f(`{"id": "a", "reward": -0.1}`, 400, "reward")
	f(`{"id": "a", "reward": NaN}`, 400, "feedback")
	f(`{"id": "a", "reward": 1e999}`, 400, "feedback")
	f(`{"id": "a", "reward": "1"}`, 400, "feedback")
	f(`{"id": "a"}`, 400, "neither reward nor label")
	f(`{"id": "a", "label": null}`, 400, "neither reward nor label")
	f(`{"reward": 1}`, 400, "id")
	f(`{"id": "a", "reward": 1} {}`, 400, "follows")
	f(``, 400, "feedback")
	f(`{"id": "nobody", "reward": 1}`, 404, "id")
	f(`{"id": "a", "reward": 0.25}`, 200, `"accepted"`)
	for range 3 {
		f(`{"id": "a", "reward": 0.25}`, 200, `"duplicate"`)
	}
	f(`{"id": "a", "reward": 1}`, 200, `"duplicate"`)

	made := p.ask(request{endpoint: "offers"}) // has an id that was made up
	f(fmt.Sprintf(`{"id": %q, "label": {"class": "fraud"}}`, made.id), 200, `"accepted"`)
	p.ask(request{endpoint: "sum"}) // no endpoint
	p.ask(request{endpoint: "offers", id: "forgotten"})
	for result, want := range map[string]float64{"accepted": 2, "duplicate": 4, "unknown": 1,
		"invalid": 5} { // JSON that is broken is no feedback
		if n := p.metric("millrace_feedback_total", `result="`+result+`"`); n != want {
			t.Errorf("%v are counted as %s, want %v", n, result, want)
		}
	}
	p.kill()
	p = launch(t, file)
	f(`{"id": "a", "reward": 1}`, 200, `"duplicate"`)
	f(`{"id": "forgotten", "reward": 1}`, 404, "no answered request")
}
