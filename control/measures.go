package control

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/measure"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

var (
	metricCustom = define("millrace_custom",
		"Mean of a monitor's metric of type `gauge` or `stream` over the rows of its last tick; "+
			"there is none when there were no rows.", "monitor", "metric")
	metricCustomValues = define("millrace_custom_values",
		"A monitor's metric of type `histogram`, of each row since the version began or the "+
			"server was started.", "monitor", "metric")
	metricCustomSkipped = define("millrace_custom_skipped_total",
		"Rows that are not in a monitor's metric: a column is missing or NaN, or the result is "+
			"no finite number.", "monitor", "metric")
)

// measures are the custom metrics of a monitor at work, which computes them of the rows that it
// looks at. The mutex of its watch guards them.
type measures struct{ list []measured }

// measured is one of them.
type measured struct {
	monitor.Derived
	histogram prometheus.Histogram // nil where the mean is wanted
	sum       float64              // since the last tick, as count
	count     uint64
	mean      float64 // of the tick before, if there was a row
	is        bool
	skipped   uint64
}

// newMeasures compiles the metrics of a monitor for rows of a model with this signature; nil
// where there are none.
func newMeasures(
	watch string, metrics []config.Metric, sig *tensor.Signature,
) (*measures, error) {
	if len(metrics) == 0 {
		return nil, nil
	}
	m := &measures{list: make([]measured, len(metrics))}
	rows := drift.NewRows(sig)
	columns := rows.Columns()
	example, err := exampleRow(rows, sig)
	if err != nil {
		return nil, err
	}
	for i, metric := range metrics {
		e, err := measure.New(metric.Expression, columns, example)
		if err != nil {
			return nil, fmt.Errorf("the metric %s cannot be computed: %w", metric.Name, err)
		}
		m.list[i].Derived = monitor.Derived{Name: metric.Name, Of: e.Value,
			Watched: metric.Type == config.TypeStream, Seen: m.list[i].add}
		if metric.Type == config.TypeHistogram {
			m.list[i].histogram = newHistogram(watch, metric)
		}
	}
	return m, nil
}

// nativeFactor is by how much the buckets of a native histogram grow, nativeBuckets how many
// there are at most.
const nativeFactor, nativeBuckets = 1.1, 160

func newHistogram(monitor string, m config.Metric) prometheus.Histogram {
	d := &metricCustomValues.MetricDoc
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: d.Name, Help: d.Help,
		Buckets: m.Buckets, NativeHistogramBucketFactor: nativeFactor,
		NativeHistogramMaxBucketNumber: nativeBuckets}, d.Labels)
	return v.WithLabelValues(monitor, m.Name).(prometheus.Histogram)
}

// maxExample bounds the elements of a tensor in an example; of what has more no kinds are known.
const maxExample = 1 << 22

// exampleRow returns a row of zeros and empty texts, whose values are of the kinds that the rows
// of a model have.
func exampleRow(rows *drift.Rows, sig *tensor.Signature) (row []sketch.Value, err error) {
	zeros := func(specs []tensor.Spec) []tensor.Tensor {
		tensors := make([]tensor.Tensor, len(specs))
		for i, s := range specs {
			shape := make([]int64, len(s.Shape))
			for j, n := range s.Shape {
				shape[j] = max(n, 1)
			}
			size := max(s.Datatype.Size(), 0)
			if s.Datatype == tensor.Bytes {
				size = 4 // the length of each
			}
			n, err := tensor.Elements(shape)
			if err != nil || n > maxExample {
				continue
			}
			tensors[i] = tensor.Tensor{Name: s.Name, Datatype: s.Datatype, Shape: shape,
				Data: make([]byte, int(n)*size)}
		}
		return tensors
	}
	err = rows.Each(zeros(sig.Inputs), zeros(sig.Outputs), func(r []sketch.Value) error {
		row = append(row[:0], r...)
		return nil
	})
	if row == nil {
		row = make([]sketch.Value, len(rows.Columns()))
	}
	return row, err
}

// openMeasures compiles the metrics of a watch, once.
func (w *watch) openMeasures(sig *tensor.Signature) (_ *measures, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.measures == nil {
		w.measures, err = newMeasures(w.name, w.spec.Metrics, sig)
	}
	return w.measures, err
}

// derived lists what the monitor is to compute.
func (m *measures) derived() (list []monitor.Derived) {
	if m == nil {
		return nil
	}
	for i := range m.list {
		list = append(list, m.list[i].Derived)
	}
	return list
}

func (m *measured) add(x float64, ok bool) {
	switch {
	case !ok:
		m.skipped++
	case m.histogram != nil:
		m.histogram.Observe(x)
	default:
		m.sum += x
		m.count++
	}
}

// tick ends the time that means are of.
func (m *measures) tick() {
	if m == nil {
		return
	}
	for i := range m.list {
		g := &m.list[i]
		if g.is = g.count > 0; g.is {
			g.mean = g.sum / float64(g.count)
		}
		g.sum, g.count = 0, 0
	}
}

// collectMeasures gives the custom metrics of this moment. Callers hold mu.
func (p *Plane) collectMeasures(send sender, to chan<- prometheus.Metric) {
	for _, m := range sorted(p.view.monitors) {
		w := p.watches[m.Name]
		if w == nil {
			continue
		}
		w.mu.Lock()
		if w.measures != nil {
			for i := range w.measures.list {
				w.measures.list[i].collect(m.Name, send, to)
			}
		}
		w.mu.Unlock()
	}
}

func (m *measured) collect(monitor string, send sender, to chan<- prometheus.Metric) {
	if m.histogram != nil {
		to <- m.histogram
	} else if m.is {
		send(metricCustom, m.mean, monitor, m.Name)
	}
	send(metricCustomSkipped, float64(m.skipped), monitor, m.Name)
}
