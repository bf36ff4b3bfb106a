//go:build peers

package delivery_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/cmd/millrace/processtest"
)

// peerTime bounds what several real servers do one after the other on a busy machine.
const peerTime = time.Minute

// listening is how programs with Prometheus' toolkit say where they listen.
var listening = regexp.MustCompile(`address=(\S+)`)

// startPeer starts a program that chooses a port, and returns its URL when it is ready.
func startPeer(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := processtest.Start(t, cmd)
	said := p.WaitFor(0, "Listening on")
	at := listening.FindStringSubmatch(said)
	if at == nil {
		t.Fatalf("it listens nowhere: %s", said)
	}
	url := "http://" + at[1]
	until(t, name+" is ready", peerTime, func() bool {
		status := call{url: url + "/-/ready"}.read(t, nil)
		return status == http.StatusOK || status == http.StatusUnauthorized // it wants a password
	})
	return url
}

// call is a request to a peer: a GET, or a POST where there is a body.
type call struct {
	url    string
	header http.Header
	body   any
}

// read makes the call, reads the answer if that is wanted, and returns the status.
func (c call) read(t *testing.T, out any) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, c.url, nil)
	if c.body != nil && err == nil {
		var text []byte
		if text, err = json.Marshal(c.body); err != nil {
			t.Fatal(err)
		}
		req, err = http.NewRequest(http.MethodPost, c.url, bytes.NewReader(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.header != nil {
		req.Header = c.header.Clone()
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && out != nil {
		err = json.Unmarshal(got, out)
	}
	if err != nil || resp.StatusCode >= 300 && out != nil {
		t.Fatalf("%s is answered with %s, %v\n%.2000s", c.url, resp.Status, err, got)
	}
	return resp.StatusCode
}

// relay passes webhooks of a peer on to millrace, whose address is another after each start, and
// keeps them.
type relay struct {
	*httptest.Server
	mu     sync.Mutex
	to     string    // millrace's URL; empty while it is away. Guarded by mu, as all below.
	passed []webhook // in their order
}

// webhook is one that was answered by millrace.
type webhook struct {
	path   string
	header http.Header
	body   []byte
	status int
	answer string
}

func newRelay(t *testing.T) *relay {
	r := new(relay)
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// lead has webhooks go to a server from now on; nil to nobody.
func (r *relay) lead(s *server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = ""
	if s != nil {
		r.to = "http://" + s.Addresses["admin"]
	}
}

// all returns the webhooks that have come.
func (r *relay) all() []webhook {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.passed[:len(r.passed):len(r.passed)]
}

// ServeHTTP passes a webhook on. Who sends it has to try again while millrace is away.
func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	h := webhook{path: req.URL.Path, header: req.Header, body: body}
	if err == nil {
		err = r.again(&h)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	r.mu.Lock()
	r.passed = append(r.passed, h)
	r.mu.Unlock()
	w.WriteHeader(h.status)
	_, _ = io.WriteString(w, h.answer)
}

// again sends a webhook to millrace, which may have had it before, and notes the answer.
func (r *relay) again(h *webhook) error {
	r.mu.Lock()
	to := r.to
	r.mu.Unlock()
	req, err := http.NewRequest(http.MethodPost, to+h.path, bytes.NewReader(h.body))
	if err != nil {
		return err
	}
	req.Header = h.header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	h.status, h.answer = resp.StatusCode, string(text)
	return err
}
