package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/cmd/millrace/processtest"
)

// beMillrace makes the test binary the command itself.
const beMillrace = "MILLRACE_TEST_BINARY_IS_COMMAND"

// samples is the folder of the sample models.
const samples = "../../configs/models"

const patience = processtest.Patience

// cache remembers which models have passed their trial, for all tests.
var cache string

func TestMain(m *testing.M) {
	if os.Getenv(beMillrace) != "" {
		main()
	}
	var err error
	if cache, err = os.MkdirTemp("", "millrace-test-"); err != nil {
		panic(err)
	}
	status := m.Run()
	_ = os.RemoveAll(cache)
	os.Exit(status)
}

// command prepares a run of millrace.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), beMillrace+"=1", "XDG_CACHE_HOME="+cache)
	// A test that dies takes its children with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// ended is how a command ended.
type ended struct {
	status      int
	out, errors string
}

// finish runs a command to its end.
func finish(t *testing.T, cmd *exec.Cmd) ended {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("cannot run %v: %v", cmd.Args[1:], err)
	}
	return ended{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// millrace runs a command line to its end.
func millrace(t *testing.T, args ...string) ended {
	t.Helper()
	return finish(t, command(args...))
}

// want holds a status and texts that must be there against how a command ended.
func (e ended) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	if e.status != status {
		t.Errorf("status is %d, want %d\n%s%s", e.status, status, e.out, e.errors)
	}
	for _, text := range texts {
		if !strings.Contains(e.out+e.errors, text) {
			t.Errorf("%q is missing in\n%s%s", text, e.out, e.errors)
		}
	}
}

// process is a server that runs.
type process struct {
	*processtest.Process
	t *testing.T
}

// launch starts a server, waits until it listens, and ends it with the test.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := spawn(t, args...)
	p.WaitListening()
	return p
}

// anyPort are the flags that let a server take free ports.
var anyPort = []string{"--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"}

// spawn starts a server and does not wait for it.
func spawn(t *testing.T, args ...string) *process {
	t.Helper()
	return &process{processtest.Start(t, command(append([]string{"serve"}, args...)...)), t}
}

// url is what --url takes.
func (p *process) url() string {
	if a := p.Addresses["http"]; strings.HasPrefix(a, unixPrefix) {
		return a
	}
	return "http://" + p.Addresses["http"]
}

// ask runs a command line against the server.
func (p *process) ask(args ...string) ended {
	p.t.Helper()
	return millrace(p.t, append(args, "--url", p.url())...)
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// write writes a file of a test, and the folders above it.
func write(t *testing.T, path, text string) string {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// copyModel copies a sample model into a folder.
func copyModel(t *testing.T, name, folder string) {
	t.Helper()
	err := os.CopyFS(filepath.Join(folder, name), os.DirFS(filepath.Join(samples, name)))
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoTerminal(t *testing.T) {
	var b bytes.Buffer
	done := progress(&b, func() string { return "working" })
	if done(); b.Len() > 0 {
		t.Errorf("progress writes %q to what is no terminal", b.String())
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if onTerminal(null) {
		t.Error("/dev/null is taken for a terminal")
	}
}

// TestTerminal shows progress on a real one.
func TestTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	defer slave.Close()
	if !onTerminal(slave) {
		t.Fatal("a terminal is not taken for one")
	}
	done := progress(slave, func() string { return "working" })
	text := make([]byte, 100)
	n, err := master.Read(text) // it waits for progressAfter
	done()
	if err != nil || !strings.Contains(string(text[:n]), "working (1s)") {
		t.Errorf("the terminal shows %q, %v", text[:n], err)
	}
}
