package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/client"
)

// completeTimeout bounds how long a shell waits for the names of models.
const completeTimeout = 500 * time.Millisecond

// completeModels completes an argument by the names of the server's models. A
// server that does not answer has none: a shell is no place for an error.
func completeModels(address *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := client.New(*address)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
		defer cancel()
		entries, _ := c.Index(ctx)
		var names []string
		for i, e := range entries {
			if i == 0 || e.Name != entries[i-1].Name {
				names = append(names, e.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// oneModel wants one argument, the model.
func oneModel(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("name one model: %s MODEL; see `%s --help`", cmd.CommandPath(),
			cmd.CommandPath())
	}
	return nil
}
