package values

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// spec describes an input.
func spec(d tensor.Datatype, shape ...int64) tensor.Spec {
	return tensor.Spec{Name: "x", Datatype: d, Shape: shape}
}

// show writes a tensor as "name TYPE [shape] values".
func show(t tensor.Tensor) string {
	return t.Name + " " + t.Datatype.String() + " " + tensor.FormatShape(t.Shape) + " " +
		strings.Join(Texts(&t), " ")
}

// check holds what was read, or its error, against what is wanted; an error
// that is wanted begins with "!".
func check(t *testing.T, got string, err error, want string) {
	t.Helper()
	text, wantError := strings.CutPrefix(want, "!")
	switch {
	case !wantError && err != nil:
		t.Errorf("got error %v, want %s", err, want)
	case !wantError && got != want:
		t.Errorf("got %s, want %s", got, want)
	case wantError && err == nil:
		t.Errorf("got %s, want an error with %q", got, text)
	case wantError && (!strings.Contains(err.Error(), text) || !errors.Is(err, ErrValue)):
		t.Errorf("got error %v, want an ErrValue with %q", err, text)
	}
}

func TestAppendElement(t *testing.T) {
	f := func(d tensor.Datatype, text, want string) {
		t.Helper()
		data, err := AppendElement(nil, d, text)
		got := ""
		if err == nil {
			got = Texts(&tensor.Tensor{Datatype: d, Data: data})[0]
		}
		check(t, got, err, want)
	}
	f(tensor.FP32, " 1.5 ", "1.5")
	f(tensor.FP32, "1e39", "!not a number that FP32 can hold")
	f(tensor.FP32, "nan", "NaN")
	f(tensor.FP32, "-inf", "-Inf")
	f(tensor.FP32, "", "!not a number")
	f(tensor.FP64, "1e300", "1e+300")
	f(tensor.FP16, "65504", "65504")
	f(tensor.FP16, "70000", "!not a number that FP16 can hold")
	f(tensor.FP16, "inf", "+Inf")
	f(tensor.FP16, "0.1", "0.099975586")
	f(tensor.BF16, "1.0078125", "1.0078125")
	f(tensor.BF16, "1e39", "!not a number that BF16 can hold")
	f(tensor.Int8, "-128", "-128")
	f(tensor.Int8, "128", "!not a whole number that INT8 can hold")
	f(tensor.Uint8, "255", "255")
	f(tensor.Uint8, "-1", "!not a whole number that UINT8 can hold")
	f(tensor.Int64, "-9223372036854775808", "-9223372036854775808")
	f(tensor.Uint64, "18446744073709551615", "18446744073709551615")
	f(tensor.Uint64, "18446744073709551616", "!UINT64")
	f(tensor.Int32, "3.00", "3")
	f(tensor.Int32, "3.5", "!not a whole number")
	f(tensor.Int32, ".", "!not a whole number")
	// As floats are written from a million on.
	f(tensor.Int64, "1.234567e+06", "1234567")
	f(tensor.Int32, "1e3", "1000")
	f(tensor.Int32, "1e10", "!not a whole number that INT32 can hold")
	f(tensor.Int64, "1e300", "!not a whole number that INT64 can hold")
	f(tensor.Uint8, "-0.0", "0")
	f(tensor.Bool, "TRUE", "true")
	f(tensor.Bool, "0", "false")
	f(tensor.Bool, "2", "!neither true nor false")
	f(tensor.Bytes, " a b ", " a b ")
	f(tensor.Bytes, "", "")
}

func TestFromList(t *testing.T) {
	f := func(s tensor.Spec, text, want string) {
		t.Helper()
		got, err := FromList(&s, text)
		check(t, show(got), err, want)
	}
	f(spec(tensor.FP32, -1, 4), "1,2,3,4", "x FP32 [1,4] 1 2 3 4")
	f(spec(tensor.FP32, -1, 2), "1,2,3,4", "x FP32 [2,2] 1 2 3 4")
	f(spec(tensor.FP32, -1, -1), "1,2,3", "x FP32 [3,1] 1 2 3")
	f(spec(tensor.FP32, -1, -1), "[[1,2,3]]", "x FP32 [1,3] 1 2 3")
	f(spec(tensor.FP32, 2, 2), "1,2,3", "!takes the shape [2,2], 3 values do not fill it")
	f(spec(tensor.Int64), "7", "x INT64 [] 7")
	f(spec(tensor.Int64), "7,8", "!2 values do not fill it")
	f(spec(tensor.Bytes, -1), "a,b c", "x BYTES [2] a b c")
	f(spec(tensor.Bytes, -1), `["a,b"]`, "x BYTES [1] a,b")
	f(spec(tensor.FP32, -1, 2), "1,b", `!input "x": values: does not fit the input: "b" is not`)
	f(spec(tensor.FP32, -1), "[1,2", "!not JSON")
	f(spec(tensor.FP32, -1), "[1,2]]", "!more than one JSON value")
}

func TestFromJSON(t *testing.T) {
	two := []tensor.Spec{
		{Name: "a", Datatype: tensor.Int32, Shape: []int64{-1, 2}},
		{Name: "b", Datatype: tensor.Bytes, Shape: []int64{-1}},
	}
	one := []tensor.Spec{{Name: "inputs", Datatype: tensor.FP32, Shape: []int64{-1}}}
	f := func(specs []tensor.Spec, text, want string) {
		t.Helper()
		list, err := FromJSON(specs, []byte(text))
		var words []string
		for _, in := range list {
			words = append(words, show(in))
		}
		check(t, strings.Join(words, "; "), err, want)
	}
	f(two, `{"inputs":[{"name":"b","shape":[1],"datatype":"BYTES","data":["x"]},
		{"name":"a","shape":[1,2],"data":[1,2]}]}`, "b BYTES [1] x; a INT32 [1,2] 1 2")
	f(two, `{"a":[[1,2],[3,4]],"b":["x","y"]}`, "a INT32 [2,2] 1 2 3 4; b BYTES [2] x y")
	f(two, `[{"a":[1,2],"b":"x"},{"a":[3,4],"b":"y"}]`, "a INT32 [2,2] 1 2 3 4; b BYTES [2] x y")
	f(one, `[1,null,3]`, "inputs FP32 [3] 1 NaN 3")
	f(one, `5`, "inputs FP32 [1] 5")
	f(one, `{"inputs":[1,2]}`, "inputs FP32 [2] 1 2") // the name of the input
	f(two, `[1,2]`, "!the model has the inputs a, b; give an object")
	f(two, `{"c":[1]}`, `!no input "c"; its inputs are a, b`)
	f(two, `{"inputs":[{"name":"a","shape":[1,2]}]}`, `!input "a" has no data`)
	f(two, `{"inputs":[{"name":"a","shape":[2,2],"data":[1,2]}]}`, "!takes 16 bytes, got 8")
	f(two, `{"inputs":[{"name":"a","shape":[1.5,2],"data":[1,2]}]}`, "!shape[0] is not a whole")
	f(two, `{"inputs":[{"shape":[1,2],"data":[1,2]}]}`, `!inputs[0]: values: does not fit`)
	f(two, `{"a":[[1,2],[3]]}`, "!the lists are not of one length: 2 and 1")
	f(two, `{"a":[[1,2],3]}`, "!not of one depth")
	f(two, `{"a":[1,[2]]}`, "!not of one depth")
	f(two, `{"a":[[],[1]]}`, "!not of one length")
	f(two, `{"a":[{"q":1}]}`, "!an object stands where a value is due")
	f(two, `{"b":[null]}`, `!null stands where a string is due`)
	f(two, `[{"a":[1,2],"b":"x"},{"a":[3,4]}]`, `!row 1 has no value for "b"`)
	f(two, `[{"a":[1,2]},{"b":"y"}]`, `!row 0 has no value for "b"`)
	f(two, `[{"a":[1,2]},5]`, "!row 1 is not an object")
	f(one, strings.Repeat("[", 40)+strings.Repeat("]", 40), "!nested deeper than 32")
	f(one, `[1] [2]`, "!more than one JSON value")
	f(one, `[1]]`, "!more than one JSON value")
	f(one, ``, "!not JSON")
}

func TestFromCSV(t *testing.T) {
	table := []tensor.Spec{
		{Name: "a", Datatype: tensor.FP32, Shape: []int64{-1, 1}},
		{Name: "b", Datatype: tensor.Bytes, Shape: []int64{-1}},
		{Name: "c", Datatype: tensor.FP32, Shape: []int64{-1}, Optional: true},
	}
	one := []tensor.Spec{spec(tensor.FP32, -1, 2)}
	f := func(specs []tensor.Spec, text, ignored, want string) {
		t.Helper()
		list, left, err := FromCSV(specs, strings.NewReader(text))
		var words []string
		for _, in := range list {
			words = append(words, show(in))
		}
		check(t, strings.Join(words, "; "), err, want)
		if err == nil && strings.Join(left, " ") != ignored {
			t.Errorf("ignored are %v, want %s", left, ignored)
		}
	}
	f(table, "b,id,a\nx,7,1.5\n\"y,z\",8,2\n", "id", "a FP32 [2,1] 1.5 2; b BYTES [2] x y,z")
	f(table, "\ufeffa, b\n1,x\n", "", "a FP32 [1,1] 1; b BYTES [1] x") // as spreadsheets write it
	f(table, "a\n1\n", "", `!there is no column "b"`)
	f(table, "b,a\nx,one\n", "", `!"one" is not a number`)
	f(table, "q,r\n1,2\n", "", "!the first line names none of the inputs a, b, c")
	f(table, "a,b\n", "", "!0 values do not fill it")
	f(one, "1,2\n3,4\n", "", "x FP32 [2,2] 1 2 3 4")
	f(one, "width,height\n3,4\n", "", "x FP32 [1,2] 3 4")
	f(one, "width,height\n", "", "!no lines of data")
	f(one, "1,2\n3,oops\n", "", `!"oops" is not a number`)
	f(one, "1,2,3\n4,5,6\n7,8,9\n", "", "!9 values do not fill it")
	f(one, "1,2\n3\n", "", "!not CSV")
	f(one, "", "", "!the table is empty")
}

func TestTexts(t *testing.T) {
	f := func(d tensor.Datatype, want string, text string) {
		t.Helper()
		data, err := AppendElement(nil, d, text)
		if err != nil {
			t.Fatal(err)
		}
		got := Texts(&tensor.Tensor{Datatype: d, Data: data})
		if len(got) != 1 || JSON(d, got[0]) != want {
			t.Errorf("got %q", got)
		}
		if !json.Valid([]byte(JSON(d, got[0]))) {
			t.Errorf("%s is not JSON", JSON(d, got[0]))
		}
	}
	f(tensor.FP32, "0.1", "0.1")
	f(tensor.FP64, "0.1", "0.1")
	f(tensor.FP32, "null", "nan")
	f(tensor.FP16, "null", "inf")
	f(tensor.Uint8, "200", "200")
	f(tensor.Int16, "-5", "-5")
	f(tensor.Bool, "true", "1")
	f(tensor.Bytes, `"a\"\\\u000a"`, "a\"\\\n")
	f(tensor.Bytes, `"NaN"`, "NaN")
	f(tensor.Bytes, "\"\ufffd\"", "\xff")
	big := tensor.Tensor{Datatype: tensor.FP64}
	for _, v := range []string{"1.7976931348623157e+308", "5e-324"} {
		big.Data, _ = AppendElement(big.Data, tensor.FP64, v)
	}
	if got := strings.Join(Texts(&big), " "); got != "1.7976931348623157e+308 5e-324" {
		t.Errorf("got %s for %v", got, math.MaxFloat64)
	}
}

func TestPrintable(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := Printable(text); got != want {
			t.Errorf("Printable(%q) = %s", text, got)
		}
	}
	f("plain text, ü", "plain text, ü")
	f("\x1b[2Jgone", `"\x1b[2Jgone"`)
	f("two\nlines", `"two\nlines"`)
	f("\xff", `"\xff"`)
	f("\u202eright to left", `"\u202eright to left"`)
	f("", "")
}

func FuzzFromJSON(f *testing.F) {
	f.Add(`{"inputs":[{"name":"a","shape":[1,2],"data":[1,2]}]}`)
	f.Add(`[{"a":[1,2],"b":"x"}]`)
	f.Add(`{"a":[[1,2],[3,4]],"b":["x","y"]}`)
	f.Add(`[[],[]]`)
	specs := []tensor.Spec{
		{Name: "a", Datatype: tensor.Int32, Shape: []int64{-1, 2}},
		{Name: "b", Datatype: tensor.Bytes, Shape: []int64{-1}},
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := FromJSON(specs, []byte(text))
		checkFuzzed(t, list, err)
		list, _, err = FromCSV(specs, strings.NewReader(text))
		checkFuzzed(t, list, err)
	})
}

// checkFuzzed wants errors of the right kind, and whole tensors.
func checkFuzzed(t *testing.T, list []tensor.Tensor, err error) {
	t.Helper()
	if err != nil {
		if !errors.Is(err, ErrValue) {
			t.Errorf("error of the wrong kind: %v", err)
		}
		return
	}
	for i := range list {
		if err := list[i].Check(); err != nil {
			t.Errorf("%s: %v", show(list[i]), err)
		}
	}
}
