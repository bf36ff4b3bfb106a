package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/payload"
	"github.com/millrace-ml/millrace/cmd/millrace/profile"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Bounds and rounds of a profile.
const (
	maxProfileRows = 4096
	profileRounds  = 3
)

// profileFlags say what is measured.
type profileFlags struct {
	serve   serveFlags // only its file and its folders
	version string
	max     int
	target  time.Duration
	time    time.Duration
	maxTime time.Duration
	shapes  []string
	values  inputFlags
	asJSON  bool
}

func newProfile() *cobra.Command {
	var f profileFlags
	cmd := &cobra.Command{
		Use:   "profile MODEL",
		Short: "Measure a model by batch size and runs at once, and recommend its settings",
		Long: "profile loads a model into its own process and runs it with batches of 1, 2, 4 " +
			"and so on\nrows, one and more at once. It shows the cost curve and the settings " +
			"that give the most rows\na second, and, with --latency-target, the most within that " +
			"time. MODEL is a model of --models,\nor an .onnx file. Nothing else should run on " +
			"the machine. What a server adds around the model\nis for `millrace bench` to measure.",
		Example: "  millrace profile mlp --models configs/models\n" +
			"  millrace profile detector.onnx --shape x=1,3,320,320 --latency-target 50ms\n" +
			"  millrace profile fraud -c millrace.yaml --json",
		Args: oneModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd.Context(), args[0], cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.serve.file, "config", "c", "",
		"settings file whose folders and runtime are used")
	flags.StringArrayVar(&f.serve.models, "models", nil, "folder with models; may be repeated")
	flags.StringVar(&f.version, "model-version", "", "version of the model; empty for the latest")
	flags.IntVar(&f.max, "max", 64, "most rows of a run")
	flags.DurationVar(&f.target, "latency-target", 0, "time within which an answer is due")
	flags.DurationVar(&f.time, "time", 100*time.Millisecond,
		fmt.Sprintf("time for each setup, in each of %d rounds", profileRounds))
	flags.DurationVar(&f.maxTime, "max-run-time", time.Second,
		"no larger batches once a run takes longer")
	flags.StringArrayVar(&f.shapes, "shape", nil,
		"NAME=1,3,224,224: size of an input with variable dimensions; may be repeated")
	f.values.register(cmd)
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	_ = cmd.MarkFlagDirname("models")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string,
		cobra.ShellCompDirective) {
		return []string{"onnx"}, cobra.ShellCompDirectiveFilterFileExt
	}
	return cmd
}

func (f *profileFlags) run(ctx context.Context, name string, stdout io.Writer) error {
	if f.max < 1 || f.max > maxProfileRows {
		return fmt.Errorf("--max is %d; give 1 to %d", f.max, maxProfileRows)
	}
	if filepath.Ext(name) == ".onnx" {
		folder, err := f.wrap(name)
		if err != nil {
			return err
		}
		defer os.RemoveAll(folder)
		name = strings.TrimSuffix(filepath.Base(name), ".onnx")
	}
	if len(f.serve.models) == 0 && f.serve.file == "" {
		return errors.New("there is no folder with models; give one with --models DIR, " +
			"or the path of an .onnx file in place of the model's name")
	}
	cfg, err := f.serve.config(func(string) bool { return false })
	if err != nil {
		return err
	}
	rt, err := openRuntime(cfg.Runtime.Library, quiet(), slog.LevelError)
	if err != nil {
		return err
	}
	checked, err := f.find(ctx, &cfg, rt, name)
	if err != nil {
		return err
	}
	report := &profiled{Model: checked.Model, Version: checked.Version, Cores: runtime.NumCPU(),
		Target: f.target, Batching: checked.Batching}
	if report.Points, err = f.measure(ctx, &cfg, rt, checked); err != nil {
		return err
	}
	report.conclude()
	if f.asJSON {
		return report.json(stdout)
	}
	return report.print(stdout)
}

// wrap makes a repository of one lone file, so that it is tried as any model.
func (f *profileFlags) wrap(path string) (folder string, err error) {
	folder, err = os.MkdirTemp("", "millrace-profile-")
	if err != nil {
		return "", fmt.Errorf("cannot make a folder for %s: %w", path, err)
	}
	name := strings.TrimSuffix(filepath.Base(path), ".onnx")
	dir := filepath.Join(folder, name, "1")
	if err = os.MkdirAll(dir, 0o755); err == nil {
		err = copyFile(path, filepath.Join(dir, "model.onnx"))
	}
	if err != nil {
		_ = os.RemoveAll(folder)
		return "", fmt.Errorf("cannot use %s: %w", path, err)
	}
	f.serve.models = []string{folder}
	return folder, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// find tries the model as a server does, and returns what is known of it.
func (f *profileFlags) find(ctx context.Context, cfg *config.Config, rt *ort.Runtime,
	name string) (*model.Checked, error) {
	var found *model.Checked
	done := progress(os.Stderr, func() string { return "trying " + name })
	err := model.Check(ctx, modelOptions(cfg, rt, quiet()), func(c model.Checked) {
		if f.version == "" || f.version == c.Version {
			found = &c
		}
	}, name)
	done()
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot look for the model: %w", err)
	case found == nil:
		return nil, fmt.Errorf("there is no model %q in %s that would be loaded; "+
			"see `millrace check` for what there is", name,
			strings.Join(cfg.Repository.Paths, ", "))
	case len(found.Faults) > 0:
		return nil, fmt.Errorf("cannot load %s: %s", name, strings.Join(found.Faults, "; "))
	}
	return found, nil
}

// measure measures one thread a run with up to as many runs as cores, and one
// run on all cores.
func (f *profileFlags) measure(ctx context.Context, cfg *config.Config, rt *ort.Runtime,
	c *model.Checked) ([]profile.Point, error) {
	source, err := f.source(c.Signature.Inputs)
	if err != nil {
		return nil, err
	}
	p := profile.Config{Sizes: []int{1}, Time: f.time, Rounds: profileRounds, MaxTime: f.maxTime,
		Source: source}
	if c.Batching != model.BatchingNone {
		for rows := 2; rows <= f.max; rows *= 2 {
			p.Sizes = append(p.Sizes, rows)
		}
	}
	cores := runtime.NumCPU()
	var now atomic.Value
	now.Store("loading " + c.Model)
	done := progress(os.Stderr, func() string { return now.Load().(string) })
	defer done()
	p.Before = func(s profile.Setup) {
		now.Store(fmt.Sprintf("%d rows a run, %d at once, %d threads each", s.Rows, s.Runs,
			s.Threads))
	}
	sweep := func(threads int, runs []int) ([]profile.Point, error) {
		session := modelOptions(cfg, rt, quiet()).Defaults.Session
		session.IntraOpThreads = threads
		s, err := rt.NewSession(c.File, session)
		if err != nil {
			return nil, fmt.Errorf("cannot load %s: %w", c.Model, err)
		}
		defer s.Close()
		p.Runs = runs
		return profile.Measure(ctx, s, threads, p)
	}
	var runs []int
	for n := 1; n < cores; n *= 2 {
		runs = append(runs, n)
	}
	points, err := sweep(1, append(runs, cores))
	if err != nil || cores == 1 {
		return points, err
	}
	wide, err := sweep(cores, []int{1})
	return append(points, wide...), err
}

// source makes the inputs of a run from given values, or made up.
func (f *profileFlags) source(specs []tensor.Spec) (profile.Source, error) {
	shapes, err := payload.ParseShapes(specs, f.shapes)
	if err != nil {
		return nil, err
	}
	m := payload.Maker{Specs: specs, Shapes: shapes, Given: make(map[string]tensor.Tensor),
		Rand: rand.New(rand.NewPCG(7, 7))}
	if f.values.given() {
		list, err := f.values.read(specs, os.Stdin)
		if err != nil {
			return nil, err
		}
		for _, t := range list {
			m.Given[t.Name] = t
		}
	}
	return func(rows int) ([]tensor.Tensor, error) {
		made, err := m.Rows(int64(rows))
		if err != nil {
			return nil, err
		}
		inputs := make([]tensor.Tensor, len(specs)) // Invalid where one is left out
		for i := range specs {
			for _, t := range made {
				if t.Name == specs[i].Name {
					inputs[i] = t
				}
			}
		}
		return inputs, nil
	}, nil
}
