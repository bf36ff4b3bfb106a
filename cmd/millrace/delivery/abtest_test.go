package delivery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/registry/mlflow"
)

const abSettings = `
sources:
  - {name: lab, poll: 500ms, mlflow: {uri: %q, experiment: deliveries}}
models:
  - {name: digits, source: lab}
`

const abEndpoint = `
endpoints:
  - {name: ab, model: digits, stable: "1"%s}
`

// TestABTestRun has an A/B test of versions in a real MLflow server, kills the process in its
// midst, and ends it: what was found is a run beside them.
func TestABTestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an MLflow server; make test runs it")
	}
	l := openLab(t)
	l.train("first", "better")
	dir := t.TempDir()
	write(t, dir, fmt.Sprintf(abSettings, l.server.URI))
	s := launch(t, dir)
	apply := func(arms string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "endpoint.yaml")
		if err := os.WriteFile(file, fmt.Appendf(nil, abEndpoint, arms), 0o644); err != nil {
			t.Fatal(err)
		}
		s.must("apply", "-f", file)
	}
	apply(`, arms: [{name: bold, version: "2", weight: 50}]`)
	rows := l.bodies()
	var test control.Test
	until(t, "the test begins", 30*time.Second, func() bool { return s.get("tests/ab/1", &test) })

	calls, answered, good := 0, 0, 0
	traffic := func(n int) {
		t.Helper()
		for range n {
			version, ok := s.callAndReward(fmt.Sprintf("call-%d", calls), rows[calls%len(rows)])
			calls++
			if ok {
				answered++
			}
			if version == "2" {
				good++
			}
		}
	}
	until(t, "both versions serve", 30*time.Second, func() bool {
		traffic(1)
		return good > 0
	})
	traffic(200)
	before := calls
	until(t, "the calls are kept", 30*time.Second, func() bool {
		test = control.Test{}
		return s.get("tests/ab/1", &test) && lastRequests(&test) == uint64(before)
	})
	s.Kill()
	s = launch(t, dir)
	until(t, "the endpoint serves again", 30*time.Second, func() bool {
		_, ok := s.callAndReward("again", rows[0])
		return ok
	})
	answered++
	traffic(100)
	t.Log(s.must("get", "tests"))
	apply("")

	l.wantTestRun(calls, answered)
}

// wantTestRun checks the run of TestABTestRun after so many calls, each of whose answers had
// feedback.
func (l *lab) wantTestRun(calls, answered int) {
	l.t.Helper()
	run := l.testRun("ab/1")
	var requests, rewards float64
	for _, arm := range []string{"stable", "bold"} {
		requests += run.Metrics[arm+".requests"]
		rewards += run.Metrics[arm+".feedback"]
		if run.Metrics[arm+".reward"] != map[string]float64{"stable": 0, "bold": 1}[arm] {
			l.t.Errorf("%s earned %v", arm, run.Metrics[arm+".reward"])
		}
	}
	if run.Params["bold.version"] != "2" || run.Params["strategy"] != "ab_test" ||
		run.Tags["millrace.best"] != "bold" || requests < float64(calls) ||
		rewards != float64(answered) {
		l.t.Errorf("after %d calls, %d answered, the run has %v, %v, %v", calls, answered,
			run.Params, run.Tags, run.Metrics)
	}
	l.t.Logf("%d calls: %s", calls, run.Tags["mlflow.note.content"])
}

func lastRequests(t *control.Test) (n uint64) {
	for _, c := range t.Points[len(t.Points)-1].Arms {
		n += c.Requests
	}
	return n
}

// callAndReward calls endpoint ab, and rewards the answer when it is of version 2. It says whether
// there was one.
func (s *server) callAndReward(id string, body []byte) (version string, ok bool) {
	s.t.Helper()
	post := func(path string, body []byte) *http.Response {
		at := "http://" + s.Addresses["http"] + path
		req, err := http.NewRequest("POST", at, bytes.NewReader(body))
		if err != nil {
			s.t.Fatal(err)
		}
		req.Header.Set("x-request-id", id)
		resp, err := s.client.Do(req)
		if err != nil {
			s.t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp
	}
	resp := post("/v2/models/ab/infer", body)
	if resp.StatusCode != http.StatusOK {
		return "", false
	}
	version = resp.Header.Get("x-millrace-version")
	reward := 0
	if version == "2" {
		reward = 1
	}
	resp = post("/v2/feedback", fmt.Appendf(nil, `{"id": %q, "reward": %d}`, id, reward))
	if resp.StatusCode != http.StatusOK {
		s.t.Errorf("feedback is answered with %d", resp.StatusCode)
	}
	return version, true
}

// testRun is a run of MLflow, with its last values.
type testRun struct {
	Metrics      map[string]float64
	Params, Tags map[string]string
}

// testRun waits for the run of a test, with all of its artifacts.
func (l *lab) testRun(name string) testRun {
	l.t.Helper()
	ctx := context.Background()
	experiment, err := l.client.Experiment(ctx, "deliveries")
	if err != nil {
		l.t.Fatal(err)
	}
	var run *mlflow.Run
	until(l.t, "MLflow has the run of "+name, time.Minute, func() bool {
		run, err = l.client.FindRun(ctx, experiment, "millrace.test", name)
		return err == nil && run.Status == "FINISHED"
	})
	files, err := l.client.List(ctx, run.ArtifactURI)
	if err != nil || len(files) != 4 {
		l.t.Errorf("the run has the files %v, %v", files, err)
	}
	resp, err := http.Get(l.server.URI + "/api/2.0/mlflow/runs/get?run_id=" + run.ID)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	type text struct{ Key, Value string }
	var answer struct {
		Run struct {
			Data struct {
				Metrics []struct {
					Key   string
					Value float64
				}
				Params, Tags []text
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		l.t.Fatal(err)
	}
	got := testRun{make(map[string]float64), make(map[string]string), make(map[string]string)}
	for _, m := range answer.Run.Data.Metrics {
		got.Metrics[m.Key] = m.Value
	}
	for _, p := range answer.Run.Data.Params {
		got.Params[p.Key] = p.Value
	}
	for _, t := range answer.Run.Data.Tags {
		got.Tags[t.Key] = t.Value
	}
	return got
}
