package monitor_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// classes is the signature of a model that answers with the probabilities of two classes.
var classes = &tensor.Signature{MaxBatchSize: 1024,
	Inputs:  []tensor.Spec{{Name: "x", Datatype: tensor.FP64, Shape: []int64{-1, 1}}},
	Outputs: []tensor.Spec{{Name: "p", Datatype: tensor.FP64, Shape: []int64{-1, 2}}}}

// classifier answers with class 1, as sure as from half to a limit, and is right less often by a
// tenth than it says.
type classifier struct {
	*rand.Rand
	most float64 // confidence
	miss float64
}

func (c *classifier) answer() (in, out []tensor.Tensor, right bool) {
	p := 0.5 + (c.most-0.5)*c.Float64()
	return []tensor.Tensor{{Name: "x", Datatype: tensor.FP64, Shape: []int64{1, 1},
			Data: encode(c.NormFloat64())}},
		[]tensor.Tensor{{Name: "p", Datatype: tensor.FP64, Shape: []int64{1, 2},
			Data: append(encode(1-p), encode(p)...)}}, c.Float64() < p-c.miss
}

// send has a monitor see answers, of which it becomes known whether they were right, or not.
func (c *classifier) send(t *testing.T, m *monitor.Monitor, rows int, labels bool) monitor.Reading {
	t.Helper()
	now := time.Unix(1e9, 0)
	for i := range rows {
		in, out, right := c.answer()
		id := fmt.Append(nil, i)
		q := &monitor.Request{ID: id, Time: now, Inputs: in, Outputs: out}
		if _, err := m.Add(q); err != nil {
			t.Fatal(err)
		}
		if !labels {
			continue
		}
		class := "0"
		if right {
			class = "1"
		}
		m.Label(now, id, []byte(class))
	}
	r, err := m.Tick(now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// profile is a reference of the inputs.
func (c *classifier) profile(t *testing.T) *reference.Profile {
	t.Helper()
	k, err := reference.NewCollector([]string{"x"}, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		err := k.Add(time.Time{}, []sketch.Value{sketch.Number(c.NormFloat64())})
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := k.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Labels teach an estimate, over a restart too, which follows when rows become harder, without
// labels; when labels tell otherwise it is not to be trusted.
func TestEstimate(t *testing.T) {
	c := &classifier{rand.New(rand.NewPCG(51, 7)), 1, 0.1}
	cfg := monitor.Config{Every: 1e9, Tolerance: 0.1,
		Loss: &monitor.Loss{Output: "p.class", Probabilities: "p", Rows: 5000}}
	p := c.profile(t)
	m, err := monitor.New(cfg, classes, p)
	if err != nil {
		t.Fatal(err)
	}
	if r := c.send(t, m, 4900, true); r.Performance.Estimate != nil {
		t.Errorf("it is estimated before it was taught: %+v", r.Performance.Estimate)
	}
	c.send(t, m, 200, true)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = monitor.New(cfg, classes, p); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, m); err != nil {
		t.Fatal(err)
	}
	f := func(labels bool, want float64, trusted bool) {
		t.Helper()
		e := c.send(t, m, 2000, labels).Performance.Estimate
		if e == nil || math.Abs(e.Accuracy-want) > 0.03 || e.Low > want || e.High < want ||
			e.Trusted() != trusted {
			t.Errorf("the estimate is %+v, want %v", e, want)
		}
	}
	f(false, 0.65, true)
	f(true, 0.65, true)
	c.most = 0.7
	f(false, 0.5, true)
	f(true, 0.5, true)
	c.miss = 0.3
	f(true, 0.5, false)
}

// Probabilities that the model does not answer with are refused by name.
func TestEstimateOutput(t *testing.T) {
	cfg := monitor.Config{Every: 1000, Loss: &monitor.Loss{Output: "p.class", Probabilities: "q"}}
	_, err := monitor.New(cfg, classes, nil)
	want := `called "q", as performance.probabilities says; there are: p.0, p.1, p.class`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v", err)
	}
}
