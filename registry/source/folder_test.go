package source_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/source"
)

// write writes a file, and the folders that it needs.
func write(t testing.TB, text string, parts ...string) {
	t.Helper()
	path := filepath.Join(parts...)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err := errors.Join(err, os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// TestFolder follows a folder: versions, one that is being written, and changed files.
func TestFolder(t *testing.T) {
	root, store := t.TempDir(), newStore(t)
	s, err := source.NewFolder(source.FolderConfig{Path: root}, store)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	write(t, "two", root, "iris", "2", "model.onnx")
	write(t, "data", root, "iris", "2", "data", "weights")
	write(t, "half", root, "iris", "2", ".model.onnx.part")
	write(t, "ten", root, "iris", "10", "model.onnx")
	write(t, "no version", root, "iris", "README")
	look := func(want ...string) {
		t.Helper()
		if got := names(listing(t, s, "iris")); !slices.Equal(got, want) {
			t.Errorf("the versions are %v, want %v", got, want)
		}
	}
	f := pullFails(t, s, store)
	look("10!", "2!") // both have just come
	look("10", "2")
	if got := pull(t, s, store, "2"); len(got) != 2 || got["data/weights"] != "data" {
		t.Errorf("version 2 is %v", got)
	}
	write(t, "ten and more", root, "iris", "10", "model.onnx")
	f("iris", "10", source.ErrPending, "since the last look")
	write(t, "ten and still more", root, "iris", "10", "model.onnx")
	look("10!", "2")
	look("10", "2")
	if got := pull(t, s, store, "10"); got["model.onnx"] != "ten and still more" {
		t.Errorf("version 10 is %v", got)
	}
	before := len(store.List())
	write(t, "other", root, "iris", "2", "model.onnx")
	look("10", "2!")
	if pull(t, s, store, "2"); len(store.List()) != before+1 {
		t.Errorf("changed files have made %d versions of %d", len(store.List()), before)
	}
	if err := os.RemoveAll(filepath.Join(root, "iris", "2")); err != nil {
		t.Fatal(err)
	}
	look("10")
	f("iris", "2", source.ErrGone, "cannot pull iris version 2")
	f("nobody", "1", source.ErrGone, "nobody")
	results, err := s.Look(t.Context(), []string{"nobody", "../x"})
	if err != nil || !errors.Is(results["nobody"].Err, source.ErrGone) ||
		!errors.Is(results["../x"].Err, source.ErrRefused) {
		t.Errorf("Look returns %v, %v", results, err)
	}
}

// TestFolderHostile has names, links and pipes that could lead elsewhere.
func TestFolderHostile(t *testing.T) {
	root, store := t.TempDir(), newStore(t)
	outside := t.TempDir()
	write(t, "secret", outside, "1", "model.onnx")
	write(t, "fine", root, "iris", "1", "model.onnx")
	for _, version := range []string{"out", "in", "pipe", "pickled", "empty"} {
		write(t, "x", root, "iris", version, "model.pkl")
	}
	at := func(version string) string { return filepath.Join(root, "iris", version, "model.onnx") }
	err := errors.Join(
		os.Symlink(filepath.Join(outside, "1", "model.onnx"), at("out")),
		os.Symlink("../1/model.onnx", at("in")),
		os.Symlink(filepath.Join(outside, "1"), filepath.Join(root, "iris", "folder")),
		os.Symlink(outside, filepath.Join(root, "elsewhere")),
		syscall.Mkfifo(at("pipe"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	s, err := source.NewFolder(source.FolderConfig{Path: root}, store)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	listing(t, s, "iris")
	listing(t, s, "iris")
	if got := pull(t, s, store, "in"); got["model.onnx"] != "fine" {
		t.Errorf("a link within the folder leads to %v", got)
	}
	f := pullFails(t, s, store)
	f("iris", "out", source.ErrRefused, "leads out of the folder")
	f("iris", "folder", source.ErrRefused, "leads out of the folder")
	f("iris", "pipe", source.ErrRefused, "neither a file nor a folder")
	f("iris", "pickled", source.ErrNotONNX, "scikit-learn")
	f("iris", "../iris/1", source.ErrGone, "")
	f("iris", "..", source.ErrGone, "")
	f("../"+filepath.Base(outside), "1", source.ErrRefused, "..")
	if _, err := s.Pull(t.Context(), "elsewhere", "1"); err == nil {
		t.Error("a model outside of the folder was fetched")
	}
	if l := listing(t, s, "iris"); len(l.Versions) != 7 || time.Since(l.Versions[0].Created) >
		time.Hour {
		t.Errorf("the versions are %+v", l.Versions)
	}
}
