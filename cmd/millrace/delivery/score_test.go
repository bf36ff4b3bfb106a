package delivery_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Answers of an endpoint whose monitor scores say how unusual their rows are: in all dialects by
// headers, and in the Open Inference Protocol by parameters.
func TestOutlierScore(t *testing.T) {
	dir := monitorSettings(t, rand.New(rand.NewPCG(8, 8)), newAlertmanager(t))
	path := filepath.Join(dir, "millrace.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "    outliers: 0.01\n    outlier_score: true\n"...)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	s := launch(t, dir)
	type scored struct {
		Parameters struct {
			Score   *float64 `json:"outlier_score"`
			Outlier *bool
		}
	}
	ask := func(path, body string) (http.Header, scored) {
		t.Helper()
		resp, err := s.client.Post("http://"+s.Addresses["http"]+path, "application/json",
			strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s, %v", path, resp.StatusCode, text, err)
		}
		var a scored
		_ = json.Unmarshal(text, &a) // others have lists
		return resp.Header, a
	}
	const plain = "/predict/iris"
	until(t, "answers are scored", 20*time.Second, func() bool {
		header, _ := ask(plain, "[[5.8, 3, 3.7, 1.2]]")
		return header.Get("x-millrace-outlier") != ""
	})
	f := func(row []float32, want bool) {
		t.Helper()
		list, err := json.Marshal([][]float32{row})
		if err != nil {
			t.Fatal(err)
		}
		_, a := ask("/v2/models/iris/infer", string(infer("X", row)))
		if a.Parameters.Score == nil || a.Parameters.Outlier == nil ||
			*a.Parameters.Outlier != want {
			t.Fatalf("%v has the parameters %+v, want an outlier: %v", row, a.Parameters, want)
		}
		score := fmt.Sprintf("%.4f", *a.Parameters.Score)
		for path, body := range map[string]string{"/v2/models/iris/infer": string(infer("X", row)),
			plain: string(list), "/v1/models/iris:predict": `{"instances":` + string(list) + `}`,
			"/iris/invocations": `{"inputs":` + string(list) + `}`} {
			header, _ := ask(path, body)
			if header.Get("x-millrace-outlier-score") != score ||
				header.Get("x-millrace-outlier") != fmt.Sprint(want) {
				t.Errorf("%s, %v: %v, want %s and %v", path, row, header, score, want)
			}
		}
	}
	f([]float32{5.8, 3, 3.7, 1.2}, false)
	f([]float32{5.5, 3.1, 2.9, 1}, false)
	f([]float32{5.8, 3, 60, 1.2}, true)
	f([]float32{5.8, -4, 3.7, 1.2}, true)
}
