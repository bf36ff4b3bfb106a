package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func TestDecodeV1(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		v1.wantInputs(t, sig, body, want)
	}
	x := one(tensor.FP32, -1, 2)
	f(x, `{"instances":[[1,2],[3,4]]}`, "x FP32[2,2] 1,2,3,4 rows=2")
	f(x, " {\n\"instances\" :\t[ [ 1 , 2 ] , [ 3 , 4 ] ] }\r\n", "x FP32[2,2] 1,2,3,4 rows=2")
	f(x, `{"signature_name":"serving_default","instances":[[1,2]]}`, "x FP32[1,2] 1,2 rows=1")
	f(x, `{"instances":[[1,2]],"parameters":{"a":[{}]},"id":7}`, "x FP32[1,2] 1,2 rows=1")
	f(x, `{"inputs":[[1,2],[3,4]]}`, "x FP32[2,2] 1,2,3,4")
	f(x, `{"inputs":{"x":[[1,2]]}}`, "x FP32[1,2] 1,2")
	f(x, `{"instances":[{"x":[1,2]},{"x":[3,4]}]}`, "x FP32[2,2] 1,2,3,4 rows=2")
	f(x, `{"instances":[{"\u0078":[1,2]}]}`, "x FP32[1,2] 1,2 rows=1")
	f(x, `{"instances":[]}`, "x FP32[0] ")
	f(x, `{"instances":[[],[]]}`, "x FP32[2,0]  rows=2")
	f(x, `{"inputs":5}`, "x FP32[1] 5") // the model says what it takes

	f(one(tensor.FP32, -1, 1), `{"instances":[1,2]}`, "x FP32[2,1] 1,2 rows=2")
	f(one(tensor.FP32, -1), `{"instances":[[1],[2]]}`, "x FP32[2] 1,2 rows=2")
	f(one(tensor.FP32, -1, 1), `{"inputs":5}`, "x FP32[1,1] 5")
	f(one(tensor.FP32, -1), `{"inputs":5}`, "x FP32[1] 5")
	f(one(tensor.FP32), `{"inputs":5}`, "x FP32[] 5")
	f(one(tensor.Int32, -1, 2, 2), `{"instances":[[[1,2],[3,4]],[[5,6],[7,8]]]}`,
		"x INT32[2,2,2] 1,2,3,4,5,6,7,8 rows=2")
	f(one(tensor.Int32, -1, 2, 2), `{"instances":[{"x":[[1,2],[3,4]]}]}`,
		"x INT32[1,2,2] 1,2,3,4 rows=1")

	// Strings may be wrapped; the only input needs no name for that.
	s := one(tensor.Bytes, -1)
	f(s, `{"instances":[{"b64":"YQ=="},"b",{"b64":""}]}`, `x BYTES[3] "a","b","" rows=3`)
	f(s, `{"instances":[{"x":{"b64":"YQ=="}},{"x":"b"}]}`, `x BYTES[2] "a","b" rows=2`)
	f(s, `{"inputs":{"b64":"YQ=="}}`, `x BYTES[1] "a"`)
	f(s, `{"inputs":{"x":["a",{ "b64" : "YgA=" }]}}`, `x BYTES[2] "a","b\u0000"`)
	f(inputs("b64:BYTES"), `{"instances":[{"b64":"YQ=="}]}`, `b64 BYTES[1,1] "YQ==" rows=1`)
}

func TestDecodeV1Names(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		v1.wantInputs(t, sig, body, want)
	}
	// Columns of a matrix by their names, in any order.
	m := matrix(tensor.FP32, "a b")
	f(m, `{"instances":[{"a":1,"b":2},{"b":4,"a":3}]}`, "x FP32[2,2] 1,2,3,4 rows=2")
	f(m, `{"instances":[{"a":null,"b":NaN}]}`, "x FP32[1,2] NaN,NaN rows=1")
	f(m, `{"instances":[[1,2]]}`, "x FP32[1,2] 1,2 rows=1")
	f(m, `{"instances":[{"x":[1,2]}]}`, "x FP32[1,2] 1,2 rows=1")
	f(m, `{"inputs":{"b":[2,4],"a":[1,3]}}`, "x FP32[2,2] 1,2,3,4 rows=2")
	f(m, `{"inputs":{"b":2,"a":1}}`, "x FP32[1,2] 1,2 rows=1")
	f(m, `{"inputs":{"x":[[1,2]]}}`, "x FP32[1,2] 1,2")
	f(matrix(tensor.Bytes, "a b"), `{"instances":[{"b":"2","a":{"b64":"MQ=="}}]}`,
		`x BYTES[1,2] "1","2" rows=1`)
	f(matrix(tensor.FP32, "a b:?"), `{"instances":[{"a":1},{"b":4,"a":3}]}`,
		"x FP32[2,2] 1,NaN,3,4 rows=2")
	f(matrix(tensor.FP32, "a b:?"), `{"inputs":{"a":[1,3]}}`, "x FP32[2,2] 1,NaN,3,NaN rows=2")

	// Numbers near the middle of two others, and with more digits than fit in 64 bits.
	f(m, `{"instances":[{"a":1.00000005960464478,"b":9999999.9999999999999}], "id":"`+
		strings.Repeat("x", fastRoom)+`"}`, "x FP32[1,2] 1.0000001,10000000 rows=1")

	// A name with a backslash is no escape, and an escape is no backslash.
	f(matrix(tensor.FP32, `\u0061 a`), `{"instances":[{"\u0061":1,"\\u0061":2},`+
		`{"\u0061":3,"\\u0061":4}]}`, "x FP32[2,2] 2,1,4,3 rows=2")
	f(matrix(tensor.FP32, `a"b c`), `{"instances":[{"a\"b":1,"c":2},{"a\"b":3,"c":4}]}`,
		"x FP32[2,2] 1,2,3,4 rows=2")

	// Several inputs.
	two := inputs("n:INT64 s:BYTES o:FP32?")
	f(two, `{"instances":[{"n":1,"s":"a"},{"s":"b","n":2}]}`,
		`n INT64[2,1] 1,2; s BYTES[2,1] "a","b" rows=2`)
	f(two, `{"instances":[{"n":[1],"s":["a"],"o":0.5}]}`,
		`n INT64[1,1] 1; s BYTES[1,1] "a"; o FP32[1,1] 0.5 rows=1`)
	f(two, `{"inputs":{"n":[1,2],"s":[["a"],["b"]]}}`, `n INT64[2,1] 1,2; s BYTES[2,1] "a","b"`)

	// A model without rows takes its tensor, or a list of one.
	whole := one(tensor.FP32, 2, 2)
	whole.MaxBatchSize = 0
	f(whole, `{"instances":[[1,2],[3,4]]}`, "x FP32[2,2] 1,2,3,4 rows=2")
	f(whole, `{"inputs":{"x":[[1,2],[3,4]]}}`, "x FP32[2,2] 1,2,3,4")
	// Rows along the second axis, and an input that is equal for all.
	turned := one(tensor.FP32, 2, -1)
	turned.Inputs[0].BatchAxis = 1
	f(turned, `{"instances":[{"x":[1,2]}]}`, "x FP32[2,1] 1,2 rows=1")
	shared := inputs("n:FP32 k:FP32")
	shared.Inputs[1].BatchAxis, shared.Inputs[1].Shape = -1, []int64{1}
	f(shared, `{"instances":[{"n":1,"k":[2]}]}`, "n FP32[1,1] 1; k FP32[1] 2 rows=1")
}

func TestBadV1(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		v1.wantRefused(t, sig, body, want)
	}
	x := one(tensor.FP32, -1, 2)
	f(x, ``, "expected '{', but the JSON ends at byte 0")
	f(x, `[[1,2]]`, "expected '{', got '['")
	f(x, `{}`, `the request has neither "instances" nor "inputs"`)
	f(x, `{"Instances":[[1,2]]}`, `the request has neither "instances" nor "inputs"`)
	f(x, `{"instances":[[1,2]],"inputs":[[1,2]]}`, `must have "instances" or "inputs", once`)
	f(x, `{"instances":[[1,2]],"instances":[[1,2]]}`, `must have "instances" or "inputs", once`)
	f(x, `{"signature_name":1,"instances":[[1,2]]}`, "expected a string, got '1'")
	f(x, `{"signature_name":"a","signature_name":"a","instances":[[1,2]]}`,
		`"signature_name" stands twice`)
	f(x, `{"parameters":1,"parameters":1,"instances":[[1,2]]}`, `"parameters" stands twice`)
	f(x, `{"instances":null}`, "expected a list of rows, got 'n'")
	f(x, `{"instances":{"x":1}}`, "expected a list of rows, got '{'")
	f(x, `{"instances":5}`, "expected a list of rows, got '5'")
	f(x, `{"instances":[[1,2]]} x`, "unexpected 'x' after the request")
	f(x, `{"instances":[[1,2]],}`, "a comma before '}'")
	f(x, `{"instances":[[1,2],]}`, "a comma before ']'")
	f(x, `{"instances":[[1,2] [3,4]]}`, "expected ',' or ']', got '['")
	for _, body := range []string{`{"instances":[[1,2],[3,4]]}`,
		`{"instances":[{"x":[1,2]},{"x":[3,4]}]}`, `{"inputs":{"x":[[1,2]]}}`} {
		v1.wantCutRefused(t, x, body)
	}
	f(x, `{"instances":[[1,2],[3]]}`, "arrays have unequal lengths, 2 and 1")
	f(x, `{"instances":[[1,2],3]}`, "input 'x', element 2: must be an array")
	f(x, `{"instances":[[1,2],[[3,4]]]}`, "arrays are nested to unequal depths")
	f(x, `{"instances":[[[1],[2]],[3,4]]}`, "arrays are nested to unequal depths")
	f(x, `{"instances":`+strings.Repeat("[", 33)+`1`, "arrays are nested deeper than 32")
	f(x, `{"instances":`+strings.Repeat("[", 1<<20), "arrays are nested deeper than 32")
	f(x, `{"a":`+strings.Repeat("[", 101), "JSON nesting depth exceeds")
	f(x, `{"instances":[{"x":[1,2]},[3,4]]}`, "row 1: must be an object, as the first is")
	f(x, `{"instances":[[1,2],{"x":[3,4]}]}`, "must be an array")
	f(x, `{"instances":[{"x":[1,2],"x":[1,2]}]}`, "row 0: input 'x' stands twice")
	f(x, `{"instances":[{"x":[1,2]},{}]}`, "row 1: it is missing 'x'; the model takes 'x'")
	f(x, `{"instances":[{"y":[1,2]}]}`, `row 0: unexpected "y": the model takes 'x'`)
	f(x, `{"instances":[{}]}`, "row 0: it is missing 'x'")
	f(x, `{"inputs":{}}`, "it is missing 'x'")
	f(x, `{"inputs":{"x":[[1,2]],"x":[[1,2]]}}`, "input 'x' stands twice")
	f(x, `{"inputs":{"xx":[[1,2]]}}`, `unexpected "xx": the model takes 'x'; did you mean 'x'?`)
	f(x, `{"instances":[{"x":[1,2]},{"x":[3]}]}`, "row 1: arrays have unequal lengths, 2 and 1")
	f(x, `{"instances":[{"x":[1,2]},{"x":3}]}`, "row 1: must be an array, as in the rows before")
	f(x, `{"instances":[{"x":1},{"x":[3]}]}`, "row 1: arrays are nested to unequal depths")
	f(x, `{"instances":[[1,{"b64":"YQ=="}]]}`, "expected a number, got '{'")
}

func TestBadV1Strings(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		v1.wantRefused(t, sig, body, want)
	}
	s := one(tensor.Bytes, -1)
	f(s, `{"instances":["a",{"b64":"!"}]}`, "input 'x', element 1: is not base64")
	f(s, `{"instances":["a",{"b64":7}]}`, "expected a string, got '7'")
	f(s, `{"instances":["a",{"b64":{"b64":""}}]}`, "expected a string, got '{'")
	f(s, `{"instances":["a",{"c":"YQ=="}]}`, `an object must be {"b64": "..."}`)
	f(s, `{"instances":["a",{}]}`, `an object must be {"b64": "..."}`)
	f(s, `{"instances":[{"b64":"YQ==","c":1}]}`, `an object must be {"b64": "..."}`)
}

func TestBadV1Names(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		v1.wantRefused(t, sig, body, want)
	}
	m := matrix(tensor.FP32, "alpha beta")
	f(m, `{"instances":[{"alpha":1,"beta":2},{"alpha":1,"betta":2}]}`,
		`row 1: unexpected "betta": the model takes 'alpha', 'beta'; did you mean 'beta'?`)
	f(m, `{"instances":[{"alpha":1}]}`, "row 0: it is missing 'beta'")
	f(m, `{"instances":[{"alpha":1,"beta":"b"}]}`, "(column 'beta', row 0, FP32)")
	f(m, `{"instances":[{"alpha":1,"alpha":2}]}`, "row 0: column 'alpha' stands twice")
	f(m, `{"inputs":{"alpha":[1]}}`, "it is missing 'beta'")
	f(m, `{"inputs":{"alpha":[1],"alpha":[1],"beta":[1]}}`, "column 'alpha' stands twice")
	f(m, `{"inputs":{"alpha":[1],"alpha":[1]}}`, "column 'alpha' stands twice")
	f(m, `{"instances":[{"alpha":1,"beta":2},{"alpha":01,"beta":2},{"alpha":1,"beta":2}]}`,
		"expected a number, got '0'")
	f(matrix(tensor.FP32, "alpha beta betaa"), `{"instances":[{"betb":1}]}`,
		"did you mean 'beta'?")
	var wide strings.Builder // memory is not for columns that do not come
	for i := range 1000 {
		fmt.Fprintf(&wide, " c%d", i)
	}
	f(matrix(tensor.FP32, wide.String()), `{"inputs":{"c0":[0`+strings.Repeat(",0", 10_000)+`]}}`,
		"it is missing 'c1', 'c2'")
	f(m, `{"inputs":{"alpha":[1],"beta":[1,2]}}`,
		"columns 'alpha' and 'beta' have unequal lengths")
	f(m, `{"inputs":{"beta":[1],"alpha":[1,2]}}`,
		"columns 'alpha' and 'beta' have unequal lengths")
	f(m, `{"inputs":{"alpha":[1],"beta":1}}`, "column 'alpha' is a list, column 'beta' is not")
	f(m, `{"inputs":{"alpha":[],"beta":[]}}`, "there are no rows")
	f(m, `{"inputs":{"alpha":[[1]],"beta":[[1]]}}`, "(column 'alpha', row 0, FP32)")
	f(m, `{"inputs":{"alpha":[1,2],"beta":[1,1e99]}}`,
		"column 'beta', row 1: 1e99 is out of range for FP32")
	f(matrix(tensor.FP32, `a"b c`), `{"instances":[{"c":1,"a\"b":1},{"a"b":3,"c":4}]}`,
		"expected ':', got 'b'")
	f(matrix(tensor.FP32, "a:? b:?"), `{"inputs":{}}`, "there are no values; the model takes")
	f(matrix(tensor.Int32, "a b:?"), `{"instances":[{"a":1}]}`,
		"column 'b', row 0: the value is missing; only floats may be, and this is INT32")
	f(matrix(tensor.FP32, "a:? b:?"), `{"instances":[`+strings.Repeat("{},", 8)+`{}]}`,
		"inference request batch-size must be <= 8")
}

func TestBadV1Inputs(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		v1.wantRefused(t, sig, body, want)
	}
	two := inputs("n:INT64 s:BYTES o:FP32?")
	f(two, `{"instances":[1]}`, "each row must be an object, for the model takes 'n', 's', 'o'")
	f(two, `{"inputs":[1]}`, "expected an object, for the model takes 'n', 's', 'o'")
	f(two, `{"instances":[{"n":1,"s":"a"},{"n":1}]}`, "row 1: it is missing 's'")
	f(two, `{"instances":[{"n":1,"s":"a"},{"n":1,"s":"a","o":1}]}`,
		"row 1: input 'o' is missing in row 0")
	f(two, `{"instances":[{"n":1,"s":"a","o":1},{"n":1,"s":"a"}]}`, "row 1: it is missing 'o'")
	f(two, `{"instances":[{"n":null,"s":"a"}]}`,
		"input 'n', row 0: the value is missing; only floats may be, and this is INT64")
	f(two, `{"inputs":{"n":[1]}}`, "it is missing 's'; the model takes 'n', 's', 'o'")

	turned := one(tensor.FP32, 2, -1)
	turned.Inputs[0].BatchAxis = 1
	f(turned, `{"instances":[{"x":[1,2]},{"x":[1,2]}]}`,
		"rows of input 'x' cannot be put together, for its batch axis is not the first")
}

func TestAppendV1(t *testing.T) {
	f := func(want string, outputs ...tensor.Tensor) {
		t.Helper()
		v1.wantAnswer(t, &Request{}, want, outputs...)
	}
	y := tensor.Tensor{Name: "y", Datatype: tensor.FP32, Shape: []int64{2, 2},
		Data: layout(t, []float32{1, 2.5, nan32, -3})}
	n := tensor.Tensor{Name: "n", Datatype: tensor.Int64, Shape: []int64{2},
		Data: layout(t, []int64{-7, 8})}
	s := tensor.Tensor{Name: "raw_bytes", Datatype: tensor.Bytes, Shape: []int64{2, 1},
		Data: layout(t, []string{"a\xff", ""})}
	scalar := tensor.Tensor{Name: "k", Datatype: tensor.Bool, Data: []byte{1}}
	left := tensor.Tensor{Name: "left out"}
	none := tensor.Tensor{Name: "y", Datatype: tensor.FP32, Shape: []int64{0, 2}}
	f(`{"predictions":[[1,2.5],[null,-3]]}`, y)
	f(`{"predictions":[-7,8]}`, left, n)
	f(`{"predictions":[[{"b64":"Yf8="}],[{"b64":""}]]}`, s)
	f(`{"predictions":true}`, scalar)
	f(`{"predictions":[]}`, none)
	f(`{"predictions":{}}`)
	f(`{"predictions":[{"y":[1,2.5],"n":-7},{"y":[null,-3],"n":8}]}`, y, left, n)
	f(`{"predictions":[{"raw_bytes":[{"b64":"Yf8="}],"n":-7},{"raw_bytes":[{"b64":""}],"n":8}]}`,
		s, n)
	f(`{"predictions":{"k":true,"n":[-7,8]}}`, scalar, n)
	f(`{"predictions":{"n":[-7,8],"y":[]}}`, n, none)
	f(`{"predictions":[]}`, none, none)
	f(`{"predictions":[[],[]]}`,
		tensor.Tensor{Name: "y", Datatype: tensor.FP32, Shape: []int64{2, 0}})
	f(`{"predictions":[[[1],[2.5]],[[null],[-3]]]}`,
		tensor.Tensor{Name: "y", Datatype: tensor.FP32, Shape: []int64{2, 2, 1}, Data: y.Data})
}
