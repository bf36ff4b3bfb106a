//go:build peers

package source_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Bounds: both servers need two minutes to be built, and a moment to start.
const (
	buildTime = 15 * time.Minute
	startTime = time.Minute
)

// program returns the file of a program that is built once into the cache.
func program(t *testing.T, module string) string {
	t.Helper()
	cache := os.Getenv("MILLRACE_CACHE")
	if cache == "" {
		cache = filepath.Join("..", "..", ".cache")
	}
	dir, err := filepath.Abs(filepath.Join(cache, "peers"))
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(filepath.Base(module), "@")
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", module)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s: %v\n%s", module, err, out)
	}
	return path
}

// serve runs a server that listens at a socket, behind a proxy that can cut its answers.
func serve(t *testing.T, socket string, command ...string) (*cutter, string) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s said:\n%.4000s", command[0], text)
		}
	})
	limit := time.After(startTime)
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			break
		}
		select {
		case <-limit:
			t.Fatalf("%s does not listen", command[0])
		case <-time.After(20 * time.Millisecond):
		}
	}
	c := &cutter{after: 3 << 20, Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "peer", r.In.Host
		},
		Transport: &http.Transport{DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			}},
	}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return c, server.Listener.Addr().String()
}

// socket returns the path of a socket, which must not be long.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}
