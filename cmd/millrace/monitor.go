package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/store"
)

func newMonitor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Say how a monitor goes on after an alarm",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, name := range api.MonitorCommands() {
		cmd.AddCommand(newTold(name+" MONITOR", monitorDoes[name],
			func(ctx context.Context, c *apiclient.Client, monitor string) (string, error) {
				return c.Monitor(ctx, monitor, name)
			}))
	}
	return cmd
}

// monitorDoes says what the commands do.
var monitorDoes = map[string]string{
	control.MonitorAcknowledge: "Say that you have seen the alarm; it stays on",
	control.MonitorResolve:     "End the alarm; the evidence begins anew",
	control.MonitorReset:       "Forget all that was learned, a learned reference too",
}

func monitorRow(r store.Resource) ([]string, error) {
	spec, err := config.Decode[config.Monitor](r.Spec)
	if err != nil {
		return nil, err
	}
	s, err := decode[control.MonitorStatus](r.Status)
	since := ""
	if !s.Since.IsZero() {
		since = age(time.Since(s.Since))
	}
	return []string{r.Name, spec.Endpoint, s.Version, string(s.State), since, evidence(&s.Status),
		fmt.Sprint(s.Alarms), r.Owner, shortText(s.Reason)}, err
}

// evidence says how far a monitor is from an alarm.
func evidence(s *monitor.Status) string {
	if s.Threshold == 0 || s.State == monitor.StateCounting {
		return ""
	}
	return monitor.Short(s.Last.Evidence) + " of " + monitor.Short(s.Threshold)
}

// shownText is how much of a text a table shows; describe shows all.
const shownText = 60

func shortText(text string) string {
	if r := []rune(text); len(r) > shownText {
		return string(r[:shownText-3]) + "..."
	}
	return text
}

func alarmRow(r store.Resource) ([]string, error) {
	a, err := decode[monitor.Alarm](r.Status)
	state := "on"
	switch {
	case !a.Resolved.IsZero():
		state = "over: " + a.Resolution
	case !a.Acknowledged.IsZero():
		state = "acknowledged by " + a.By
	}
	return []string{r.Name, a.Endpoint, a.Version, age(time.Since(a.Raised)), shortText(state),
		shortText(a.Reason)}, err
}

func describeMonitor(w io.Writer, status json.RawMessage) error {
	s, err := decode[control.MonitorStatus](status)
	if err != nil || s.State == "" {
		return err
	}
	t := table(w)
	line := func(name, text string) { fmt.Fprintf(t, "%s:\t%s\n", name, values.Printable(text)) }
	line("State", string(s.State))
	line("Since", moment(s.Since))
	if s.Reason != "" {
		line("Reason", s.Reason)
	}
	line("Version", fmt.Sprintf("%s of model %s", s.Version, s.Model))
	line("Reference", s.Reference)
	r := &s.Last
	if s.State == monitor.StateCounting {
		line("Sent", moment(s.Sent))
	} else {
		line("Evidence", fmt.Sprintf("%s at %s, after %d ticks", evidence(&s.Status),
			r.Time.Format(time.RFC3339), r.Ticks))
	}
	if len(r.Strands) > 1 {
		line("By kind", kinds(r.Strands))
	}
	line("Rows", fmt.Sprintf("%d, left out %d requests of other versions", r.Total, s.Skipped))
	if r.Performance != nil {
		line("Answers", answersText(r.Performance))
	}
	if r.Performance != nil && r.Performance.Estimate != nil {
		line("Right", estimateText(r.Performance.Estimate))
	}
	if r.Outliers != nil {
		line("Outliers", outliersText(r.Outliers))
	}
	if s.Alarm != "" {
		line("Last alarm", fmt.Sprintf("%s, of %d; `millrace describe alarm %s`", s.Alarm, s.Alarms,
			s.Alarm))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := describeReplicas(w, s.Replicas); err != nil {
		return err
	}
	if err := describeReading(w, r); err != nil || len(s.Events) == 0 {
		return err
	}
	fmt.Fprintln(w, "Events:")
	for _, e := range s.Events {
		fmt.Fprintf(t, "  %s\t%s\n", moment(e.Time), values.Printable(e.Text))
	}
	return t.Flush()
}

// describeReplicas shows whose counts are judged here.
func describeReplicas(w io.Writer, all []monitor.Replica) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Replicas that count for it:")
	t := table(w)
	fmt.Fprintln(t, "  REPLICA\tHEARD\tROWS")
	for _, r := range all {
		fmt.Fprintf(t, "  %s\t%s\t%d\n", values.Printable(r.ID), moment(r.Heard), r.Rows)
	}
	return t.Flush()
}

// kinds says how much evidence there is of each kind.
func kinds(all []monitor.Strand) string {
	var list []string
	for _, s := range all {
		list = append(list, fmt.Sprintf("%s %s", s.Kind, monitor.Short(s.Evidence)))
	}
	return strings.Join(list, ", ")
}

// answersText says what has become known of the answers.
func answersText(p *monitor.Performance) string {
	text := fmt.Sprintf("%d known, %d unknown", p.Known, p.Unknown)
	if p.Learn > 0 {
		return fmt.Sprintf("%s; %d of %d for the reference", text, p.Learned, p.Learn)
	}
	if p.Ticks > 0 {
		text += "; mean loss " + monitor.Short(p.Recent)
	}
	return fmt.Sprintf("%s; reference %s, no harm up to %s", text, monitor.Short(p.Expected),
		monitor.Short(p.Limit))
}

// estimateText says how many answers are likely to be right.
func estimateText(e *monitor.Estimate) string {
	text := fmt.Sprintf("probably %s of the last %d, %s to %s", monitor.Short(e.Accuracy), e.Rows,
		monitor.Short(e.Low), monitor.Short(e.High))
	if !e.Trusted() {
		text += fmt.Sprintf("; do not trust it: by labels it is off by %s", monitor.Short(e.Gap))
	}
	return text
}

// outliersText says how many rows are unusual.
func outliersText(o *monitor.Outliers) string {
	text := fmt.Sprintf("%d rows of %d", o.Above, o.Rows)
	if o.Ticks > 0 {
		text += "; recent share " + monitor.Short(o.Recent)
	}
	return fmt.Sprintf("%s; reference %s, no harm up to %s", text, monitor.Short(o.Expected),
		monitor.Short(o.Limit))
}

// describeSegments shows which segments have left their reference.
func describeSegments(w io.Writer, s *monitor.Segments) error {
	fmt.Fprintln(w, "Segments:")
	t := table(w)
	for i := range s.List {
		one := &s.List[i]
		text := "evidence " + monitor.Short(one.Evidence)
		if one.Named {
			text += ", it has drifted"
		}
		if len(one.Features) > 0 {
			text += ": " + strings.Join(one.Features, ", ")
		}
		fmt.Fprintf(t, "  %s\t%s\n", values.Printable(one.Text(s.Column)), values.Printable(text))
	}
	return t.Flush()
}

// describeReading shows which features stand out, and how.
func describeReading(w io.Writer, r *monitor.Reading) error {
	if r.Segments != nil {
		if err := describeSegments(w, r.Segments); err != nil {
			return err
		}
	}
	if o := r.Outliers; o != nil && len(o.Examples) > 0 {
		fmt.Fprintln(w, "Outliers, by their rarest values:")
		for _, e := range o.Examples {
			fmt.Fprintf(w, "  %s\n", values.Printable(strings.Join(e, "  ")))
		}
	}
	if len(r.Features) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Features that stand out most (reference ---, live ###):")
	for i := range r.Features {
		for line := range strings.Lines(r.Features[i].Text()) {
			fmt.Fprintf(w, "  %s\n", values.Printable(strings.TrimRight(line, "\n")))
		}
	}
	if len(r.Examples) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Examples:")
	t := table(w)
	names := make([]string, len(r.Features))
	for i := range r.Features {
		names[i] = values.Printable(r.Features[i].Name)
	}
	fmt.Fprintf(t, "  %s\n", strings.Join(names, "\t"))
	for _, e := range r.Examples {
		fmt.Fprintf(t, "  %s\n", values.Printable(strings.Join(e, "\t")))
	}
	return t.Flush()
}

func describeAlarm(w io.Writer, status json.RawMessage) error {
	a, err := decode[monitor.Alarm](status)
	if err != nil {
		return err
	}
	t := table(w)
	line := func(name, text string) { fmt.Fprintf(t, "%s:\t%s\n", name, values.Printable(text)) }
	line("Evidence of", string(a.Kind))
	line("Reason", a.Reason)
	line("Endpoint", fmt.Sprintf("%s, version %s of model %s", a.Endpoint, a.Version, a.Model))
	line("Began", "about "+moment(a.Began))
	line("Raised", moment(a.Raised))
	if !a.Acknowledged.IsZero() {
		line("Acknowledged", fmt.Sprintf("%s by %s", moment(a.Acknowledged), a.By))
	}
	if !a.Resolved.IsZero() {
		line("Resolved", fmt.Sprintf("%s: %s", moment(a.Resolved), a.Resolution))
	}
	if !a.Alerted.IsZero() {
		line("Alertmanager", "knows since "+moment(a.Alerted))
	}
	if a.Error != "" {
		line("Error", a.Error+"; it is tried again")
	}
	if a.Reading.Performance != nil {
		line("Answers", answersText(a.Reading.Performance))
	}
	if a.Reading.Outliers != nil {
		line("Outliers", outliersText(a.Reading.Outliers))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return describeReading(w, &a.Reading)
}
