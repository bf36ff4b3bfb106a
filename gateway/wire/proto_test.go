package wire

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/gateway/grpc/pb"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// goldenProto is a message of tritonclient: model "simple", id "1", priority
// 5, timeout 1000, INPUT0 INT32 [1,16] of 0 to 15.
const goldenProto = "0a0673696d706c65" + "1a0131" + "220e0a0774696d656f7574120310e807" +
	"220e0a087072696f7269747912022805" +
	"2a130a06494e505554301205494e5433321a020110" + "3a40" +
	"00000000010000000200000003000000040000000500000006000000070000000800000009000000" +
	"0a0000000b0000000c0000000d0000000e0000000f000000"

func TestDecodeProtoTritonClient(t *testing.T) {
	body, err := hex.DecodeString(goldenProto)
	if err != nil {
		t.Fatal(err)
	}
	model, version, err := ProtoHead(body)
	if string(model) != "simple" || version != nil || err != nil {
		t.Errorf("model %q, version %q, %v", model, version, err)
	}
	r := newRequest(t)
	if err := DecodeProto(r, &simple, body); err != nil {
		t.Fatal(err)
	}
	if string(r.ID) != "1" || r.Priority != 5 || r.TimeoutMicros != 1000 || len(r.Outputs) != 0 {
		t.Errorf("%+v", r)
	}
	wantTensor(t, &r.Inputs[0], "INT32[1,16]", sequence(16))
	if r.Inputs[1].Datatype != tensor.Invalid {
		t.Errorf("INPUT1 is %+v", r.Inputs[1])
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// typed returns a request for the model of one, with typed contents.
func typed(d tensor.Datatype, shape []int64, c *pb.InferTensorContents) *pb.ModelInferRequest {
	return &pb.ModelInferRequest{ModelName: "m", Inputs: []*pb.ModelInferRequest_InferInputTensor{
		{Name: "x", Datatype: d.String(), Shape: shape, Contents: c}}}
}

func TestDecodeProtoContents(t *testing.T) {
	f := func(d tensor.Datatype, c *pb.InferTensorContents, values any) {
		t.Helper()
		n := int64(2)
		r := newRequest(t)
		if err := DecodeProto(r, one(d, -1), marshal(t, typed(d, []int64{n}, c))); err != nil {
			t.Errorf("%s: %v", d, err)
			return
		}
		wantTensor(t, &r.Inputs[0], d.String()+tensor.FormatShape([]int64{n}), values)
	}
	f(tensor.Bool, &pb.InferTensorContents{BoolContents: []bool{true, false}}, []bool{true, false})
	ints := func(a, b int32) *pb.InferTensorContents {
		return &pb.InferTensorContents{IntContents: []int32{a, b}}
	}
	f(tensor.Int8, ints(-128, 127), []int8{-128, 127})
	f(tensor.Int16, ints(-32768, 32767), []int16{-32768, 32767})
	f(tensor.Int32, ints(math.MinInt32, math.MaxInt32), []int32{math.MinInt32, math.MaxInt32})
	f(tensor.Int64, &pb.InferTensorContents{Int64Contents: []int64{math.MinInt64, math.MaxInt64}},
		[]int64{math.MinInt64, math.MaxInt64})
	uints := func(a, b uint32) *pb.InferTensorContents {
		return &pb.InferTensorContents{UintContents: []uint32{a, b}}
	}
	f(tensor.Uint8, uints(0, 255), []uint8{0, 255})
	f(tensor.Uint16, uints(0, 65535), []uint16{0, 65535})
	f(tensor.Uint32, uints(0, math.MaxUint32), []uint32{0, math.MaxUint32})
	f(tensor.Uint64, &pb.InferTensorContents{Uint64Contents: []uint64{0, math.MaxUint64}},
		[]uint64{0, math.MaxUint64})
	f(tensor.FP32, &pb.InferTensorContents{Fp32Contents: []float32{0.1, -1}}, []float32{0.1, -1})
	f(tensor.FP64, &pb.InferTensorContents{Fp64Contents: []float64{0.1, -1}}, []float64{0.1, -1})
	f(tensor.Bytes, &pb.InferTensorContents{BytesContents: [][]byte{{}, []byte("a\xff")}},
		[]string{"", "a\xff"})
}

// raw builds a message by hand: numbers and the bytes behind them, by turns.
func raw(fields ...any) string {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		n := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(v))
		case uint32:
			b = protowire.AppendFixed32(protowire.AppendTag(b, n, protowire.Fixed32Type), v)
		case uint64:
			b = protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), v)
		}
	}
	return string(b)
}

// input is an input of a message, with contents.
func input(d tensor.Datatype, shape string, contents ...any) string {
	return raw(reqInputs, raw(inName, "x", inDatatype, d.String(), inShape, shape,
		inContents, raw(contents...)))
}

// Encoders may pack numbers or not, and split them over several fields.
func TestDecodeProtoUnpacked(t *testing.T) {
	f := func(d tensor.Datatype, body string, values any) {
		t.Helper()
		r := newRequest(t)
		if err := DecodeProto(r, one(d, -1), []byte(body)); err != nil {
			t.Errorf("%s: %v", d, err)
			return
		}
		wantTensor(t, &r.Inputs[0], d.String()+tensor.FormatShape([]int64{3}), values)
	}
	f(tensor.Int32, input(tensor.Int32, "\x03", 2, 1, 2, "\x02", 2, -3), []int32{1, 2, -3})
	f(tensor.Int32, input(tensor.Int32, "\x03", 2, "", 2, "\x01\x02\x03"), []int32{1, 2, 3})
	// Some write a negative int32 in five bytes.
	f(tensor.Int32, input(tensor.Int32, "\x03", 2, "\x01\xff\xff\xff\xff\x0f\x03"),
		[]int32{1, -1, 3})
	f(tensor.Bool, input(tensor.Bool, "\x03", 1, 1, 1, "\x00\x05"), []bool{true, false, true})
	f(tensor.FP32, input(tensor.FP32, "\x03", 6, math.Float32bits(1.5), 6,
		"\x00\x00\x80\x3f\x00\x00\x00\x40"), []float32{1.5, 1, 2})
	f(tensor.FP64, input(tensor.FP64, "\x03", 7, math.Float64bits(1.5), 7, math.Float64bits(-1),
		7, math.Float64bits(0)), []float64{1.5, -1, 0})
	f(tensor.Uint64, input(tensor.Uint64, "\x03", 5, -1, 5, 0, 5, 7),
		[]uint64{math.MaxUint64, 0, 7})
	f(tensor.Int64, raw(reqInputs, raw(inName, "x", inDatatype, "INT64", inShape, 3,
		inContents, raw(3, -1, 3, 0, 3, 7))), []int64{-1, 0, 7})
	// Fields that nobody knows, and known ones of another kind, are passed over.
	f(tensor.Int8, raw(99, 1, 98, "x", 97, uint32(1), 96, uint64(1), reqID, 5)+
		input(tensor.Int8, "\x03", 2, "\x01\x02\x03"), []int8{1, 2, 3})
}

func TestDecodeProtoRaw(t *testing.T) {
	f := func(d tensor.Datatype, shape []int64, data string) {
		t.Helper()
		m := typed(d, shape, nil)
		m.RawInputContents = [][]byte{[]byte(data)}
		r := newRequest(t)
		if err := DecodeProto(r, one(d, -1), marshal(t, m)); err != nil {
			t.Errorf("%s %v: %v", d, shape, err)
			return
		}
		if got := &r.Inputs[0]; string(got.Data) != data || !slices.Equal(got.Shape, shape) ||
			got.Data == nil {
			t.Errorf("%s %v: %v %q", d, shape, got.Shape, got.Data)
		}
	}
	f(tensor.FP16, []int64{2}, "abcd")
	f(tensor.BF16, []int64{1, 2, 1}, "abcd")
	f(tensor.FP32, nil, "abcd")
	f(tensor.FP32, []int64{0, 5}, "")
	f(tensor.Bytes, []int64{0}, "")
	f(tensor.Bytes, []int64{2}, "\x00\x00\x00\x00\x01\x00\x00\x00a")
	f(tensor.Bool, []int64{2}, "\x00\x01")

	// The raw contents may stand before the inputs that they belong to.
	body := raw(reqRaw, "\x07\x00\x00\x00", reqRaw, "\x08\x00\x00\x00",
		reqInputs, raw(inName, "INPUT1", inDatatype, "INT32"),
		reqInputs, raw(inName, "INPUT0", inDatatype, "INT32"))
	r := newRequest(t)
	if err := DecodeProto(r, &simple, []byte(body)); err != nil {
		t.Fatal(err)
	}
	wantTensor(t, &r.Inputs[0], "INT32[]", []int32{8})
	wantTensor(t, &r.Inputs[1], "INT32[]", []int32{7})
	// No elements need no contents at all.
	r = newRequest(t)
	m := marshal(t, typed(tensor.FP32, []int64{0}, nil))
	if err := DecodeProto(r, one(tensor.FP32, -1), m); err != nil {
		t.Fatal(err)
	}
	wantTensor(t, &r.Inputs[0], "FP32[0]", []float32{})
}

func TestDecodeProtoRequest(t *testing.T) {
	m := typed(tensor.Int32, []int64{1}, &pb.InferTensorContents{IntContents: []int32{7}})
	m.ModelVersion, m.Id = "2", "a€b"
	text := &pb.InferParameter_StringParam{StringParam: "77"}
	m.Parameters = map[string]*pb.InferParameter{
		"priority":    {ParameterChoice: &pb.InferParameter_Uint64Param{Uint64Param: 3}},
		"timeout":     {ParameterChoice: text},
		"sequence_id": {ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: 4}},
		"mine":        {ParameterChoice: &pb.InferParameter_DoubleParam{DoubleParam: 4}},
		"empty":       {},
	}
	m.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "y",
		Parameters: map[string]*pb.InferParameter{"classification": {
			ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: 5}}}}}
	body := marshal(t, m)
	model, version, err := ProtoHead(body)
	if string(model) != "m" || string(version) != "2" || err != nil {
		t.Errorf("model %q, version %q, %v", model, version, err)
	}
	r := newRequest(t)
	if err := DecodeProto(r, one(tensor.Int32, -1), body); err != nil {
		t.Fatal(err)
	}
	if string(r.ID) != "a€b" || r.Priority != 3 || r.TimeoutMicros != 77 || !r.Sequence ||
		!slices.Equal(r.Outputs, []Output{{Binary: true, BinarySet: true, Classes: 5}}) {
		t.Errorf("%+v", r)
	}
	m.Parameters = map[string]*pb.InferParameter{"sequence_id": {}}
	r = newRequest(t)
	if err := DecodeProto(r, one(tensor.Int32, -1), marshal(t, m)); err != nil || r.Sequence {
		t.Errorf("an empty sequence_id: %v, %v", r.Sequence, err)
	}
}

func TestBadProto(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		r := newRequest(t)
		checkRefused(t, r, DecodeProto(r, sig, []byte(body)), want)
		if size := r.Mem.Size(); size > 64<<10+8*len(body) {
			t.Errorf("%.80q took %d bytes of memory", body, size)
		}
	}
	ints := one(tensor.Int32, -1)
	f(ints, "\xff", "the message is not valid protobuf")
	f(ints, "\x2a\x7f", "the message is not valid protobuf")
	f(ints, "\x00", "the message is not valid protobuf")
	f(ints, raw(reqInputs, "\x0a\x05x"), "the message is not valid protobuf")
	f(ints, raw(reqID, strings.Repeat("x", maxID+1)), "id is longer than 4096 bytes")
	f(ints, raw(reqID, "a\xff"), "id is not valid UTF-8")
	f(ints, raw(reqParameters, raw(1, "priority", 2, raw(paramInt, -1))),
		`parameter "priority" must be an integer of 0 or more`)
	f(ints, raw(reqParameters, raw(1, "timeout", 2, raw(paramString, "1x"))),
		`parameter "timeout" must be an integer of 0 or more`)
	f(ints, raw(reqParameters, raw(1, "timeout", 2, raw(paramBool, 1))),
		`parameter "timeout" must be an integer of 0 or more`)
	f(ints, raw(reqParameters, raw(1, "triton_x")), "names that begin with triton_ are reserved")

	x := func(fields ...any) string { return raw(reqInputs, raw(fields...)) }
	f(ints, x(inDatatype, "INT32"), "inputs[0] has no name")
	f(ints, x(inName, 5), "inputs[0] has no name")
	f(ints, x(inName, "x"), "inputs[0] ('x') has no datatype")
	f(ints, x(inName, "z\xff", inDatatype, "INT32"), "unexpected inference input 'z\xff'")
	f(ints, x(inName, "x", inDatatype, "INT"), `inputs[0].datatype: "INT" is not a datatype`)
	f(ints, x(inName, "x", inDatatype, "FP32"), "data-type is 'FP32', but model 'one' expects")
	f(ints, x(inName, "x", inDatatype, "INT32", inShape, -1),
		"Unable to parse 'shape': inputs[0].shape must be at most 32 integers of 0 or more")
	f(ints, x(inName, "x", inDatatype, "INT32", inShape, strings.Repeat("\x01", 33)),
		"Unable to parse 'shape': inputs[0].shape must be at most 32 integers of 0 or more")
	f(ints, x(inName, "x", inDatatype, "INT32", inShape, uint32(1)),
		"inputs[0].shape is not encoded as integers")
	f(ints, x(inName, "x", inDatatype, "INT32", inShape, "\x80"), "not valid protobuf")
	big := "\x80\x80\x80\x80\x10"
	f(ints, x(inName, "x", inDatatype, "INT32", inShape, big+big),
		"causes total element count to exceed maximum size of")
	f(ints, x(inName, "x", inDatatype, "INT32", inShape, 1<<62), "byte size overflows")
	f(ints, x(inName, "x", inDatatype, "INT32"), "INT32 of shape [] takes 4 bytes, got 0")
	f(ints, x(inName, "x", inParameters, raw(1, "shared_memory_region")),
		"shared memory is not served")
	good := input(tensor.Int32, "\x01", 2, 5)
	f(ints, good+good, "unexpected additional input data for model 'one': it takes 1 inputs")
	again := x(inName, "INPUT0", inDatatype, "INT32")
	f(&simple, again+again, "input 'INPUT0' already exists in request")

	f(ints, good+raw(reqOutputs, ""), "outputs[0] has no name")
	f(ints, good+raw(reqOutputs, raw(1, "z")), "unexpected inference output 'z'")
	f(ints, good+raw(reqOutputs, raw(1, "y"), reqOutputs, raw(1, "y")),
		"output 'y' already exists in request")
	f(ints, good+raw(reqOutputs, raw(1, "y", 2, raw(1, "classification", 2, raw(paramInt, -1)))),
		`parameter "classification" must be an integer of 0 or more`)
	f(ints, good+raw(reqOutputs, raw(1, "y", 2, raw(1, "shared_memory_region"))),
		"shared memory is not served")

	f(ints, good+raw(reqRaw, "abcd"), "contents field must not be specified when using "+
		"raw_input_contents for 'x' for model 'one'")
	bare := x(inName, "x", inDatatype, "INT32", inShape, "\x01")
	f(ints, bare+raw(reqRaw, "abcd", reqRaw, "abcd"), "expected 1 raw_input_contents, one for each")
	f(ints, raw(reqRaw, "abcd"), "expected 0 raw_input_contents")
	f(ints, bare+raw(reqRaw, "abc"), "INT32 of shape [1] takes 4 bytes, got 3")
	f(ints, bare+raw(reqRaw, "abcde"), "INT32 of shape [1] takes 4 bytes, got 5")
	f(ints, bare, "INT32 of shape [1] takes 4 bytes, got 0")
}

func TestBadProtoContents(t *testing.T) {
	f := func(d tensor.Datatype, want string, contents ...any) {
		t.Helper()
		r := newRequest(t)
		body := []byte(input(d, "\x02", contents...))
		checkRefused(t, r, DecodeProto(r, one(d, -1), body), want)
	}
	f(tensor.Int8, "128 is out of range for INT8", 2, "\x01\x80\x01")
	f(tensor.Int8, "-129 is out of range for INT8", 2, 1, 2, -129)
	f(tensor.Int16, "32768 is out of range for INT16", 2, 32768)
	f(tensor.Uint8, "256 is out of range for UINT8", 4, 256)
	f(tensor.Uint16, "65536 is out of range for UINT16", 4, 65536)
	f(tensor.Uint32, "4294967296 is out of range for UINT32", 4, 1<<32)
	f(tensor.Uint8, "is out of range for UINT8", 4, -1)
	f(tensor.Int32, "'x' has more elements than its shape [2]", 2, "\x01\x02\x03")
	f(tensor.Int32, "'x' has more elements than its shape [2]", 2, 1, 2, 2, 2, 3)
	f(tensor.FP32, "'x' has more elements than its shape [2]", 6, strings.Repeat("x", 12))
	f(tensor.FP32, "'x' has more elements than its shape [2]", 6, "abcd", 6, "abcdefgh")
	f(tensor.Int32, "INT32 of shape [2] takes 8 bytes, got 4", 2, 1)
	f(tensor.Bytes, "BYTES element 1 of 2 is cut short", 8, "a")
	f(tensor.Bytes, "5 bytes left over after 2 BYTES elements", 8, "a", 8, "b", 8, "c")
	f(tensor.FP32, "the contents are not encoded as FP32", 6, "abcdef")
	f(tensor.FP32, "the contents are not encoded as FP32", 6, 1)
	f(tensor.FP32, "the contents are not encoded as FP32", 6, uint64(1))
	f(tensor.FP64, "the contents are not encoded as FP64", 7, uint32(1))
	f(tensor.FP64, "the contents are not encoded as FP64", 7, "abcd", 7, "abcd")
	f(tensor.Int32, "the contents are not encoded as INT32", 2, uint32(1))
	f(tensor.Bytes, "the contents are not encoded as BYTES", 8, 1)
	f(tensor.Int32, "the message is not valid protobuf", 2, "\x01\x80")
	f(tensor.Int32, "'x' is INT32, which does not go into field 3 of contents", 3, "\x01\x02")
	f(tensor.Int64, "'x' is INT64, which does not go into field 2 of contents", 2, "\x01\x02")
	f(tensor.FP16, "'x' is FP16, which does not go into field 6 of contents", 6, "\x01\x02")
	f(tensor.Bool, "'x' is BOOL, which does not go into field 9 of contents", 9, "\x01\x02")

	// A shape that lies takes no memory.
	for _, d := range []tensor.Datatype{tensor.FP64, tensor.Bytes, tensor.Int8} {
		shape := string(protowire.AppendVarint(nil, 1<<50))
		body := input(d, shape, int(contentsField[d]), "12345678")
		r := newRequest(t)
		if err := DecodeProto(r, one(d, -1), []byte(body)); err == nil || r.Mem.Size() > 1<<20 {
			t.Errorf("%s: %v, %d bytes of memory", d, err, r.Mem.Size())
		}
	}
}

// TestAppendProto holds what is written against the generated package.
func TestAppendProto(t *testing.T) {
	sig := one(tensor.FP32, -1, 3)
	sig.Outputs = append(sig.Outputs, tensor.Spec{Name: "none"},
		tensor.Spec{Name: "p", Labels: []string{"no", "yes"}})
	a := &Answer{Model: "m", Version: "v10", Sig: sig, Outputs: []tensor.Tensor{
		{Name: "y", Datatype: tensor.FP32, Shape: []int64{1, 3},
			Data: layout(t, []float32{1, 2, 3})},
		{Name: "none"},
		{Name: "p", Datatype: tensor.FP64, Shape: []int64{1, 2},
			Data: layout(t, []float64{.25, .75}), ClassNames: []string{"a \"b\"", "ü"}},
	}}
	f := func(r *Request) *pb.ModelInferResponse {
		t.Helper()
		out, err := AppendProto([]byte("before"), r, a)
		if err != nil {
			t.Fatal(err)
		}
		var m pb.ModelInferResponse
		if err := proto.Unmarshal(out[len("before"):], &m); err != nil {
			t.Fatal(err)
		}
		if m.ModelName != "m" || m.ModelVersion != "v10" || m.Id != string(r.ID) {
			t.Errorf("head %v", &m)
		}
		return &m
	}
	describe := func(m *pb.ModelInferResponse) string {
		var b strings.Builder
		for i, o := range m.Outputs {
			fmt.Fprintf(&b, "%s %s %v %q %x;", o.Name, o.Datatype, o.Shape,
				o.Parameters["class_names"].GetStringParam(), m.RawOutputContents[i])
		}
		return b.String()
	}
	const y = `y FP32 [1 3] "" 0000803f0000004000004040;`
	const p = `p FP64 [1 2] "[\"a \\\"b\\\"\",\"ü\"]" 000000000000d03f000000000000e83f;`
	if got := describe(f(&Request{ID: []byte("7")})); got != y+p {
		t.Errorf("all outputs: %s", got)
	}
	asked := []Output{{Index: 2}, {Index: 1}, {Index: 0}}
	if got := describe(f(&Request{Outputs: asked})); got != p+y {
		t.Errorf("two outputs: %s", got)
	}
	class := fmt.Sprintf(`p BYTES [1 1] "" %x;`, tensor.AppendElement(nil, "0.75:1:yes"))
	asked = []Output{{Index: 2, Classes: 1}, {Index: 0}}
	if got := describe(f(&Request{Outputs: asked})); got != class+y {
		t.Errorf("a class: %s, want %s", got, class+y)
	}
	a.Outputs[0].Datatype = tensor.Bool
	if _, err := AppendProto(nil, &Request{Outputs: []Output{{Classes: 1}}}, a); err == nil {
		t.Error("BOOL was classified")
	}
	a.Outputs[0] = tensor.Tensor{Name: "y", Datatype: tensor.Int8}
	a.Outputs[2] = tensor.Tensor{Name: "p", Datatype: tensor.Bytes, Shape: []int64{1 << 40, 0}}
	if got := describe(f(&Request{})); got != `y INT8 [] "" ;p BYTES [1099511627776 0] "" ;` {
		t.Errorf("empty outputs: %s", got)
	}
}

// An answer that is scored has two parameters, of which false is one too; others have none.
func TestAppendProtoScore(t *testing.T) {
	f := func(a Answer) {
		t.Helper()
		a.Model, a.Sig = "m", one(tensor.FP32, -1)
		a.Outputs = []tensor.Tensor{{Name: "y", Datatype: tensor.FP32, Shape: []int64{1},
			Data: layout(t, []float32{2})}}
		out, err := AppendProto([]byte("before"), &Request{ID: []byte("7")}, &a)
		if err != nil {
			t.Fatal(err)
		}
		want := &pb.ModelInferResponse{ModelName: "m", Id: "7", RawOutputContents: [][]byte{
			a.Outputs[0].Data}, Outputs: []*pb.ModelInferResponse_InferOutputTensor{
			{Name: "y", Datatype: "FP32", Shape: []int64{1}}}}
		if a.Scored {
			want.Parameters = map[string]*pb.InferParameter{
				"outlier_score": {ParameterChoice: &pb.InferParameter_DoubleParam{
					DoubleParam: a.Score}},
				"outlier": {ParameterChoice: &pb.InferParameter_BoolParam{BoolParam: a.Outlier}}}
		}
		got := new(pb.ModelInferResponse)
		if err := proto.Unmarshal(out[len("before"):], got); err != nil ||
			!proto.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	f(Answer{})
	f(Answer{Scored: true, Score: 1.0 / 3})
	f(Answer{Scored: true, Score: 125, Outlier: true})
	f(Answer{Scored: true})
}
