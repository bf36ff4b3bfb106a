package ort_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/ort"
)

// TestRun holds the outputs of each model of testdata against what its
// operators are defined to give.
func TestRun(t *testing.T) {
	var m *model
	f := func(want string, inputs ...string) {
		t.Helper()
		for range 2 { // the second run finds the workspace used
			if got := m.run(inputs...); got != want {
				t.Errorf("%s of %q:\n got %s\nwant %s", m.name, inputs, got, want)
			}
		}
	}

	m = load(t, "relu")
	f("y=FP32[1,4] 0 0 0.5 3e+38", "FP32[1,4] -1 -0.5 0.5 3e38")
	f("y=FP32[2,4] 0 1 0 2 3 0 4 +Inf", "FP32[2,4] 0 1 0 2 3 0 4 Inf")
	f("y=FP32[0,4]", "FP32[0,4]")
	m = load(t, "unnamed")
	f("y=FP32[1,4] 0 0 0.5 1", "FP32[1,4] -1 -0.5 0.5 1")
	m = load(t, "add")
	f("sum=FP32[1,2] 4 6; difference=FP32[1,2] -2 -2", "FP32[1,2] 1 2", "FP32[1,2] 3 4")
	f("sum=FP32[3,0]; difference=FP32[3,0]", "FP32[3,0]", "FP32[3,0]")
	m = load(t, "scalar")
	f("twice=FP32[] 5; dims=INT64[0]", "FP32[] 2.5")
	m = load(t, "rank32")
	ones := strings.Repeat(",1", 31)
	f("y=FP32[2"+ones+"] 0 7", "FP32[2"+ones+"] -7 7")
	m = load(t, "halves")
	f("f16=FP16[3] 1.5 0 -65504; bf16=BF16[3] 1.5 9.1835e-41 -65536", "FP32[3] 1.5 1e-40 -65504")
	f("f16=FP16[0]; bf16=BF16[0]", "FP32[0]")
	m = load(t, "nonzero")
	f("at=INT64[1,2] 1 3", "FP32[4] 0 2 0 -1")
	f("at=INT64[1,0]", "FP32[3] 0 0 0")
	m = load(t, "lying")
	f("y=FP32[1] 2", "FP32[3] 1 2 3", "BOOL[3] 0 1 0")
	m = load(t, "reshape")
	f("y=FP32[2,1,2] 1 2 3 4", "FP32[4] 1 2 3 4", "INT64[3] 2 1 2")
	f("y=FP32[] 1", "FP32[1] 1", "INT64[0]")
	m = load(t, "passed")
	f(`x=FP32[2] -1 1; y=FP32[2] 0 1; w=INT64[3] 1 2 3; s=BYTES[2] "a" ""`,
		"FP32[2] -1 1", `BYTES[2] "a" ""`)
	m = load(t, "loop")
	f("y=FP32[1] 1024", "INT64[] 10", "FP32[1] 1")

	m = load(t, "optional_input")
	f("has=BOOL[] 1; y=FP32[2] 3 4", "FP32[2] 3 4")
	f("has=BOOL[] 0; y=FP32[1] -1", "-")
	m = load(t, "optional_output")
	f("y=FP32[2] 3 4", "FP32[2] 3 4", "BOOL[] 1")
	f("y=-", "FP32[2] 3 4", "BOOL[] 0")
	m = load(t, "optional_sequence")
	f("y=FP32[2,1] 3 3", "FP32[1] 3", "BOOL[] 1")
	f("y=-", "FP32[1] 3", "BOOL[] 0")
}

func TestRunStrings(t *testing.T) {
	m := load(t, "strings")
	f := func(text string) {
		t.Helper()
		if got, want := m.run(text), "y="+text; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f(`BYTES[1,1] "x"`)
	f(`BYTES[2,2] "" "ä\x00b" "\x00" "日本"`)
	f(`BYTES[1,3] "\xff\xfe" "" ""`) // what is no UTF-8 is the model's business
	f(`BYTES[0,3]`)
	f(`BYTES[3,0]`)
	f(`BYTES[1,2] "` + strings.Repeat("long", 1000) + `" "\x00"`)
}

// TestRunZipMap wants maps as a matrix, in which the keys, sorted, name the columns.
func TestRunZipMap(t *testing.T) {
	var m *model
	f := func(want string, input string) {
		t.Helper()
		for range 2 {
			if got := m.run(input); got != want {
				t.Errorf("%s of %s:\n got %s\nwant %s", m.name, input, got, want)
			}
		}
	}
	m = load(t, "zipmap_int")
	f(`out=FP32[0,0]`, "FP32[0,3]")
	f(`out=FP32[1,3] 0.25 0.5 0.125 ["-2" "7" "10"]`, "FP32[1,3] 0.125 0.25 0.5")
	f(`out=FP32[2,3] 2 3 1 5 6 4 ["-2" "7" "10"]`, "FP32[2,3] 1 2 3 4 5 6")
	f(`out=FP32[0,0]`, "FP32[0,3]")
	m = load(t, "zipmap_string")
	f(`out=FP32[2,3] 2 3 1 5 6 4 ["" "a c" "b"]`, "FP32[2,3] 1 2 3 4 5 6")
	f(`out=FP32[0,0]`, "FP32[0,3]")
}

// TestRunSequence wants tensors of equal shape stacked, and of an empty
// sequence what the model declares.
func TestRunSequence(t *testing.T) {
	var m *model
	f := func(want string, inputs ...string) {
		t.Helper()
		for range 2 {
			if got := m.run(inputs...); got != want {
				t.Errorf("%s of %q:\n got %s\nwant %s", m.name, inputs, got, want)
			}
		}
	}
	m = load(t, "sequence")
	f("out=FP32[2,1,2] 1 2 3 4", "FP32[2,2] 1 2 3 4", "INT64[2] 1 1")
	f("out=FP32[1,2,2] 1 2 3 4", "FP32[2,2] 1 2 3 4", "INT64[1] 2")
	f("an output is a sequence of tensors of unequal shapes, "+
		"which cannot be served as one tensor", "FP32[3,2] 1 2 3 4 5 6", "INT64[2] 1 2")
	f("out=FP32[0]", "FP32[0,2]", "INT64[0]") // the model says nothing of the shape
	m = load(t, "sequence_string")
	f(`out=BYTES[2,1,2] "a" "\x00" "" "dd"`, `BYTES[2,2] "a" "\x00" "" "dd"`, "INT64[2] 1 1")
	f(`out=BYTES[0]`, `BYTES[0,2]`, "INT64[0]")
	m = load(t, "sequence_shaped")
	f("out=INT32[2,1,1,3] 1 2 3 4 5 6", "INT32[2,1,3] 1 2 3 4 5 6", "INT64[2] 1 1")
	f("out=INT32[0,1,0,3]", "INT32[0,1,3]", "INT64[0]")
}

// TestRunTypes sends the least and the greatest number of each datatype through.
func TestRunTypes(t *testing.T) {
	m := load(t, "types")
	in := m.inputs(
		"BOOL[2] 0 1", "UINT8[2] 0 255", "UINT16[2] 0 65535", "UINT32[2] 0 4294967295",
		"UINT64[2] 0 18446744073709551615", "INT8[2] -128 127", "INT16[2] -32768 32767",
		"INT32[2] -2147483648 2147483647", "INT64[2] -9223372036854775808 9223372036854775807",
		"FP16[2] -6e-08 65504", "BF16[2] 1e-40 -1e+38", "FP32[2] -1e-45 3.4028235e+38",
		"FP64[2] 5e-324 -1.7976931348623157e+308")
	out, err := m.call.Run(in, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range in {
		if string(in[i].Data) != string(out[i].Data) || in[i].Datatype != out[i].Datatype {
			t.Errorf("%s became %s", show(in[i:i+1]), show(out[i:i+1]))
		}
		if got, want := out[i].Datatype, m.session.Outputs()[i].Datatype; got != want {
			t.Errorf("output %s is %s, but described as %s", out[i].Name, got, want)
		}
	}
}

// TestRunNoMemory wants a tensor without elements to need no memory.
func TestRunNoMemory(t *testing.T) {
	m := load(t, "relu")
	in := m.inputs("FP32[0,4]")
	in[0].Data = nil
	out, err := m.call.Run(in, 0)
	if got := show(out); err != nil || got != "y=FP32[0,4]" {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestRunRefuses wants each refusal typed and told in one line without the
// places of ONNX Runtime's source, and the workspace to work afterwards.
func TestRunRefuses(t *testing.T) {
	var m *model
	f := func(code ort.Code, want string, inputs ...string) {
		t.Helper()
		_, err := m.call.Run(m.inputs(inputs...), 0)
		var e *ort.Error
		if !errors.As(err, &e) {
			t.Fatalf("%s of %q: got %v, want an *ort.Error", m.name, inputs, err)
		}
		if e.Code != code || err.Error() != want {
			t.Errorf("%s of %q:\n got %d %v\nwant %d %s", m.name, inputs, e.Code, err, code, want)
		}
	}
	m = load(t, "relu")
	f(ort.InvalidArgument, "onnxruntime: Got invalid dimensions for input: x for the following "+
		"indices index: 1 Got: 5 Expected: 4 Please fix either the inputs/outputs or the model.",
		"FP32[1,5] 1 2 3 4 5")
	f(ort.InvalidArgument, "onnxruntime: Invalid rank for input: x Got: 1 Expected: 2 "+
		"Please fix either the inputs/outputs or the model.", "FP32[4] 1 2 3 4")
	f(ort.InvalidArgument, "onnxruntime: not enough space: expected 32, got 16",
		"FP32[2,4] 1 2 3 4")
	f(ort.InvalidArgument, "onnxruntime: tried creating tensor with negative value in shape",
		"FP32[-1,4] 1 2 3 4")
	f(ort.Fail, "onnxruntime: Integer overflow", "FP32[4611686018427387904,4] 1 2 3 4")
	f(ort.Fail, "onnxruntime: Missing Input: x", "-")
	m = load(t, "strings")
	f(ort.Own, "the elements of a string input are cut short", `BYTES[2,2] "a"`)
	f(ort.Own, "a string input has more elements than its shape", `BYTES[1,1] "a" "b"`)
	f(ort.Fail, "onnxruntime: Tensor shape.Size() must be >= 0", `BYTES[1,-1] "a"`)
	m = load(t, "reshape")
	f(ort.Fail, "onnxruntime: input_shape_size == requested_shape_size was false. The input "+
		"tensor cannot be reshaped to the requested shape. Input shape:{4}, requested shape:{3,3}",
		"FP32[4] 1 2 3 4", "INT64[2] 3 3")
	if got, want := m.run("FP32[1] 1", "INT64[1] 1"), "y=FP32[1] 1"; got != want {
		t.Errorf("after a refusal: got %s, want %s", got, want)
	}

	in := m.inputs("FP32[1] 1", "INT64[1] 1")
	in[0].Shape = make([]int64, 33)
	if _, err := m.call.Run(in, 0); err == nil || err.Error() !=
		`ort: input "x" has 33 dimensions, at most 32 work` {
		t.Errorf("33 dimensions: %v", err)
	}
	data := m.inputs("FP32[1] 1", "INT64[1] 1")
	data[0].Data = nil
	if _, err := m.call.Run(data, 0); err == nil {
		t.Error("a tensor without memory was run")
	}
}
