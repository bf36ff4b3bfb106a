package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/rollout"
)

func newRollout() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Follow the rollout of an endpoint, and say how it goes on",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRolloutStatus(), newRolloutHistory())
	for _, name := range api.Commands() {
		cmd.AddCommand(newRolloutCommand(name))
	}
	return cmd
}

// does says what the commands do.
var does = map[string]string{
	"start":   "Try the watched version, also when it was refused before",
	"pause":   "Hold the rollout where it is; harm still rolls it back",
	"resume":  "Go on after a pause",
	"approve": "Say yes where a person is asked",
	"promote": "Make the canary the stable version now, without the rest of the steps",
	"abort":   "Take the traffic from the canary for good",
	"undo":    "Take the last promotion back, at once",
}

func newRolloutCommand(name string) *cobra.Command {
	cmd := newTold(name+" ENDPOINT", does[name],
		func(ctx context.Context, c *apiclient.Client, endpoint string) (string, error) {
			return c.Command(ctx, endpoint, name)
		})
	cmd.Args = oneEndpoint
	return cmd
}

// oneEndpoint wants one argument, the endpoint.
func oneEndpoint(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("name one endpoint: %s ENDPOINT; see `%s --help`", cmd.CommandPath(),
			cmd.CommandPath())
	}
	return nil
}

// lastRollout returns the rollout of an endpoint that began last, nil when there was none.
func lastRollout(ctx context.Context, c *apiclient.Client, endpoint string) (
	*control.RolloutStatus, error) {
	list, err := c.Rollouts(ctx, endpoint, 1)
	if err != nil || len(list.Items) == 0 {
		return nil, err
	}
	status, err := decode[control.RolloutStatus](list.Items[len(list.Items)-1].Status)
	if err != nil {
		return nil, fmt.Errorf("cannot read the rollout: %w", err)
	}
	return &status, nil
}

func newRolloutStatus() *cobra.Command {
	var f adminFlags
	var watch bool
	cmd := &cobra.Command{
		Use:   "status ENDPOINT",
		Short: "Show where the rollout of an endpoint stands, with its evidence",
		Args:  oneEndpoint,
		RunE: f.ask(func(cmd *cobra.Command, c *apiclient.Client, args []string) error {
			if watch {
				return newView(cmd.OutOrStdout()).follow(cmd.Context(), c, args[0])
			}
			last, err := lastRollout(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return f.print(cmd.OutOrStdout(), last, func(w io.Writer) error {
				if last == nil {
					_, err := fmt.Fprintf(w, "%s has had no rollout\n", values.Printable(args[0]))
					return err
				}
				_, err := io.WriteString(w, rolloutBlock(last, wideTerminal, time.Now()))
				return err
			})
		}),
	}
	f.registerOutput(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false,
		"go on until the rollout ends; without one under way it waits for the next. "+
			"The exit status is 1 unless it was successful")
	return cmd
}

func newRolloutHistory() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "history ENDPOINT",
		Short: "Say how the rollouts of an endpoint went, the latest first",
		Args:  oneEndpoint,
		RunE: f.ask(func(cmd *cobra.Command, c *apiclient.Client, args []string) error {
			list, err := c.Rollouts(cmd.Context(), args[0], 0)
			if err != nil {
				return err
			}
			slices.Reverse(list.Items)
			return f.print(cmd.OutOrStdout(), list, func(w io.Writer) error {
				if len(list.Items) == 0 {
					_, err := fmt.Fprintf(w, "%s has had no rollout\n", values.Printable(args[0]))
					return err
				}
				for _, r := range list.Items {
					status, err := decode[control.RolloutStatus](r.Status)
					if err != nil {
						return fmt.Errorf("cannot read %s: %w", r.Key, err)
					}
					if err := printTale(w, r.Name, &status.State); err != nil {
						return err
					}
					if status.Undone != "" {
						fmt.Fprintf(w, "  then %s\n", values.Printable(status.Undone))
					}
				}
				return nil
			})
		}),
	}
	f.registerOutput(cmd)
	return cmd
}

// printTale tells how one rollout went: a sentence, and its transitions.
func printTale(w io.Writer, name string, s *rollout.State) error {
	if _, err := fmt.Fprintf(w, "%s  %s  %s\n", values.Printable(name),
		s.Began.Format(time.RFC3339), s.Sentence()); err != nil {
		return err
	}
	return printHistory(w, s)
}

// printHistory writes the transitions of a rollout.
func printHistory(w io.Writer, s *rollout.State) error {
	t := table(w)
	for _, e := range s.History {
		to := string(e.To)
		if e.To == rollout.Step {
			to = fmt.Sprintf("step %d", e.Step+1)
		}
		if e.Verdict != "" {
			to += " " + string(e.Verdict)
		}
		fmt.Fprintf(t, "  %s\t%s\t%v %%\t%s\n", e.Time.Format(time.RFC3339), to, e.Weight,
			values.Printable(e.Reason))
	}
	return t.Flush()
}
