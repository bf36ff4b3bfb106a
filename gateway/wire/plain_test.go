package wire

import (
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func TestDecodePlain(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		plainJSON.wantInputs(t, sig, body, want)
	}
	m := matrix(tensor.FP32, "a:double b:double")
	f(m, `{"a":1,"b":2}`, "x FP32[1,2] 1,2 rows=1 single")
	f(m, ` { "b" : 2 , "a" : 1 } `, "x FP32[1,2] 1,2 rows=1 single")
	f(m, `[{"a":1,"b":2}]`, "x FP32[1,2] 1,2 rows=1")
	f(m, `[{"a":1,"b":2},{"b":4,"a":null}]`, "x FP32[2,2] 1,2,NaN,4 rows=2")
	f(m, `{"x":[1,2]}`, "x FP32[1,2] 1,2 rows=1 single")
	f(m, `[1,2]`, "x FP32[1,2] 1,2 rows=1 single")
	f(m, `[[1,2]]`, "x FP32[1,2] 1,2 rows=1")
	f(m, `[]`, "x FP32[1,0]  rows=1 single") // the model says what it takes
	f(m, `[[]]`, "x FP32[1,0]  rows=1")
	f(m, `[[1,2],[3,4]]`, "x FP32[2,2] 1,2,3,4 rows=2")
	f(matrix(tensor.FP32, "a:double b:double?"), `{"a":1}`, "x FP32[1,2] 1,NaN rows=1 single")
	f(matrix(tensor.FP32, "a:? b:?"), `{}`, "x FP32[1,2] NaN,NaN rows=1 single")
	f(matrix(tensor.Bytes, "a b"), `[{"b":"2","a":"1"},{"a":"\n","b":""}]`,
		`x BYTES[2,2] "1","2","\n","" rows=2`)

	f(one(tensor.FP32, -1), `5`, "x FP32[1] 5 rows=1 single")
	f(one(tensor.FP32, -1), `[5,6]`, "x FP32[2] 5,6 rows=2")
	f(one(tensor.FP32, -1, 1), `[5]`, "x FP32[1,1] 5 rows=1 single")
	f(one(tensor.Bytes, -1), `"a"`, `x BYTES[1] "a" rows=1 single`)
	f(one(tensor.Int32, -1, 2, 2), `[[1,2],[3,4]]`, "x INT32[1,2,2] 1,2,3,4 rows=1 single")
	f(one(tensor.Int32, -1, 2, 2), `[[[1,2],[3,4]]]`, "x INT32[1,2,2] 1,2,3,4 rows=1")

	two := inputs("n:INT64 s:BYTES o:FP32?")
	f(two, `{"n":1,"s":"a"}`, `n INT64[1,1] 1; s BYTES[1,1] "a" rows=1 single`)
	f(two, `[{"n":1,"s":"a","o":0.5},{"s":"b","o":null,"n":2}]`,
		`n INT64[2,1] 1,2; s BYTES[2,1] "a","b"; o FP32[2,1] 0.5,NaN rows=2`)

	// Models without rows.
	whole := one(tensor.FP32, 2, 2)
	whole.MaxBatchSize = 0
	f(whole, `[[1,2],[3,4]]`, "x FP32[2,2] 1,2,3,4 single")
	f(whole, `{"x":[[1,2],[3,4]]}`, "x FP32[2,2] 1,2,3,4 single")
	scalar := one(tensor.FP32)
	scalar.MaxBatchSize = 0
	f(scalar, `5`, "x FP32[] 5 single")
	f(scalar, `{"x":5}`, "x FP32[] 5 single")
	// Rows along the second axis.
	turned := one(tensor.FP32, 2, -1)
	turned.Inputs[0].BatchAxis = 1
	f(turned, `{"x":[1,2]}`, "x FP32[2,1] 1,2 rows=1 single")
	f(&tensor.Signature{}, `{}`, " rows=1 single")
}

func TestBadPlain(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		plainJSON.wantRefused(t, sig, body, want)
	}
	m := matrix(tensor.FP32, "sepal_length:double sepal_width:double")
	const takes = "the model takes 'sepal_length', 'sepal_width'"
	f(m, ``, "expected an object, a list of objects or a list of values; "+takes)
	f(m, `5`, "expected an object, a list of objects or a list of values; "+takes)
	f(m, `null`, "expected an object, a list of objects or a list of values")
	f(m, `{}`, "row 0: it is missing 'sepal_length', 'sepal_width'; "+takes)
	f(m, `[{}]`, "row 0: it is missing 'sepal_length', 'sepal_width'")
	f(m, `{"sepal_length":1,"sepal_width":2} x`, "unexpected 'x' after the request")
	f(m, `{"sepal_length":1,"sepal_width":2,}`, "a comma before '}'")
	f(m, `{"sepal_length":1,"sepal_wdth":2}`,
		`row 0: unexpected "sepal_wdth": `+takes+`; did you mean 'sepal_width'?`)
	f(m, `{"sepal_length":1,"sepal_width":2,"age":3}`, `row 0: unexpected "age": `+takes)
	f(m, `[{"sepal_length":1,"sepal_width":2},{"sepal_length":1}]`,
		"row 1: it is missing 'sepal_width'")
	f(m, `{"sepal_length":1,"sepal_length":2}`, "row 0: column 'sepal_length' stands twice")
	f(m, `{"sepal_length":"1","sepal_width":2}`, "(column 'sepal_length', row 0, FP32)")
	f(m, `{"sepal_length":1,"sepal_width":1e400}`,
		"column 'sepal_width', row 0: 1e400 is out of range for FP32")
	f(m, `[{"sepal_length":1,"sepal_width":2},[1,2]]`, "row 1: must be an object")
	f(m, `[[1,2],[3]]`, "arrays have unequal lengths, 2 and 1")
	f(m, `[[1,2],{"sepal_length":1}]`, "must be an array")
	f(m, `{"instances":[[1,2]]}`, `row 0: unexpected "instances": `+takes)
	f(m, `{"`+strings.Repeat("x", 1<<20)+`":1}`, `row 0: unexpected "`)
	f(m, strings.Repeat("[", 1<<20), "arrays are nested deeper than 32")
	f(m, "{\"sepal_length\xff\":1}", "a string is not valid UTF-8")
	f(one(tensor.FP32, -1), `[]`, "there are no rows")
	f(one(tensor.FP32, -1, 1), `[{"x":5},{"x":[6]}]`, "row 1: arrays are nested to unequal depths")
	for _, body := range []string{`{"sepal_length":1,"sepal_width":2}`,
		`[{"sepal_length":1,"sepal_width":2},{"sepal_length":1,"sepal_width":2}]`} {
		for n := range len(body) {
			if n > 1 { // what begins is known
				plainJSON.wantCut(t, m, body[:n])
			}
		}
	}
	wide := "some_long_name"
	for i := range 100 {
		wide += " " + strings.Repeat("c", 60+i)
	}
	f(matrix(tensor.FP32, wide), `{"some_log_name":1}`,
		"ccc' and 95 more; did you mean 'some_long_name'?")
	f(matrix(tensor.FP32, wide), `{"some_long_name":1}`, "ccc' and 95 more; the model takes")

	two := inputs("n:INT64 s:BYTES o:FP32?")
	f(two, `[1,"a"]`, "expected an object or a list of objects; the model takes 'n', 's', 'o'")
	f(two, `{"n":1}`, "row 0: it is missing 's'")
	f(two, `[{"n":1,"s":"a"},{"n":1,"s":"a","o":1}]`, "input 'o' is missing in row 0")
	f(two, `{"n":null,"s":"a"}`, "input 'n', row 0: the value is missing; only floats may be")
	f(two, `{"n":1,"s":null}`, "input 's', row 0: the value is missing; only floats may be")
	f(two, `{"n":1,"s":{"b64":"YQ=="}}`, "expected a string, got '{'")
}

func TestAppendPlain(t *testing.T) {
	f := func(r *Request, want string, outputs ...tensor.Tensor) {
		t.Helper()
		plainJSON.wantAnswer(t, r, want, outputs...)
	}
	single, rows := &Request{Rows: 1, Single: true}, &Request{Rows: 2}
	whole := &Request{Single: true}
	tensorOf := func(name string, values any, shape ...int64) tensor.Tensor {
		x := tensor.Tensor{Name: name, Datatype: tensor.FP32, Shape: shape, Data: layout(t, values)}
		switch values.(type) {
		case []int64:
			x.Datatype = tensor.Int64
		case []string:
			x.Datatype = tensor.Bytes
		}
		return x
	}
	left := tensor.Tensor{Name: "left out"}
	named := func(x tensor.Tensor, names ...string) tensor.Tensor {
		x.ClassNames = names
		return x
	}
	price := tensorOf("price", []float32{1, nan32}, 2, 1)
	f(rows, `[{"price":1},{"price":null}]`, price)
	f(rows, `[{"price":1,"n":7},{"price":null,"n":8}]`, left, price, left,
		tensorOf("n", []int64{7, 8}, 2))
	f(single, `{"y":[1,2]}`, tensorOf("y", []float32{1, 2}, 1, 2))
	f(single, `{"y":1}`, tensorOf("y", []float32{1}, 1))
	f(single, `{"y":[[1,2]]}`, tensorOf("y", []float32{1, 2}, 1, 1, 2))
	f(whole, `{"y":[[1,2]],"k":3}`, tensorOf("y", []float32{1, 2}, 1, 2), tensorOf("k", []int64{3}))
	f(rows, `[{"y":[1,2],"all":[5,6,7]},{"y":[3,4],"all":[5,6,7]}]`,
		tensorOf("y", []float32{1, 2, 3, 4}, 2, 2), tensorOf("all", []int64{5, 6, 7}, 3))
	f(rows, `[{"s":"a\n"},{"s":""}]`, tensorOf("s", []string{"a\n", ""}, 2, 1))
	varies := &tensor.Signature{Outputs: []tensor.Spec{{Shape: []int64{-1, -1}}}}
	a := &Answer{Sig: varies, Outputs: []tensor.Tensor{price}}
	out, err := plainJSON.encode(nil, rows, a, true)
	if want := `[{"price":[1]},{"price":[null]}]`; err != nil || string(out) != want {
		t.Errorf("%v: %s, want %s", err, out, want)
	}
	f(rows, `[{"s":["a","b"]},{"s":["c","d"]}]`, tensorOf("s", []string{"a", "b", "c", "d"}, 2, 2))
	f(rows, `[{},{}]`)
	f(rows, `[{},{}]`, left)
	f(single, `{}`)
	f(single, `{"y":[]}`, tensorOf("y", []float32{}, 0, 2))
	f(single, `{"y":[]}`, tensorOf("y", []float32{}, 1, 0))

	// Class names make objects; those of a label file name the best too.
	p := tensorOf("p", []float32{.25, .75, .5, nan32}, 2, 2)
	f(rows, `[{"p":{"no":0.25,"y\"s":0.75}},{"p":{"no":0.5,"y\"s":null}}]`, named(p, "no", "y\"s"))
	f(rows, `[{"label":"yes","p":{"no":0.25,"yes":0.75}},{"label":"no","p":{"no":0.5,"yes":null}}]`,
		named(p, fromFile, "no", "yes"))
	f(rows, `[{"p":{"no":0.25,"yes":0.75},"label":7},{"p":{"no":0.5,"yes":null},"label":8}]`,
		named(p, fromFile, "no", "yes"), tensorOf("label", []int64{7, 8}, 2))
	f(rows, `[{"label":"b","p":{"no":0.25,"yes":0.75},"q":{"a":1,"b":2}},`+
		`{"label":"a","p":{"no":0.5,"yes":null},"q":{"a":2,"b":1}}]`, named(p, "no", "yes"),
		named(tensorOf("q", []int64{1, 2, 2, 1}, 2, 2), fromFile, "a", "b"))
	f(rows, `[{"p":[0.25,0.75]},{"p":[0.5,null]}]`, named(p, fromFile, "too", "many", "names"))
	f(single, `{"label":"a","q":{"a":2,"b":1}}`,
		named(tensorOf("q", []int64{2, 1}, 1, 2), fromFile, "a", "b"))
	f(single, `{"label":"a","q":{"a":2,"b":2}}`,
		named(tensorOf("q", []int64{2, 2}, 1, 2), fromFile, "a", "b"))
	f(whole, `{"q":[[2,1]]}`, named(tensorOf("q", []int64{2, 1}, 1, 2), fromFile, "a", "b"))
	f(rows, `[{"s":{"a":"p","b":"q"}},{"s":{"a":"r","b":"s"}}]`,
		named(tensorOf("s", []string{"p", "q", "r", "s"}, 2, 2), fromFile, "a", "b"))
}
