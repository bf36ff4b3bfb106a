// Package ort_test runs the small models of testdata on the real library.
package ort_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// records gets what the library logs: level, model and message.
var records = make(lines, 1000)

// lines is a slog.Handler; what does not fit is dropped.
type lines chan string

func (lines) Enabled(context.Context, slog.Level) bool { return true }
func (l lines) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l lines) WithGroup(string) slog.Handler          { return l }
func (l lines) Handle(_ context.Context, r slog.Record) error {
	text := r.Level.String()
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	select {
	case l <- text + " " + r.Message:
	default:
	}
	return nil
}

// children are what this test binary does in processes of its own, where the
// library is not loaded yet.
var children = map[string]func(arg string){
	"find": childFinds, "open": childOpens, "options": childTellsOptions,
}

const childEnv = "MILLRACE_TEST_CHILD"

func TestMain(m *testing.M) {
	name, arg, _ := strings.Cut(os.Getenv(childEnv), " ")
	if child, ok := children[name]; ok {
		child(arg)
		return
	}
	// Children open the library that the tests would find.
	if found, err := ort.FindLibrary(""); err == nil {
		_ = os.Setenv(ort.Env, found.Path)
	}
	os.Exit(m.Run())
}

// child runs a child with the environment that is given and returns what it says.
func child(t *testing.T, what string, env ...string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return childOf(t, exec.Command(exe), what, env...)
}

func childOf(t *testing.T, cmd *exec.Cmd, what string, env ...string) string {
	t.Helper()
	cmd.Env = append(env, childEnv+"="+what)
	tooLong := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer tooLong.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the child that is to %s: %v\n%s", what, err, out)
	}
	return strings.TrimSpace(string(out))
}

// library is ONNX Runtime, loaded once for the process.
func library(t testing.TB) *ort.Runtime {
	t.Helper()
	found, err := ort.FindLibrary("")
	if err != nil {
		t.Fatal(err)
	}
	rt, err := ort.Open(ort.Config{Library: found.Path, Logger: slog.New(records),
		Level: slog.LevelWarn})
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

// model is a loaded model with a workspace and memory for its inputs.
type model struct {
	t       testing.TB
	name    string
	session *ort.Session
	call    *ort.Call
	runs    int
	mem     tensor.Arena
}

func path(name string) string { return filepath.Join("testdata", name+".onnx") }

func load(t testing.TB, name string) *model {
	t.Helper()
	cfg := ort.DefaultSessionConfig()
	cfg.LogID = name
	return loadAs(t, name, cfg)
}

func loadAs(t testing.TB, name string, cfg ort.SessionConfig) *model {
	t.Helper()
	s, err := library(t).NewSession(path(name), cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{t: t, name: name, session: s}
	m.call = m.newCall()
	t.Cleanup(func() {
		m.call.Close()
		s.Close()
		m.mem.Free()
	})
	return m
}

func (m *model) newCall() *ort.Call {
	m.t.Helper()
	c, err := m.session.NewCall()
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// inputs makes the model's inputs of texts such as "FP32[2,1] 0.5 -1"; "-" is
// one that is left out.
func (m *model) inputs(texts ...string) []tensor.Tensor {
	m.t.Helper()
	specs := m.session.Inputs()
	if len(texts) != len(specs) {
		m.t.Fatalf("%d inputs for a model that has %d", len(texts), len(specs))
	}
	in := make([]tensor.Tensor, len(specs))
	for i, text := range texts {
		in[i] = m.parse(text)
		in[i].Name = specs[i].Name
	}
	return in
}

// expected are times that runs may be expected to take: one is made on the goroutine's thread,
// one on another.
var expected = [...]time.Duration{0, time.Hour}

// run returns the outputs as one text, or the error's. Every second run is made as a long one.
func (m *model) run(inputs ...string) string {
	m.t.Helper()
	out, err := m.call.Run(m.inputs(inputs...), expected[m.runs%len(expected)])
	m.runs++
	if err != nil {
		return err.Error()
	}
	return show(out)
}

func (m *model) parse(text string) (out tensor.Tensor) {
	m.t.Helper()
	if text == "-" {
		return out
	}
	head, rest, ok := strings.Cut(text, "]")
	name, dims, ok2 := strings.Cut(head, "[")
	if out.Datatype = tensor.ParseDatatype(name); !ok || !ok2 || out.Datatype == tensor.Invalid {
		m.t.Fatalf("%q is not a tensor", text)
	}
	for d := range strings.SplitSeq(dims, ",") {
		if d == "" {
			continue
		}
		n, err := strconv.ParseInt(d, 10, 64)
		if err != nil {
			m.t.Fatal(err)
		}
		out.Shape = append(out.Shape, n)
	}
	var data []byte
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		var word string
		if rest[0] == '"' {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				m.t.Fatal(err)
			}
			word, _ = strconv.Unquote(quoted)
			rest = rest[len(quoted):]
		} else {
			word, rest, _ = strings.Cut(rest, " ")
		}
		data = m.element(data, out.Datatype, word)
	}
	mem, err := m.mem.Alloc(len(data))
	if err != nil {
		m.t.Fatal(err)
	}
	copy(mem, data)
	out.Data = mem
	return out
}

func (m *model) element(dst []byte, d tensor.Datatype, word string) []byte {
	m.t.Helper()
	var bits uint64
	var err error
	switch d {
	case tensor.Bytes:
		return tensor.AppendElement(dst, word)
	case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
		var f float64
		f, err = strconv.ParseFloat(word, 64)
		switch d {
		case tensor.FP16:
			bits = uint64(tensor.FP16FromFloat64(f))
		case tensor.BF16:
			bits = uint64(tensor.BF16FromFloat64(f))
		case tensor.FP32:
			bits = uint64(math.Float32bits(float32(f)))
		default:
			bits = math.Float64bits(f)
		}
	case tensor.Uint64:
		bits, err = strconv.ParseUint(word, 10, 64)
	default:
		var n int64
		n, err = strconv.ParseInt(word, 10, 64)
		bits = uint64(n)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return append(dst, binary.LittleEndian.AppendUint64(nil, bits)[:d.Size()]...)
}

// show writes outputs the way parse reads inputs, with their names in front
// and the names of the classes behind.
func show(out []tensor.Tensor) string {
	var texts []string
	for _, t := range out {
		if t.Datatype == tensor.Invalid {
			texts = append(texts, t.Name+"=-")
			continue
		}
		text := t.Name + "=" + t.Datatype.String() + tensor.FormatShape(t.Shape)
		if err := t.Check(); err != nil {
			text += " " + err.Error()
		}
		for rest := t.Data; len(rest) > 0; {
			var word string
			word, rest = next(t.Datatype, rest)
			text += " " + word
		}
		if t.ClassNames != nil {
			text += fmt.Sprintf(" %q", t.ClassNames)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

func next(d tensor.Datatype, data []byte) (word string, rest []byte) {
	if d == tensor.Bytes {
		element, rest, ok := tensor.NextElement(data)
		if !ok {
			return "cut short", nil
		}
		return strconv.Quote(string(element)), rest
	}
	if len(data) < d.Size() {
		return "cut short", nil
	}
	var padded [8]byte
	copy(padded[:], data[:d.Size()])
	bits := binary.LittleEndian.Uint64(padded[:])
	unused := 64 - 8*d.Size()
	rest = data[d.Size():]
	switch d {
	case tensor.FP16:
		return fmt.Sprint(tensor.FP16ToFloat32(uint16(bits))), rest
	case tensor.BF16:
		return fmt.Sprint(tensor.BF16ToFloat32(uint16(bits))), rest
	case tensor.FP32:
		return fmt.Sprint(math.Float32frombits(uint32(bits))), rest
	case tensor.FP64:
		return fmt.Sprint(math.Float64frombits(bits)), rest
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
		return fmt.Sprint(int64(bits<<unused) >> unused), rest
	}
	return fmt.Sprint(bits), rest
}

// residentBytes is the memory of this process that is in use.
func residentBytes(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}
