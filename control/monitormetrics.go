package control

import "github.com/millrace-ml/millrace/control/monitor"

var (
	metricMonitor = define("millrace_monitor_state",
		"1 for the state of a monitor: `learning`, `counting`, `ok`, `suspected`, `alarm`, "+
			"`acknowledged`, `resolved` or `error`.", "monitor", "endpoint", "state")
	metricMonitorAlarm = define("millrace_monitor_alarm",
		"1 for each kind of the alarm that is on: `drift`, `performance`, `outliers` or `segment`.",
		"monitor", "endpoint", "kind")
	metricMonitorEvidence = define("millrace_monitor_evidence",
		"Evidence of the kind that is nearest to an alarm, after the last tick.", "monitor")
	metricMonitorThreshold = define("millrace_monitor_threshold",
		"Evidence from which on there is an alarm: ticks between alarms without drift.", "monitor")
	metricMonitorFeature = define("millrace_monitor_feature_evidence",
		"Evidence of the features that stand out most, a few of each monitor.", "monitor",
		"feature")
	metricMonitorDistance = define("millrace_monitor_feature_distance",
		"How far the rows of these features are from the reference, for people: `psi` and what it "+
			"exceeds in one of 20 cases without drift, `psi_noise`, `jensen_shannon`, and of "+
			"numbers `kolmogorov_smirnov` and `wasserstein`. Rows are those of the last tick, or "+
			"since the evidence has grown.", "monitor", "feature", "measure")
	metricMonitorAlarms = define("millrace_monitor_alarms_total",
		"Alarms that a monitor has raised.", "monitor")
	metricMonitorRows = define("millrace_monitor_rows_total",
		"Rows of the version that serves which a monitor has looked at.", "monitor")
	metricMonitorSkipped = define("millrace_monitor_skipped_total",
		"Requests that a monitor has left out: another version has answered, as in a rollout.",
		"monitor")
	metricMonitorError = define("millrace_monitor_error_rate",
		"Mean loss of the last hundred answers or so of which it became known: with classes, the "+
			"share of wrong ones.", "monitor")
	metricMonitorErrorLimit = define("millrace_monitor_error_rate_limit",
		"Mean loss of answers up to which it is no harm, by the reference and the tolerance.",
		"monitor")
	metricMonitorFeedback = define("millrace_monitor_feedback_total",
		"Losses of answers that became known, and labels of which the answer is `unknown`: not "+
			"looked at, too long ago, or of another form.", "monitor", "answer")
	metricMonitorAccuracy = define("millrace_monitor_estimated_accuracy",
		"Share of right answers that is likely by how sure the model is of them: the `estimate`, "+
			"and the `low` and `high` limits of 19 of 20 cases.", "monitor", "bound")
	metricMonitorOutliers = define("millrace_monitor_outliers_total",
		"Rows that a monitor has looked at which hardly any of the reference are like.", "monitor")
	metricMonitorSegment = define("millrace_monitor_segment_evidence",
		"Evidence of drift among the rows of a segment, empty for all that have none.", "monitor",
		"segment")
	metricMonitorWindows = define("millrace_monitor_windows_total",
		"Ticks whose counts were for a judge: it has taken them, `sent`, it has other settings or "+
			"another version, `refused`, or was not reached for an hour or so, `dropped`.",
		"monitor", "result")
	metricMonitorReplicas = define("millrace_monitor_replicas",
		"Replicas that have sent counts to a monitor in the last five ticks.", "monitor")
	metricMonitorReplicaRows = define("millrace_monitor_replica_rows_total",
		"Rows that a monitor has taken from replicas since the process began.", "monitor")
)

func (p *Plane) collectMonitors(send sender) {
	for _, m := range sorted(p.view.monitors) {
		s := &m.status
		last, skipped := s.Last, s.Skipped
		if w := p.watches[m.Name]; w != nil {
			w.mu.Lock()
			last, skipped = w.last, w.skipped
			w.collectReplicas(send)
			w.mu.Unlock()
		}
		if s.State != "" {
			send(metricMonitor, 1, m.Name, m.spec.Endpoint, string(s.State))
		}
		if s.State.Firing() {
			for _, kind := range s.Kinds {
				send(metricMonitorAlarm, 1, m.Name, m.spec.Endpoint, string(kind))
			}
		}
		if s.State != monitor.StateCounting {
			send(metricMonitorEvidence, last.Evidence, m.Name)
			send(metricMonitorThreshold, s.Threshold, m.Name)
		}
		send(metricMonitorAlarms, float64(s.Alarms), m.Name)
		send(metricMonitorRows, float64(last.Total), m.Name)
		send(metricMonitorSkipped, float64(skipped), m.Name)
		if g := last.Segments; g != nil {
			for _, one := range g.List {
				send(metricMonitorSegment, one.Evidence, m.Name, one.Value)
			}
		}
		if o := last.Outliers; o != nil {
			send(metricMonitorOutliers, float64(o.Above), m.Name)
		}
		if f := last.Performance; f != nil {
			send(metricMonitorFeedback, float64(f.Known), m.Name, "known")
			send(metricMonitorFeedback, float64(f.Unknown), m.Name, "unknown")
			if f.Learn == 0 {
				send(metricMonitorErrorLimit, f.Limit, m.Name)
			}
			if e := f.Estimate; e != nil {
				send(metricMonitorAccuracy, e.Accuracy, m.Name, "estimate")
				send(metricMonitorAccuracy, e.Low, m.Name, "low")
				send(metricMonitorAccuracy, e.High, m.Name, "high")
			}
			if f.Ticks > 0 {
				send(metricMonitorError, f.Recent, m.Name)
			}
		}
		for _, f := range last.Features {
			send(metricMonitorFeature, f.Evidence, m.Name, f.Name)
			f.Each(func(measure string, x float64) {
				send(metricMonitorDistance, x, m.Name, f.Name, measure)
			})
		}
	}
}
