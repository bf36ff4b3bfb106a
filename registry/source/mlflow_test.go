package source_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/mlflow"
	"github.com/millrace-ml/millrace/registry/mlflow/mlflowtest"
	"github.com/millrace-ml/millrace/registry/source"
)

func openMLflow(t testing.TB, uri string, places ...string) (*source.MLflow, *artifact.Store) {
	t.Helper()
	cfg := source.MLflowConfig{URI: uri, Access: loopback(), Artifacts: places}
	store := newStore(t)
	m, err := source.NewMLflow(cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m, store
}

// TestMLflow looks at a real MLflow server and brings its models into a store.
func TestMLflow(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an MLflow server; make test runs it")
	}
	t.Setenv("MLFLOW_DISABLE_TELEMETRY", "true")
	scripts := filepath.Join("..", "mlflow")
	python := venv.Python(t, filepath.Join(scripts, "requirements.txt"))
	server := mlflowtest.Start(t, python)
	told, place := filepath.Join(t.TempDir(), "told.json"), t.TempDir()
	venv.Run(t, python, filepath.Join(scripts, "log_model.py"), server.URI, "iris", told)
	venv.Run(t, python, "log_sklearn.py", server.URI, "trees")
	venv.Run(t, python, "log_direct.py", server.URI, "direct", place)
	venv.Run(t, python, filepath.Join(scripts, "fill.py"), server.Database, "many-", "2000", "10")

	t.Run("pull", func(t *testing.T) { pullMLflow(t, server.URI, told) })
	t.Run("direct", func(t *testing.T) { pullDirect(t, server.URI, place) })
	t.Run("many", func(t *testing.T) { lookAtMany(t, server.URI) })
	t.Run("look", func(t *testing.T) { lookMLflow(t, server.URI) })
}

func pullMLflow(t *testing.T, uri, told string) {
	m, store := openMLflow(t, uri)
	digests := make(map[string]bool)
	for i, version := range []string{"1", "2", "1"} {
		digest, err := m.Pull(t.Context(), "iris", version)
		if err != nil {
			t.Fatal(err)
		}
		digests[digest] = true
		want := files(t, told, version)
		got, err := store.Manifest(digest)
		if err != nil || len(got) != len(want) {
			t.Fatalf("pull %d of version %s: %v, %v; want %v", i, version, got, err, want)
		}
		for _, f := range got {
			if f.SHA256 != want[f.Path] {
				t.Errorf("version %s: %s is %s, want %s", version, f.Path, f.SHA256, want[f.Path])
			}
		}
	}
	if len(digests) != 2 {
		t.Errorf("two versions have the digests %v", digests)
	}
	f := pullFails(t, m, store)
	f("trees", "1", source.ErrNotONNX, "sklearn")
	raw, err := m.PullAny(t.Context(), "trees", "1")
	if err != nil {
		t.Fatal(err)
	}
	trees, err := store.Manifest(raw)
	if !slices.ContainsFunc(trees, func(f artifact.File) bool { return f.Path == "model.pkl" }) {
		t.Errorf("any kind: %v, %v", trees, err)
	}
	f("iris", "9", source.ErrGone, "cannot pull iris version 9")
	f("nobody", "1", mlflow.ErrNotFound, "nobody")
	f("direct", "1", source.ErrRefused, "name the place in artifacts")
}

// files returns the SHA-256 of the files of a version, as MLflow's client reads them.
func files(t *testing.T, told, version string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Files []map[string]string }
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all.Files[int(version[0]-'1')]
}

// pullDirect fetches a model that the server does not hand out.
func pullDirect(t *testing.T, uri, place string) {
	m, store := openMLflow(t, uri, "file://"+place)
	digest, err := m.Pull(t.Context(), "direct", "1")
	if err != nil {
		t.Fatal(err)
	}
	got := texts(t, store, digest)
	if got["model.onnx"] == "" || !strings.Contains(got["MLmodel"], "onnx") {
		t.Errorf("the version has %d files", len(got))
	}
	other, store := openMLflow(t, uri, "file://"+place+"-other", "s3://bucket?region=x")
	pullFails(t, other, store)("direct", "1", source.ErrRefused, "name the place in artifacts")
}

// lookMLflow follows what happens to a model: aliases, tags, stages, a deleted version.
func lookMLflow(t *testing.T, uri string) {
	m, store := openMLflow(t, uri)
	ctx := t.Context()
	l := listing(t, m, "iris")
	if got := names(l); !slices.Equal(got, []string{"2", "1"}) || l.Aliases["champion"] != "1" ||
		l.Aliases["production"] != "1" || len(l.Aliases) != 2 {
		t.Fatalf("iris is %v with %v", got, l.Aliases)
	}
	v := l.Versions[1]
	if v.Tags["validation"] != "passed" || v.RunID == "" || time.Since(v.Created) > time.Hour ||
		!slices.Equal(v.Aliases, []string{"champion", "production"}) ||
		!strings.HasSuffix(v.Link, "/#/models/iris/versions/1") {
		t.Errorf("version 1 is %+v", v)
	}
	tags := map[string]string{"millrace.verdict": "promoted", "note": "50 % better"}
	if err := errors.Join(m.SetAlias(ctx, "iris", "2", "champion"),
		m.Tag(ctx, "iris", "2", tags)); err != nil {
		t.Fatal(err)
	}
	l = listing(t, m, "iris")
	if l.Aliases["champion"] != "2" || l.Versions[0].Tags["note"] != tags["note"] {
		t.Errorf("after a verdict iris is %+v", l)
	}
	f := func(err error) {
		t.Helper()
		if !errors.Is(err, source.ErrGone) {
			t.Errorf("the error is %v", err)
		}
	}
	f(m.SetAlias(ctx, "iris", "9", "champion"))
	f(m.Tag(ctx, "nobody", "1", tags))
	results, err := m.Look(ctx, []string{"nobody", "it's", `"both' "`})
	if err != nil || results[`"both' "`].Err == nil {
		t.Errorf("Look returns %v, %v", results, err)
	}
	f(results["nobody"].Err)
	f(results["it's"].Err)

	remove(t, uri, "iris", "2")
	if got := names(listing(t, m, "iris")); !slices.Equal(got, []string{"1"}) {
		t.Errorf("without version 2 iris has %v", got)
	}
	pullFails(t, m, store)("iris", "2", source.ErrGone, "cannot pull iris version 2")
}

// remove deletes a version by MLflow's own call.
func remove(t *testing.T, uri, model, version string) {
	t.Helper()
	body := fmt.Sprintf(`{"name":%q,"version":%q}`, model, version)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete,
		uri+"/api/2.0/mlflow/model-versions/delete", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("cannot delete %s: %s, %v", body, resp.Status, err)
	}
}

// lookAtMany looks at 2,000 models with 10 versions each, again when nothing has changed,
// and again when one has.
func lookAtMany(t *testing.T, uri string) {
	m, _ := openMLflow(t, uri)
	models := []string{"iris", "nobody"}
	for i := range 2000 {
		models = append(models, fmt.Sprintf("many-%05d", i))
	}
	look := func(most time.Duration) map[string]source.Result {
		t.Helper()
		start := time.Now()
		results, err := m.Look(t.Context(), models)
		took := time.Since(start)
		t.Logf("a look at %d models took %v", len(models), took)
		if err != nil || len(results) != len(models) || took > most {
			t.Fatalf("Look returns %d results, %v after %v", len(results), err, took)
		}
		return results
	}
	look(time.Minute)
	const poll = 30 * time.Second // as often as a source is looked at; 2 s on a quiet machine
	results := look(poll)
	if err := results["nobody"].Err; !errors.Is(err, source.ErrGone) {
		t.Errorf("the error is %v", err)
	}
	for _, model := range models[2:] {
		l := results[model].Listing
		if len(l.Versions) != 10 || l.Versions[0].Name != "10" || l.Aliases["champion"] != "10" {
			t.Fatalf("%s is %+v, %v", model, l, results[model].Err)
		}
	}
	if err := errors.Join(m.SetAlias(t.Context(), models[5], "3", "champion"),
		m.Tag(t.Context(), models[5], "3", map[string]string{"k": "new"})); err != nil {
		t.Fatal(err)
	}
	remove(t, uri, models[6], "10")
	results = look(poll)
	if l := results[models[5]].Listing; l.Aliases["champion"] != "3" ||
		l.Versions[7].Tags["k"] != "new" {
		t.Errorf("%s is %+v", models[5], l)
	}
	if got := names(results[models[6]].Listing); len(got) != 9 || got[0] != "9" {
		t.Errorf("%s has the versions %v", models[6], got)
	}
}

// TestMLflowBroken asks servers that are none, or that fail: nothing gets into the store.
func TestMLflowBroken(t *testing.T) {
	f := func(want error, answer http.HandlerFunc) {
		t.Helper()
		server := httptest.NewServer(answer)
		defer server.Close()
		m, store := openMLflow(t, server.URL)
		pullFails(t, m, store)("iris", "1", want, "cannot pull iris version 1")
		results, err := m.Look(t.Context(), []string{"iris"})
		if err != nil || !errors.Is(results["iris"].Err, want) {
			t.Errorf("Look returns %v, %v, want %v", results, err, want)
		}
	}
	f(mlflow.ErrForeign, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<html>sign in</html>"))
	})
	f(mlflow.ErrUnavailable, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusInternalServerError)
	})
	f(source.ErrCredentials, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Permission denied", http.StatusForbidden)
	})
	f(source.ErrGone, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"no"}`))
	})
}
