package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/values"
)

func newSync() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "sync [SOURCE]",
		Short: "Look at a source, or at all, for new versions now",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			names := args
			if len(names) == 0 {
				list, err := c.List(cmd.Context(), "sources")
				if err != nil {
					return err
				}
				for _, r := range list.Items {
					names = append(names, r.Name)
				}
			}
			if len(names) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "there are no sources")
				return err
			}
			var faults []error
			for _, name := range names {
				done := progress(os.Stderr, func() string { return "looking at " + name })
				err := c.Sync(cmd.Context(), name)
				done()
				if err != nil {
					faults = append(faults,
						fmt.Errorf("source %s: %w", values.Printable(name), err))
					continue
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "source %s is up to date\n",
					values.Printable(name)); err != nil {
					return err
				}
			}
			return errors.Join(faults...)
		},
	}
	f.register(cmd)
	return cmd
}
