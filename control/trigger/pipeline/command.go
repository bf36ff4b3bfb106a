package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/millrace-ml/millrace/control/trigger"
)

// Command is a local command. It gets the run's parameters as environment variables:
// MILLRACE_RUN, MILLRACE_ENDPOINT and so on; of our own environment PATH and HOME only.
// It goes on when millrace ends, and is found again.
type Command struct {
	Argv    []string // the first is an absolute path
	WorkDir string
	// Folder in which each run has a folder, with what must be known of it. Those of runs
	// that have ended may be removed.
	StateDir string
}

func (c *Command) validate() error {
	var f faults
	if len(c.Argv) == 0 || !filepath.IsAbs(c.Argv[0]) {
		f = append(f, errors.New("argv: must begin with an absolute path"))
	}
	if !filepath.IsAbs(c.WorkDir) || !filepath.IsAbs(c.StateDir) {
		f = append(f, errors.New("work_dir, state_dir: must be absolute paths"))
	}
	return errors.Join(f...)
}

func (c *Command) guarantee() trigger.Guarantee { return trigger.Keeps }

func (c *Command) open(cfg Config) (runs, *conn, error) {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("state_dir: %w", err)
	}
	return &command{Command: *c, config: cfg, children: make(map[string]*os.Process)}, nil, nil
}

// command runs one command. A run's External is the name of its folder, our Name.
//
// The run holds a lock on a file of its folder: all its processes have inherited it, and
// the kernel gives it back when the last of them has ended, however that came.
type command struct {
	Command
	config Config

	mu       sync.Mutex
	children map[string]*os.Process // that have to be waited for. Guarded by mu.
}

// Names in a run's folder.
const (
	lockFile   = "lock"
	pidFile    = "pid"    // of the process group
	statusFile = "status" // its exit status
	logFile    = "log"    // the end of its output
	stopFile   = "stop"   // is there once it was asked to end
)

// script runs the command, with its folder as $0. It keeps the end of the output in
// memory, so that a chatty command cannot fill the disk. All but the command outlive a
// request to end, so that the output of a command that was ended is there, too.
const script = `trap '' TERM
echo $$ >"$0/pid"
{ trap - TERM; "$@" </dev/null; echo $? >"$0/status.new"; } 2>&1 | tail -c 16384 >"$0/log"
mv "$0/status.new" "$0/status"`

// Start makes the run's folder and begins the command. A folder that is there says that
// it was begun before.
func (p *command) Start(_ context.Context, r trigger.Run) (trigger.Status, error) {
	s := trigger.Status{State: trigger.Running, External: r.Name()}
	dir := filepath.Join(p.StateDir, r.Name())
	switch err := os.Mkdir(dir, 0o700); {
	case errors.Is(err, fs.ErrExist):
		return s, nil
	case err != nil:
		return trigger.Status{}, &trigger.Fault{Text: err.Error()}
	}
	process, err := p.begin(dir, r)
	if err != nil {
		return trigger.Status{}, &trigger.Fault{
			Text: errors.Join(err, os.RemoveAll(dir)).Error()}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.children[r.Name()] = process
	return s, nil
}

func (p *command) begin(dir string, r trigger.Run) (*os.Process, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the command has its own by then
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", lock.Name(), err)
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, dir}, p.Argv...)...)
	cmd.Dir = p.WorkDir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	for key, value := range p.config.inputs(r) {
		cmd.Env = append(cmd.Env, variable(key)+"="+strings.ReplaceAll(value, "\x00", ""))
	}
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	return cmd.Process, err
}

// variable is the environment variable of a parameter.
func variable(key string) string {
	name := strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, strings.ToUpper(key))
	return "MILLRACE_" + strings.TrimPrefix(name, "MILLRACE_")
}

// dir returns the folder of a run that was begun.
func (p *command) dir(external string) (string, error) {
	dir := filepath.Join(p.StateDir, filepath.Base(external))
	if _, err := os.Stat(dir); err != nil {
		return "", &trigger.Fault{Kind: trigger.ErrGone, Text: err.Error()}
	}
	return dir, nil
}

// alive says whether a process of the run has not ended.
func alive(dir string) (bool, error) {
	lock, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it was never begun
	}
	if err != nil {
		return false, &trigger.Fault{Text: err.Error()}
	}
	defer lock.Close()
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, &trigger.Fault{Text: err.Error()}
	}
	return false, nil
}

// Status looks whether the run's processes have ended, and how.
func (p *command) Status(_ context.Context, external string) (trigger.Status, error) {
	dir, err := p.dir(external)
	if err != nil {
		return trigger.Status{}, err
	}
	if running, err := alive(dir); running || err != nil {
		return trigger.Status{State: trigger.Running}, err
	}
	p.reap(external)
	log, _ := os.ReadFile(filepath.Join(dir, logFile)) // there is none if it was killed
	s := trigger.Status{Logs: string(log)}
	code, err := os.ReadFile(filepath.Join(dir, statusFile))
	_, stopErr := os.Stat(filepath.Join(dir, stopFile))
	switch word := strings.TrimSpace(string(code)); {
	case err == nil && word == "0":
		s.State = trigger.Succeeded
	case stopErr == nil:
		s.State = trigger.Cancelled
	case err == nil:
		s.State, s.Detail = trigger.Failed, "the command ended with status "+word
	default:
		s.State, s.Detail = trigger.Failed, "the command was killed, or never began"
	}
	return s, nil
}

// reap frees what the kernel keeps of a process that has ended.
func (p *command) reap(external string) {
	p.mu.Lock()
	process := p.children[external]
	delete(p.children, external)
	p.mu.Unlock()
	if process != nil {
		_, _ = process.Wait() // how it ended is in its folder
	}
}

// Tidy removes what commands have left in a StateDir: the folders of runs that have ended and are
// not to be kept, by their Names.
func Tidy(stateDir string, keep func(name string) bool) error {
	entries, err := os.ReadDir(stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	faults := []error{err}
	for _, e := range entries {
		dir := filepath.Join(stateDir, e.Name())
		if _, err := os.Stat(filepath.Join(dir, lockFile)); err != nil || keep(e.Name()) {
			continue
		}
		running, err := alive(dir)
		if err == nil && !running {
			err = os.RemoveAll(dir)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// Cancel asks the run's processes to end, and kills them when it is asked again.
func (p *command) Cancel(_ context.Context, external string) error {
	dir, err := p.dir(external)
	if err != nil {
		return err
	}
	if running, err := alive(dir); !running || err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, pidFile))
	var group int
	if err == nil {
		_, err = fmt.Sscanf(string(text), "%d", &group)
	}
	if err != nil || group <= 1 {
		return &trigger.Fault{Text: fmt.Sprintf("cannot tell which processes are those of %s",
			external)}
	}
	signal := syscall.SIGTERM
	stop := filepath.Join(dir, stopFile)
	if f, err := os.OpenFile(stop, os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		err = f.Close()
		if err != nil {
			return &trigger.Fault{Text: err.Error()}
		}
	} else if errors.Is(err, fs.ErrExist) {
		signal = syscall.SIGKILL
	} else {
		return &trigger.Fault{Text: err.Error()}
	}
	if err := syscall.Kill(-group, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return &trigger.Fault{Text: fmt.Sprintf("cannot end the processes of %s: %v", external,
			err)}
	}
	return nil
}
