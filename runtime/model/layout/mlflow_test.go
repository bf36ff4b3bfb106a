package layout

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// mlmodel is an MLmodel file as MLflow writes it, with a signature.
func mlmodel(inputs, outputs string) string {
	return `artifact_path: model
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_session_options: null
    onnx_version: 1.15.0
    providers:
    - CUDAExecutionProvider
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.onnx
mlflow_version: 2.12.2
signature:
  inputs: '` + inputs + `'
  outputs: '` + outputs + `'
  params: null
utc_time_created: '2026-11-23 18:00:23.787750'
`
}

func TestParseMLmodel(t *testing.T) {
	f := func(text, file, fault string) {
		t.Helper()
		m, err := ParseMLmodel([]byte(text))
		if fault != "" {
			if err == nil || !strings.Contains(err.Error(), fault) || !errors.Is(err, ErrLayout) {
				t.Errorf("%s: the error is %v, want one with %q", text, err, fault)
			}
		} else if err != nil || m.File != file {
			t.Errorf("%s: got %v, %v, want the file %s", text, m, err, file)
		}
	}
	f("flavors: {onnx: {data: model.onnx}}", "model.onnx", "")
	f("flavors: {onnx: {data: a/b.onnx}, python_function: {env: conda.yaml}}", "a/b.onnx", "")
	f("flavors: {onnx: {data: m}}\nsignature: {inputs: null, outputs: null}", "m", "")
	f("flavors: {sklearn: {}, python_function: {}}", "", "python_function, sklearn, not onnx")
	f("flavors: {onnx: {}}", "", `names the file ""`)
	f("flavors: {onnx: {data: ../x}}", "", `names the file "../x"`)
	f("flavors: [", "", "not as MLflow writes it")
	f(mlmodel("[", ""), "", "the inputs of the signature")
	f(mlmodel("", `[{"type": "tensor"}]`), "", "a tensor without tensor-spec")
}

func TestSignature(t *testing.T) {
	// f holds signatures against a model; want is the shape of its first input
	// that comes out, or a part of the error.
	f := func(inputs, outputs, model, want string) {
		t.Helper()
		m, err := ParseMLmodel([]byte(mlmodel(inputs, outputs)))
		if err != nil {
			t.Fatal(err)
		}
		in, out, _ := strings.Cut(model, " -> ")
		sig := &tensor.Signature{Inputs: specs(in), Outputs: specs(out)}
		got := ""
		if err := m.narrow(sig); err != nil {
			got = err.Error()
		} else {
			got = tensor.FormatShape(sig.Inputs[0].Shape)
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s %s of %s: got %s, want %s", inputs, outputs, model, got, want)
		}
	}
	spec := func(name, dtype, shape string) string {
		return `[{"name": "` + name + `", "type": "tensor", "tensor-spec": {"dtype": "` + dtype +
			`", "shape": ` + shape + `}}]`
	}
	const model = "x FP32 n,m -> y FP32 n,k"
	f("", "", model, "[-1,-1]")
	f(spec("x", "float32", "[-1, 4]"), "", model, "[-1,4]")
	f(spec("x", "float32", "[1, 4]"), "", model, "[1,4]")
	f(`[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]`, "", model,
		"[-1,4]")
	f(spec("x", "float64", "[-1, 4]"), "", model, `input "x" is float64, the model's is FP32`)
	f(spec("x", "float32", "[-1, 4, 4]"), "", model, "[-1,4,4], the model's has [-1,-1]")
	f(spec("x", "float32", "[-1, 5]"), "", "x FP32 n,4 -> y FP32 n", "the model's has [-1,4]")
	f(spec("z", "float32", "[-1, 4]"), "", model, `input "z" is not one of the model, which has x`)
	f(spec("x", "float32", "[-1, 4]"), "", "x FP32 n,4; z FP32 n -> y FP32 n",
		`input "z" of the model is missing`)
	f(spec("s", "str", "[-1]"), "", "s BYTES n -> y FP32 n", "[-1]")
	f("", spec("y", "int64", "[-1]"), model, `output "y" is int64`)
	f("", spec("p", "float32", "[-1]"), model, `output "p" is not one of the model`)

	// Columns that are the inputs.
	f(`[{"type": "double", "name": "a"}, {"type": "string", "name": "b", "required": true}]`, "",
		"a FP32 n,m; b BYTES n,1 -> y FP32 n", "[-1,1]")
	f(`[{"type": "long", "name": "a"}]`, "", "a FP32 n,1 -> y FP32 n", `column "a" is long`)
	f(`[{"type": "integer", "name": "a"}]`, "", "a INT32 n -> y FP32 n", "[-1]")
	f(`[{"type": "boolean", "name": "a"}]`, "", "a BOOL n,1 -> y FP32 n", "[-1,1]")
	f(`[{"type": "binary", "name": "a"}]`, "", "a INT64 n,1 -> y FP32 n", `column "a" is binary`)
	f(`[{"type": "float", "name": "a"}]`, "", "a FP32 n,3 -> y FP32 n", "one value a row")
	f(`[{"type": "float", "name": "a"}]`, "", "a FP32 n,1; b FP32 n,1 -> y FP32 n",
		`input "b" of the model is missing`)
	f(`[{"type": "float", "name": "a"}, {"type": "float", "name": "z"}]`, "",
		"a FP32 n,1; b FP32 n,1 -> y FP32 n", `column "z" is not an input of the model`)
	f(`[{"type": "array", "items": {"type": "float"}, "name": "x"}]`, "", "x FP32 n,4 -> y FP32 n",
		"[-1,4]")

	// Columns of one matrix.
	columns := `[{"type": "double", "name": "a"}, {"type": "long", "name": "b"}]`
	f(columns, "", model, "[-1,2]")
	f(columns, "", "x FP32 n,2 -> y FP32 n", "[-1,2]")
	f(columns, "", "x FP32 n,3 -> y FP32 n", "it has 2 columns, the model's input")
	f(`[{"type": "string", "name": "a"}]`, "", "x FP32 n,1 -> y FP32 n", "are not numbers")
	f(columns, "", "x FP32 n,2,2 -> y FP32 n", `column "a" is not an input`)
	f("", `[{"type": "float", "name": "prediction"}]`, "x FP32 n,2 -> y FP32 n", "[-1,2]")
}

func FuzzParseMLmodel(f *testing.F) {
	f.Add([]byte(mlmodel(`[{"type": "double", "name": "a", "required": true}]`, "")))
	f.Add([]byte(mlmodel(
		`[{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]`,
		`[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": []}}]`)))
	f.Add([]byte("flavors: {onnx: {data: model.onnx}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseMLmodel(text)
		if err != nil {
			if !errors.Is(err, ErrLayout) {
				t.Errorf("the error is not ErrLayout: %v", err)
			}
			return
		}
		for _, model := range []string{"x FP32 n,4", "a FP32 n; b BYTES n,1", "x FP32"} {
			// Errors are fine here; what must not be is a panic.
			_ = m.narrow(&tensor.Signature{Inputs: specs(model), Outputs: specs("y FP32 n,2")})
		}
	})
}
