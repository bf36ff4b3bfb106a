package main

import (
	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/runtime/model"
)

// newTrial is the child process in which the server tries models.
func newTrial() *cobra.Command {
	return &cobra.Command{
		Use:    "trial",
		Short:  "Try models for a server; started by it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if status := model.TrialMain(cmd.InOrStdin(), cmd.OutOrStdout()); status != 0 {
				return exitStatus(status)
			}
			return nil
		},
	}
}
