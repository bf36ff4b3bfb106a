package shadow

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// config is that of a shadow of a model.
func config(model string) Config {
	cfg := DefaultConfig()
	cfg.Endpoint, cfg.Stable = "e", "stable"
	cfg.Shadow = route.Shadow{Model: []byte(model)}
	cfg.Shadow.Name = "next"
	cfg.Label = func(error) string { return "class" }
	return cfg
}

// TestMoments holds mean and variance against sums done by hand.
func TestMoments(t *testing.T) {
	f := func(mean, variance float64, values ...float64) {
		t.Helper()
		var m moments
		for _, x := range values {
			m.add(x)
		}
		if !near(m.mean, mean) || !near(m.variance(), variance) {
			t.Errorf("%v: mean %v, variance %v", values, m.mean, m.variance())
		}
	}
	f(0, 0)
	f(3, 0, 3)
	f(2, 1, 1, 2, 3)
	f(5, 32.0/7, 2, 4, 4, 4, 5, 5, 7, 9)
	f(1e9+1, 1, 1e9, 1e9+1, 1e9+2)
}

// TestReport adds up two pairs, a failure and a drop.
func TestReport(t *testing.T) {
	cfg := config("m")
	r := newReport(&cfg)
	r.about("1")
	row := func(a, b float64) []tensor.Tensor {
		return one(numbers(tensor.FP32, []int64{1, 2}, a, b))
	}
	s := &tap.Sample{Compute: 2 * time.Millisecond}
	var scores Scores
	same := Compare(row(0.25, 0.75), row(0.25, 0.75), Tolerance{}, &scores)
	r.answered(&same, s, 3*time.Millisecond)
	other := Compare(row(0.25, 0.75), row(0.75, 0.25), Tolerance{}, &scores)
	r.answered(&other, s, 5*time.Millisecond)
	r.scored(&scores)
	r.failed("deadline", false)
	r.failed("internal", true)
	r.offered.Add(5)
	r.drop(DropLoad)

	got := r.Snapshot()
	if got.Since.IsZero() {
		t.Error("it does not say since when")
	}
	got.Since = time.Time{}
	want := Snapshot{
		Endpoint: "e", Shadow: "next", Model: "m", Version: "1", Offered: 5,
		Dropped: map[string]uint64{"queue": 0, "bytes": 0, "load": 1, "not_ready": 0,
			"incompatible": 0},
		Errors:   map[string]uint64{"deadline": 1, "internal": 1},
		Compared: 3, Agreed: 1,
		Disagreed: map[string]uint64{"value": 1, "shape": 0, "datatype": 0, "missing": 0,
			"error": 1},
		ArgmaxRows: 2, ArgmaxAgree: 1,
		AbsoluteError: []Bucket{{-math.MaxFloat64, 0x1p-53, 1}, {0.25, 0.5, 1}},
		RelativeError: []Bucket{{-math.MaxFloat64, 0x1p-53, 1}, {1, 2, 1}},
		StableScores:  []Bucket{{0.7, 0.75, 2}},
		ShadowScores:  []Bucket{{0.7, 0.75, 2}},
		StableSeconds: []Bucket{{0x1p-9, math.Exp2(-8.75), 2}},
		ShadowSeconds: []Bucket{{math.Exp2(-8.5), math.Exp2(-8.25), 1},
			{math.Exp2(-7.75), math.Exp2(-7.5), 1}},
		Pairs: 2, DifferenceSeconds: got.DifferenceSeconds,
		DifferenceVariance: got.DifferenceVariance, Examples: []Example{},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !near(got.DifferenceSeconds, 0.002) || !near(got.DifferenceVariance, 2e-6) {
		t.Errorf("difference %v, variance %v", got.DifferenceSeconds, got.DifferenceVariance)
	}
	short := Summary{Shadow: "next", Version: "1", Compared: 2, Agreed: 1, Failed: 1}
	if s := r.Summary(); s != short {
		t.Errorf("in short it is %+v, want %+v", s, short)
	}

	r.about("1")
	if n := r.Snapshot().Compared; n != 3 {
		t.Errorf("%d compared after the same version again", n)
	}
	r.about("2")
	if s := r.Snapshot(); s.Compared != 0 || s.Version != "2" || s.Dropped["load"] != 1 {
		t.Errorf("after another version %+v", s)
	}
}

// TestExamples keeps the worst within the limits.
func TestExamples(t *testing.T) {
	f := func(l exampleLimits, want string, severities ...float64) {
		t.Helper()
		var x examples
		for i, s := range severities {
			e := &Example{ID: fmt.Sprint(i), Excess: finite(s), bytes: 10}
			if x.wants(s, l) {
				x.keep(e, l)
			}
		}
		var ids []string
		for _, e := range x.sorted() {
			ids = append(ids, e.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%v: %v are kept, want %v", severities, got, want)
		}
		if x.bytes != int64(10*len(x.list)) {
			t.Errorf("%v: %d bytes are counted", severities, x.bytes)
		}
	}
	two := exampleLimits{count: 2, bytes: 100}
	f(two, "1 0", 2, 3)
	f(two, "3 2", 2, 3, 4, 5)
	f(two, "0 1", 5, 4, 3, 2)
	f(two, "0 1", inf, inf, inf)
	f(two, "2 0", 3, 2, inf)
	f(exampleLimits{count: 9, bytes: 25}, "2 3", 2, 3, 5, 4)
	f(exampleLimits{count: 9, bytes: 5}, "", 2, 3)
	f(exampleLimits{bytes: 100}, "", 2, 3)
}

// TestExampleValues writes tensors of all kinds as JSON.
func TestExampleValues(t *testing.T) {
	f := func(x tensor.Tensor, want string) {
		t.Helper()
		x.Name = "y"
		e := newExample(&Result{Excess: inf}, &tap.Sample{Outputs: one(x)}, nil, 3)
		got, err := json.Marshal(e.Stable)
		if err != nil {
			t.Fatal(err)
		}
		var list []struct {
			Data      json.RawMessage
			Truncated bool
		}
		if err := json.Unmarshal(got, &list); err != nil || len(list) != 1 {
			t.Fatalf("%s: %v", got, err)
		}
		text := string(list[0].Data)
		if list[0].Truncated {
			text += " ..."
		}
		if text != want {
			t.Errorf("got %s, want %s", text, want)
		}
		if _, err := json.Marshal(e); err != nil {
			t.Error(err)
		}
	}
	whole := func(d tensor.Datatype, data ...byte) tensor.Tensor {
		return tensor.Tensor{Datatype: d, Data: data}
	}
	f(numbers(tensor.FP32, nil, 0.1, 2), `[0.1,2]`)
	f(numbers(tensor.FP64, nil, 0.1, 1e300), `[0.1,1e+300]`)
	f(numbers(tensor.FP16, nil, 0.5), `[0.5]`)
	f(numbers(tensor.BF16, nil, -2), `[-2]`)
	f(numbers(tensor.FP32, nil, nan, inf, -inf), `["NaN","Infinity","-Infinity"]`)
	f(numbers(tensor.FP32, nil, 1, 2, 3, 4), `[1,2,3] ...`)
	f(whole(tensor.Bool, 1, 0), `[true,false]`)
	f(whole(tensor.Uint8, 1, 255), `[1,255]`)
	f(whole(tensor.Int8, 1, 255), `[1,-1]`)
	f(whole(tensor.Uint16, 0, 255), `[65280]`)
	f(whole(tensor.Int16, 0, 255), `[-256]`)
	f(whole(tensor.Uint32, 0, 0, 0, 128), `[2147483648]`)
	f(whole(tensor.Int32, 0, 0, 0, 128), `[-2147483648]`)
	f(whole(tensor.Uint64, 1, 0, 0, 0, 0, 0, 0, 128), `[9223372036854775809]`)
	f(whole(tensor.Int64, 255, 255, 255, 255, 255, 255, 255, 255), `[-1]`)
	f(words("a", "ä", "\xff"), `["a","ä","`+"\uFFFD"+`"]`)
	f(words("a", "b", "c", "d"), `["a","b","c"] ...`)
	f(words(strings.Repeat("x", 200)), `["`+strings.Repeat("x", 128)+`"]`)
	f(whole(tensor.Bytes, 9, 0, 0, 0, 'x'), `[] ...`)
}
