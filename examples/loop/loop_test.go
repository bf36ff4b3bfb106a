//go:build peers

// Package loop_test runs the example of the whole loop.
package loop_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Bounds: to install everything takes minutes, and so does a busy machine.
const (
	most = 25 * time.Minute
	stop = time.Minute // to end what was started
)

// TestLoop wants the loop to close, and nothing to run afterwards.
func TestLoop(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	cmd := exec.CommandContext(ctx, "make", "-C", filepath.Join("..", ".."), "loop",
		"CACHE="+cache(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = stop
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("CLOSED")) {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, step := range []string{"alarm after ok", "is running: http", "challenger is version 2",
		"version 2 is successful", "resolved after alarm", "champion is version 2"} {
		if !bytes.Contains(out, []byte(step)) {
			t.Errorf("%q is missing in\n%s", step, out)
		}
	}
	for _, text := range programs(t) {
		if strings.Contains(text, filepath.Join(cache(t), "loop")) {
			t.Errorf("it is running still: %s", text)
		}
	}
}

// cache is the folder that the Makefile has told of, or its default.
func cache(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("MILLRACE_CACHE")
	if dir == "" {
		dir = filepath.Join("..", "..", ".cache")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// programs lists the folders and the command lines of all that runs.
func programs(t *testing.T) (texts []string) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(paths) == 0 {
		t.Fatalf("what runs cannot be listed: %v", err)
	}
	for _, path := range paths {
		folder, err := os.Readlink(filepath.Join(filepath.Dir(path), "cwd"))
		if err != nil {
			continue // it has ended, or is somebody else's
		}
		line, _ := os.ReadFile(path)
		texts = append(texts, folder+" "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
	}
	return texts
}
