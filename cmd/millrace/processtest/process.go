// Package processtest runs servers as processes of their own in tests.
package processtest

import (
	"bufio"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience bounds every wait of a test; nothing is that slow unless it hangs.
const Patience = time.Minute

// Process is a server that runs.
type Process struct {
	Cmd       *exec.Cmd
	Addresses map[string]string // by protocol, once WaitListening has returned
	Ended     chan struct{}     // closed when the process has ended

	t     *testing.T
	mu    sync.Mutex
	lines []string // of its standard error; guarded by mu
	seen  sync.Cond
	over  bool // no more lines come; guarded by mu
}

var addressPattern = regexp.MustCompile(`\b(http|grpc|admin)=(\S+)`)

// Start starts a server and does not wait for it. It ends with the test, which
// shows what it has said when it fails.
func Start(t *testing.T, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, Cmd: cmd, Addresses: make(map[string]string), Ended: make(chan struct{})}
	p.seen.L = &p.mu
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.watch(stderr)
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the server said:\n%s", p.Output())
		}
	})
	return p
}

// WaitListening waits until the server listens, and notes where.
func (p *Process) WaitListening() {
	p.t.Helper()
	for _, m := range addressPattern.FindAllStringSubmatch(p.WaitFor(0, "listening "), -1) {
		p.Addresses[m[1]] = m[2]
	}
}

// watch keeps the lines that the server says.
func (p *Process) watch(stderr io.Reader) {
	for in := bufio.NewScanner(stderr); in.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, in.Text())
		p.seen.Broadcast()
		p.mu.Unlock()
	}
	_ = p.Cmd.Wait()
	p.mu.Lock()
	p.over = true
	p.seen.Broadcast()
	p.mu.Unlock()
	close(p.Ended)
}

// Output returns all that the server has said.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// Said returns how many lines the server has said.
func (p *Process) Said() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.lines)
}

// WaitFor returns the first line from number at on that has one of the texts.
func (p *Process) WaitFor(at int, texts ...string) string {
	p.t.Helper()
	timer := time.AfterFunc(Patience, func() { _ = p.Cmd.Process.Kill() })
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; ; at++ {
		for at >= len(p.lines) && !p.over {
			p.seen.Wait()
		}
		if at >= len(p.lines) {
			p.t.Fatalf("the server ended without saying %q:\n%s", texts,
				strings.Join(p.lines, "\n"))
		}
		for _, text := range texts {
			if strings.Contains(p.lines[at], text) {
				return p.lines[at]
			}
		}
	}
}

// Signal sends a signal to the server.
func (p *Process) Signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Kill ends the server without any warning (kill -9).
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill() // it may have ended before
	<-p.Ended
}

// Status waits for the end and returns the exit status, -1 for a signal.
func (p *Process) Status() int {
	p.t.Helper()
	select {
	case <-p.Ended:
	case <-time.After(Patience):
		p.t.Fatal("the server does not end")
	}
	return p.Cmd.ProcessState.ExitCode()
}
