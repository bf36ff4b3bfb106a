// Package delivery_test delivers models with the real program, from a push or from a real MLflow
// server to a verdict on live traffic.
package delivery_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/cmd/millrace/processtest"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/store"
)

var (
	program string // under test
	cache   string // of trials, for all tests
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "millrace-delivery-")
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// server is a server that runs.
type server struct {
	*processtest.Process
	t      testing.TB
	client *http.Client
}

// launch starts a server on the settings of a folder.
func launch(t *testing.T, dir string) *server {
	t.Helper()
	s := &server{processtest.Start(t, command("serve", "-c", filepath.Join(dir, "millrace.yaml"))), t,
		&http.Client{Timeout: processtest.Patience,
			Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	t.Cleanup(s.client.CloseIdleConnections)
	s.WaitListening()
	return s
}

// write puts the settings of a server into its folder.
func write(t *testing.T, dir, rest string) {
	t.Helper()
	text := "server: {http: '127.0.0.1:0', grpc: '', admin: '127.0.0.1:0'}\n" + rest
	if err := os.WriteFile(filepath.Join(dir, "millrace.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// millrace runs a command against the server and returns what it says.
func (s *server) millrace(args ...string) (string, error) {
	cmd := command(args...)
	cmd.Env = append(cmd.Env, "MILLRACE_ADMIN=http://"+s.Addresses["admin"])
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is millrace for what has to succeed.
func (s *server) must(args ...string) string {
	s.t.Helper()
	out, err := s.millrace(args...)
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// get reads a resource into the status; false when there is none.
func (s *server) get(path string, status any) bool {
	s.t.Helper()
	resp, err := s.client.Get("http://" + s.Addresses["admin"] + "/api/v1/" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusNotFound {
		return false
	}
	var r store.Resource
	if err := json.Unmarshal(text, &r); err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s is answered with %d %s", path, resp.StatusCode, text)
	}
	if len(r.Status) > 0 {
		if err := json.Unmarshal(r.Status, status); err != nil {
			s.t.Fatal(err)
		}
	}
	return true
}

// endpoint returns the status of an endpoint.
func (s *server) endpoint(name string) (status control.EndpointStatus) {
	s.t.Helper()
	s.get("endpoints/"+name, &status)
	return status
}

// until waits for something to become so.
func until(t testing.TB, what string, within time.Duration, f func() bool) {
	t.Helper()
	over := time.NewTimer(within)
	defer over.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for !f() {
		select {
		case <-again.C:
		case <-over.C:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// verdict waits until a rollout is over.
func (s *server) verdict(name string, within time.Duration) control.RolloutStatus {
	s.t.Helper()
	var status control.RolloutStatus
	until(s.t, "rollout "+name+" has a verdict", within, func() bool {
		status = control.RolloutStatus{}
		return s.get("rollouts/"+name, &status) && !status.State.Ended.IsZero()
	})
	s.t.Logf("%s: %s", name, status.State.Sentence())
	return status
}

// load sends requests until it is ended.
type load struct {
	rows     [][]byte // bodies
	url      atomic.Pointer[string]
	answers  atomic.Uint64
	statuses sync.Map // number of answers by status
	lost     atomic.Uint64
	stop     chan struct{}
	wait     sync.WaitGroup
	check    func(row int, version string, body []byte) string // what is wrong with an answer
	wrong    atomic.Pointer[string]
}

// start sends requests by some clients at once. A server that is away is asked again.
func (l *load) start(clients int, client *http.Client) {
	l.stop = make(chan struct{})
	for c := range clients {
		l.wait.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 1))
			for {
				select {
				case <-l.stop:
					return
				default:
					l.ask(client, rng.IntN(len(l.rows)))
				}
			}
		})
	}
}

func (l *load) ask(client *http.Client, row int) {
	resp, err := client.Post(*l.url.Load(), "application/json", bytes.NewReader(l.rows[row]))
	if err != nil {
		l.lost.Add(1)
		select {
		case <-l.stop:
		case <-time.After(5 * time.Millisecond):
		}
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		l.lost.Add(1)
		return
	}
	l.answers.Add(1)
	n, _ := l.statuses.LoadOrStore(resp.StatusCode, new(atomic.Uint64))
	n.(*atomic.Uint64).Add(1)
	if l.check != nil && resp.StatusCode == http.StatusOK {
		if text := l.check(row, resp.Header.Get("x-millrace-version"), body); text != "" {
			l.wrong.Store(&text)
		}
	}
}

func (l *load) end() {
	close(l.stop)
	l.wait.Wait()
}

// status returns how many answers had a status.
func (l *load) status(code int) uint64 {
	if n, ok := l.statuses.Load(code); ok {
		return n.(*atomic.Uint64).Load()
	}
	return 0
}

// failed says whether an error is that of a command that ended with a status.
func failed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit)
}

// infer is a request for one row of a model with one input.
func infer(input string, row []float32) []byte {
	text, err := json.Marshal(map[string]any{"inputs": []any{map[string]any{
		"name": input, "shape": []int{1, len(row)}, "datatype": "FP32", "data": row}}})
	if err != nil {
		panic(err)
	}
	return text
}

func contains(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}
