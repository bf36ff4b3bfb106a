package model_test

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// folder is a model repository that a test fills.
type folder struct {
	t   *testing.T
	dir string
}

// put writes a model's file.
func (f folder) put(name string, m message) folder {
	f.t.Helper()
	return f.file(name, "model.onnx", m)
}

// file writes a file beside a model's.
func (f folder) file(name, file string, content []byte) folder {
	f.t.Helper()
	path := filepath.Join(f.dir, name, "1", file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		f.t.Fatal(err)
	}
	return f
}

// open opens the folder as a repository, with all models asked for.
func (f folder) open(trial model.TrialConfig) *model.Repository {
	f.t.Helper()
	found, err := ort.FindLibrary("")
	if err != nil {
		f.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	rt, err := ort.Open(ort.Config{Library: found.Path, Logger: log, Level: slog.LevelError})
	if err != nil {
		f.t.Fatal(err)
	}
	models, err := model.Open(context.Background(), model.Options{
		Runtime: rt, Repositories: []string{f.dir}, Mode: model.ModeExplicit,
		Startup: []string{"*"}, Trial: trial, Defaults: model.DefaultDefaults(), Logger: log,
	})
	if err != nil {
		f.t.Fatalf("a model keeps the repository from opening: %v", err)
	}
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := models.Close(ctx); err != nil {
			f.t.Error(err)
		}
	})
	return models
}

// entry returns a model's line of the index.
func entry(models *model.Repository, name string) model.IndexEntry {
	for _, e := range models.Index(false) {
		if e.Name == name {
			return e
		}
	}
	return model.IndexEntry{}
}

// wantRefused holds that a model does not serve, for a reason in which all of
// words stand and nothing of where it lies.
func (f folder) wantRefused(models *model.Repository, name, words string) {
	f.t.Helper()
	e := entry(models, name)
	if e.State != model.StateUnavailable {
		f.t.Errorf("%s is %q: %s", name, e.State, e.Reason)
	}
	for _, word := range strings.Split(words, "|") {
		if !strings.Contains(e.Reason, word) || word == "" {
			f.t.Errorf("%s: the reason is %q, want %q in it", name, e.Reason, word)
		}
	}
	for _, hidden := range []string{f.dir, "/etc/passwd", os.TempDir() + "/", "onnxruntime_src"} {
		if strings.Contains(e.Reason, hidden) {
			f.t.Errorf("%s: the reason tells of %s: %q", name, hidden, e.Reason)
		}
	}
	if len(e.Reason) > 4096 {
		f.t.Errorf("%s: the reason has %d bytes", name, len(e.Reason))
	}
}

// infer sends one row of zeros through a model whose input is [n, 4] floats.
func infer(models *model.Repository, name string) error {
	v, err := models.Acquire([]byte(name), nil)
	if err != nil {
		return err
	}
	defer v.Release()
	var mem tensor.Arena
	defer mem.Free()
	data, err := mem.Alloc(16)
	if err != nil {
		return err
	}
	clear(data)
	ticket := batch.Ticket{Inputs: []tensor.Tensor{
		{Name: "x", Datatype: tensor.FP32, Shape: []int64{1, 4}, Data: data},
	}}
	defer ticket.Free()
	defer ticket.Release()
	return v.Do(&ticket)
}

// refusal is a model and what stands in the reason of its refusal.
type refusal struct {
	model message
	words string
}

// hostileModels returns models that must not serve, by name.
func hostileModels() map[string]refusal {
	return map[string]refusal{
		"empty":     {nil, "empty"},
		"garbage":   {message(strings.Repeat("\xde\xad\xbe\xef", 99)), "not a complete ONNX model"},
		"zeros":     {make(message, 4096), "not a complete ONNX model"},
		"text":      {message("this is no model\n"), "not a complete ONNX model"},
		"truncated": {identity()[:len(identity())-7], "not a complete ONNX model"},
		"headless":  {message{}.number(1, 8), "no graph"},
		"flat":      {message("\x1c\x00\x00\x00ORTM" + strings.Repeat("\x00", 64)), "not a comp"},
		// A graph of 34 GB, says its length.
		"claims": {append(message{0x3a, 255, 255, 255, 255, 0x7f}, identity()...), "not a c"},

		"opset":    {identity().add(8, message{}.number(2, 9999)), "Opset 9999"},
		"operator": {through([]message{node("NoSuchOp", list("x"), list("y"))}), "NoSuchOp"},
		"domain": {through([]message{node("Relu", list("x"), list("y")).text(7, "com.evil")}),
			"com.evil"},
		"long": {through([]message{node(strings.Repeat("N", 1<<20), list("x"), list("y"))}), "NNN"},
		"cycle": {through([]message{node("Add", list("x", "b"), list("a")),
			node("Add", list("a", "x"), list("b")), node("Identity", list("b"), list("y"))}),
			"acyclic"},
		"dangling":         {through([]message{node("Relu", list("none"), list("y"))}), "none"},
		"outless":          {through([]message{node("Identity", list("x"), list("z"))}), "y"},
		"float8":           {oneType(tensorType(float8Type, -1, 4)), "float8"},
		"sequence":         {oneType(sequenceOf(rows)), "sequences"},
		"nested sequences": {oneType(sequenceOf(sequenceOf(rows))), "seq(seq"},

		"deep":      {nested(200), "deeper than 64"},
		"recursive": {functions(1, 1, true), "recursive"},
		"chain":     {functions(2000, 1, false), "depth"},
		"trap":      {trap(), "died|SIGFPE"},

		"terabytes":      {huge(false, 1<<14, 1<<14, 1<<14), "memory"},
		"exabytes":       {huge(false, 1<<20, 1<<20, 1<<20), "memory"},
		"gigabytes late": {huge(true, 100<<20), "memory"},
		"exabytes late":  {huge(true, 1<<15, 1<<15, 1<<15), "memory"},
	}
}

// oneType is a model that passes a value of this type on.
func oneType(t message) message {
	return modelOf(graph{
		nodes:  []message{node("Identity", list("x"), list("y"))},
		inputs: []message{value("x", t)}, outputs: []message{value("y", t)},
	}.message())
}

// TestHostileModels opens a repository in which one model is good. That one
// serves; each other stands in the index with its reason, and serves once its
// file is right.
func TestHostileModels(t *testing.T) {
	f, hostile := folder{t, t.TempDir()}, hostileModels()
	f.put("good", identity())
	for name, h := range hostile {
		f.put(name, h.model)
	}
	trial := model.DefaultTrialConfig()
	trial.Memory = 1 << 30
	models := f.open(trial)
	if err := infer(models, "good"); err != nil {
		t.Errorf("the good model does not serve: %v", err)
	}
	for name, h := range hostile {
		f.wantRefused(models, name, h.words)
		if err := infer(models, name); !errors.Is(err, model.ErrNotReady) {
			t.Errorf("%s answers %v", name, err)
		}
	}
	if err := models.Load(context.Background(), "trap", model.LoadOptions{}); err == nil ||
		!errors.Is(err, model.ErrLoad) || strings.Contains(err.Error(), f.dir) {
		t.Errorf("the trap loads with %v", err)
	}
	for name := range hostile {
		f.put(name, identity())
		if err := models.Load(context.Background(), name, model.LoadOptions{}); err != nil {
			t.Errorf("the file was put right: %v", err)
		}
		if err := infer(models, name); err != nil {
			t.Errorf("%s does not serve after its file was put right: %v", name, err)
		}
	}
}

// TestWeightsElsewhere loads models whose weights lie where they must not, or
// do not lie where they should.
func TestWeightsElsewhere(t *testing.T) {
	f := folder{t, t.TempDir()}
	add := []message{node("Add", list("x", "w"), list("y"))}
	refused := map[string]string{}
	with := func(name, words string, entries ...string) {
		f.put(name, through(add, external("w", entries...)))
		refused[name] = words
	}
	f.put("good", through(add, external("w", "location", "w.bin", "offset", "8", "length", "16"))).
		file("good", "w.bin", make([]byte, 24))
	const elsewhere = "weights lie outside the version's folder"
	with("missing", `"w.bin"|missing`, "location", "w.bin")
	with("above", elsewhere, "location", "../../good/1/w.bin")
	with("absolute", elsewhere, "location", "/etc/passwd")
	with("nothing", elsewhere, "location", "")
	with("folder", "not a file", "location", ".")
	with("unsaid", "location")
	with("twice", `"w.bin"|missing`, "location", "w.bin", "location", "/etc/passwd")
	with("link", elsewhere, "location", "w.bin")
	if err := os.Symlink("/etc/passwd", filepath.Join(f.dir, "link", "1", "w.bin")); err != nil {
		t.Fatal(err)
	}
	// The name with which ONNX Runtime marks weights that lie in its own memory.
	const marker = "*/_ORT_MEM_ADDR_/*"
	with("memory", "in-memory address marker",
		"location", marker, "offset", "94000000000000", "length", "16")
	f.file("memory", marker, make([]byte, 64))
	for name, entries := range map[string][]string{
		"length": {"length", "1152921504606846976"}, "before": {"offset", "-16"},
		"behind": {"offset", "4096"}, "word": {"offset", "x"},
		"overflow": {"offset", "9223372036854775807", "length", "9223372036854775807"},
	} {
		with(name, "onnxruntime", append([]string{"location", "w.bin"}, entries...)...)
		f.file(name, "w.bin", make([]byte, 64))
	}
	away := external("w", "location", "../../good/1/w.bin")
	constant := func(attribute message) message {
		return through(append(add, node("Constant", nil, list("w"), attribute)))
	}
	f.put("attribute", constant(tensorAttribute("value", away)))
	refused["attribute"] = elsewhere
	sparse := message{}.add(1, away).add(2, int64s("i", 0, 1, 2, 3)).number(3, 4)
	f.put("sparse attribute",
		constant(message{}.text(1, "sparse_value").add(22, sparse).number(20, 11)))
	refused["sparse attribute"] = elsewhere
	f.put("sparse", modelOf(graph{nodes: add, inputs: []message{value("x", rows)},
		outputs: []message{value("y", rows)}}.message().add(15, sparse)))
	refused["sparse"] = elsewhere

	models := f.open(model.DefaultTrialConfig())
	if err := infer(models, "good"); err != nil {
		t.Errorf("weights in a file of the version's own do not work: %v", err)
	}
	for name, words := range refused {
		f.wantRefused(models, name, words)
	}
}

// TestEndlessModels loads models whose trials do not end.
func TestEndlessModels(t *testing.T) {
	f := folder{t, t.TempDir()}
	f.put("good", identity()).put("loop", endless(1<<62)).put("laughs", functions(8, 20, false))
	trial := model.DefaultTrialConfig()
	trial.Timeout = 2 * time.Second
	models := f.open(trial)
	f.wantRefused(models, "loop", "longer than 2s")
	f.wantRefused(models, "laughs", "longer than 2s")
	if err := infer(models, "good"); err != nil {
		t.Errorf("the good model does not serve: %v", err)
	}
}

// TestTrap sends a model integers for which the processor traps: each costs its
// own request, not the process.
func TestTrap(t *testing.T) {
	f := folder{t, t.TempDir()}
	f.put("divider", divider())
	models := f.open(model.DefaultTrialConfig())
	v, err := models.Acquire([]byte("divider"), nil)
	if err != nil {
		t.Fatalf("%v: %s", err, entry(models, "divider").Reason)
	}
	defer v.Release()
	var mem tensor.Arena
	defer mem.Free()
	data, err := mem.Alloc(32)
	if err != nil {
		t.Fatal(err)
	}
	divide := func(by int64) (int64, error) {
		for i := range 4 {
			binary.LittleEndian.PutUint64(data[8*i:], uint64(by))
		}
		ticket := batch.Ticket{Inputs: []tensor.Tensor{
			{Name: "x", Datatype: tensor.Int64, Shape: []int64{1, 4}, Data: data},
		}}
		defer ticket.Free()
		defer ticket.Release()
		if err := v.Do(&ticket); err != nil {
			return 0, err
		}
		return int64(binary.LittleEndian.Uint64(ticket.Outputs[0].Data)), nil
	}
	for range 100 {
		for by, want := range map[int64]string{0: "division by zero", -1: "trapped"} {
			if _, err := divide(by); !errors.Is(err, model.ErrRun) ||
				!strings.Contains(err.Error(), want) {
				t.Fatalf("divided by %d: error is %v", by, err)
			}
		}
		if got, err := divide(4); err != nil || got != math.MinInt64/4 {
			t.Fatalf("divided by 4: %d, %v", got, err)
		}
	}
}

// TestOddModels loads models that look wrong and are not.
func TestOddModels(t *testing.T) {
	f := folder{t, t.TempDir()}
	f.put("constant", modelOf(graph{
		nodes:        []message{node("Identity", list("c"), list("y"))},
		initializers: []message{int64s("c", 1, 2, 3)},
		outputs:      []message{value("y", tensorType(int64Type, 3))},
	}.message()))
	f.put("nested", nested(20)).put("never loops", endless(-1))
	models := f.open(model.DefaultTrialConfig())
	for _, name := range []string{"constant", "nested", "never loops"} {
		if e := entry(models, name); e.State != model.StateReady {
			t.Errorf("%s is %q: %s", name, e.State, e.Reason)
		}
	}
}
