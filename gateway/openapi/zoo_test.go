package openapi_test

import (
	"encoding/json"
	"testing"

	"github.com/millrace-ml/millrace/gateway/openapi"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// spec is an input or output with rows along its first axis.
func spec(name string, d tensor.Datatype, shape ...int64) tensor.Spec {
	return tensor.Spec{Name: name, Datatype: d, Shape: shape}
}

func signature(inputs []tensor.Spec, outputs ...tensor.Spec) *tensor.Signature {
	return &tensor.Signature{Inputs: inputs, Outputs: outputs, MaxBatchSize: 8}
}

func inputs(specs ...tensor.Spec) []tensor.Spec { return specs }

// hostile is a name that would be code if anything took it for some.
const hostile = `<img src=x onerror="document.title='broken in'">`

// zoo has a service for each kind of signature.
func zoo() []openapi.Service {
	flower := spec("X", tensor.FP32, -1, 4)
	for _, name := range []string{"sepal_length", "sepal_width", "petal_length", "petal_width"} {
		flower.Columns = append(flower.Columns, tensor.Column{Name: name, Type: "double"})
	}
	counts := spec("counts", tensor.FP64, -1, 2)
	counts.Columns = []tensor.Column{{Name: "n", Type: "long"}, {Name: "m", Optional: true}}
	scores := spec("probabilities", tensor.FP32, -1, 3)
	scores.Labels = []string{"setosa", "versicolor", "virginica"}
	picture := spec("image", tensor.FP32, -1, 3, 32, 32)
	sequence := spec("tokens", tensor.Int64, 16, -1)
	sequence.BatchAxis, sequence.DimNames = 1, []string{"", "batch"}
	whole := spec("x", tensor.Int8, 2, -1)
	whole.BatchAxis = -1
	alone := signature(inputs(whole), whole)
	alone.MaxBatchSize = 0
	extra := spec("weight", tensor.FP16, -1, 1)
	extra.Optional = true
	scalar := spec("day", tensor.Bytes, -1)
	scalar.Columns = []tensor.Column{{Name: "weekday", Type: "string"}}

	y := spec("y", tensor.FP32, -1, 1)
	model := func(name string, sig *tensor.Signature) openapi.Service {
		return openapi.Service{Name: name, Kind: openapi.KindModel, Version: "1", Signature: sig}
	}
	services := []openapi.Service{
		model("counts", signature(inputs(counts), y)),
		model("tips", signature(inputs(spec("total_bill", tensor.FP32, -1, 1),
			spec("size", tensor.Int64, -1, 1), spec("smoker", tensor.Bool, -1, 1),
			spec("day", tensor.Bytes, -1), extra), y)),
		model("picture", signature(inputs(picture), scores)),
		model("small picture", signature(inputs(spec("image", tensor.Uint8, -1, 1, 2, 3)), scores)),
		model("sequence", signature(inputs(sequence), spec("tokens", tensor.Int64, -1, -1))),
		model("alone", alone),
		model("day", signature(inputs(scalar), y)),
		model("nothing", signature(nil, y)),
		model(hostile, signature(inputs(spec(hostile, tensor.FP32, -1, 2)), y)),
	}
	return append(services, openapi.Service{
		Name: "iris", Kind: openapi.KindEndpoint, Version: "7", Description: "Kinds of iris",
		Signature: signature(inputs(flower), spec("label", tensor.Bytes, -1), scores),
		Example:   map[string]any{"sepal_length": 5.1, "sepal_width": 3.5, "petal_width": "wide"},
	})
}

var info = openapi.Info{Title: "millrace", Version: "1.2.3"}

func document(t *testing.T, services ...openapi.Service) []byte {
	t.Helper()
	text, err := openapi.Document(info, services)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// at returns what lies in JSON under the keys.
func at(t *testing.T, text []byte, keys ...string) json.RawMessage {
	t.Helper()
	for _, key := range keys {
		var all map[string]json.RawMessage
		if err := json.Unmarshal(text, &all); err != nil {
			t.Fatalf("%q is not in an object: %v: %.100s", key, err, text)
		}
		text = all[key]
		if text == nil {
			t.Fatalf("there is no %q", key)
		}
	}
	return text
}
