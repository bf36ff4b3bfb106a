package rollout

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDefaults(t *testing.T) {
	s := DefaultSpec()
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var loaded Spec
	if err := json.Unmarshal(text, &loaded); err != nil || !reflect.DeepEqual(s, loaded) {
		t.Errorf("got %+v, %v", loaded, err)
	}
	if !reflect.DeepEqual(s, s.WithDefaults()) {
		t.Error("defaults change when they are filled in again")
	}
	mine := Spec{Guards: []GuardSpec{{Metric: Latency}}}
	if mine.WithDefaults(); mine.Guards[0].Quantile != 0 {
		t.Error("the caller's guards were changed")
	}
}

func TestValidate(t *testing.T) {
	nan := math.NaN()
	f := func(s Spec, want ...string) {
		t.Helper()
		var got []string
		if err := s.Validate(); err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		if len(got) != len(want) {
			t.Errorf("got %q\nwant %q", got, want)
			return
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("got %q, want %q", got[i], want[i])
			}
		}
	}
	guard := func(g ...GuardSpec) Spec { return Spec{Guards: g} }
	f(Spec{})
	f(Spec{Strategy: "x"}, "strategy is")
	f(Spec{Strategy: BlueGreen}, "strategy blue_green needs")
	f(Spec{Strategy: BlueGreen, Shadow: ShadowStage{Percent: 1}})
	f(Spec{Shadow: ShadowStage{Percent: 101}}, "shadow.percent is 101, must be 0 to 100")
	f(Spec{Shadow: ShadowStage{Percent: nan}}, "shadow.percent is NaN")
	f(Spec{Steps: []float64{5, 5}}, "steps[1] is 5, must be above the step before")
	f(Spec{Steps: []float64{0, 101}}, "steps[0] is 0", "steps[1] is 101")
	f(Spec{Steps: []float64{nan}}, "steps[0] is NaN", "steps[0] is 100, which")
	f(Spec{Steps: []float64{100}}, "steps[0] is 100, which leaves nothing")
	f(Spec{Step: StepRule{MinTime: -1}}, "step.min_time is -1ns")
	f(Spec{Step: StepRule{MinTime: time.Hour, MaxTime: time.Minute}}, "step.max_time is 1m0s")
	f(Spec{Confidence: 1}, "confidence is 1")
	f(guard(GuardSpec{}), `guards[0].metric is ""`)
	f(guard(GuardSpec{Metric: Errors, Max: 1}), "guards[0].max is 1")
	f(guard(GuardSpec{Metric: Errors}, GuardSpec{Metric: Latency, Quantile: 1, Ratio: 0.5}),
		"guards[1].quantile is 1", "guards[1].ratio is 0.5")
	f(guard(GuardSpec{Metric: Latency}, GuardSpec{Metric: Latency, Quantile: 0.5}))
	f(guard(GuardSpec{Metric: Latency}, GuardSpec{Metric: Latency}),
		"guards[1] is a second one for latency p99")
	f(guard(GuardSpec{Metric: Disagreement}), "guards[0].metric is disagreement, which needs")
	f(guard(GuardSpec{Metric: Reward, Margin: 0.6}), "guards[0].wide_margin is 1.2")
	f(guard(GuardSpec{Metric: Prometheus, Max: nan}), "guards[0].query is", "guards[0].max is NaN")
	f(guard(GuardSpec{Metric: Errors, Margin: -1, Weight: nan}), "guards[0].margin is -1",
		"guards[0].wide_margin is -2", "guards[0].weight is NaN")
}
