package compare

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds of waiting for a program.
const (
	startTimeout = 2 * time.Minute
	stopTimeout  = 20 * time.Second
)

// keptLines is how much of a program's output is kept for error texts.
const keptLines = 20

// addressPattern finds the addresses in the line that a server prints when it listens.
var addressPattern = regexp.MustCompile(`\b(http|grpc|admin)=([^\s"]+)`)

// process is a server that runs as a program of its own.
type process struct {
	cmd       *exec.Cmd
	began     time.Time
	addresses map[string]string // by protocol
	ended     chan struct{}

	mu    sync.Mutex
	lines []string // the last of stderr; guarded by mu
}

// launch starts a program and waits until it says where it listens.
func launch(ctx context.Context, env []string, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", program, err)
	}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", program, err)
	}
	listening := make(chan map[string]string, 1)
	go p.watch(stderr, listening)
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case p.addresses = <-listening:
		return p, nil
	case <-p.ended:
		err = errors.New("it ended")
	case <-timer.C:
		err = errors.New("it does not say where it listens")
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.stop()
	return nil, fmt.Errorf("cannot start %s: %w; its last lines:\n%s", program, err, p.output())
}

// watch reads stderr to its end, so that the program never blocks on it.
func (p *process) watch(stderr io.Reader, listening chan<- map[string]string) {
	defer close(p.ended)
	for in := bufio.NewScanner(stderr); in.Scan(); {
		line := in.Text()
		p.mu.Lock()
		p.lines = append(p.lines, line)
		p.lines = p.lines[max(0, len(p.lines)-keptLines):]
		p.mu.Unlock()
		if !strings.Contains(line, "listening") {
			continue
		}
		found := make(map[string]string)
		for _, m := range addressPattern.FindAllStringSubmatch(line, -1) {
			found[m[1]] = m[2]
		}
		if len(found) > 0 {
			select {
			case listening <- found:
			default:
			}
		}
	}
	_ = p.cmd.Wait()
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// stop ends the program and waits for it.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// ready waits until the server says that all its models are.
func (p *process) ready(ctx context.Context) error {
	url := "http://" + p.addresses["http"] + "/v2/health/ready"
	for began := time.Now(); time.Since(began) < startTimeout; {
		if answer, err := http.Get(url); err == nil {
			_, _ = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-p.ended:
			return fmt.Errorf("the server ended; its last lines:\n%s", p.output())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("the server did not get ready; its last lines:\n%s", p.output())
}

// memory returns the resident bytes of the program and its children.
func (p *process) memory() (bytes int64, err error) { return resident(p.cmd.Process.Pid) }

// resident sums up a process and all below it.
func resident(pid int) (int64, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	statm, err := os.ReadFile(filepath.Join(dir, "statm"))
	if err != nil {
		return 0, fmt.Errorf("cannot read memory: %w", err)
	}
	fields := strings.Fields(string(statm)) // pages: total, resident, ...
	if len(fields) < 2 {
		return 0, fmt.Errorf("cannot read memory from %q", statm)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cannot read memory: %w", err)
	}
	sum := pages * int64(os.Getpagesize())
	tasks, err := filepath.Glob(filepath.Join(dir, "task", "*", "children"))
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		children, _ := os.ReadFile(task) // A thread may end at any time.
		for child := range bytes.FieldsSeq(children) {
			if n, err := strconv.Atoi(string(child)); err == nil {
				if size, err := resident(n); err == nil {
					sum += size
				}
			}
		}
	}
	return sum, nil
}
