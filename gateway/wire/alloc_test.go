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
		a := &Answer{Model: "m", Version: "1", Sig: sig, Outputs: []tensor.Tensor{
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
