package control

var (
	metricMonitor = define("millrace_monitor_state",
		"1 for the state of a monitor: `learning`, `ok`, `suspected`, `alarm`, `acknowledged`, "+
			"`resolved` or `error`.", "monitor", "endpoint", "state")
	metricMonitorEvidence = define("millrace_monitor_evidence",
		"Evidence of drift after the last tick.", "monitor")
	metricMonitorThreshold = define("millrace_monitor_threshold",
		"Evidence from which on there is an alarm: ticks between alarms without drift.", "monitor")
	metricMonitorFeature = define("millrace_monitor_feature_evidence",
		"Evidence of the features that stand out most, a few of each monitor.", "monitor",
		"feature")
	metricMonitorAlarms = define("millrace_monitor_alarms_total",
		"Alarms that a monitor has raised.", "monitor")
	metricMonitorRows = define("millrace_monitor_rows_total",
		"Rows of the version that serves which a monitor has looked at.", "monitor")
	metricMonitorSkipped = define("millrace_monitor_skipped_total",
		"Requests that a monitor has left out: another version has answered, as in a rollout.",
		"monitor")
)

func (p *Plane) collectMonitors(send sender) {
	for _, m := range sorted(p.view.monitors) {
		s := &m.status
		last, skipped := s.Last, s.Skipped
		if w := p.watches[m.Name]; w != nil {
			w.mu.Lock()
			last, skipped = w.last, w.skipped
			w.mu.Unlock()
		}
		if s.State != "" {
			send(metricMonitor, 1, m.Name, m.spec.Endpoint, string(s.State))
		}
		send(metricMonitorEvidence, last.Evidence, m.Name)
		send(metricMonitorThreshold, s.Threshold, m.Name)
		send(metricMonitorAlarms, float64(s.Alarms), m.Name)
		send(metricMonitorRows, float64(last.Total), m.Name)
		send(metricMonitorSkipped, float64(skipped), m.Name)
		for _, f := range last.Features {
			send(metricMonitorFeature, f.Evidence, m.Name, f.Name)
		}
	}
}
