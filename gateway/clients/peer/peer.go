// Package peer builds real servers of others for tests, from their sources.
//
// Build makes a program once and keeps it in the cache folder of the repository. The sources are
// those of the Go module proxy, held against the checksum database; what they need is pinned by the
// go.mod and go.sum among them. All may be called by several tests and test binaries at once.
package peer

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
)

// buildTime bounds a build: the largest take five minutes of two processors.
const buildTime = 30 * time.Minute

// Program is one that can be built of a module.
type Program struct {
	Module  string // with its version, as in go.example/server@v1.2.3
	Package string // of the module, as in go.example/server/cmd/server
	Tags    string // of the build
	// Page is a file that the module embeds and does not hold, as it is made by other tools: the
	// pages for people. The program gets an empty one.
	Page string
}

// Build returns the file of the program.
func (p Program) Build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a server; make test-peers runs it")
	}
	_, version, _ := strings.Cut(p.Module, "@")
	dir := filepath.Join(venv.Cache(t), "peers")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, path.Base(p.Package)+"-"+version)
	defer venv.Lock(t, file+".lock")()
	if _, err := os.Stat(file); err == nil {
		return file
	}
	sources := t.TempDir()
	if err := os.CopyFS(sources, os.DirFS(p.Sources(t))); err != nil {
		t.Fatal(err)
	}
	p.addPage(t, sources)
	began := time.Now()
	// A vendor folder that is packed without its files is left alone.
	run(t, sources, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-tags="+p.Tags,
		"-o", file+".new", p.Package)
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s took %v to build", p.Module, time.Since(began).Round(time.Second))
	return file
}

func (p Program) addPage(t *testing.T, sources string) {
	t.Helper()
	if p.Page == "" {
		return
	}
	page := filepath.Join(sources, p.Page)
	err := os.MkdirAll(filepath.Dir(page), 0o755)
	if err == nil {
		err = os.WriteFile(page, nil, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Sources returns the folder of the module, which must not be changed.
func (p Program) Sources(t *testing.T) string {
	t.Helper()
	var module struct{ Dir string }
	out := run(t, t.TempDir(), "mod", "download", "-json", p.Module)
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatalf("cannot read where %s is: %v\n%s", p.Module, err, out)
	}
	return module.Dir
}

// run runs the go command in a folder, and returns what it says.
func run(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	var faults strings.Builder
	cmd.Dir, cmd.Stderr = dir, &faults
	cmd.Env = append(os.Environ(), "GOWORK=off") // it names folders that are not packed
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s%s", args, err, faults.String(), out)
	}
	return out
}
