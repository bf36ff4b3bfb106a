package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	c, err := Parse("f.yaml", []byte(`
endpoints: [{name: e}]
monitors:
  - name: m
    endpoint: e
    reference: {learn: 1000}
    metrics:
      - {name: per_item, expression: 'amount / row["x.0"]', type: histogram, buckets: [-1, 0.5, 2]}
      - {name: large, expression: amount > 1000}
`))
	if err != nil {
		t.Fatal(err)
	}
	var again Config
	for _, r := range c.Resources() {
		if err := again.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	m := again.Monitors[0].Metrics
	if len(m) != 2 || m[0].Expression != `amount / row["x.0"]` || m[0].Type != TypeHistogram ||
		!slices.Equal(m[0].Buckets, []float64{-1, 0.5, 2}) || m[1].Name != "large" {
		t.Errorf("the metrics are %+v", m)
	}
}

func TestMetricFaults(t *testing.T) {
	f := func(metrics, want string) {
		t.Helper()
		_, err := Parse("f.yaml", []byte("endpoints: [{name: e}]\nmonitors:\n"+
			"  - {name: m, endpoint: e, reference: {learn: 1000}, metrics: ["+metrics+"]}\n"))
		if err == nil || strings.Contains(err.Error(), "\n") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", metrics, err, want)
		}
	}
	const histogram = "name: a, expression: b, type: histogram"
	f("{expression: a}", "metrics[0].name: is empty")
	f("{name: a}", "metrics[0].expression: is empty")
	f("{name: 'a b', expression: a}", "up to 64 letters")
	f("{name: a, expression: b}, {name: a, expression: c}", `metrics[1].name: "a" is there twice`)
	f("{name: a, expression: b +}", "metrics[0].expression: measure: not an expression that can "+
		"be used: at character 3")
	f("{name: a, expression: b, type: summary}", "must be one of gauge, histogram, stream")
	f("{name: a, expression: b, buckets: [1]}", "goes with type histogram only")
	f("{"+histogram+"}", "has 0, must have 1 to 50 upper bounds")
	f("{"+histogram+", buckets: [1, 1]}", "has 1 after 1, must be ascending")
	f("{"+histogram+", buckets: [1e301]}", "buckets[0]: is 1e+301, must be -1e300 to 1e300")
	var many []string
	for i := range maxMetrics + 1 {
		many = append(many, fmt.Sprintf("{name: a%d, expression: b}", i))
	}
	f(strings.Join(many, ", "), "metrics: has 21, must have 20 at most")
}
