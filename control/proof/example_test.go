package proof

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
)

func TestExample(t *testing.T) {
	f := func(name, file, example string, parts ...string) {
		t.Helper()
		got := outcome(version(t, name), folder(t, file, example), DefaultConfig())
		holds(t, name+" "+example[:min(len(example), 300)], got, parts...)
	}
	// As it was given.
	f("mean", exampleFile, `[[1, 2], [3, 4]]`, "input example of 2 rows")
	f("mean", exampleFile, ` {"x": [[1, 2], [3, 4]]}`, "of 2 rows")
	f("mean", exampleFile, `{"inputs": [[1, 2]]}`, "of 1 row")
	f("mean", exampleFile, `{"instances": [[1, 2]]}`, "of 1 row")
	f("mean", exampleFile, `{"columns": ["a", "b"], "data": [[1, 2], [3, 4], [5, 6]]}`, "of 3 rows")
	f("mean", exampleFile, `{"data": [[1, 2]]}`, "of 1 row")
	f("mean", exampleFile, `{"inputs": {"data": [[1, 2]]}, "params": {"a": 1}}`, "of 1 row")
	f("single", exampleFile, `[[1, 2], [3, 4]]`, "of 2 rows") // one after the other
	f("second", exampleFile, `[[1, 2, 3], [4, 5, 6]]`, "of 3 rows")
	f("iris", exampleFile, `[{"sepal length (cm)": 5, "sepal width (cm)": 3,
		"petal length (cm)": 1, "petal width (cm)": 1}]`, "of 1 row")
	f("tips", exampleFile, `{"columns": ["total_bill", "size", "sex", "smoker", "day", "time"],
		"data": [[34.8, 4, "Female", "No", "Thur", "Lunch"]]}`, "of 1 row")
	f("tips", exampleFile, `[{"total_bill": 34.8, "size": 4, "sex": "Female", "smoker": "No",
		"day": "Thur", "time": "Lunch"}]`, "of 1 row")
	// As it is sent.
	f("mean", servingFile, `{"inputs": [[1, 2], [3, 4]]}`, "of 2 rows")
	f("mean", servingFile, `{"inputs": {"x": [[1, 2]]}, "params": {"a": 1}}`, "of 1 row")
	f("mean", servingFile, `{"dataframe_split": {"data": [[1, 2]]}}`, "of 1 row")

	failed := "proof: the version has failed: input example: "
	f("logarithm", servingFile, `{"inputs": [[1, 2], [3, -4]]}`,
		failed+`output "y" at [1,1] is NaN, must be a finite number`)
	f("logarithm", servingFile, `{"inputs": [[0, 2]]}`, failed, "[0,0] is -Inf")
	f("index", servingFile, `{"inputs": [[9]]}`, failed, "the model failed on this input")
	f("wide", servingFile, `{"inputs": [[3], [2]]}`, "of 2 rows")
	f("wide", servingFile, `{"inputs": [[4], [2]]}`, failed)
	f("mean", servingFile, `{"inputs": [[1, 2, 3]]}`, failed, "unexpected shape for input 'x'",
		"Expected [-1,2], got [1,3]")
	f("mean", servingFile, `{"inputs": []}`, failed, "there are no rows")
	f("mean", servingFile, `{"inputs": [["a", 2]]}`, failed+"the model does not take that of "+
		"serving_input_example.json: bad request")
	f("mean", servingFile, `{"inputs": [[NaN, 2]]}`, failed, "not valid JSON")
	f("mean", servingFile, `[[1, 2]]`, failed, "bad request")
	f("mean", servingFile, `{"prompt": "hello"}`, failed, "exactly one of dataframe_split")
	f("mean", exampleFile, `"hello"`, failed, "bad request")
	f("mean", exampleFile, `null`, failed, "unexpected shape for input 'x'")
	f("tips", exampleFile, `{"columns": ["total_bill"], "data": [[34.8]]}`, failed, "'size'")
	f("tips", exampleFile, `{"total_bill": [[1], [2]], "size": [[4]], "sex": [["Female"]],
		"smoker": [["No"]], "day": [["Thur"]], "time": [["Lunch"]]}`, failed,
		`input "size" has 1 rows, others have 2`)
	f("mean", exampleFile, `{"data": [1, 2], "indices": [0], "indptr": [0], "shape": [1, 2]}`,
		failed, "bad request")
}

// TestMLflow3 has the current MLflow write models with examples.
func TestMLflow3(t *testing.T) { logged(t, "requirements.txt") }

// TestMLflow2 has the last MLflow 2 do so.
func TestMLflow2(t *testing.T) { logged(t, "mlflow2-requirements.txt") }

func logged(t *testing.T, requirements string) {
	dir := t.TempDir()
	t.Setenv("MLFLOW_DISABLE_TELEMETRY", "true")
	venv.Run(t, venv.Python(t, filepath.Join("../../registry/mlflow", requirements)),
		"examples.py", dir)
	r, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := func(name string, rows int) {
		t.Helper()
		v, err := r.Acquire([]byte(name), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Release()
		want := fmt.Sprintf("input example of %d rows", rows)
		files := filepath.Join(dir, name, "1")
		if got := outcome(v, files, DefaultConfig()); got != want {
			t.Errorf("%s: it says %q, want %q", name, got, want)
		}
		if err := os.Remove(filepath.Join(files, servingFile)); err != nil {
			t.Fatal(err)
		}
		if got := outcome(v, files, DefaultConfig()); got != want {
			t.Errorf("%s, as it was given: it says %q, want %q", name, got, want)
		}
	}
	f("frame", 3)
	f("array", 2)
	f("values", 4)
	f("dictionary", 5)
	f("parameters", 2)
	f("records", 2)
	f("pair", 2)
	f("pairs", 2)
}
