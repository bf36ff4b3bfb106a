package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/syncer"
)

func newDescribe() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "describe KIND NAME",
		Short: "Show all that is known of one resource, such as an endpoint",
		Args:  ofKind(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, plural, err := f.of(args[0])
			if err != nil {
				return err
			}
			r, err := c.Resource(cmd.Context(), plural, args[1])
			if err != nil {
				return err
			}
			var last *control.RolloutStatus
			var runs api.List
			switch plural {
			case "endpoints":
				last, err = lastRollout(cmd.Context(), c, r.Name)
			case "triggers":
				runs, err = c.Runs(cmd.Context(), r.Name, shownRuns)
			}
			if err != nil {
				return err
			}
			err = describeResource(cmd.OutOrStdout(), r, last)
			if err != nil || plural != "triggers" {
				return err
			}
			return describeTrigger(cmd.OutOrStdout(), r, runs.Items)
		},
	}
	f.register(cmd)
	return cmd
}

// shownRuns is how many runs are shown of a trigger; `trigger runs` shows all.
const shownRuns = 10

// describeResource writes about a resource; last is an endpoint's rollout, if there is one.
func describeResource(w io.Writer, r store.Resource, last *control.RolloutStatus) error {
	t := table(w)
	for _, line := range [][2]string{{"Kind:", r.Kind}, {"Name:", values.Printable(r.Name)},
		{"Owner:", r.Owner}, {"Revision:", fmt.Sprint(r.Revision)},
		{"Created:", moment(r.Created)}, {"Updated:", moment(r.Updated)}} {
		fmt.Fprintf(t, "%s\t%s\n", line[0], line[1])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Spec) > 0 {
		text, err := api.YAML(r.Spec)
		if err != nil {
			return fmt.Errorf("cannot read the spec: %w", err)
		}
		fmt.Fprintf(w, "Spec:\n%s", indented(string(text)))
	}
	var err error
	switch api.Kind(strings.ToLower(r.Kind) + "s") {
	case "Model":
		err = describeModel(w, r.Status)
	case "Endpoint":
		err = describeEndpoint(w, r.Status, last)
	case config.KindMonitor:
		err = describeMonitor(w, r.Status)
	case control.KindAlarm:
		err = describeAlarm(w, r.Status)
	case control.KindRollout:
		err = describeRollout(w, r.Status)
	case control.KindTest:
		err = describeTest(w, r.Status)
	case control.KindRun:
		err = describeRun(w, r.Status)
	case config.KindTrigger: // whose runs are needed, too
	default:
		err = describeSource(w, r.Status)
	}
	if err != nil {
		return fmt.Errorf("cannot read the status of %s: %w", r.Key, err)
	}
	return nil
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%s (%s ago)", t.Format(time.RFC3339), age(time.Since(t)))
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + line)
	}
	return b.String()
}

func describeSource(w io.Writer, status json.RawMessage) error {
	s, err := decode[control.SourceStatus](status)
	if err == nil && s.Error != "" {
		_, err = fmt.Fprintf(w, "Error:\n  %s\n", s.Error)
	}
	return err
}

func describeModel(w io.Writer, status json.RawMessage) error {
	s, err := decode[syncer.Status](status)
	if err != nil {
		return err
	}
	if s.Error != "" {
		fmt.Fprintf(w, "Error:\n  %s\n", s.Error)
	}
	if len(s.Versions) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Versions:")
	t := table(w)
	fmt.Fprintln(t, "  VERSION\tSTATE\tALIASES\tCREATED\tREASON")
	for _, v := range s.Versions {
		var aliases []string
		for name, version := range s.Aliases {
			if version == v.Name {
				aliases = append(aliases, name)
			}
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", values.Printable(v.Name), v.State,
			strings.Join(aliases, ", "), moment(v.Created), values.Printable(v.Reason))
	}
	return t.Flush()
}

func describeEndpoint(w io.Writer, status json.RawMessage, last *control.RolloutStatus) error {
	s, err := decode[control.EndpointStatus](status)
	if err != nil {
		return err
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, name+":\n  "+format+"\n", args...)
	}
	if s.Promoted != nil {
		line("Promoted", "version %s in the place of %s", s.Promoted.Version,
			strings.Join(s.Promoted.Over, ", "))
	}
	if s.Former != nil {
		line("Former", "version %s, kept for an undo until %s", s.Former.Version,
			s.Former.Until.Format(time.RFC3339))
	}
	for _, r := range s.Refused {
		since := "rollout " + r.Rollout
		if r.Rollout == control.CommandUndo {
			since = "its promotion was taken back"
		}
		line("Refused", "version %s since %s; `millrace rollout start` tries it again", r.Version,
			since)
	}
	if s.Waiting != "" {
		line("Waiting", "%s", s.Waiting)
	}
	if last != nil {
		line("Rollout "+last.State.ID, "%s", last.State.Sentence())
	}
	if len(s.Events) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Events:")
	t := table(w)
	for _, e := range s.Events {
		mark := ""
		if e.Warn {
			mark = "warning: "
		}
		fmt.Fprintf(t, "  %s\t%s%s\n", moment(e.Time), mark, values.Printable(e.Text))
	}
	return t.Flush()
}

func describeTest(w io.Writer, status json.RawMessage) error {
	s, err := decode[control.Test](status)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "Test:\n  %s\n", s.Sentence())
	if !s.Ended.IsZero() {
		fmt.Fprintf(w, "Ended:\n  %s: %s\n", moment(s.Ended), s.Reason)
	}
	t := table(w)
	fmt.Fprintln(t, "ARM\tVERSION\tWEIGHT\tREQUESTS\tFEEDBACK\tREWARD")
	for i, c := range s.Points[len(s.Points)-1].Arms {
		a := s.Setup.Arms[i]
		fmt.Fprintf(t, "%s\t%s\t%v %%\t%d\t%d\t%.4g\n", values.Printable(a.Name),
			values.Printable(a.Version), float64(c.Weight)/100, c.Requests, c.Rewards, c.Reward)
	}
	return t.Flush()
}

func describeRollout(w io.Writer, status json.RawMessage) error {
	s, err := decode[control.RolloutStatus](status)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "Rollout:\n  %s\n", s.State.Sentence())
	if s.Held != "" {
		fmt.Fprintf(w, "Held:\n  %s\n", s.Held)
	}
	for _, a := range s.Actions {
		state := "waits"
		switch {
		case !a.Done.IsZero():
			state = "done at " + a.Done.Format(time.RFC3339)
		case a.Error != "":
			state = "is tried again: " + a.Error
		}
		fmt.Fprintf(w, "Action %s %s:\n  %s\n", a.Kind, a.Alias, state)
	}
	fmt.Fprintln(w, "History:")
	return printHistory(w, &s.State)
}
