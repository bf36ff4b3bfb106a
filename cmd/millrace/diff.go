package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/control/api"
)

func newDiff() *cobra.Command {
	var f adminFlags
	var file string
	cmd := &cobra.Command{
		Use:   "diff -f FILE|DIR|-",
		Short: "Show what apply would change; the exit status is 1 when that is something",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := readDocuments(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			all, err := c.Diff(cmd.Context(), text)
			if err != nil {
				return err
			}
			err = f.print(cmd.OutOrStdout(), all, func(w io.Writer) error {
				return printDiffs(w, all)
			})
			if err == nil && differs(all) {
				err = exitStatus(1)
			}
			return err
		},
	}
	f.registerOutput(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "file, folder, or - for standard input")
	return cmd
}

func differs(all api.Effects) bool {
	for _, e := range all.Effects {
		if e.Action != "unchanged" {
			return true
		}
	}
	return false
}

// printDiffs shows what differs. A resource that would only get another owner has no diff.
func printDiffs(w io.Writer, all api.Effects) error {
	for _, e := range all.Effects {
		if e.Action == "unchanged" {
			continue
		}
		var err error
		if e.Diff == "" {
			err = printEffect(w, e, true)
		} else {
			_, err = fmt.Fprint(w, e.Diff)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
