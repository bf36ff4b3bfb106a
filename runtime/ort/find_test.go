package ort_test

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/ort"
)

// childFinds writes what FindLibrary says of a configured path.
func childFinds(configured string) {
	found, err := ort.FindLibrary(configured)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(found.Origin, found.Path)
}

// childOpens opens a library and then the right one.
func childOpens(wrong string) {
	if _, err := ort.Open(ort.Config{Library: wrong, Level: slog.LevelError}); err != nil {
		fmt.Println(err)
	}
	first, err := ort.Open(ort.Config{Library: os.Getenv(ort.Env), Level: slog.LevelError})
	if err != nil {
		fmt.Println(err)
		return
	}
	second, err := ort.Open(ort.Config{Library: "another"})
	fmt.Println(first.Library() == os.Getenv(ort.Env), second == first, err)
}

// place is a folder tree with a copy of this test binary in bin and with
// libraries, which are empty files.
type place struct {
	t    *testing.T
	root string
}

func newPlace(t *testing.T, libraries ...string) place {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(libraries, "bin/millrace", "here/nothing") {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := place{t, root}
	p.copyBinary()
	return p
}

func (p place) copyBinary() {
	p.t.Helper()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		p.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(p.root, "bin/millrace"), os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		p.t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		p.t.Fatal(err)
	}
}

// find runs FindLibrary in the copy, in the folder here. ROOT in texts stands
// for the tree.
func (p place) find(configured string, env ...string) string {
	p.t.Helper()
	for i := range env {
		env[i] = strings.ReplaceAll(env[i], "ROOT", p.root)
	}
	cmd := exec.Command(filepath.Join(p.root, "bin/millrace"))
	cmd.Dir = filepath.Join(p.root, "here")
	said := childOf(p.t, cmd, "find "+strings.ReplaceAll(configured, "ROOT", p.root), env...)
	return strings.ReplaceAll(said, p.root, "ROOT")
}

// TestFindLibrary takes the places away one after the other.
func TestFindLibrary(t *testing.T) {
	const name = "libonnxruntime.so.1.32.0"
	places := []string{"configured/" + name, "environment/" + name, "bin/" + name,
		"cache/onnxruntime-1.32.0/" + name, ".cache/onnxruntime-1.32.0/" + name,
		"here/.cache/onnxruntime-1.32.0/" + name, "user/millrace/onnxruntime-1.32.0/" + name,
		"here/go.mod"}
	p := newPlace(t, places...)
	env := []string{ort.Env + "=ROOT/environment/" + name, "MILLRACE_CACHE=ROOT/cache",
		"XDG_CACHE_HOME=ROOT/user"}
	f := func(want, configured string, env ...string) {
		t.Helper()
		if got := p.find(configured, env...); got != want {
			t.Errorf(" got %s\nwant %s", got, want)
		}
	}
	remove := func(name string) {
		t.Helper()
		if err := os.Remove(filepath.Join(p.root, name)); err != nil {
			t.Fatal(err)
		}
	}
	f("configuration ROOT/configured/"+name, "ROOT/configured/"+name, env...)
	f("environment MILLRACE_ONNXRUNTIME ROOT/environment/"+name, "", env...)
	env = env[1:]
	f("beside the binary ROOT/bin/"+name, "", env...)
	remove("bin/" + name)
	f("cache ROOT/cache/onnxruntime-1.32.0/"+name, "", env...)
	f("cache ROOT/.cache/onnxruntime-1.32.0/"+name, "", env[1:]...)
	remove(".cache/onnxruntime-1.32.0/" + name)
	f("cache ROOT/here/.cache/onnxruntime-1.32.0/"+name, "", env[1:]...)
	remove("here/.cache/onnxruntime-1.32.0/" + name)
	f("cache ROOT/user/millrace/onnxruntime-1.32.0/"+name, "", env[1:]...)
	remove("user/millrace/onnxruntime-1.32.0/" + name)
	f("ort: no ONNX Runtime library found in ROOT/bin, ROOT/.cache, ROOT/here/.cache, "+
		"ROOT/user/millrace; `make build` fetches it, "+
		"or set MILLRACE_ONNXRUNTIME to the path of a libonnxruntime.so", "", env[1:]...)
	remove("here/go.mod")
	f("ort: no ONNX Runtime library found in ROOT/bin, ROOT/.cache; `make build` fetches it, "+
		"or set MILLRACE_ONNXRUNTIME to the path of a libonnxruntime.so", "")

	// What was named and is not there is an error, though other places have one.
	f("cannot use the library of the configuration: stat ROOT/none: no such file or directory",
		"ROOT/none", "MILLRACE_CACHE=ROOT/cache")
	f("cannot use the library of the environment MILLRACE_ONNXRUNTIME: "+
		"stat ROOT/none: no such file or directory", "",
		ort.Env+"=ROOT/none", "MILLRACE_CACHE=ROOT/cache")
}

// TestFindLibraryNewest wants the highest version, read as numbers.
func TestFindLibraryNewest(t *testing.T) {
	f := func(want string, libraries ...string) {
		t.Helper()
		p := newPlace(t, libraries...)
		if got := p.find("", "MILLRACE_CACHE=ROOT/c[ache"); got != want {
			t.Errorf("of %q: got %s, want %s", libraries, got, want)
		}
	}
	f("cache ROOT/c[ache/onnxruntime-1.32.0/libonnxruntime.so.1.32.0",
		"c[ache/onnxruntime-1.32.0/libonnxruntime.so.1.32.0",
		"c[ache/onnxruntime-1.9.1/libonnxruntime.so.1.9.1")
	f("cache ROOT/c[ache/libonnxruntime.so.1.33.0",
		"c[ache/libonnxruntime.so", "c[ache/libonnxruntime.so.1.33.0",
		"c[ache/onnxruntime-1.32.0/libonnxruntime.so.1.32.0")
	f("cache ROOT/c[ache/libonnxruntime.so", "c[ache/libonnxruntime.so",
		"c[ache/libonnxruntime_providers_shared.so", "c[ache/libonnxruntime.so.1.40.0.part",
		"c[ache/libonnxruntime.so.1.40.0/a folder")
}

// TestOpenRefuses wants a library that cannot be used to be told, and the
// right one to work afterwards.
func TestOpenRefuses(t *testing.T) {
	f := func(file, want string) {
		t.Helper()
		got := child(t, "open "+file, os.Environ()...)
		first, second, _ := strings.Cut(got, "\n")
		if !strings.HasPrefix(first, want) {
			t.Errorf(" got %s\nwant %s", first, want)
		}
		if second != "true true <nil>" {
			t.Errorf("after the wrong library: %s", second)
		}
	}
	text := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	f(text, "ort: cannot use ONNX Runtime: cannot load "+text+": "+text+": file too short")
	f("/none.so", "ort: cannot use ONNX Runtime: cannot load /none.so: /none.so: "+
		"cannot open shared object file: No such file or directory")
	f("libm.so.6", "ort: cannot use ONNX Runtime: cannot load libm.so.6: "+
		"it is not an ONNX Runtime library")
}
