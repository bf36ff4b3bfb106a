package experiment

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
	"github.com/millrace-ml/millrace/registry/fetch"
	"github.com/millrace-ml/millrace/registry/mlflow"
	"github.com/millrace-ml/millrace/registry/mlflow/mlflowtest"
)

// newClient returns a client of a server of this machine.
func newClient(uri string) (*mlflow.Client, error) {
	cfg := fetch.DefaultConfig()
	cfg.Origin, cfg.Allow, cfg.Attempts = uri, []string{"127.0.0.0/8"}, 1
	cfg.BreakerTimeout = 100 * time.Millisecond
	caller, err := fetch.New(cfg)
	if err != nil {
		return nil, err
	}
	return mlflow.New(mlflow.Config{URI: uri}, caller.Doer())
}

// real is a real MLflow server, and a door before it that can be shut.
type real struct {
	uri     string // of the server
	address string // of the door
	handler http.Handler
	door    *http.Server // nil while it is shut

	mu      sync.Mutex
	created []string // millrace.id of the runs that were made through the door
	points  int      // that went through it
}

func startMLflow(t *testing.T, requirements string) *real {
	t.Helper()
	if testing.Short() {
		t.Skip("starts an MLflow server; make test runs it")
	}
	python := venv.Python(t, filepath.Join("..", "..", "registry", "mlflow", requirements))
	r := &real{uri: mlflowtest.Start(t, python).URI}
	target, err := url.Parse(r.uri)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	r.handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(body))
		r.note(t, req.URL.Path, body)
		proxy.ServeHTTP(w, req)
	})
	r.address = "127.0.0.1:0"
	r.openDoor(t)
	t.Cleanup(r.shutDoor)
	return r
}

// note notes what goes through the door.
func (r *real) note(t *testing.T, path string, body []byte) {
	var in struct {
		Tags    mlflow.Tags
		Metrics []json.RawMessage
	}
	create := strings.HasSuffix(path, "/runs/create")
	if !create && !strings.HasSuffix(path, "/runs/log-batch") {
		return
	}
	if err := json.Unmarshal(body, &in); err != nil {
		t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.points += len(in.Metrics)
	if create {
		r.created = append(r.created, in.Tags[TagID])
	}
}

// forget returns what has gone through the door since it was last called.
func (r *real) forget() (created []string, points int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	created, points = r.created, r.points
	r.created, r.points = nil, 0
	return created, points
}

func (r *real) openDoor(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	r.door = &http.Server{Handler: r.handler, ReadHeaderTimeout: time.Minute}
	go func(s *http.Server) { _ = s.Serve(l) }(r.door)
}

func (r *real) shutDoor() { _ = r.door.Close() }

// run sends the records of an outbox through the door until the test or stop ends it.
func (r *real) run(t *testing.T, o *Outbox) (stop func()) {
	t.Helper()
	client, err := newClient("http://" + r.address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		o.Run(ctx, client)
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in two minutes: %s", what)
		}
	}
}

// sentAll waits until an outbox has nothing more to send.
func sentAll(t *testing.T, o *Outbox) {
	t.Helper()
	eventually(t, "all is sent", func() bool { return o.Stats().Waiting == 0 })
}

// ask calls MLflow's REST API. in is a body, or nil for a GET.
func (r *real) ask(t *testing.T, path string, in, out any) {
	t.Helper()
	method, body := http.MethodGet, []byte(nil)
	if in != nil {
		method = http.MethodPost
		body, _ = json.Marshal(in)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, r.uri+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v %d %s", path, err, resp.StatusCode, text)
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = text
	} else if err := json.Unmarshal(text, out); err != nil {
		t.Fatalf("%s: %v in %s", path, err, text)
	}
}

// found is a run as MLflow tells it.
type found struct {
	Info struct {
		ID     string `json:"run_id"`
		Name   string `json:"run_name"`
		Status string
		Start  int64  `json:"start_time"`
		End    int64  `json:"end_time"`
		URI    string `json:"artifact_uri"`
	}
	Data struct{ Params, Tags mlflow.Tags }
}

// runs returns the runs of an experiment that have a record's tag.
func (r *real) runs(t *testing.T, experiment, id string) []found {
	t.Helper()
	var e struct {
		Experiment struct {
			ID string `json:"experiment_id"`
		}
	}
	r.ask(t, "/api/2.0/mlflow/experiments/get-by-name?experiment_name="+
		url.QueryEscape(experiment), nil, &e)
	var list struct{ Runs []found }
	filter, err := mlflow.Equals("tags.`"+TagID+"`", id)
	if err != nil {
		t.Fatal(err)
	}
	r.ask(t, "/api/2.0/mlflow/runs/search", map[string]any{
		"experiment_ids": []string{e.Experiment.ID}, "filter": filter}, &list)
	return list.Runs
}

// history returns the points of a series as "step:value", in the order of steps.
func (r *real) history(t *testing.T, run, key string) []string {
	t.Helper()
	var h struct {
		Metrics []struct {
			Step  json.Number // MLflow 2 writes a text
			Value any
		}
	}
	r.ask(t, "/api/2.0/mlflow/metrics/get-history?max_results=20000&run_id="+run+"&metric_key="+
		url.QueryEscape(key), nil, &h)
	slices.SortStableFunc(h.Metrics, func(a, b struct {
		Step  json.Number
		Value any
	}) int {
		x, _ := a.Step.Int64()
		y, _ := b.Step.Int64()
		return int(x - y)
	})
	var all []string
	for _, m := range h.Metrics {
		all = append(all, fmt.Sprint(m.Step, ":", m.Value))
	}
	return all
}

func TestMLflow3(t *testing.T) {
	r := startMLflow(t, "requirements.txt")
	t.Run("record", r.testRecord)
	t.Run("away", r.testAway)
	t.Run("refused", r.testRefused)
	t.Run("kill", r.testKill)
}

func TestMLflow2(t *testing.T) {
	startMLflow(t, "mlflow2-requirements.txt").testRecord(t)
}

// whole is a finished record with three series and two artifacts.
func whole() Record {
	r := record("rollout o'7", Finished, 1500)
	r.Series[0].Points[1].Value = math.NaN()
	r.Series = append(r.Series, points("rate/canary", 0.01, 0.02), points("rate/stable", 0.01))
	r.Params["weights"], r.Tags["mlflow.source.name"] = "1, 5, 25", "millrace"
	chart := Chart{Title: "Evidence", Y: "ln E", Series: r.Series[:1],
		Limits: []Limit{{"roll back", 9}}}
	r.Artifacts = []Artifact{{"evidence/harm ü.svg", chart.SVG()},
		{"verdict.json", []byte("{}\n")}}
	return r
}

// testRecord sends a record as it grows, and looks at what MLflow says afterwards.
func (r *real) testRecord(t *testing.T) {
	o := open(t, config(t.TempDir()))
	stop := r.run(t, o)
	full := whole()
	early := full
	early.Status, early.End, early.Artifacts = Running, time.Time{}, []Artifact{
		{"verdict.json", []byte("not yet")}}
	early.Series = []Series{{"errors/harm", full.Series[0].Points[:5]}}
	early.Params = map[string]string{"endpoint": "fraud"}
	add(t, o, early)
	sentAll(t, o)
	first := r.runs(t, full.Experiment, full.ID)
	if len(first) != 1 || first[0].Info.Status != "RUNNING" {
		t.Fatalf("while it runs: %+v", first)
	}
	add(t, o, full, full)
	sentAll(t, o)
	add(t, o, full)
	stop()
	if got := o.Stats(); got.Sent != 2 || got.Waiting != 0 || got.Refused != 0 {
		t.Errorf("%+v", got)
	}
	r.check(t, full, first[0].Info.ID)
	if created, points := r.forget(); len(created) != 1 || points != 1503 {
		t.Errorf("%d points were sent to the runs of %q", points, created)
	}

	// All that was known is lost, and the record comes again.
	again := open(t, config(t.TempDir()))
	r.run(t, again)
	add(t, again, full)
	sentAll(t, again)
	r.check(t, full, first[0].Info.ID)
}

// check holds a run against the record.
func (r *real) check(t *testing.T, want Record, id string) {
	t.Helper()
	runs := r.runs(t, want.Experiment, want.ID)
	if len(runs) != 1 || runs[0].Info.ID != id {
		t.Fatalf("the runs are %+v, want %s", runs, id)
	}
	run := runs[0]
	if i := run.Info; i.Status != "FINISHED" || i.Name != want.Name ||
		i.Start != want.Start.UnixMilli() || i.End != want.End.UnixMilli() {
		t.Errorf("the run is %+v", i)
	}
	if fmt.Sprint(run.Data.Params) != fmt.Sprint(mlflow.Tags(want.Params)) {
		t.Errorf("the params are %v", run.Data.Params)
	}
	for key, value := range want.Tags {
		if run.Data.Tags[key] != value {
			t.Errorf("the tag %s is %q", key, run.Data.Tags[key])
		}
	}
	for _, s := range want.Series {
		var points []string
		for _, p := range s.Points {
			points = append(points, fmt.Sprint(p.Step, ":", p.Value))
		}
		if got := r.history(t, id, s.Name); !slices.Equal(got, points) {
			t.Errorf("%s has %d points: %.200v\nwant %d: %.200v", s.Name, len(got), got,
				len(points), points)
		}
	}
	for _, a := range want.Artifacts {
		root := strings.TrimPrefix(run.Info.URI, "mlflow-artifacts:")
		var got []byte
		r.ask(t, "/api/2.0/mlflow-artifacts/artifacts"+root+"/"+
			(&url.URL{Path: a.Path}).EscapedPath(), nil, &got)
		if !bytes.Equal(got, a.Content) {
			t.Errorf("%s is %.200q", a.Path, got)
		}
	}
}

// testAway adds records while MLflow is away; then it comes back.
func (r *real) testAway(t *testing.T) {
	o := open(t, config(t.TempDir()))
	r.shutDoor()
	r.forget()
	r.run(t, o)
	var ids []string
	for i := range 8 {
		ids = append(ids, fmt.Sprint("away ", 9-i)) // no order but that of coming
		add(t, o, record(ids[i], Running, 2))
	}
	add(t, o, record(ids[3], Finished, 4))
	timer := time.NewTimer(500 * time.Millisecond) // while some attempts fail
	<-timer.C
	if got := o.Stats(); got.Waiting != 8 || got.Sent != 0 {
		t.Errorf("while it is away: %+v", got)
	}
	r.openDoor(t)
	sentAll(t, o)
	if created, points := r.forget(); !slices.Equal(created, ids) || points != 7*2+4 {
		t.Errorf("%d points were sent to the runs of %q, want %q", points, created, ids)
	}
	for i, id := range ids {
		runs := r.runs(t, "rollouts/fraud", id)
		if len(runs) != 1 || (runs[0].Info.Status == "FINISHED") != (i == 3) {
			t.Errorf("%s: %+v", id, runs)
		}
	}
}

// testRefused adds records that MLflow does not take, or fails on, before one that it
// takes.
func (r *real) testRefused(t *testing.T) {
	var logged bytes.Buffer
	cfg := config(t.TempDir())
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	o := open(t, cfg)
	client, err := newClient(r.uri)
	if err != nil {
		t.Fatal(err)
	}
	id, err := client.Experiment(t.Context(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	r.ask(t, "/api/2.0/mlflow/experiments/delete", map[string]string{"experiment_id": id},
		&struct{}{})
	gone, bad := record("gone", Running, 1), record("bad", Running, 1)
	long := record("long", Running, 1)
	gone.Experiment = "gone"
	bad.Series[0].Name = "no?such!name"
	long.Params["weights"] = strings.Repeat("x", 10_000)
	add(t, o, gone, bad, long, record("good", Running, 1))
	stop := r.run(t, o)
	eventually(t, "the good one is sent", func() bool {
		s := o.Stats()
		return s.Sent == 1 && s.Refused == 2 && s.Waiting == 1
	})
	list, err := o.Records()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		text := map[string]string{"bad": "no?such!name", "long": "10000 characters"}[s.Record.ID]
		if !strings.Contains(s.Refused, text) || (s.Refused == "") != (text == "") {
			t.Errorf("%s is refused because of %q", s.Record.ID, s.Refused)
		}
	}
	add(t, o, record("bad", Running, 1))
	r.ask(t, "/api/2.0/mlflow/experiments/restore", map[string]string{"experiment_id": id},
		&struct{}{})
	sentAll(t, o)
	stop()
	if got := o.Stats(); got.Sent != 3 || got.Refused != 1 {
		t.Errorf("%+v\n%s", got, logged.String())
	}
	for experiment, id := range map[string]string{"gone": "gone", "rollouts/fraud": "bad"} {
		if runs := r.runs(t, experiment, id); len(runs) != 1 {
			t.Errorf("%s: %+v", id, runs)
		}
	}
}

// testKill kills processes that add and send records. All that was acknowledged arrives,
// in one run each.
func (r *real) testKill(t *testing.T) {
	cfg := config(t.TempDir())
	acknowledged := killRounds(t, cfg.Dir, r.uri, time.Second)
	o := open(t, cfg)
	before := o.Stats()
	r.run(t, o)
	sentAll(t, o)
	t.Logf("%d records were acknowledged; after the last kill %+v", len(acknowledged), before)
	if got := o.Stats(); got.Refused != 0 || got.Dropped != 0 || got.Records < len(acknowledged) {
		t.Errorf("%+v", got)
	}
	for id, status := range acknowledged {
		runs := r.runs(t, "rollouts/fraud", id)
		if len(runs) != 1 || status == Finished && runs[0].Info.Status != "FINISHED" {
			t.Errorf("%s was %s: %+v", id, status, runs)
			continue
		}
		n := map[string]int{"RUNNING": 3, "FINISHED": 40}[runs[0].Info.Status]
		if got := r.history(t, runs[0].Info.ID, "errors/harm"); len(got) != n {
			t.Errorf("%s has %d points, want %d", id, len(got), n)
		}
	}
}
