package model

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// explicit opens a repository that loads what it is told, with a folder of its
// own for temporary files.
func explicit(t *testing.T, root string) *Repository {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	return open(t, root, func(o *Options) { o.Mode = ModeExplicit })
}

func load(r *Repository, name string, o LoadOptions) string {
	if err := r.Load(context.Background(), name, o); err != nil {
		return err.Error()
	}
	return ""
}

func TestExplicit(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "1", "model.onnx"), addModel(1))
	write(t, filepath.Join(root, "cut", "1", "model.onnx"), []byte("x"))
	r := explicit(t, root)
	f := func(name string, o LoadOptions, fault, want string) {
		t.Helper()
		got := load(r, name, o)
		if (got == "") != (fault == "") || !strings.Contains(got, fault) {
			t.Errorf("load %s: %q, want %q", name, got, fault)
		}
		if got := index(r, name); !strings.HasPrefix(got, want) {
			t.Errorf("the index of %s is %s, want %s", name, got, want)
		}
	}
	if got := r.Index(false); len(got) != 2 || got[0] != (IndexEntry{Name: "cut"}) {
		t.Errorf("before anything is loaded the index is %v", got)
	}
	none := LoadOptions{}
	f("m", none, "", "1 READY")
	f("cut", none, "failed to load 'cut': version 1: layout: not a servable model", "1 UNAVAILABLE")
	f("nosuch", none, "failed to load 'nosuch': Request for unknown model: it is in no", "")
	f("../m", none, "it is in no model repository", "")
	f("", none, "it is in no model repository", "")
	f("m", LoadOptions{Config: []byte(`{"max_batch_size": 5}`)}, "", "1 READY")
	v, err := r.Acquire([]byte("m"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Config().MaxBatchSize != 5 {
		t.Errorf("the configuration of the request is not used: %v", v.Config())
	}
	v.Release()
	f("m", LoadOptions{Config: []byte(`{"max_batch_sise": 5}`)}, "config: layout: bad config",
		"1 READY (config: ")
	f("m", LoadOptions{Config: []byte(`{"name": "other"}`)}, `name is "other"`, "1 READY (config: ")

	// The next version takes the place of the one before.
	write(t, filepath.Join(root, "m", "2", "model.onnx"), addModel(2))
	f("m", none, "", "")
	eventually(t, 5*time.Second, "version 2 alone serves",
		func() bool { return index(r, "m") == "2 READY" })
	if err := r.Unload(context.Background(), "nosuch"); !errors.Is(err, ErrUnknownModel) {
		t.Errorf("unload of a model that is not there: %v", err)
	}
	if err := r.Unload(context.Background(), "cut"); err != nil {
		t.Errorf("unload of a model that is not loaded: %v", err)
	}
}

// TestNotExplicit: where folders decide, requests do not.
func TestNotExplicit(t *testing.T) {
	r := open(t, t.TempDir(), nil)
	if err := r.Load(context.Background(), "m", LoadOptions{}); !errors.Is(err, ErrNotExplicit) {
		t.Errorf("the error is %v", err)
	}
	if err := r.Unload(context.Background(), "m"); !errors.Is(err, ErrNotExplicit) {
		t.Errorf("the error is %v", err)
	}
}

// TestStartup: what is to be loaded at the start and is not there says so.
func TestStartup(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "model.onnx"), addModel(1))
	r := open(t, root, func(o *Options) {
		o.Mode, o.Startup = ModeExplicit, []string{"m", "nosuch"}
	})
	if index(r, "m") != "1 READY" || index(r, "nosuch") != "UNAVAILABLE ("+errNoFolder.Error()+")" {
		t.Errorf("the index is %v", r.Index(false))
	}
}

// TestUnloadStays: new settings do not load what was unloaded.
func TestUnloadStays(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "model.onnx"), addModel(1))
	write(t, filepath.Join(root, "n", "net.onnx"), addModel(2))
	r := open(t, root, func(o *Options) { o.Mode, o.Startup = ModeExplicit, []string{"*"} })
	if index(r, "m") != "1 READY" {
		t.Errorf("the index is %v", r.Index(false))
	}
	two := 2
	configure := func(want string) {
		t.Helper()
		two++
		size := two
		r.Configure(context.Background(), map[string]Settings{"m": {MaxBatchSize: &size}})
		eventually(t, 5*time.Second, want, func() bool { return index(r, "m") == want })
	}
	configure("1 READY")
	if err := r.Unload(context.Background(), "m"); err != nil {
		t.Fatal(err)
	}
	configure("1 UNAVAILABLE (unloaded)")
	// A configuration may say what makes a folder a model.
	if got := load(r, "n", LoadOptions{
		Config: []byte(`{"default_model_filename": "net.onnx"}`)}); got != "" {
		t.Error(got)
	}
}

// uploader loads models from files that come with the request.
type uploader struct {
	*testing.T
	*Repository
}

// kept lists the model folders that were made of files.
func (u uploader) kept() []string {
	u.Helper()
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "millrace-model-*", "*"))
	if err != nil {
		u.Fatal(err)
	}
	return left
}

// f loads a model; fault is why it is refused.
func (u uploader) f(name string, o LoadOptions, fault string) {
	u.Helper()
	before := len(u.kept())
	got := load(u.Repository, name, o)
	if (got == "") != (fault == "") || !strings.Contains(got, fault) ||
		strings.Contains(got, os.TempDir()) {
		u.Errorf("%s: %q, want %q", name, got, fault)
	}
	if got != "" && len(u.kept()) != before {
		u.Errorf("%s: files are left: %v", name, u.kept())
	}
}

// file is a load request with one file.
func file(path string, data []byte) LoadOptions {
	return LoadOptions{Config: []byte(`{"max_batch_size": 2}`),
		Files: map[string][]byte{path: data}}
}

// TestLoadFiles: files of a request serve until the model is loaded otherwise
// or unloaded, and are gone then.
func TestLoadFiles(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "1", "model.onnx"), addModel(1))
	r := explicit(t, root)
	u := uploader{t, r}
	u.f("m", file("7/model.onnx", addModel(7)), "")
	if index(r, "m") != "7 READY" || ask(r, "m", "7") != 7 {
		t.Errorf("the files of the request do not serve: %s", index(r, "m"))
	}
	u.f("new", file("v1/model.onnx", addModel(5)), "")
	if ask(r, "new", "v1") != 5 {
		t.Errorf("a model of files alone does not serve: %s", index(r, "new"))
	}
	if len(u.kept()) != 2 {
		t.Errorf("the files of two models are kept in %v", u.kept())
	}

	// Settings that change load the same files again.
	three := 3
	r.Configure(context.Background(), map[string]Settings{"m": {MaxBatchSize: &three}})
	v, err := r.Acquire([]byte("m"), []byte("7"))
	if err != nil {
		t.Fatal(err)
	}
	if v.sig.MaxBatchSize != 3 || run(v) != 7 {
		t.Errorf("after new settings the files of the request do not serve: %s", index(r, "m"))
	}
	v.Release()

	u.f("m", LoadOptions{}, "")
	if len(u.kept()) != 1 || ask(r, "m", "") != 1 {
		t.Errorf("the folder's model does not serve, or files are left: %v", u.kept())
	}
	if err := r.Unload(context.Background(), "new"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "a model of files alone leaves the index",
		func() bool { return index(r, "new") == "" })
	if len(u.kept()) != 0 {
		t.Errorf("files are left: %v", u.kept())
	}
	u.f("m", file("1/model.onnx", addModel(9)), "")
	closeRepository(t, r)
	if len(u.kept()) != 0 {
		t.Errorf("files are left after Close: %v", u.kept())
	}
}

// TestBadFiles: what cannot be taken changes nothing.
func TestBadFiles(t *testing.T) {
	r := explicit(t, t.TempDir())
	u := uploader{t, r}
	u.f("m", file("7/model.onnx", addModel(7)), "")
	u.f("m", LoadOptions{Files: map[string][]byte{"1/model.onnx": addModel(1)}},
		"need the parameter")
	u.f("m", file("1/model.onnx", []byte("x")), "version 1: layout: not a servable model")
	u.f("bad", file("1/model.onnx", []byte("x")), "version 1: layout: not a servable model")
	u.f("m", file("1/net.onnx", addModel(1)), "at least one version must be available")
	for _, path := range []string{"model.onnx", "../1/model.onnx", "1/../../x", "/etc/x", "1/",
		"1//x", "", "1/.hidden", "./1/x", `1\x/../y`, strings.Repeat("a/", 600) + "x"} {
		u.f("m", file(path, []byte("x")), "must be <version>/<path>")
	}
	u.f("../m", file("1/model.onnx", addModel(1)), "characters that names may not have")
	many := file("1/model.onnx", nil)
	for i := range maxLoadFiles {
		many.Files["1/"+strconv.Itoa(i)] = nil
	}
	u.f("m", many, "at most 1000 are taken")
	if ask(r, "m", "7") != 7 || index(r, "bad") != "" {
		t.Errorf("what failed has changed what serves: %s, %s", index(r, "m"), index(r, "bad"))
	}
}
