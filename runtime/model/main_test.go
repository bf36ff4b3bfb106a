package model

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// TestMain lets the test binary be the child that tries models.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "trial" {
		os.Exit(TrialMain(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// open opens a repository of one folder until the test ends.
func open(t *testing.T, root string, set func(*Options)) *Repository {
	t.Helper()
	found, err := ort.FindLibrary("")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	rt, err := ort.Open(ort.Config{Library: found.Path, Logger: log, Level: slog.LevelError})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Runtime: rt, Repositories: []string{root}, Mode: ModeNone,
		Trial: DefaultTrialConfig(), Defaults: DefaultDefaults(), Logger: log}
	if set != nil {
		set(&o)
	}
	r, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeRepository(t, r) })
	return r
}

func closeRepository(t *testing.T, r *Repository) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Error(err)
	}
}

// write makes a file and the folders that it lies in.
func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// index is the index of a model: version STATE (reason), in their order.
func index(r *Repository, name string) string {
	var words []string
	for _, e := range r.Index(false) {
		if e.Name != name {
			continue
		}
		word := strings.TrimSpace(e.Version + " " + string(e.State))
		if e.Reason != "" {
			word += " (" + e.Reason + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// eventually waits until ok, which is asked again and again.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("after %v still not: %s", within, what)
		case <-tick.C:
		}
	}
}

// ask runs a model of addModel with zeros and returns the first answer, which
// is the constant that it adds; NaN when it cannot be asked.
func ask(r *Repository, name, version string) float32 {
	v, err := r.Acquire([]byte(name), []byte(version))
	if err != nil {
		return float32(math.NaN())
	}
	defer v.Release()
	return run(v)
}

// run asks a version that is pinned.
func run(v *Version) float32 {
	var mem tensor.Arena
	defer mem.Free()
	data, err := mem.Alloc(4 * 4)
	if err != nil {
		return float32(math.NaN())
	}
	clear(data)
	ticket := new(batch.Ticket)
	defer ticket.Release()
	ticket.Inputs = []tensor.Tensor{
		{Name: "x", Datatype: tensor.FP32, Shape: []int64{1, 4}, Data: data}}
	if err := v.Do(ticket); err != nil {
		return float32(math.NaN())
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(ticket.Outputs[0].Data))
}

// pb is a protobuf message that is being written.
type pb []byte

func (m pb) bytes(n protowire.Number, parts ...[]byte) pb {
	for _, p := range parts {
		m = protowire.AppendBytes(protowire.AppendTag(m, n, protowire.BytesType), p)
	}
	return m
}

func (m pb) text(n protowire.Number, texts ...string) pb {
	for _, s := range texts {
		m = m.bytes(n, []byte(s))
	}
	return m
}

func (m pb) number(n protowire.Number, v int64) pb {
	return protowire.AppendVarint(protowire.AppendTag(m, n, protowire.VarintType), uint64(v))
}

// ONNX's element types.
const (
	onnxFloat = 1
	onnxInt64 = 7
)

// operator is a node of an ONNX graph.
func operator(op, output string, inputs ...string) pb {
	return pb{}.text(1, inputs...).text(2, output).text(4, op)
}

// constant is an initializer of an ONNX graph.
func constant(name string, elem int64, data []byte, dims ...int64) pb {
	m := pb{}
	for _, d := range dims {
		m = m.number(1, d)
	}
	return m.number(2, elem).text(8, name).bytes(9, data)
}

// value is an input or output of floats of an ONNX graph; -1 is the dimension
// "batch".
func value(name string, dims ...int64) pb {
	shape := pb{}
	for _, d := range dims {
		if d < 0 {
			shape = shape.bytes(1, pb{}.text(2, "batch"))
		} else {
			shape = shape.bytes(1, pb{}.number(1, d))
		}
	}
	kind := pb{}.number(1, onnxFloat).bytes(2, shape)
	return pb{}.text(1, name).bytes(2, pb{}.bytes(1, kind))
}

// onnx is a model from x to y.
func onnx(x, y pb, nodes, constants []pb) []byte {
	g := pb{}
	for _, n := range nodes {
		g = g.bytes(1, n)
	}
	g = g.text(2, "g")
	for _, c := range constants {
		g = g.bytes(5, c)
	}
	g = g.bytes(11, x).bytes(12, y)
	return pb{}.number(1, 8).bytes(7, g).bytes(8, pb{}.number(2, 17))
}

func floats(values ...float32) []byte {
	var data []byte
	for _, f := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(f))
	}
	return data
}

func int64s(values ...int64) []byte {
	var data []byte
	for _, n := range values {
		data = binary.LittleEndian.AppendUint64(data, uint64(n))
	}
	return data
}

// addModel adds c to rows of four numbers.
func addModel(c float32) []byte {
	return onnx(value("x", -1, 4), value("y", -1, 4), []pb{operator("Add", "y", "x", "c")},
		[]pb{constant("c", onnxFloat, floats(c), 1)})
}

// heavyModel is addModel with n MiB of weights beside it.
func heavyModel(c float32, n int64) []byte {
	weights := bytes.Repeat(floats(0.5), int(n<<20/4))
	return onnx(value("x", -1, 4), value("y", -1, 4),
		[]pb{operator("MatMul", "h", "x", "w"), operator("ReduceMin", "m", "h"),
			operator("Mul", "z", "m", "zero"), operator("Add", "s", "x", "z"),
			operator("Add", "y", "s", "c")},
		[]pb{constant("w", onnxFloat, weights, 4, n<<20/16),
			constant("zero", onnxFloat, floats(0), 1), constant("c", onnxFloat, floats(c), 1)})
}

// hungryModel takes n GiB for each row when it is run.
func hungryModel(n int64) []byte {
	return onnx(value("x", -1, 4), value("y", -1, 4),
		[]pb{operator("Unsqueeze", "u", "x", "one"), operator("Expand", "e", "u", "shape"),
			operator("ReduceMax", "m", "e"), operator("Add", "y", "x", "m")},
		[]pb{constant("one", onnxInt64, int64s(1), 1),
			constant("shape", onnxInt64, int64s(1, n<<26, 1), 3)})
}
