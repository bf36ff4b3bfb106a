package source_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/fetch"
	"github.com/millrace-ml/millrace/registry/mlflow"
	"github.com/millrace-ml/millrace/registry/mlflow/mlflowtest"
	"github.com/millrace-ml/millrace/registry/source"
)

// open returns a source of that server with an empty store.
func open(t *testing.T, uri string) source.MLflow {
	t.Helper()
	cfg := fetch.DefaultConfig()
	cfg.Origin, cfg.Allow, cfg.Attempts = uri, []string{"127.0.0.0/8"}, 2
	caller, err := fetch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	client, err := mlflow.New(mlflow.Config{URI: uri}, caller.Doer())
	if err != nil {
		t.Fatal(err)
	}
	stored := artifact.DefaultConfig()
	stored.Dir = t.TempDir()
	store, err := artifact.Open(stored)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		caller.Close()
		_ = store.Close()
	})
	return source.MLflow{Client: client, Store: store}
}

// TestPull brings models out of a real MLflow server into a store and a folder.
func TestPull(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an MLflow server; make test runs it")
	}
	t.Setenv("MLFLOW_DISABLE_TELEMETRY", "true")
	scripts := filepath.Join("..", "mlflow")
	python := venv.Python(t, filepath.Join(scripts, "requirements.txt"))
	server := mlflowtest.Start(t, python)
	told := filepath.Join(t.TempDir(), "told.json")
	venv.Run(t, python, filepath.Join(scripts, "log_model.py"), server.URI, "iris", told)
	venv.Run(t, python, "log_sklearn.py", server.URI, "trees")
	m := open(t, server.URI)

	digests := make(map[string]bool)
	for i, version := range []string{"1", "2", "1"} {
		digest, err := m.Pull(t.Context(), mlflow.Ref{Name: "iris", Version: version})
		if err != nil {
			t.Fatal(err)
		}
		digests[digest] = true
		want := files(t, told, version)
		got, err := m.Store.Manifest(digest)
		if err != nil || len(got) != len(want) {
			t.Fatalf("pull %d of version %s: %v, %v; want %v", i, version, got, err, want)
		}
		for _, f := range got {
			if f.SHA256 != want[f.Path] {
				t.Errorf("version %s: %s is %s, want %s", version, f.Path, f.SHA256, want[f.Path])
			}
		}
		folder := filepath.Join(t.TempDir(), version)
		if err := m.Store.Materialize(t.Context(), digest, folder); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(folder, "MLmodel")); err != nil {
			t.Error(err)
		}
	}
	if len(digests) != 2 {
		t.Errorf("two versions have the digests %v", digests)
	}

	f := func(name, version string, want error, text string) {
		t.Helper()
		_, err := m.Pull(t.Context(), mlflow.Ref{Name: name, Version: version})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s %s: %v, want %q", name, version, err, text)
		}
	}
	f("trees", "1", source.ErrNotONNX, "sklearn")
	f("iris", "9", mlflow.ErrNotFound, "cannot pull iris version 9")
	f("nobody", "1", mlflow.ErrNotFound, "nobody")
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

// TestPullFromBroken asks servers that are none, or that fail: nothing gets into
// the store.
func TestPullFromBroken(t *testing.T) {
	f := func(want error, answer http.HandlerFunc) {
		t.Helper()
		server := httptest.NewServer(answer)
		defer server.Close()
		m := open(t, server.URL)
		_, err := m.Pull(t.Context(), mlflow.Ref{Name: "iris", Version: "1"})
		if !errors.Is(err, want) || len(m.Store.List()) != 0 {
			t.Errorf("Pull returns %v, want %v; the store has %v", err, want, m.Store.List())
		}
	}
	f(mlflow.ErrForeign, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<html>sign in</html>"))
	})
	f(mlflow.ErrUnavailable, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusInternalServerError)
	})
	f(mlflow.ErrNotFound, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"no"}`))
	})
}
