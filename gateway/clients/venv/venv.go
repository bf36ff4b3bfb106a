// Package venv runs Python in tests that need clients which people install with pip.
//
// Python makes a virtual environment in the Cache folder of the repository, Run
// runs a script in it. All may be called by several tests and test binaries at once.
package venv

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Bounds: an index may be slow, a script hangs.
const (
	installTime = 10 * time.Minute
	scriptTime  = 3 * time.Minute
)

// Python returns the interpreter of an environment that has what a requirements
// file names. It is made once for each content of the file; short tests are skipped.
func Python(t *testing.T, requirements string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("installs Python packages; make test runs it")
	}
	wanted, err := os.ReadFile(requirements)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(Cache(t), fmt.Sprintf("clients-%x", sha256.Sum256(wanted))[:20])
	defer Lock(t, dir+".lock")()
	interpreter := filepath.Join(dir, "bin", "python")
	done := filepath.Join(dir, "done")
	if _, err := os.Stat(done); err == nil {
		return interpreter
	}
	run(t, installTime, "python3", "-m", "venv", "--clear", dir)
	run(t, installTime, interpreter, "-m", "pip", "install", "-q", "-r", requirements)
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return interpreter
}

// Run runs a script, which has to succeed within three minutes.
func Run(t *testing.T, interpreter, script string, args ...string) {
	t.Helper()
	run(t, scriptTime, interpreter, append([]string{script}, args...)...)
}

func run(t *testing.T, most time.Duration, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, args, err, out)
	}
}

// Cache returns the folder for what is fetched: MILLRACE_CACHE, or .cache in
// the repository.
func Cache(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(os.Getenv("MILLRACE_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("MILLRACE_CACHE") == "" {
		for {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				break
			}
			if dir == filepath.Dir(dir) {
				t.Fatal("the test does not run in a repository; set MILLRACE_CACHE")
			}
			dir = filepath.Dir(dir)
		}
		dir = filepath.Join(dir, ".cache")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Lock waits until no other test holds the file. The returned function frees it.
func Lock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = f.Close() } // which frees it
}
