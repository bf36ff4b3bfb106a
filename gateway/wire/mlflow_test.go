package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// frame is a data frame of the columns a and b.
func frame(data string) string {
	return `{"dataframe_split":{"columns":["a","b"],"data":` + data + `}}`
}

func TestDecodeMLflow(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflow.wantInputs(t, sig, body, want)
	}
	m := matrix(tensor.FP32, "a:double b:double")
	f(m, frame(`[[1,2],[3,4]]`), "x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(m, frame(`[[null,NaN],[3,0.30000001192092896]]`),
		"x FP32[2,2] NaN,NaN,3,0.3 rows=2 frame")
	f(m, `{"dataframe_split":{"index":[0,1],"columns":["b","a"],"data":[[1,2],[3,4]]},`+
		`"params":{"p":[1]}}`, "x FP32[2,2] 2,1,4,3 rows=2 frame")
	f(m, `{"params":null,"dataframe_split":{"data":[[1,2],[3,4]],"index":["r","s"],`+
		`"columns":["b","a"]}}`, "x FP32[2,2] 2,1,4,3 rows=2 frame")
	f(m, `{"dataframe_split":{"columns":["z","b","a"],"data":[[{"deep":[]},1,2],[0,3,4]]}}`,
		"x FP32[2,2] 2,1,4,3 rows=2 frame")
	f(m, `{"dataframe_split":{"data":[[1,2],[3,4]]}}`, "x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(m, `{"dataframe_records":[{"a":1,"b":2},{"b":4,"z":"dropped","a":3}]}`,
		"x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(m, `{"instances":[{"a":1,"b":2}]}`, "x FP32[1,2] 1,2 rows=1 frame")
	f(m, `{"instances":[[1,2]]}`, "x FP32[1,2] 1,2 rows=1 frame")
	f(m, `{"inputs":{"a":[1,3],"z":[5],"b":[2,4]}}`, "x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(m, `{"inputs":{"a":1,"b":2}}`, "x FP32[1,2] 1,2 rows=1 frame")
	f(m, `{"inputs":[[1,2],[3,4]]}`, "x FP32[2,2] 1,2,3,4 frame")

	// One column, whose rows need no lists.
	a := matrix(tensor.FP32, "a:double")
	f(a, `{"dataframe_split":{"columns":["a"],"data":[1,2,3]}}`, "x FP32[3,1] 1,2,3 rows=3 frame")
	f(a, `{"dataframe_split":{"columns":["a"],"data":[[1],[2]]}}`, "x FP32[2,1] 1,2 rows=2 frame")
	f(a, `{"inputs":{"a":[1,2]}}`, "x FP32[2,1] 1,2 rows=2 frame")
	f(inputs("a:BYTES:string"), `{"dataframe_split":{"columns":["a"],"data":["p","q"]}}`,
		`a BYTES[2,1] "p","q" rows=2 frame`)
}

func TestDecodeMLflowTypes(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflow.wantInputs(t, sig, body, want)
	}
	// Columns that may be left out, and types that ask for more than FP32 does.
	f(matrix(tensor.FP32, "a:double b:float?"), `{"dataframe_records":[{"a":1},{"b":4,"a":3}]}`,
		"x FP32[2,2] 1,NaN,3,4 rows=2 frame")
	f(matrix(tensor.FP32, "a:double b:float?"), `{"inputs":{"a":[1,3]}}`,
		"x FP32[2,2] 1,NaN,3,NaN rows=2 frame")
	typed := matrix(tensor.FP64, "i:integer l:long b:boolean d:double")
	const row = "x FP64[1,4] -2147483648,9007199254740992,1,NaN rows=1 frame"
	f(typed, `{"dataframe_split":{"columns":["i","l","b","d"],`+
		`"data":[[-2147483648,9007199254740993,true,null]]}}`, row)
	f(typed, `{"dataframe_records":[{"i":-2147483648,"l":9007199254740993,"b":true,"d":null}]}`,
		row)
	f(typed, `{"inputs":{"i":[-2147483648],"l":[9007199254740993],"b":[true],"d":[null]}}`, row)
	f(matrix(tensor.Bytes, "s:string b:binary"), `{"dataframe_split":{"columns":["b","s"],`+
		`"data":[["YQ==","YQ=="],["","\u00e9"]]}}`,
		`x BYTES[2,2] "YQ==","a","é","" rows=2 frame`)
	f(matrix(tensor.Bytes, "s:string b:binary"), `{"inputs":{"b":["YQ=="],"s":["YQ=="]}}`,
		`x BYTES[1,2] "YQ==","YQ==" rows=1 frame`) // base64 is for data frames
}

func TestDecodeMLflowInputs(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflow.wantInputs(t, sig, body, want)
	}
	// Columns of a matrix without names go by their order.
	x := one(tensor.FP32, -1, 2)
	f(x, frame(`[[1,2],[3,4]]`), "x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(x, `{"dataframe_split":{"columns":[0,1],"data":[[1,2],[3,4]]}}`,
		"x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(x, `{"dataframe_split":{"data":[[1,2],[3,4]]}}`, "x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(x, `{"dataframe_records":[{"p":1,"q":2},{"p":3,"q":4}]}`, "x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(x, `{"dataframe_split":{"columns":["x"],"data":[[[1,2]],[[3,4]]]}}`,
		"x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(x, `{"dataframe_split":{"columns":["only"],"data":[[[1,2]],[[3,4]]]}}`,
		"x FP32[2,2] 1,2,3,4 rows=2 frame")
	f(x, `{"inputs":[[1,2]]}`, "x FP32[1,2] 1,2")
	f(x, `{"inputs":{"x":[[1,2]]}}`, "x FP32[1,2] 1,2")
	f(x, `{"instances":[{"x":[1,2]},{"x":[3,4]}]}`, "x FP32[2,2] 1,2,3,4 rows=2")
	f(one(tensor.FP32, -1), `{"dataframe_split":{"columns":["any"],"data":[1,2]}}`,
		"x FP32[2] 1,2 rows=2 frame")

	// Several inputs.
	mixed := inputs("age:INT64:long name:BYTES:string vip:BOOL:boolean score:FP64:double? " +
		"blob:BYTES:binary?")
	f(mixed, `{"dataframe_split":{"columns":["vip","age","name"],`+
		`"data":[[true,1,"p"],[false,2,"q"]]}}`,
		`age INT64[2,1] 1,2; name BYTES[2,1] "p","q"; vip BOOL[2,1] true,false rows=2 frame`)
	f(mixed, `{"dataframe_records":[{"age":1,"name":"p","vip":true,"score":null,"blob":"YQ=="}]}`,
		`age INT64[1,1] 1; name BYTES[1,1] "p"; vip BOOL[1,1] true; score FP64[1,1] NaN; `+
			`blob BYTES[1,1] "a" rows=1 frame`)
	f(mixed, `{"inputs":{"age":[1],"name":["p"],"vip":[true],"z":{},"blob":["YQ=="]}}`,
		`age INT64[1,1] 1; name BYTES[1,1] "p"; vip BOOL[1,1] true; blob BYTES[1,1] "YQ==" frame`)
	f(mixed, `{"inputs":{"age":1,"name":"p","vip":true,"blob":"YQ=="}}`,
		`age INT64[1,1] 1; name BYTES[1,1] "p"; vip BOOL[1,1] true; blob BYTES[1,1] "YQ==" frame`)

	// A list that says how many columns a row has is no list of columns.
	ten := inputs("age:FP32:double b:FP32:double c:FP32:double d:FP32:double e:FP32:double")
	f(ten, `{"inputs":{"age":[60.0],"b":[1],"c":[2],"d":[3],"e":[4]}}`, "age FP32[1,1] 60; "+
		"b FP32[1,1] 1; c FP32[1,1] 2; d FP32[1,1] 3; e FP32[1,1] 4 frame")
	none := &tensor.Signature{MaxBatchSize: 8}
	f(none, `{"inputs":{}}`, "")
}

// Ten columns that come in lists of one value, few enough for the first guess
// at the memory to be less than a row.
func TestDecodeMLflowWideColumns(t *testing.T) {
	var spec, columns, last, values []string
	for i := range 40 {
		name := fmt.Sprintf("c%d", i)
		spec = append(spec, name+":double")
		columns = append(columns, fmt.Sprintf(`"%s":[%d.0]`, name, i))
		last = append([]string{columns[i]}, last...)
		values = append(values, fmt.Sprint(i))
		sig := matrix(tensor.FP32, strings.Join(spec, " "))
		want := fmt.Sprintf("x FP32[1,%d] %s rows=1", i+1, strings.Join(values, ","))
		for _, c := range [][]string{columns, last} {
			body := `{"inputs":{` + strings.Join(c, ",") + `}}`
			mlflow.wantInputs(t, sig, body, want+" frame")
			v1.wantInputs(t, sig, body, want)
		}
	}
}

func TestBadMLflow(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflow.wantRefused(t, sig, body, want)
	}
	const form = "must be a JSON object with exactly one of dataframe_split, dataframe_records"
	m := matrix(tensor.FP32, "a:double b:double")
	f(m, ``, "expected '{', but the JSON ends at byte 0")
	f(m, `[[1,2]]`, "expected '{', got '['")
	f(m, `{}`, form)
	f(m, `{"columns":["a","b"],"data":[[1,2]]}`, form)
	f(m, `{"inputs":[[1,2]],"instances":[[1,2]]}`, form)
	f(m, `{"dataframe_split":{"data":[[1,2]]},"dataframe_split":{"data":[[1,2]]}}`, form)
	f(m, `{"signature_name":"s","inputs":[[1,2]]}`, `"signature_name" is not supported`)
	f(m, `{"params":[],"inputs":[[1,2]]}`, `"params" must be an object`)
	f(m, `{"params":{},"params":{},"inputs":[[1,2]]}`, `"params" stands twice`)
	f(m, `{"inputs":[[1,2]]}{`, "unexpected '{' after the request")
	for _, body := range []string{
		`{"dataframe_split":{"columns":["a","b"],"data":[[1,2],[3,4]]}}`,
		`{"dataframe_split":{"data":[[1,2],[3,4]],"columns":["b","a"]}}`,
		`{"dataframe_records":[{"a":1,"b":2},{"a":1,"b":2}]}`, `{"inputs":{"a":[1,2],"b":[3,4]}}`,
	} {
		mlflow.wantCutRefused(t, m, body)
	}
}

func TestBadMLflowFrame(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflow.wantRefused(t, sig, body, want)
	}
	m := matrix(tensor.FP32, "a:double b:double")
	turned := func(data string) string {
		return `{"dataframe_split":{"columns":["b","a"],"data":` + data + `}}`
	}
	f(m, `{"dataframe_split":[]}`, "expected '{', got '['")
	f(m, `{"dataframe_split":{}}`, `dataframe_split has no "data"`)
	f(m, `{"dataframe_split":{"columns":["a","b"]}}`, `dataframe_split has no "data"`)
	f(m, `{"dataframe_split":{"columns":[],"data":[]}}`, "there are no columns; the model takes")
	f(m, `{"dataframe_split":{"columns":["a","a"],"data":[]}}`,
		"column 'a' stands twice in the columns")
	f(m, `{"dataframe_split":{"columns":["a","b"],"columns":[],"data":[]}}`,
		`"columns" stands twice`)
	f(m, `{"dataframe_split":{"columns":["a","b"],"data":[[1,2]],"data":[]}}`,
		`"data" stands twice`)
	f(m, `{"dataframe_split":{"columns":["a","c"],"data":[[1,2]]}}`,
		"it is missing 'b'; the model takes 'a', 'b'")
	f(m, `{"dataframe_split":{"columns":"a","data":[[1,2]]}}`, "expected '[', got '\"'")
	f(m, `{"dataframe_split":{"columns":[["a"],"b"],"data":[[1,2]]}}`, "expected a number, got '['")
	f(m, frame(`[]`), "there are no rows")
	f(m, frame(`{}`), "expected '[', got '{'")
	f(m, frame(`[[1,2],[3]]`), "row 1: it has 1 values, there are 2 columns")
	f(m, frame(`[[1,2],[3,4,5]]`), "row 1: it has 3 values, there are 2 columns")
	f(m, frame(`[[]]`), "row 0: it has 0 values, there are 2 columns")
	f(m, frame(`[[1,2],3]`), "must be an array")
	f(m, frame(`[1,2]`), "each row must be a list of the values of its columns")
	f(m, frame(`[[[1,2],[3,4]]]`), "each row must be a list of the values of its columns")
	f(m, frame(`[[1,2],[3,"4"]]`), "expected a number, got '\"'")
	f(m, frame(`[[1,2],[3,"4"]]`), "(column 'b', row 1, FP32)")
	f(m, frame(`[[1,2],[1e400,3]]`), "column 'a', row 1: 1e400 is out of range for FP32")
	f(m, frame(`[[1,2],[true,3]]`), "(column 'a', row 1, FP32)")
	f(m, turned(`[[1,2],[3]]`), "row 1: it has 1 values, there are 2 columns")
	f(m, turned(`[[1,2],[3,4,5]]`), "row 1: it has more values than the 2 columns")
	f(m, turned(`[[1,2],[3,1e400]]`), "column 'a', row 1: 1e400 is out of range for FP32")
	f(m, turned(`[[1,2],3]`), "expected '[', got '3'")
	f(m, turned(`[[1,[2]]]`), "(column 'a', row 0, FP32)")
	f(m, frame(strings.Repeat("[", 1<<20)), "arrays are nested deeper than 32")
}

func TestBadMLflowRows(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflow.wantRefused(t, sig, body, want)
	}
	m := matrix(tensor.FP32, "a:double b:double")
	f(m, `{"dataframe_records":{}}`, "expected '[', got '{'")
	f(m, `{"dataframe_records":[]}`, "there are no rows")
	f(m, `{"dataframe_records":[{"a":1,"b":2},{"a":1,"c":2}]}`, "row 1: it is missing 'b'")
	f(m, `{"dataframe_records":[{"a":1,"b":2},{"a":1,"a":2}]}`, "row 1: column 'a' stands twice")
	f(m, `{"dataframe_records":[{"a":1,"b":2},[1,2]]}`, "row 1: must be an object")
	f(m, `{"dataframe_records":[{"A":1,"b":2}]}`, "row 0: it is missing 'a'")
	f(m, `{"inputs":{"a":[1,2],"b":[3]}}`, "columns 'a' and 'b' have unequal lengths")
	f(m, `{"inputs":{"a":[1,2]}}`, "it is missing 'b'")
}

func TestBadMLflowTypes(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflow.wantRefused(t, sig, body, want)
	}
	typed := matrix(tensor.FP64, "i:integer l:long b:boolean d:double")
	row := func(values string) string {
		return `{"dataframe_split":{"columns":["i","l","b","d"],"data":[[` + values + `]]}}`
	}
	f(typed, row(`1.5,1,true,1`), "column 'i', row 0: 1.5 is not an integer for FP64")
	f(typed, row(`2147483648,1,true,1`), "column 'i', row 0: 2147483648 is out of range")
	f(typed, row(`1,9223372036854775808,true,1`),
		"column 'l', row 0: 9223372036854775808 is out of range")
	f(typed, row(`null,1,true,1`),
		"column 'i', row 0: the value is missing; only floats may be, and this is integer")
	f(typed, row(`1,NaN,true,1`), "column 'l', row 0: NaN is not an integer")
	f(typed, row(`1,1,1,1`), "column 'b', row 0: must be true or false")
	f(typed, row(`1,1,null,1`), "column 'b', row 0: must be true or false")
	f(typed, row(`1,1,true,"1"`), "(column 'd', row 0, FP64)")
	f(typed, row(`1,1,true,true`), "(column 'd', row 0, FP64)")
	f(matrix(tensor.FP32, "a:double b:long?"), `{"dataframe_records":[{"a":1}]}`,
		"column 'b', row 0: the value is missing; only floats may be, and this is long")
	f(matrix(tensor.FP32, "a:double b:double?"),
		`{"dataframe_records":[`+strings.Repeat(`{"a":1},`, 8)+`{"a":1}]}`,
		"inference request batch-size must be <= 8")
	f(matrix(tensor.Bytes, "s:string b:binary"), `{"dataframe_records":[{"s":"a","b":"!"}]}`,
		"column 'b', row 0: is not base64")
	f(matrix(tensor.Bytes, "s:string t:string"), `{"dataframe_records":[{"t":"a","s":null}]}`,
		"column 's', row 0: the value is missing; only floats may be, and this is string")
}

func TestBadMLflowInputs(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflow.wantRefused(t, sig, body, want)
	}
	x := one(tensor.FP32, -1, 2)
	f(x, `{"dataframe_records":[{"p":1,"q":2},{"q":3,"p":4}]}`,
		`row 1: unexpected "q": the model's columns have no names`)
	f(x, `{"dataframe_records":[{"p":1,"q":2},{"p":3}]}`,
		"row 1: it has 1 values, there are 2 columns")
	f(x, `{"dataframe_records":[{"p":1,"q":2,"r":3}]}`, "row 0: it has more than the 2 columns")
	f(x, `{"dataframe_split":{"columns":["p","q"],"data":[[1,2],[1]]}}`,
		"row 1: it has 1 values, there are 2 columns")
	f(x, `{"inputs":{"p":[1],"q":[2]}}`, "it is missing 'x'; the model takes 'x'")

	mixed := inputs("age:INT64:long name:BYTES:string vip:BOOL:boolean blob:BYTES:binary?")
	f(mixed, `{"dataframe_split":{"data":[[1]]}}`, `dataframe_split has no "columns"; the model`)
	f(mixed, `{"instances":[[1,"p",true]]}`, "each row must be an object")
	f(mixed, `{"dataframe_records":[{"age":1.5,"name":"p","vip":true}]}`,
		"input 'age', row 0: 1.5 is not an integer for INT64")
	f(mixed, `{"dataframe_records":[{"age":1,"name":"p","vip":1}]}`,
		"input 'vip', row 0: must be true or false")
	f(mixed, `{"inputs":{"age":[1],"name":["p"],"vip":[1]}}`,
		"input 'vip', element 0: must be true or false")
	f(mixed, `{"dataframe_records":[{"age":1,"name":null,"vip":true}]}`,
		"input 'name', row 0: the value is missing; only floats may be, and this is string")
	f(mixed, `{"dataframe_records":[{"age":1,"name":"p","vip":true,"blob":"!"}]}`,
		"input 'blob', row 0: is not base64")
	f(mixed, `{"inputs":{"age":[1],"age":[1],"name":["p"],"vip":[true]}}`,
		"input 'age' stands twice")
	f(mixed, `{"dataframe_split":{"columns":["age","age"],"data":[]}}`,
		"input 'age' stands twice in the columns")
}

func TestAppendMLflow(t *testing.T) {
	f := func(frame bool, want string, outputs ...tensor.Tensor) {
		t.Helper()
		mlflow.wantAnswer(t, &Request{Frame: frame}, want, outputs...)
	}
	y := tensor.Tensor{Name: "y", Datatype: tensor.FP32, Shape: []int64{2, 2},
		Data: layout(t, []float32{1, 2.5, nan32, -3})}
	n := tensor.Tensor{Name: "n", Datatype: tensor.Int64, Shape: []int64{2},
		Data: layout(t, []int64{-7, 8})}
	column := tensor.Tensor{Name: "c_bytes", Datatype: tensor.Bytes, Shape: []int64{2, 1},
		Data: layout(t, []string{"a\"", ""})}
	scalar := tensor.Tensor{Name: "k", Datatype: tensor.Bool, Data: []byte{1}}
	none := tensor.Tensor{Name: "y", Datatype: tensor.FP32, Shape: []int64{0, 2}}
	left := tensor.Tensor{Name: "left out"}
	f(false, `{"predictions":{"y":[[1,2.5],[null,-3]]}}`, y)
	f(true, `{"predictions":[{"y":[1,2.5]},{"y":[null,-3]}]}`, y)
	f(false, `{"predictions":{"n":[-7,8],"c_bytes":[["a\""],[""]]}}`, left, n, column)
	f(true, `{"predictions":[{"n":-7,"c_bytes":"a\""},{"n":8,"c_bytes":""}]}`, n, left, column)
	f(true, `{"predictions":{"n":[-7,8],"k":true}}`, n, scalar)
	f(true, `{"predictions":{"k":true}}`, scalar)
	f(true, `{"predictions":{"n":[-7,8],"y":[]}}`, n, none)
	f(true, `{"predictions":[]}`, none)
	f(false, `{"predictions":{"y":[]}}`, none)
	f(true, `{"predictions":{}}`)
	f(false, `{"predictions":{}}`, left)
	if got := string(AppendMLflowError([]byte("a"), "BAD_REQUEST", "a \"b\"\n")); got !=
		`a{"error_code":"BAD_REQUEST","message":"a \"b\"\n"}` {
		t.Errorf("got %s", got)
	}
}
