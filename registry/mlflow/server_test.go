package mlflow_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
	"github.com/millrace-ml/millrace/registry/mlflow"
	"github.com/millrace-ml/millrace/registry/mlflow/mlflowtest"
)

// TestMLflow3 drives a real server of the current MLflow.
func TestMLflow3(t *testing.T) { drive(t, "requirements.txt", 3) }

// TestMLflow2 drives a real server of the last MLflow 2.
func TestMLflow2(t *testing.T) { drive(t, "mlflow2-requirements.txt", 2) }

// modelName is one that MLflow takes: no slash and no colon.
const modelName = "iris & ünï 100% @home"

// real is a server with two logged models, and a client of it.
type real struct {
	*mlflow.Client
	python string
	server mlflowtest.Server
	major  int // of MLflow
	logged struct {
		Runs, Sources []string
		Files         []map[string]string // of each version, path to SHA-256
		Notes         map[string]string   // of a folder of the first run
	}
}

func drive(t *testing.T, requirements string, major int) {
	python := venv.Python(t, requirements)
	r := &real{python: python, server: mlflowtest.Start(t, python), major: major}
	r.Client = client(t, mlflow.Config{URI: r.server.URI})
	r.script(t, &r.logged, "log_model.py", r.server.URI, modelName)
	t.Run("files", r.files)
	t.Run("registry", r.registry)
	t.Run("errors", r.errors)
	t.Run("refusals", r.refusals)
	t.Run("run", r.run)
	t.Run("many", r.many)
	if major > 2 {
		t.Run("webhook", r.webhook)
	}
}

// script runs a script, whose last argument is a file of JSON that it writes.
func (r *real) script(t *testing.T, out any, script string, args ...string) {
	t.Helper()
	t.Setenv("MLFLOW_DISABLE_TELEMETRY", "true")
	file := filepath.Join(t.TempDir(), "out.json")
	venv.Run(t, r.python, script, append(args, file)...)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, out); err != nil {
		t.Fatal(err)
	}
}

// digests reads all files below a root, half of each by a range.
func (r *real) digests(t *testing.T, root string) map[string]string {
	t.Helper()
	list, err := r.List(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, f := range list {
		hash := sha256.New()
		half := max(f.Size, 0) / 2 // MLflow gives an empty file no size
		for _, offset := range []int64{0, half} {
			body, err := r.Open(t.Context(), root, f, offset)
			if err != nil {
				t.Fatal(err)
			}
			var reader io.Reader = body
			if offset == 0 && half > 0 {
				reader = io.LimitReader(body, half)
			}
			if _, err := io.Copy(hash, reader); err != nil {
				t.Fatal(err)
			}
			_ = body.Close()
		}
		got[f.Path] = hex.EncodeToString(hash.Sum(nil))
	}
	return got
}

// files resolves every kind of URI, and holds what lies there against what Python reads.
func (r *real) files(t *testing.T) {
	f := func(uri string, want map[string]string) {
		t.Helper()
		root, err := r.Resolve(t.Context(), uri)
		if err != nil {
			t.Error(err)
			return
		}
		if got := r.digests(t, root); len(got) < 2 || !maps.Equal(got, want) {
			t.Errorf("%s at %s: got %v\nwant %v", uri, root, got, want)
		}
	}
	first, second := r.logged.Files[0], r.logged.Files[1]
	if first["model.onnx"] == second["model.onnx"] || first["model.onnx"] == "" {
		t.Fatalf("the versions do not differ: %v", r.logged.Files)
	}
	f("models:/"+modelName+"/1", first)
	f("models:/"+modelName+"/2", second)
	f("models:/"+modelName+"@champion", first)
	f("models:/"+modelName+"/Production", first)
	f("models:/"+modelName+"/latest", second)
	f("runs:/"+r.logged.Runs[1]+"/model", second)
	f("runs:/"+r.logged.Runs[0]+"/notes", r.logged.Notes)
	f(r.logged.Sources[0], first) // models:/m-ID in MLflow 3
	if three := strings.HasPrefix(r.logged.Sources[0], "models:/m-"); three != (r.major == 3) {
		t.Errorf("the source is %s", r.logged.Sources[0])
	}
	root, err := r.Resolve(t.Context(), "models:/"+modelName+"@champion")
	if err != nil {
		t.Fatal(err)
	}
	content, err := r.Open(t.Context(), root, mlflow.File{Path: "MLmodel", Size: -1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	if flavors, err := mlflow.ParseFlavors(text); err != nil || flavors.Library() != "onnx" {
		t.Errorf("the flavors are %v, %v", flavors, err)
	}
}

// registry reads and moves aliases, tags and stages.
func (r *real) registry(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one, two := mlflow.Ref{Name: modelName, Version: "1"}, mlflow.Ref{Name: modelName, Version: "2"}
	v, err := r.VersionByAlias(ctx, modelName, "champion")
	must(err)
	if v.Ref != one || !slices.Equal(v.Aliases, []string{"champion"}) || v.Status != "READY" ||
		v.Tags["validation"] != "passed" || v.RunID != r.logged.Runs[0] || v.CreatedMillis == 0 ||
		v.Stage != "Production" || v.Source != r.logged.Sources[0] {
		t.Errorf("the champion is %+v", v)
	}
	must(r.SetAlias(ctx, two, "champion"))
	must(r.SetAlias(ctx, one, "former-1"))
	must(r.SetVersionTag(ctx, two, "millrace.verdict", "Successful: ü \"<&>\" 'q'\n"))
	must(r.SetModelTag(ctx, modelName, "millrace", "yes"))
	must(r.DeleteModelTag(ctx, modelName, "team"))
	must(r.DeleteVersionTag(ctx, one, "validation"))
	must(r.DeleteAlias(ctx, modelName, "no-such-alias"))
	must(r.SetStage(ctx, two, "Production", true))
	v, err = r.GetVersion(ctx, two)
	must(err)
	if !slices.Equal(v.Aliases, []string{"champion"}) || v.Stage != "Production" {
		t.Errorf("the second is %+v", v)
	}
	m, err := r.GetModel(ctx, modelName)
	must(err)
	if want := (mlflow.Aliases{"champion": "2", "former-1": "1"}); !maps.Equal(m.Aliases, want) ||
		!maps.Equal(m.Tags, mlflow.Tags{"millrace": "yes"}) || len(m.Latest) != 2 {
		t.Errorf("the model is %+v", m)
	}
	filter, err := mlflow.Equals("name", modelName)
	must(err)
	var found []string
	for v, err := range r.Versions(ctx, filter) {
		must(err)
		found = append(found, fmt.Sprint(v.Version, " ", v.Stage, " ", v.Tags))
	}
	want := []string{"1 Archived map[]",
		"2 Production map[millrace.verdict:Successful: ü \"<&>\" 'q'\n]"}
	if !slices.Equal(found, want) {
		t.Errorf("the versions are %q, want %q", found, want)
	}
	must(r.DeleteAlias(ctx, modelName, "former-1"))
	if _, err := r.VersionByAlias(ctx, modelName, "former-1"); !errors.Is(err, mlflow.ErrNotFound) {
		t.Errorf("a deleted alias: %v", err)
	}
	latest, err := r.LatestVersions(ctx, modelName, "Production")
	must(err)
	if len(latest) != 1 || latest[0].Ref != two {
		t.Errorf("the latest are %+v", latest)
	}
}

// errors asks for what is not there, and by names that cannot be.
func (r *real) errors(t *testing.T) {
	ctx := t.Context()
	f := func(err, class error) {
		t.Helper()
		var fault *mlflow.Error
		if !errors.As(err, &fault) || fault.Code == "" || fault.Message == "" ||
			!errors.Is(fault.Err, class) {
			t.Errorf("got %v (%+v), want %v", err, fault, class)
		}
	}
	none := mlflow.Ref{Name: "none such", Version: "1"}
	_, err := r.GetModel(ctx, none.Name)
	f(err, mlflow.ErrNotFound)
	_, err = r.GetVersion(ctx, mlflow.Ref{Name: modelName, Version: "99"})
	f(err, mlflow.ErrNotFound)
	_, err = r.GetVersion(ctx, mlflow.Ref{Name: modelName, Version: "x"})
	f(err, nil)
	_, err = r.DownloadURI(ctx, none)
	f(err, mlflow.ErrNotFound)
	_, err = r.VersionByAlias(ctx, modelName, "nope")
	f(err, mlflow.ErrNotFound)
	_, err = r.VersionByAlias(ctx, none.Name, "nope")
	f(err, mlflow.ErrNotFound)
	f(r.SetAlias(ctx, mlflow.Ref{Name: modelName, Version: "99"}, "a"), mlflow.ErrNotFound)
	f(r.SetAlias(ctx, mlflow.Ref{Name: modelName, Version: "1"}, "latest"), nil)
	f(r.SetVersionTag(ctx, none, "k", "v"), mlflow.ErrNotFound)
	_, err = r.GetRun(ctx, strings.Repeat("0", 32))
	f(err, mlflow.ErrNotFound)
	for _, name := range []string{"a/b", "a:b"} {
		_, err = r.GetModel(ctx, name)
		var fault *mlflow.Error
		if !errors.As(err, &fault) || fault.Status != 400 && fault.Status != 404 ||
			!strings.Contains(fault.Message, name) {
			t.Errorf("the name %s: %v", name, err)
		}
	}
	for _, err := range r.Models(ctx, "no filter") {
		f(err, nil)
	}
	_, err = r.Resolve(ctx, "runs:/"+r.logged.Runs[0]+"/nothing")
	if !errors.Is(err, mlflow.ErrNotFound) {
		t.Errorf("an empty path of a run: %v", err)
	}
	_, err = r.List(ctx, "mlflow-artifacts:/nothing/here")
	if !errors.Is(err, mlflow.ErrNotFound) {
		t.Errorf("an empty root: %v", err)
	}
	other := client(t, mlflow.Config{URI: r.server.URI + "/prefix"})
	if _, err := other.GetModel(ctx, modelName); !errors.Is(err, mlflow.ErrForeign) {
		t.Errorf("a wrong prefix: %v", err)
	}
}

// run logs a run, which Python reads back.
func (r *real) run(t *testing.T) {
	ctx := t.Context()
	id, err := r.Experiment(ctx, "rollouts/für fraud")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Experiment(ctx, "rollouts/für fraud"); again != id || err != nil {
		t.Errorf("the experiment is %s, then %s: %v", id, again, err)
	}
	start := time.UnixMilli(1795464900246)
	tags := mlflow.Tags{"millrace.id": "rollout o'7", "ü": "ü"}
	if _, err := r.FindRun(ctx, id, "millrace.id", "rollout o'7"); !errors.Is(err,
		mlflow.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	run, err := r.CreateRun(ctx, mlflow.NewRun{ExperimentID: id, Name: "rollout 7", Start: start,
		Tags: tags})
	if err != nil {
		t.Fatal(err)
	}
	found, err := r.FindRun(ctx, id, "millrace.id", "rollout o'7")
	if err != nil || found.ID != run.ID || found.ExperimentID != id || found.Tags["ü"] != "ü" ||
		found.Status != "RUNNING" || found.ArtifactURI != run.ArtifactURI {
		t.Errorf("found %+v, %v; made %+v", found, err, run)
	}
	b := mlflow.Batch{Params: make(map[string]string), Tags: mlflow.Tags{"k": "<v>"}}
	for i := range 2500 {
		b.Metrics = append(b.Metrics, mlflow.Metric{Key: "e value/errors",
			Value: float64(i) / 3, Time: start.Add(time.Duration(i) * time.Second), Step: int64(i)})
	}
	for key, v := range map[string]float64{"nan": math.NaN(), "inf": math.Inf(1),
		"-inf": math.Inf(-1)} {
		b.Metrics = append(b.Metrics, mlflow.Metric{Key: key, Value: v, Time: start})
	}
	for i := range 150 {
		b.Params[fmt.Sprintf("p%03d", i)] = strings.Repeat("<", 6000)
	}
	if err := r.LogBatch(ctx, run.ID, b); err != nil {
		t.Fatal(err)
	}
	evidence := []byte("{\"evidence\": \"für\"}\n")
	if err := r.Upload(ctx, run.ArtifactURI, mlflow.File{Path: "evidence/step 1.json",
		Size: int64(len(evidence))}, bytes.NewReader(evidence)); err != nil {
		t.Fatal(err)
	}
	if err := r.EndRun(ctx, run.ID, "FINISHED", start.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r.readBack(t, run.ID, b, string(evidence))
}

func (r *real) readBack(t *testing.T, id string, b mlflow.Batch, evidence string) {
	t.Helper()
	var got struct {
		Status, Name, Artifact string
		Start, End             int64
		Params, Tags           map[string]string
		History                map[string][][]any
	}
	r.script(t, &got, "read_run.py", r.server.URI, id, "evidence/step 1.json")
	if got.Status != "FINISHED" || got.Name != "rollout 7" || got.Artifact != evidence ||
		got.End-got.Start != time.Hour.Milliseconds() || !maps.Equal(got.Params, b.Params) ||
		got.Tags["k"] != "<v>" || got.Tags["millrace.id"] != "rollout o'7" {
		got.Params, got.History = nil, nil
		t.Errorf("the run is %+v", got)
	}
	points := make(map[string]bool)
	for _, p := range got.History["e value/errors"] {
		points[fmt.Sprintf("%.0f %.0f %s", p...)] = true
	}
	if len(points) != 2500 || len(got.History["e value/errors"]) != 2500 {
		t.Errorf("there are %d points", len(points))
	}
	for _, want := range []string{"0 1795464900246 0.0", "2499 1795467399246 833.0"} {
		if !points[want] {
			t.Errorf("there is no point %s", want)
		}
	}
	// MLflow stores the largest number instead of an infinite one.
	for key, want := range map[string]string{"nan": "nan", "inf": "1.7976931348623157e+308",
		"-inf": "-1.7976931348623157e+308"} {
		if h := got.History[key]; len(h) != 1 || h[0][2] != want {
			t.Errorf("%s has become %v, want %s", key, h, want)
		}
	}
}

// many lists models and versions by pages, of which the larger number needs several.
func (r *real) many(t *testing.T) {
	r.list(t, "few-", 300, 2)
	r.list(t, "many-", 2000, 10)
}

func (r *real) list(t *testing.T, prefix string, models, versions int) {
	t.Helper()
	venv.Run(t, r.python, "fill.py", r.server.Database, prefix, fmt.Sprint(models),
		fmt.Sprint(versions))
	filter := "name LIKE '" + prefix + "%'"
	start := time.Now()
	names := make(map[string]mlflow.Aliases)
	for m, err := range r.Models(t.Context(), filter) {
		if err != nil {
			t.Fatal(err)
		}
		names[m.Name] = m.Aliases
	}
	listed := time.Now()
	refs := make(map[mlflow.Ref]string)
	for v, err := range r.Versions(t.Context(), filter) {
		if err != nil {
			t.Fatal(err)
		}
		refs[v.Ref] = v.Tags["k"]
	}
	took := time.Since(listed)
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d models in %s, %d versions in %s, at most %d MB of memory so far", len(names),
		listed.Sub(start), len(refs), took, used.Maxrss/1024)
	if len(names) != models || len(refs) != models*versions {
		t.Errorf("%d models, %d versions", len(names), len(refs))
	}
	for name, aliases := range names {
		one := mlflow.Ref{Name: name, Version: "1"}
		if aliases["champion"] != fmt.Sprint(versions) || refs[one] != name {
			t.Errorf("%s has the aliases %v and the tag %q", name, aliases, refs[one])
		}
	}
}

// webhook checks the signature of what the server sends.
func (r *real) webhook(t *testing.T) {
	const secret = "s3cret ü"
	got := make(chan error, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err == nil {
			err = mlflow.VerifyWebhook(secret, req.Header, body, time.Now())
		}
		if err == nil && !strings.Contains(string(body), `"alias": "hooked"`) {
			err = fmt.Errorf("it says %s", body)
		}
		got <- err
	}))
	t.Cleanup(hook.Close)
	r.post(t, "webhooks", map[string]any{"name": "millrace", "url": hook.URL, "secret": secret,
		"status": "ACTIVE", "events": []map[string]string{
			{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(time.Second); ; { // it may take a second to be known
		ref := mlflow.Ref{Name: modelName, Version: "2"}
		if err := r.SetAlias(ctx, ref, "hooked"); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-got:
			tick.Stop()
			if err != nil {
				t.Error(err)
			}
			return
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("no webhook came")
		}
	}
}

// post calls what the client has no method for.
func (r *real) post(t *testing.T, path string, in any) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(r.server.URI+"/api/2.0/mlflow/"+path, "application/json",
		bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, text)
	}
}

// named gives requests another host name than that of the address.
type named string

func (n named) Do(r *http.Request) (*http.Response, error) {
	r.Host = string(n)
	return http.DefaultClient.Do(r)
}

// refusals are the server's and ours for what is there but cannot be used.
func (r *real) refusals(t *testing.T) {
	id, err := r.Experiment(t.Context(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	r.post(t, "experiments/delete", map[string]string{"experiment_id": id})
	if _, err := r.Experiment(t.Context(), "gone"); err == nil ||
		!strings.Contains(err.Error(), "deleted") {
		t.Errorf("a deleted experiment: %v", err)
	}
	run, err := r.GetRun(t.Context(), r.logged.Runs[0])
	if err != nil {
		t.Fatal(err)
	}
	one := mlflow.Batch{Params: map[string]string{"p": "1"}}
	two := mlflow.Batch{Params: map[string]string{"p": "2"}}
	for _, b := range []mlflow.Batch{one, one} {
		if err := r.LogBatch(t.Context(), run.ID, b); err != nil {
			t.Error(err)
		}
	}
	var fault *mlflow.Error
	if err := r.LogBatch(t.Context(), run.ID, two); !errors.As(err, &fault) || fault.Status != 400 {
		t.Errorf("another value of a param: %v", err)
	}
	if r.major < 3 {
		return
	}
	c, err := mlflow.New(mlflow.Config{URI: r.server.URI}, named("mlflow.example:5000"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetModel(t.Context(), modelName); !errors.Is(err, mlflow.ErrDenied) ||
		!strings.Contains(err.Error(), "Host header") {
		t.Errorf("a host name that is not allowed: %v", err)
	}
}
