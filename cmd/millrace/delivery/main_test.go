// Package delivery_test delivers models with the real program, from a push or from a real MLflow
// server to a verdict on live traffic.
package delivery_test

import (
	"bytes"
	"encoding/json"
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
	_ = os.Setenv("MLFLOW_DISABLE_TELEMETRY", "true") // for all that runs Python
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

// needSources reads the folders of the program's sources. Go takes a result from its cache as
// long as all that the tests have read is the same, and does not see what TestMain builds of.
var needSources = sync.OnceFunc(func() {
	out, err := exec.Command("go", "list", "-deps", "-f",
		"{{if and .Module .Module.Main}}{{.Dir}}{{end}}", "..").Output()
	for dir := range strings.Lines(string(out)) {
		if err == nil {
			_, err = os.ReadDir(strings.TrimSpace(dir))
		}
	}
	if err != nil {
		panic(err)
	}
})

// command prepares a run of millrace.
func command(args ...string) *exec.Cmd {
	needSources()
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

// launch starts a server on the settings of a folder, with more in its environment.
func launch(t *testing.T, dir string, env ...string) *server {
	t.Helper()
	cmd := command("serve", "-c", filepath.Join(dir, "millrace.yaml"))
	cmd.Env = append(cmd.Env, env...)
	s := &server{processtest.Start(t, cmd), t,
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
	url      string
	client   *http.Client
	check    func(a answer) string // what is wrong with an answer; nil for no check
	statuses sync.Map              // number of answers by status
	lost     atomic.Uint64         // requests that were cut off, or found no server
	wrong    atomic.Pointer[string]
	stop     chan struct{}
	wait     sync.WaitGroup
}

// answer is what came back for one of the rows.
type answer struct {
	row     int
	sent    time.Time
	status  int
	version string
	body    []byte
}

// load returns a load for a model or endpoint, which does not run yet.
func (s *server) load(name string, rows [][]byte) *load {
	return &load{rows: rows, client: s.client,
		url: "http://" + s.Addresses["http"] + "/v2/models/" + name + "/infer"}
}

// start sends requests by some clients at once. A server that is away is asked again.
func (l *load) start(clients int) {
	l.stop = make(chan struct{})
	for c := range clients {
		l.wait.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 1))
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				if _, err := l.ask(rng.IntN(len(l.rows))); err != nil {
					l.lost.Add(1)
					select {
					case <-l.stop:
					case <-time.After(5 * time.Millisecond):
					}
				}
			}
		})
	}
}

// ask sends a request for a row.
func (l *load) ask(row int) (answer, error) {
	a := answer{row: row, sent: time.Now()}
	resp, err := l.client.Post(l.url, "application/json", bytes.NewReader(l.rows[row]))
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		return a, err
	}
	a.status, a.version = resp.StatusCode, resp.Header.Get("x-millrace-version")
	n, _ := l.statuses.LoadOrStore(a.status, new(atomic.Uint64))
	n.(*atomic.Uint64).Add(1)
	if l.check != nil {
		if text := l.check(a); text != "" {
			text = fmt.Sprintf("row %d is answered with %d by version %q: %s: %s", row, a.status,
				a.version, text, a.body)
			l.wrong.CompareAndSwap(nil, &text)
		}
	}
	return a, nil
}

// end stops the requests, if they were started.
func (l *load) end() {
	if l.stop != nil {
		close(l.stop)
	}
	l.wait.Wait()
}

// status returns how many answers had a status.
func (l *load) status(code int) uint64 {
	if n, ok := l.statuses.Load(code); ok {
		return n.(*atomic.Uint64).Load()
	}
	return 0
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

// contains says whether a text has all of the parts.
func contains(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}
