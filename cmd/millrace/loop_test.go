package main

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api/apitest"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/syncer"
	"github.com/millrace-ml/millrace/control/trigger"
)

// record puts the status of a resource into the store of a control plane.
func record(t *testing.T, p *apitest.Plane, key store.Key, status any) {
	t.Helper()
	r, err := p.Bolt.Get(t.Context(), key) // with its spec, where it has one
	if err != nil {
		r = store.Resource{Key: key, Owner: control.OwnerAPI}
	}
	if r.Status, err = json.Marshal(status); err != nil {
		t.Fatal(err)
	}
	if _, err = p.Bolt.Txn(t.Context(), store.Txn{By: store.Author{Who: "test"},
		Put: []store.Resource{r}}); err != nil {
		t.Fatal(err)
	}
}

// TestGetLoop follows an alarm by the records of the control plane, as the loop goes on.
func TestGetLoop(t *testing.T) {
	p := apitest.Serve(t, nil)
	admin(t, p.URL, "apply", "-f",
		write(t, filepath.Join(t.TempDir(), "a.yaml"), resources)).want(t, "")
	put := func(kind, name string, status any) {
		t.Helper()
		record(t, p, store.Key{Kind: kind, Name: name}, status)
	}
	f := func(err, line string, texts ...string) {
		t.Helper()
		admin(t, p.URL, strings.Fields(line)...).want(t, err, texts...)
	}
	f("not found", "get loop nobody")
	f("name one endpoint", "get loop")
	f("", "get loop fraud", "there was no drift alarm at fraud")
	f("", "get loop fraud -o json", `"loops": []`)

	at := func(seconds int) time.Time {
		return time.Now().Add(-time.Hour).Add(time.Duration(seconds) * time.Second)
	}
	about := monitor.Subject{Endpoint: "fraud", Model: "fraud", Version: "1"}
	old := monitor.Alarm{Subject: about, Monitor: "m", Raised: at(-200), Resolved: at(-100),
		Reason: "the weather", Resolution: "it is gone"}
	other := monitor.Alarm{Subject: monitor.Subject{Endpoint: "other"}, Raised: at(10)}
	alarm := monitor.Alarm{Subject: about, Monitor: "m", Raised: at(0), Reason: "amount has left"}
	put(control.KindAlarm, "m/9", old)
	put(control.KindAlarm, "n/1", other)
	put(control.KindAlarm, "m/10", alarm)
	f("", "get loop fraud", "Alarm m/10 at", "open for 1h0m", "amount has left")
	f("", "get loop fraud --all", "Alarm m/9 at", "closed after 1m40s", "over: it is gone")

	fraud := trigger.Context{Endpoint: "fraud"}
	run := trigger.Run{ID: "r-1", Event: "alarm/m/10", Trigger: "train", Context: fraud,
		State: trigger.Succeeded, Began: alarm.Raised, Started: at(2), Ended: at(60),
		Link: "https://ci.example/1"}
	put(control.KindRun, "r-1", run)
	put(control.KindRun, "r-0", trigger.Run{ID: "r-0", Context: fraud, Began: at(-10)})
	put(control.KindRun, "r-2", trigger.Run{ID: "r-2", Context: fraud, Began: at(70),
		State: trigger.Suppressed, Error: "cooldown"})
	put("Model", "fraud", syncer.Status{Versions: []syncer.Version{{Name: "8", Created: at(58),
		TrainedIn: "r-1"}, {Name: "7", Created: at(-9000)}}})
	s := aRollout(t, 50)
	s.Began, s.Ended, s.Phase, s.Verdict = at(61), at(80), rollout.Done, rollout.Successful
	put(control.KindRollout, s.ID, control.RolloutStatus{State: s, Actions: []control.Action{
		{Kind: control.ActionAlias, Alias: "champion", Version: "8", Done: at(81)}}})
	alarm.Acknowledged, alarm.By = at(5), "ann"
	alarm.Resolved, alarm.Resolution = at(82), "8 serves"
	put(control.KindAlarm, "m/10", alarm)

	got := admin(t, p.URL, "get", "loop", "fraud")
	got.want(t, "", "closed after 1m22s", "8 gets 1 % of the requests")
	rest := got.out
	for _, line := range []string{"0s", "r-1      begins, of trigger train", "2s ",
		"https://ci.example/1", "acknowledged by ann", "registered at its source", "1m0s",
		"succeeded",
		"fraud/2  version 8 is tried beside 7", "probably: is not started: cooldown",
		"version 8 was promoted", "is champion", "over: 8 serves"} {
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Fatalf("%q is missing, or too early, in\n%s", line, got.out)
		}
		rest = after
	}
	for _, text := range []string{"r-0", "the weather", "n/1"} {
		if strings.Contains(got.out, text) {
			t.Errorf("%q is of another loop:\n%s", text, got.out)
		}
	}
	f("", "get loop fraud -o yaml", "alarm: m/10", "what: rollout", "probably: true")
}

// crossing are the loops of two endpoints of one model, whose alarms, runs, versions and rollouts
// interleave: of e at even seconds, and of f at odd ones. Both runs have a second attempt's name.
func crossing(tagged bool) (*records, func(seconds int) time.Time) {
	at := func(seconds int) time.Time { return time.Unix(1e9+int64(seconds), 0) }
	r := &records{alarms: make(map[string]monitor.Alarm)}
	for i, e := range []string{"e", "f"} {
		version := strconv.Itoa(i + 2)
		about := trigger.Context{Endpoint: e}
		r.alarms[e+"/1"] = monitor.Alarm{Monitor: e, Raised: at(i), Resolved: at(40 + i),
			Subject:    monitor.Subject{Endpoint: e, Model: "m", Version: "1"},
			Resolution: "version " + version + " of model m serves now, with a reference"}
		r.runs = append(r.runs, trigger.Run{ID: e, Event: "alarm/" + e + "/1", Context: about,
			Began: at(i), State: trigger.Succeeded, Ended: at(20 + i)},
			trigger.Run{ID: "by-" + e, Event: "manual/x", Context: about, Began: at(24 + i),
				State: trigger.Suppressed},
			trigger.Run{ID: "after-" + e, Event: "rollout/" + e + "/1/now", Context: about,
				Began: at(50 + i), State: trigger.Running})
		v := syncer.Version{Name: version, Created: at(10 + i)}
		if tagged {
			v.TrainedIn = e + "-2"
		}
		r.versions = append(r.versions, v)
		r.rollouts = append(r.rollouts, control.RolloutStatus{State: rollout.State{ID: e + "/1",
			Began: at(30 + i), Ended: at(38 + i), Verdict: rollout.Successful,
			Subject: rollout.Subject{Endpoint: e, Model: "m",
				Canary: rollout.VersionRef{Version: version}}}})
	}
	return r, at
}

// TestLoopsCross tells the loops of two endpoints apart.
func TestLoopsCross(t *testing.T) {
	var r *records
	var at func(int) time.Time
	f := func(endpoint, want string) {
		t.Helper()
		var got []string
		for _, s := range r.loops(endpoint, at(100))[0].Steps {
			word := s.What + " " + s.Name
			if s.Probably {
				word = "?" + word
			}
			if len(got) == 0 || got[len(got)-1] != word {
				got = append(got, word)
			}
		}
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("the loop of %s is %s\nwant %s", endpoint, got, want)
		}
	}
	r, at = crossing(true)
	f("e", "alarm e/1, run e, version 2, run e, ?run by-e, rollout e/1, alarm e/1, run after-e")
	f("f", "alarm f/1, run f, version 3, run f, ?run by-f, rollout f/1, alarm f/1, run after-f")
	r.rollouts[1].State.Canary.Version = "2" // the one that was trained for e
	f("f", "alarm f/1, run f, version 3, run f, ?run by-f, alarm f/1")
	r.alarms["f/1"] = monitor.Alarm{Subject: r.alarms["f/1"].Subject, Raised: at(1),
		Resolved: at(41), Resolution: "version 2 of model m serves now, with a reference"}
	f("f", "alarm f/1, run f, version 2, version 3, run f, ?run by-f, rollout f/1, alarm f/1, "+
		"run after-f")

	r, at = crossing(false) // the end of the alarm tells of the version
	f("e", "alarm e/1, run e, version 2, run e, ?run by-e, rollout e/1, alarm e/1, run after-e")
	f("f", "alarm f/1, run f, version 3, run f, ?run by-f, rollout f/1, alarm f/1, run after-f")
	for i := range r.versions {
		r.versions[i].TrainedIn = "a run that is forgotten"
	}
	for name, a := range r.alarms {
		a.Resolution = "the rows are as they were"
		r.alarms[name] = a
	}
	f("f", "alarm f/1, run f, ?version 3, run f, ?run by-f, ?rollout f/1, alarm f/1, "+
		"?run after-f")
	rollouts := r.rollouts
	r.rollouts = nil // both may have registered version 2
	f("e", "alarm e/1, run e, ?version 2, run e, ?run by-e, alarm e/1")
	f("f", "alarm f/1, run f, ?version 2, run f, ?run by-f, alarm f/1")
	r.versions[0].TrainedIn = "e"
	f("f", "alarm f/1, run f, ?version 3, run f, ?run by-f, alarm f/1")
	r.runs = nil
	f("f", "alarm f/1, ?version 2, alarm f/1")
	r.versions = []syncer.Version{{Name: "1"}, {Name: "0", Created: at(-9)}}
	f("f", "alarm f/1")
	r.rollouts = rollouts
	f("f", "alarm f/1, ?rollout f/1, alarm f/1")
}
