package control

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/trigger"
)

// MetricDoc is what people are told about a metric.
type MetricDoc struct {
	Name, Help string
	Labels     []string
}

// Type is `counter`, which begins anew with the process, `histogram`, which does so too, or
// `gauge`.
func (d *MetricDoc) Type() string {
	switch {
	case strings.HasSuffix(d.Name, "_total"):
		return "counter"
	case strings.HasSuffix(d.Name, "_values"):
		return "histogram"
	}
	return "gauge"
}

// metric is one of the plane's.
type metric struct {
	MetricDoc
	desc *prometheus.Desc
}

// metrics are all of the plane's, in the order of the variables below.
var metrics []*metric

func define(name, help string, labels ...string) *metric {
	m := &metric{MetricDoc{name, help, labels}, prometheus.NewDesc(name, help, labels, nil)}
	metrics = append(metrics, m)
	return m
}

var (
	metricUp = define("millrace_control_up",
		"1 while the control plane has its store, 0 while it is not running; there is none "+
			"before something is kept.")
	metricRevision = define("millrace_control_revision",
		"Revision of the last change of a resource.")
	metricStore   = define("millrace_control_store_bytes", "Size of the store's file.")
	metricPending = define("millrace_control_actions_pending",
		"Aliases, tags and runs of experiments that follow from verdicts and are not done yet.")
	metricSource = define("millrace_source_up",
		"1 when the last look at a source went well, else 0.", "source")
	metricVersion = define("millrace_model_versions",
		"Versions of models from sources, by how far they have come.", "model", "state")
	metricWeight = define("millrace_rollout_weight_percent",
		"The canary's share of the traffic in a rollout under way.", "endpoint")
	metricPhase = define("millrace_rollout_phase",
		"1 for the phase of a rollout under way.", "endpoint", "phase")
	metricWaits = define("millrace_rollout_waits",
		"1 while a rollout waits for a person: it is paused, inconclusive or to be approved.",
		"endpoint")
	metricEvidence = define("millrace_rollout_evidence",
		"Natural logarithm of the e-value of a guard: `harm` against the canary, `sound` for it.",
		"endpoint", "guard", "of")
	metricEnded = define("millrace_rollouts_ended",
		"Rollouts on record that are over, by their verdict.", "endpoint", "verdict")
	metricTriggerRuns = define("millrace_trigger_active_runs",
		"Runs of a trigger that have not ended: `pending`, `starting` or `running`.", "trigger",
		"state")
	metricTriggerEnds = define("millrace_trigger_runs_total",
		"Runs of a trigger that have ended: `succeeded`, `failed`, `lost`, `cancelled`, or "+
			"`suppressed`, which were not to start.", "trigger", "state")
	metricTriggerSuccess = define("millrace_trigger_last_success_timestamp_seconds",
		"When the last run of a trigger that is on record has succeeded, in Unix time.", "trigger")
	metricTriggerWaits = define("millrace_trigger_waits",
		"1 while a trigger starts nothing by itself: it was stopped, or too many runs in a row "+
			"have failed.", "trigger")
)

// MetricDocs lists the metrics of the plane in the order in which they are best read.
func MetricDocs() []MetricDoc {
	docs := make([]MetricDoc, len(metrics))
	for i, m := range metrics {
		docs[i] = m.MetricDoc
	}
	return docs
}

// Describe makes a Plane a prometheus.Collector.
func (p *Plane) Describe(to chan<- *prometheus.Desc) {
	for _, m := range metrics {
		to <- m.desc
	}
}

// Collect gives the numbers of this moment.
func (p *Plane) Collect(to chan<- prometheus.Metric) {
	p.mu.Lock()
	defer p.mu.Unlock()
	send := func(m *metric, value float64, labels ...string) {
		kind := prometheus.GaugeValue
		if m.Type() == "counter" {
			kind = prometheus.CounterValue
		}
		to <- prometheus.MustNewConstMetric(m.desc, kind, value, labels...)
	}
	if p.down != nil {
		send(metricUp, 0)
	}
	if p.store == nil {
		return
	}
	stats, err := p.store.Stats()
	send(metricUp, one(err == nil))
	send(metricRevision, float64(stats.Revision))
	send(metricStore, float64(stats.FileBytes))
	p.collectSources(send)
	p.collectRollouts(send)
	p.collectMonitors(send)
	p.collectMeasures(send, to)
	p.collectTriggers(send)
	p.collectNotices(send)
}

// sender gives one number.
type sender func(m *metric, value float64, labels ...string)

func (p *Plane) collectSources(send sender) {
	for _, s := range sorted(p.view.sources) {
		send(metricSource, one(s.status.Error == ""), s.Name)
	}
	for _, m := range sorted(p.view.models) {
		states := make(map[string]float64)
		for _, v := range m.status.Versions {
			states[string(v.State)]++
		}
		for state, n := range states {
			send(metricVersion, n, m.Name, state)
		}
	}
}

func (p *Plane) collectRollouts(send sender) {
	type ended struct{ endpoint, verdict string }
	over := make(map[ended]float64)
	pending := 0
	for _, r := range p.view.rollouts {
		s := &r.status.State
		for _, a := range r.status.Actions {
			if a.Done.IsZero() {
				pending++
			}
		}
		if s.Phase == rollout.Done {
			over[ended{s.Endpoint, string(s.Verdict)}]++
			continue
		}
		if run := p.runs[r.Name]; run != nil {
			s = &run.state
		}
		send(metricWeight, s.Weight(), s.Endpoint)
		send(metricPhase, 1, s.Endpoint, string(s.Phase))
		send(metricWaits, one(s.Paused || s.Phase == rollout.Approval), s.Endpoint)
		p.collectEvidence(s, send)
	}
	send(metricPending, float64(pending))
	for k, n := range over {
		send(metricEnded, n, k.endpoint, k.verdict)
	}
}

// collectEvidence gives that of the last point of a rollout's series.
func (p *Plane) collectEvidence(s *rollout.State, send sender) {
	if len(s.Evidence) == 0 {
		return
	}
	last := s.Evidence[len(s.Evidence)-1]
	for i, g := range s.Spec.Guards {
		if i < len(last.Guards) {
			send(metricEvidence, last.Guards[i].Harm, s.Endpoint, g.Name(), "harm")
			send(metricEvidence, last.Guards[i].Sound, s.Endpoint, g.Name(), "sound")
		}
	}
}

func (p *Plane) collectTriggers(send sender) {
	histories := p.histories()
	for _, t := range sorted(p.view.triggers) {
		states := make(map[trigger.State]float64)
		var success time.Time
		for _, run := range histories[t.Name] {
			if !run.State.Done() {
				states[run.State]++
			}
			if run.State == trigger.Succeeded {
				success = later(success, run.Ended)
			}
		}
		for _, state := range []trigger.State{trigger.Pending, trigger.Starting, trigger.Running} {
			send(metricTriggerRuns, states[state], t.Name, string(state))
		}
		for _, state := range []trigger.State{trigger.Succeeded, trigger.Failed, trigger.Lost,
			trigger.Cancelled, trigger.Suppressed} {
			send(metricTriggerEnds, p.ends[ending{t.Name, state}], t.Name, string(state))
		}
		if !success.IsZero() {
			send(metricTriggerSuccess, float64(success.UnixMilli())/1000, t.Name)
		}
		send(metricTriggerWaits, one(t.spec.Stopped || t.status.Stopped != nil ||
			t.status.Halted != ""), t.Name)
	}
}

// one is a truth as a number.
func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
