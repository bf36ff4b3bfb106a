package gateway

import (
	"net/http"
	"runtime"
	"strconv"
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
	ProtocolV1
	ProtocolMLflow
	ProtocolPlain
	protocols
)

// unnamed says whether paths of the protocol may leave the name out.
func (p Protocol) unnamed() bool { return p == ProtocolMLflow || p == ProtocolPlain }

var protocolNames = [protocols]string{"http", "grpc", "v1", "mlflow", "predict"}

// Metrics counts what becomes of requests. Observations take no lock and do
// not allocate; what is looked up by name is resolved once for each version.
type Metrics struct {
	core     *Core
	registry *prometheus.Registry
	started  time.Time
	labels   []string // of outcomes, by index
	index    map[string]int
	nowhere  []atomic.Uint64 // outcomes of requests that reached no model, by label
	refused  [600]atomic.Uint64
	// Requests that no tap and no shadow has seen: there were too many copies.
	unsampled atomic.Uint64
	versions  sync.Map // *model.Version -> *versionMetrics

	mu    sync.Mutex
	named map[versionName]*versionMetrics // Guarded by mu.
}

type versionName struct{ model, version string }

// versionMetrics is what is counted of the versions of one name.
type versionMetrics struct {
	header    []byte // the version as headers have it
	cacheHit  tally  // requests that the response cache, or an equal request's run, answered
	cacheMiss tally  // requests that the response cache did not, with the time it took
	protocols [protocols]atomic.Pointer[protocolMetrics]
	left      time.Time // when a scrape first found it unloaded. Guarded by Metrics.mu.
}

// tally counts with the time that was taken.
type tally struct{ count, ns atomic.Uint64 }

func (t *tally) add(ns int64) {
	t.count.Add(1)
	t.ns.Add(uint64(max(0, ns)))
}

func (t *tally) duration() batch.Duration {
	return batch.Duration{Count: t.count.Load(), NS: t.ns.Load()}
}

// Statistics is what is counted of a version, as Triton counts: what the cache
// has answered is a success.
type Statistics struct {
	batch.Stats
	CacheHit, CacheMiss batch.Duration
}

// Statistics returns what is counted of a version.
func (c *Core) Statistics(v *model.Version) Statistics {
	m := c.metrics.version(v)
	s := Statistics{v.Stats(), m.cacheHit.duration(), m.cacheMiss.duration()}
	s.Success.Count += s.CacheHit.Count
	s.Success.NS += s.CacheHit.NS
	s.Queue.Count += s.CacheHit.Count
	return s
}

// protocolMetrics is what is counted of a version's requests of one protocol.
type protocolMetrics struct {
	outcomes []atomic.Uint64 // by label
	// The times of a request: request is the sum of the others.
	request, decode, queue, compute, encode histogram
}

// afterglow is how long the counters of an unloaded version stay: its last
// requests end after it has left, and scrapes may be a minute apart.
const afterglow = 10 * time.Minute

func newMetrics(c *Core) *Metrics {
	m := &Metrics{
		core: c, registry: prometheus.NewRegistry(), started: time.Now(), labels: labels(),
		index: make(map[string]int), named: make(map[versionName]*versionMetrics),
	}
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

// Register adds metrics of somebody else to those that Handler serves. It fails for
// those that are there already.
func (c *Core) Register(m prometheus.Collector) error { return c.metrics.registry.Register(m) }

// version returns what is counted of a version. A version that takes the place
// of one of the same name goes on with its counters.
func (m *Metrics) version(v *model.Version) *versionMetrics {
	if found, ok := m.versions.Load(v); ok {
		return found.(*versionMetrics)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := versionName{v.Name(), v.Version()}
	if m.named[name] == nil {
		m.named[name] = &versionMetrics{header: headerText(name.version)}
	}
	m.versions.Store(v, m.named[name])
	go m.core.caches.purge(m.core.models) // it may have taken another's place
	return m.named[name]
}

// of returns what is counted of one protocol.
func (v *versionMetrics) of(p Protocol, labels int) *protocolMetrics {
	if found := v.protocols[p].Load(); found != nil {
		return found
	}
	v.protocols[p].CompareAndSwap(nil, &protocolMetrics{outcomes: make([]atomic.Uint64, labels)})
	return v.protocols[p].Load()
}

// finish counts a request.
func (m *Metrics) finish(x *Exchange, err error) {
	now := batch.Now()
	x.end = now
	o, label := OK, 0
	if err != nil {
		o, _ = Classify(err)
		label = m.index[o.Label]
	}
	x.label, x.status, x.fault = label, o.HTTP, o.Fault
	took := now - x.Start
	bucket := bucketOf(took)
	if x.route != nil {
		x.route.outcomes[label].Add(1)
		x.route.request.add(bucket, took)
	}
	if x.began == nil {
		m.nowhere[label].Add(1)
		return
	}
	p := x.began.of(x.Protocol, len(m.labels))
	p.outcomes[label].Add(1)
	p.request.add(bucket, took)
	if err == nil {
		t := &x.Ticket.Times
		p.decode.observe(t.Queued - x.Start)
		p.queue.observe(t.ComputeStart - t.Queued)
		p.compute.observe(t.End - t.ComputeStart)
		p.encode.observe(now - t.End)
	}
}

// refuse counts what could not be read as a request.
func (m *Metrics) refuse(status int) { m.refused[status].Add(1) }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range definitions {
		ch <- d.desc
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	s := sink{ch}
	s.put(defBuild, 1, m.core.cfg.Version, runtime.Version())
	s.put(defInFlight, float64(m.core.inFlight.Load()))
	s.put(defBytes, float64(m.core.bytesInFlight.Load()))
	for status := range m.refused {
		if n := m.refused[status].Load(); n > 0 {
			s.put(defRefused, float64(n), strconv.Itoa(status))
		}
	}
	for i := range m.nowhere {
		if n := m.nowhere[i].Load(); n > 0 {
			s.put(defRequests, float64(n), "", "", "", m.labels[i])
		}
	}
	for _, e := range m.core.models.Index(false) {
		if e.State != "" {
			s.put(defState, 1, e.Name, e.Version, string(e.State))
		}
	}
	m.collectEndpoints(s)
	serving := make(map[*model.Version]bool)
	m.core.models.Each(func(v *model.Version) {
		serving[v] = true
		s.version(v, m.core.Statistics(v))
	})
	for name, v := range m.known(serving) {
		m.collectNamed(s, name, v)
	}
}

// known returns what is counted by name, and forgets versions that left long ago.
func (m *Metrics) known(serving map[*model.Version]bool) map[versionName]*versionMetrics {
	names := make(map[versionName]bool)
	for v := range serving {
		names[versionName{v.Name(), v.Version()}] = true
	}
	m.versions.Range(func(v, _ any) bool {
		if !serving[v.(*model.Version)] {
			m.versions.Delete(v)
		}
		return true
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	known := make(map[versionName]*versionMetrics)
	for name, v := range m.named {
		switch {
		case names[name]:
			v.left = time.Time{}
		case v.left.IsZero():
			v.left = time.Now()
		case time.Since(v.left) > afterglow:
			delete(m.named, name)
			continue
		}
		known[name] = v
	}
	return known
}

func (m *Metrics) collectNamed(s sink, name versionName, v *versionMetrics) {
	broken := uint64(0)
	for i := range v.protocols {
		p := v.protocols[i].Load()
		if p == nil {
			continue
		}
		for l := range p.outcomes {
			n := p.outcomes[l].Load()
			if n > 0 {
				s.put(defRequests, float64(n), name.model, name.version, protocolNames[i],
					m.labels[l])
			}
			if m.labels[l] == internal.Label || l == m.index["panic"] || l == m.index["closing"] {
				broken += n
			}
		}
		for _, h := range []struct {
			d *definition
			h *histogram
		}{
			{defRequest, &p.request}, {defDecode, &p.decode}, {defQueue, &p.queue},
			{defCompute, &p.compute}, {defEncode, &p.encode},
		} {
			c := h.h.collect(h.d.desc, m.started, name.model, name.version, protocolNames[i])
			if c != nil {
				s.ch <- c
			}
		}
	}
	s.put(defTritonFailure, float64(broken), name.model, name.version, "OTHER")
}

// sink takes the samples of one scrape.
type sink struct{ ch chan<- prometheus.Metric }

func (s sink) put(d *definition, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d.desc, d.valueType, v, labels...)
}

// version gives the samples of what a serving version's batcher has counted.
func (s sink) version(v *model.Version, b Statistics) {
	name, version := v.Name(), v.Version()
	for _, g := range perVersion {
		s.put(g.definition, g.value(v, &b), name, version)
	}
	for _, f := range [...]struct {
		reason string
		count  uint64
	}{
		{"REJECTED", b.Rejected + b.Expired}, {"CANCELED", b.Canceled}, {"BACKEND", b.Fail.Count},
	} {
		s.put(defTritonFailure, float64(f.count), name, version, f.reason)
	}
	if b.Executions == 0 {
		return
	}
	buckets := make(map[float64]uint64)
	for bound := 1; bound < 2*v.Signature().MaxBatchSize || bound == 1; bound *= 2 {
		for i := range b.Sizes {
			if b.Sizes[i].Rows <= bound {
				buckets[float64(bound)] += b.Sizes[i].ComputeInfer.Count
			}
		}
	}
	s.ch <- prometheus.MustNewConstHistogram(defBatch.desc, b.Executions, float64(b.Inferences),
		buckets, name, version)
}
