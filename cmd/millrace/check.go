package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

func newCheck() *cobra.Command {
	var f serveFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [DIR...]",
		Short: "Show what would be loaded from folders, and everything that is wrong",
		Long: "check does what serve does before it serves: it reads each model's configuration, " +
			"tries the\nmodel in a process of its own and holds the two against each other. " +
			"It ends with status 1\nwhen a server would not load everything.",
		Example: "  millrace check configs/models\n" +
			"  millrace check -c millrace.yaml\n" +
			"  millrace check models --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.models = args; len(args) == 0 && f.file == "" {
				return errors.New("there is nothing to check; give a folder with models, " +
					"or a settings file by -c FILE")
			}
			cfg, err := f.config(func(string) bool { return false })
			if err != nil {
				return err
			}
			return check(cmd.Context(), &cfg, cmd.OutOrStdout(), asJSON)
		},
	}
	cmd.Flags().StringVarP(&f.file, "config", "c", "",
		"settings file whose folders, limits and library are used")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a version")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string,
		cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

// check reports on every version and returns an error when one has faults.
func check(ctx context.Context, cfg *config.Config, w io.Writer, asJSON bool) error {
	rt, err := openRuntime(cfg.Runtime.Library, quiet(), slog.LevelError)
	if err != nil {
		return err
	}
	var looked atomic.Int64
	done := progress(os.Stderr, func() string {
		return fmt.Sprintf("trying models, %d done", looked.Load())
	})
	var all []model.Checked
	err = model.Check(ctx, modelOptions(cfg, rt, quiet()), func(c model.Checked) {
		all = append(all, c)
		looked.Add(1)
	})
	done()
	if err != nil {
		return fmt.Errorf("cannot check the models: %w", err)
	}
	write := writeChecked
	if asJSON {
		write = writeCheckedJSON
	}
	if err := write(w, all); err != nil {
		return err
	}
	faulty := 0
	for i := range all {
		if len(all[i].Faults) > 0 {
			faulty++
		}
	}
	err = checkEndpoints(cfg, all)
	if faulty > 0 {
		return errors.Join(err,
			fmt.Errorf("%d of %d cannot be loaded; the faults stand above", faulty, len(all)))
	}
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("there are no models in %s; each is a folder with a model.onnx, "+
			"such as NAME/1/model.onnx", strings.Join(cfg.Repository.Paths, ", "))
	}
	return nil
}

// checkEndpoints holds the endpoints of the settings against the versions that
// would be loaded.
func checkEndpoints(cfg *config.Config, all []model.Checked) error {
	table, err := route.New(cfg.Specs(), cfg.Aliases())
	if err != nil {
		return err
	}
	return table.Check(func(name, version []byte) (*tensor.Signature, error) {
		for i := range all {
			c := &all[i]
			if c.Model == string(name) && c.Signature != nil &&
				(len(version) == 0 || c.Version == string(version)) {
				return c.Signature, nil
			}
		}
		if len(version) == 0 {
			return nil, fmt.Errorf("no version of model %q would be loaded", name)
		}
		return nil, fmt.Errorf("version %q of model %q would not be loaded", version, name)
	})
}

// quiet drops log lines: the commands that use it print what there is to say.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// writeChecked writes a block of lines for each version.
func writeChecked(w io.Writer, all []model.Checked) error {
	t := table(w)
	for i := range all {
		c := &all[i]
		verdict := "would be loaded"
		switch {
		case len(c.Faults) > 0:
			verdict = "cannot be loaded"
		case c.Signature == nil:
			verdict = "is left out"
		}
		name := values.Printable(c.Model)
		if c.Version != "" {
			name += ", version " + values.Printable(c.Version)
		}
		fmt.Fprintf(t, "%s: %s\n", name, verdict)
		if c.Signature != nil {
			writeSignature(t, c)
		}
		for _, text := range c.Warnings {
			fmt.Fprintf(t, "  warning\t%s\n", values.Printable(text))
		}
		for _, text := range c.Faults {
			fmt.Fprintf(t, "  fault\t%s\n", values.Printable(text))
		}
	}
	return t.Flush()
}

// writeSignature writes what a version takes, gives and how it is batched.
func writeSignature(t io.Writer, c *model.Checked) {
	write := func(kind string, specs []tensor.Spec) {
		for _, s := range specs {
			optional := ""
			if s.Optional {
				optional = ", optional"
			}
			fmt.Fprintf(t, "  %s\t%s %s %s%s\n", kind, values.Printable(s.Name), s.Datatype,
				tensor.FormatShape(s.Shape), optional)
		}
	}
	write("input", c.Signature.Inputs)
	write("output", c.Signature.Outputs)
	fmt.Fprintf(t, "  batching\t%s\n", describeBatching(c))
	source := "completed from the model, there is no config.pbtxt"
	if c.Configured {
		source = "config.pbtxt"
	}
	fmt.Fprintf(t, "  configuration\t%s\n", source)
}

func describeBatching(c *model.Checked) string {
	rows := c.Signature.MaxBatchSize
	switch c.Batching {
	case model.BatchingProven:
		return fmt.Sprintf("up to %d rows, proven: rows together give the same answers as alone",
			rows)
	case model.BatchingUnproven:
		return fmt.Sprintf("up to %d rows, as config.pbtxt says; not proven", rows)
	}
	return "none: each request is run alone"
}

// checkedJSON is what --json shows of a version.
type checkedJSON struct {
	Repository string       `json:"repository"`
	Model      string       `json:"model"`
	Version    string       `json:"version,omitempty"`
	Loads      bool         `json:"loads"`
	Configured bool         `json:"config_pbtxt"`
	Batching   string       `json:"batching"`
	MaxBatch   int          `json:"max_batch_size"`
	Inputs     []tensorJSON `json:"inputs,omitempty"`
	Outputs    []tensorJSON `json:"outputs,omitempty"`
	Warnings   []string     `json:"warnings,omitempty"`
	Faults     []string     `json:"faults,omitempty"`
}

type tensorJSON struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
	Optional bool    `json:"optional,omitempty"`
}

func writeCheckedJSON(w io.Writer, all []model.Checked) error {
	out := json.NewEncoder(w)
	for i := range all {
		c := &all[i]
		j := checkedJSON{Repository: c.Repository, Model: c.Model, Version: c.Version,
			Loads: c.Signature != nil, Configured: c.Configured, Batching: string(c.Batching),
			Warnings: c.Warnings, Faults: c.Faults}
		if c.Signature != nil {
			j.MaxBatch = c.Signature.MaxBatchSize
			j.Inputs = tensorsJSON(c.Signature.Inputs)
			j.Outputs = tensorsJSON(c.Signature.Outputs)
		}
		if err := out.Encode(j); err != nil {
			return err
		}
	}
	return nil
}

func tensorsJSON(specs []tensor.Spec) []tensorJSON {
	var list []tensorJSON
	for _, s := range specs {
		list = append(list, tensorJSON{s.Name, s.Datatype.String(), s.Shape, s.Optional})
	}
	return list
}
