package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// beMillrace makes the test binary the command itself.
const beMillrace = "MILLRACE_TEST_BINARY_IS_COMMAND"

// samples is the folder of the sample models.
const samples = "../../configs/models"

// patience bounds every wait of a test; nothing is that slow unless it hangs.
const patience = time.Minute

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
	t         *testing.T
	cmd       *exec.Cmd
	addresses map[string]string // by protocol
	ended     chan struct{}     // closed when the process has ended

	mu    sync.Mutex
	lines []string // of its standard error; guarded by mu
	seen  sync.Cond
	over  bool // no more lines come; guarded by mu
}

var addressPattern = regexp.MustCompile(`\b(http|grpc|admin)=(\S+)`)

// launch starts a server, waits until it listens, and ends it with the test.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := spawn(t, args...)
	line := p.waitFor("listening ")
	for _, m := range addressPattern.FindAllStringSubmatch(line, -1) {
		p.addresses[m[1]] = m[2]
	}
	return p
}

// anyPort are the flags that let a server take free ports.
var anyPort = []string{"--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"}

// spawn starts a server and does not wait for it.
func spawn(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, addresses: make(map[string]string), ended: make(chan struct{})}
	p.seen.L = &p.mu
	p.cmd = command(append([]string{"serve"}, args...)...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.watch(stderr)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("the server said:\n%s", p.output())
		}
	})
	return p
}

// watch keeps the lines that the server says.
func (p *process) watch(stderr io.Reader) {
	for in := bufio.NewScanner(stderr); in.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, in.Text())
		p.seen.Broadcast()
		p.mu.Unlock()
	}
	_ = p.cmd.Wait()
	p.mu.Lock()
	p.over = true
	p.seen.Broadcast()
	p.mu.Unlock()
	close(p.ended)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// waitFor returns the first line with that text.
func (p *process) waitFor(text string) string {
	p.t.Helper()
	timer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := 0; ; at++ {
		for at >= len(p.lines) && !p.over {
			p.seen.Wait()
		}
		if at >= len(p.lines) {
			p.t.Fatalf("the server ended without saying %q:\n%s", text,
				strings.Join(p.lines, "\n"))
		}
		if strings.Contains(p.lines[at], text) {
			return p.lines[at]
		}
	}
}

// url is what --url takes.
func (p *process) url() string {
	if a := p.addresses["http"]; strings.HasPrefix(a, unixPrefix) {
		return a
	}
	return "http://" + p.addresses["http"]
}

// ask runs a command line against the server.
func (p *process) ask(args ...string) ended {
	p.t.Helper()
	return millrace(p.t, append(args, "--url", p.url())...)
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// status waits for the end and returns the exit status, -1 for a signal.
func (p *process) status() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatal("the server does not end")
	}
	return p.cmd.ProcessState.ExitCode()
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
