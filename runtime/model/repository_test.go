package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/model/layout"
)

// TestSampleModels: all models that come with the server are served.
func TestSampleModels(t *testing.T) {
	r := open(t, "../../configs/models", nil)
	entries := r.Index(false)
	if len(entries) < 9 {
		t.Errorf("%d models, want 9 and more", len(entries))
	}
	for _, e := range entries {
		if e.State != StateReady || e.Reason != "" {
			t.Errorf("%s version %s is %s: %s", e.Name, e.Version, e.State, e.Reason)
		}
	}
	if !r.Ready() {
		t.Error("the repository is not ready")
	}
}

// TestIndex: each folder has its line, with the reason of what is not served.
func TestIndex(t *testing.T) {
	root, second := t.TempDir(), t.TempDir()
	good := addModel(1)
	write(t, filepath.Join(root, "bare", "model.onnx"), good)
	write(t, filepath.Join(root, "two", "1", "model.onnx"), addModel(1))
	write(t, filepath.Join(root, "two", "v2", "model.onnx"), addModel(2))
	write(t, filepath.Join(root, "cut", "1", "model.onnx"), good[:len(good)-3])
	write(t, filepath.Join(root, "config", "1", "model.onnx"), good)
	write(t, filepath.Join(root, "config", "config.pbtxt"), []byte("max_batch_sise: 1"))
	write(t, filepath.Join(root, "empty", "config.pbtxt"), []byte("max_batch_size: 1"))
	write(t, filepath.Join(root, "type", "1", "model.onnx"), good)
	write(t, filepath.Join(root, "type", "config.pbtxt"),
		[]byte(`input [ { name: "x" data_type: TYPE_INT8 dims: [ -1, 4 ] } ]`))
	write(t, filepath.Join(second, "bare", "model.onnx"), addModel(7))
	write(t, filepath.Join(second, "other", "model.onnx"), addModel(7))
	r := open(t, root, func(o *Options) { o.Repositories = []string{root, second} })
	f := func(name, want string) {
		t.Helper()
		got := index(r, name)
		if !strings.HasPrefix(got, want) || strings.Contains(got, root) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	f("bare", "1 READY")
	f("two", "v2 READY")
	f("cut", "1 UNAVAILABLE (layout: not a servable model: model.onnx is not a complete")
	f("config", "UNAVAILABLE (config.pbtxt: layout: bad configuration: ")
	f("empty", "UNAVAILABLE (at least one version must be available")
	f("type", "1 UNAVAILABLE (layout: bad configuration: input \"x\" is TYPE_INT8")
	f("other", "1 READY")
	if got := ask(r, "bare", ""); got != 1 {
		t.Errorf("the second repository serves: got %v", got)
	}
	acquire := func(name, version string, want error, text string) {
		t.Helper()
		v, err := r.Acquire([]byte(name), []byte(version))
		if err == nil {
			v.Release()
		}
		if !errors.Is(err, want) || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%s %s: the error is %v, want %v with %q", name, version, err, want, text)
		}
	}
	acquire("two", "v2", nil, "")
	acquire("two", "1", ErrUnknownModel, "version 1 is not found")
	acquire("none", "", ErrUnknownModel, "'none' is not found")
	acquire("cut", "", ErrNotReady, "version 1 is UNAVAILABLE: layout: not a servable")
	acquire("config", "1", ErrNotReady, "'config' is UNAVAILABLE: config.pbtxt")
}

// TestMendedFolder: a folder that is mended leaves no line of its fault.
func TestMendedFolder(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "3", "model.onnx"), addModel(1))
	write(t, filepath.Join(root, "m", "config.pbtxt"), []byte("max_batch_sise: 1"))
	r := open(t, root, nil)
	sync := func(want string) {
		t.Helper()
		if err := r.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := index(r, "m"); !strings.HasPrefix(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	sync("UNAVAILABLE (config.pbtxt: ")
	write(t, filepath.Join(root, "m", "config.pbtxt"), []byte("max_batch_size: 4"))
	sync("3 READY")
	if got := index(r, "m"); got != "3 READY" {
		t.Errorf("the index is %s", got)
	}
	write(t, filepath.Join(root, "m", "config.pbtxt"), []byte("max_batch_sise: 4"))
	sync("3 READY (config.pbtxt: ")
	write(t, filepath.Join(root, "m", "config.pbtxt"), []byte("max_batch_size: 4"))
	sync("3 READY")
	if got := index(r, "m"); got != "3 READY" {
		t.Errorf("the fault that was mended stays: %s", got)
	}
	write(t, filepath.Join(root, "m", "4", "model.onnx"), []byte("x"))
	sync("3 READY, 4 UNAVAILABLE (layout: ")
	if err := os.RemoveAll(filepath.Join(root, "m", "4")); err != nil {
		t.Fatal(err)
	}
	sync("3 READY")
	if got := index(r, "m"); got != "3 READY" {
		t.Errorf("the version that is gone stays: %s", got)
	}
	if err := os.RemoveAll(filepath.Join(root, "m")); err != nil {
		t.Fatal(err)
	}
	sync("")
	eventually(t, 5*time.Second, "the model leaves the index",
		func() bool { return index(r, "m") == "" })
	r.control.Lock()
	defer r.control.Unlock()
	if len(r.marks) > 0 {
		t.Errorf("%d marks are left of nothing", len(r.marks))
	}
}

// TestUnloadDrains: a version that is unloaded answers what it has accepted,
// and says UNLOADING until then.
func TestUnloadDrains(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "model.onnx"), addModel(3))
	r := open(t, root, func(o *Options) { o.Mode, o.Startup = ModeExplicit, []string{"m"} })
	v, err := r.Acquire([]byte("m"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Unload(context.Background(), "m"); err != nil {
		t.Fatal(err)
	}
	if got := index(r, "m"); got != "1 UNLOADING (unloaded)" {
		t.Errorf("the index is %s", got)
	}
	if _, err := r.Acquire([]byte("m"), nil); !errors.Is(err, ErrNotReady) {
		t.Errorf("the error is %v, want ErrNotReady", err)
	}
	// Loaded again meanwhile, its line is the new version's.
	if err := r.Load(context.Background(), "m", LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := run(v); got != 3 {
		t.Errorf("the request in flight got %v", got)
	}
	v.Release()
	r.wait.Wait()
	if got := index(r, "m"); got != "1 READY" {
		t.Errorf("the index is %s", got)
	}
	if err := r.Unload(context.Background(), "m"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "UNAVAILABLE",
		func() bool { return index(r, "m") == "1 UNAVAILABLE (unloaded)" })
}

// TestSwapUnderLoad: versions change under requests without one that fails,
// and the memory of those that were replaced comes back.
func TestSwapUnderLoad(t *testing.T) {
	const weights, swaps = 16, 8 // MiB
	root := t.TempDir()
	path := filepath.Join(root, "m", "1", "model.onnx")
	write(t, path, heavyModel(1, weights))
	r := open(t, root, nil)
	var stop atomic.Bool
	var asked atomic.Int64
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			tick := time.NewTicker(3 * time.Millisecond)
			defer tick.Stop()
			for last := float32(0); !stop.Load(); <-tick.C {
				got := ask(r, "m", "")
				if !(got >= last) {
					t.Errorf("after %v came %v", last, got)
					return
				}
				last = got
				asked.Add(1)
			}
		})
	}
	begin := int64(0)
	for i := range swaps {
		next := path + ".new"
		write(t, next, heavyModel(float32(i+2), weights))
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		if err := r.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		now := asked.Load()
		eventually(t, 10*time.Second, "requests go on",
			func() bool { return asked.Load() > now+2 })
		if got := ask(r, "m", "1"); got != float32(i+2) {
			t.Fatalf("after swap %d the model says %v: %s", i, got, index(r, "m"))
		}
		if i == 1 {
			r.wait.Wait() // the versions before have left
			begin = resident(t)
		}
	}
	stop.Store(true)
	clients.Wait()
	r.wait.Wait()
	// The C library keeps little of what is freed. Versions that stay take twice the weights each.
	if grown := resident(t) - begin; grown > 2*weights<<20 {
		t.Errorf("%d MiB more after %d swaps of %d MiB", grown>>20, swaps, weights)
	}
}

// resident is the memory of this process in bytes, that of the models that the
// test itself has made left out.
func resident(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(string(bytes.Fields(text)[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// TestClose: nothing is served and nothing can be changed after Close.
func TestClose(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "model.onnx"), addModel(1))
	r := open(t, root, func(o *Options) { o.Mode, o.Startup = ModeExplicit, []string{"*"} })
	v, err := r.Acquire([]byte("m"), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close does not wait for a request: %v", err)
	}
	v.Release()
	closeRepository(t, r)
	if got := index(r, "m"); got != "1 UNAVAILABLE (the server stops)" {
		t.Errorf("the index is %s", got)
	}
	for what, err := range map[string]error{
		"Load": r.Load(context.Background(), "m", LoadOptions{}),
		"Sync": r.Sync(context.Background()), "Unload": r.Unload(context.Background(), "m"),
	} {
		if !errors.Is(err, ErrNotReady) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

// TestVersionOrder: the latest version serves those who name none.
func TestVersionOrder(t *testing.T) {
	root := t.TempDir()
	for i, name := range []string{"2", "10", "9"} {
		write(t, filepath.Join(root, "m", name, "model.onnx"), addModel(float32(i+1)))
	}
	write(t, filepath.Join(root, "m", "config.pbtxt"),
		[]byte(`version_policy { latest { num_versions: 2 } }`))
	r := open(t, root, nil)
	if got := fmt.Sprint(r.Versions("m")); got != "[9 10]" {
		t.Errorf("the versions %s serve", got)
	}
	if ask(r, "m", "") != 2 || ask(r, "m", "9") != 3 {
		t.Errorf("version 10 is not the latest: %v", ask(r, "m", ""))
	}
	if layout.CompareVersions("9", "10") >= 0 {
		t.Error("9 comes after 10")
	}
}
