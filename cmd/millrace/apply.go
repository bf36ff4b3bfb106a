package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/control/api"
)

func newApply() *cobra.Command {
	var f adminFlags
	var file string
	var o apiclient.Options
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Make or change sources, models and endpoints of a running server",
		Long: "Make or change sources, models and endpoints of a running server: all of a\n" +
			"file, or nothing. The file has lists of sources, models and endpoints as the\n" +
			"settings file has, or resources with kind, name and spec as\n" +
			"`millrace get -o yaml` prints them.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := readDocuments(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			done, err := c.Apply(cmd.Context(), text, o)
			if err != nil {
				return err
			}
			return f.print(cmd.OutOrStdout(), done, func(w io.Writer) error {
				return printEffects(w, done)
			})
		},
	}
	f.registerOutput(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "file, folder, or - for standard input")
	changeFlags(cmd, &o)
	return cmd
}

// changeFlags adds the flags of what changes resources.
func changeFlags(cmd *cobra.Command, o *apiclient.Options) {
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be")
	cmd.Flags().BoolVar(&o.TakeOver, "take-over", false,
		"change also what the settings file has; from then on it is changed here")
}

// printEffects writes a line for each resource.
func printEffects(w io.Writer, all api.Effects) error {
	for _, e := range all.Effects {
		if err := printEffect(w, e, all.DryRun); err != nil {
			return err
		}
	}
	return nil
}

func printEffect(w io.Writer, e api.Effect, dry bool) error {
	verb := e.Action
	if dry && verb != "unchanged" {
		verb = "would be " + verb
	}
	_, err := fmt.Fprintf(w, "%s %s %s\n", strings.ToLower(e.Kind), values.Printable(e.Name), verb)
	return err
}
