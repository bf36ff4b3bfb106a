package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
)

func newTrigger() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trigger",
		Short: "Start pipelines by hand, follow their runs, and stop triggers",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTriggerStart(), newTriggerRuns(),
		newTold("stop TRIGGER", "Start nothing any more until it is resumed; its runs go on",
			func(ctx context.Context, c *apiclient.Client, name string) (string, error) {
				return c.Trigger(ctx, name, control.TriggerStop, control.Start{})
			}),
		newTold("resume TRIGGER", "Go on after a stop",
			func(ctx context.Context, c *apiclient.Client, name string) (string, error) {
				return c.Trigger(ctx, name, control.TriggerResume, control.Start{})
			}),
		newTold("cancel RUN", "End a run, here and at its pipeline",
			func(ctx context.Context, c *apiclient.Client, id string) (string, error) {
				return c.Run(ctx, id, control.RunCancel)
			}),
		newTold("retry RUN", "Start a run anew that has failed, was lost or cancelled",
			func(ctx context.Context, c *apiclient.Client, id string) (string, error) {
				return c.Run(ctx, id, control.RunRetry)
			}))
	return cmd
}

// newTold is a command that tells a rollout, a monitor, a trigger or a run something, and prints
// what it says.
func newTold(use, short string,
	do func(context.Context, *apiclient.Client, string) (string, error)) *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  oneName,
		RunE: f.ask(func(cmd *cobra.Command, c *apiclient.Client, args []string) error {
			sentence, err := do(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), values.Printable(sentence))
			return err
		}),
	}
	f.register(cmd)
	return cmd
}

// oneName wants one argument.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give one name: `%s`; see `%s --help`", cmd.UseLine(), cmd.CommandPath())
	}
	return nil
}

func newTriggerStart() *cobra.Command {
	var s control.Start
	cmd := newTold("start TRIGGER", "Start the pipeline of a trigger now",
		func(ctx context.Context, c *apiclient.Client, name string) (string, error) {
			return c.Trigger(ctx, name, control.TriggerStart, s)
		})
	cmd.Flags().StringToStringVarP(&s.Parameters, "param", "p", nil,
		"NAME=VALUE, a parameter of the run; may be repeated")
	cmd.Flags().StringVar(&s.ID, "id", "",
		"a name of your own for this start: one that is given again starts nothing")
	return cmd
}

func newTriggerRuns() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "runs TRIGGER",
		Short: "List the runs of a trigger, the latest last",
		Args:  oneName,
		RunE: f.ask(func(cmd *cobra.Command, c *apiclient.Client, args []string) error {
			list, err := c.Runs(cmd.Context(), args[0], 0)
			if err != nil {
				return err
			}
			return f.print(cmd.OutOrStdout(), list, func(w io.Writer) error {
				if len(list.Items) == 0 {
					_, err := fmt.Fprintf(w, "%s has had no run\n", values.Printable(args[0]))
					return err
				}
				return printResources(w, "runs", list.Items)
			})
		}),
	}
	f.registerOutput(cmd)
	return cmd
}

func triggerRow(r store.Resource) ([]string, error) {
	spec, err := config.Decode[config.Trigger](r.Spec)
	if err != nil {
		return nil, err
	}
	status, err := decode[control.TriggerStatus](r.Status)
	return []string{r.Name, spec.On.String(), spec.Kind(), r.Owner,
		cmp.Or(triggerWaits(&spec, &status), "ok")}, err
}

// triggerWaits says why a trigger starts nothing by itself.
func triggerWaits(spec *config.Trigger, status *control.TriggerStatus) string {
	switch {
	case spec.Stopped:
		return "stopped by its settings"
	case status.Stopped != nil:
		return "stopped by " + status.Stopped.By
	case status.Halted != "":
		return status.Halted
	case spec.DryRun:
		return "dry run"
	}
	return ""
}

func runRow(r store.Resource) ([]string, error) {
	run, err := decode[trigger.Run](r.Status)
	return []string{r.Name, run.Trigger, string(run.State), age(time.Since(run.Began)),
		runTook(&run), shortText(cmp.Or(run.Error, run.Reason))}, err
}

// runTook says how long a run has taken elsewhere.
func runTook(r *trigger.Run) string {
	switch {
	case r.Started.IsZero():
		return ""
	case r.Ended.IsZero():
		return age(time.Since(r.Started))
	}
	return age(r.Ended.Sub(r.Started))
}

// describeTrigger writes about a trigger and its last runs.
func describeTrigger(w io.Writer, r store.Resource, runs []store.Resource) error {
	spec, err := config.Decode[config.Trigger](r.Spec)
	if err != nil {
		return err
	}
	status, err := decode[control.TriggerStatus](r.Status)
	if err != nil {
		return err
	}
	if why := triggerWaits(&spec, &status); why != "" {
		fmt.Fprintf(w, "Waits:\n  %s\n", values.Printable(why))
	}
	if len(runs) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Runs:")
	slices.Reverse(runs)
	return printResources(w, "runs", runs)
}

// describeRun writes all that is known of a run.
func describeRun(w io.Writer, status json.RawMessage) error {
	r, err := decode[trigger.Run](status)
	if err != nil {
		return err
	}
	for _, line := range [][2]string{
		{"State", string(r.State)}, {"Trigger", r.Trigger}, {"Event", r.Event},
		{"Reason", r.Reason}, {"Asked for by", r.By}, {"Name there", r.Name()},
		{"Link", r.Link}, {"Error", r.Error}, {"To be ended", r.Stop}, {"Took", runTook(&r)},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "%s:\n  %s\n", line[0], values.Printable(line[1]))
		}
	}
	fmt.Fprintf(w, "Parameters (`millrace get run %s -o json` has all of long ones):\n", r.ID)
	t := table(w)
	all := r.Parameters()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(t, "  %s\t%s\n", values.Printable(key),
			values.Printable(shortText(all[key])))
	}
	if err := t.Flush(); err != nil || r.Logs == "" {
		return err
	}
	fmt.Fprintln(w, "End of its log:")
	for line := range strings.Lines(r.Logs) {
		fmt.Fprintf(w, "  %s\n", values.Printable(strings.TrimRight(line, "\n")))
	}
	return nil
}
