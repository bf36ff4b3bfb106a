package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/syncer"
	"github.com/millrace-ml/millrace/control/trigger"
)

func newGetLoop() *cobra.Command {
	var f adminFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "loop ENDPOINT",
		Short: "Show what came of the last drift alarm: runs, versions, rollouts, its end",
		Args:  oneEndpoint,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			r, err := readRecords(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			loops := r.loops(args[0], time.Now())
			if !all {
				loops = loops[max(0, len(loops)-1):]
			}
			return f.print(cmd.OutOrStdout(), map[string][]loop{"loops": loops},
				func(w io.Writer) error { return printLoops(w, args[0], loops) })
		},
	}
	f.registerOutput(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "of each alarm that is on record, the latest last")
	return cmd
}

// loop is an alarm and what has happened at its endpoint until it was over.
type loop struct {
	Alarm  string    `json:"alarm"`
	Raised time.Time `json:"raised"`
	Closed time.Time `json:"closed,omitzero"`
	Steps  []step    `json:"steps"` // in the order of their times
}

// step is something that happened in a loop.
type step struct {
	Time time.Time `json:"time"`
	What string    `json:"what"` // alarm, run, version, rollout
	Name string    `json:"name"`
	Text string    `json:"text"`
}

// records are what the control plane has written down, by name where they have no own.
type records struct {
	alarms   map[string]monitor.Alarm
	runs     []trigger.Run
	versions []syncer.Version
	rollouts []control.RolloutStatus
}

// readRecords reads those that concern an endpoint, and some more.
func readRecords(ctx context.Context, c *apiclient.Client, endpoint string) (*records, error) {
	e, err := c.Resource(ctx, "endpoints", endpoint)
	if err != nil {
		return nil, err
	}
	spec, err := config.Decode[config.Endpoint](e.Spec)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", e.Key, err)
	}
	r := &records{alarms: make(map[string]monitor.Alarm)}
	model, err := c.Resource(ctx, "models", cmp.Or(spec.Model, endpoint))
	if _, isAnswer := errors.AsType[*apiclient.StatusError](err); err != nil && !isAnswer {
		return nil, err // else it is a model of a folder, which is no resource
	}
	status, err := decode[syncer.Status](model.Status)
	r.versions = status.Versions
	err = errors.Join(err,
		each(ctx, c, "alarms", func(name string, a monitor.Alarm) { r.alarms[name] = a }),
		each(ctx, c, "runs", func(_ string, run trigger.Run) { r.runs = append(r.runs, run) }),
		each(ctx, c, "rollouts", func(_ string, s control.RolloutStatus) {
			r.rollouts = append(r.rollouts, s)
		}))
	return r, err
}

// each reads all records of a kind.
func each[T any](ctx context.Context, c *apiclient.Client, plural string,
	f func(name string, status T)) error {
	list, err := c.List(ctx, plural)
	if err != nil {
		return err
	}
	for _, item := range list.Items {
		status, err := decode[T](item.Status)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", item.Key, err)
		}
		f(item.Name, status)
	}
	return nil
}

// loops are those of an endpoint, in the order of their alarms. What begins while an alarm is on
// belongs to it, whoever has begun it: a person who starts a run by hand does so because of it.
func (r *records) loops(endpoint string, now time.Time) []loop {
	loops := []loop{}
	for name, a := range r.alarms {
		if a.Endpoint != endpoint {
			continue
		}
		l := loop{Alarm: name, Raised: a.Raised, Closed: a.Resolved}
		l.add(a.Raised, "alarm", name, a.Reason)
		l.add(a.Acknowledged, "alarm", name, "acknowledged by "+a.By)
		during := func(t time.Time) bool {
			return !t.Before(a.Raised) && !t.After(cmp.Or(a.Resolved, now))
		}
		for _, run := range r.runs {
			if run.Context.Endpoint == endpoint && during(run.Began) {
				l.run(&run)
			}
		}
		for _, v := range r.versions {
			if during(v.Created) {
				l.add(v.Created, "version", v.Name, cmp.Or(v.Link, "registered at its source"))
			}
		}
		for _, s := range r.rollouts {
			if s.State.Endpoint == endpoint && during(s.State.Began) {
				l.rollout(&s)
			}
		}
		l.add(a.Resolved, "alarm", name, "over: "+a.Resolution)
		slices.SortStableFunc(l.Steps, func(a, b step) int { return a.Time.Compare(b.Time) })
		loops = append(loops, l)
	}
	slices.SortFunc(loops, func(a, b loop) int {
		return cmp.Or(a.Raised.Compare(b.Raised), cmp.Compare(a.Alarm, b.Alarm))
	})
	return loops
}

// add adds a step, unless it was not.
func (l *loop) add(at time.Time, what, name, text string) {
	if !at.IsZero() {
		l.Steps = append(l.Steps, step{at, what, name, text})
	}
}

func (l *loop) run(r *trigger.Run) {
	if r.State == trigger.Suppressed {
		l.add(r.Began, "run", r.ID, "is not started: "+r.Error)
		return
	}
	l.add(r.Began, "run", r.ID, "begins, of trigger "+r.Trigger)
	l.add(r.Started, "run", r.ID, "has started: "+cmp.Or(r.Link, r.External))
	end := string(r.State)
	if r.Error != "" {
		end += ": " + r.Error
	}
	l.add(r.Ended, "run", r.ID, end)
}

func (l *loop) rollout(s *control.RolloutStatus) {
	id, v := s.State.ID, s.State.Canary.Version
	l.add(s.State.Began, "rollout", id,
		fmt.Sprintf("version %s is tried beside %s", v, s.State.Stable.Version))
	for _, e := range s.State.History {
		switch e.To {
		case rollout.Shadow:
			l.add(e.Time, "rollout", id, fmt.Sprintf("version %s gets copies of requests", v))
		case rollout.Step:
			l.add(e.Time, "rollout", id,
				fmt.Sprintf("version %s gets %v %% of the requests", v, e.Weight))
		}
	}
	l.add(s.State.Ended, "rollout", id, s.State.Sentence())
	for _, a := range s.Actions {
		if a.Kind == control.ActionAlias {
			l.add(a.Done, "version", a.Version, "is "+a.Alias+" at its source")
		}
	}
}

// printLoops writes a table for each loop.
func printLoops(w io.Writer, endpoint string, loops []loop) error {
	if len(loops) == 0 {
		_, err := fmt.Fprintf(w, "there was no drift alarm at %s\n", values.Printable(endpoint))
		return err
	}
	var failed error
	for i, l := range loops {
		state := "open for " + age(time.Since(l.Raised))
		if !l.Closed.IsZero() {
			state = "closed after " + age(l.Closed.Sub(l.Raised))
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "Alarm %s at %s, %s:\n", values.Printable(l.Alarm),
			l.Raised.Format(time.RFC3339), state)
		t := table(w)
		fmt.Fprintln(t, "AFTER\tWHAT\tNAME\tSTEP")
		for _, s := range l.Steps {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", age(s.Time.Sub(l.Raised)), s.What,
				values.Printable(s.Name), values.Printable(s.Text))
		}
		failed = errors.Join(failed, t.Flush())
	}
	return failed
}
