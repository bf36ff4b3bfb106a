package model

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func TestWarmup(t *testing.T) {
	// f serves a model with a warm-up request; fault is why it is refused.
	f := func(model []byte, config, fault string) {
		t.Helper()
		root := t.TempDir()
		write(t, filepath.Join(root, "m", "1", "model.onnx"), model)
		write(t, filepath.Join(root, "m", "config.pbtxt"), []byte(config))
		write(t, filepath.Join(root, "m", "warmup", "rows"), floats(1, 2, 3, 4))
		write(t, filepath.Join(root, "m", "warmup", "words"),
			tensor.AppendElement(tensor.AppendElement(nil, "a"), "b"))
		write(t, filepath.Join(root, "m", "secret"), floats(1, 2, 3, 4))
		if err := os.Symlink("../secret", filepath.Join(root, "m", "warmup", "link")); err != nil {
			t.Fatal(err)
		}
		got := index(open(t, root, nil), "m")
		if fault == "" && got != "1 READY" || fault != "" && (!strings.Contains(got, fault) ||
			!strings.HasPrefix(got, "1 UNAVAILABLE (model_warmup")) {
			t.Errorf("%s: the index is %s, want %q", config, got, fault)
		}
	}
	request := func(more, input string) string {
		return `max_batch_size: 4 model_warmup [ { name: "w" ` + more +
			` inputs { key: "x" value: { ` + input + ` } } } ]`
	}
	add := addModel(1)
	const x = "data_type: TYPE_FP32 dims: [ 4 ] "
	f(add, request("batch_size: 4 count: 3", x+"random_data: true"), "")
	f(add, request("", x+"zero_data: true"), "")
	f(add, request("batch_size: 1", x+`input_data_file: "rows"`), "")
	f(add, request("batch_size: 2", x+`input_data_file: "rows"`), "takes 32 bytes, got 16")
	f(add, request("", `data_type: TYPE_FP32 dims: [ 2 ] input_data_file: "rows"`),
		"its shape is [1,2]")
	f(add, request("", x+`input_data_file: "none"`), `there is no file "none"`)
	f(add, request("", x+`input_data_file: "../secret"`), "leads out of the folder warmup")
	f(add, request("", x+`input_data_file: "link"`), "leads out of its folder")
	f(add, request("batch_size: 5", x+"zero_data: true"), "batch_size is 5, max_batch_size is 4")
	f(add, request("count: 4000000000", x+"zero_data: true"), "must be at most 10000")
	f(add, request("", x), "give zero_data, random_data or input_data_file")
	f(add, request("", "data_type: TYPE_FP64 dims: [ 4 ] zero_data: true"),
		"the model's is TYPE_FP32")
	f(add, request("", "data_type: TYPE_FP32 dims: [ -1 ] zero_data: true"), "negative dimension")
	f(add, `model_warmup [ { } ]`, `input "x" is missing`)
	f(add, `model_warmup [ { inputs { key: "z" value: { } } } ]`,
		`input "z" is not one of the model`)
	f(add, strings.Repeat("model_warmup [ { } ] ", maxWarmups+1), "at most 100 are run")

	// A request that the model cannot answer: five rows where its own are four.
	onlyFour := onnx(value("x", -1, -1), value("y", -1, 4),
		[]pb{operator("Add", "y", "x", "c")},
		[]pb{constant("c", onnxFloat, floats(1, 2, 3, 4), 4)})
	f(onlyFour, request("", `data_type: TYPE_FP32 dims: [ 5 ] random_data: true`), "onnxruntime: ")
}

// TestWarmupOfStrings: words are made up, empty, or come from a file.
func TestWarmupOfStrings(t *testing.T) {
	model, err := os.ReadFile("../../configs/models/simple_identity/1/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "1", "model.onnx"), model)
	write(t, filepath.Join(root, "m", "warmup", "words"),
		tensor.AppendElement(tensor.AppendElement(nil, "a"), "bc"))
	config := "max_batch_size: 4 "
	for _, source := range []string{"zero_data: true", "random_data: true",
		`input_data_file: "words"`} {
		config += `model_warmup [ { inputs { key: "INPUT0" value: { data_type: TYPE_STRING ` +
			`dims: [ 2 ] ` + source + ` } } } ] `
	}
	write(t, filepath.Join(root, "m", "config.pbtxt"), []byte(config))
	if got := index(open(t, root, nil), "m"); got != "1 READY" {
		t.Errorf("the index is %s", got)
	}
}
