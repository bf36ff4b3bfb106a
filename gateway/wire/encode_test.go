package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// elementsText returns the elements of a tensor as they are written in JSON.
func elementsText(d tensor.Datatype, data []byte, nullNaN bool) string {
	return string(appendData(nil, &tensor.Tensor{Datatype: d, Data: data}, nullNaN))
}

func TestAppendElements(t *testing.T) {
	f := func(d tensor.Datatype, values any, want string) {
		t.Helper()
		if got := elementsText(d, layout(t, values), false); got != want {
			t.Errorf("%s %v is written %s, want %s", d, values, got, want)
		}
	}
	f(tensor.Bool, []uint8{0, 1, 2}, "false,true,true")
	f(tensor.Uint8, []uint8{0, 255}, "0,255")
	f(tensor.Uint16, []uint16{0, 65535}, "0,65535")
	f(tensor.Uint32, []uint32{0, math.MaxUint32}, "0,4294967295")
	f(tensor.Uint64, []uint64{0, math.MaxUint64}, "0,18446744073709551615")
	f(tensor.Int8, []int8{-128, 127}, "-128,127")
	f(tensor.Int16, []int16{-32768, 32767}, "-32768,32767")
	f(tensor.Int32, []int32{math.MinInt32, math.MaxInt32}, "-2147483648,2147483647")
	f(tensor.Int64, []int64{math.MinInt64, math.MaxInt64},
		"-9223372036854775808,9223372036854775807")
	f(tensor.FP16, []uint16{0x3c00, 0xc100, 0x7bff, 1, 0x7e00, 0xfc00},
		"1,-2.5,65504,5.9604645e-08,NaN,-Infinity")
	f(tensor.BF16, []uint16{0x3f80, 0xc020, 0x7f80}, "1,-2.5,Infinity")
	f(tensor.FP32, []float32{0, float32(math.Copysign(0, -1)), 0.1, 1e-6, 9.9e-7, 16777216, 1e20,
		1e21, math.MaxFloat32, math.SmallestNonzeroFloat32},
		"0,-0,0.1,1e-06,9.9e-07,16777216,100000000000000000000,1e+21,3.4028235e+38,1e-45")
	f(tensor.FP64, []float64{0.1, -1e300, 5e-324, 1.0 / 3}, "0.1,-1e+300,5e-324,0.3333333333333333")
	f(tensor.Bytes, []string{"", "a\"b\\c/\n\r\t\x00\x1f\x7f", "é😀\u2028"},
		`"","a\"b\\c/\n\r\t\u0000\u001f`+"\x7f"+`","é😀`+"\u2028"+`"`)
	f(tensor.Bytes, []string{"\xff", "a\xc3", "\xed\xa0\x80b", "\xf0\x9f\x98"},
		`"`+"\ufffd"+`","a`+"\ufffd"+`","`+strings.Repeat("\ufffd", 3)+`b","`+
			strings.Repeat("\ufffd", 3)+`"`)
	f(tensor.FP32, []float32{}, "")
	f(tensor.Bytes, []string{}, "")

	special := layout(t, []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1})
	if got := elementsText(tensor.FP64, special, false); got != "NaN,Infinity,-Infinity,1" {
		t.Errorf("special values are %s", got)
	}
	if got := elementsText(tensor.FP64, special, true); got != "null,null,null,1" {
		t.Errorf("special values are %s", got)
	}
}

// What is written reads back as the same value, and nothing shorter does.
func TestAppendShortest(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	check := func(f float64, size int) {
		t.Helper()
		text := string(appendDouble(nil, f, false))
		if size == 32 {
			text = string(appendSingle(nil, float32(f), false))
		}
		back, err := strconv.ParseFloat(text, size)
		if err != nil || math.Float64bits(back) != math.Float64bits(f) ||
			!json.Valid([]byte(text)) {
			t.Fatalf("%v of %d bits is written %s, which is %v, %v", f, size, text, back, err)
		}
		s := scanner{buf: []byte(text)}
		mine, err := s.float(size == 32)
		if err != nil || size == 64 && mine != f || size == 32 && float32(mine) != float32(f) {
			t.Fatalf("%s is read as %v, %v", text, mine, err)
		}
		short := strconv.FormatFloat(f, 'e', -1, size)
		if len(mantissa(text)) > len(mantissa(short)) {
			t.Fatalf("%v of %d bits is written %s, %s is enough", f, size, text, short)
		}
	}
	for range 15_000 {
		if f := math.Float32frombits(rng.Uint32()); f-f == 0 {
			check(float64(f), 32)
		}
		if f := math.Float64frombits(rng.Uint64()); f-f == 0 {
			check(f, 64)
		}
		check(float64(rng.Float32()), 32)
	}
}

// mantissa returns the digits that count of a number.
func mantissa(text string) string {
	text, _, _ = strings.Cut(strings.TrimPrefix(text, "-"), "e")
	return strings.Trim(strings.Replace(text, ".", "", 1), "0")
}

// reply is an answer as a client reads it.
type reply struct {
	Model   string  `json:"model_name"`
	Version string  `json:"model_version"`
	ID      *string `json:"id"`
	Outputs []struct {
		Name       string          `json:"name"`
		Datatype   string          `json:"datatype"`
		Shape      []int64         `json:"shape"`
		Data       json.RawMessage `json:"data"`
		Parameters map[string]any  `json:"parameters"`
	} `json:"outputs"`
}

func (r *reply) String() string {
	var b strings.Builder
	for _, o := range r.Outputs {
		fmt.Fprintf(&b, "%s %s %v %s %v;", o.Name, o.Datatype, o.Shape, o.Data, o.Parameters)
	}
	return b.String()
}

func TestAppend(t *testing.T) {
	sig := one(tensor.FP32, -1, 2)
	sig.Outputs = append(sig.Outputs, tensor.Spec{Name: "none"},
		tensor.Spec{Name: "p", Labels: []string{"no", "yes"}})
	a := &Answer{Model: "m\"1", Version: "v10", Sig: sig, Outputs: []tensor.Tensor{
		{Name: "y", Datatype: tensor.FP32, Shape: []int64{1, 2},
			Data: layout(t, []float32{1, 2.5})},
		{Name: "none"},
		{Name: "p", Datatype: tensor.FP64, Shape: []int64{1, 2},
			Data: layout(t, []float64{.25, .75}), ClassNames: []string{"a \"b\"", "ü"}},
	}}
	f := func(r *Request, want, wantBlobs string) {
		t.Helper()
		out, jsonLen, err := Append([]byte("before"), r, a, false)
		if err != nil {
			t.Fatal(err)
		}
		text, blobs := bytes.TrimPrefix(out, []byte("before")), []byte(nil)
		if jsonLen >= 0 {
			text, blobs = text[:jsonLen], text[jsonLen:]
		}
		var got reply
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got.Model != "m\"1" || got.Version != "v10" {
			t.Errorf("model %q, version %q", got.Model, got.Version)
		}
		if id := got.ID; (id == nil) != (len(r.ID) == 0) || id != nil && *id != string(r.ID) {
			t.Errorf("id %v, want %q", id, r.ID)
		}
		if got.String() != want || string(blobs) != wantBlobs {
			t.Errorf("got  %s %x\nwant %s %x", &got, blobs, want, wantBlobs)
		}
		if (jsonLen >= 0) != strings.Contains(want, "binary_data_size") {
			t.Errorf("JSON length %d for %s", jsonLen, want)
		}
	}
	const names = `class_names:["a \"b\"","ü"]`
	const y = `y FP32 [1 2] [1,2.5] map[];`
	const p = `p FP64 [1 2] [0.25,0.75] map[` + names + `];`
	const yBinary = `y FP32 [1 2]  map[binary_data_size:8];`
	const pBinary = `p FP64 [1 2]  map[binary_data_size:16 ` + names + `];`
	yData, pData := string(a.Outputs[0].Data), string(a.Outputs[2].Data)

	f(&Request{}, y+p, "")
	f(&Request{ID: []byte("ü\n7")}, y+p, "")
	f(&Request{BinaryOutput: true}, yBinary+pBinary, yData+pData)
	f(&Request{Outputs: []Output{{Index: 2}, {Index: 1}}}, p, "")
	f(&Request{Outputs: []Output{{Index: 1}}}, "", "")
	f(&Request{Outputs: []Output{{Index: 2, Binary: true, BinarySet: true}, {Index: 0}}},
		pBinary+y, pData)
	f(&Request{BinaryOutput: true, Outputs: []Output{{Index: 2, BinarySet: true}, {Index: 0}}},
		p+yBinary, yData)
	f(&Request{Outputs: []Output{{Index: 2, Classes: 1}, {Index: 0}}},
		`p BYTES [1 1] ["0.75:1:yes"] map[];`+y, "")
	both := []Output{{Index: 2, Classes: 1, Binary: true, BinarySet: true}, {Index: 0, Classes: 9}}
	f(&Request{Outputs: both},
		`p BYTES [1 1]  map[binary_data_size:14];y BYTES [1 2] ["2.5:1","1:0"] map[];`,
		"\x0a\x00\x00\x000.75:1:yes")

	a.Outputs[0] = tensor.Tensor{Name: "y", Datatype: tensor.Int8, Shape: []int64{0, 2}}
	a.Outputs[2] = tensor.Tensor{Name: "p", Datatype: tensor.Bytes, Data: layout(t, []string{"x"})}
	f(&Request{}, `y INT8 [0 2] [] map[];p BYTES [] ["x"] map[];`, "")
	f(&Request{BinaryOutput: true, Outputs: []Output{{Index: 0}}},
		`y INT8 [0 2]  map[binary_data_size:0];`, "")
	if _, _, err := Append(nil, &Request{Outputs: both}, a, false); !errors.Is(err, ErrBadRequest) {
		t.Errorf("texts were classified: %v", err)
	}
}

func TestAppendError(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		got := AppendError(nil, text)
		var v struct{ Error string }
		if err := json.Unmarshal(got, &v); err != nil || v.Error != want {
			t.Errorf("%q is written %s, %v", text, got, err)
		}
	}
	f("", "")
	f("a \"text\"\n", "a \"text\"\n")
	f("\x00\xff\\", "\x00\ufffd\\")
}

func TestClassify(t *testing.T) {
	sig := func(rows int, labels ...string) *tensor.Signature {
		return &tensor.Signature{MaxBatchSize: rows, Outputs: []tensor.Spec{{}, {Labels: labels}}}
	}
	f := func(x tensor.Tensor, n int, sig *tensor.Signature) func(want ...string) {
		t.Helper()
		got, err := Classify(&x, n, sig, 1)
		if err == nil {
			err = got.Check()
		}
		return func(want ...string) {
			t.Helper()
			text := tensor.FormatShape(got.Shape) + elementsText(tensor.Bytes, got.Data, false)
			all := want[0]
			for i, w := range want[1:] {
				if i > 0 {
					all += ","
				}
				all += strconv.Quote(w)
			}
			if err != nil || text != all {
				t.Errorf("%s, %v, want %s", text, err, all)
			}
		}
	}
	scores := func(shape []int64, v ...float32) tensor.Tensor {
		return tensor.Tensor{Datatype: tensor.FP32, Shape: shape, Data: layout(t, v)}
	}
	row := []int64{1, 4}
	f(scores(row, .1, .4, .2, .3), 2, sig(8))("[1,2]", "0.4:1", "0.3:3")
	f(scores(row, .1, .4, .2, .3), 2, sig(8, "a", "b"))("[1,2]", "0.4:1:b", "0.3:3")
	f(scores(row, .1, .4, .2, .3), 9, sig(8))("[1,4]", "0.4:1", "0.3:3", "0.2:2", "0.1:0")
	f(scores(row, .1, .4, .2, .3), 1, sig(0, "a", "b"))("[1]", "0.4:1:b")
	f(scores([]int64{2, 2}, 1, 2, 4, 3), 1, sig(8))("[2,1]", "2:1", "4:0")
	f(scores([]int64{0, 2}), 1, sig(8))("[0,0]")
	f(scores([]int64{2, 0}), 1, sig(8))("[2,0]")
	f(scores(nil, 7), 3, sig(0))("[1]", "7:0")
	nan := float32(math.NaN())
	f(scores(row, nan, 1, nan, 1), 4, sig(8))("[1,4]", "1:1", "1:3", "NaN:0", "NaN:2")
	// Integers are neither rounded to float32 nor told apart as float64.
	x := tensor.Tensor{Datatype: tensor.Int64, Shape: []int64{1, 3},
		Data: layout(t, []int64{1 << 53, 1<<53 + 1, -1})}
	f(x, 2, sig(8))("[1,2]", "9007199254740993:1", "9007199254740992:0")
	x = tensor.Tensor{Datatype: tensor.Int32, Shape: []int64{1, 2},
		Data: layout(t, []int32{-1, 16777217})}
	f(x, 2, sig(8))("[1,2]", "16777217:1", "-1:0")
	for _, d := range []tensor.Datatype{tensor.Uint8, tensor.Int8, tensor.Uint16, tensor.Int16,
		tensor.Uint32, tensor.Uint64, tensor.FP16, tensor.BF16, tensor.FP64} {
		data := make([]byte, 2*d.Size())
		data[len(data)-1] = 64 // its highest bits but one
		x := tensor.Tensor{Datatype: d, Shape: []int64{2}, Data: data}
		first := elementsText(d, data[d.Size():], false)
		f(x, 1, sig(0))("[1]", first+":1")
	}
}

// An answer that is scored says so after its id, also when binary tensors follow.
func TestAppendScore(t *testing.T) {
	a := &Answer{Model: "m", Version: "1", Sig: one(tensor.FP32, -1), Outputs: []tensor.Tensor{
		{Name: "y", Datatype: tensor.FP32, Shape: []int64{1}, Data: layout(t, []float32{2})}}}
	f := func(r *Request, score float64, outlier bool, want string) {
		t.Helper()
		a.Scored, a.Score, a.Outlier = true, score, outlier
		out, jsonLen, err := Append([]byte("before"), r, a, false)
		text := string(out[len("before"):])
		if err != nil || r.BinaryOutput != (jsonLen >= 0) {
			t.Fatalf("%s: %d, %v", text, jsonLen, err)
		}
		if jsonLen >= 0 {
			text = text[:jsonLen]
		}
		if !json.Valid([]byte(text)) || !strings.Contains(text, want) {
			t.Errorf("got %s, want %s in it", text, want)
		}
	}
	f(&Request{}, 0.75, false,
		`"model_version":"1","parameters":{"outlier_score":0.75,"outlier":false},"outputs":[`)
	f(&Request{ID: []byte("7")}, 1.0/3, true,
		`"id":"7","parameters":{"outlier_score":0.3333333333333333,"outlier":true},"outputs":[`)
	f(&Request{BinaryOutput: true}, 125, true, `{"outlier_score":125,"outlier":true}`)
}
