package payload

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/gateway/grpc/pb"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// specs are two inputs with rows, one without and one that may be left out.
func specs() []tensor.Spec {
	list := []tensor.Spec{
		{Name: "a", Datatype: tensor.FP32, Shape: []int64{-1, 2}},
		{Name: "state", Datatype: tensor.Bytes, Shape: []int64{2, -1}},
		{Name: "rate", Datatype: tensor.Int64, Shape: []int64{}},
		{Name: "more", Datatype: tensor.Int8, Shape: []int64{-1}, Optional: true},
	}
	RowAxes(list)
	return list
}

func maker(list []tensor.Spec) *Maker {
	return &Maker{Specs: list, Rand: rand.New(rand.NewPCG(1, 2))}
}

// shapes writes the names and shapes of tensors, and checks their data.
func shapes(t *testing.T, list []tensor.Tensor) string {
	t.Helper()
	var words []string
	for i := range list {
		if err := list[i].Check(); err != nil {
			t.Error(err)
		}
		words = append(words, list[i].Name+tensor.FormatShape(list[i].Shape))
	}
	return strings.Join(words, " ")
}

func TestRows(t *testing.T) {
	f := func(m *Maker, rows int64, want string) {
		t.Helper()
		list, err := m.Rows(rows)
		got := shapes(t, list)
		if err != nil {
			got = err.Error()
			if !errors.Is(err, ErrShape) {
				t.Errorf("error of the wrong kind: %v", err)
			}
		}
		if !strings.Contains(got, want) || want == "" {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f(maker(specs()), 1, "a[1,2] state[2,1] rate[]")
	f(maker(specs()), 5, "a[5,2] state[2,5] rate[]")
	wide := []tensor.Spec{{Name: "x", Datatype: tensor.FP16, Shape: []int64{-1, 3, -1, -1}}}
	RowAxes(wide)
	f(maker(wide), 1, "say how large they are by --shape x=1,3,32,32")
	m := maker(wide)
	m.Shapes = map[string][]int64{"x": {1, 3, 8, 4}}
	f(m, 2, "x[2,3,8,4]")
	fixed := []tensor.Spec{{Name: "x", Datatype: tensor.Bool, Shape: []int64{1, 3}}}
	RowAxes(fixed)
	f(maker(fixed), 1, "x[1,3]")
	f(maker(fixed), 2, "the model takes one row a request")
	huge := []tensor.Spec{{Name: "x", Datatype: tensor.Bool, Shape: []int64{1 << 20, 1 << 20}}}
	RowAxes(huge)
	f(maker(huge), 1, "too large")
	m = maker(specs())
	m.Given = map[string]tensor.Tensor{
		"a":    {Name: "a", Datatype: tensor.FP32, Shape: []int64{1, 2}, Data: make([]byte, 8)},
		"rate": {Name: "rate", Datatype: tensor.Int64, Shape: []int64{}, Data: make([]byte, 8)},
	}
	f(m, 3, "a[3,2] state[2,3] rate[]")
	m.Given["a"] = tensor.Tensor{Name: "a", Datatype: tensor.FP32, Shape: []int64{2, 2}}
	f(m, 3, `the given values of input "a" have the shape [2,2]; give one row`)
}

// TestMadeUp: every datatype gets values that are its own and differ.
func TestMadeUp(t *testing.T) {
	for d := tensor.Bool; d <= tensor.Bytes; d++ {
		list := []tensor.Spec{{Name: "x", Datatype: d, Shape: []int64{-1, 64}}}
		RowAxes(list)
		got, err := maker(list).Rows(1)
		if err != nil {
			t.Fatal(err)
		}
		shapes(t, got)
		texts := values.Texts(&got[0])
		different := make(map[string]bool)
		for _, text := range texts {
			different[text] = true
		}
		if len(texts) != 64 || len(different) < 2 {
			t.Errorf("%s: %v", d, texts)
		}
	}
}

func TestParseShapes(t *testing.T) {
	f := func(want string, texts ...string) {
		t.Helper()
		got, err := ParseShapes(specs(), texts)
		text, _ := json.Marshal(got)
		if err != nil {
			text = []byte(err.Error())
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("got %s, want %s", text, want)
		}
	}
	f(`{"a":[4,2],"more":[7]}`, "a=4,2", "more= 7")
	f("{}")
	f(`"b=1" is no NAME=DIMS of an input; the inputs are a (FP32 [-1,2])`, "b=1")
	f(`"4,2" is no NAME=DIMS`, "4,2")
	f(`"x" of input "a" is no dimension`, "a=x,2")
	f(`"0" of input "a"`, "a=0,2")
	f(`input "a" takes the shape [-1,2], not [4,3]`, "a=4,3")
	f(`not [4]`, "a=4")
}

// text is a BYTES tensor.
func text(shape []int64, words ...string) tensor.Tensor {
	t := tensor.Tensor{Name: "s", Datatype: tensor.Bytes, Shape: shape}
	for _, w := range words {
		t.Data = tensor.AppendElement(t.Data, w)
	}
	return t
}

func TestRepeatAndSplit(t *testing.T) {
	show := func(in tensor.Tensor) string {
		return tensor.FormatShape(in.Shape) + strings.Join(values.Texts(&in), " ")
	}
	f := func(in tensor.Tensor, axis int, want string) {
		t.Helper()
		got, err := Repeat(in, axis, 2)
		if err != nil || show(got) != want {
			t.Errorf("got %s, %v; want %s", show(got), err, want)
		}
	}
	bytes := tensor.Tensor{Datatype: tensor.Uint8, Shape: []int64{2, 1, 2},
		Data: []byte{1, 2, 3, 4}}
	f(bytes, 1, "[2,2,2]1 2 1 2 3 4 3 4")
	f(text([]int64{1, 2}, "a", "bc"), 0, "[2,2]a bc a bc")
	f(text([]int64{2, 1}, "a", "bc"), 1, "[2,2]a a bc bc")
	f(text([]int64{2}, "a", "bc"), 0, "[2]a bc")

	g := func(rows int64, want string, inputs ...tensor.Tensor) {
		t.Helper()
		sets, err := Split(inputs, rows)
		var words []string
		for _, set := range sets {
			for _, in := range set {
				words = append(words, show(in))
			}
		}
		got := strings.Join(words, "; ")
		if err != nil {
			got = err.Error()
		}
		if !strings.HasSuffix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	three := tensor.Tensor{Datatype: tensor.Uint8, Shape: []int64{3, 2},
		Data: []byte{1, 2, 3, 4, 5, 6}}
	g(2, "[2,2]1 2 3 4; [2]a bc; [1,2]5 6; [1]", three, text([]int64{3}, "a", "bc", ""))
	g(9, "[3,2]1 2 3 4 5 6", three)
	g(1, "is [2]", three, text([]int64{2}, "a", "b"))
	g(1, "is []", text(nil, "a"))
}

// TestRequest holds each protocol's request against what the other end reads.
func TestRequest(t *testing.T) {
	inputs := []tensor.Tensor{
		{Name: "a", Datatype: tensor.Int32, Shape: []int64{1, 2},
			Data: []byte{1, 0, 0, 0, 2, 0, 0, 0}},
		text([]int64{1}, `x"y`),
	}
	target := Target{Protocol: JSON, Model: "a b", Version: "1/2"}
	r, err := target.Request(inputs)
	const want = `{"inputs":[{"name":"a","shape":[1,2],"datatype":"INT32","data":[1,2]},` +
		`{"name":"s","shape":[1],"datatype":"BYTES","data":["x\"y"]}]}`
	if err != nil || r.Path != "/v2/models/a%20b/versions/1%2F2/infer" || string(r.Body) != want {
		t.Errorf("%s %s, %v", r.Path, r.Body, err)
	}
	target = Target{Protocol: Binary, Model: "m"}
	r, err = target.Request(inputs)
	n, _ := strconv.Atoi(r.Header["Inference-Header-Content-Length"])
	if err != nil || r.Path != "/v2/models/m/infer" || !json.Valid(r.Body[:n]) ||
		string(r.Body[n:]) != string(inputs[0].Data)+"\x03\x00\x00\x00x\"y" {
		t.Errorf("%s %q %v, %v", r.Path, r.Body, r.Header, err)
	}
	target.Protocol = GRPC
	r, err = target.Request(inputs)
	var m pb.ModelInferRequest
	if err != nil || r.Path != "/inference.GRPCInferenceService/ModelInfer" ||
		proto.Unmarshal(r.Body, &m) != nil || m.ModelName != "m" || len(m.Inputs) != 2 ||
		m.Inputs[1].Datatype != "BYTES" || len(m.RawInputContents) != 2 {
		t.Errorf("%s %v, %v", r.Path, &m, err)
	}
	target.Protocol = "soap"
	if _, err := target.Request(inputs); err == nil {
		t.Error("an unknown protocol gives no error")
	}
}

// TestRequests: there are several that differ, and not more than fit.
func TestRequests(t *testing.T) {
	f := func(width int64, want int) {
		t.Helper()
		list := []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, width}}}
		RowAxes(list)
		target := Target{Protocol: Binary, Model: "m"}
		all, err := target.Requests(&Maker{Specs: list}, 1)
		if err != nil || len(all) != want || string(all[0].Body) == string(all[1].Body) {
			t.Errorf("%d requests, %v; want %d", len(all), err, want)
		}
	}
	f(4, maxRequests)
	f(maxBytes/4/3+1, 3)
	f(maxBytes, 2)
}
