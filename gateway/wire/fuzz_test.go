package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/gateway/grpc/pb"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// allTypes has an input and an output of each datatype, named as it is.
var allTypes = func() *tensor.Signature {
	sig := &tensor.Signature{MaxBatchSize: 4}
	for d := tensor.Bool; d <= tensor.Bytes; d++ {
		spec := tensor.Spec{Name: d.String(), Datatype: d, Shape: []int64{-1, -1}}
		sig.Inputs, sig.Outputs = append(sig.Inputs, spec), append(sig.Outputs, spec)
	}
	return sig
}()

// checkDecoded holds what must be true of a request after any decoding.
func checkDecoded(t *testing.T, r *Request, err error, size int) {
	t.Helper()
	if n := r.Mem.Size(); n > 256<<10+32*size {
		t.Fatalf("%d bytes of memory for a body of %d", n, size)
	}
	if err != nil {
		if !errors.Is(err, ErrBadRequest) && !errors.Is(err, ErrUnsupported) {
			t.Fatalf("neither a bad request nor unsupported: %v", err)
		}
		if len(err.Error()) > 1000 {
			t.Fatalf("a text of %d bytes: %v", len(err.Error()), err)
		}
		return
	}
	for i := range r.Inputs {
		in := &r.Inputs[i]
		if in.Datatype == tensor.Invalid {
			continue
		}
		if err := in.Check(); err != nil || in.Data == nil {
			t.Fatalf("input %s passed with %v, %v", in.Name, in.Data, err)
		}
		if in.Datatype == tensor.Bool && slices.ContainsFunc(in.Data,
			func(b byte) bool { return b > 1 }) {
			t.Fatalf("BOOL data is %x", in.Data)
		}
	}
	seen := make(map[int]bool)
	for _, o := range r.Outputs {
		if seen[o.Index] || o.Index >= len(r.Inputs) || o.Classes < 0 {
			t.Fatalf("outputs %+v", r.Outputs)
		}
		seen[o.Index] = true
	}
	if len(r.ID) > maxID || !utf8.Valid(r.ID) {
		t.Fatalf("id %q", r.ID)
	}
}

// checkAgain sends the inputs back as an answer, in each form, and reads that
// as a request. What comes must be what went.
func checkAgain(t *testing.T, r *Request, sig *tensor.Signature) {
	t.Helper()
	if !slices.ContainsFunc(r.Inputs, func(in tensor.Tensor) bool {
		return in.Datatype != tensor.Invalid
	}) {
		return
	}
	a := &Answer{Model: "m", Version: "1", Sig: sig, Outputs: r.Inputs}
	for _, binary := range []bool{false, true} {
		out, jsonLen, err := Append(nil, &Request{ID: r.ID, BinaryOutput: binary}, a, false)
		if err != nil {
			t.Fatal(err)
		}
		body := bytes.Replace(out, []byte(`"outputs":[{`), []byte(`"inputs":[{`), 1)
		if jsonLen >= 0 {
			jsonLen--
		}
		again := newRequest(t)
		if err := Decode(again, sig, body, jsonLen); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		wantSame(t, again, r, !binary)
	}
	out, err := AppendProto(nil, &Request{ID: r.ID}, a)
	if err != nil {
		t.Fatal(err)
	}
	var answer pb.ModelInferResponse
	if err := proto.Unmarshal(out, &answer); err != nil {
		t.Fatal(err)
	}
	request := pb.ModelInferRequest{Id: answer.Id, RawInputContents: answer.RawOutputContents}
	for _, o := range answer.Outputs {
		request.Inputs = append(request.Inputs, &pb.ModelInferRequest_InferInputTensor{
			Name: o.Name, Datatype: o.Datatype, Shape: o.Shape})
	}
	again := newRequest(t)
	if err := DecodeProto(again, sig, marshal(t, &request)); err != nil {
		t.Fatal(err)
	}
	wantSame(t, again, r, false)
}

// wantSame compares two requests; text says that one went through JSON, which
// has one NaN only and no bytes that are not UTF-8.
func wantSame(t *testing.T, got, want *Request, text bool) {
	t.Helper()
	if string(got.ID) != string(want.ID) {
		t.Fatalf("id %q became %q", want.ID, got.ID)
	}
	for i := range want.Inputs {
		g, w := &got.Inputs[i], &want.Inputs[i]
		same := bytes.Equal(g.Data, w.Data)
		if text && !same {
			same = elementsText(g.Datatype, g.Data, false) ==
				elementsText(w.Datatype, w.Data, false)
		}
		if g.Datatype != w.Datatype || !slices.Equal(g.Shape, w.Shape) || !same {
			t.Fatalf("%s %v %x became %s %v %x", w.Datatype, w.Shape, w.Data, g.Datatype, g.Shape,
				g.Data)
		}
	}
}

func FuzzDecode(f *testing.F) {
	add := func(body string) { f.Add([]byte(body), -1) }
	for d, values := range map[tensor.Datatype]string{
		tensor.Bool: `[true,false,1]`, tensor.Int8: `[-128,127,0]`, tensor.Uint64: `[1e3,2.0,3]`,
		tensor.FP16: `[1.5,NaN,-0]`, tensor.BF16: `[1e9,2,3]`, tensor.FP32: `[[0.1],[2e-5],[3]]`,
		tensor.FP64: `[0.1,-Infinity,3]`, tensor.Bytes: `["a","\ud83d\ude00",""]`,
	} {
		add(fmt.Sprintf(`{"inputs":[{"name":"%s","shape":[3],"datatype":"%s","data":%s}]}`, d, d,
			values))
	}
	add(`{"id":"é","parameters":{"priority":1,"timeout":"5","binary_data_output":true,"x":"y"},` +
		`"inputs":[{"data":[[1,2],[3,4]],"parameters":{"content_type":"base64"},"shape":[2,2],` +
		`"datatype":"INT32","name":"INT32"},{"name":"BYTES","datatype":"BYTES","shape":[1],` +
		`"data":["YWI="],"parameters":{"content_type":"base64"}}],` +
		`"outputs":[{"name":"FP32","parameters":{"classification":2,"binary_data":true}}]}`)
	add(`{"inputs":[{"name":"FP32","shape":[40],"datatype":"FP32","data":[` +
		strings.Repeat("-0.123456,0.5, 12345678,1e-3,0.12345678901234567,", 8) + `1]}]}`)
	head := `{"inputs":[{"name":"BYTES","shape":[2],"datatype":"BYTES","parameters":` +
		`{"binary_data_size":13}},{"name":"INT16","shape":[],"datatype":"INT16","data":[7]}]}`
	f.Add([]byte(head+"\x02\x00\x00\x00ab\x03\x00\x00\x00cde"), len(head))
	f.Fuzz(func(t *testing.T, body []byte, jsonLen int) {
		r := newRequest(t)
		err := Decode(r, allTypes, body, jsonLen)
		checkDecoded(t, r, err, len(body))
		if err == nil {
			checkAgain(t, r, allTypes)
		}
	})
}

func FuzzDecodeRaw(f *testing.F) {
	f.Add([]byte("abcdefgh"), uint8(tensor.FP32), int64(2))
	f.Add([]byte("text"), uint8(tensor.Bytes), int64(1))
	f.Add([]byte("\x01\x00"), uint8(tensor.Bool), int64(-1))
	f.Add([]byte(""), uint8(tensor.Int64), int64(0))
	f.Fuzz(func(t *testing.T, body []byte, d uint8, dim int64) {
		sig := one(tensor.Datatype(d%uint8(tensor.Bytes))+1, -1, max(dim, -1))
		r := newRequest(t)
		err := DecodeRaw(r, sig, body)
		checkDecoded(t, r, err, len(body))
		if err == nil {
			sig.Outputs[0].Name = "x"
			checkAgain(t, r, sig)
		}
	})
}

func FuzzDecodeProto(f *testing.F) {
	golden, err := hex.DecodeString(goldenProto)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.ReplaceAll(golden, []byte("INPUT0"), []byte("INT32\x1a")))
	for d, c := range map[tensor.Datatype]*pb.InferTensorContents{
		tensor.Bool:   {BoolContents: []bool{true, false}},
		tensor.Int8:   {IntContents: []int32{-1, 2}},
		tensor.Int64:  {Int64Contents: []int64{-1, 2}},
		tensor.Uint16: {UintContents: []uint32{1, 2}},
		tensor.Uint64: {Uint64Contents: []uint64{1, 2}},
		tensor.FP32:   {Fp32Contents: []float32{1, 2}},
		tensor.FP64:   {Fp64Contents: []float64{1, 2}},
		tensor.Bytes:  {BytesContents: [][]byte{[]byte("a"), {}}},
	} {
		m := typed(d, []int64{2}, c)
		m.Inputs[0].Name, m.Id, m.ModelVersion = d.String(), "id", "2"
		f.Add(marshal(f, m))
		m.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "FP16"}}
		m.Parameters = map[string]*pb.InferParameter{
			"timeout": {ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: 4}}}
		m.Inputs[0].Contents, m.RawInputContents = nil, [][]byte{make([]byte, 2*d.Size())}
		f.Add(marshal(f, m))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		model, version, headErr := ProtoHead(body)
		r := newRequest(t)
		err := DecodeProto(r, allTypes, body)
		checkDecoded(t, r, err, len(body))
		if headErr != nil && err == nil {
			t.Fatalf("the head is bad, the request is not: %v", headErr)
		}
		if err == nil {
			checkAgain(t, r, allTypes)
		}
		// Whatever the generated package reads has the same names.
		var m pb.ModelInferRequest
		if proto.Unmarshal(body, &m) == nil && headErr == nil &&
			(m.ModelName != string(model) || m.ModelVersion != string(version)) {
			t.Fatalf("model %q version %q, want %q and %q", model, version, m.ModelName,
				m.ModelVersion)
		}
	})
}

// FuzzField holds the reading of fields against the library's.
func FuzzField(f *testing.F) {
	f.Add([]byte("\x0a\x01a\x10\x05\x1d\x01\x02\x03\x04\x21\x01\x02\x03\x04\x05\x06\x07\x08"))
	f.Add([]byte("\x0b\x10\x01\x0c"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var v field
		for rest := body; len(rest) > 0; {
			_, _, n := protowire.ConsumeField(rest)
			next, err := v.read(rest)
			if (n < 0) != (err != nil) {
				t.Fatalf("%x: %v, the library says %d", rest, err, n)
			}
			if err != nil {
				return
			}
			if len(next) != len(rest)-n {
				t.Fatalf("%x has %d bytes, want %d", rest, len(rest)-len(next), n)
			}
			rest = next
		}
	})
}

// FuzzSkip holds the scanner against the standard library's idea of JSON.
func FuzzSkip(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-2.5e+3,true,false,null],"b":"\u00e9\ud83d\ude00\n"}`, ` [ ] `,
		`"\ud800\u0041"`, `"é"`, "\"\xff\"", `-0`, `01`, `1.`, `[1,]`, `{"a":1,}`, `{"a" 1}`, `NaN`,
		`[-Infinity]`, `tru`, `nullx`, `"\x"`, "\"\x01\"", strings.Repeat("[", 101), `""x`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := scanner{buf: body}
		err := s.skip()
		if err == nil {
			if s.next(); s.pos < len(body) {
				err = fmt.Errorf("something follows: %w", ErrBadRequest)
			}
		}
		valid := json.Valid(body)
		switch {
		case err != nil && !errors.Is(err, ErrBadRequest):
			t.Fatalf("%q: %v", body, err)
		case err == nil && !valid && !bytes.Contains(body, []byte("NaN")) &&
			!bytes.Contains(body, []byte("Infinity")):
			t.Fatalf("%q passed, but is not JSON", body)
		case err != nil && valid && utf8.Valid(body) && !strings.Contains(err.Error(), "depth"):
			t.Fatalf("%q is JSON: %v", body, err)
		}
		var want string
		if err == nil && json.Unmarshal(body, &want) == nil && bytes.HasPrefix(body, []byte(`"`)) {
			s := scanner{buf: body}
			if got, err := s.str(); string(got) != want || err != nil {
				t.Fatalf("%q is read as %q, %v, want %q", body, got, err, want)
			}
		}
	})
}

// FuzzNumber holds the reading of numbers against the standard library's.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{"0", "-0.123456", "1e5", "16777217.0", "0.1234567890123456789",
		"1.00000005960464477539062500000001", "3.4028235677973366e38", "9007199254740993", "1e-46",
		"18446744073709551615.0e0", "100000000000000000000e-3", "12345678.12345678"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) || strings.Trim(text, "0123456789+-.eE") != "" {
			s := scanner{buf: []byte(text)}
			if _, err := s.float(true); err == nil && s.pos == len(text) &&
				!strings.HasSuffix(text, "NaN") && !strings.HasSuffix(text, "Infinity") &&
				!json.Valid([]byte(text)) {
				t.Fatalf("%q is read as a number", text)
			}
			return
		}
		checkFloat(t, text)
		if _, exponent, _ := strings.Cut(strings.ToLower(text), "e"); len(exponent) < 5 {
			checkInteger(t, text)
		}
	})
}

// tableModels are those that the dialects without datatypes are fuzzed with.
var tableModels = []*tensor.Signature{
	one(tensor.FP32, -1, 2),
	one(tensor.Bytes, -1),
	one(tensor.Int8, -1, 2, -1),
	matrix(tensor.FP32, "a:double b:float?"),
	matrix(tensor.FP64, "a:long b:boolean c:integer? d:double"),
	matrix(tensor.Bytes, "a:string b:binary"),
	matrix(tensor.FP32, "c0 c1 c2 c3 c4 c5 c6 c7 c8 c9 c10 c11 c12 c13 c14 c15 c16 c17"),
	inputs("a:INT64:long b:BYTES:string c:BOOL:boolean? d:FP16:float?"),
	inputs("b64:BYTES"),
	{Inputs: []tensor.Spec{{Name: "x", Datatype: tensor.BF16, Shape: []int64{2, 2}}}},
	{Inputs: []tensor.Spec{{Name: "x", Datatype: tensor.Uint16}}},
	{Inputs: []tensor.Spec{
		{Name: "a", Datatype: tensor.FP32, Shape: []int64{2, -1}, BatchAxis: 1},
		{Name: "b", Datatype: tensor.Bool, Shape: []int64{1}, BatchAxis: -1}}, MaxBatchSize: 8},
	{},
}

// tableSeeds are bodies for fuzzing, some good and some broken, a few of which
// fit each of the models.
var tableSeeds = []string{
	`{"instances":[[1,2],[3.5,null]]}`, `{"instances":["a",{"b64":"YQ=="}]}`,
	`{"instances":[{"a":1,"b":2},{"b":4}]}`, `{"inputs":{"a":[1,3],"b":[2,4]}}`,
	`{"inputs":{"a":[1],"b":["YQ=="],"c":[true]},"params":{}}`, `{"inputs":{"b64":"YQ=="}}`,
	`{"inputs":{"c0":[1],"c1":[2],"c2":[3],"c3":[4],"c4":[5],"c5":[6],"c6":[7],"c7":[8],` +
		`"c8":[9],"c9":[0],"c10":[1],"c11":[2],"c12":[3],"c13":[4],"c14":[5],"c15":[6],` +
		`"c16":[7],"c17":[8]}}`,
	`{"dataframe_split":{"columns":["a","b"],"index":[0],"data":[[1,2],[NaN,1e400]]}}`,
	`{"dataframe_split":{"data":[[1,true,2,0.5]],"columns":["c","b","z","a"]}}`,
	`{"dataframe_split":{"data":[[[1,2]],[[3,4]]],"columns":[0]}}`,
	`{"dataframe_records":[{"a":1,"b":true,"c":3,"d":null},{"a":1.5}]}`,
	`{"signature_name":"s","instances":[[[1],[2]],[[3],[4]]]}`, `{"x":[[1,2],[3,4]]}`,
	`{"a":"\u00e9","b":"YQ=="}`, `[{"a":1,"b":"p","c":true,"d":1.5},{"d":1,"a":2,"b":"q"}]`,
	`[[1,2],[3,4]]`, `[1,2]`, `5`, `"a"`, `{}`, `[]`, `[[]]`, `{"a":[1,2],"b":true}`,
	"a,b\n1,2\n3,4\n", "b,a,z\r\nYQ==,\"a \"\"b\"\"\",1\r\n",
	"\ufeffa,b,c,d\n1,True,,NA\n",
	"a,b,c,d\n1,p,false,+.5e1\n", "p,q\n1.25,0x1\n", "\"a\"x", strings.Repeat("[", 40),
}

// fuzzTable decodes bodies in a dialect, for each of the models.
func fuzzTable(f *testing.F, d testDialect) {
	f.Helper()
	for _, s := range tableSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := newRequest(t) // what one decoding leaves must not show in the next
		for _, sig := range tableModels {
			r.Reset()
			r.Mem.Free()
			err := d.decode(r, sig, body)
			checkDecoded(t, r, err, len(body))
			if err != nil {
				continue
			}
			checkTable(t, r, sig)
			checkAgain(t, r, sig)
			out, err := d.encode(nil, r, &Answer{Sig: &tensor.Signature{
				Outputs: make([]tensor.Spec, len(r.Inputs))}, Outputs: r.Inputs}, true)
			if err != nil || !json.Valid(out) {
				t.Fatalf("the inputs are written %q, %v", out, err)
			}
		}
	})
}

func FuzzDecodeV1(f *testing.F)        { fuzzTable(f, v1) }
func FuzzDecodeMLflow(f *testing.F)    { fuzzTable(f, mlflow) }
func FuzzDecodeMLflowCSV(f *testing.F) { fuzzTable(f, mlflowCSV) }
func FuzzDecodePlain(f *testing.F)     { fuzzTable(f, plainJSON) }
