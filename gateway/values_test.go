package gateway_test

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/runtime/model"
)

// wantAnswer holds that a request is answered with what has all of parts.
func (c *client) wantAnswer(request, parts string) *http.Response {
	c.t.Helper()
	resp, text := c.send(request).receive("POST")
	if resp.StatusCode != 200 {
		c.t.Errorf("%.100q is answered with %d: %s", request, resp.StatusCode, text)
	}
	for _, part := range strings.Split(parts, "|") {
		if !strings.Contains(text, part) {
			c.t.Errorf("%.100q is answered with %q, want %q in it", request, text, part)
		}
	}
	return resp
}

// TestNaN sends numbers that JSON does not have, and gets them back by name or
// as null.
func TestNaN(t *testing.T) {
	repository := own(t, map[string]string{"types": "", "loop": ""})
	for null, want := range map[bool]string{
		false: `"data":[NaN]|"data":[Infinity]`, true: `"data":[null]`,
	} {
		s := serve(t, model.ModeNone, repository,
			func(c *gateway.Config, _ *gateway.HTTPConfig) { c.NullNaN = null })
		for _, w := range s.ways() {
			c := connect(t, w)
			for i, value := range []string{"NaN", "Infinity"} {
				part := strings.Split(want+"|"+want, "|")[i]
				body := strings.Replace(loop(1, ""), `"data":[1]}]`, `"data":[`+value+`]}]`, 1)
				c.wantAnswer(raw(loopPath, "", body), part)
			}
			body := strings.Replace(loop(1, ""), `"data":[1]}]`, `"data":[-Infinity]}]`, 1)
			least := map[bool]string{false: "-Infinity", true: "null"}[null]
			c.wantAnswer(raw(loopPath, "", body), least)
		}
	}
}

// TestDatatypes sends a value of each fixed-size datatype as JSON, and gets it
// back as JSON and as blobs.
func TestDatatypes(t *testing.T) {
	s := serve(t, model.ModeNone, own(t, map[string]string{"types": ""}), nil)
	// The model types has an input and an output for each of ONNX's element types.
	types := []struct {
		elem            int
		datatype, value string
		blob            string
	}{
		{9, "BOOL", "true", "01"}, {2, "UINT8", "255", "ff"}, {4, "UINT16", "65535", "ffff"},
		{12, "UINT32", "4294967295", "ffffffff"},
		{13, "UINT64", "18446744073709551615", "ffffffffffffffff"},
		{3, "INT8", "-128", "80"}, {5, "INT16", "-32768", "0080"},
		{6, "INT32", "-2147483648", "00000080"},
		{7, "INT64", "-9223372036854775808", "0000000000000080"},
		{10, "FP16", "-1.5", "00be"}, {16, "BF16", "-1.5", "c0bf"},
		{1, "FP32", "0.1", "cdcccc3d"}, {11, "FP64", "0.1", "9a9999999999b93f"},
	}
	var inputs, blobs, names []string
	json, binary := "", ""
	for _, d := range types {
		inputs = append(inputs, fmt.Sprintf(
			`{"name":"x%d","shape":[1],"datatype":%q,"data":[%s]}`, d.elem, d.datatype, d.value))
		blobs = append(blobs, fmt.Sprintf(`{"name":"x%d","shape":[1],"datatype":%q,`+
			`"parameters":{"binary_data_size":%d}}`, d.elem, d.datatype, len(d.blob)/2))
		names = append(names, fmt.Sprintf(`{"name":"y%d"}`, d.elem))
		json += fmt.Sprintf(`|{"name":"y%d","datatype":%q,"shape":[1],"data":[%s]}`, d.elem,
			d.datatype, d.value)
		bytes, err := hex.DecodeString(d.blob)
		if err != nil {
			t.Fatal(err)
		}
		binary += string(bytes)
	}
	order := `"outputs":[` + strings.Join(names, ",") + `],`
	request := `{"inputs":[` + strings.Join(inputs, ",") + `]}`
	for _, w := range s.ways() {
		c := connect(t, w)
		c.wantAnswer(raw("/v2/models/types/infer", "", request), json[1:])
		resp := c.wantAnswer(raw("/v2/models/types/infer", "", strings.Replace(request, "{",
			`{`+order+`"parameters":{"binary_data_output":true},`, 1)), binary)
		if resp.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%s: blobs come as %v", w.name, resp.Header)
		}
		all := `{"inputs":[` + strings.Join(blobs, ",") + `]}`
		c.wantAnswer(raw("/v2/models/types/infer", fmt.Sprintf(
			"Inference-Header-Content-Length: %d\r\n", len(all)), all+binary), json[1:])
		for _, d := range types[1:9] {
			bad := strings.Replace(request, `"data":[`+d.value+`]`, `"data":[`+d.value+`0]`, 1)
			resp, text := c.send(raw("/v2/models/types/infer", "", bad)).receive("POST")
			if resp.StatusCode != 400 || !strings.Contains(text, d.datatype) {
				t.Errorf("%s: %s0 as %s is answered with %d: %s", w.name, d.value, d.datatype,
					resp.StatusCode, text)
			}
		}
	}
}

// TestClassification asks for the best classes, with their labels.
func TestClassification(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	sample, err := os.ReadFile(sampleModels + "/digits/sample.json")
	if err != nil {
		t.Fatal(err)
	}
	labels, err := os.ReadFile(sampleModels + "/digits/labels.txt")
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(labels))
	ask := func(n string) string {
		inputs, _, _ := strings.Cut(string(sample), `, "outputs"`)
		return raw("/v2/models/digits/infer", "", inputs+
			`,"outputs":[{"name":"probabilities","parameters":{"classification":`+n+`}}]}`)
	}
	for _, w := range s.ways() {
		c := connect(t, w)
		c.wantAnswer(ask("3"), `"datatype":"BYTES"|"shape":[1,3]`)
		c.wantAnswer(ask("2147483648"), `"shape":[1,10]|:0:`+names[0]+`"|:9:`+names[9]+`"`)
		c.wantAnswer(ask("18446744073709551615"), `"shape":[1,10]`)
	}
}
