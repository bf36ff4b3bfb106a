package grpc_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/millrace-ml/millrace/gateway/grpc/pb"
)

type (
	request = pb.ModelInferRequest
	input   = pb.ModelInferRequest_InferInputTensor
	output  = pb.ModelInferRequest_InferRequestedOutputTensor
	typed   = pb.InferTensorContents
)

// refused returns a function that sends a request which was made a bad one.
func (s *server) refused(t *testing.T) func(change func(*request, *input), words string) {
	return func(change func(*request, *input), words string) {
		t.Helper()
		r := sum("", 1)
		change(r, r.Inputs[0])
		_, err := s.client.ModelInfer(during(t), r)
		wantCode(t, err, codes.InvalidArgument, words)
	}
}

// TestBadRequests sends requests that their model does not take.
func TestBadRequests(t *testing.T) {
	s := serve(t, nil)
	f := s.refused(t)
	f(func(r *request, _ *input) { r.Inputs = nil }, "expected 2 inputs")
	f(func(r *request, _ *input) { r.Inputs = r.Inputs[1:] }, "INPUT0")
	f(func(r *request, in *input) { r.Inputs[1] = in }, "INPUT0|already")
	f(func(r *request, in *input) { r.Inputs = append(r.Inputs, in) }, "additional")
	f(func(_ *request, in *input) { in.Name = "INPUT9" }, "INPUT9|INPUT0")
	f(func(_ *request, in *input) { in.Name = "" }, "name")
	f(func(_ *request, in *input) { in.Datatype = "INT64" }, "INPUT0|INT64|INT32")
	f(func(_ *request, in *input) { in.Datatype = "STRING" }, "STRING")
	f(func(_ *request, in *input) { in.Shape = []int64{16} }, "INPUT0|[-1,16]|[16]")
	f(func(_ *request, in *input) { in.Shape = []int64{2, 16} }, "INPUT0")
	f(func(_ *request, in *input) { in.Shape = []int64{-1, 16} }, "shape")
	f(func(_ *request, in *input) { in.Shape = []int64{0, 16} }, "INPUT0")
	f(func(_ *request, in *input) { in.Shape = make([]int64, 1000) }, "shape")
	f(func(_ *request, in *input) {
		in.Shape = []int64{math.MaxInt64, math.MaxInt64}
	}, "inputs[0].shape")
	f(func(_ *request, in *input) { in.Contents = nil }, "INPUT0")
	f(func(_ *request, in *input) {
		in.Contents.IntContents = in.Contents.IntContents[:15]
	}, "INPUT0")
	f(func(_ *request, in *input) {
		in.Contents = &typed{Fp32Contents: make([]float32, 16)}
	}, "INPUT0|INT32")
}

// TestBadContents sends blobs, outputs and parameters that are wrong.
func TestBadContents(t *testing.T) {
	s := serve(t, nil)
	f := s.refused(t)
	f(func(r *request, _ *input) {
		r.RawInputContents = [][]byte{make([]byte, 64), make([]byte, 64)}
	}, "raw_input_contents")
	raw := func(contents ...[]byte) func(*request, *input) {
		return func(r *request, _ *input) {
			r.Inputs[0].Contents, r.Inputs[1].Contents = nil, nil
			r.RawInputContents = contents
		}
	}
	f(raw(make([]byte, 64)), "raw_input_contents|2")
	f(raw(make([]byte, 63), make([]byte, 64)), "INPUT0|64|63")
	f(raw(make([]byte, 64), make([]byte, 68)), "INPUT1|64|68")
	outputs := func(names ...string) func(*request, *input) {
		return func(r *request, _ *input) {
			for _, name := range names {
				r.Outputs = append(r.Outputs, &output{Name: name})
			}
		}
	}
	f(outputs("OUTPUT9"), "OUTPUT9|OUTPUT0")
	f(outputs("OUTPUT0", "OUTPUT0"), "OUTPUT0|already")
	f(outputs(strings.Split(strings.Repeat("OUTPUT0,", 100_000), ",")...), "OUTPUT0|already")
	f(func(r *request, _ *input) { r.Id = strings.Repeat("i", 5000) }, "id|4096")
	text := func(key, value string) func(*request, *input) {
		return func(r *request, _ *input) {
			r.Parameters = map[string]*pb.InferParameter{key: {
				ParameterChoice: &pb.InferParameter_StringParam{StringParam: value}}}
		}
	}
	f(text("timeout", "soon"), "timeout")
	f(text("priority", "-1"), "priority")
	f(text("triton_x", ""), "triton_x")
}

// TestDatatypes sends a value of each datatype in typed contents, where it has
// such, and as a blob.
func TestDatatypes(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "types", "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("../../runtime/ort/testdata/types.onnx")
	if err != nil {
		t.Fatal(err)
	}
	err = os.WriteFile(filepath.Join(dir, "types", "1", "model.onnx"), file, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(c *settings) { c.dir = dir })
	blobs, contents := &request{ModelName: "types"}, &request{ModelName: "types"}
	var want [][]byte
	// The model has an input and an output for each of ONNX's element types.
	for _, d := range []struct {
		elem           int
		datatype, blob string
		contents       *typed
	}{
		{9, "BOOL", "01", &typed{BoolContents: []bool{true}}},
		{2, "UINT8", "ff", &typed{UintContents: []uint32{math.MaxUint8}}},
		{4, "UINT16", "ffff", &typed{UintContents: []uint32{math.MaxUint16}}},
		{12, "UINT32", "ffffffff", &typed{UintContents: []uint32{math.MaxUint32}}},
		{13, "UINT64", "ffffffffffffffff", &typed{Uint64Contents: []uint64{math.MaxUint64}}},
		{3, "INT8", "80", &typed{IntContents: []int32{math.MinInt8}}},
		{5, "INT16", "0080", &typed{IntContents: []int32{math.MinInt16}}},
		{6, "INT32", "00000080", &typed{IntContents: []int32{math.MinInt32}}},
		{7, "INT64", "0000000000000080", &typed{Int64Contents: []int64{math.MinInt64}}},
		{10, "FP16", "00be", nil},
		{16, "BF16", "c0bf", nil},
		{1, "FP32", "cdcccc3d", &typed{Fp32Contents: []float32{0.1}}},
		{11, "FP64", "9a9999999999b93f", &typed{Fp64Contents: []float64{0.1}}},
	} {
		blob, err := hex.DecodeString(d.blob)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, blob)
		name := fmt.Sprint("x", d.elem)
		blobs.Inputs = append(blobs.Inputs,
			&input{Name: name, Datatype: d.datatype, Shape: []int64{1}})
		blobs.RawInputContents = append(blobs.RawInputContents, blob)
		blobs.Outputs = append(blobs.Outputs, &output{Name: fmt.Sprint("y", d.elem)})
		contents.Inputs = append(contents.Inputs,
			&input{Name: name, Datatype: d.datatype, Shape: []int64{1}, Contents: d.contents})
	}
	got, err := s.client.ModelInfer(during(t), blobs)
	if err != nil || len(got.RawOutputContents) != len(want) {
		t.Fatalf("%v, %v", got, err)
	}
	for i := range want {
		if !bytes.Equal(got.RawOutputContents[i], want[i]) {
			t.Errorf("%s comes back as %x, want %x", blobs.Inputs[i].Datatype,
				got.RawOutputContents[i], want[i])
		}
	}
	_, err = s.client.ModelInfer(during(t), contents)
	wantCode(t, err, codes.InvalidArgument, "x10") // halves come as blobs only
	contents.Inputs[9].Datatype = "FP32"
	_, err = s.client.ModelInfer(during(t), contents)
	wantCode(t, err, codes.InvalidArgument, "x10|FP16")
}
