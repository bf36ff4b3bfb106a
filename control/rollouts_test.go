package control

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// TestPromotion takes a version from its alias to the stable one.
func TestPromotion(t *testing.T) {
	b := open(t)
	b.aliases("1", "1")
	b.endpoint(`, "shadow": {"percent": 20, "requests": 100, "relative": 0.01}`)
	b.look(0)
	b.serves("stable=1")
	b.aliases("1", "2")
	b.look(0)
	b.serves("stable=1")
	if s := b.status("e"); s.Rollout != "e/1" || s.Rollouts != 1 || len(s.Events) != 1 {
		t.Fatalf("the rollout has not begun: %+v", s)
	}
	b.look(time.Second)
	b.serves("stable=1 canary=2:0 canary~2:20")
	if k := b.gw.spec("e").Shadows[0]; k.Relative != 0.01 {
		t.Errorf("the shadow is %+v", k)
	}
	b.gw.counted["e/1"] = Observed{Shadow: rollout.ShadowCounts{Compared: 100},
		Examples: func() json.RawMessage { return json.RawMessage(`[{"id": "worst"}]`) }}
	b.until(rollout.Step)
	b.serves("stable=1 canary=2:1000")
	b.until(rollout.Promoting)
	b.serves("stable=1 canary=2:10000")
	b.look(time.Second)
	b.serves("stable=2")
	s := b.status("e")
	if s.Rollout != "" || !reflect.DeepEqual(*s.Promoted, Promoted{"m", "2", []string{"1"}}) ||
		s.Former.Version != "1" ||
		s.Former.Successor != "2" || !strings.Contains(s.Events[1].Text, "promoted") {
		t.Errorf("after the promotion: %+v", s)
	}
	if got, want := b.actions(), "e/1 tags=2 waits, e/1 experiment waits"; got != want {
		t.Errorf("to do are %q, want %q", got, want)
	}
	b.act()
	if got, want := b.actions(), "e/1 tags=2, e/1 experiment"; got != want {
		t.Errorf("done are %q, want %q", got, want)
	}
	b.recorded("shadow-examples.json", `[{"id":"worst"}]`)
	b.recorded("weight.svg", "weight of the canary")
	b.restart()
	b.serves("stable=2")
	b.look(time.Second) // the alias names what serves
	if s := b.status("e"); s.Rollouts != 1 || s.Waiting != "" {
		t.Errorf("a rollout of what serves: %+v", s)
	}
}

// TestLateAlias: the alias of a promotion moves only after the next promotion. It must not bring
// the version between back.
func TestLateAlias(t *testing.T) {
	b := open(t)
	b.aliases("1", "1")
	b.endpoint("")
	promote := func(version string) {
		t.Helper()
		b.aliases("1", version)
		b.until(rollout.Promoting)
		b.look(time.Second)
		b.serves("stable=" + version)
	}
	promote("2")
	promote("3")
	b.aliases("2", "3")
	b.look(time.Second)
	b.serves("stable=3")
	b.aliases("3", "3")
	b.look(time.Second)
	b.serves("stable=3")
	if s := b.status("e"); s.Promoted != nil || s.Rollouts != 2 {
		t.Errorf("after the alias has moved: %+v", s)
	}
}

// recorded wants a text in a file of the one run that was recorded.
func (b *bench) recorded(path, want string) {
	b.t.Helper()
	runs, err := b.outboxes[localOutbox].Records()
	if err != nil || len(runs) != 1 {
		b.t.Fatalf("%d runs are recorded, %v", len(runs), err)
	}
	for _, a := range runs[0].Record.Artifacts {
		if a.Path == path && strings.Contains(string(a.Content), want) {
			return
		}
	}
	b.t.Errorf("%s does not have %s", path, want)
}

// TestCountsStay has a restart in the midst of a step go on from what was counted.
func TestCountsStay(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint(`, "step": {"min_time": "1h"}`)
	b.look(0)
	b.look(time.Second)
	requests := func() uint64 {
		b.look(mostSave)
		canary, _ := b.state().Seen.Counts.Arms()
		return canary.Requests
	}
	b.traffic(1000, 0)
	if n := requests(); n != 100 {
		t.Errorf("%d requests are counted", n)
	}
	b.traffic(1000, 0)
	b.look(time.Second)
	b.restart() // with the counts of the last moment
	if n := requests(); n != 200 {
		t.Errorf("after the restart %d requests are counted", n)
	}
	b.traffic(1000, 0)
	if n := requests(); n != 300 {
		t.Errorf("then %d requests are counted", n)
	}
	b.serves("stable=1 canary=2:1000")
}

// TestStableMoves has a person move the alias of the stable version while a promotion holds.
func TestStableMoves(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint("")
	b.look(0)
	b.pass(0)
	b.serves("stable=2")
	b.aliases("2", "2") // as the promotion has it
	b.serves("stable=2")
	b.look(0)
	b.aliases("1", "2") // by hand, which must not be undone by a promotion of the past
	b.serves("stable=1")
	b.restart()
	b.serves("stable=1")
	b.look(0)
	if s := b.status("e"); s.Promoted != nil || s.Rollout != "e/2" {
		t.Errorf("version 2 is not tried against version 1: %+v", s)
	}
	b.aliases("3", "2")
	b.look(0)
	b.serves("stable=3")
	if r := b.record(); r.State.Verdict != rollout.Failed ||
		!strings.Contains(r.State.Reason, "millrace (the stable version is 3 now) aborted it") {
		t.Errorf("the rollout is %s: %s", r.State.Verdict, r.State.Reason)
	}
	if s := b.status("e"); len(s.Refused) != 0 {
		t.Errorf("what lost its subject is refused: %+v", s.Refused)
	}
	b.look(0)
	if s := b.status("e"); s.Rollout != "e/3" {
		t.Errorf("version 2 is not tried against version 3: %+v", s)
	}
}

func TestRollback(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint("")
	b.look(0)
	b.look(time.Second)
	b.pass(150)
	b.serves("stable=1")
	s := b.status("e")
	if len(s.Refused) != 1 || s.Refused[0].Version != "2" || s.Refused[0].Digest == "" ||
		s.Promoted != nil || !s.Events[len(s.Events)-1].Warn {
		t.Fatalf("after the rollback: %+v", s)
	}
	for range 3 { // it is not tried again, also when it comes back
		b.look(time.Second)
		b.aliases("1", "3")
		b.aliases("1", "2")
	}
	if s := b.status("e"); s.Rollouts != 1 || !strings.Contains(s.Waiting, "version 2 was rolled") {
		t.Fatalf("refused, and: %+v", s)
	}
	b.says(CommandStart, "rollout")
	if s := b.status("e"); s.Rollout != "e/2" || len(s.Refused) != 0 || s.Waiting != "" {
		t.Fatalf("it is not tried again: %+v", s)
	}
	b.says(CommandStart, "rollout e/2 is under way")
	b.look(time.Second)
	b.says("abort", "ana aborted it in step 1 (10 %)")
	b.serves("stable=1")
	if s := b.status("e"); len(s.Refused) != 1 || s.Rollout != "" {
		t.Errorf("aborted, and: %+v", s)
	}
	b.says("abort", "has no rollout under way")
	b.aliases("1", "1")
	b.says(CommandStart, "there is nothing to try")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion"}`)
	b.look(0)
	b.says(CommandStart, "watches no alias")
	if s := b.status("e"); s.Waiting != "" {
		t.Errorf("without a canary it waits: %q", s.Waiting)
	}
}

// TestSuperseded moves the watched alias in the midst of a rollout.
func TestSuperseded(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint("")
	b.look(0)
	b.look(time.Second)
	b.aliases("1", "3")
	b.serves("stable=1 canary=2:1000")
	b.look(time.Second)
	b.serves("stable=1")
	if got := b.state().Reason; !strings.Contains(got, "@challenger names version 3 now") {
		t.Errorf("it ended since %s", got)
	}
	b.look(time.Second)
	b.look(time.Second)
	b.serves("stable=1 canary=3:1000")
	b.aliases("1", "2")
	b.look(time.Second)
	b.look(time.Second)
	if s := b.status("e"); s.Rollout != "e/3" {
		t.Errorf("version 2, which nobody refused, is not tried: %+v", s)
	}
	b.put("Model", "m", `{"aliases": {"champion": "1", "challenger": "2"}}`,
		"Endpoint", "e", `{"model": "n", "stable": "1"}`)
	b.serves("stable=1") // of the other model, without the canary
	b.look(time.Second)
	if got := b.state().Reason; !strings.Contains(got, "the endpoint has another model now") {
		t.Errorf("it ended since %s", got)
	}
}

// TestDecidedAndChanged changes an endpoint between the decision to promote and the promotion.
func TestDecidedAndChanged(t *testing.T) {
	f := func(change func(b *bench), serves, event string) {
		t.Helper()
		b := open(t)
		b.aliases("1", "2")
		b.endpoint(`, "then": {"alias": "champion"}`)
		b.look(0)
		b.look(time.Second)
		b.says("promote", "ana promoted it")
		b.serves("stable=1 canary=2:10000")
		change(b)
		b.look(time.Second)
		b.serves(serves)
		s := b.status("e")
		if s.Rollout != "" || !strings.Contains(s.Events[len(s.Events)-1].Text, event) {
			t.Errorf("in the end: %+v", s)
		}
		moves := strings.Contains(b.actions(), "alias")
		if moves != strings.HasPrefix(serves, "stable=2") {
			t.Errorf("to do are %s", b.actions())
		}
	}
	f(func(*bench) {}, "stable=2", "promoted")
	f(func(b *bench) { b.aliases("3", "2") }, "stable=3",
		"version 2 is not made the stable one: the stable version is 3 now")
	f(func(b *bench) { b.aliases("1", "4") }, "stable=2", "promoted")
	f(func(b *bench) { b.put("Endpoint", "e", `{"model": "n", "stable": "1"}`) }, "stable=1",
		"the endpoint has another model now")
}

// TestEndpointLeaves deletes an endpoint in each phase of its rollout, and makes it anew.
func TestEndpointLeaves(t *testing.T) {
	f := func(reach func(b *bench)) {
		t.Helper()
		b := open(t)
		b.aliases("1", "2")
		b.endpoint("")
		b.look(0)
		reach(b)
		b.remove("Endpoint", "e")
		b.look(time.Second)
		if n := len(stored(t, b.store).rollouts); n != 0 || len(b.runs) != 0 {
			t.Errorf("%d records and %d runs are left", n, len(b.runs))
		}
		b.endpoint("")
		b.look(time.Second)
		b.look(time.Second)
		b.serves("stable=1 canary=2:1000")
		if s := b.state(); s.ID != "e/1" || len(s.Evidence) > 2 {
			t.Errorf("the new endpoint has %s with a past: %+v", s.ID, s.Evidence)
		}
		b.remove("Model", "n")
	}
	g := func(reach func(b *bench)) {
		t.Helper()
		f(func(b *bench) { b.put("Model", "n", `{}`); reach(b) })
	}
	g(func(*bench) {})
	g(func(b *bench) { b.look(time.Second) })
	g(func(b *bench) { b.look(time.Second); b.says("promote", "promoted") })
	g(func(b *bench) { b.look(time.Second); b.pass(0); b.act() })
}

// TestModelLeaves deletes the model of a rollout.
func TestModelLeaves(t *testing.T) {
	b := open(t)
	b.put("Source", "inbox", `{"push": true}`,
		"Model", "m", `{"source": "inbox", "aliases": {"champion": "1", "challenger": "2"}}`)
	b.put("Endpoint", "e", `{"model": "m", "stable": "1", "canary": {"watch": "@challenger"}}`)
	b.look(0)
	b.look(time.Second)
	c := Change{Delete: texts("Model", "m", "").keys(), By: ana}
	_, err := b.Apply(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "challenger") {
		t.Errorf("a model whose alias is watched leaves: %v", err)
	}
	b.put("Endpoint", "e", `{"model": "m", "stable": "1"}`)
	if _, err := b.Apply(t.Context(), c); err != nil {
		t.Error(err)
	}
	b.look(time.Second)
	b.serves("stable=1")
	b.act()
	if got := b.actions(); strings.Contains(got, "waits") {
		t.Errorf("nobody is there to be told, and: %s", got)
	}
}

func TestUndo(t *testing.T) {
	start := func(more string) *bench {
		b := open(t)
		b.put("Source", "inbox", `{"push": true}`,
			"Model", "m", `{"source": "inbox", "aliases": {"champion": "1", "challenger": "2"}}`)
		b.endpoint(`, "then": {"alias": "champion"}` + more)
		b.look(0)
		b.look(time.Second)
		b.says(CommandUndo, "abort it")
		b.pass(0)
		b.serves("stable=2")
		return b
	}
	b := start("") // before the alias has moved
	b.says(CommandUndo, "ana took the promotion of version 2 back: version 1 is stable again")
	b.serves("stable=1")
	if got, want := b.actions(), "e/1 tags=2 waits, e/1 experiment waits, e/1 alias champion=2 "+
		"not done, e/1 alias champion=1 waits"; got != want {
		t.Errorf("to do are %q, want %q", got, want)
	}
	b.look(time.Second)
	if s := b.status("e"); s.Rollout != "" || !strings.Contains(s.Waiting, "rolled back") {
		t.Errorf("what was taken back is tried again: %+v", s)
	}
	b.put("Model", "m", // the alias moves nevertheless: that was under way
		`{"source": "inbox", "aliases": {"champion": "2", "challenger": "2"}}`)
	b.serves("stable=1")
	b.says(CommandUndo, "nothing was promoted")

	b = start("") // after
	b.act()
	b.put("Model", "m",
		`{"source": "inbox", "aliases": {"champion": "2", "challenger": "2"}}`)
	b.look(time.Second)
	b.says(CommandUndo, "version 1 is stable again")
	b.serves("stable=1")
	b.restart()
	b.serves("stable=1")
	if got := b.actions(); !strings.HasSuffix(got, "e/1 alias champion=1 waits") ||
		!strings.HasPrefix(got, "e/1 tags=2 waits") {
		t.Errorf("to do are %q", got)
	}
	if s := b.record(); !strings.HasPrefix(s.Undone, "ana took the promotion") {
		t.Errorf("the record says %q", s.Undone)
	}

	b = start(`, "keep_warm": "1ms"`)
	b.says(CommandUndo, "was kept until")
	b = start("")
	b.put("Model", "m",
		`{"source": "inbox", "aliases": {"champion": "3", "challenger": "2"}}`)
	b.says(CommandUndo, "is not what serves now")
	b.serves("stable=3")
}

// TestAliasOrder has promotions whose aliases could not be moved for a while: the last holds.
func TestAliasOrder(t *testing.T) {
	b := open(t)
	b.put("Source", "inbox", `{"push": true}`,
		"Model", "m", `{"source": "inbox", "aliases": {"champion": "1", "challenger": "2"}}`)
	b.endpoint(`, "then": {"alias": "champion"}`)
	b.look(0)
	b.pass(0)
	b.put("Model", "m", `{"source": "inbox", "aliases": {"champion": "1", "challenger": "3"}}`)
	b.look(0)
	b.pass(0)
	b.serves("stable=3")
	if got := b.actions(); !strings.Contains(got, "e/1 alias champion=2 not done") ||
		!strings.Contains(got, "e/2 alias champion=3 waits") {
		t.Errorf("to do are %q", got)
	}
	b.act() // no version of these was pushed, so that the source has none to give the alias to
	if got := b.actions(); strings.Contains(got, "waits") ||
		!strings.Contains(got, "e/2 alias champion=3 not done") {
		t.Errorf("after all was tried: %q", got)
	}
}

func TestCannotServe(t *testing.T) {
	f := func(version, more, phase, reason string) {
		t.Helper()
		b := open(t)
		b.aliases("1", version)
		b.endpoint(more)
		b.look(0)
		b.look(time.Second)
		if s := b.state(); string(s.Phase) != phase || !strings.Contains(s.Reason, reason) {
			t.Errorf("version %s is %s: %s; want %s: %s", version, s.Phase, s.Reason, phase, reason)
		}
	}
	f("5", "", "done", "do not fit it")
	f("5", `, "allow_signature_change": true`, "step", "")
	f("6", "", "done", "it cannot serve: ")
	f("7", "", "done", "it cannot serve: ")
	f("2", "", "step", "")
}

func TestFreeze(t *testing.T) {
	b := open(t)
	b.now = time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC) // a Saturday
	b.aliases("1", "2")
	b.endpoint(`, "freeze": [{"days": ["sat", "sun"], "from": "00:00", "to": "23:59"}]`)
	b.look(0)
	if s := b.status("e"); s.Rollout != "" || !strings.Contains(s.Waiting, "end of the freeze") {
		t.Fatalf("in the freeze: %+v", s)
	}
	b.look(48 * time.Hour)
	b.look(time.Second)
	b.serves("stable=1 canary=2:1000")
	b.now = b.now.Add(-24 * time.Hour) // a clock that jumps back into the freeze
	for range 20 {
		b.traffic(3000, 0)
		b.look(10 * time.Second)
	}
	b.serves("stable=1 canary=2:1000")
	if r := b.record(); r.Held != "the freeze is not over" ||
		!strings.Contains(r.State.Reason, "it waits to go on") {
		t.Errorf("held by %q: %s", r.Held, r.State.Reason)
	}
	b.says("promote", "promoted") // a person may, and then it is carried out
	b.look(time.Second)
	b.serves("stable=2")
	if r := b.record(); r.Held != "" {
		t.Errorf("it is over, and held by %q", r.Held)
	}
}

func TestPause(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint("")
	b.look(0)
	b.look(time.Second)
	b.says("pause", "paused")
	for range 20 {
		b.traffic(3000, 0)
		b.look(10 * time.Second)
	}
	b.serves("stable=1 canary=2:1000")
	b.restart()
	b.look(time.Second)
	b.says("approve", "not possible now")
	b.says("dance", "not possible now")
	b.says("resume", "")
	b.pass(0)
	b.serves("stable=2")
	if _, err := b.Command(t.Context(), "nobody", "pause", ana); err == nil {
		t.Error("an endpoint that is not there was paused")
	}
}

// TestFurtherArms has arms that keep their share beside a canary that takes all the rest.
func TestFurtherArms(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion", "canary": {"watch": "@challenger",
		"steps": [10, 90], "guards": [{"metric": "errors"}]},
		"arms": [{"name": "third", "version": "3", "weight": 30}],
		"rules": [{"header": "x-team", "exact": "risk", "arm": "canary"}]}`)
	b.look(0)
	b.serves("stable=1 canary=2:0 third=3:3000") // rules lead there before it has a weight
	b.look(time.Second)
	b.serves("stable=1 canary=2:1000 third=3:3000")
	b.says("promote", "")
	b.serves("stable=1 canary=2:7000 third=3:3000")
	b.look(time.Second)
	b.serves("stable=2 canary=2:0 third=3:3000")
}

// errDisk is of a disk that is full, as far as Publish goes.
var errDisk = errors.New("no space left on device")

// TestNotPublished has a gateway that cannot take what was decided for a while.
func TestNotPublished(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint("")
	b.gw.down = errDisk
	for range 5 {
		b.look(time.Second)
	}
	b.serves("stable=1")
	if n := b.log.count("cannot be put in force"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	b.gw.down = nil
	b.look(time.Second)
	b.serves("stable=1 canary=2:1000")
}

// TestRewards counts each reward once, whatever becomes of the look that has brought it.
func TestRewards(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint(`, "step": {"min_time": "1h"}`)
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion", "canary": {"watch": "@challenger",
		"guards": [{"metric": "reward"}], "step": {"min_time": "1h"}}}`)
	b.look(0)
	b.look(time.Second)
	sent := 0
	reward := func(n int) {
		b.gw.mu.Lock()
		defer b.gw.mu.Unlock()
		o := b.gw.counted["e/1"]
		for range n {
			sent++
			o.Rewards = append(o.Rewards, trial.Reward{Rho: 0.01, Canary: sent%2 == 0, Value: 0.5})
		}
		b.gw.counted["e/1"] = o
	}
	for range 5 {
		reward(100)
		b.look(10 * time.Second)
	}
	works := b.fail() // what these looks bring cannot be stored
	for range 3 {
		reward(100)
		b.look(10 * time.Second)
	}
	works()
	reward(100)
	b.look(10 * time.Second)
	seen := b.state().Seen.Reward
	if got := seen.Stable.N + seen.Canary.N; int(got) != sent {
		t.Errorf("%v rewards were counted, %d sent", got, sent)
	}
}
