package gateway_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/model"
)

// TestLoadWithFiles: a load request may bring the model's files along.
func TestLoadWithFiles(t *testing.T) {
	onnx, err := os.ReadFile("../configs/models/simple/1/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, model.ModeExplicit, t.TempDir(), nil)
	const config = `{"max_batch_size": 8}`
	f := func(path string, parameters map[string]any, status int, text string) {
		t.Helper()
		body, err := json.Marshal(map[string]any{"parameters": parameters})
		if err != nil {
			t.Fatal(err)
		}
		got, answer := post(t, s.network, "/v2/repository/models/"+path, body)
		if got != status || !strings.Contains(string(answer), text) {
			t.Errorf("%s: %d %s, want %d with %q", path, got, answer, status, text)
		}
	}
	file := base64.StdEncoding.EncodeToString(onnx)
	f("up/load", map[string]any{"file:1/model.onnx": file}, 400, "need the parameter config")
	f("up/load", map[string]any{"config": config, "file:1/model.onnx": "%"}, 400, "is not base64")
	f("up/load", map[string]any{"config": config, "file:1/model.onnx": 1}, 400,
		"a string of base64")
	f("up/load", map[string]any{"config": config, "file:../x": file}, 400, "must be")
	f("up/load", map[string]any{"config": config, "fiel:1/model.onnx": file}, 400, "load takes")
	f("up/load", map[string]any{"config": config, "file:1/model.onnx": file}, 200, "")
	row := strings.TrimSuffix(strings.Repeat("1,", 16), ",")
	status, answer := post(t, s.network, "/v2/models/up/infer", []byte(
		`{"inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1, 16], "data": [`+row+
			`]}, {"name": "INPUT1", "datatype": "INT32", "shape": [1, 16], "data": [`+row+`]}]}`))
	if status != 200 {
		t.Errorf("infer: %d %s", status, answer)
	}
	f("up/unload", map[string]any{"unload_dependents": "yes"}, 400, "unload")
	f("up/unload", map[string]any{"unload_dependents": true}, 200, "")
}
