package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
)

func newBackup() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy what a running control plane knows into a ZIP file; - is standard output",
		Args:  cobra.ExactArgs(1),
		RunE: f.ask(func(cmd *cobra.Command, c *apiclient.Client, args []string) error {
			if args[0] == "-" {
				return c.Backup(cmd.Context(), cmd.OutOrStdout())
			}
			return replaceFile(args[0], func(file *os.File) error {
				return c.Backup(cmd.Context(), file)
			})
		}),
	}
	f.register(cmd)
	return cmd
}

// replaceFile writes a file that appears when it is whole and on disk.
func replaceFile(path string, write func(*os.File) error) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part-*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer os.Remove(file.Name()) // where it got another name there is nothing to remove
	if err := errors.Join(write(file), file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func newRestore() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "restore FILE --data DIR",
		Short: "Put a backup in the place of what a stopped control plane knows",
		Long: "Put a backup in the place of what a stopped control plane knows. DIR is its\n" +
			"server.data; the server must not run. The backup is checked first, and until it\n" +
			"is in its place the old one stays.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			by := store.Author{Who: cmp.Or(userName(), "restore"), From: args[0]}
			if err := control.Restore(args[0], data, by); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is restored; start the server with it\n",
				data)
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", config.Default().Server.Data,
		"the data folder of the server (server.data)")
	return cmd
}
