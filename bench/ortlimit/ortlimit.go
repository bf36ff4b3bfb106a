// Package ortlimit measures how fast ONNX Runtime is when C calls it and
// nothing stands around it: the limit for every server built on it.
//
// A small C program (src/limit.c) is compiled once into a cache folder and kept
// running, so that its measurements can alternate with those of a server. A
// Limit answers one command at a time and is not safe for concurrent use.
package ortlimit

import (
	"bufio"
	"context"
	"crypto/sha256"
	_ "embed" // for the C program
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed src/limit.c
var source []byte

// binding is the module that carries ONNX Runtime's C header.
const binding = "github.com/yalue/onnxruntime_go"

// Batch stands for the batch size in Input.Dims.
const Batch = -1

// Input says more of a model's input than the model does.
type Input struct {
	Name  string
	Dims  []int64 // Batch where the batch size stands
	Value float64 // of each element, for integers
}

// Speed is what one measurement gave.
type Speed struct {
	RowsPerSecond float64 `json:"rows_per_second"`
	Runs          int64   `json:"runs"`
	P50Micros     float64 `json:"p50_us"` // of one run, on each thread
}

// Limit is a running measurement program.
type Limit struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	version string
}

// ModuleDir returns where the binding's module lies; its test data has models.
func ModuleDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", binding).Output()
	if err != nil {
		return "", fmt.Errorf("cannot find module %s: %w", binding, detail(err))
	}
	return strings.TrimSpace(string(out)), nil
}

// Build compiles the program into the folder cache, unless it is there.
func Build(ctx context.Context, cache string) (program string, err error) {
	include, err := ModuleDir(ctx)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(include), source...))
	program = filepath.Join(cache, "ortlimit-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the cache folder: %w", err)
	}
	unfinished := program + "." + strconv.Itoa(os.Getpid())
	cc := exec.CommandContext(ctx, "gcc", "-O2", "-Wall", "-D_GNU_SOURCE", "-I", include,
		"-x", "c", "-", "-o", unfinished, "-pthread", "-ldl")
	cc.Stdin = strings.NewReader(string(source))
	if out, err := cc.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot compile the C program: %w\n%s", err, out)
	}
	if err := os.Rename(unfinished, program); err != nil {
		return "", fmt.Errorf("cannot keep the C program: %w", err)
	}
	return program, nil
}

// detail adds what a failed program wrote.
func detail(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}

// Start starts the program with ONNX Runtime's shared library. It ends with
// ctx or Close.
func Start(ctx context.Context, program, library string) (*Limit, error) {
	cmd := exec.CommandContext(ctx, program, library)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start the C program: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start the C program: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the C program: %w", err)
	}
	l := &Limit{cmd: cmd, in: in, out: bufio.NewReader(out)}
	var hello struct{ Version string }
	if err := l.answer(&hello); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("cannot open %s: %w", library, err)
	}
	l.version = hello.Version
	return l, nil
}

// Version returns ONNX Runtime's version.
func (l *Limit) Version() string { return l.version }

// PID returns the process whose memory is that of ONNX Runtime alone.
func (l *Limit) PID() int { return l.cmd.Process.Pid }

// Close ends the program.
func (l *Limit) Close() error {
	_ = l.in.Close()
	if err := l.cmd.Wait(); err != nil {
		return fmt.Errorf("the C program failed: %w", err)
	}
	return nil
}

// Load opens a model under a name.
func (l *Limit) Load(name, path string, inputs ...Input) error {
	fields := []string{"load", name, path}
	for _, in := range inputs {
		var dims []string
		for _, d := range in.Dims {
			if d == Batch {
				dims = append(dims, "N")
			} else {
				dims = append(dims, strconv.FormatInt(d, 10))
			}
		}
		fields = append(fields, in.Name, strings.Join(dims, ","),
			strconv.FormatFloat(in.Value, 'g', -1, 64))
	}
	if err := l.command(nil, fields...); err != nil {
		return fmt.Errorf("cannot load %s: %w", name, err)
	}
	return nil
}

// Run calls a model from that many threads for that long.
func (l *Limit) Run(name string, batch, threads int, d time.Duration) (Speed, error) {
	var s Speed
	err := l.command(&s, "run", name, strconv.Itoa(batch), strconv.Itoa(threads),
		strconv.FormatInt(d.Milliseconds(), 10))
	if err != nil {
		return s, fmt.Errorf("cannot run %s at batch %d: %w", name, batch, err)
	}
	return s, nil
}

func (l *Limit) command(to any, fields ...string) error {
	for _, f := range fields {
		if strings.ContainsAny(f, "\t\n") {
			return fmt.Errorf("%q holds a tab or a line break", f)
		}
	}
	if _, err := io.WriteString(l.in, strings.Join(fields, "\t")+"\n"); err != nil {
		return err
	}
	return l.answer(to)
}

// answer reads the program's next line.
func (l *Limit) answer(to any) error {
	line, err := l.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the C program ended: %w", err)
	}
	var failure struct{ Error string }
	if err := json.Unmarshal(line, &failure); err != nil {
		return fmt.Errorf("cannot read %q: %w", line, err)
	}
	if failure.Error != "" {
		return errors.New(failure.Error)
	}
	if to == nil {
		return nil
	}
	return json.Unmarshal(line, to)
}
