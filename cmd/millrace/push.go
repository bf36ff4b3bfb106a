package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
)

func newPush() *cobra.Command {
	var f adminFlags
	var version string
	var aliases []string
	cmd := &cobra.Command{
		Use:   "push MODEL FILE|DIR",
		Short: "Upload a version of a model; a push that was cut off goes on where it was",
		Long: "Upload a version of a model: an .onnx file, or a folder with all files of the\n" +
			"version. The model's source is one with `push: true`. A push that was cut off goes\n" +
			"on where it was when it is given again.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			p, err := apiclient.NewPush(args[0], args[1])
			if err != nil {
				return err
			}
			for i := range aliases {
				aliases[i] = strings.TrimPrefix(aliases[i], "@") // as it is written elsewhere
			}
			p.Manifest.Version, p.Manifest.Aliases = version, aliases
			stop := progress(os.Stderr, func() string { return pushText(p) })
			pushed, err := c.Push(cmd.Context(), p)
			stop()
			if err != nil {
				return fmt.Errorf("cannot push %s: %w", values.Printable(args[0]), err)
			}
			answer := map[string]any{"model": args[0], "version": pushed, "aliases": aliases,
				"bytes": p.Bytes}
			return f.print(cmd.OutOrStdout(), answer, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s has version %s (%d files, %s)\n",
					values.Printable(args[0]), values.Printable(pushed), len(p.Manifest.Files),
					megabytes(p.Bytes))
				return err
			})
		},
	}
	f.registerOutput(cmd)
	cmd.Flags().StringVar(&version, "version", "", "name of the version; without, the next number")
	cmd.Flags().StringArrayVar(&aliases, "alias", nil,
		"alias that names the version from now on, as in challenger; may be given again")
	return cmd
}

// pushText says how far a push is.
func pushText(p *apiclient.Push) string {
	switch hashed, sent := p.Hashed.Load(), p.Sent.Load(); {
	case hashed < p.Bytes:
		return fmt.Sprintf("reading %s of %s", megabytes(hashed), megabytes(p.Bytes))
	case sent < p.Bytes:
		return fmt.Sprintf("sent %s of %s (%d %%)", megabytes(sent), megabytes(p.Bytes),
			100*sent/p.Bytes)
	}
	return "the server takes it in"
}

func megabytes(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
