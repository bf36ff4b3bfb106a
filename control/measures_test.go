package control

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// floats is a tensor of FP32.
func floats(shape []int64, values ...float32) tensor.Tensor {
	t := tensor.Tensor{Datatype: tensor.FP32, Shape: shape}
	for _, x := range values {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(x))
	}
	return t
}

// rows lets the monitors see rows that are zero but for the first feature.
func (s *stream) rows(version string, first ...float32) {
	s.b.t.Helper()
	n := s.features()
	values := make([]float32, n*len(first))
	for i, x := range first {
		values[i*n] = x
	}
	s.b.Sampled(&Sample{Endpoint: "e", Model: "m", Version: version,
		Request: monitor.Request{Time: s.b.now, Inputs: []tensor.Tensor{
			floats([]int64{int64(len(first)), int64(n)}, values...)}}})
}

// tick has all monitors tick.
func (s *stream) tick() {
	s.b.now = s.b.now.Add(time.Minute + time.Second)
	s.b.tickAll(s.b.now)
}

// distribution returns a histogram of a plane.
func distribution(t *testing.T, p *Plane, metric string) *dto.Histogram {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(p)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "metric" && l.GetValue() == metric && m.Histogram != nil {
					return m.Histogram
				}
			}
		}
	}
	t.Fatalf("there is no histogram %s", metric)
	return nil
}

// Gauges are of the tick before, histograms of all rows, of the version that serves alone.
func TestCustomMetrics(t *testing.T) {
	b, s := watching(t, `, "metrics": [
		{"name": "twice", "expression": "row['X.0'] * 2"},
		{"name": "high", "expression": "row['X.0'] > 2", "type": "gauge"},
		{"name": "log", "expression": "log(row['X.0'])", "type": "histogram",
			"buckets": [0, 1, 10]},
		{"name": "answer", "expression": "label"}]`)
	for range 3 { // the first tick is at a random time
		s.tick()
	}
	is := func(want string) {
		t.Helper()
		all := gathered(t, b.Plane)
		got := strings.Join([]string{all["millrace_custom twice watch"],
			all["millrace_custom high watch"], all["millrace_custom_skipped_total log watch"]}, " ")
		if got != want {
			t.Errorf("the metrics are %q, want %q", got, want)
		}
	}
	is("  0")
	s.rows("1", 1, 2, 3, 6)
	s.rows("2", 1000) // a canary's
	is("  0")
	s.tick()
	is("6 0.5 0")
	s.rows("1", -1, float32(math.NaN()))
	s.tick()
	is("-2 0 2")
	s.tick()
	is("  2")
	if h := distribution(t, b.Plane, "log"); h.GetSampleCount() != 4 ||
		h.Bucket[0].GetCumulativeCount() != 1 || h.Bucket[1].GetCumulativeCount() != 2 ||
		math.Abs(h.GetSampleSum()-math.Log(36)) > 1e-6 || len(h.PositiveSpan) == 0 {
		t.Errorf("the distribution is %v", h)
	}
	if all := gathered(t, b.Plane); all["millrace_custom_skipped_total answer watch"] != "6" {
		t.Errorf("of answers that are not there: %v", all)
	}
	b.aliases("2", "2")
	b.opened()
	if h := distribution(t, b.Plane, "log"); h.GetSampleCount() != 0 {
		t.Errorf("of a new version there is %v", h)
	}
}

// An expression that does not go with the model is the state of its monitor, which says what
// there is; a repaired one works.
func TestCustomMetricOfOtherColumns(t *testing.T) {
	b, s := watching(t, "")
	metric := func(expression string) {
		t.Helper()
		b.put("Monitor", "watch", fmt.Sprintf(`{"endpoint": "e", "reference": {"learn": 1000},
			"metrics": [{"name": "m", "expression": %q}]}`, expression))
	}
	fails := func(want string) {
		t.Helper()
		b.eventually(want, func() bool {
			b.tickAll(b.now)
			st := s.status()
			return st.State == monitor.StateError && strings.Contains(st.Reason, want)
		})
	}
	metric("amount / items")
	fails(`the metric m cannot be computed: measure: not an expression that can be used: at ` +
		`character 1: there is no column "amount"; there are X.0, X.1`)
	metric("lower(row['X.0'])")
	fails("cannot use float64 as argument (type string)")
	metric("row['X.0']")
	b.opened()
}

// A metric of type stream is a feature of its monitor, and its mean a gauge.
func TestCustomMetricStream(t *testing.T) {
	b, s := watching(t, "")
	const metrics = `"metrics": [{"name": "gap", "expression": "row['X.0'] - row['X.1']",
		"type": "stream"}]`
	ignored := `"label", "probabilities.0", "probabilities.1", "probabilities.2",
		"probabilities.class"`
	for i := range 10 {
		ignored += fmt.Sprintf(`, "X.%d"`, i)
	}
	b.put("Monitor", "watch", fmt.Sprintf(`{"endpoint": "e", "reference": {"learn": 200},
		"ignore": [%s], %s}`, ignored, metrics))
	b.opened()
	s.ticks(20, monitor.StateOK)
	s.ticks(2, monitor.StateAlarm)
	if !slices.ContainsFunc(s.status().Last.Features, func(f monitor.Feature) bool {
		return f.Name == "gap"
	}) {
		t.Errorf("the status is %+v", s.status())
	}
	if got := gathered(t, b.Plane)["millrace_custom gap watch"]; got == "" {
		t.Error("there is no gauge")
	}
	b.put("Monitor", "watch", fmt.Sprintf(`{"endpoint": "e", "reference": {"file": %q},
		"ignore": ["target"], %s}`, s.reference(500), metrics))
	b.eventually("the reference has no such column", func() bool {
		b.tickAll(b.now)
		return s.status().State == monitor.StateError &&
			strings.Contains(s.status().Reason, `no "gap"`)
	})
}

// A model of large tensors has no columns of them, and costs no memory to find that out.
func TestExampleOfLargeTensors(t *testing.T) {
	text := tensor.Spec{Name: "s", Datatype: tensor.Bytes, Shape: []int64{-1, 1}}
	image := tensor.Spec{Name: "i", Datatype: tensor.FP32, Shape: []int64{-1, 1 << 20, 1 << 20}}
	truth := tensor.Spec{Name: "b", Datatype: tensor.Bool, Shape: []int64{-1}}
	class := tensor.Spec{Name: "p", Datatype: tensor.FP32, Shape: []int64{-1, 2},
		Labels: []string{"cat", "dog"}}
	sig := &tensor.Signature{Inputs: []tensor.Spec{text, image, truth},
		Outputs: []tensor.Spec{class}, MaxBatchSize: 8}
	f := func(expression string, ok bool) {
		t.Helper()
		_, err := newMeasures("m", []config.Metric{{Name: "a", Expression: expression}}, sig)
		if (err == nil) != ok {
			t.Errorf("%s: %v", expression, err)
		}
	}
	f(`s == "x" and not b and row["p.class"] == "cat" and row["p.dog"] > 0.5`, true)
	f("s > 1", false)
	f("b > 1", false)
	f("i", false)
	f(`row["i.mean"] > 0`, true)
}

// BenchmarkMeasures is what a row of an endpoint costs with three metrics.
func BenchmarkMeasures(b *testing.B) {
	sig := &tensor.Signature{MaxBatchSize: 64, Inputs: []tensor.Spec{
		{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 50}}}}
	m, err := newMeasures("m", []config.Metric{
		{Name: "a", Expression: "row['x.0'] / row['x.1']"},
		{Name: "b", Expression: "row['x.2'] > 0.5"},
		{Name: "c", Expression: "row['x.3'] + 1", Type: config.TypeHistogram,
			Buckets: []float64{0, 1, 2}}}, sig)
	if err != nil {
		b.Fatal(err)
	}
	in := []tensor.Tensor{floats([]int64{1, 50}, make([]float32, 50)...)}
	rows, list := drift.NewRows(sig), m.derived()
	b.ReportAllocs()
	for b.Loop() {
		_ = rows.Each(in, nil, func(row []sketch.Value) error {
			for _, d := range list {
				d.Seen(d.Of(row))
			}
			return nil
		})
	}
}
