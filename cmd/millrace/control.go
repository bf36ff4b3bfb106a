package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/control/api"
)

// defaultAdmin is where the control plane listens when `serve` is told nothing.
const defaultAdmin = "http://127.0.0.1:8002"

// adminFlags say which control plane is meant, and how its answer is shown.
type adminFlags struct {
	address string
	output  string
}

// register adds the flag that names the admin port.
func (f *adminFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.address, "admin", cmp.Or(os.Getenv("MILLRACE_ADMIN"), defaultAdmin),
		"admin port of the server: http://host:port or unix:/path (MILLRACE_ADMIN)")
}

// registerOutput adds that and the flag that says how to print.
func (f *adminFlags) registerOutput(cmd *cobra.Command) {
	f.register(cmd)
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "table, json or yaml")
}

func (f *adminFlags) client() (*apiclient.Client, error) {
	if outputs := []string{"", "table", "json", "yaml"}; !slices.Contains(outputs, f.output) {
		return nil, fmt.Errorf("--output is %q, must be table, json or yaml", f.output)
	}
	return apiclient.New(f.address, userName())
}

// ask is what a command runs that asks the control plane something.
func (f *adminFlags) ask(
	do func(cmd *cobra.Command, c *apiclient.Client, args []string) error,
) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		return do(cmd, c, args)
	}
}

// of returns a client, and the plural of the kind of resource that somebody wrote.
func (f *adminFlags) of(kind string) (c *apiclient.Client, plural string, err error) {
	if c, err = f.client(); err == nil {
		plural, err = pluralOf(kind)
	}
	return c, plural, err
}

// userName is who stands in the audit log.
func userName() string {
	name := cmp.Or(os.Getenv("MILLRACE_USER"), os.Getenv("USER"))
	if me, err := user.Current(); name == "" && err == nil {
		name = me.Username
	}
	return name
}

// print shows an answer as it was asked for.
func (f *adminFlags) print(w io.Writer, v any, asTable func(io.Writer) error) error {
	switch f.output {
	case "json":
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		text, err := json.Marshal(v)
		if err == nil {
			text, err = api.YAML(text)
		}
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	return asTable(w)
}

// plurals are the kinds of resources as people write them, by their plurals.
var plurals = map[string][]string{
	"sources":   {"source", "src"},
	"models":    {"model"},
	"endpoints": {"endpoint", "ep"},
	"monitors":  {"monitor", "mo"},
	"alarms":    {"alarm"},
	"rollouts":  {"rollout", "ro"},
	"tests":     {"test"},
	"triggers":  {"trigger", "tr"},
	"runs":      {"run"},
}

// pluralOf returns the plural of a kind that somebody wrote.
func pluralOf(word string) (string, error) {
	word = strings.ToLower(word)
	for plural, others := range plurals {
		if word == plural || slices.Contains(others, word) {
			return plural, nil
		}
	}
	return "", fmt.Errorf("%q is no kind of resource; there are %s", word,
		strings.Join(slices.Sorted(maps.Keys(plurals)), ", "))
}

// ofKind wants a kind and so many names after it.
func ofKind(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("name a kind: %s; see `%s --help`",
				strings.Join(slices.Sorted(maps.Keys(plurals)), ", "), cmd.CommandPath())
		}
		if _, err := pluralOf(args[0]); err != nil {
			return err
		}
		if n := len(args) - 1; n < low || n > high {
			return fmt.Errorf("%d names are given; the command is `%s`", n, cmd.UseLine())
		}
		return nil
	}
}

// maxText bounds the files of one apply.
const maxText = 16 << 20

// readDocuments reads what -f names: a file, all files of a folder, or - for standard input.
func readDocuments(name string, stdin io.Reader) ([]byte, error) {
	if name == "" {
		return nil, errors.New("name a file or a folder with -f, or - for standard input")
	}
	if name == "-" {
		return readBounded(stdin, name)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the resources: %w", err)
	}
	files := []string{name}
	if info.IsDir() {
		if files, err = documentsIn(name); err != nil {
			return nil, err
		}
	}
	var all [][]byte
	for _, path := range files {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the resources: %w", err)
		}
		text, err := readBounded(file, path)
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return bytes.Join(all, []byte("\n---\n")), nil
}

func readBounded(r io.Reader, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("%s is larger than %d bytes; apply it in parts", name, maxText)
	}
	return text, nil
}

// documentsIn lists the YAML and JSON files of a folder, by name.
func documentsIn(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("cannot read the resources: %w", err)
	}
	var files []string
	for _, e := range entries {
		ends := []string{".yaml", ".yml", ".json"}
		if !e.IsDir() && slices.Contains(ends, filepath.Ext(e.Name())) {
			files = append(files, filepath.Join(folder, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("the folder %s has no .yaml, .yml or .json files", folder)
	}
	return files, nil
}

// age says how long ago something was, in the two largest units at most.
func age(since time.Duration) string {
	switch days := since / (24 * time.Hour); {
	case since < 0:
		return "0s"
	case days >= 2:
		return fmt.Sprintf("%dd", days)
	case since >= time.Hour:
		return fmt.Sprintf("%dh%dm", since/time.Hour, since%time.Hour/time.Minute)
	case since >= time.Minute:
		return fmt.Sprintf("%dm%ds", since/time.Minute, since%time.Minute/time.Second)
	}
	return since.Truncate(time.Second).String()
}
