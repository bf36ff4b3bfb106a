package openapi_test

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/gateway/openapi"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// The example of each protocol is what a person would write.
func TestExamples(t *testing.T) {
	text := document(t, zoo()...)
	f := func(path, want string) {
		t.Helper()
		got := at(t, text, "paths", path, "post", "requestBody", "content", "application/json",
			"example")
		if string(got) != want {
			t.Errorf("%s:\ngot  %s\nwant %s", path, got, want)
		}
	}
	f("/predict/iris",
		`{"sepal_length":5.1,"sepal_width":3.5,"petal_length":0.5,"petal_width":0.5}`)
	f("/v2/models/iris/infer", `{"inputs":[{"name":"X","datatype":"FP32","shape":[1,4],`+
		`"data":[5.1,3.5,0.5,0.5]}]}`)
	f("/v1/models/iris:predict", `{"instances":[[5.1,3.5,0.5,0.5]]}`)
	f("/iris/invocations", `{"dataframe_split":{"columns":["sepal_length","sepal_width",`+
		`"petal_length","petal_width"],"data":[[5.1,3.5,0.5,0.5]]}}`)

	f("/predict/counts", `{"n":0,"m":0.5}`)
	f("/v1/models/counts:predict", `{"instances":[[0,0.5]]}`)

	f("/predict/tips", `{"total_bill":[0.5],"size":[0],"smoker":[false],"day":"a","weight":[0.5]}`)
	f("/v2/models/tips/infer", `{"inputs":[`+
		`{"name":"total_bill","datatype":"FP32","shape":[1,1],"data":[0.5]},`+
		`{"name":"size","datatype":"INT64","shape":[1,1],"data":[0]},`+
		`{"name":"smoker","datatype":"BOOL","shape":[1,1],"data":[false]},`+
		`{"name":"day","datatype":"BYTES","shape":[1],"data":["a"]},`+
		`{"name":"weight","datatype":"FP16","shape":[1,1],"data":[0.5]}]}`)
	f("/v1/models/tips:predict", `{"instances":[{"total_bill":[0.5],"size":[0],`+
		`"smoker":[false],"day":"a","weight":[0.5]}]}`)
	f("/tips/invocations", `{"dataframe_split":{"columns":["total_bill","size","smoker","day",`+
		`"weight"],"data":[[0.5,0,false,"a",0.5]]}}`)

	f("/predict/small%20picture", `{"image":[[[0,0,0],[0,0,0]]]}`)
	f("/v2/models/small%20picture/infer", `{"inputs":[{"name":"image","datatype":"UINT8",`+
		`"shape":[1,1,2,3],"data":[0,0,0,0,0,0]}]}`)
	f("/small%20picture/invocations", `{"inputs":[[[[0,0,0],[0,0,0]]]]}`)

	f("/v2/models/sequence/infer", `{"inputs":[{"name":"tokens","datatype":"INT64",`+
		`"shape":[16,1],"data":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}]}`)
	f("/sequence/invocations", `{"inputs":[`+strings.Repeat("[0],", 15)+`[0]]}`)

	f("/predict/alone", `{"x":[[0],[0]]}`)
	f("/v1/models/alone:predict", `{"inputs":[[0],[0]]}`)
	f("/alone/invocations", `{"inputs":[[0],[0]]}`)
	f("/predict/day", `{"weekday":"a"}`)
	f("/v2/models/nothing/infer", `{"inputs":[]}`)

	got := at(t, text, "paths", "/tips/invocations", "post", "requestBody", "content", "text/csv",
		"example")
	if want := `"total_bill,size,smoker,day,weight\n0.5,0,false,a,0.5\n"`; string(got) != want {
		t.Errorf("CSV: got %s, want %s", got, want)
	}
}

// A picture has no example: it would be most of the document.
func TestNoLargeExamples(t *testing.T) {
	text := document(t, zoo()...)
	for _, path := range []string{"/predict/picture", "/v2/models/picture/infer",
		"/v1/models/picture:predict", "/picture/invocations"} {
		body := at(t, text, "paths", path, "post", "requestBody")
		if bytes.Contains(body, []byte(`"example"`)) || !bytes.Contains(body, []byte(`"schema"`)) {
			t.Errorf("%s: %.300s", path, body)
		}
	}
	if len(text) > 200<<10 {
		t.Errorf("the document has %d bytes", len(text))
	}
}

// Values of an example that the model cannot take are not shown.
func TestExampleOfTheOwner(t *testing.T) {
	sig := signature(inputs(spec("a", tensor.Int8, -1, 2), spec("b", tensor.Bytes, -1, -1)),
		spec("y", tensor.FP32, -1))
	f := func(a, b any, want string) {
		t.Helper()
		text := document(t, openapi.Service{Name: "m", Kind: openapi.KindModel, Signature: sig,
			Example: map[string]any{"a": a, "b": b}})
		got := at(t, text, "paths", "/predict/m", "post", "requestBody", "content",
			"application/json", "example")
		if string(got) != want {
			t.Errorf("%v, %v: got %s, want %s", a, b, got, want)
		}
	}
	type list = []any
	f(nil, nil, `{"a":[0,0],"b":["a"]}`)
	f(list{1, int64(-128)}, list{"x", "y"}, `{"a":[1,-128],"b":["x","y"]}`)
	f(list{1.0, uint64(127)}, "x", `{"a":[1,127],"b":["x"]}`)
	f(list{1, 128}, list{}, `{"a":[0,0],"b":[]}`)
	f(list{1, 1.5}, list{"x", 1}, `{"a":[0,0],"b":["a"]}`)
	f(list{1}, list{list{"x"}}, `{"a":[0,0],"b":["a"]}`)
	f(list{math.NaN(), 1}, list{"x", list{"y"}}, `{"a":[0,0],"b":["a"]}`)
	f(list{list{1, 2}}, true, `{"a":[0,0],"b":["a"]}`)
	f(map[string]any{}, list{nil}, `{"a":[0,0],"b":["a"]}`)
}

// The document depends on what is served, not on the order in which it is listed.
func TestDeterministic(t *testing.T) {
	services := zoo()
	want := document(t, services...)
	slices.Reverse(services)
	if got := document(t, services...); !bytes.Equal(got, want) {
		t.Error("the order of the services changes the document")
	}
}

// Each reference leads somewhere, and each operation has a name of its own.
func TestReferences(t *testing.T) {
	text := document(t, zoo()...)
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	references := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				references++
				at(t, text, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
			}
			if id, ok := v["operationId"].(string); ok {
				if ids[id] {
					t.Errorf("two operations are called %s", id)
				}
				ids[id] = true
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(doc)
	if references == 0 || len(ids) < 5*len(zoo()) {
		t.Errorf("%d references, %d operations", references, len(ids))
	}
}

// The answers of an endpoint tell their route, those of a model the version only.
func TestAnswers(t *testing.T) {
	text := document(t, zoo()...)
	f := func(path, status, part string, want bool) {
		t.Helper()
		got := at(t, text, "paths", path, "post", "responses", status)
		if bytes.Contains(got, []byte(part)) != want {
			t.Errorf("%s %s: %s: want %s: %v", path, status, got, part, want)
		}
	}
	f("/predict/iris", "200", "x-millrace-route", true)
	f("/predict/tips", "200", "x-millrace-route", false)
	f("/predict/tips", "200", "x-millrace-version", true)
	f("/predict/iris", "200", "x-millrace-outlier-score", true)
	f("/predict/tips", "200", "x-millrace-outlier", false)
	for _, status := range []string{"400", "404", "413", "422", "429", "503", "504"} {
		f("/predict/iris", status, "/Error"+status, true)
		f("/v2/models/iris/infer", status, "/Error"+status, true)
		f("/v1/models/iris:predict", status, "/Error"+status, true)
		f("/iris/invocations", status, "/MLflowError"+status, true)
	}
}

// A name is called as the server resolves it: endpoints before models, the
// server's own paths before both.
func TestNames(t *testing.T) {
	sig := signature(inputs(spec("a", tensor.FP32, -1)), spec("y", tensor.FP32, -1))
	text := document(t,
		openapi.Service{Name: "x", Kind: openapi.KindModel, Signature: sig, Version: "model's"},
		openapi.Service{Name: "x", Kind: openapi.KindEndpoint, Signature: sig},
		openapi.Service{Name: "stats", Kind: openapi.KindModel, Signature: sig},
		openapi.Service{Name: "{a}/b?", Kind: openapi.KindModel, Signature: sig})
	if bytes.Contains(text, []byte("model's")) {
		t.Error("a hidden model is shown")
	}
	if got := at(t, text, "paths", "/v2/models/stats", "get"); !bytes.Contains(got,
		[]byte("Statistics")) {
		t.Errorf("/v2/models/stats: %s", got)
	}
	at(t, text, "paths", "/predict/%7Ba%7D%2Fb%3F")

	f := func(part string, services ...openapi.Service) {
		t.Helper()
		if _, err := openapi.Document(info, services); err == nil ||
			!strings.Contains(err.Error(), part) {
			t.Errorf("got the error %v, want one with %q", err, part)
		}
	}
	f("without a name", openapi.Service{Kind: openapi.KindModel, Signature: sig})
	f(`kind is "job"`, openapi.Service{Name: "x", Kind: "job", Signature: sig})
	f("no signature", openapi.Service{Name: "x", Kind: openapi.KindModel})
	one := openapi.Service{Name: "x", Kind: openapi.KindModel, Signature: sig}
	f("two services", one, one)
}

func TestServerURL(t *testing.T) {
	text, err := openapi.Document(openapi.Info{Title: "m", Version: "1",
		ServerURL: "https://models.example/"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := at(t, text, "servers")
	if want := `[{"url":"https://models.example"}]`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if bytes.Contains(document(t), []byte(`"servers"`)) {
		t.Error("an empty URL is listed")
	}
}

// Whatever stands in an example, the tensor that is shown has as many values as
// its shape says.
func FuzzExample(f *testing.F) {
	f.Add("5")
	f.Add(`[[1,2],[3,4]]`)
	f.Add(`[[1,2],[3]]`)
	f.Add(`[[],[]]`)
	f.Add(`[[1,2],"a"]`)
	f.Add(`{"a":[null,true]}`)
	sig := signature(inputs(spec("x", tensor.FP32, -1, -1, 2)), spec("y", tensor.FP32, -1))
	f.Fuzz(func(t *testing.T, example string) {
		var value any
		if json.Unmarshal([]byte(example), &value) != nil {
			return
		}
		text := document(t, openapi.Service{Name: "m", Kind: openapi.KindModel, Signature: sig,
			Example: map[string]any{"x": value}})
		var shown struct {
			Inputs []struct {
				Shape []int64
				Data  []float64
			}
		}
		if err := json.Unmarshal(at(t, text, "paths", "/v2/models/m/infer", "post", "requestBody",
			"content", "application/json", "example"), &shown); err != nil {
			t.Fatal(err)
		}
		in := shown.Inputs[0]
		if n, err := tensor.Elements(in.Shape); err != nil || n != int64(len(in.Data)) ||
			!tensor.Fits(in.Shape, []int64{1, -1, 2}) {
			t.Errorf("%s is shown with shape %v and %d values", example, in.Shape, len(in.Data))
		}
	})
}
