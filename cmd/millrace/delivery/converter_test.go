package delivery_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
)

// The source plain has the same registry and no converter.
const converterSettings = `
sources:
  - name: lab
    poll: 500ms
    mlflow: {uri: %[1]q}
    convert: {command: [%[2]q, %[3]q]}
  - {name: plain, poll: 500ms, mlflow: {uri: %[1]q}}
models:
  - {name: scaled, source: lab}
  - {name: light, source: lab}
  - {name: boosted, source: lab}
  - {name: unconverted, source: plain, registered: scaled}
endpoints:
  - {name: scaled, stable: "@champion"}
  - {name: light, stable: "@champion"}
  - {name: boosted, stable: "@champion"}
`

// TestConverter serves models of scikit-learn, LightGBM and XGBoost through the example
// converter: their answers are those of the models themselves.
func TestConverter(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an MLflow server; make test runs it")
	}
	t.Parallel()
	l := openLab(t)
	converter, err := filepath.Abs(filepath.Join("..", "..", "..", "examples", "converter"))
	if err != nil {
		t.Fatal(err)
	}
	python := venv.Python(t, filepath.Join(converter, "requirements.txt"))
	file := filepath.Join(t.TempDir(), "answers.json")
	venv.Run(t, python, "register.py", l.server.URI, file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := decode[map[string]original](t, text)
	dir := t.TempDir()
	write(t, dir, fmt.Sprintf(converterSettings, l.server.URI, python,
		filepath.Join(converter, "convert.py")))
	s := launch(t, dir)
	for name, want := range all {
		s.answersLike(t, name, want)
	}
	if len(all) != 3 {
		t.Errorf("there are %d models", len(all))
	}
	for model, reason := range map[string]string{"scaled": "Ready champion",
		"light": "converted from lightgbm", "unconverted": "NotONNX"} {
		said := strings.Join(strings.Fields(s.must("describe", "model", model)), " ")
		if !strings.Contains(said, reason) {
			t.Errorf("model %s is described without %q:\n%s", model, reason, said)
		}
	}
}

// original is what a model answers to rows itself, by the names of its outputs.
type original struct {
	Rows    [][]float32
	Outputs map[string][]float64
}

// batch is how many rows a request has.
const batch = 50

// answersLike sends the rows, when the model serves.
func (s *server) answersLike(t *testing.T, name string, want original) {
	t.Helper()
	l := s.load(name, nil)
	for rows := range slices.Chunk(want.Rows, batch) {
		body, err := json.Marshal(map[string]any{"inputs": []any{map[string]any{"name": "input",
			"shape": []int{len(rows), len(rows[0])}, "datatype": "FP32",
			"data": slices.Concat(rows...)}}})
		if err != nil {
			t.Fatal(err)
		}
		l.rows = append(l.rows, body)
	}
	until(t, name+" serves", time.Minute, func() bool {
		a, err := l.ask(0)
		return err == nil && a.status != http.StatusNotFound
	})
	got := make(map[string][]float64)
	for i := range l.rows {
		a, err := l.ask(i)
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("%s answers with %d %s, %v", name, a.status, a.body, err)
		}
		said := decode[struct {
			Outputs []struct {
				Name string
				Data []float64
			}
		}](t, a.body)
		for _, o := range said.Outputs {
			got[o.Name] = append(got[o.Name], o.Data...)
		}
	}
	worst := 0.0
	for output, values := range want.Outputs {
		if len(got[output]) != len(values) || len(values) < len(want.Rows) {
			t.Fatalf("%s: output %s has %d values, want %d", name, output, len(got[output]),
				len(values))
		}
		for i, v := range values {
			worst = max(worst, math.Abs(got[output][i]-v)/max(1, math.Abs(v)))
		}
	}
	if len(got) != len(want.Outputs) || worst > 1e-4 {
		t.Errorf("%s has %d outputs, want %d; the worst value is %g off", name, len(got),
			len(want.Outputs), worst)
	}
	t.Logf("%s: %d rows, at most %.2g off", name, len(want.Rows), worst)
}
