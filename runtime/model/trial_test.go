package model

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// tried makes a model folder and tries it in the child of ts.
func tried(t *testing.T, ctx context.Context, ts *trials, model []byte) trialResult {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "1", "model.onnx"), model)
	f := layout.ScanFolder(root, "m")
	if f.Fault != nil {
		t.Fatal(f.Fault)
	}
	return ts.run(ctx, trialJob{Name: "m", Dir: f.Dir, Version: f.Versions[0],
		Session: DefaultDefaults().Session, DefaultBatch: 8, Memory: ts.cfg.Memory})
}

func newTrials(t *testing.T, cfg TrialConfig) *trials {
	ts := &trials{cfg: cfg}
	t.Cleanup(ts.close)
	return ts
}

// TestTrialMemory: a model that eats memory is refused, and the next one in the
// same child has the whole limit again.
func TestTrialMemory(t *testing.T) {
	cfg := DefaultTrialConfig()
	cfg.Memory = 128 << 20
	ts := newTrials(t, cfg)
	ctx := t.Context()
	if got := tried(t, ctx, ts, addModel(1)); got.Error != "" || !got.Ran || !got.Batched {
		t.Fatalf("a plain model: %+v", got)
	}
	first := ts.child
	got := tried(t, ctx, ts, hungryModel(2))
	if !strings.Contains(got.Error, "may take 128 MiB, see repository.trial.memory") {
		t.Errorf("a model that eats memory: %+v", got)
	}
	// Weights take 16 MiB and some copies; four of them would not fit together.
	for range 4 {
		if got := tried(t, ctx, ts, heavyModel(1, 16)); got.Error != "" || !got.Ran {
			t.Errorf("a model within the limit: %+v", got)
		}
	}
	if ts.child != first {
		t.Error("the child was lost")
	}
	if got := tried(t, ctx, ts, heavyModel(1, 140)); got.Error == "" {
		t.Errorf("a model with more weights than the limit: %+v", got)
	}
}

// TestTrialEnds: a child that dies, hangs or cannot be started costs the
// version that was tried, and the next one gets a child of its own.
func TestTrialEnds(t *testing.T) {
	f := func(what string, command []string, timeout time.Duration, want string) {
		t.Helper()
		cfg := DefaultTrialConfig()
		cfg.Command, cfg.Timeout = command, timeout
		ts := newTrials(t, cfg)
		if got := tried(t, t.Context(), ts, addModel(1)); !strings.Contains(got.Error, want) {
			t.Errorf("%s: %+v, want %s", what, got, want)
		}
		ts.cfg.Command, ts.cfg.Timeout = nil, time.Minute
		if got := tried(t, t.Context(), ts, addModel(1)); got.Error != "" {
			t.Errorf("after %s: %+v", what, got)
		}
	}
	shell := func(script string) []string { return []string{"sh", "-c", script} }
	f("a signal", shell("read job; kill -SEGV $$"), time.Minute,
		"the process that tried it died: segmentation fault")
	f("an abort", shell("read job; echo 'free(): invalid pointer' >&2; kill -ABRT $$"), time.Minute,
		"died: aborted (free(): invalid pointer)")
	f("an exit", shell("read job; exit 3"), time.Minute, "died: exit status 3")
	f("nonsense", shell("read job; echo hello; sleep 20"), time.Minute, "died")
	f("a hang", shell("read job; exec sleep 100"), 50*time.Millisecond,
		"took longer than 50ms and was stopped")
	f("no such program", []string{filepath.Join(t.TempDir(), "none")}, time.Minute,
		"cannot start the trial process")
}

// TestTrialCalledOff: who stops the server does not wait for a trial.
func TestTrialCalledOff(t *testing.T) {
	cfg := DefaultTrialConfig()
	cfg.Command = []string{"sh", "-c", "read job; exec sleep 100"}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	got := tried(t, ctx, newTrials(t, cfg), addModel(1))
	if got.Error != "its trial was called off" {
		t.Errorf("got %+v", got)
	}
}

// TestTrialCache: what has passed is not tried again, unless something that
// matters is another.
func TestTrialCache(t *testing.T) {
	root := t.TempDir()
	cache := t.TempDir()
	write(t, filepath.Join(root, "m", "1", "model.onnx"), addModel(1))
	entries := func(set func(*Options)) int {
		t.Helper()
		r := open(t, root, func(o *Options) {
			o.Trial.Cache = cache
			if set != nil {
				set(o)
			}
		})
		for _, e := range r.Index(false) {
			if e.State != StateReady {
				t.Errorf("%+v", e)
			}
		}
		list, err := os.ReadDir(cache)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	f := func(what string, want int, set func(*Options)) {
		t.Helper()
		if got := entries(set); got != want {
			t.Errorf("%s: %d trials are remembered, want %d", what, got, want)
		}
	}
	f("the first load", 1, nil)
	f("the second load", 1, func(o *Options) { o.Trial.Command = []string{"false"} })
	write(t, filepath.Join(root, "copy", "1", "model.onnx"), addModel(1))
	f("a copy", 1, nil)
	f("other session settings", 2, func(o *Options) { o.Defaults.Session.GraphLevel = "basic" })
	two := 2
	f("settings of the model", 3,
		func(o *Options) { o.Models = map[string]Settings{"m": {MaxBatchSize: &two}} })
	write(t, filepath.Join(root, "m", "warmup", "x"), floats(1, 2, 3, 4))
	write(t, filepath.Join(root, "m", "config.pbtxt"), []byte(`model_warmup [ { inputs { key: "x" `+
		`value: { data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "x" } } } ]`))
	f("a warm-up request", 4, nil)
	write(t, filepath.Join(root, "m", "warmup", "x"), floats(1, 2, 3, 5))
	f("another file of it", 5, nil)
	write(t, filepath.Join(root, "m", "1", "model.onnx"), addModel(2))
	f("another model", 6, nil)
}

// TestTrialSettings: what is tried is what is loaded, with the server's
// session settings and the model's.
func TestTrialSettings(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "1", "model.onnx"), addModel(1))
	f := func(want string, set func(*Options)) {
		t.Helper()
		if got := index(open(t, root, set), "m"); !strings.HasPrefix(got, want) {
			t.Errorf("the index is %s, want %s", got, want)
		}
	}
	f("1 READY", nil)
	f(`1 UNAVAILABLE (ort: execution provider "nosuch"`, func(o *Options) {
		o.Defaults.Session.Providers = cpuAnd("nosuch")
	})
	f("1 READY", func(o *Options) {
		o.Defaults.Session.Providers, o.Defaults.Session.Fallback = cpuAnd("nosuch"), true
	})
	yes := true
	f("1 READY", func(o *Options) {
		o.Models = map[string]Settings{"m": {Providers: cpuAnd("nosuch"), Fallback: &yes}}
	})
	f("1 READY", func(o *Options) {
		o.Defaults.Session.Providers = cpuAnd("nosuch")
		o.Models = map[string]Settings{"m": {Providers: cpuAnd("cpu")}}
	})
}

// TestMLflow: the signature of a model from MLflow is part of what is served.
func TestMLflow(t *testing.T) {
	free := onnx(value("x", -1, -1), value("y", -1, -1), []pb{operator("Add", "y", "x", "c")},
		[]pb{constant("c", onnxFloat, floats(1), 1)})
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "net.onnx"), free)
	write(t, filepath.Join(root, "bad", "net.onnx"), free)
	text := func(dtype string) []byte {
		return []byte("flavors: {onnx: {data: net.onnx}}\nsignature: {inputs: '" +
			`[{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "` + dtype +
			`", "shape": [-1, 4]}}]'}`)
	}
	write(t, filepath.Join(root, "m", "MLmodel"), text("float32"))
	write(t, filepath.Join(root, "bad", "MLmodel"), text("int64"))
	r := open(t, root, nil)
	v, err := r.Acquire([]byte("m"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	if got := v.sig.Inputs[0].Shape; len(got) != 2 || got[1] != 4 || v.sig.MaxBatchSize != 64 {
		t.Errorf("the input has the shape %v, max_batch_size is %d", got, v.sig.MaxBatchSize)
	}
	if got := index(r, "bad"); !strings.Contains(got, `input "x" is int64, the model's is FP32`) {
		t.Errorf("the index is %s", got)
	}
}

func cpuAnd(name string) []ort.Provider {
	return []ort.Provider{{Name: name}, {Name: "cpu"}}
}
