package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/store"
)

func newAudit() *cobra.Command {
	var f adminFlags
	var q store.Query
	var diff, all bool
	cmd := &cobra.Command{
		Use:   "audit [KIND [NAME]]",
		Short: "Show who changed what, the latest first",
		Args:  cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			if len(args) > 0 {
				plural, err := pluralOf(args[0])
				if err != nil {
					return err
				}
				q.Kind = api.Kind(plural)
			}
			if len(args) > 1 {
				q.Name = args[1]
			}
			q.Quiet = !all
			page, err := c.Audit(cmd.Context(), q)
			if err != nil {
				return err
			}
			return f.print(cmd.OutOrStdout(), api.Changes{Changes: page}, func(w io.Writer) error {
				if diff {
					return printChangeDiffs(w, page)
				}
				return printChanges(w, page)
			})
		},
	}
	f.registerOutput(cmd)
	cmd.Flags().StringVar(&q.Who, "who", "", "only changes of this user")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "how many at most, up to 1000 (default 100)")
	cmd.Flags().Uint64Var(&q.Before, "before", 0,
		"only changes before this revision: the last of the page before")
	cmd.Flags().BoolVar(&all, "all", false,
		"also changes of a status by millrace itself, as of rollouts that count")
	cmd.Flags().BoolVar(&diff, "diff", false, "show how specs were changed")
	return cmd
}

// done says what a change did.
func done(c *store.Change) string {
	switch {
	case c.Kind == "":
		return "restored"
	case c.Old == nil:
		return "created"
	case c.New == nil:
		return "deleted"
	case c.StatusOnly():
		return "status"
	}
	return "changed"
}

func printChanges(w io.Writer, page []store.Change) error {
	t := table(w)
	fmt.Fprintln(t, "REVISION\tTIME\tWHO\tFROM\tCHANGE\tKIND\tNAME")
	for i := range page {
		c := &page[i]
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Revision, c.Time.Format(time.RFC3339),
			values.Printable(c.By.Who), values.Printable(c.By.From), done(c), c.Kind,
			values.Printable(c.Name))
	}
	return t.Flush()
}

// printChangeDiffs shows the changes of specs. Others are of what millrace itself found.
func printChangeDiffs(w io.Writer, page []store.Change) error {
	for i := range page {
		c := &page[i]
		var before, after []byte
		if c.Old != nil {
			before = c.Old.Spec
		}
		if c.New != nil {
			after = c.New.Spec
		}
		text := api.Diff(c.Key, before, after)
		if text == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "revision %d, %s, by %s\n%s\n", c.Revision,
			c.Time.Format(time.RFC3339), values.Printable(c.By.Who), text); err != nil {
			return err
		}
	}
	return nil
}
