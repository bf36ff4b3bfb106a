package syncer

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
	"github.com/millrace-ml/millrace/runtime/model"
)

// convert is a converter of some kind. A note of it stays in the folder of notes.
func convert(kind, notes, in, out string) int {
	note := filepath.Join(notes, fmt.Sprint(time.Now().UnixNano()))
	if err := os.WriteFile(note, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return 9
	}
	made := filepath.Join(out, "model.onnx")
	switch kind {
	case "copy":
		content, err := os.ReadFile(filepath.Join(in, "model.pkl"))
		if err != nil || os.WriteFile(made, content, 0o644) != nil {
			return 9
		}
	case "link":
		_ = os.Symlink(os.Args[0], made)
	case "fail":
		fmt.Println(strings.Repeat("x", 10_000), in)
		fmt.Fprintln(os.Stderr, "columns of text")
		return 3
	case "environment":
		fmt.Println(os.Environ())
		return 1
	case "eat":
		var last []byte
		for range 4 << 10 {
			more, err := syscall.Mmap(-1, 0, 1<<20, syscall.PROT_READ|syscall.PROT_WRITE,
				syscall.MAP_ANON|syscall.MAP_PRIVATE)
			if err != nil {
				_ = syscall.Munmap(last) // Go itself needs room to say so and to end
				fmt.Println(err)
				return 1
			}
			last = more
		}
	case "hang": // with a child that the note names
		child := exec.Command("sleep", "600")
		child.Stdout = os.Stdout
		if child.Start() != nil {
			return 9
		}
		_ = os.WriteFile(note, []byte(strconv.Itoa(child.Process.Pid)), 0o644)
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = child.Wait()
	}
	return 0
}

// converter makes a bench's source one that converts by this test binary.
func converter(b *bench, kind string, set func(*ConverterConfig)) (c *Converter, notes string) {
	b.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	notes = b.t.TempDir()
	cfg := DefaultConverterConfig()
	cfg.Dir, cfg.Command = filepath.Join(b.t.TempDir(), "c"), []string{exe, "convert", kind, notes}
	if set != nil {
		set(&cfg)
	}
	if c, err = NewConverter(cfg, b.src, b.cfg.Store); err != nil {
		b.t.Fatal(err)
	}
	return c, notes
}

// pickle is a model that is not ONNX, which "copy" makes into a sample.
func pickle(t *testing.T, name string) map[string][]byte {
	return map[string][]byte{"model.pkl": sample(t, name)["model.onnx"],
		"MLmodel": []byte("flavors: {sklearn: {}, python_function: {}}")}
}

// TestConverter converts a version once, whatever comes between.
func TestConverter(t *testing.T) {
	b := newBench(t, model.ModeNone)
	c, notes := converter(b, "copy", nil)
	b.src.set(t, "m", "1", pickle(t, "simple"))
	b.src.set(t, "m", "2", sample(t, "wine"))
	b.model.Latest = 2
	look := func(want string, conversions int) {
		t.Helper()
		if got := b.sync(c); got != want || len(glob(notes+"/*")) != conversions {
			t.Errorf("%s after %d conversions, want %s after %d; %+v", got, len(glob(notes+"/*")),
				want, conversions, b.model.Status)
		}
	}
	look("2:Ready 1:Ready [1 2]", 1)
	b.reason("1", "converted from sklearn")
	b.reason("2", "")
	b.Syncer = New(b.cfg)
	b.model.Status = Status{}
	look("2:Ready 1:Ready [1 2]", 1)
	b.reason("1", "converted from sklearn")
	b.src.set(t, "other", "1", pickle(t, "simple"))
	if s := b.Sync(t.Context(), c, []Model{{Name: "other", At: "other"}})["other"]; len(
		glob(notes+"/*")) != 1 || s.Versions[0].Reason != "converted from sklearn" {
		t.Errorf("the same files were converted again: %+v", s)
	}
	if err := b.Retain(t.Context(), []string{"m"}); err != nil {
		t.Error(err)
	}
	if got := b.stored(); !strings.Contains(got, "converted/") {
		t.Errorf("a conversion that is in use has left: %s", got)
	}
	b.src.set(t, "m", "1", pickle(t, "iris"))
	look("2:Ready 1:Ready [1 2]", 2)
	b.model.Latest = 1
	look("2:Ready [2]", 2)
	if got := b.stored(); got != "model/m/2 m/2 m/config.pbtxt" {
		t.Errorf("stored is %s", got)
	}
}

// TestConverterFails has converters go wrong in all ways.
func TestConverterFails(t *testing.T) {
	t.Setenv("REGISTRY_TOKEN", "secret-words")
	f := func(kind string, set func(*ConverterConfig), wants ...string) string {
		t.Helper()
		b := newBench(t, model.ModeNone)
		c, notes := converter(b, kind, set)
		b.src.set(t, "m", "1", pickle(t, "simple"))
		if got := b.sync(c); got != "1:Failed []" {
			t.Errorf("%s: %s", kind, got)
		}
		reason := b.model.Status.Versions[0].Reason
		for _, want := range append(wants, "cannot convert the model m version 1") {
			if !strings.Contains(reason, want) {
				t.Errorf("%s: %.900s, want %s", kind, reason, want)
			}
		}
		if len(reason) > tailSize+500 || strings.Contains(reason, "secret-words") ||
			strings.Contains(reason, c.cfg.Dir) {
			t.Errorf("%s: %d bytes of reason: %s", kind, len(reason), reason)
		}
		if left := glob(c.cfg.Dir + "/*"); len(left) > 0 || b.stored() != "" {
			t.Errorf("%s leaves %v and %s", kind, left, b.stored())
		}
		if got := b.sync(c); got != "1:Failed []" || b.src.pulled("m/1") != 1 {
			t.Errorf("%s: it is tried again at once: %s", kind, got)
		}
		text, _ := os.ReadFile(append(glob(notes+"/*"), "")[0])
		return string(text)
	}
	f("fail", nil, "exit status 3", "xxx in\ncolumns of text")
	f("nothing", nil, "has made no model.onnx")
	f("link", nil, "has made no model.onnx")
	f("environment", nil, "PATH=")
	f("eat", func(c *ConverterConfig) { c.Memory = 1 << 30 }, "cannot allocate memory")
	f("", func(c *ConverterConfig) { c.Command = []string{"/no/such/program"} }, "no such file")
	began := time.Now()
	pid, err := strconv.Atoi(f("hang", func(c *ConverterConfig) {
		c.Timeout = 500 * time.Millisecond
	}, "longer than 500ms"))
	if err != nil || time.Since(began) > 10*time.Second || alive(pid) {
		t.Errorf("process %d is still there, %v", pid, err)
	}
}

// alive says whether a process runs: one that has ended may still wait for its parent.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(state, "Z") && syscall.Kill(pid, 0) == nil
}

func TestConverterConfig(t *testing.T) {
	_, err := NewConverter(ConverterConfig{}, nil, nil)
	for _, want := range []string{"command", "timeout", "memory", "dir"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// TestConvertReal serves a model of scikit-learn that MLflow has logged, converted by the
// example converter.
func TestConvertReal(t *testing.T) {
	python := venv.Python(t, "../../examples/converter/requirements.txt")
	b := newBench(t, model.ModeNone)
	script := filepath.Join(t.TempDir(), "log.py")
	write(t, script, []byte(`
import sys, mlflow.sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))
mlflow.sklearn.save_model(model, sys.argv[1], serialization_format="cloudpickle",
                          pip_requirements=[])
`))
	t.Setenv("MLFLOW_DISABLE_TELEMETRY", "true")
	venv.Run(t, python, script, filepath.Join(b.src.dir, "m", "1"))
	program, err := filepath.Abs("../../examples/converter/convert.py")
	if err != nil {
		t.Fatal(err)
	}
	c, _ := converter(b, "", func(c *ConverterConfig) { c.Command = []string{python, program} })
	if got := b.sync(c); got != "1:Ready [1]" {
		t.Fatalf("%s; %+v", got, b.model.Status)
	}
	b.reason("1", "converted from sklearn")
	v, err := b.models.Acquire([]byte("m"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	sig := v.Signature()
	if len(sig.Outputs) != 2 || sig.Outputs[1].Name != "probabilities" || sig.MaxBatchSize == 0 {
		t.Errorf("signature %+v", sig)
	}
}
