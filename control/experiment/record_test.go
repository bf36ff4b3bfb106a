package experiment

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// start is when the records of tests begin.
var start = time.Date(2026, 11, 25, 21, 0, 0, 0, time.UTC)

// record makes one with so many points.
func record(id string, status Status, values int) Record {
	r := Record{ID: id, Experiment: "rollouts/fraud", Name: "rollout " + id, Status: status,
		Start: start, Params: map[string]string{"endpoint": "fraud", "canary": "4"},
		Tags:   map[string]string{"mlflow.note.content": "Version 4 of fraud"},
		Series: []Series{points("errors/harm", make([]float64, values)...)}}
	for i := range values {
		r.Series[0].Points[i].Value = float64(i) / 4
	}
	if status != Running {
		r.End = start.Add(time.Hour)
	}
	return r
}

func TestValidate(t *testing.T) {
	f := func(change func(*Record), want string) {
		t.Helper()
		r := record("1", Finished, 1)
		change(&r)
		err := r.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	f(func(*Record) {}, "")
	f(func(r *Record) { r.Status, r.End = Running, time.Time{} }, "")
	f(func(r *Record) { r.Series, r.Params, r.Tags = nil, nil, nil }, "")
	f(func(r *Record) { r.ID = "" }, "id: is missing")
	f(func(r *Record) { r.ID = "\xff" }, "not in UTF-8")
	f(func(r *Record) { r.ID = `'"` }, "both kinds of quotes")
	f(func(r *Record) { r.Experiment = "" }, "experiment: is missing")
	f(func(r *Record) { r.Start = time.Time{} }, "start: is missing")
	f(func(r *Record) { r.End = start.Add(-1) }, "end: 2026")
	f(func(r *Record) { r.Status = "paused" }, `status: "paused"; running, finished and failed`)
	f(func(r *Record) { r.Series = append(r.Series, r.Series[0]) }, "there twice")
	f(func(r *Record) { r.Series[0].Name = "" }, "empty")
	for _, path := range []string{"", ".", "/etc", "../x", "a/../b", "a/"} {
		f(func(r *Record) { r.Artifacts = []Artifact{{Path: path}} }, "artifacts: the path")
	}
	f(func(r *Record) { r.Artifacts = []Artifact{{"a", nil}, {"a", nil}} }, "there twice")
}

// TestPointJSON reads what was written, as values that JSON itself has not.
func TestPointJSON(t *testing.T) {
	for _, v := range []float64{0, 0.1, -1e300, math.MaxFloat64, math.NaN(), math.Inf(1),
		math.Inf(-1), math.SmallestNonzeroFloat64} {
		text, err := json.Marshal(Point{start, 7, v})
		if err != nil {
			t.Fatal(err)
		}
		var got Point
		err = json.Unmarshal(text, &got)
		if err != nil || !got.Time.Equal(start) || got.Step != 7 ||
			got.Value != v && !(math.IsNaN(v) && math.IsNaN(got.Value)) {
			t.Errorf("%v has become %+v by %s: %v", v, got, text, err)
		}
	}
	var p Point
	if err := json.Unmarshal([]byte(`{"value": "much"}`), &p); err == nil {
		t.Error("a text is a value")
	}
}

// TestBatch sends series to the end, a thousand points at a time, each once.
func TestBatch(t *testing.T) {
	r := record("1", Running, 1500)
	r.Series = append(r.Series, points("empty"), points("few", 1, 2, 3), points("many",
		make([]float64, 700)...))
	var have progress
	next := func() string {
		got, p := r.batch(have)
		if have = p; len(got) == 0 {
			return "none"
		}
		var keys []string
		for _, m := range got {
			keys = append(keys, m.Key)
		}
		return fmt.Sprint(len(got), slices.Compact(keys), got[0].Step, got[len(got)-1].Step)
	}
	f := func(want string) {
		t.Helper()
		if got := next(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f("1000 [errors/harm] 0 999")
	f("1000 [errors/harm few many] 1000 496")
	f("203 [many] 497 699")
	f("none")
	r.Series[2] = points("few", 1, 2, 3, 4, 5)
	r.Series[3].Points = r.Series[3].Points[:600] // fewer than before: nothing to be sent again
	f("2 [few] 3 4")
	f("none")
	r.Series[3] = points("many", make([]float64, 701)...)
	f("1 [many] 700 700")
}

func TestParams(t *testing.T) {
	r := record("1", Running, 0)
	f := func(have progress, want map[string]string) progress {
		t.Helper()
		got, p := r.params(have)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		return p
	}
	have := f(progress{}, r.Params)
	f(have, nil)
	r.Params = map[string]string{"canary": "5", "step": "2"}
	f(have, map[string]string{"step": "2"}) // the canary is what it was at first
	if fmt.Sprint(have.Params) != "[canary endpoint]" {
		t.Errorf("the keys are %v", have.Params)
	}
}
