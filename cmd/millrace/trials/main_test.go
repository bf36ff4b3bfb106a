// Package trials_test runs trials on live traffic against the real program:
// canaries, bandits, shadows and taps of servers that are told to read their
// settings anew, are killed and are started again.
package trials_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/cmd/millrace/processtest"
)

const patience = processtest.Patience

var (
	program string // the program under test
	cache   string // remembers which models have passed their trial, for all tests
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "millrace-trials-")
	if err != nil {
		panic(err)
	}
	program, cache = filepath.Join(dir, "millrace"), filepath.Join(dir, "cache")
	out, err := exec.Command("go", "build", "-o", program, "..").CombinedOutput()
	status := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot build millrace: %v\n%s", err, out)
	} else {
		status = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

// command prepares a run of millrace.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+cache)
	// A test that dies takes its children with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// finish runs a command to its end and returns its status and all that it said.
func finish(t *testing.T, args ...string) (status int, said string) {
	t.Helper()
	cmd := command(args...)
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("cannot run %v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// process is a server that runs.
type process struct {
	*processtest.Process
	t      *testing.T
	client *http.Client
}

// launch starts a server, waits until it listens, and ends it with the test.
func launch(t *testing.T, file string) *process {
	t.Helper()
	return run(t, command("serve", "-c", file))
}

// run is launch for a command that ends up as a server.
func run(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{processtest.Start(t, cmd), t, &http.Client{Timeout: patience,
		Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	t.Cleanup(p.client.CloseIdleConnections)
	p.WaitListening()
	return p
}

// hangup has the server read its settings anew, and returns what it says of it.
func (p *process) hangup() string {
	p.t.Helper()
	at := p.Said()
	p.Signal(syscall.SIGHUP)
	return p.WaitFor(at, "settings taken over", "those in force stay")
}

// kill ends the server without any warning (kill -9).
func (p *process) kill() {
	p.Kill()
	p.client.CloseIdleConnections()
}

// term asks the server to end, and wants it to do so well.
func (p *process) term() {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	if status := p.Status(); status != 0 {
		p.t.Errorf("the status is %d after SIGTERM", status)
	}
}

// request is one for an endpoint whose input is x: [1, 4] FP32. All but endpoint
// may be left out.
type request struct {
	endpoint string
	x        float32 // of every element
	user     string  // header x-user
	id       string  // header x-request-id
}

// answer is what came back.
type answer struct {
	status             int
	version, route, id string
	text               string
}

// send sends a request. The error is for what is no answer at all.
func (p *process) send(r request) (answer, error) {
	x := fmt.Sprint(r.x)
	row := strings.Join([]string{x, x, x, x}, ",")
	q, err := http.NewRequest(http.MethodPost,
		"http://"+p.Addresses["http"]+"/v2/models/"+r.endpoint+"/infer", strings.NewReader(
			`{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[`+row+`]}]}`))
	if err != nil {
		return answer{}, err
	}
	if r.user != "" {
		q.Header.Set("x-user", r.user)
	}
	if r.id != "" {
		q.Header.Set("x-request-id", r.id)
	}
	resp, err := p.client.Do(q)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header.Get("x-millrace-version"),
		resp.Header.Get("x-millrace-route"), resp.Header.Get("x-request-id"), string(text)}, err
}

// ask sends a request that has to be answered well.
func (p *process) ask(r request) answer {
	p.t.Helper()
	a, err := p.send(r)
	if err != nil || a.status != http.StatusOK {
		p.t.Fatalf("%+v is answered with %+v, %v", r, a, err)
	}
	return a
}

// post posts a body to a path, and returns status and text of the answer.
func (p *process) post(path, body string) (status int, text string, err error) {
	resp, err := p.client.Post("http://"+p.Addresses["http"]+path, "application/json",
		strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(all), err
}

// admin gets a path of the admin port.
func (p *process) admin(path string) string {
	p.t.Helper()
	resp, err := p.client.Get("http://" + p.Addresses["admin"] + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("%s is answered with %d %s, %v", path, resp.StatusCode, text, err)
	}
	return string(text)
}

// metric returns the sum of the metrics whose lines begin with a name and have
// all the labels, such as `tap="x"`.
func (p *process) metric(name string, labels ...string) (sum float64) {
	p.t.Helper()
lines:
	for line := range strings.Lines(p.admin("/metrics")) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue lines
			}
		}
		var x float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' '):], &x); err != nil {
			p.t.Fatalf("%s: %v", line, err)
		}
		sum += x
	}
	return sum
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// repository makes a folder with versions of the model "sum", which adds a
// number to its input: version 1 adds the first of them, and so on.
func repository(t *testing.T, adds ...float32) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for i, add := range adds {
		write(t, filepath.Join(dir, "models", "sum", fmt.Sprint(i+1), "model.onnx"), sum(add))
	}
	return dir
}

// settings writes a settings file that serves all versions of the models in
// dir by the rest of the text.
func settings(t *testing.T, dir, rest string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "millrace.yaml")
	write(t, file, head+rest)
	return file
}

// head is the part of settings that all servers have. Line headLines+1 is the
// first of what follows.
const head = `server: {http: '127.0.0.1:0', grpc: '127.0.0.1:0', admin: '127.0.0.1:0', data: data}
repository: {paths: [models]}
models:
  - {name: sum, version_policy: {all: true}, aliases: {champion: "1"}}
  - {name: hang, version_policy: {all: true}}
`

var headLines = bytes.Count([]byte(head), []byte("\n"))

// write writes a file of a test, and the folders above it.
func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
