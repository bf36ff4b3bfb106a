package grpc_test

import (
	"net"
	"os/exec"
	"strings"
	"testing"
)

// TestConformance has h2spec, a suite of others for servers of HTTP/2, send what RFC 9113 and RFC
// 7541 allow and forbid; its strict cases too.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("builds h2spec")
	}
	s := serve(t, nil)
	host, port, err := net.SplitHostPort(s.conn.Target()[len("passthrough:///"):])
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "tool", "-modfile=testdata/h2spec.mod",
		"h2spec", "--strict", "--timeout=10", "--host", host, "--port", port).CombinedOutput()
	text := string(out)
	if err != nil || !strings.Contains(text, "146 tests, 146 passed,") {
		_, faults, _ := strings.Cut(text, "Failures:")
		t.Errorf("%v\n%s", err, faults[max(0, len(faults)-4000):])
	}
}
