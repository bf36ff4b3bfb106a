package delivery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/gateway/clients/venv"
	"github.com/millrace-ml/millrace/registry/mlflow"
	"github.com/millrace-ml/millrace/registry/mlflow/mlflowtest"
)

// lab is an MLflow server with the scripts that train models for it.
type lab struct {
	t      *testing.T
	server mlflowtest.Server
	python string
	rows   string // file
	client *mlflow.Client
}

func openLab(t *testing.T) *lab {
	t.Helper()
	registry := filepath.Join("..", "..", "..", "registry", "mlflow")
	python := venv.Python(t, filepath.Join(registry, "requirements.txt"))
	l := &lab{t: t, python: python, server: mlflowtest.Start(t, python),
		rows: filepath.Join(t.TempDir(), "rows.json")}
	client, err := mlflow.New(mlflow.Config{URI: l.server.URI}, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	l.client = client
	return l
}

// train registers a version for each kind.
func (l *lab) train(kinds ...string) {
	l.t.Helper()
	venv.Run(l.t, l.python, "train.py", append([]string{l.server.URI, "digits", l.rows},
		kinds...)...)
}

// name makes an alias point to a version.
func (l *lab) name(version, alias string) {
	l.t.Helper()
	ref := mlflow.Ref{Name: "digits", Version: version}
	if err := l.client.SetAlias(context.Background(), ref, alias); err != nil {
		l.t.Fatal(err)
	}
}

// bodies are requests for the rows that the models were trained on.
func (l *lab) bodies() [][]byte {
	l.t.Helper()
	text, err := os.ReadFile(l.rows)
	if err != nil {
		l.t.Fatal(err)
	}
	var rows [][]float32
	if err := json.Unmarshal(text, &rows); err != nil {
		l.t.Fatal(err)
	}
	all := make([][]byte, len(rows))
	for i, row := range rows {
		all[i] = infer("X", row)
	}
	return all
}

// alias returns the version that an alias names.
func (l *lab) alias(name string) string {
	v, err := l.client.VersionByAlias(context.Background(), "digits", name)
	if err != nil {
		return err.Error()
	}
	return v.Version
}

// tags returns the tags of a version.
func (l *lab) tags(version string) mlflow.Tags {
	l.t.Helper()
	ref := mlflow.Ref{Name: "digits", Version: version}
	v, err := l.client.GetVersion(context.Background(), ref)
	if err != nil {
		l.t.Fatal(err)
	}
	return v.Tags
}

// run returns the run of a rollout, with the paths of its artifacts, when it is over.
func (l *lab) run(id string) (*mlflow.Run, string) {
	ctx := context.Background()
	experiment, err := l.client.Experiment(ctx, "deliveries")
	if err != nil {
		l.t.Fatal(err)
	}
	var run *mlflow.Run
	until(l.t, "MLflow has the run of "+id, time.Minute, func() bool {
		run, err = l.client.FindRun(ctx, experiment, "millrace.rollout", id)
		return err == nil && run.Status != "RUNNING"
	})
	files, err := l.client.List(ctx, run.ArtifactURI)
	if err != nil {
		l.t.Fatal(err)
	}
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return run, strings.Join(paths, " ")
}

const labSettings = `
sources:
  - {name: lab, poll: 500ms, mlflow: {uri: %q, experiment: deliveries}}
models:
  - {name: digits, source: lab, batching: {max_batch_size: 1}}
endpoints:
  - name: digits
    stable: "@champion"
    canary:
      watch: "@challenger"
      shadow: {percent: 100, requests: 300, absolute: 0.3}
      steps: [10, 50]
      step: {min_time: 1s, min_requests: 200}
      guards:
        - {metric: errors}
        - {metric: latency, quantile: 0.95}
        - {metric: disagreement, max: 0.02}
      then: {alias: champion}
`

// TestMLflow goes the whole way with a real MLflow server: the first version serves, a better
// one is promoted, and three bad ones are rolled back for what is wrong with them.
func TestMLflow(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an MLflow server; make test runs it")
	}
	l := openLab(t)
	l.train("first", "better", "errors", "slow", "differs")
	l.name("1", "champion")
	dir := t.TempDir()
	write(t, dir, fmt.Sprintf(labSettings, l.server.URI))
	s := launch(t, dir)
	traffic := s.load("digits", l.bodies())
	until(t, "version 1 serves", 30*time.Second, func() bool {
		a, err := traffic.ask(0)
		return err == nil && a.status == http.StatusOK
	})
	traffic.start(4)
	defer traffic.end()

	l.name("2", "challenger")
	good := s.verdict("digits/1", 3*time.Minute)
	if good.State.Verdict != rollout.Successful {
		t.Fatalf("the better version: %+v", good.State.History)
	}
	until(t, "the alias champion moves", time.Minute, func() bool {
		return l.alias("champion") == "2"
	})
	until(t, "the version is tagged", time.Minute, func() bool {
		return l.tags("2")["millrace.verdict"] == "successful"
	})
	run, files := l.run("digits/1")
	if run.Status != "FINISHED" ||
		!contains(files, "weight.svg", "errors-evidence.svg", "rollout.json") {
		t.Errorf("the run is %s and has %s", run.Status, files)
	}

	for i, bad := range []struct{ kind, guard string }{
		{"errors", "errors"}, {"slow", "latency p95"}, {"differs", "disagreement"},
	} {
		version, name := fmt.Sprint(i+3), fmt.Sprintf("digits/%d", i+2)
		l.name(version, "challenger")
		v := s.verdict(name, 3*time.Minute)
		if v.State.Verdict != rollout.Failed || v.State.Guard != bad.guard {
			t.Errorf("%s: %s by %s, want failed by %s", bad.kind, v.State.Verdict, v.State.Guard,
				bad.guard)
		}
		until(t, "version "+version+" is tagged", time.Minute, func() bool {
			return l.tags(version)["millrace.verdict"] == "failed"
		})
		l.run(name)
	}
	if l.alias("champion") != "2" {
		t.Errorf("champion names version %s", l.alias("champion"))
	}
	traffic.statuses.Range(func(code, n any) bool {
		if code != 200 && code != 422 && code != 404 { // 404 before the first version came
			t.Errorf("some requests are answered with %v", code)
		}
		return true
	})
	t.Logf("%d requests were answered well, %d failed on a bad version",
		traffic.status(http.StatusOK), traffic.status(http.StatusUnprocessableEntity))
}
