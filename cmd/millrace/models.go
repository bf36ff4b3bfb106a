package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/client"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
)

// defaultURL is where `serve` listens when it is told nothing.
const defaultURL = "http://127.0.0.1:8000"

// urlFlag adds the flag that names the server.
func urlFlag(cmd *cobra.Command, url *string) {
	cmd.Flags().StringVar(url, "url", defaultURL, "the server: http://host:port or unix:/path")
}

func newModels() *cobra.Command {
	var url string
	var asJSON bool
	list := func(cmd *cobra.Command, _ []string) error {
		c, err := client.New(url)
		if err != nil {
			return err
		}
		entries, err := c.Index(cmd.Context())
		if err != nil {
			return err
		}
		return printIndex(cmd.OutOrStdout(), entries, asJSON)
	}
	cmd := &cobra.Command{
		Use:   "models",
		Short: "List, load and unload the models of a server",
		Args:  cobra.NoArgs,
		RunE:  list,
	}
	listCmd := &cobra.Command{
		Use: "list", Short: "List the models, their state and why they are in it",
		Args: cobra.NoArgs, RunE: list,
	}
	for _, c := range []*cobra.Command{cmd, listCmd} {
		urlFlag(c, &url)
		c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	}
	cmd.AddCommand(listCmd, newModelsLoad(), newModelsUnload())
	return cmd
}

// printIndex writes the repository's index.
func printIndex(w io.Writer, entries []client.Entry, asJSON bool) error {
	if asJSON {
		if entries == nil {
			entries = []client.Entry{}
		}
		return json.NewEncoder(w).Encode(entries)
	}
	if len(entries) == 0 {
		_, err := fmt.Fprintln(w, "the server has no models; put some into its folder")
		return err
	}
	t := table(w)
	fmt.Fprintln(t, "MODEL\tVERSION\tSTATE\tREASON")
	for _, e := range entries {
		state := e.State
		if state == "" {
			state = "not loaded"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", values.Printable(e.Name), values.Printable(e.Version),
			state,
			values.Printable(strings.TrimSpace(e.Reason)))
	}
	return t.Flush()
}

func newModelsLoad() *cobra.Command {
	var url, config string
	cmd := &cobra.Command{
		Use:   "load MODEL",
		Short: "Load a model, or load it again; the server must run in mode explicit",
		Args:  oneModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client.New(url)
			if err != nil {
				return err
			}
			var text []byte
			if config != "" {
				if text, err = os.ReadFile(config); err != nil {
					return fmt.Errorf("cannot read the model's configuration: %w", err)
				}
			}
			done := progress(os.Stderr, func() string { return "loading " + args[0] })
			defer done()
			return c.Load(cmd.Context(), args[0], string(text))
		},
	}
	urlFlag(cmd, &url)
	cmd.ValidArgsFunction = completeModels(&url)
	cmd.Flags().StringVar(&config, "config", "",
		"file with a model configuration in JSON, in place of config.pbtxt")
	return cmd
}

func newModelsUnload() *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use:   "unload MODEL",
		Short: "Take a model out of service; the server must run in mode explicit",
		Args:  oneModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client.New(url)
			if err != nil {
				return err
			}
			done := progress(os.Stderr, func() string { return "unloading " + args[0] })
			defer done()
			return c.Unload(cmd.Context(), args[0])
		},
	}
	urlFlag(cmd, &url)
	cmd.ValidArgsFunction = completeModels(&url)
	return cmd
}
