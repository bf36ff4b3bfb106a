package proof

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScores holds the scores of sample models against those that scikit-learn 1.9.1
// computes on the answers of ONNX Runtime's own package; see golden.py.
func TestScores(t *testing.T) {
	body, err := os.ReadFile("testdata/scores.json")
	if err != nil {
		t.Fatal(err)
	}
	scores := make(map[string]float64)
	if err := json.Unmarshal(body, &scores); err != nil {
		t.Fatal(err)
	}
	f := func(name, file, theirs string, m Metric) {
		t.Helper()
		want, ok := scores[name+" "+theirs]
		cfg := DefaultConfig()
		cfg.Golden, cfg.Metric, cfg.Bound = filepath.Join("testdata", file), m, want
		worse := 1e-3
		if metrics[m].isError {
			worse = -worse
		}
		cfg.Bound -= worse
		report, err := Check(t.Context(), version(t, name), t.TempDir(), cfg)
		if !ok || err != nil || math.Abs(report.Golden.Value-want) > 1e-9*want {
			t.Errorf("%s %s is %v, want %v: %v", name, m, report.Golden.Value, want, err)
		}
		cfg.Bound += 2 * worse
		got := outcome(version(t, name), t.TempDir(), cfg)
		holds(t, name, got, "proof: the version has failed: golden set: "+string(m),
			"is needed; row ", ", expected ")
		delete(scores, name+" "+theirs)
	}
	f("iris", "iris.csv", "accuracy_score", Accuracy)
	f("iris", "iris.csv", "balanced_accuracy_score", BalancedAccuracy)
	f("mlp", "mlp.json", "accuracy_score", Accuracy)
	f("mlp", "mlp.json", "balanced_accuracy_score", BalancedAccuracy)
	f("breast_cancer", "breast_cancer.json", "roc_auc_score", ROCAUC)
	f("breast_cancer", "breast_cancer.json", "accuracy_score", Accuracy)
	f("diabetes", "diabetes.csv", "r2_score", R2)
	f("diabetes", "diabetes.csv", "mean_absolute_error", MAE)
	f("diabetes", "diabetes.csv", "root_mean_squared_error", RMSE)
	if len(scores) > 0 {
		t.Errorf("these scores are of no use: %v", scores)
	}
}

// TestMetrics has small data, and what scikit-learn 1.9.1 makes of them.
func TestMetrics(t *testing.T) {
	f := func(m Metric, want float64, pairs ...float64) {
		t.Helper()
		var samples []sample
		for i := 0; i < len(pairs); i += 2 {
			s, err := metrics[m].read([]any{pairs[i]}, pairs[i+1])
			if err != nil {
				t.Fatal(err)
			}
			samples = append(samples, s)
		}
		got, err := metrics[m].score(samples)
		if err != nil || math.Abs(got-want) > 1e-12 {
			t.Errorf("%s of %v is %v (%v), want %v", m, pairs, got, err, want)
		}
	}
	f(ROCAUC, 0.6666666666666667, .1, 0, .4, 0, .4, 1, .8, 1, .4, 0, .35, 1)
	f(ROCAUC, 0.5, 1, 0, 1, 1, 1, 1)
	f(ROCAUC, 0, 2, 0, 1, 1)
	f(Accuracy, 0.6, 0, 0, 1, 1, 2, 1, 0, 1, 1, 1)
	f(BalancedAccuracy, 0.75, 0, 0, 1, 1, 2, 1, 0, 1, 1, 1)
	f(Accuracy, 0.75, 0.2, 0, 0.8, 1, 0.6, 0, 0.49, 0) // a probability is rounded
	f(R2, 0.9486081370449679, 2.5, 3, 0, -0.5, 2, 2, 8, 7)
	f(R2, -3, 3, 1, 2, 2, 1, 3)
	f(MAE, 0.5, 2.5, 3, 0, -0.5, 2, 2, 8, 7)
	f(RMSE, 0.6123724356957945, 2.5, 3, 0, -0.5, 2, 2, 8, 7)
}

// score scores a model on a golden set, by names such as iris.csv.
func score(t *testing.T, name, set string, m Metric) string {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Metric, cfg.Golden = m, filepath.Join(folder(t, name, set), name)
	return outcome(version(t, strings.TrimSuffix(name, filepath.Ext(name))), t.TempDir(), cfg)
}

func TestGolden(t *testing.T) {
	f := func(name, set string, m Metric, parts ...string) {
		t.Helper()
		holds(t, name+" "+set, score(t, name, set, m), parts...)
	}
	f("single.json", `{"inputs": [[1, 2], [5, 4]], "expected": {"y": [0, 1]}}`, Accuracy,
		"golden set: accuracy 1 over 2 rows, at least 0 is needed")
	f("single.csv", "a,y,b\r\n1,0,2\r\n\r\n5,1.0,4\r\n", Accuracy, "accuracy 1 over 2 rows")
	f("single.csv", "\ufeffy,a,\"b, c\"\n0,1,2\n0,\"5\",4", Accuracy, "accuracy 0.5 over 2 rows")
	f("mean.json", `{"inputs": {"x": [[1, 2], [5, 4]]}, "expected": {"y": [1, 0]}}`, Accuracy,
		"accuracy 1 over 2 rows")
	f("tips.json", `{"inputs": [{"total_bill": 34.8, "size": 4, "sex": "Female", "smoker": "No",
		"day": "Thur", "time": "Lunch"}], "expected": {"variable": [5.5]}}`, MAE,
		"golden set: mae 1.077 over 1 row, at most 0 is needed; row 0 is 4.423", ", expected 5.5")
	f("simple_string.json", `{"inputs": {"INPUT0": [["1","1","1","1","1","1","1","1","1","1",
		"1","1","1","1","1","1"]], "INPUT1": [["1","1","1","1","1","1","1","1","1","1","1","1",
		"1","1","1","1"]]}, "expected": {"OUTPUT0": ["2"]}}`, Accuracy,
		`it has 16 values, and "2" is no score`)
	f("logarithm.json", `{"inputs": [[1, 2], [3, -4]], "expected": {"y": [0, 1]}}`, Accuracy,
		"proof: the version has failed", `golden set: output "y" at [1,1] is NaN`)
	f("index.json", `{"inputs": [[1], [9]], "expected": {"y": [0, 1]}}`, Accuracy,
		"proof: the version has failed: golden set: rows 0 to 1: the model failed")
}

// TestUnusable has golden sets that say nothing of the version.
func TestUnusable(t *testing.T) {
	unusable := "? cannot try "
	f := func(name, set string, m Metric, parts ...string) {
		t.Helper()
		got := score(t, name, set, m)
		holds(t, name+" "+set[:min(len(set), 300)], got, append([]string{unusable}, parts...)...)
	}
	f("single.json", `{"inputs": [[1, 2]], "expected": {"y": [0, 1]}}`, Accuracy,
		"there are 1 rows of inputs and 2 expected values")
	f("single.json", `{"inputs": [[1, 2]], "expected": {"y": [null]}}`, Accuracy,
		"the expected value of row 0 is NaN")
	f("single.json", `{"inputs": [[1, 2]], "expected": {"y": [[0, 1]]}}`, MAE,
		"expected values: they are of shape [1,2]")
	f("single.json", `{"inputs": [[1, 2]], "expected": {"y": ["a"]}}`, MAE,
		"expected values: bad request")
	f("single.json", `{"inputs": [[1, 2]], "expected": {"z": [0]}}`, MAE,
		`"z" is expected, which is no output; the model has y`)
	f("single.json", `{"inputs": [[1, 2]], "expected": {}}`, MAE, "one output in")
	f("single.json", `{"inputs": [[1, 2]]}`, MAE, "one output in")
	f("single.json", `{"expected": {"y": [0]}}`, MAE, `there must be "inputs"`)
	f("single.json", `{"inputs": [], "expected": {"y": []}}`, MAE, "there are no rows")
	f("single.json", `{"inputs": [[NaN, 2]], "expected": {"y": [0]}}`, MAE, "'N'")
	f("single.json", `[`, MAE, "unexpected end of JSON")
	f("single.json", `{"inputs": [[1, 2]], "expected": {"y": [0]}}`, R2, "row 0",
		"it has 2 values, there must be one")
	f("single.json", `{"inputs": [[1, 2]], "expected": {"y": [2]}}`, ROCAUC,
		"2 is expected, must be 0 or 1")
	f("single.json", `{"inputs": [[1, 2]], "expected": {"y": [1]}}`, ROCAUC,
		"roc_auc needs rows of class 0 and of class 1")
	f("index.json", `{"inputs": [[1], [2]], "expected": {"y": [1, 1]}}`, R2,
		"r2 needs expected values that are not all the same")
	f("mlp.csv", "y\n1\n", ROCAUC, "there is no line of names")
	f("single.csv", "", MAE, "there is no line of names")
	f("single.csv", "a,b\n1,2\n", MAE, "0 columns are named as an output", "has y")
	f("single.csv", "a,y,y\n1,2,3\n", MAE, "2 columns are named as an output")
	f("single.csv", "a,b,y\n1,2\n", MAE, "line 2", "wrong number of fields")
	f("single.csv", "a,b,y\n1,\"2,3\n", MAE, "line")
	f("single.csv", "a,b,y\n1,x,3\n", Accuracy, "bad request", "row 0")
	f("single.csv", "a,b,y\n1,2,\n", Accuracy, "row 0 has no expected value")
	f("single.csv", "a,b,y\n1,2,NA\n", Accuracy, "the expected value of row 0 is NaN")
	f("single.csv", "a,b,y\n1,2,\xff\n", Accuracy, "UTF-8")
	f("second.json", `{"inputs": [[1, 2, 3], [4, 5, 6]], "expected": {"y": [0, 1, 1]}}`, Accuracy,
		`golden set: output "y" of shape [2,3] cannot be scored: it must have 3 rows`)
	f("index.csv", "x,y\n"+strings.Repeat("1,1\n", maxRows+1), Accuracy,
		"there are 100001 rows, 100000 at most are allowed")

	cfg := DefaultConfig()
	cfg.Golden = filepath.Join(t.TempDir(), "gone.csv")
	holds(t, "no file", outcome(version(t, "single"), t.TempDir(), cfg), unusable,
		"cannot use the golden set gone.csv", "no such file")
	cfg.Golden = t.TempDir() + "/"
	holds(t, "a folder", outcome(version(t, "single"), t.TempDir(), cfg), unusable, "must end in")
}
