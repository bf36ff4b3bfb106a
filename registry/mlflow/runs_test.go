package mlflow_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/mlflow"
)

// TestLogBatch holds the calls that a batch becomes against the limits of MLflow.
func TestLogBatch(t *testing.T) {
	type call struct {
		RunID                 string `json:"run_id"`
		Metrics, Params, Tags []json.RawMessage
	}
	f := func(b mlflow.Batch, want string) {
		t.Helper()
		var got []string
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			var c call
			if err := json.Unmarshal(body, &c); err != nil || c.RunID != "r" {
				t.Errorf("%v: %.100s", err, body)
			}
			if len(body) > 1e6 {
				t.Errorf("a call has %d bytes", len(body))
			}
			got = append(got, fmt.Sprint(len(c.Metrics), len(c.Params), len(c.Tags)))
			_, _ = w.Write([]byte("{}"))
		})
		if err := c.LogBatch(context.Background(), "r", b); err != nil {
			t.Error(err)
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("the calls are %s, want %s", s, want)
		}
	}
	metrics := make([]mlflow.Metric, 2500)
	for i := range metrics {
		metrics[i] = mlflow.Metric{Key: "m", Value: float64(i), Time: time.Now(), Step: int64(i)}
	}
	many := func(n int, value string) map[string]string {
		m := make(map[string]string)
		for i := range n {
			m[fmt.Sprintf("k%03d", i)] = value
		}
		return m
	}
	f(mlflow.Batch{}, "")
	f(mlflow.Batch{Metrics: metrics}, "1000 0 0, 1000 0 0, 500 0 0")
	f(mlflow.Batch{Metrics: metrics, Params: many(3, ""), Tags: many(2, "x")},
		"995 3 2, 1000 0 0, 505 0 0")
	f(mlflow.Batch{Params: many(250, "x")}, "0 100 0, 0 100 0, 0 50 0")
	f(mlflow.Batch{Tags: many(101, "x")}, "0 0 100, 0 0 1")
	// A < has six bytes in JSON.
	f(mlflow.Batch{Params: many(50, strings.Repeat("<", 6000))}, "0 27 0, 0 23 0")
	f(mlflow.Batch{Tags: many(100, strings.Repeat("ü", 8000))}, "0 0 61, 0 0 39")
}

// TestLimits refuses what MLflow would, before sending anything.
func TestLimits(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("something was sent") })
	ctx := context.Background()
	long := strings.Repeat("ü", 251)
	f := func(b mlflow.Batch, class error) {
		t.Helper()
		err := c.LogBatch(ctx, "r", b)
		if err == nil || class != nil && !errors.Is(err, class) {
			t.Errorf("got %v, want %v", err, class)
		}
	}
	f(mlflow.Batch{Metrics: []mlflow.Metric{{Key: long}}}, mlflow.ErrLimit)
	f(mlflow.Batch{Params: map[string]string{long: "v"}}, mlflow.ErrLimit)
	f(mlflow.Batch{Params: map[string]string{"k": strings.Repeat("x", 6001)}}, mlflow.ErrLimit)
	f(mlflow.Batch{Tags: mlflow.Tags{"k": strings.Repeat("x", 8001)}}, mlflow.ErrLimit)
	f(mlflow.Batch{Tags: mlflow.Tags{"": "v"}}, nil)
	n := mlflow.NewRun{ExperimentID: "1", Tags: mlflow.Tags{long: "v"}}
	if _, err := c.CreateRun(ctx, n); !errors.Is(err, mlflow.ErrLimit) {
		t.Errorf("got %v", err)
	}
}

func TestMetricJSON(t *testing.T) {
	f := func(value float64, want string) {
		t.Helper()
		got, err := json.Marshal(mlflow.Metric{Key: "k", Value: value,
			Time: time.UnixMilli(1795464900246), Step: -3})
		want = `{"key":"k","value":` + want + `,"timestamp":1795464900246,"step":-3}`
		if err != nil || string(got) != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
	f(0.1, "0.1")
	f(math.NaN(), `"NaN"`)
	f(math.Inf(1), `"Infinity"`)
	f(math.Inf(-1), `"-Infinity"`)
}

// TestExperimentRace lets someone else make the experiment between two calls.
func TestExperimentRace(t *testing.T) {
	made := false
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/create"):
			made = true
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error_code": "RESOURCE_ALREADY_EXISTS"}`))
		case made:
			_, _ = w.Write([]byte(`{"experiment": {"experiment_id": "7"}}`))
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"error_code": "RESOURCE_DOES_NOT_EXIST"}`))
		}
	})
	if id, err := c.Experiment(context.Background(), "e"); id != "7" || err != nil {
		t.Errorf("%q, %v", id, err)
	}
}
