// Package mlflowtest starts real MLflow servers for tests.
package mlflowtest

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Bounds: a server needs 10 s to start on an idle machine, and much longer on others.
const (
	startTime = 3 * time.Minute
	stopTime  = 30 * time.Second
)

// listens is how uvicorn (MLflow 3) and gunicorn (MLflow 2) say where they listen.
var listens = regexp.MustCompile(`(?:running on|Listening at:) (http://127\.0\.0\.1:[1-9]\d*)`)

// Server is a running MLflow server.
type Server struct {
	URI      string
	Database string // the file of its SQLite database
}

// Start starts the MLflow server of a virtual environment, on a port that the system
// chooses, with a new SQLite database and the artifacts behind its proxy. It takes
// webhooks to http listeners of this machine. The test ends it.
func Start(t testing.TB, python string) Server {
	t.Helper()
	dir := t.TempDir()
	database := filepath.Join(dir, "mlflow.db")
	args := []string{"-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "0",
		"--workers", "1", "--backend-store-uri", "sqlite:///" + database,
		"--serve-artifacts", "--artifacts-destination", filepath.Join(dir, "artifacts")}
	cmd := exec.Command(python, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MLFLOW_DISABLE_TELEMETRY=true", "PYTHONUNBUFFERED=1",
		"PATH="+filepath.Dir(python)+":"+os.Getenv("PATH"),
		"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_WEBHOOK_CACHE_TTL=1",
		"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY="+strings.Repeat("A", 43)+"=",
		"MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	out := &output{found: make(chan string, 1), ended: make(chan struct{})}
	go out.read(r)
	t.Cleanup(func() { stop(t, cmd, out) })
	s := Server{Database: database}
	select {
	case s.URI = <-out.found:
	case <-out.ended:
		t.Fatalf("MLflow did not start:\n%s", out.text())
	case <-time.After(startTime):
		t.Fatalf("MLflow did not listen within %s:\n%s", startTime, out.text())
	}
	resp, err := http.Get(s.URI + "/health")
	if err != nil {
		t.Fatalf("MLflow is not healthy: %v\n%s", err, out.text())
	}
	_ = resp.Body.Close()
	return s
}

// stop ends the server and its children.
func stop(t testing.TB, cmd *exec.Cmd, out *output) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // MLflow 2 leaves its child alone
	select {
	case <-out.ended: // none of them holds the pipe
	case <-time.After(stopTime):
		t.Logf("MLflow did not end within %s", stopTime)
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-out.ended
	}
	_ = cmd.Wait() // its status says nothing after a signal
	if t.Failed() {
		t.Logf("MLflow said:\n%s", out.text())
	}
}

// output is what the server prints.
type output struct {
	mu    sync.Mutex // guards lines
	lines []string
	found chan string // where it listens
	ended chan struct{}
}

func (o *output) read(r *os.File) {
	defer close(o.ended)
	defer func() { _ = r.Close() }()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if strings.HasSuffix(lines.Text(), `" 200 OK`) {
			continue
		}
		o.mu.Lock()
		o.lines = append(o.lines, lines.Text())
		o.lines = o.lines[max(0, len(o.lines)-40):]
		o.mu.Unlock()
		if m := listens.FindStringSubmatch(lines.Text()); m != nil {
			select {
			case o.found <- m[1]:
			default:
			}
		}
	}
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "\n")
}
