package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// simple is the signature of Triton's well-known model.
var simple = tensor.Signature{
	Model: "simple",
	Inputs: []tensor.Spec{
		{Name: "INPUT0", Datatype: tensor.Int32, Shape: []int64{-1, 16}},
		{Name: "INPUT1", Datatype: tensor.Int32, Shape: []int64{-1, 16}}},
	Outputs: []tensor.Spec{
		{Name: "OUTPUT0", Datatype: tensor.Int32, Shape: []int64{-1, 16}},
		{Name: "OUTPUT1", Datatype: tensor.Int32, Shape: []int64{-1, 16}}},
	MaxBatchSize: 8,
}

// one is the signature of a model with an input x and an output y of a datatype.
func one(d tensor.Datatype, shape ...int64) *tensor.Signature {
	return &tensor.Signature{
		Model:        "one",
		Inputs:       []tensor.Spec{{Name: "x", Datatype: d, Shape: shape}},
		Outputs:      []tensor.Spec{{Name: "y", Datatype: d, Shape: shape}},
		MaxBatchSize: 8,
	}
}

// newRequest returns a request that lives as long as the test.
func newRequest(t testing.TB) *Request {
	t.Helper()
	r := new(Request)
	t.Cleanup(r.Mem.Free)
	return r
}

// layout lays values out as tensors do: a slice of numbers, or strings.
func layout(t testing.TB, values any) []byte {
	t.Helper()
	if s, ok := values.([]string); ok {
		var b []byte
		for _, e := range s {
			b = tensor.AppendElement(b, e)
		}
		return b
	}
	b, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wantTensor holds a decoded input against what the client meant; kind is such
// as FP32[1,16].
func wantTensor(t *testing.T, got *tensor.Tensor, kind string, values any) {
	t.Helper()
	want := layout(t, values)
	gotKind := got.Datatype.String() + tensor.FormatShape(got.Shape)
	if gotKind != kind || string(got.Data) != string(want) {
		t.Errorf("got %s %x, want %s %x", gotKind, got.Data, kind, want)
	}
	if got.Data == nil {
		t.Error("data has no address")
	}
}

func TestDecodeDatatypes(t *testing.T) {
	f := func(d tensor.Datatype, data string, values any) {
		t.Helper()
		n := int64(binary.Size(values))
		if s, ok := values.([]string); ok {
			n = int64(len(s))
		} else {
			n /= int64(d.Size())
		}
		r := newRequest(t)
		body := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[1,%d],"datatype":"%s","data":%s}]}`,
			n, d, data)
		if err := Decode(r, one(d, -1, -1), []byte(body), -1); err != nil {
			t.Errorf("%s: %v", body, err)
			return
		}
		wantTensor(t, &r.Inputs[0], d.String()+tensor.FormatShape([]int64{1, n}), values)
	}
	f(tensor.Bool, `[true,false, 1,0, 1.0 ,0e5,-0]`,
		[]bool{true, false, true, false, true, false, false})
	f(tensor.Uint8, `[0,255,1e2]`, []uint8{0, 255, 100})
	f(tensor.Uint16, `[0,65535]`, []uint16{0, 65535})
	f(tensor.Uint32, `[0,4294967295]`, []uint32{0, math.MaxUint32})
	f(tensor.Uint64, `[0,18446744073709551615,9007199254740993]`,
		[]uint64{0, math.MaxUint64, 1<<53 + 1})
	f(tensor.Int8, `[-128,127,-0]`, []int8{-128, 127, 0})
	f(tensor.Int16, `[-32768,32767]`, []int16{math.MinInt16, math.MaxInt16})
	f(tensor.Int32, `[-2147483648,2147483647,12.0]`, []int32{math.MinInt32, math.MaxInt32, 12})
	f(tensor.Int64,
		`[-9223372036854775808,9223372036854775807,9007199254740993,-9007199254740993.0]`,
		[]int64{math.MinInt64, math.MaxInt64, 1<<53 + 1, -1<<53 - 1})
	f(tensor.FP16, `[1,-2.5,65504,65519.9,1e-9,NaN,Infinity]`,
		[]uint16{0x3c00, 0xc100, 0x7bff, 0x7bff, 0, 0x7e00, 0x7c00})
	f(tensor.BF16, `[1,-2.5,3e38,-Infinity]`, []uint16{0x3f80, 0xc020, 0x7f62, 0xff80})
	f(tensor.FP32, `[0,-0.0,0.1,1e-45,3.4028235e38,16777217, NaN,Infinity,-Infinity]`,
		[]float32{0, float32(math.Copysign(0, -1)), 0.1, 1e-45, math.MaxFloat32, 16777216,
			float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))})
	f(tensor.FP64, `[0.1,5e-324,1.7976931348623157e308,9007199254740993,NaN]`,
		[]float64{0.1, 5e-324, math.MaxFloat64, 9007199254740992, math.NaN()})
	f(tensor.Bytes, `["","ab","\u00e9\ud83d\ude00\n\"\\\/\b\f\r\t\u0000","é😀"]`,
		[]string{"", "ab", "é😀\n\"\\/\b\f\r\t\x00", "é😀"})
	f(tensor.Bytes, `["\ud800","\ud800x","\ud800\u0041","\udc00\ud800","\ud83d\ud83d\ude00"]`,
		[]string{"\ufffd", "\ufffdx", "\ufffdA", "\ufffd\ufffd", "\ufffd😀"})
	f(tensor.Bytes, ` [ ] `, []string{})
	for _, d := range []tensor.Datatype{tensor.Bool, tensor.Int64, tensor.FP16, tensor.FP32} {
		f(d, ` [ ] `, []byte{})
	}
}

// Spaces and nesting say nothing about the values.
func TestDecodeNesting(t *testing.T) {
	f := func(shape, data string, n int) {
		t.Helper()
		body := fmt.Sprintf(
			"\n{ \"inputs\" : [\t{\"name\":\"x\",\"shape\":%s,"+
				"\"datatype\":\"FP32\",\"data\":%s} ]\r}\n", shape, data)
		r := newRequest(t)
		if err := Decode(r, one(tensor.FP32, -1), []byte(body), -1); err != nil {
			t.Errorf("%s: %v", body, err)
			return
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(i+1) / 2
		}
		if string(r.Inputs[0].Data) != string(layout(t, values)) {
			t.Errorf("%s gives %x", body, r.Inputs[0].Data)
		}
	}
	f(`[6]`, `[0.5,1,1.5,2,2.5,3]`, 6)
	f(`[2,3]`, `[[0.5,1,1.5],[2,2.5,3]]`, 6)
	f(`[ 2 , 3 ]`, "[ [ 0.5 , 1 , 1.5 ] ,\n[ 2,2.5\t, 3 ] ]", 6)
	f(`[1,2,3]`, `[[[0.5,1,1.5],[2,2.5,3]]]`, 6)
	f(`[2,3]`, `[0.5, 1, 1.5, 2, 2.5, 3]`, 6)
	f(`[]`, `[0.5]`, 1)
	f(`[0]`, `[]`, 0)
	f(`[2,0]`, `[[],[]]`, 0)
	f(`[0,5]`, `[]`, 0)
	f(`[1]`, strings.Repeat("[", 90)+"0.5"+strings.Repeat("]", 90), 1)
	f(`[32]`, `[0.5,1,1.5,2,2.5,3,3.5,4,4.5,5,5.5,6,6.5,7,7.5,8,8.5,9,9.5,10,10.5,11,11.5,12,`+
		`12.5,13,13.5,14,14.5,15,15.5,16]`, 32)
}

// Keys may stand in any order.
func TestDecodeKeyOrder(t *testing.T) {
	f := func(d tensor.Datatype, keys []string, values any) {
		t.Helper()
		permutations(keys, func(p []string) {
			body := `{"inputs":[{` + strings.Join(p, ",") + `}],"id":"7"}`
			r := newRequest(t)
			if err := Decode(r, one(d, -1), []byte(body), -1); err != nil {
				t.Errorf("%s: %v", body, err)
				return
			}
			wantTensor(t, &r.Inputs[0], d.String()+tensor.FormatShape([]int64{2}), values)
			if string(r.ID) != "7" {
				t.Errorf("%s: id %q", body, r.ID)
			}
		})
	}
	f(tensor.FP32, []string{`"name":"x"`, `"shape":[2]`, `"datatype":"FP32"`, `"data":[1.5,2]`,
		`"parameters":{"a":1}`}, []float32{1.5, 2})
	f(tensor.Bytes, []string{`"name":"x"`, `"shape":[2]`, `"datatype":"BYTES"`,
		`"data":["YWI=","\u0059w=="]`, `"parameters":{"content_type":"base64"}`},
		[]string{"ab", "c"})
	f(tensor.Bytes, []string{`"\u006eame":"x"`, `"shape":[2]`, `"datatype":"B\u0059TES"`,
		`"data":["YWI=","\u0059w=="]`, `"other":{"name":[{}]}`}, []string{"YWI=", "Yw=="})
}

func permutations(keys []string, f func([]string)) {
	var walk func(k int)
	walk = func(k int) {
		if k == len(keys) {
			f(keys)
			return
		}
		for i := k; i < len(keys); i++ {
			keys[k], keys[i] = keys[i], keys[k]
			walk(k + 1)
			keys[k], keys[i] = keys[i], keys[k]
		}
	}
	walk(0)
}

func TestDecodeRequest(t *testing.T) {
	const inputs = `"inputs":[{"name":"INPUT1","shape":[1,16],"datatype":"INT32",` +
		`"data":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}]`
	f := func(rest string) *Request {
		t.Helper()
		r := newRequest(t)
		if err := Decode(r, &simple, []byte(`{`+rest+inputs+`}`), -1); err != nil {
			t.Fatalf("%s: %v", rest, err)
		}
		if r.Inputs[0].Datatype != tensor.Invalid || r.Inputs[0].Name != "INPUT0" ||
			r.Inputs[1].Datatype != tensor.Int32 || r.Inputs[1].Name != "INPUT1" {
			t.Errorf("%s: inputs %v", rest, r.Inputs)
		}
		return r
	}
	if r := f(``); r.ID != nil || len(r.Outputs) != 0 || r.BinaryOutput || r.Sequence ||
		r.Priority != 0 || r.TimeoutMicros != 0 {
		t.Errorf("a request without anything: %+v", r)
	}
	r := f(`"model_name":{"a":[null,true]},"id":"a\u00e9b","parameters":{"priority":5,` +
		`"timeout":1000,"binary_data_output":true,"sequence_id":0,"sequence_start":true,` +
		`"sequence_end":false,"mine":"text","more":-1.5e3},`)
	if string(r.ID) != "aéb" || r.Priority != 5 || r.TimeoutMicros != 1000 || !r.BinaryOutput ||
		r.Sequence {
		t.Errorf("parameters: %+v", r)
	}
	r = f(`"parameters":{"priority":"6","timeout":18446744073709551615,"sequence_id":"s"},`)
	if r.Priority != 6 || r.TimeoutMicros != math.MaxUint64 || !r.Sequence {
		t.Errorf("parameters: %+v", r)
	}
	if r = f(`"parameters":{"sequence_id":42},`); !r.Sequence {
		t.Errorf("a sequence is not seen: %+v", r)
	}
	if r = f(`"parameters":{"sequence_id":""},"outputs":[],`); r.Sequence || len(r.Outputs) != 0 {
		t.Errorf("a sequence or outputs are seen: %+v", r)
	}
	r = f(`"outputs":[{"name":"OUTPUT1","parameters":{"binary_data":false,"other":1}},` +
		`{"parameters":{"binary_data":true,"classification":3},"name":"OUTPUT0","x":[]}],`)
	want := []Output{{Index: 1, BinarySet: true},
		{Index: 0, Binary: true, BinarySet: true, Classes: 3}}
	if !slices.Equal(r.Outputs, want) {
		t.Errorf("outputs %+v, want %+v", r.Outputs, want)
	}
	r = f(`"outputs":[{"name":"OUTPUT1","parameters":{"classification":"2"}}],`)
	if want := []Output{{Index: 1, Classes: 2}}; !slices.Equal(r.Outputs, want) {
		t.Errorf("outputs %+v, want %+v", r.Outputs, want)
	}
}

// sequence returns n integers from 0 on.
func sequence(n int) []int32 {
	v := make([]int32, n)
	for i := range v {
		v[i] = int32(i)
	}
	return v
}

// The message is one of tritonclient: the first tensor in JSON, the second behind it.
func TestDecodeTritonClient(t *testing.T) {
	const head = `{"inputs":[{"name":"INPUT0","shape":[1,16],"datatype":"INT32",` +
		`"data":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]},` +
		`{"name":"INPUT1","shape":[1,16],"datatype":"INT32",` +
		`"parameters":{"binary_data_size":64}}],` +
		`"outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}},` +
		`{"name":"OUTPUT1","parameters":{"binary_data":false}}]}`
	if len(head) != 319 {
		t.Fatalf("the JSON has %d bytes, the client's 319", len(head))
	}
	second := slices.Repeat([]int32{-7}, 16)
	r := newRequest(t)
	body := append([]byte(head), layout(t, second)...)
	if err := Decode(r, &simple, body, len(head)); err != nil {
		t.Fatal(err)
	}
	wantTensor(t, &r.Inputs[0], "INT32[1,16]", sequence(16))
	wantTensor(t, &r.Inputs[1], "INT32[1,16]", second)
	want := []Output{{Index: 0, Binary: true, BinarySet: true}, {Index: 1, BinarySet: true}}
	if !slices.Equal(r.Outputs, want) {
		t.Errorf("outputs %+v, want %+v", r.Outputs, want)
	}
}

func TestDecodeBinary(t *testing.T) {
	f := func(sig *tensor.Signature, head string, blob []byte) *Request {
		t.Helper()
		r := newRequest(t)
		if err := Decode(r, sig, append([]byte(head), blob...), len(head)); err != nil {
			t.Errorf("%s: %v", head, err)
		}
		return r
	}
	text := []byte("\x02\x00\x00\x00ab\x03\x00\x00\x00cde")
	r := f(one(tensor.Bytes, -1), `{"inputs":[{"name":"x","shape":[2],"datatype":"BYTES",`+
		`"parameters":{"binary_data_size":13}}],"parameters":{"binary_data_output":true}}`, text)
	wantTensor(t, &r.Inputs[0], "BYTES[2]", []string{"ab", "cde"})
	if !r.BinaryOutput {
		t.Error("binary_data_output is lost")
	}
	// A lone input without a size takes what there is.
	r = f(one(tensor.Bytes, -1), `{"inputs":[{"name":"x","shape":[2],"datatype":"BYTES"}]}`, text)
	wantTensor(t, &r.Inputs[0], "BYTES[2]", []string{"ab", "cde"})
	// Blobs come in the order of the request, tensors in that of the signature.
	r = f(&simple, `{"inputs":[{"parameters":{"binary_data_size":8},"name":"INPUT1","shape":[2],`+
		`"datatype":"INT32"},{"name":"INPUT0","shape":[],"datatype":"INT32",`+
		`"parameters":{"binary_data_size":4}}]}`, layout(t, []int32{1, 2, 3}))
	wantTensor(t, &r.Inputs[1], "INT32[2]", []int32{1, 2})
	wantTensor(t, &r.Inputs[0], "INT32[]", []int32{3})
	r = f(one(tensor.FP64, -1), `{"inputs":[{"name":"x","shape":[0,7],"datatype":"FP64",`+
		`"parameters":{"binary_data_size":0}}]}`, nil)
	wantTensor(t, &r.Inputs[0], "FP64[0,7]", []float64{})
	r = f(one(tensor.Bool, -1), `{"inputs":[{"name":"x","shape":[2],"datatype":"BOOL"}]}`,
		[]byte{0, 1})
	wantTensor(t, &r.Inputs[0], "BOOL[2]", []bool{false, true})
}

// Binary tensors of a body in the request's memory stay where they are, if elements may lie there.
func TestDecodeInPlace(t *testing.T) {
	f := func(sig *tensor.Signature, head string, blob []byte, there ...bool) *Request {
		t.Helper()
		r := newRequest(t)
		body, err := r.Mem.AllocEnd(len(head) + len(blob))
		if err != nil {
			t.Fatal(err)
		}
		copy(body[copy(body, head):], blob)
		for range 2 { // as when a sticky key is found in the first round
			r.Forget()
			if err := Decode(r, sig, body, len(head)); err != nil {
				t.Fatalf("%s: %v", head, err)
			}
			for i, want := range there {
				data := r.Inputs[i].Data
				at := bytes.Index(body, data)
				if got := &body[at] == &data[0]; got != want || cap(data) != len(data) {
					t.Errorf("%s: input %d in place: %v, capacity %d", head, i, got, cap(data))
				}
			}
		}
		return r
	}
	r := f(&simple, `{"inputs":[{"name":"INPUT0","shape":[2],"datatype":"INT32","parameters":`+
		`{"binary_data_size":8}},{"name":"INPUT1","shape":[1],"datatype":"INT32",`+
		`"parameters":{"binary_data_size":4}}]}`, layout(t, []int32{1, 2, 3}), true, true)
	wantTensor(t, &r.Inputs[0], "INT32[2]", []int32{1, 2})
	wantTensor(t, &r.Inputs[1], "INT32[1]", []int32{3})
	r = f(one(tensor.Bytes, -1), `{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES"}]}`,
		[]byte("\x03\x00\x00\x00abc"), true)
	wantTensor(t, &r.Inputs[0], "BYTES[1]", []string{"abc"})
	sig := &tensor.Signature{Model: "m", Inputs: []tensor.Spec{
		{Name: "x", Datatype: tensor.FP64, Shape: []int64{-1}},
		{Name: "y", Datatype: tensor.Bool, Shape: []int64{-1}}}}
	r = f(sig, `{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","parameters":`+
		`{"binary_data_size":8}},{"name":"y","shape":[1],"datatype":"BOOL",`+
		`"parameters":{"binary_data_size":1}}]}`, append(layout(t, []float64{1.5}), 1), false, true)
	wantTensor(t, &r.Inputs[0], "FP64[1]", []float64{1.5})
	wantTensor(t, &r.Inputs[1], "BOOL[1]", []bool{true})
}

func TestDecodeRaw(t *testing.T) {
	f := func(d tensor.Datatype, spec []int64, body string, shape ...int64) *Request {
		t.Helper()
		r := newRequest(t)
		if err := DecodeRaw(r, one(d, spec...), []byte(body)); err != nil {
			t.Errorf("%s %v with %q: %v", d, spec, body, err)
			return r
		}
		if got := &r.Inputs[0]; !slices.Equal(got.Shape, shape) || got.Check() != nil ||
			got.Datatype != d || !r.BinaryOutput {
			t.Errorf("%s %v with %q: %s %v, %v", d, spec, body, got.Datatype, got.Shape,
				got.Check())
		}
		return r
	}
	f(tensor.Int32, []int64{-1, 2}, "aaaabbbb", 1, 2)
	f(tensor.Int32, []int64{-1, -1}, "aaaabbbb", 1, 2)
	f(tensor.Int32, []int64{-1, -1}, "", 1, 0)
	f(tensor.FP64, []int64{-1, 2, -1, 2}, strings.Repeat("x", 96), 1, 2, 3, 2)
	r := f(tensor.Bytes, []int64{-1, 1}, "a text", 1, 1)
	if string(r.Inputs[0].Data) != "\x06\x00\x00\x00a text" {
		t.Errorf("a raw text became %q", r.Inputs[0].Data)
	}
	f(tensor.Bytes, []int64{-1, 1}, "", 1, 1)

	bad := func(want string, sig *tensor.Signature, body string) {
		t.Helper()
		err := DecodeRaw(newRequest(t), sig, []byte(body))
		if !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", body, err, want)
		}
	}
	bad("Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in",
		&simple, "")
	bad("INT32 of shape [1,2] takes 8 bytes, got 7", one(tensor.Int32, -1, 2), "aaaabbb")
	bad("INT32 of shape [1,1] takes 4 bytes, got 7", one(tensor.Int32, -1, -1), "aaaabbb")
	bad("more than one variable-sized dimension", one(tensor.Int32, -1, -1, -1), "aaaa")
	bad("the model must have input shape [1]", one(tensor.Bytes, -1, 2), "aaaa")
	bad("the model must have input shape [1]", one(tensor.Bytes, -1, -1), "aaaa")
	bad("element 1 is 2, must be 0 or 1", one(tensor.Bool, -1, 2), "\x01\x02")
}

// A request is the same whatever was in its memory before.
func TestDecodeReuse(t *testing.T) {
	r := newRequest(t)
	long := `{"id":"x","inputs":[{"name":"x","shape":[3],"datatype":"BYTES","data":["` +
		strings.Repeat(`\n`, 100_000) + `","b","c"]}],"outputs":[{"name":"y"}],` +
		`"parameters":{"priority":3,"timeout":4,"sequence_id":"s","binary_data_output":true}}`
	for range 3 {
		if err := Decode(r, one(tensor.Bytes, -1), []byte(long), -1); err != nil {
			t.Fatal(err)
		}
		r.Reset()
		if size := r.Mem.Size() + cap(r.scan.text); size > keepArena+keepText {
			t.Errorf("an idle request keeps %d bytes", size)
		}
		short := `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}`
		if err := Decode(r, one(tensor.FP32, -1), []byte(short), -1); err != nil {
			t.Fatal(err)
		}
		wantTensor(t, &r.Inputs[0], "FP32[1]", []float32{1})
		if r.ID != nil || len(r.Outputs) > 0 || r.Priority+r.TimeoutMicros > 0 || r.Sequence ||
			r.BinaryOutput {
			t.Errorf("left over: %+v", r)
		}
		r.Reset()
	}
}
