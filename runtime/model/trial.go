package model

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// TrialConfig says how versions are tried before they get into this process.
type TrialConfig struct {
	Command []string      // starts the child; empty for this binary with "trial"
	Memory  int64         // bytes that the child may take for one model
	Timeout time.Duration // for one model
	Cache   string        // folder that remembers what has passed; "" for none
}

// DefaultTrialConfig returns the limits for models about which nothing is known.
func DefaultTrialConfig() TrialConfig {
	return TrialConfig{Memory: 8 << 30, Timeout: time.Minute}
}

// trialJob is one line to the child, trialResult one line back.
type trialJob struct {
	Library      string // empty: found anew, for one that lies in this process's memory
	Root, Name   string
	Version      string
	DefaultBatch int
	Memory       int64
}

type trialResult struct {
	Ran     bool   // on made-up inputs
	Batched bool   // the batch axes are proven
	Error   string // why the version cannot be served
}

// TrialMain is the child process that tries models: a job a line on stdin, a
// result a line on stdout. A model that ends it costs its own trial only.
func TrialMain(stdin io.Reader, stdout io.Writer) int {
	lines := bufio.NewScanner(stdin)
	lines.Buffer(nil, 1<<20)
	out := json.NewEncoder(stdout)
	for lines.Scan() {
		var job trialJob
		if err := json.Unmarshal(lines.Bytes(), &job); err != nil {
			return 2
		}
		var result trialResult
		if err := result.try(job); err != nil {
			result.Error = err.Error()
		}
		if err := out.Encode(result); err != nil {
			return 2
		}
	}
	return 0
}

func (r *trialResult) try(job trialJob) error {
	if job.Library == "" {
		found, err := ort.FindLibrary("")
		if err != nil {
			return err
		}
		job.Library = found.Path
	}
	rt, err := ort.Open(ort.Config{Library: job.Library, Level: slog.LevelError})
	if err != nil {
		return err
	}
	if job.Memory > 0 {
		limit := unix.Rlimit{Cur: uint64(job.Memory), Max: uint64(job.Memory)}
		if err := unix.Setrlimit(unix.RLIMIT_DATA, &limit); err != nil {
			return fmt.Errorf("cannot limit the trial's memory: %w", err)
		}
	}
	f, v, err := findVersion(job.Root, job.Name, job.Version)
	if err != nil {
		return err
	}
	session, err := rt.NewSession(v.File,
		sessionConfig(f.Config, f.Name, DefaultDefaults().Session))
	if err != nil {
		return err
	}
	defer session.Close()
	_, sig, _, err := f.Complete(layout.Inspected{Inputs: session.Inputs(),
		Outputs: session.Outputs()}, job.DefaultBatch)
	if err != nil {
		return err
	}
	call, err := session.NewCall()
	if err != nil {
		return err
	}
	defer call.Close()
	p := probe{call: call, sig: sig, rand: rand.New(rand.NewPCG(1, 2))}
	defer p.mem.Free()
	r.Ran, r.Batched, err = p.batches()
	return err
}

func findVersion(root, name, version string) (layout.Folder, layout.VersionDir, error) {
	f := layout.ScanFolder(root, name)
	if f.Fault != nil {
		return f, layout.VersionDir{}, f.Fault
	}
	for _, v := range f.Versions {
		if v.Version == version {
			return f, v, nil
		}
	}
	return f, layout.VersionDir{}, fmt.Errorf("version %s is gone", version)
}

// trials runs jobs in child processes, one after the other.
type trials struct {
	cfg   TrialConfig
	log   *slog.Logger
	child *child
}

// child is a running trial process.
type child struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr *tail
}

// run tries one version.
func (t *trials) run(ctx context.Context, job trialJob) trialResult {
	if t.child == nil {
		c, err := t.start()
		if err != nil {
			return trialResult{Error: fmt.Sprintf("cannot start the trial process: %v", err)}
		}
		t.child = c
	}
	c := t.child
	timer := time.AfterFunc(t.cfg.Timeout, func() { _ = c.cmd.Process.Kill() })
	stop := context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })
	defer stop()
	began := time.Now()
	line, err := json.Marshal(job)
	if err == nil {
		_, err = c.in.Write(append(line, '\n'))
	}
	var result trialResult
	if err == nil && c.out.Scan() {
		if err = json.Unmarshal(c.out.Bytes(), &result); err == nil && timer.Stop() {
			return result
		}
	}
	timer.Stop()
	t.child = nil
	return trialResult{Error: c.ended(time.Since(began), t.cfg)}
}

func (t *trials) start() (*child, error) {
	command := t.cfg.Command
	if len(command) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		command = []string{exe, "trial"}
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c := &child{cmd: cmd, stderr: new(tail)}
	cmd.Stderr = c.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.in, c.out = in, bufio.NewScanner(out)
	return c, cmd.Start()
}

// ended says why a child is gone.
func (c *child) ended(after time.Duration, cfg TrialConfig) string {
	_ = c.in.Close()
	err := c.cmd.Wait()
	if after >= cfg.Timeout {
		return fmt.Sprintf("its trial took longer than %v and was stopped", cfg.Timeout)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return fmt.Sprintf("the process that tried it died: %v%s", s.Signal(), c.stderr.why())
		}
	}
	return fmt.Sprintf("the process that tried it died: %v%s", err, c.stderr.why())
}

// close ends the child.
func (t *trials) close() {
	if t.child != nil {
		_ = t.child.in.Close()
		_ = t.child.cmd.Wait()
		t.child = nil
	}
}

// tail keeps the first line of what a child says on its error stream.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	if len(t.text) < 512 {
		t.text = append(t.text, p[:min(len(p), 512)]...)
	}
	return len(p), nil
}

func (t *tail) why() string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(t.text)), "\n")
	if line == "" {
		return ""
	}
	return " (" + line + ")"
}

// passed returns the remembered result of a digest.
func (c *TrialConfig) passed(key string) (trialResult, bool) {
	var r trialResult
	if c.Cache == "" {
		return r, false
	}
	text, err := os.ReadFile(filepath.Join(c.Cache, key))
	return r, err == nil && json.Unmarshal(text, &r) == nil
}

// remember keeps the result of a digest that has passed. Not being able to
// costs a trial at the next start, nothing else.
func (c *TrialConfig) remember(key string, r trialResult) {
	if c.Cache == "" {
		return
	}
	text, err := json.Marshal(r)
	if err != nil || os.MkdirAll(c.Cache, 0o755) != nil {
		return
	}
	file, err := os.CreateTemp(c.Cache, ".trial-*")
	if err != nil {
		return
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), filepath.Join(c.Cache, key))
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
}
