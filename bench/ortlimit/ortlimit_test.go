package ortlimit

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// start runs the program with the library that the environment names.
func start(t *testing.T) (l *Limit, models string) {
	t.Helper()
	library := os.Getenv("MILLRACE_ONNXRUNTIME")
	if library == "" {
		t.Skip("MILLRACE_ONNXRUNTIME does not name ONNX Runtime's library")
	}
	dir, err := ModuleDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program, err := Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err = Start(context.Background(), program, library)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, filepath.Join(dir, "test_data")
}

func TestLimit(t *testing.T) {
	l, models := start(t)
	if !strings.HasPrefix(l.Version(), "1.") || l.PID() <= 1 {
		t.Errorf("version %q, pid %d", l.Version(), l.PID())
	}
	load := func(name, file string, inputs ...Input) {
		t.Helper()
		if err := l.Load(name, filepath.Join(models, file), inputs...); err != nil {
			t.Fatal(err)
		}
	}
	load("tree", "sklearn_randomforest.onnx") // has a sequence of maps among its outputs
	load("axes", "example_dynamic_axes.onnx",
		Input{Name: "input_vectors", Dims: []int64{Batch, 10}})
	run := func(name string, batch, threads int) {
		t.Helper()
		s, err := l.Run(name, batch, threads, 20*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		// What the threads did in their time, by two ways of counting.
		bound := float64(batch*threads) / (s.P50Micros / 1e6) * 10
		if s.Runs < 1 || s.P50Micros <= 0 || s.RowsPerSecond <= 0 || s.RowsPerSecond > bound {
			t.Errorf("%s, batch %d, %d threads: %+v", name, batch, threads, s)
		}
	}
	run("tree", 1, 1)
	run("tree", 8, 2)
	run("axes", 32, 2)
}

// TestFaults: a wrong command is answered with its reason, and the next one works.
func TestFaults(t *testing.T) {
	l, models := start(t)
	tree := filepath.Join(models, "sklearn_randomforest.onnx")
	f := func(want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	f("cannot load none", l.Load("none", "/no/such/file"))
	f("no input", l.Load("tree", tree, Input{Name: "Y"}))
	f("tab", l.Load("a\tb", tree))
	_, err := l.Run("none", 1, 1, time.Millisecond)
	f("no model none", err)
	if err := l.Load("tree", tree, Input{Name: "X", Dims: []int64{Batch, 3}}); err != nil {
		t.Fatal(err)
	}
	_, err = l.Run("tree", 1, 0, time.Millisecond)
	f("out of range", err)
	_, err = l.Run("tree", 1, 2, time.Millisecond)
	f("Got: 3 Expected: 4", err)
	if err := l.Load("tree", tree); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Run("tree", 2, 2, time.Millisecond); err != nil {
		t.Error(err)
	}
}

func TestNoLibrary(t *testing.T) {
	program, err := Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), program, "/no/such/library.so"); err == nil {
		t.Fatal("started without a library")
	}
}
