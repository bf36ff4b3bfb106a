package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/millrace-ml/millrace/drift/capture"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// capturedFlags say which samples of a tap count.
type capturedFlags struct {
	endpoint, model, version string
	folders                  []string
}

func (f *capturedFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.endpoint, "endpoint", "", "samples: only those of this endpoint")
	flags.StringVar(&f.model, "model", "", "samples: only those that this model answered")
	flags.StringVar(&f.version, "version", "", "samples: only those that this version answered")
	flags.StringArrayVar(&f.folders, "models", nil,
		"samples: folder with the model, whose names of columns and classes are used")
}

// build makes a profile of files of the kind that the first one is of.
func (f *referenceFlags) build(ctx context.Context, paths []string) (*reference.Profile, error) {
	files, samples, err := listData(paths)
	if err != nil {
		return nil, err
	}
	if samples {
		return f.fromSamples(ctx, files)
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("there are %d files; only samples may be in several, put a table "+
			"into one", len(files))
	}
	return f.fromTable(files[0])
}

// listData returns the files to be read, and whether they are samples.
func listData(paths []string) (files []string, samples bool, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, false, err
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		inside, err := samplesIn(path)
		if err != nil {
			return nil, false, err
		}
		if len(inside) == 0 {
			return nil, false, fmt.Errorf("there are no samples in %s; a tap writes files such as "+
				"samples-ENDPOINT-TIME-000001.parquet, and ends them after a minute or more", path)
		}
		samples = true
		files = append(files, inside...)
	}
	if samples {
		return files, true, nil
	}
	switch path := files[0]; suffix(path) {
	case "jsonl":
		samples = true
	case "parquet":
		samples, err = readFile(path, func(file *os.File, size int64) (bool, error) {
			return capture.IsParquet(file, size), nil
		})
	}
	return files, samples, err
}

// samplesIn returns the files of samples in a folder, in the order of their times.
func samplesIn(dir string) (files []string, err error) {
	all, err := os.ReadDir(dir)
	for _, e := range all {
		kind := suffix(e.Name())
		if strings.HasPrefix(e.Name(), "samples-") && (kind == "parquet" || kind == "jsonl") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, err
}

// readFile opens a file for as long as read takes.
func readFile[T any](path string, read func(file *os.File, size int64) (T, error)) (x T,
	err error) {
	file, err := os.Open(path)
	if err != nil {
		return x, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return x, err
	}
	if x, err = read(file, info.Size()); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return x, err
}

// fromTable makes a profile of a file with a column for each feature.
func (f *referenceFlags) fromTable(path string) (*reference.Profile, error) {
	return readFile(path, func(file *os.File, size int64) (*reference.Profile, error) {
		switch suffix(path) {
		case "csv":
			return reference.FromCSV(file, f.options)
		case "parquet":
			return reference.FromParquet(file, size, f.options)
		case "json":
			return reference.FromMLflow(file, f.options)
		}
		return nil, errors.New("the name must end in .csv, .parquet, .jsonl or .json, " +
			"which says how to read it")
	})
}

// fromSamples makes a profile of files that a tap has written.
func (f *referenceFlags) fromSamples(ctx context.Context, files []string) (*reference.Profile,
	error) {
	c := &f.captured
	o := capture.Options{Endpoint: c.endpoint, Model: c.model, Version: c.version,
		Reference: f.options}
	var err error
	if len(c.folders) > 0 {
		if o.Signature, err = c.signature(ctx); err != nil {
			return nil, err
		}
	}
	b := capture.NewBuilder(o)
	for _, path := range files {
		if _, err := readFile(path, func(file *os.File, size int64) (struct{}, error) {
			if suffix(path) == "parquet" {
				return struct{}{}, b.Parquet(file, size)
			}
			return struct{}{}, b.Lines(file)
		}); err != nil {
			return nil, err
		}
	}
	return b.Build()
}

// signature returns that of the model, as a server would load it.
func (c *capturedFlags) signature(ctx context.Context) (*tensor.Signature, error) {
	serve := serveFlags{models: c.folders}
	cfg, err := serve.config(func(string) bool { return false })
	if err != nil {
		return nil, err
	}
	rt, err := openRuntime(cfg.Runtime.Library, quiet(), slog.LevelError)
	if err != nil {
		return nil, err
	}
	var found []model.Checked
	var names []string
	err = model.Check(ctx, modelOptions(&cfg, rt, quiet()), func(m model.Checked) {
		if m.Signature == nil {
			return
		}
		names = append(names, m.Model+" version "+m.Version)
		if (c.model == "" || m.Model == c.model) && (c.version == "" || m.Version == c.version) {
			found = append(found, m)
		}
	})
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d of the models in %s may be meant; name one of these by --model "+
			"and --version: %s", len(found), strings.Join(c.folders, ", "),
			strings.Join(names, ", "))
	}
	return found[0].Signature, nil
}
