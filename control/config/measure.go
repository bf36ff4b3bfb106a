package config

import (
	"fmt"
	"math"
	"regexp"

	"github.com/millrace-ml/millrace/control/measure"
)

// Metric is a number of each row that a monitor looks at, for Prometheus.
type Metric struct {
	// Name in the label `metric`: letters, digits and `_`.
	Name string `yaml:"name" check:"filled"`
	// What is computed of the columns of a row, such as `amount / items`.
	Expression string `yaml:"expression" check:"filled"`
	// The mean of each tick, the distribution, or the mean of a column that the monitor also
	// watches for drift. Empty is gauge.
	Type string `yaml:"type" enum:",gauge,histogram,stream"`
	// Upper bounds of a histogram's buckets, ascending.
	Buckets []float64 `yaml:"buckets" min:"-1e300" max:"1e300"`
}

// Types of a Metric.
const (
	TypeHistogram = "histogram" // it has buckets
	TypeStream    = "stream"    // the monitor watches it
)

// maxMetrics bounds the metrics of a monitor, maxBuckets the buckets of one.
const maxMetrics, maxBuckets = 20, 50

var customName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// metrics holds the metrics of a monitor against each other.
func (c *checker) metrics(list []Metric, key string) {
	if len(list) > maxMetrics {
		c.fault(key, "has %d, must have %d at most", len(list), maxMetrics)
	}
	names := make(map[string]string)
	for i := range list {
		m, at := &list[i], fmt.Sprintf("%s[%d]", key, i)
		if c.once(names, m.Name, at) && m.Name != "" && !customName.MatchString(m.Name) {
			c.fault(at+".name", "is %q, must be up to 64 letters, digits and '_'", m.Name)
		}
		if m.Expression != "" {
			if err := measure.Check(m.Expression); err != nil {
				c.fault(at+".expression", "%v", err)
			}
		}
		c.buckets(m, at+".buckets")
	}
}

func (c *checker) buckets(m *Metric, key string) {
	if m.Type != TypeHistogram {
		if len(m.Buckets) > 0 {
			c.fault(key, "goes with type histogram only")
		}
		return
	}
	if n := len(m.Buckets); n == 0 || n > maxBuckets {
		c.fault(key, "has %d, must have 1 to %d upper bounds such as [1, 10, 100]", n, maxBuckets)
	}
	last := math.Inf(-1)
	for _, b := range m.Buckets {
		if b <= last {
			c.fault(key, "has %v after %v, must be ascending", b, last)
			return
		}
		last = b
	}
}
