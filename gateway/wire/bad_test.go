package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// wantBad decodes a body that must be refused, with a text that has want in it.
// parts are the JSON and, where there are binary tensors, what follows it.
func wantBad(t *testing.T, sig *tensor.Signature, want string, parts ...string) {
	t.Helper()
	r := newRequest(t)
	body, jsonLen := strings.Join(parts, ""), -1
	if len(parts) > 1 {
		jsonLen = len(parts[0])
	}
	checkRefused(t, r, Decode(r, sig, []byte(body), jsonLen), want)
	if size := r.Mem.Size(); size > 64<<10+8*len(body) {
		t.Errorf("%.80q took %d bytes of memory", body, size)
	}
}

func checkRefused(t *testing.T, r *Request, err error, want string) {
	t.Helper()
	if !errors.Is(err, ErrBadRequest) && !errors.Is(err, ErrUnsupported) {
		t.Errorf("passed with %v; want %q (%+v)", err, want, r.Inputs)
	} else if !strings.Contains(err.Error(), want) {
		t.Errorf("refused with\n%v, want\n%s", err, want)
	} else if len(err.Error()) > 600 {
		t.Errorf("a text of %d bytes", len(err.Error()))
	}
}

func TestBadJSON(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		wantBad(t, &simple, want, body)
	}
	const in = `"inputs":[{"name":"INPUT0","shape":[1],"datatype":"INT32","data":[1]}]`
	f(``, "expected '{', but the JSON ends at byte 0")
	f(" \n", "expected '{', but the JSON ends at byte 2")
	f("\xef\xbb\xbf{"+in+"}", "expected '{', got 'ï' at byte 0")
	f("\x00{"+in+"}", `expected '{', got '\x00' at byte 0`)
	f("\f{"+in+"}", `expected '{', got '\f' at byte 0`)
	f(`[]`, "expected '{', got '['")
	f(`{}`, `the request has no "inputs"`)
	f(`{"inputs":[]`, "expected ',' or '}', but the JSON ends")
	f(`{`+in+`} x`, "unexpected 'x' after the request at byte 73")
	f(`{`+in+"}\x00", "unexpected '\\x00' after the request")
	f(`{`+in+`}{}`, "unexpected '{' after the request")
	f(`{`+in+`,}`, "a comma before '}'")
	f(`{,`+in+`}`, "expected a string, got ','")
	f(`{`+in+` `+in+`}`, "expected ',' or '}', got '\"'")
	f(`{`+in+`,`+in+`}`, `"inputs" stands twice`)
	f(`{`+in+`,"outputs":[],"outputs":[]}`, `"outputs" stands twice`)
	f(`{"id":"a","id":"b",`+in+`}`, `"id" stands twice`)
	f(`{"parameters":{},"parameters":{},`+in+`}`, `"parameters" stands twice`)
	f(`{"inputs":{}}`, "expected '[', got '{'")
	f(`{"inputs":[1]}`, "expected '{', got '1'")
	f(`{"inputs":null}`, "expected '[', got 'n'")
	f(`{"id":7,`+in+`}`, "expected a string, got '7'")
	f(`{"id":"`+strings.Repeat("x", maxID+1)+`",`+in+`}`, "id is longer than 4096 bytes")
	f(`{"id":"`+strings.Repeat("x", 1<<20)+`",`+in+`}`, "id is longer than 4096 bytes")
	f("{\"id\":\"\xff\","+in+`}`, "a string is not valid UTF-8")
	f("{\"id\":\"\xc3\\n\","+in+`}`, "a string is not valid UTF-8")
	f("{\"id\":\"\xed\xa0\x80\","+in+`}`, "a string is not valid UTF-8")
	f("{\"id\":\"a\nb\","+in+`}`, "a control character in a string at byte 8")
	f("{\"id\":\"\\na\nb\","+in+`}`, "a control character in a string")
	f(`{"id":"a`, "a string without an end")
	f(`{"id":"a\`, "a string without an end")
	f(`{"id":"a\"`, "a string without an end")
	f(`{"id":"a\u12"}`, "\\u needs four hexadecimal digits")
	f(`{"id":"a\u12`, "a string without an end")
	f(`{"id":"a\u12g4",`+in+`}`, "\\u needs four hexadecimal digits")
	f(`{"id":"\ud800\u12g4",`+in+`}`, "\\u needs four hexadecimal digits")
	f(`{"id":"a\x41",`+in+`}`, `unknown escape \x in a string`)
	f(`{"x":tru,`+in+`}`, "expected a value, got 't'")
	f(`{"x":nul,`+in+`}`, "expected a value, got 'n'")
	f(`{"x":01,`+in+`}`, "expected a value, got '0'")
	f(`{"x":1.,`+in+`}`, "expected a value, got '1'")
	f(`{"x":@,`+in+`}`, "expected a value, got '@'")
	f(`{"x":,`+in+`}`, "expected a value, got ','")
	f(`{"x":`, "expected a value, but the JSON ends")
	f(`{"x":[1,],`+in+`}`, "a comma before ']'")
	f(`{"x"1,`+in+`}`, "expected ':', got '1'")
	f(`{"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+`,`+in+`}`,
		"JSON nesting depth exceeds maximum allowed limit (100) at byte 105")
	f(`{"x":`+strings.Repeat(`{"a":`, 10_000), "JSON nesting depth exceeds")
	f(`{"x":`+strings.Repeat(`[`, 1_000_000), "JSON nesting depth exceeds")
}

func TestBadParameters(t *testing.T) {
	f := func(parameters, want string) {
		t.Helper()
		wantBad(t, &simple, want, `{"parameters":{`+parameters+
			`},"inputs":[{"name":"INPUT0","shape":[1],"datatype":"INT32","data":[1]}]}`)
	}
	f(`"priority"5`, `expected ':', got '5'`)
	f(`"mine"5`, `expected ':', got '5'`)
	f(`"priority":-1`, `parameter "priority" must be an integer of 0 or more`)
	f(`"priority":1.5`, `parameter "priority" must be an integer of 0 or more`)
	f(`"priority":"-1"`, `parameter "priority" must be a number`)
	f(`"priority":""`, `parameter "priority" must be a number`)
	f(`"timeout":1e999`, `parameter "timeout" must be an integer of 0 or more`)
	f(`"timeout":NaN`, `parameter "timeout" must be an integer of 0 or more`)
	f(`"timeout":18446744073709551616`, `parameter "timeout" must be an integer of 0 or more`)
	f(`"timeout":true`, `expected a number, got 't'`)
	f(`"timeout":[]`, `expected a number, got '['`)
	f(`"binary_data_output":1`, `parameter "binary_data_output" must be true or false`)
	f(`"binary_data_output":trux`, `expected a value, got 't'`)
	f(`"sequence_id":-5`, `parameter "sequence_id" must be an integer of 0 or more`)
	f(`"sequence_id":null`, `expected a number, got 'n'`)
	f(`"mine":{}`, `parameter "mine" must be a string, a number, true or false`)
	f(`"mine":[1]`, `parameter "mine" must be a string, a number, true or false`)
	f(`"mine":null`, `parameter "mine" must be a string, a number, true or false`)
	f(`"triton_x":1`, `parameter "triton_x": names that begin with triton_ are reserved`)
	f(`"`+strings.Repeat("k", 10_000)+`":{}`, `must be a string, a number, true or false`)
}

func TestBadInputs(t *testing.T) {
	f := func(input, want string) {
		t.Helper()
		wantBad(t, &simple, want, `{"inputs":[`+input+`]}`)
	}
	const good = `{"name":"INPUT0","shape":[1],"datatype":"INT32","data":[1]}`
	f(`{}`, "inputs[0] has no name")
	f(`{"shape":[1],"datatype":"INT32","data":[1]}`, "inputs[0] has no name")
	f(`{"name":"INPUT0","datatype":"INT32","data":[1]}`, "inputs[0] ('INPUT0') has no shape")
	f(`{"name":"INPUT0","shape":[1],"data":[1]}`, "inputs[0] ('INPUT0') has no datatype")
	f(`{"name":"INPUT0","shape":[1],"datatype":"INT32"}`, "input 'INPUT0' has no data")
	f(`{"name":"other","shape":[1],"datatype":"INT32","data":[1]}`,
		"unexpected inference input 'other' for model 'simple': it takes 'INPUT0', 'INPUT1'")
	f(`{"name":"`+strings.Repeat("n", 100_000)+`"}`, "unexpected inference input 'nnnn")
	f(good+`,`+good, "input 'INPUT0' already exists in request")
	f(good+`,{"name":"INPUT1","shape":[1],"datatype":"INT32","data":[1]},{"name":"INPUT2"}`,
		"unexpected additional input data for model 'simple': it takes 2 inputs")
	f(`{"name":"INPUT0","name":"INPUT1"}`, "inputs[0] has two names")
	f(`{"shape":[1],"shape":[1]}`, "inputs[0] has two shapes")
	f(`{"datatype":"INT32","datatype":"FP32"}`, "inputs[0] has two datatypes")
	f(`{"data":[1],"data":[1]}`, "inputs[0] has data twice")
	f(`{"name":"INPUT0","shape":[1],"datatype":"INT32","data":[1],"data":[2]}`,
		"inputs[0] has data twice")
	f(`{"name":"INPUT0","shape":[1],"datatype":"int32","data":[1]}`,
		`inputs[0].datatype: "int32" is not a datatype`)
	f(`{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[1]}`,
		"inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'")
	f(`{"name":"INPUT0","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}`,
		"inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'")
	for _, shape := range []string{`[-1]`, `[1,-16]`, `[-9223372036854775808]`, `[1.5]`, `["1"]`,
		`[9223372036854775807]`, `[1e30]`, `[[1]]`, `[NaN]`, `[null]`,
		`[` + strings.Repeat("1,", tensor.MaxRank) + `1]`} {
		f(`{"name":"INPUT0","shape":`+shape+`,"datatype":"INT32","data":[1]}`,
			"Unable to parse 'shape': inputs[0].shape must be at most 32 integers of 0 or more")
	}
	f(`{"name":"INPUT0","shape":5}`, "expected '[', got '5'")
	f(`{"name":"INPUT0","shape":[4294967296,4294967296],"datatype":"INT32","data":[]}`,
		"inputs[0].shape: tensor: impossible shape: [4294967296,4294967296] causes total element "+
			"count to exceed maximum size of")
	f(`{"name":"INPUT0","shape":[1099511627776],"datatype":"INT32","data":[1,2]}`,
		"inputs[0].data has fewer elements than the 1099511627776 of shape")
	f(`{"name":"INPUT0","shape":[3],"datatype":"INT32","data":[1,2]}`,
		"inputs[0].data has 2 elements, shape [3] has 3")
	f(`{"name":"INPUT0","shape":[2],"datatype":"INT32","data":[1,2,3]}`,
		"inputs[0].data[2]: more than the 2 elements of the shape")
	f(`{"name":"INPUT0","shape":[0],"datatype":"INT32","data":[1]}`,
		"inputs[0].data[0]: more than the 0 elements of the shape")
	f(`{"data":[1,2,3],"name":"INPUT0","shape":[2],"datatype":"INT32"}`,
		"inputs[0].data[2]: more than the 2 elements of the shape")
	f(`{"name":"INPUT0","shape":[4],"datatype":"INT32","data":[[1,2,3],[4]]}`,
		"nested arrays have unequal lengths, 3 and 1 elements")
	f(`{"name":"INPUT0","shape":[2],"datatype":"INT32","data":[[1],2]}`,
		"inputs[0].data[1]: must be an array")
	f(`{"name":"INPUT0","shape":[2],"datatype":"INT32","data":[1,[2]]}`,
		"expected a number, got '['")
	f(`{"name":"INPUT0","shape":[],"datatype":"INT32","data":1}`,
		"inputs[0].data[0]: must be an array")
	f(`{"name":"INPUT0","shape":[1],"datatype":"INT32","data":null}`, "must be an array")
	f(`{"name":"INPUT0","shape":[1],"datatype":"INT32","data":{"0":1}}`, "must be an array")
	f(`{"name":"INPUT0","shape":[1],"datatype":"INT32","data":`+strings.Repeat("[", 10_000),
		"JSON nesting depth exceeds")
	f(good+`,{"name":"INPUT1","shape":[1],"datatype":"INT32","data":[1e1000]}`,
		"inputs[1].data[0]: 1e1000 is out of range for INT32")
	f(`{"name":"INPUT0","shape":[1],"datatype":"INT32","data":[1],`+
		`"parameters":{"binary_data_size":4}}`,
		"inputs[0] ('INPUT0') has both data and binary_data_size")
	f(`{"name":"INPUT0","parameters":{"shared_memory_region":"r"}}`, "shared memory is not served")
	f(`{"name":"INPUT0","parameters":{"x":[]}}`, `parameter "x" must be a string`)
}

func TestBadElements(t *testing.T) {
	f := func(d tensor.Datatype, element, want string) {
		t.Helper()
		head := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[3],"datatype":"%s","data":[`, d)
		valid := "1"
		if d == tensor.Bytes {
			valid = `"1"`
		}
		body := head + valid + `,` + valid + `,` + element + `]}]}`
		wantBad(t, one(d, -1), "inputs[0].data[2]", body)
		wantBad(t, one(d, -1), want, body)
	}
	f(tensor.Int8, `128`, "128 is out of range for INT8")
	f(tensor.Int8, `-129`, "-129 is out of range for INT8")
	f(tensor.Int16, `32768`, "32768 is out of range for INT16")
	f(tensor.Int32, `2147483648`, "out of range for INT32")
	f(tensor.Int32, `-2147483649`, "out of range for INT32")
	f(tensor.Int64, `9223372036854775808`, "out of range for INT64")
	f(tensor.Int64, `-9223372036854775809`, "out of range for INT64")
	f(tensor.Int64, `99999999999999999999999999`, "out of range for INT64")
	f(tensor.Int64, `1e19`, "1e19 is out of range for INT64")
	f(tensor.Uint8, `256`, "256 is out of range for UINT8")
	f(tensor.Uint8, `-1`, "-1 is out of range for UINT8")
	f(tensor.Uint16, `65536`, "65536 is out of range for UINT16")
	f(tensor.Uint32, `4294967296`, "out of range for UINT32")
	f(tensor.Uint64, `18446744073709551616`, "out of range for UINT64")
	f(tensor.Uint64, `-1`, "-1 is out of range for UINT64")
	for _, d := range []tensor.Datatype{tensor.Int8, tensor.Uint16, tensor.Int32, tensor.Int64} {
		f(d, `NaN`, "NaN is not an integer for "+d.String())
		f(d, `-Infinity`, "-Infinity is not an integer for "+d.String())
		f(d, ` 0.5`, "0.5 is not an integer for "+d.String())
		f(d, `1e-5`, "1e-5 is not an integer for "+d.String())
		f(d, `"1"`, `expected a number, got '"'`)
		f(d, `true`, `expected a number, got 't'`)
		f(d, `null`, `expected a number, got 'n'`)
		f(d, `-`, `expected a number, got '-'`)
	}
	f(tensor.FP32, `1e39`, "1e39 is out of range for FP32")
	f(tensor.FP32, `-3.4028236e38`, "-3.4028236e38 is out of range for FP32")
	f(tensor.FP32, `1e999`, "1e999 is out of range for FP32")
	f(tensor.FP32, `1`+strings.Repeat("0", 500), "is out of range for FP32")
	f(tensor.FP64, `1e999`, "1e999 is out of range for FP64")
	f(tensor.FP16, `65520`, "65520 is out of range for FP16")
	f(tensor.FP16, `-1e300`, "-1e300 is out of range for FP16")
	f(tensor.BF16, `3.4e38`, "3.4e38 is out of range for BF16")
	for _, d := range []tensor.Datatype{tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64} {
		f(d, `"NaN"`, `expected a number, got '"'`)
		f(d, `null`, `expected a number, got 'n'`)
		f(d, `true`, `expected a number, got 't'`)
		f(d, `nan`, `expected a number, got 'n'`)
		f(d, `+1`, `expected a number, got '+'`)
		f(d, `1.`, `expected a number, got '1'`)
		f(d, `01`, `expected a number, got '0'`)
		f(d, `[1]`, `expected a number, got '['`)
	}
}

func TestBadBoolsAndStrings(t *testing.T) {
	f := func(d tensor.Datatype, element, want string) {
		t.Helper()
		wantBad(t, one(d, -1), want, fmt.Sprintf(
			`{"inputs":[{"name":"x","shape":[1],"datatype":"%s","data":[%s]}]}`, d, element))
	}
	f(tensor.Bool, `2`, "must be true or false")
	f(tensor.Bool, `-1`, "must be true or false")
	f(tensor.Bool, `0.5`, "0.5 is not an integer for BOOL")
	f(tensor.Bool, `NaN`, "NaN is not an integer for BOOL")
	f(tensor.Bool, `"true"`, `expected a number, got '"'`)
	f(tensor.Bool, `truth`, "expected a value, got 't'")
	f(tensor.Bytes, `1`, "expected a string, got '1'")
	f(tensor.Bytes, `null`, "expected a string, got 'n'")
	f(tensor.Bytes, "\"\xff\"", "a string is not valid UTF-8")
	f(tensor.Bytes, "\"\xc3\"", "a string is not valid UTF-8")
	f(tensor.Bytes, "\"\x01\"", "a control character in a string")

	wantBad(t, one(tensor.FP32, -1), "expected ',' or ']', got 'a'",
		`{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[1.5,2.5a,3]}]}`+
			strings.Repeat(" ", 100))
	wantBad(t, one(tensor.Bytes, -1), "inputs[0].data[0]: is not base64",
		`{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["a"],`+
			`"parameters":{"content_type":"base64"}}]}`)
}

func TestBadOutputs(t *testing.T) {
	f := func(outputs, want string) {
		t.Helper()
		wantBad(t, &simple, want, `{"outputs":`+outputs+
			`,"inputs":[{"name":"INPUT0","shape":[1],"datatype":"INT32","data":[1]}]}`)
	}
	f(`[{}]`, "outputs[0] has no name")
	f(`[{"name":"OUTPUT1"},{"parameters":{}}]`, "outputs[1] has no name")
	f(`[{"name":"none"}]`,
		"unexpected inference output 'none' for model 'simple': it gives 'OUTPUT0', 'OUTPUT1'")
	f(`[{"name":"OUTPUT1"},{"name":"OUTPUT1"}]`, "output 'OUTPUT1' already exists in request")
	f(`[{"name":"OUTPUT1","name":"OUTPUT0"}]`, "outputs[0] has two names")
	f(`[{"name":1}]`, "expected a string, got '1'")
	f(`["OUTPUT1"]`, `expected '{', got '"'`)
	f(`{"name":"OUTPUT1"}`, "expected '[', got '{'")
	f(`[{"name":"OUTPUT1","parameters":{"binary_data":"yes"}}]`,
		`parameter "binary_data" must be true or false`)
	f(`[{"name":"OUTPUT1","parameters":{"classification":-1}}]`,
		`parameter "classification" must be an integer of 0 or more`)
	f(`[{"name":"OUTPUT1","parameters":{"shared_memory_region":"r"}}]`,
		"shared memory is not served")
	f(`[`+strings.Repeat(`{"name":"OUTPUT1"},`, 100_000)+`{}]`, "already exists in request")
	f(`[`+strings.Repeat(`{},`, 100_000)+`{}]`, "outputs[0] has no name")
}

func TestBadBinary(t *testing.T) {
	f := func(parameters, blobs, want string) {
		t.Helper()
		wantBad(t, &simple, want, `{"inputs":[{"name":"INPUT0","shape":[1,2],"datatype":"INT32",`+
			`"parameters":{`+parameters+`}}]}`, blobs)
	}
	size := func(n string) string { return `"binary_data_size":` + n }
	f(size(`8`), "1234567", "input 'INPUT0' has binary_data_size 8, only 7 bytes are left")
	f(size(`8`), "123456789", "1 bytes are left of the body")
	f(size(`7`), "1234567", "INT32 of shape [1,2] takes 8 bytes, got 7")
	f(size(`12`), "123456789012", "INT32 of shape [1,2] takes 8 bytes, got 12")
	f(size(`0`), "12345678", "INT32 of shape [1,2] takes 8 bytes, got 0")
	f(``, "1234567", "INT32 of shape [1,2] takes 8 bytes, got 7")
	f(size(`-1`), "12345678", `parameter "binary_data_size" must be an integer of 0 or more`)
	f(size(`9223372036854775807`), "12345678",
		"binary_data_size 9223372036854775807 is impossible")
	f(size(`18446744073709551615`), "12345678", "is impossible")
	f(size(`18446744073709551624`), "12345678", "must be an integer of 0 or more")
	f(size(`1e999`), "12345678", "must be an integer of 0 or more")
	f(size(`"8x"`), "12345678", `parameter "binary_data_size" must be a number`)
	f(size(`null`), "12345678", "expected a number, got 'n'")

	two := func(a, b, blobs, want string) {
		t.Helper()
		input := `{"name":"INPUT%d","shape":[2],"datatype":"INT32","parameters":{%s}}`
		wantBad(t, &simple, want, `{"inputs":[`+fmt.Sprintf(input, 0, a)+`,`+
			fmt.Sprintf(input, 1, b)+`]}`, blobs)
	}
	two(size(`8`), size(`8`), "123456789012345", "'INPUT1' has binary_data_size 8, only 7 bytes")
	two(size(`8`), size(`1099511627776`), "1234567812345678", "only 8 bytes are left")
	two(size(`8`), ``, "1234567812345678", "input 'INPUT1' has no data")
	two(``, ``, "1234567812345678", "input 'INPUT0' has no data")

	texts := func(n int, blob, want string) {
		t.Helper()
		wantBad(t, one(tensor.Bytes, -1), want, fmt.Sprintf(
			`{"inputs":[{"name":"x","shape":[%d],"datatype":"BYTES"}]}`, n), blob)
	}
	texts(1, "\x05\x00\x00\x00abcd", "BYTES element 0 of 1 is cut short")
	texts(1, "\xff\xff\xff\xffabcd", "BYTES element 0 of 1 is cut short")
	texts(2, "\x01\x00\x00\x00a", "BYTES element 1 of 2 is cut short")
	texts(1<<40, "\x01\x00\x00\x00a", "BYTES element 1 of 1099511627776 is cut short")
	texts(1, "\x01\x00\x00\x00ab", "1 bytes left over after 1 BYTES elements")
	wantBad(t, one(tensor.Bool, -1), "BOOL element 2 is 255, must be 0 or 1",
		`{"inputs":[{"name":"x","shape":[3],"datatype":"BOOL"}]}`, "\x00\x01\xff")
	wantBad(t, one(tensor.FP32, -1), "impossible shape: byte size overflows",
		`{"inputs":[{"name":"x","shape":[4611686018427387904],"datatype":"FP32"}]}`, "1234")

	r := newRequest(t)
	checkRefused(t, r, Decode(r, &simple, []byte(`{}`), 3), "the JSON part is longer than the body")
	// Without a header there is nothing behind the JSON.
	wantBad(t, &simple, "has binary_data_size 8, only 0 bytes are left", `{"inputs":[{"name":`+
		`"INPUT0","shape":[2],"datatype":"INT32","parameters":{"binary_data_size":8}}]}`)
}

// The time of a request that names very many tensors, of a model that has as
// many, must not grow with the square of their number: it would be minutes here.
func TestManyTensors(t *testing.T) {
	const n = 100_000
	sig := &tensor.Signature{}
	var inputs, outputs strings.Builder
	for i := range n {
		name := fmt.Sprintf("a rather long name of a tensor %d", i)
		sig.Inputs = append(sig.Inputs, tensor.Spec{Name: name, Datatype: tensor.Bool})
		sig.Outputs = append(sig.Outputs, tensor.Spec{Name: name, Datatype: tensor.Bool})
	}
	for i := n - 1; i >= 0; i-- {
		fmt.Fprintf(&inputs, `{"name":"%s","shape":[],"datatype":"BOOL","data":[1]},`,
			sig.Inputs[i].Name)
		fmt.Fprintf(&outputs, `{"name":"%s"},`, sig.Outputs[i].Name)
	}
	body := `{"inputs":[` + strings.TrimSuffix(inputs.String(), ",") + `],"outputs":[` +
		strings.TrimSuffix(outputs.String(), ",") + `]}`
	r := newRequest(t)
	start := time.Now()
	if err := Decode(r, sig, []byte(body), -1); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("%d inputs and outputs take %v", n, took)
	}
	if len(r.Outputs) != n || r.Outputs[0].Index != n-1 || r.Inputs[n-1].Datatype != tensor.Bool {
		t.Errorf("%d outputs, the first is %d", len(r.Outputs), r.Outputs[0].Index)
	}
}
