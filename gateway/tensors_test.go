package gateway_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/model"
)

// bad takes a body that is no right request for its model, and what stands in
// the text of the refusal.
type bad func(model, body, words string)

var (
	in0, in1 = intInput("INPUT0", 16), intInput("INPUT1", 16)
	ones     = strings.TrimSuffix(strings.Repeat("1,", 16), ",")
)

// two is a request with two inputs.
func two(a, b string) string { return `{"inputs":[` + a + "," + b + "]}" }

// with is a request whose first input is as given.
func with(shape, datatype, values string) string {
	return two(fmt.Sprintf(`{"name":"INPUT0","shape":%s,"datatype":%q,"data":[%s]}`, shape,
		datatype, values), in1)
}

func badJSON(f bad) {
	f("simple", ``, "JSON")
	f("simple", `{`, "JSON")
	f("simple", `[]`, "{")
	f("simple", `null`, "{")
	f("simple", `{}`, "inputs")
	f("simple", `{"inputs":{}}`, "[")
	f("simple", `{"inputs":[1]}`, "{")
	f("simple", "\xef\xbb\xbf"+two(in0, in1), "{")
	f("simple", two(in0, in1)+"x", "after the request")
	f("simple", two(in0, in1)+two(in0, in1), "after the request")
	f("simple", `{"inputs":[`+in0+`,`+in1+`],}`, "")
	f("simple", `{"inputs":[`+in0+`,`+in1+`],"inputs":[]}`, "inputs")
	f("simple", `{"id":"\xff","inputs":[`+in0+`,`+in1+`]}`, "")
	f("simple", `{"id":"`+strings.Repeat("i", 5000)+`","inputs":[]}`, "id|4096")
	f("simple", `{"id":7,"inputs":[]}`, "")
	f("simple", strings.Repeat("[", 10_000), "")
	f("simple", `{"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+`}`, "100")
	f("simple", `{"x":`+strings.Repeat(`{"a":`, 10_000)+"1"+strings.Repeat("}", 10_000)+`}`, "100")
	f("simple", with("[1,16]", "INT32", strings.Repeat("[", 10_000)), "100")
}

func badSets(f bad) {
	f("simple", `{"inputs":[]}`, "expected 2 inputs|INPUT0|INPUT1")
	f("simple", `{"inputs":[`+in0+`]}`, "expected 2 inputs|INPUT1")
	f("simple", two(in0, in0), "INPUT0|already")
	f("simple", `{"inputs":[`+in0+`,`+in1+`,`+intInput("INPUT2", 16)+`]}`, "additional")
	f("simple", two(in0, intInput("INPUT2", 16)), "INPUT2")
	f("simple", two(in0, intInput(strings.Repeat("n", 64<<10), 16)), "nnnn")
	f("simple", two(in0, strings.Replace(in1, "INPUT1", `INPUT1\u0000`, 1)), "INPUT1")
	f("simple", two(in0, `{"shape":[1,16],"datatype":"INT32","data":[`+ones+`]}`), "inputs[1]|name")
	f("simple", two(in0, `{"name":"INPUT1","datatype":"INT32","data":[`+ones+`]}`), "INPUT1|shape")
	f("simple", two(in0, `{"name":"INPUT1","shape":[1,16],"data":[`+ones+`]}`), "INPUT1|datatype")
	f("simple", two(in0, `{"name":"INPUT1","shape":[1,16],"datatype":"INT32"}`), "INPUT1|data")
	f("simple", `{"outputs":[{"name":"OUTPUT9"}],"inputs":[`+in0+`,`+in1+`]}`, "OUTPUT9|OUTPUT0")
	f("simple", `{"outputs":[{"name":"OUTPUT0"},{"name":"OUTPUT0"}],"inputs":[`+in0+`,`+in1+`]}`,
		"OUTPUT0|already")
	f("simple", `{"outputs":[{}],"inputs":[`+in0+`,`+in1+`]}`, "outputs[0]")
	f("simple", `{"outputs":[`+strings.TrimSuffix(strings.Repeat(`{"name":"OUTPUT0"},`, 100_000),
		",")+`],"inputs":[`+in0+`,`+in1+`]}`, "OUTPUT0|already")
}

func badShapes(f bad) {
	f("simple", with("[1,16]", "INT64", ones), "INPUT0|INT64|INT32")
	f("simple", with("[1,16]", "FP16", ones), "INPUT0|FP16")
	f("simple", with("[1,16]", "BF16", ones), "INPUT0|BF16")
	f("simple", with("[1,16]", "STRING", ones), "STRING")
	f("simple", with("[1,16]", "int32", ones), "int32")
	f("simple", with("[1,16]", "", ones), "datatype")

	// Shapes.
	f("simple", with("[16]", "INT32", ones), "INPUT0|[-1,16]|[16]")
	f("simple", with("[1,1,16]", "INT32", ones), "INPUT0|[-1,16]")
	f("simple", with("[1,4,4]", "INT32", ones), "INPUT0|[-1,16]")
	f("simple", with("[1,17]", "INT32", ones+",1"), "INPUT0|[-1,16]|[1,17]")
	f("simple", with("[]", "INT32", "1"), "INPUT0|[]")
	f("simple", with("[0,16]", "INT32", ""), "")
	f("simple", with("[-1,16]", "INT32", ones), "shape")
	f("simple", with("[1,-16]", "INT32", ones), "shape")
	f("simple", with("[1.5,16]", "INT32", ones), "shape")
	f("simple", with(`["1",16]`, "INT32", ones), "shape")
	f("simple", with("[4294967296,4294967296]", "INT32", ones), "shape")
	f("simple", with("[4611686018427387904,4]", "INT32", ones), "shape")
	f("simple", with("[9223372036854775808]", "INT32", ones), "shape")
	f("simple", with("[99999999999999999999]", "INT32", ones), "shape")
	f("simple", with("["+strings.TrimSuffix(strings.Repeat("1,", 1000), ",")+"]", "INT32", "1"),
		"shape|32")
	f("simple", with("[1,16]", "INT32", ones+",1"), "inputs[0]|16")
	f("simple", with("[1,16]", "INT32", strings.TrimSuffix(ones, ",1")), "inputs[0]|15")
	f("simple", with("[1,16]", "INT32", "[1,1],[1]"), "inputs[0]")
	f("simple", with("[1,16]", "INT32", "[1,1],1"), "inputs[0]")
	f("simple", two(strings.Replace(in0, "[1,16]", "[2,16]", 1), in1), "inputs[0]")
	nine := strings.TrimSuffix(strings.Repeat("1,", 9*16), ",")
	f("simple", two(
		`{"name":"INPUT0","shape":[9,16],"datatype":"INT32","data":[`+nine+`]}`,
		`{"name":"INPUT1","shape":[9,16],"datatype":"INT32","data":[`+nine+`]}`), "<= 8|9")
}

func badValues(f bad) {
	element := func(v string) string { return with("[1,16]", "INT32", v+ones[1:]) }
	for _, v := range []string{
		"2147483648", "-2147483649", "1e999", "1.5", "9007199254740993",
		strings.Repeat("9", 100_000), "NaN", "Infinity", "-Infinity", "null", "true", `"1"`,
		"{}", "01", "+1", "-", "1e", "nan", "١",
	} {
		f("simple", element(v), "inputs[0].data[0]")
	}
	f("simple", element("0x1"), "at byte")
	f("mlp", `{"inputs":[{"name":"x","shape":[1,64],"datatype":"FP32","data":[1e39`+
		strings.Repeat(",0", 63)+`]}]}`, "inputs[0].data[0]|1e39")
	f("simple_string", two(strings.Replace(strings.Replace(in0, "INT32", "BYTES", 1), "[1,1",
		`["\ud800",1`, 1), in1), "")
}

func badParameters(f bad) {
	with2 := func(parameters string) string {
		return `{"parameters":` + parameters + `,"inputs":[` + in0 + `,` + in1 + `]}`
	}
	f("simple", with2(`[]`), "{")
	f("simple", with2(`{"priority":-1}`), "priority")
	f("simple", with2(`{"priority":"high"}`), "priority")
	f("simple", with2(`{"timeout":1.5}`), "timeout")
	f("simple", with2(`{"timeout":99999999999999999999}`), "timeout")
	f("simple", with2(`{"binary_data_output":1}`), "binary_data_output")
	f("simple", with2(`{"triton_x":1}`), "triton_x")
	f("simple", with2(`{"x":[1]}`), "x")
	f("simple", `{"outputs":[{"name":"OUTPUT0","parameters":{"classification":-1}}],"inputs":[`+
		in0+`,`+in1+`]}`, "classification")
	f("simple_string", strings.ReplaceAll(strings.ReplaceAll(
		`{"outputs":[{"name":"OUTPUT0","parameters":{"classification":2}}],"inputs":[`+in0+`,`+in1+
			`]}`, "INT32", "BYTES"), ",1", `,"1"`), "")
	f("simple", two(in0, `{"name":"INPUT1","shape":[1,16],"datatype":"INT32",`+
		`"parameters":{"binary_data_size":64},"data":[`+ones+`]}`), "INPUT1|binary_data_size")
}

// TestBadTensors sends what is JSON, mostly, and no right request.
func TestBadTensors(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	for _, w := range s.ways() {
		c := connect(t, w)
		refused := func(model, body, words string) {
			t.Helper()
			resp, text := c.send(raw("/v2/models/"+model+"/infer", "", body)).receive("POST")
			if resp.StatusCode != 400 {
				t.Errorf("%s: %.160q is answered with %d: %.200s", w.name, body, resp.StatusCode,
					text)
			}
			wantError(t, text, words)
			c.wantGoodEnd(resp)
			if resp.Close {
				c = connect(t, w)
			}
		}
		for _, cases := range []func(bad){badJSON, badSets, badShapes, badValues, badParameters} {
			cases(refused)
		}
	}
	wantNothingLeft(t, s)
}

// binary is a body of a JSON part and blobs. The header says that the JSON part
// has jsonLen bytes, its length where that is empty.
type binary struct {
	model, jsonLen, json string
	blobs                []byte
}

func (b binary) request() string {
	if b.jsonLen == "" {
		b.jsonLen = strconv.Itoa(len(b.json))
	}
	return raw("/v2/models/"+b.model+"/infer",
		"Inference-Header-Content-Length: "+b.jsonLen+"\r\n", b.json+string(b.blobs))
}

// TestBadBinary sends blobs that do not have the size that is said of them.
func TestBadBinary(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	blob := func(name, datatype string, size any) string {
		return fmt.Sprintf(`{"name":%q,"shape":[1,16],"datatype":%q,`+
			`"parameters":{"binary_data_size":%v}}`, name, datatype, size)
	}
	sizes := func(a, b any) string {
		return two(blob("INPUT0", "INT32", a), blob("INPUT1", "INT32", b))
	}
	ints := sizes(64, 64)
	full := make([]byte, 128)
	endless := append([]byte{0, 0, 0, 0x80}, full[4:]...) // an element of 2 GiB
	texts := two(blob("INPUT0", "BYTES", 64), blob("INPUT1", "BYTES", 64))
	for _, w := range s.ways() {
		c := connect(t, w)
		f := func(b binary, words string) {
			t.Helper()
			resp, answer := c.send(b.request()).receive("POST")
			if resp.StatusCode != 400 {
				t.Errorf("%s: %v is answered with %d: %.200q", w.name, b, resp.StatusCode, answer)
			}
			wantError(t, answer, words)
			c.wantGoodEnd(resp)
			if resp.Close {
				c = connect(t, w)
			}
		}
		f(binary{"simple", "", ints, full[:127]}, "INPUT1|63")
		f(binary{"simple", "", ints, make([]byte, 129)}, "1 bytes are left")
		f(binary{"simple", "", ints, nil}, "INPUT0|64")
		f(binary{"simple", "9999", ints, full}, "Inference-Header-Content-Length|9999")
		f(binary{"simple", "-1", ints, full}, "Inference-Header-Content-Length")
		f(binary{"simple", "2147483648", ints, full}, "Inference-Header-Content-Length")
		f(binary{"simple", "18446744073709551616", ints, full}, "Inference-Header-Content-Length")
		f(binary{"simple", "x", ints, full}, "Inference-Header-Content-Length")
		f(binary{"simple", "5", ints, full}, "JSON")
		f(binary{"simple", strconv.Itoa(len(ints) + 4), ints, full}, "after the request")
		f(binary{"simple", "", sizes(60, 68), full}, "INPUT0|64|60")
		f(binary{"simple", "", sizes(-64, 64), full}, "binary_data_size")
		f(binary{"simple", "", sizes(int64(math.MaxInt64), int64(math.MaxInt64)), full},
			"binary_data_size")
		f(binary{"simple", "", sizes("1.5", 64), full}, "binary_data_size")
		f(binary{"simple", "0", "", full}, "1 input")
		f(binary{"simple_string", "", texts, endless}, "INPUT0|0")
		f(binary{"simple_string", "", two(blob("INPUT0", "BYTES", 68), blob("INPUT1", "BYTES", 64)),
			make([]byte, 132)}, "INPUT0|4")
		f(binary{"mlp", "0", "", full}, "256|128")
	}
	wantNothingLeft(t, s)
}

// TestIdsComeBack sends ids that would be more than an id where they were
// copied without care.
func TestIdsComeBack(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	for _, w := range s.ways() {
		c := connect(t, w)
		for _, id := range []string{
			"", "7", "a\r\nX-Injected: 1\r\n\r\n{", `","model_name":"x`, "\x00\x01\x7f",
			"\u2028é€😀",
			strings.Repeat("i", 4096),
		} {
			text, _ := json.Marshal(id)
			body := strings.Replace(simpleBody, `"7"`, string(text), 1)
			resp, answer := c.send(raw(simplePath, "", body)).receive("POST")
			var got struct {
				ID    string `json:"id"`
				Model string `json:"model_name"`
			}
			err := json.Unmarshal([]byte(answer), &got)
			if err != nil || got.ID != id || got.Model != "simple" || len(resp.Header) != 3 {
				t.Errorf("%s: %q comes back as %q in %.200q, %v: %v", w.name, id, got.ID, answer,
					resp.Header, err)
			}
		}
	}
}
