package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
)

func newDelete() *cobra.Command {
	var f adminFlags
	var o apiclient.Options
	cmd := &cobra.Command{
		Use:   "delete KIND NAME",
		Short: "Delete a resource of a running server, such as an endpoint",
		Args:  ofKind(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, plural, err := f.of(args[0])
			if err != nil {
				return err
			}
			e, err := c.Delete(cmd.Context(), plural, args[1], o)
			if err != nil {
				return err
			}
			return f.print(cmd.OutOrStdout(), e, func(w io.Writer) error {
				return printEffect(w, e, o.DryRun)
			})
		},
	}
	f.registerOutput(cmd)
	changeFlags(cmd, &o)
	return cmd
}
