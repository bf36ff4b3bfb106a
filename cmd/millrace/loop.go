package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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
		RunE: f.ask(func(cmd *cobra.Command, c *apiclient.Client, args []string) error {
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
		}),
	}
	f.registerOutput(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "of each alarm that is on record, the latest last")
	return cmd
}

// loop is an alarm and what came of it.
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
	// Nothing but its time says that it belongs to this alarm.
	Probably bool `json:"probably,omitempty"`
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

// loops are those of an endpoint, in the order of their alarms.
func (r *records) loops(endpoint string, now time.Time) []loop {
	loops := []loop{}
	for name, a := range r.alarms {
		if a.Endpoint != endpoint {
			continue
		}
		l := linker{records: r, alarm: name, Alarm: a, until: cmp.Or(a.Resolved, now),
			seen: make(map[string]bool)}
		loops = append(loops, l.loop())
	}
	slices.SortFunc(loops, func(a, b loop) int {
		return cmp.Or(a.Raised.Compare(b.Raised), cmp.Compare(a.Alarm, b.Alarm))
	})
	return loops
}

// linker gathers what came of an alarm: by the names that its records have of each other, and then
// what begins at the endpoint while it is on and belongs to nothing else. A person who starts a run
// by hand then does so because of it, probably.
type linker struct {
	*records
	alarm string
	monitor.Alarm
	until time.Time // that it was on, or is
	seen  map[string]bool
	steps []step
}

func (l *linker) loop() loop {
	about := step{What: "alarm", Name: l.alarm}
	l.add(about, l.Raised, l.Reason)
	l.add(about, l.Acknowledged, "acknowledged by "+l.By)
	for i := range l.rollouts {
		if s := &l.rollouts[i]; l.over(&s.State) {
			l.rollout(s, true)
		}
	}
	for i := range l.runs {
		if r := &l.runs[i]; r.Event == control.EventAlarm+l.alarm {
			l.run(r, true)
		}
	}
	l.byTime()
	l.add(about, l.Resolved, "over: "+l.Resolution)
	slices.SortStableFunc(l.steps, func(a, b step) int { return a.Time.Compare(b.Time) })
	return loop{Alarm: l.alarm, Raised: l.Raised, Closed: l.Resolved, Steps: l.steps}
}

// byTime adds what nothing but its time connects with the alarm.
func (l *linker) byTime() {
	for i := range l.runs {
		r := &l.runs[i]
		if r.Context.Endpoint == l.Endpoint && l.during(r.Began) &&
			!strings.HasPrefix(r.Event, control.EventAlarm) &&
			!strings.HasPrefix(r.Event, control.EventRollout) {
			l.run(r, false)
		}
	}
	for i := range l.rollouts {
		s := &l.rollouts[i]
		if s.State.Endpoint == l.Endpoint && l.during(s.State.Began) &&
			!slices.ContainsFunc(l.versions, func(v syncer.Version) bool {
				return v.Name == s.State.Canary.Version && l.trainer(&v) != nil
			}) {
			l.rollout(s, false)
		}
	}
	for i := range l.runs {
		if r := &l.runs[i]; l.seen["run "+r.ID] && r.State != trigger.Suppressed {
			l.guess(r.Began)
		}
	}
	l.guess(l.Raised) // somebody may have trained without a run
}

// during says whether the alarm was on.
func (l *linker) during(t time.Time) bool { return !t.Before(l.Raised) && !t.After(l.until) }

// over says whether a rollout is what the alarm's end tells of.
func (l *linker) over(s *rollout.State) bool {
	return s.Endpoint == l.Endpoint && s.Verdict == rollout.Successful && l.during(s.Ended) &&
		strings.HasPrefix(l.Resolution,
			fmt.Sprintf("version %s of model %s ", s.Canary.Version, s.Model))
}

// trainer is the run that a version names; nil where it names none, or one that is forgotten.
func (r *records) trainer(v *syncer.Version) *trigger.Run {
	for i := range r.runs {
		id := r.runs[i].ID
		if v.TrainedIn == id || strings.HasPrefix(v.TrainedIn, id+"-") { // of any attempt
			return &r.runs[i]
		}
	}
	return nil
}

// guess adds the first version that was registered from a time on, while the alarm was on, and
// names no run, unless another one has come of the alarm since.
func (l *linker) guess(from time.Time) {
	if slices.ContainsFunc(l.steps, func(s step) bool {
		return s.What == "version" && !s.Time.Before(from)
	}) {
		return
	}
	var first *syncer.Version
	for i := range l.versions {
		v := &l.versions[i]
		if l.during(v.Created) && !v.Created.Before(from) && l.trainer(v) == nil &&
			(first == nil || v.Created.Before(first.Created)) {
			first = v
		}
	}
	if first != nil {
		l.version(first, false)
	}
}

// once says whether something is not in the loop yet, and how its steps begin.
func (l *linker) once(what, name string, sure bool) (step, bool) {
	key := what + " " + name
	fresh := !l.seen[key]
	l.seen[key] = true
	return step{What: what, Name: name, Probably: !sure}, fresh
}

// add adds a step, unless it was not.
func (l *linker) add(s step, at time.Time, text string) {
	if !at.IsZero() {
		s.Time, s.Text = at, text
		l.steps = append(l.steps, s)
	}
}

// run adds a run and the versions that name it.
func (l *linker) run(r *trigger.Run, sure bool) {
	about, fresh := l.once("run", r.ID, sure)
	switch {
	case !fresh:
		return
	case r.State == trigger.Suppressed:
		l.add(about, r.Began, "is not started: "+r.Error)
		return
	}
	l.add(about, r.Began, "begins, of trigger "+r.Trigger)
	l.add(about, r.Started, "has started: "+cmp.Or(r.Link, r.External))
	end := string(r.State)
	if r.Error != "" {
		end += ": " + r.Error
	}
	l.add(about, r.Ended, end)
	for i := range l.versions {
		if v := &l.versions[i]; l.trainer(v) == r {
			l.version(v, sure)
		}
	}
}

// version adds a version and the rollouts that try it at the endpoint.
func (l *linker) version(v *syncer.Version, sure bool) {
	about, fresh := l.once("version", v.Name, sure)
	if !fresh {
		return
	}
	l.add(about, v.Created, cmp.Or(v.Link, "registered at its source"))
	for i := range l.rollouts {
		s := &l.rollouts[i]
		if s.State.Endpoint == l.Endpoint && s.State.Canary.Version == v.Name &&
			!s.State.Began.Before(l.Raised) {
			l.rollout(s, sure)
		}
	}
}

// rollout adds a rollout, the version that it tries and the runs that its end has started.
func (l *linker) rollout(s *control.RolloutStatus, sure bool) {
	about, fresh := l.once("rollout", s.State.ID, sure)
	if !fresh {
		return
	}
	v := s.State.Canary.Version
	l.add(about, s.State.Began,
		fmt.Sprintf("version %s is tried beside %s", v, s.State.Stable.Version))
	for _, e := range s.State.History {
		switch e.To {
		case rollout.Shadow:
			l.add(about, e.Time, fmt.Sprintf("version %s gets copies of requests", v))
		case rollout.Step:
			l.add(about, e.Time, fmt.Sprintf("version %s gets %v %% of the requests", v, e.Weight))
		}
	}
	l.add(about, s.State.Ended, s.State.Sentence())
	for _, a := range s.Actions {
		if a.Kind == control.ActionAlias {
			l.add(step{What: "version", Name: a.Version, Probably: !sure}, a.Done,
				"is "+a.Alias+" at its source")
		}
	}
	for i := range l.versions {
		if one := &l.versions[i]; one.Name == v && !one.Created.Before(l.Raised) {
			l.version(one, sure)
		}
	}
	for i := range l.runs {
		if r := &l.runs[i]; strings.HasPrefix(r.Event, control.EventRollout+s.State.ID+"/") {
			l.run(r, sure)
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
			if s.Probably {
				s.Text = "probably: " + s.Text
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", age(s.Time.Sub(l.Raised)), s.What,
				values.Printable(s.Name), values.Printable(s.Text))
		}
		failed = errors.Join(failed, t.Flush())
	}
	return failed
}
