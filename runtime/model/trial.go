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
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
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

// trialJob is one line to the child, trialResult one line back. The job holds
// all that the child has to know: it must try just what will be loaded.
type trialJob struct {
	Library      string // empty: found anew, for one that lies in this process's memory
	Name, Dir    string // of the model folder
	Config       []byte // a ModelConfig with the settings applied; nil for none
	Version      layout.VersionDir
	Session      ort.SessionConfig
	DefaultBatch int
	Memory       int64
}

type trialResult struct {
	Ran        bool   // on made-up inputs
	Batched    bool   // the batch axes are proven
	OutputAxes []int  // the batch axes of the outputs, with Batched
	Error      string // why the version cannot be served
}

// maxJob bounds a line to the child: a configuration has at most 1 MiB as text.
const maxJob = 8 << 20

// TrialMain is the child process that tries models: a job a line on stdin, a
// result a line on stdout. A model that ends it costs its own trial only.
func TrialMain(stdin io.Reader, stdout io.Writer) int {
	lines := bufio.NewScanner(stdin)
	lines.Buffer(nil, maxJob)
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
		debug.FreeOSMemory()
		ort.TrimMemory()
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
	// What stands on the error stream is why this process died: nothing of the
	// models before.
	rt, err := ort.Open(ort.Config{Library: job.Library, Level: slog.LevelError,
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := limitMemory(job.Memory); err != nil {
		return err
	}
	err = r.load(rt, job)
	if err != nil && outOfMemory.MatchString(err.Error()) {
		err = fmt.Errorf("%w; its trial may take %d MiB, see repository.trial.memory", err,
			job.Memory>>20)
	}
	return err
}

// load does what the server will do, with a run on made-up inputs in between.
func (r *trialResult) load(rt *ort.Runtime, job trialJob) error {
	f := layout.Folder{Name: job.Name, Dir: job.Dir}
	if job.Config != nil {
		f.Config = new(configpb.ModelConfig)
		if err := proto.Unmarshal(job.Config, f.Config); err != nil {
			return err
		}
	}
	session, err := rt.NewSession(job.Version.File, job.Session)
	if err != nil {
		return err
	}
	defer session.Close()
	cfg, sig, claimed, err := f.Complete(inspect(session, job.Version), job.DefaultBatch)
	if err != nil {
		return err
	}
	if err := r.probe(session, sig, rough(job.Session.Providers)); err != nil {
		return err
	}
	if err := r.decide(cfg, sig, claimed); err != nil {
		return err
	}
	return warmUp(f, cfg, sig, session)
}

// rough says whether one of the providers does not compute as the CPU does.
func rough(providers []ort.Provider) bool {
	return slices.ContainsFunc(providers, func(p ort.Provider) bool { return !p.Is("cpu") })
}

func (r *trialResult) probe(session *ort.Session, sig *tensor.Signature, rough bool) error {
	call, err := session.NewCall()
	if err != nil {
		return err
	}
	defer call.Close()
	p := probe{call: call, sig: sig, rand: rand.New(rand.NewPCG(1, 2)), rough: rough}
	defer p.mem.Free()
	r.Ran, r.OutputAxes, err = p.batches()
	r.Batched = r.OutputAxes != nil
	return err
}

// decide takes the batch axes over that the trial has proven, and those back
// that it has not. It is an error when the configuration claims them and they
// were disproved.
func (r *trialResult) decide(cfg *configpb.ModelConfig, sig *tensor.Signature,
	claimed bool) error {
	switch {
	case sig.MaxBatchSize == 0:
	case r.Batched:
		layout.SetOutputAxes(cfg, sig, r.OutputAxes)
	case !claimed:
		layout.DropBatching(cfg, sig)
	case !r.Ran:
		for _, out := range sig.Outputs {
			if out.BatchAxis < 0 {
				return fmt.Errorf("max_batch_size is %d, but the shape of output %q does not tell "+
					"its batch axis, and the model could not be run on made-up inputs: "+
					"set max_batch_size: 0", sig.MaxBatchSize, out.Name)
			}
		}
	default:
		return fmt.Errorf("max_batch_size is %d, but two rows in one run give other answers than "+
			"in two runs: set max_batch_size: 0", sig.MaxBatchSize)
	}
	return nil
}

func inspect(s *ort.Session, v layout.VersionDir) layout.Inspected {
	return layout.Inspected{Inputs: s.Inputs(), Outputs: s.Outputs(), MLflow: v.MLflow}
}

// outOfMemory finds what libraries say when they got no memory.
var outOfMemory = regexp.MustCompile(
	`(?i)bad_?alloc|allocate memory|out of memory|not enough memory`)

// limitMemory bounds what this process may take beyond what it has now: what
// models before have left behind does not count against the next one.
func limitMemory(bytes int64) error {
	if bytes <= 0 {
		return nil
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("cannot limit the trial's memory: %w", err)
	}
	_, after, _ := strings.Cut(string(status), "VmData:")
	var now int64 // KiB
	if _, err := fmt.Sscan(after, &now); err != nil {
		return fmt.Errorf("cannot limit the trial's memory: VmData: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &limit); err != nil {
		return fmt.Errorf("cannot limit the trial's memory: %w", err)
	}
	limit.Cur = min(uint64(now<<10+bytes), limit.Max)
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &limit); err != nil {
		return fmt.Errorf("cannot limit the trial's memory: %w", err)
	}
	return nil
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
	why := c.ended(time.Since(began), t.cfg)
	if ctx.Err() != nil {
		why = "its trial was called off"
	}
	return trialResult{Error: why}
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
	cmd.WaitDelay = time.Second // a process of its own may hold its error stream open
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
	c.out.Buffer(nil, maxJob)
	return c, cmd.Start()
}

// ended says why a child is gone.
func (c *child) ended(after time.Duration, cfg TrialConfig) string {
	err := c.end()
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

// end waits for a child, which has nothing left to do. One that has died by
// itself keeps its own status: a signal that comes later changes nothing.
func (c *child) end() error {
	_ = c.in.Close()
	_ = c.cmd.Process.Kill()
	return c.cmd.Wait()
}

// close ends the child.
func (t *trials) close() {
	if t.child != nil {
		_ = t.child.end()
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
