package ort_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// TestDescribe holds what a session says of its inputs and outputs.
func TestDescribe(t *testing.T) {
	spec := func(list []tensor.Spec) string {
		var texts []string
		for _, s := range list {
			text := s.Name + " " + s.Datatype.String() + tensor.FormatShape(s.Shape)
			if s.Optional {
				text += " optional"
			}
			if strings.Join(s.DimNames, "") != "" {
				text += fmt.Sprintf(" %q", s.DimNames)
			}
			texts = append(texts, text)
		}
		return strings.Join(texts, "; ")
	}
	f := func(name, inputs, outputs string) {
		t.Helper()
		m := load(t, name)
		if got := spec(m.session.Inputs()); got != inputs {
			t.Errorf("%s has the inputs\n     %s\nwant %s", name, got, inputs)
		}
		if got := spec(m.session.Outputs()); got != outputs {
			t.Errorf("%s has the outputs\n     %s\nwant %s", name, got, outputs)
		}
	}
	f("relu", `x FP32[-1,4] ["batch" ""]`, `y FP32[-1,4] ["batch" ""]`)
	f("unnamed", "x FP32[-1,4]", "y FP32[-1,4]")
	f("strings", `x BYTES[-1,-1] ["n" "m"]`, `y BYTES[-1,-1] ["n" "m"]`)
	f("scalar", "x FP32[]", "twice FP32[]; dims INT64[0]")
	f("nonzero", `x FP32[-1] ["n"]`, `at INT64[1,-1] ["" "found"]`)
	f("passed", `x FP32[-1] ["n"]; s BYTES[-1] ["k"]`,
		`x FP32[-1] ["n"]; y FP32[-1] ["n"]; w INT64[3]; s BYTES[-1] ["k"]`)
	f("zipmap_int", `p FP32[-1,3] ["n" ""]`, "out FP32[-1,-1]")
	f("sequence_shaped", `x INT32[-1,-1,3] ["n" "m" ""]; split INT64[-1] ["k"]`,
		`out INT32[-1,1,-1,3] ["" "" "m" ""]`)
	f("optional_input", `x FP32[-1] optional ["n"]`, `has BOOL[]; y FP32[-1] ["k"]`)
	f("optional_sequence", `x FP32[-1] ["n"]; give BOOL[]`, `y FP32[-1,-1] optional ["" "n"]`)
}

// TestNewSessionRefuses wants each refusal typed and told without the folder
// that the model lies in.
func TestNewSessionRefuses(t *testing.T) {
	rt, dir := library(t), t.TempDir()
	relu, err := os.ReadFile(path("relu"))
	if err != nil {
		t.Fatal(err)
	}
	f := func(content []byte, code ort.Code, want string) {
		t.Helper()
		file := filepath.Join(dir, "model.onnx")
		if content == nil {
			file = filepath.Join(dir, "none.onnx")
		} else if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := rt.NewSession(file, ort.DefaultSessionConfig())
		var e *ort.Error
		if !errors.As(err, &e) {
			t.Fatalf("got %v, want an *ort.Error", err)
		}
		if e.Code != code || err.Error() != want {
			t.Errorf(" got %d %v\nwant %d %s", e.Code, err, code, want)
		}
	}
	f(nil, ort.NoSuchFile, "onnxruntime: Load model none.onnx failed. File doesn't exist")
	f([]byte{}, ort.InvalidArgument, "onnxruntime: No graph was found in the protobuf.")
	f([]byte("no model at all"), ort.InvalidProtobuf, "onnxruntime: Protobuf parsing failed.")
	f(relu[:100], ort.InvalidProtobuf, "onnxruntime: Protobuf parsing failed.")
	f(bytes.ReplaceAll(relu, []byte("Relu"), []byte("Rely")), ort.InvalidGraph,
		`onnxruntime: This is an invalid model. In Node, ("", Rely, "", -1) : `+
			`("x": tensor(float),) -> ("y": tensor(float),) , `+
			`Error No Op registered for Rely with domain_version of 18`)

	g := func(name, want string) {
		t.Helper()
		_, err := rt.NewSession(path(name), ort.DefaultSessionConfig())
		if err == nil || err.Error() != want {
			t.Errorf(" got %v\nwant %s", err, want)
		}
	}
	g("float8", `ort: cannot serve input "x": its element type FLOAT8E4M3FN `+
		`is not one of the protocol`)
	g("sequence_input", `ort: cannot serve input "x": sequences and maps work as outputs only`)
	g("rank33", `ort: cannot serve input "x": a tensor has more than 32 dimensions`)
}

// TestSessionOptions runs a model under each option, and wants the faulty ones
// refused.
func TestSessionOptions(t *testing.T) {
	f := func(want string, change func(*ort.SessionConfig)) {
		t.Helper()
		cfg := ort.DefaultSessionConfig()
		change(&cfg)
		s, err := library(t).NewSession(path("relu"), cfg)
		if err != nil {
			if err.Error() != want {
				t.Errorf(" got %v\nwant %s", err, want)
			}
			return
		}
		s.Close()
		if got := loadAs(t, "relu", cfg).run("FP32[1,4] -1 0 1 2"); got != want {
			t.Errorf(" got %s\nwant %s", got, want)
		}
	}
	works := "y=FP32[1,4] 0 0 1 2"
	f(works, func(*ort.SessionConfig) {})
	for _, level := range []string{"", "disable", "basic", "extended", "all"} {
		f(works, func(c *ort.SessionConfig) { c.GraphLevel = level })
	}
	f(`ort: graph level "most" is not disable, basic, extended or all`,
		func(c *ort.SessionConfig) { c.GraphLevel = "most" })
	f(works, func(c *ort.SessionConfig) { c.DisableArena, c.DisableMemPattern = true, true })
	f(works, func(c *ort.SessionConfig) { c.Parallel, c.InterOpThreads = true, 2 })
	f(works, func(c *ort.SessionConfig) { c.IntraOpThreads = 0 })
	f("ort: cannot set session options: Number of threads must be at least 0, got -1",
		func(c *ort.SessionConfig) { c.IntraOpThreads = -1 })
	f(works, func(c *ort.SessionConfig) { c.Providers = []ort.Provider{{Name: "cpu"}} })
	f(works, func(c *ort.SessionConfig) {
		c.Providers = []ort.Provider{{Name: "CPUExecutionProvider"}}
	})
	f(`ort: execution provider "warp" is not in this library, which has `+
		strings.Join(library(t).Providers(), ", ")+"; set fallback to run on the next one",
		func(c *ort.SessionConfig) { c.Providers = []ort.Provider{{Name: "warp"}} })
	f(works, func(c *ort.SessionConfig) {
		c.Providers, c.Fallback = []ort.Provider{{Name: "warp"}, {Name: "cpu"}}, true
	})
	f(works, func(c *ort.SessionConfig) {
		c.Entries = map[string]string{"session.set_denormal_as_zero": "1"}
	})
	f("ort: cannot set session options: Config key is empty or longer than maximum length 1024",
		func(c *ort.SessionConfig) { c.Entries = map[string]string{"": "1"} })
}

// TestGraphLevel wants the level to arrive: a level below "all" does not
// change the layout of convolutions, and none leaves the graph as it is.
func TestGraphLevel(t *testing.T) {
	sizes := make(map[string]int64)
	for _, level := range []string{"disable", "all"} {
		file := filepath.Join(t.TempDir(), "optimized.onnx")
		cfg := ort.DefaultSessionConfig()
		cfg.GraphLevel = level
		cfg.Entries = map[string]string{"session.optimized_model_filepath": file}
		loadAs(t, "mlp", cfg)
		info, err := os.Stat(file)
		if err != nil {
			t.Skipf("this library writes no optimized models: %v", err)
		}
		sizes[level] = info.Size()
	}
	// Above "disable" the weights, which are computed in the model, are folded.
	if sizes["disable"] > 10_000 || sizes["all"] < 100_000 {
		t.Errorf("the optimized models have %v bytes", sizes)
	}
}

// TestOptionsArrive reads the options back from what the library says of a new
// session.
func TestOptionsArrive(t *testing.T) {
	has := func(said string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(said, want) {
				t.Errorf("no %q in %s", want, said)
			}
		}
	}
	has(child(t, "options default", os.Environ()...),
		"execution_mode:0", "enable_mem_pattern:1", "enable_cpu_mem_arena:1",
		"intra_op_param:OrtThreadPoolParams { thread_pool_size: 1 ",
		"session.intra_op.allow_spinning: 0", "session.inter_op.allow_spinning: 0")
	has(child(t, "options changed", os.Environ()...),
		"session_logid:changed", "execution_mode:1", "enable_mem_pattern:0",
		"enable_cpu_mem_arena:0", "graph_optimization_level:1",
		"intra_op_param:OrtThreadPoolParams { thread_pool_size: 3 ",
		"inter_op_param:OrtThreadPoolParams { thread_pool_size: 2 ",
		"session.intra_op.allow_spinning: 1", "session.inter_op.allow_spinning: 0")
}

// childTellsOptions writes the library's line on the options of a session.
func childTellsOptions(which string) {
	cfg := ort.DefaultSessionConfig()
	if which == "changed" {
		cfg = ort.SessionConfig{LogID: which, IntraOpThreads: 3, InterOpThreads: 2, Parallel: true,
			GraphLevel: "basic", DisableArena: true, DisableMemPattern: true, Spinning: true,
			// Entries stand above the other options.
			Entries: map[string]string{"session.inter_op.allow_spinning": "0"}}
	}
	rt, err := ort.Open(ort.Config{Library: os.Getenv(ort.Env), Logger: slog.New(records),
		Level: slog.LevelInfo})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := rt.NewSession(path("relu"), cfg); err != nil {
		fmt.Println(err)
		return
	}
	for text := range records {
		if strings.Contains(text, "Session Options {") {
			fmt.Println(text)
			return
		}
	}
}

func drainRecords() {
	for {
		select {
		case <-records:
			continue
		default:
			return
		}
	}
}

// nextRecord waits for a log record.
func nextRecord(t *testing.T) string {
	t.Helper()
	select {
	case text := <-records:
		return text
	case <-time.After(10 * time.Second):
		t.Fatal("no log record came")
		return ""
	}
}

// TestLog wants the library's lines with their level and the model's name.
func TestLog(t *testing.T) {
	drainRecords()
	f := func(want string) {
		t.Helper()
		if got := nextRecord(t); got != want {
			t.Errorf(" got %s\nwant %s", got, want)
		}
	}
	cfg := ort.DefaultSessionConfig()
	cfg.LogID = "some model"
	loadAs(t, "unused", cfg)
	f("WARN model=some model onnxruntime: Removing initializer 'weight'. " +
		"It is not used by any node and should be removed from the model.")
	// What is in an error is not said twice.
	if got := load(t, "reshape").run("FP32[1] 1", "INT64[1] 2"); !strings.Contains(got, "{2}") {
		t.Error(got)
	}
	f("DEBUG model=reshape onnxruntime: input_shape_size == requested_shape_size was false. " +
		"The input tensor cannot be reshaped to the requested shape. " +
		"Input shape:{1}, requested shape:{2}")
	cfg.Providers, cfg.Fallback = []ort.Provider{{Name: "warp"}}, true
	loadAs(t, "relu", cfg)
	f("WARN provider=warp model=some model " +
		"execution provider is left out: it is not in this library")
}

// TestMemory loads, runs and closes a model often: its memory comes back.
func TestMemory(t *testing.T) {
	rt := library(t)
	m := load(t, "mlp")
	in := m.inputs("FP32[2,64]" + strings.Repeat(" 1", 128))
	once := func() {
		s, err := rt.NewSession(path("mlp"), ort.DefaultSessionConfig())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		c, err := s.NewCall()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Run(in, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		once()
	}
	ort.TrimMemory()
	before := residentBytes(t)
	const times = 60
	for range times {
		once()
	}
	ort.TrimMemory()
	// Its weights alone have 0.34 MB.
	if more := residentBytes(t) - before; more > times*340_000/4 {
		t.Errorf("loading a model %d times left %d bytes more", times, more)
	}
}
