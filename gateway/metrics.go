package gateway

import (
	"math"
	"math/bits"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
)

// Protocol is how a request came.
type Protocol uint8

// The protocols, as metrics name them.
const (
	ProtocolHTTP Protocol = iota
	ProtocolGRPC
	protocols
)

var protocolNames = [protocols]string{"http", "grpc"}

// Metrics counts what becomes of requests. Observations take no lock and do
// not allocate; what is looked up by name is resolved once for each version.
type Metrics struct {
	core     *Core
	registry *prometheus.Registry
	versions sync.Map // *model.Version -> *versionMetrics
	labels   []string // of outcomes, by index
	index    map[string]int
	nowhere  []atomic.Uint64 // outcomes of requests that reached no model, by label
	refused  [600]atomic.Uint64
}

// versionMetrics is what is counted of one version.
type versionMetrics struct {
	protocols [protocols]struct {
		outcomes                []atomic.Uint64 // by label
		request, queue, compute histogram
	}
}

func newMetrics(c *Core) *Metrics {
	m := &Metrics{core: c, registry: prometheus.NewRegistry(), labels: labels(),
		index: make(map[string]int)}
	for i, l := range m.labels {
		m.index[l] = i
	}
	m.nowhere = make([]atomic.Uint64, len(m.labels))
	m.registry.MustRegister(m, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (c *Core) Handler() http.Handler {
	return promhttp.HandlerFor(c.metrics.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

func (m *Metrics) version(v *model.Version) *versionMetrics {
	if found, ok := m.versions.Load(v); ok {
		return found.(*versionMetrics)
	}
	fresh := new(versionMetrics)
	for p := range fresh.protocols {
		fresh.protocols[p].outcomes = make([]atomic.Uint64, len(m.labels))
	}
	found, _ := m.versions.LoadOrStore(v, fresh)
	return found.(*versionMetrics)
}

// finish counts a request.
func (m *Metrics) finish(x *Exchange, err error) {
	label := 0
	if err != nil {
		o, _ := Classify(err)
		label = m.index[o.Label]
	}
	if x.began == nil {
		m.nowhere[label].Add(1)
		return
	}
	p := &x.began.protocols[x.Protocol]
	p.outcomes[label].Add(1)
	p.request.observe(batch.Now() - x.Start)
	if t := &x.Ticket.Times; err == nil {
		p.queue.observe(t.ComputeStart - t.Queued)
		p.compute.observe(t.OutputStart - t.InputEnd)
	}
}

// refuse counts what could not be read as a request.
func (m *Metrics) refuse(status int) { m.refused[status].Add(1) }

// histogram counts durations in buckets whose bounds are powers of 2^(1/8)
// nanoseconds apart: at most 9 % wide, as Prometheus' native histograms of
// schema 3 have them.
type histogram struct {
	buckets [octaves * 8]atomic.Uint64
	sum     atomic.Int64
}

const octaves = 40 // up to 2^40 ns, 18 minutes

// eighths are 2^(i/8) in [1, 2), scaled to 2^63.
var eighths = func() (e [8]uint64) {
	for i := range e {
		e[i] = uint64(math.Ldexp(math.Exp2(float64(i)/8), 63))
	}
	return e
}()

func (h *histogram) observe(ns int64) {
	ns = max(ns, 1)
	octave := bits.Len64(uint64(ns)) - 1
	mantissa := uint64(ns) << (63 - octave)
	i := 0
	for i < 7 && mantissa >= eighths[i+1] {
		i++
	}
	h.buckets[min(octave*8+i, len(h.buckets)-1)].Add(1)
	h.sum.Add(ns)
}

// bound returns the upper bound of a bucket, in seconds.
func bound(bucket int) float64 { return math.Exp2(float64(bucket+1)/8) / 1e9 }

// collect gives the classic form, with one bucket an octave.
func (h *histogram) collect(d *prometheus.Desc, ch chan<- prometheus.Metric, labels ...string) {
	total := uint64(0)
	buckets := make(map[float64]uint64)
	for i := range h.buckets {
		total += h.buckets[i].Load()
		if i%8 == 7 && i >= 8*13 && i < 8*36 { // 16 us to 64 s
			buckets[bound(i)] = total
		}
	}
	if total > 0 {
		ch <- prometheus.MustNewConstHistogram(d, total, float64(h.sum.Load())/1e9, buckets,
			labels...)
	}
}

var (
	modelLabels = []string{"model", "version"}

	descRequests = prometheus.NewDesc("millrace_requests_total",
		"Requests by what became of them.", []string{"model", "version", "protocol", "outcome"},
		nil)
	descRefused = prometheus.NewDesc("millrace_http_refused_total",
		"Connections whose bytes could not be read as a request, by status.", []string{"status"},
		nil)
	descRequest = prometheus.NewDesc("millrace_request_duration_seconds",
		"Time from a request's header to its answer.", []string{"model", "version", "protocol"},
		nil)
	descQueue = prometheus.NewDesc("millrace_queue_duration_seconds",
		"Time that requests waited for a run.", []string{"model", "version", "protocol"}, nil)
	descCompute = prometheus.NewDesc("millrace_compute_duration_seconds",
		"Time of the run that a request was part of.", []string{"model", "version", "protocol"},
		nil)
	descInFlight = prometheus.NewDesc("millrace_requests_in_flight",
		"Requests that are not yet answered.", nil, nil)
	descBytes = prometheus.NewDesc("millrace_request_bytes_in_flight",
		"Bytes of the bodies of requests that are not yet answered.", nil, nil)
	descWaiting = prometheus.NewDesc("millrace_queue_requests",
		"Requests that wait for a run.", modelLabels, nil)
	descRunning = prometheus.NewDesc("millrace_runs_in_flight",
		"Runs of the model under way.", modelLabels, nil)
	descBest = prometheus.NewDesc("millrace_batch_size_limit_rows",
		"Rows of the largest run that is worth it, as learned.", modelLabels, nil)
	descRows  = prometheus.NewDesc("millrace_rows_total", "Rows that were run.", modelLabels, nil)
	descRuns  = prometheus.NewDesc("millrace_runs_total", "Runs of the model.", modelLabels, nil)
	descFiles = prometheus.NewDesc("millrace_model_file_bytes", "Size of the version's files.",
		modelLabels, nil)
	descLoad = prometheus.NewDesc("millrace_model_load_duration_seconds",
		"Time from files to READY, the trial left out.", modelLabels, nil)
	descBuild = prometheus.NewDesc("millrace_build_info", "1, with the version.",
		[]string{"version"}, nil)
)

// triton are the counters under Triton's names and with its meaning.
var triton = []struct {
	desc  *prometheus.Desc
	value func(s *batch.Stats) uint64
}{
	{tritonDesc("nv_inference_request_success", "Requests that were answered."),
		func(s *batch.Stats) uint64 { return s.Success.Count }},
	{tritonDesc("nv_inference_count", "Rows that were run."),
		func(s *batch.Stats) uint64 { return s.Inferences }},
	{tritonDesc("nv_inference_exec_count", "Runs of the model."),
		func(s *batch.Stats) uint64 { return s.Executions }},
	{tritonDesc("nv_inference_request_duration_us", "Time of requests, in microseconds."),
		func(s *batch.Stats) uint64 { return s.Success.NS / 1000 }},
	{tritonDesc("nv_inference_queue_duration_us", "Time in queues, in microseconds."),
		func(s *batch.Stats) uint64 { return s.Queue.NS / 1000 }},
	{tritonDesc("nv_inference_compute_input_duration_us", "Time of gathering, in microseconds."),
		func(s *batch.Stats) uint64 { return s.ComputeInput.NS / 1000 }},
	{tritonDesc("nv_inference_compute_infer_duration_us", "Time of runs, in microseconds."),
		func(s *batch.Stats) uint64 { return s.ComputeInfer.NS / 1000 }},
	{tritonDesc("nv_inference_compute_output_duration_us", "Time of splitting, in microseconds."),
		func(s *batch.Stats) uint64 { return s.ComputeOutput.NS / 1000 }},
}

var (
	descTritonFailure = prometheus.NewDesc("nv_inference_request_failure",
		"Requests that failed.", []string{"model", "version", "reason"}, nil)
	descTritonPending = tritonDesc("nv_inference_pending_request_count",
		"Requests that wait for a run.")
	descTritonLoad = tritonDesc("nv_model_load_duration_secs", "Time of loading, in seconds.")
)

func tritonDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, modelLabels, nil)
}

// Describe implements prometheus.Collector: the metrics are unchecked.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descBuild, 1, m.core.cfg.Version)
	gauge(descInFlight, float64(m.core.inFlight.Load()))
	gauge(descBytes, float64(m.core.bytesInFlight.Load()))
	for status := range m.refused {
		if n := m.refused[status].Load(); n > 0 {
			counter(descRefused, n, http.StatusText(status))
		}
	}
	for i := range m.nowhere {
		if n := m.nowhere[i].Load(); n > 0 {
			counter(descRequests, n, "", "", "", m.labels[i])
		}
	}
	serving := make(map[*model.Version]bool)
	m.core.models.Each(func(v *model.Version) {
		serving[v] = true
		m.collectVersion(v, ch, gauge, counter)
	})
	m.versions.Range(func(v, _ any) bool {
		if !serving[v.(*model.Version)] {
			m.versions.Delete(v)
		}
		return true
	})
}

type sample func(d *prometheus.Desc, v float64, labels ...string)
type count func(d *prometheus.Desc, v uint64, labels ...string)

func (m *Metrics) collectVersion(v *model.Version, ch chan<- prometheus.Metric, gauge sample,
	counter count) {
	name, version := v.Name(), v.Version()
	s := v.Stats()
	gauge(descWaiting, float64(s.Waiting), name, version)
	gauge(descRunning, float64(s.Running), name, version)
	gauge(descBest, float64(s.BestSize), name, version)
	gauge(descFiles, float64(v.FileBytes()), name, version)
	gauge(descLoad, v.LoadTime().Seconds(), name, version)
	counter(descRows, s.Inferences, name, version)
	counter(descRuns, s.Executions, name, version)
	for _, t := range triton {
		counter(t.desc, t.value(&s), name, version)
	}
	counter(descTritonFailure, s.Rejected, name, version, "REJECTED")
	counter(descTritonFailure, s.Canceled, name, version, "CANCELED")
	counter(descTritonFailure, s.Fail.Count, name, version, "BACKEND")
	counter(descTritonFailure, s.Expired, name, version, "OTHER")
	gauge(descTritonPending, float64(s.Waiting), name, version)
	gauge(descTritonLoad, v.LoadTime().Round(time.Millisecond).Seconds(), name, version)
	found, ok := m.versions.Load(v)
	if !ok {
		return
	}
	for i := range found.(*versionMetrics).protocols {
		p := &found.(*versionMetrics).protocols[i]
		for l := range p.outcomes {
			if n := p.outcomes[l].Load(); n > 0 {
				counter(descRequests, n, name, version, protocolNames[i], m.labels[l])
			}
		}
		p.request.collect(descRequest, ch, name, version, protocolNames[i])
		p.queue.collect(descQueue, ch, name, version, protocolNames[i])
		p.compute.collect(descCompute, ch, name, version, protocolNames[i])
	}
}
