package wire

import (
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

// testDialect is a way to read requests and to write answers.
type testDialect struct {
	decode func(r *Request, sig *tensor.Signature, body []byte) error
	encode func(dst []byte, r *Request, a *Answer, nullNaN bool) ([]byte, error)
}

var (
	v1        = testDialect{DecodeV1, AppendV1}
	mlflow    = testDialect{DecodeMLflow, AppendMLflow}
	mlflowCSV = testDialect{DecodeMLflowCSV, AppendMLflow}
	plainJSON = testDialect{DecodePlain, AppendPlain}
	oip       = testDialect{
		func(r *Request, sig *tensor.Signature, body []byte) error {
			return Decode(r, sig, body, -1)
		},
		func(dst []byte, r *Request, a *Answer, nullNaN bool) ([]byte, error) {
			out, _, err := Append(dst, r, a, nullNaN)
			return out, err
		},
	}
)

// matrix is a model of one input, a matrix whose columns have the names and
// types, such as "a:double b:long?"; ? is one that may be left out.
func matrix(d tensor.Datatype, columns string) *tensor.Signature {
	sig := one(d, -1, -1)
	for _, c := range strings.Fields(columns) {
		name, kind, _ := strings.Cut(c, ":")
		kind, optional := strings.CutSuffix(kind, "?")
		sig.Inputs[0].Columns = append(sig.Inputs[0].Columns,
			tensor.Column{Name: name, Type: kind, Optional: optional})
	}
	sig.Inputs[0].Shape[1] = int64(len(sig.Inputs[0].Columns))
	return sig
}

// inputs is a model with an input for each column of a table, such as
// "age:INT64:long name:BYTES?". Each has the shape [-1, 1].
func inputs(list string) *tensor.Signature {
	sig := &tensor.Signature{MaxBatchSize: 8, Model: "m"}
	for _, c := range strings.Fields(list) {
		c, optional := strings.CutSuffix(c, "?")
		part := strings.Split(c, ":")
		d := tensor.ParseDatatype(part[1])
		spec := tensor.Spec{Name: part[0], Datatype: d, Shape: []int64{-1, 1}, Optional: optional}
		if len(part) > 2 {
			spec.Columns = []tensor.Column{{Name: part[0], Type: part[2], Optional: optional}}
		}
		sig.Inputs = append(sig.Inputs, spec)
	}
	return sig
}

// inputsText writes what was decoded: the inputs with their elements, and what
// else the request says.
func inputsText(r *Request) string {
	var parts []string
	for i := range r.Inputs {
		in := &r.Inputs[i]
		if in.Datatype == tensor.Invalid {
			continue
		}
		parts = append(parts, fmt.Sprintf("%s %s%s %s", in.Name, in.Datatype,
			tensor.FormatShape(in.Shape), elementsText(in.Datatype, in.Data, false)))
	}
	text := strings.Join(parts, "; ")
	if r.Rows > 0 {
		text += fmt.Sprintf(" rows=%d", r.Rows)
	}
	if r.Single {
		text += " single"
	}
	if r.Frame {
		text += " frame"
	}
	return text
}

// usedRequest returns a request that was used before: what others leave behind
// must not show.
func usedRequest(t *testing.T) *Request {
	t.Helper()
	r := newRequest(t)
	sig := matrix(tensor.Bytes, "p:binary q:string")
	for _, body := range []string{`[{"p":"QQ==","q":"\n"},{"q":"r","p":7}]`,
		`{"dataframe_split":{"columns":["q","p"],"data":[["QQ==","QQ=="]]}}`} {
		_ = DecodePlain(r, sig, []byte(body))
		r.Reset()
		_ = DecodeMLflow(r, sig, []byte(body))
		r.Reset()
	}
	r.Mem.Free()
	return r
}

// wantInputs decodes a body and holds what comes against inputsText.
func (d testDialect) wantInputs(t *testing.T, sig *tensor.Signature, body, want string) {
	t.Helper()
	r := usedRequest(t)
	if err := d.decode(r, sig, []byte(body)); err != nil {
		t.Errorf("%s: %v", body, err)
		return
	}
	checkTable(t, r, sig)
	if got := inputsText(r); got != want {
		t.Errorf("%s\ngives %s\nwant  %s", body, got, want)
	}
}

// checkTable holds what must be true of inputs that were decoded without shapes.
func checkTable(t *testing.T, r *Request, sig *tensor.Signature) {
	t.Helper()
	for i := range sig.Inputs {
		spec, in := &sig.Inputs[i], &r.Inputs[i]
		if in.Datatype == tensor.Invalid && spec.Optional {
			continue
		}
		if in.Name != spec.Name || in.Datatype != spec.Datatype {
			t.Fatalf("input %s of %s became %s of %s", spec.Name, spec.Datatype, in.Name,
				in.Datatype)
		}
		if err := in.Check(); err != nil || in.Data == nil {
			t.Fatalf("input %s passed with %v, %v", in.Name, in.Data, err)
		}
		if n := r.Rows; n > 0 && sig.MaxBatchSize > 0 && spec.BatchAxis == 0 &&
			(len(in.Shape) == 0 || in.Shape[0] != int64(n)) {
			t.Fatalf("input %s has the shape %v in %d rows", in.Name, in.Shape, n)
		}
	}
}

// wantRefused decodes a body that must be refused, with a text that has want in it.
func (d testDialect) wantRefused(t *testing.T, sig *tensor.Signature, body, want string) {
	t.Helper()
	r := usedRequest(t)
	err := d.decode(r, sig, []byte(body))
	checkRefused(t, r, err, want)
	if err != nil && !errors.Is(err, ErrBadRequest) {
		t.Errorf("%.80q: not a bad request: %v", body, err)
	}
	if size := r.Mem.Size(); size > 64<<10+32*len(body) {
		t.Errorf("%.80q took %d bytes of memory", body, size)
	}
}

// wantCutRefused decodes all that a body begins with; each must be found to be cut short.
func (d testDialect) wantCutRefused(t *testing.T, sig *tensor.Signature, body string) {
	t.Helper()
	for n := range len(body) {
		d.wantCut(t, sig, body[:n])
	}
}

// wantCut decodes a body that must be found to be cut short.
func (d testDialect) wantCut(t *testing.T, sig *tensor.Signature, body string) {
	t.Helper()
	err := d.decode(newRequest(t), sig, []byte(body))
	if err == nil || !strings.Contains(err.Error(), "but the JSON ends") &&
		!strings.Contains(err.Error(), "a string without an end") {
		t.Errorf("%s passed with %v", body, err)
	}
}

// The values of each datatype, in the dialects whose rules for them are alike.
func TestTableDatatypes(t *testing.T) {
	f := func(d tensor.Datatype, values, want string) {
		t.Helper()
		n := 1 + strings.Count(want, ",")
		want = fmt.Sprintf("x %s[%d] %s rows=%d", d, n, want, n)
		v1.wantInputs(t, one(d, -1), `{"instances":[`+values+`]}`, want)
		plainJSON.wantInputs(t, one(d, -1), `[`+values+`]`, want)
		mlflow.wantInputs(t, one(d, -1), `{"instances":[`+values+`]}`, want)
	}
	f(tensor.Bool, `true,false`, "true,false")
	f(tensor.Uint8, `0,255,1e2,7.0`, "0,255,100,7")
	f(tensor.Uint16, `65535`, "65535")
	f(tensor.Uint32, `4294967295`, "4294967295")
	f(tensor.Uint64, `18446744073709551615,9007199254740993`,
		"18446744073709551615,9007199254740993")
	f(tensor.Int8, `-128,127`, "-128,127")
	f(tensor.Int16, `-32768,32767`, "-32768,32767")
	f(tensor.Int32, `-2147483648,2147483647`, "-2147483648,2147483647")
	f(tensor.Int64, `-9223372036854775808, 9223372036854775807`,
		"-9223372036854775808,9223372036854775807")
	f(tensor.FP16, `1,-2.5,null,65504`, "1,-2.5,NaN,65504")
	f(tensor.BF16, `1,-2.5,null`, "1,-2.5,NaN")
	f(tensor.FP32, `1,0.1,null,NaN,Infinity,-Infinity,3.4028235e38,0.30000001192092896`,
		"1,0.1,NaN,NaN,Infinity,-Infinity,3.4028235e+38,0.3")
	f(tensor.FP32, `null,1`, "NaN,1")
	f(tensor.FP64, `0.1,null,1e300,9007199254740993`, "0.1,NaN,1e+300,9007199254740992")
	f(tensor.Bytes, `"","é\n","\u00e9😀"`, `"","é\n","é😀"`)

	bad := func(d tensor.Datatype, values, want string) {
		t.Helper()
		v1.wantRefused(t, one(d, -1), `{"instances":[`+values+`]}`, want)
		plainJSON.wantRefused(t, one(d, -1), `[`+values+`]`, want)
		mlflow.wantRefused(t, one(d, -1), `{"instances":[`+values+`]}`, want)
	}
	bad(tensor.FP32, `1,1e400`, "input 'x', element 1: 1e400 is out of range for FP32")
	bad(tensor.FP32, `1,1e39`, "input 'x', element 1: 1e39 is out of range for FP32")
	bad(tensor.FP64, `1,-1e400`, "input 'x', element 1: -1e400 is out of range for FP64")
	bad(tensor.FP16, `65520`, "input 'x', element 0: 65520 is out of range for FP16")
	bad(tensor.FP32, `1,"2"`, "expected a number, got '\"' at byte")
	bad(tensor.FP32, `1,true`, "expected a number, got 't' at byte")
	bad(tensor.FP32, `1,nil`, "expected a value, got 'n' at byte")
	bad(tensor.FP32, `1,{}`, "expected a number, got '{' at byte")
	bad(tensor.FP32, `1,[2]`, "expected a number, got '[' at byte")
	bad(tensor.FP32, `1,01`, "expected a number, got '0' at byte")
	bad(tensor.FP32, `1,.5`, "expected a number, got '.' at byte")
	bad(tensor.Int8, `128`, "input 'x', element 0: 128 is out of range for INT8")
	bad(tensor.Uint8, `1,-1`, "input 'x', element 1: -1 is out of range for UINT8")
	bad(tensor.Int64, `1,9223372036854775808`,
		"input 'x', element 1: 9223372036854775808 is out of range for INT64")
	bad(tensor.Uint64, `1`+strings.Repeat("0", 99), "is out of range for UINT64")
	bad(tensor.Int64, `1e999999999`, "1e999999999 is out of range for INT64")
	bad(tensor.Int32, `1.5`, "input 'x', element 0: 1.5 is not an integer for INT32")
	bad(tensor.Int32, `NaN`, "input 'x', element 0: NaN is not an integer for INT32")
	bad(tensor.Int32, `1,null`, "expected a number, got 'n'")
	bad(tensor.Int32, `true`, "expected a number, got 't'")
	bad(tensor.Bool, `true,2`, "input 'x', element 1: must be true or false")
	bad(tensor.Bool, `tru`, "expected a value, got 't'")
	bad(tensor.Bytes, `"a",1`, "expected a string, got '1'")
	bad(tensor.Bytes, `"a",null`, "expected a string, got 'n'")
	bad(tensor.Bytes, "\"a\",\"\xff\"", "a string is not valid UTF-8")
	bad(tensor.Bytes, "\"a\",\"\x01\"", "a control character in a string")
	bad(tensor.Bytes, `"a","b`, "a string without an end")
	bad(tensor.Bytes, `"\ud8"`, `\u needs four hexadecimal digits`)
}

// nan32 is the NaN of tests.
var nan32 = float32(math.NaN())

// wantAnswer encodes an answer, with null for NaN, behind what the buffer holds.
func (d testDialect) wantAnswer(t *testing.T, r *Request, want string, outputs ...tensor.Tensor) {
	t.Helper()
	sig := &tensor.Signature{Outputs: make([]tensor.Spec, len(outputs))}
	for i := range outputs {
		// Class names that begin with a mark stand for those of a label file.
		if names := outputs[i].ClassNames; len(names) > 0 && names[0] == fromFile {
			sig.Outputs[i].Labels, outputs[i].ClassNames = names[1:], nil
		}
	}
	a := &Answer{Model: "m", Version: "1", Sig: sig, Outputs: outputs}
	out, err := d.encode([]byte("before"), r, a, true)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.TrimPrefix(string(out), "before")
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !json.Valid([]byte(got)) {
		t.Errorf("%s is not JSON", got)
	}
}

// fromFile marks class names in wantAnswer.
const fromFile = "\x00file"

// A table is the same whatever form and dialect it comes in, and whatever its
// numbers look like: each has its own short cuts.
func TestTableForms(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	number := func(usual bool) string {
		f := rng.NormFloat64() * math.Pow10(rng.IntN(12)-6)
		n := rng.IntN(40)
		switch {
		case usual || n > 10:
			return strconv.FormatFloat(f, 'f', rng.IntN(9), 64)
		case n > 4:
			return strconv.FormatFloat(f, 'g', -1, 64)
		case n > 2:
			return strconv.Itoa(rng.IntN(1 << 30))
		}
		return []string{"0", "-0.0", "1e-7"}[n]
	}
	for range 100 {
		b := newTableBodies(1+rng.IntN(40), 1+rng.IntN(40))
		usual, spaced := rng.IntN(2) == 0, rng.IntN(2) == 0
		var want []float32
		for _, row := range b.values {
			for i := range row {
				row[i] = number(usual)
				f, err := strconv.ParseFloat(row[i], 32)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, float32(f))
			}
		}
		f := func(d testDialect, body string) {
			t.Helper()
			if spaced {
				body = strings.NewReplacer(",", ", ", ":", ": ").Replace(body)
			}
			r := newRequest(t)
			if err := d.decode(r, &b.sig, []byte(body)); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			checkTable(t, r, &b.sig)
			if got := r.Inputs[0].Data; string(got) != string(layout(t, want)) {
				t.Fatalf("%s gives %s", body, elementsText(tensor.FP32, got, false))
			}
		}
		f(v1, `{"instances":`+b.lists()+`}`)
		f(v1, `{"instances":`+b.records()+`}`)
		f(v1, `{"inputs":`+b.columns()+`}`)
		f(mlflow, `{"dataframe_split":`+b.split()+`}`)
		f(mlflow, `{"dataframe_records":`+b.records()+`}`)
		f(mlflow, `{"inputs":`+b.columns()+`}`)
		f(plainJSON, b.lists())
		f(plainJSON, b.records())
		b.shuffle(rng)
		f(v1, `{"instances":`+b.records()+`}`)
		f(v1, `{"inputs":`+b.columns()+`}`)
		f(mlflow, `{"dataframe_split":`+b.split()+`}`)
		spaced = false // names have spaces then
		f(mlflowCSV, b.csv())
	}
}

// shuffle puts the columns in another order.
func (b *tableBodies) shuffle(rng *rand.Rand) {
	rng.Shuffle(len(b.names), func(i, j int) {
		b.names[i], b.names[j] = b.names[j], b.names[i]
		for _, row := range b.values {
			row[i], row[j] = row[j], row[i]
		}
	})
}
