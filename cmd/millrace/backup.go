package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
)

// controlFile is the store of the control plane in the data folder.
const controlFile = "control.db"

func newBackup() *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy what a running control plane knows into a file; - is standard output",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			if args[0] == "-" {
				return c.Backup(cmd.Context(), cmd.OutOrStdout())
			}
			return replaceFile(args[0], func(file *os.File) error {
				return c.Backup(cmd.Context(), file)
			})
		},
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
			if err := os.MkdirAll(data, 0o755); err != nil {
				return fmt.Errorf("cannot make the data folder: %w", err)
			}
			path := filepath.Join(data, controlFile)
			by := store.Author{Who: cmp.Or(userName(), "restore"), From: args[0]}
			if err := store.Restore(args[0], path, by); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is restored; start the server with it\n",
				path)
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", config.Default().Server.Data,
		"the data folder of the server (server.data)")
	return cmd
}
