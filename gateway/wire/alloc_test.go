package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/gateway/grpc/pb"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// In steady state no request touches the Go heap, whatever way it comes and
// goes: the memory of the one before serves again.
func TestNoAllocations(t *testing.T) {
	r := newRequest(t)
	var out []byte
	f := func(name string, a *Answer, decode func() error) {
		t.Helper()
		run := func() {
			r.Reset()
			if err := decode(); err != nil {
				t.Fatal(err)
			}
			var err error
			if strings.HasPrefix(name, "proto") {
				out, err = AppendProto(out[:0], r, a)
			} else {
				out, _, err = Append(out[:0], r, a, false)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		run()
		if n := testing.AllocsPerRun(20, run); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	for _, d := range []tensor.Datatype{tensor.Bool, tensor.Uint8, tensor.Int32, tensor.Int64,
		tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64, tensor.Bytes} {
		sig := one(d, -1, 2)
		values, data := `[[1,0],[1,0]]`, strings.Repeat("\x01\x00\x00\x00", d.Size())
		switch d {
		case tensor.Bytes:
			values = `[["one","t\u0077o"],["",""]]`
			data = strings.Repeat("\x03\x00\x00\x00one", 4)
		case tensor.Bool:
			data = "\x01\x00\x01\x00"
		}
		a := &Answer{Model: "m", Version: "1", Sig: sig, Scored: true, Outputs: []tensor.Tensor{
			{Name: "y", Datatype: d, Shape: []int64{2, 2}, Data: []byte(data)}}}
		head := fmt.Sprintf(`{"id":"1","parameters":{"priority":1,"timeout":2},`+
			`"inputs":[{"name":"x","shape":[2,2],"datatype":"%s"`, d)
		text := []byte(head + `,"data":` + values + `}],"outputs":[{"name":"y"}]}`)
		f("JSON "+d.String(), a, func() error { return Decode(r, sig, text, -1) })
		blob := head + fmt.Sprintf(`,"parameters":{"binary_data_size":%d}}],`, len(data)) +
			`"outputs":[{"name":"y","parameters":{"binary_data":true}}]}`
		binary := []byte(blob + data)
		f("binary "+d.String(), a, func() error { return Decode(r, sig, binary, len(blob)) })
		m := typed(d, []int64{2, 2}, nil)
		m.Id, m.RawInputContents = "1", [][]byte{[]byte(data)}
		m.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "y"}}
		message := marshal(t, m)
		f("proto "+d.String(), a, func() error { return DecodeProto(r, sig, message) })
	}
	sig := one(tensor.FP32, -1)
	a := &Answer{Sig: sig, Outputs: []tensor.Tensor{{Name: "y", Datatype: tensor.FP32}}}
	message := marshal(t, typed(tensor.FP32, []int64{3},
		&pb.InferTensorContents{Fp32Contents: []float32{1, 2, 3}}))
	f("proto, typed", a, func() error { return DecodeProto(r, sig, message) })
	body := []byte("abcd")
	f("raw", a, func() error { return DecodeRaw(r, sig, body) })
}

// The same holds for the dialects that name neither datatypes nor shapes, in
// the forms that clients mostly send.
func TestNoAllocationsDialects(t *testing.T) {
	f := func(d testDialect, sig *tensor.Signature, body string) {
		t.Helper()
		r, text := newRequest(t), []byte(body)
		var out []byte
		a := &Answer{Model: "m", Version: "1", Sig: &tensor.Signature{Outputs: []tensor.Spec{
			{Name: "p", Labels: []string{"no", "yes"}}, {Name: "n"}, {Name: "s_bytes"}}}}
		run := func() {
			r.Reset()
			if err := d.decode(r, sig, text); err != nil {
				t.Fatal(err)
			}
			var err error
			if out, err = d.encode(out[:0], r, a, false); err != nil {
				t.Fatal(err)
			}
		}
		a.Outputs = []tensor.Tensor{
			{Name: "p", Datatype: tensor.FP32, Shape: []int64{2, 2},
				Data: layout(t, []float32{1, 2, 3, 4})},
			{Name: "n", Datatype: tensor.Int64, Shape: []int64{2}, Data: layout(t, []int64{1, 2})},
			{Name: "s_bytes", Datatype: tensor.Bytes, Shape: []int64{2, 1},
				Data: layout(t, []string{"a", "b"})}}
		for range 2 {
			run()
			if n := testing.AllocsPerRun(20, run); n != 0 {
				t.Errorf("%.60s: %v allocations", body, n)
			}
			a.Outputs = a.Outputs[:1] // one output is written otherwise than several
		}
	}
	x := one(tensor.FP32, -1, 2)
	names := matrix(tensor.FP32, "a:double b:double")
	typed := matrix(tensor.FP64, "a:long b:boolean")
	texts := matrix(tensor.Bytes, "a:string b:binary")
	mixed := inputs("a:INT64:long b:BYTES:string c:BOOL:boolean d:FP16:float?")
	const lists, texts2 = `[[1.5,2],[3,4e1]]`, `{"a":["p","\u00e9"],"b":["YQ==","YQ=="]}`
	const records = `[{"a":1,"b":2.25},{"b":4,"\u0061":3}]`
	const mixedRecords = `[{"a":1,"b":"p","c":true},{"a":2,"b":"\n","c":false}]`
	f(v1, x, `{"instances":`+lists+`}`)
	f(v1, x, `{"inputs":{"x":`+lists+`}}`)
	f(v1, names, `{"instances":`+records+`}`)
	f(v1, names, `{"inputs":{"a":[1,3],"b":[2,4]}}`)
	f(v1, mixed, `{"instances":`+mixedRecords+`}`)
	f(v1, one(tensor.Bytes, -1), `{"instances":[{"b64":"YQ=="},"\n"]}`)
	f(mlflow, names, `{"dataframe_split":{"columns":["a","b"],"data":`+lists+`}}`)
	f(mlflow, names, `{"dataframe_split":{"data":`+lists+`,"columns":["b","a"]}}`)
	f(mlflow, x, `{"dataframe_split":{"columns":["p","q"],"data":`+lists+`}}`)
	f(mlflow, names, `{"dataframe_records":`+records+`}`)
	f(mlflow, x, `{"dataframe_records":[{"p":1,"q":2},{"p":3,"q":4}]}`)
	f(mlflow, names, `{"instances":`+lists+`}`)
	f(mlflow, names, `{"inputs":{"a":[1,3],"b":[2,4]}}`)
	f(mlflow, typed, `{"inputs":{"a":[1,3],"b":[true,false]}}`)
	f(mlflow, texts, `{"inputs":`+texts2+`}`)
	f(mlflow, mixed, `{"dataframe_records":`+mixedRecords+`}`)
	f(mlflow, mixed, `{"inputs":{"a":[1,2],"b":["p","q"],"c":[true,false]}}`)
	f(mlflowCSV, names, "a,b\n1.5,2\n3,4e1\n")
	f(mlflowCSV, names, "b,a\n1.5,2\n3,4e1\n")
	f(mlflowCSV, typed, "a,b\n1,True\n3,False\n")
	f(mlflowCSV, texts, "b,a\nYQ==,\"a,\"\"b\"\"\"\nYQ==,b\n")
	f(mlflowCSV, mixed, "c,b,a,d\ntrue,p,1,1.5\nfalse,q,2,NA\n")
	f(plainJSON, x, lists)
	f(plainJSON, names, records)
	f(plainJSON, mixed, mixedRecords)
}
