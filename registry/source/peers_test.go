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
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/clients/peer"
)

// startTime bounds how long a server takes until it listens.
const startTime = time.Minute

// The servers, which need two minutes each to be built.
var (
	versitygw = peer.Program{Module: "github.com/versity/versitygw@v1.8.0",
		Package: "github.com/versity/versitygw/cmd/versitygw"}
	distribution = peer.Program{Module: "github.com/distribution/distribution/v3@v3.1.2",
		Package: "github.com/distribution/distribution/v3/cmd/registry"}
)

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
