package mlflow_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/mlflow"
)

// TestResolve looks at URIs that are wrong, loop or lead to another storage; the
// test of the real server at those that lead to files.
func TestResolve(t *testing.T) {
	f := func(uri, leadsTo, want string, class error) {
		t.Helper()
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, `{"artifact_uri": %q, "model_version": {"name": %q}}`, leadsTo,
				r.URL.Query().Get("name"))
		})
		got, err := c.Resolve(context.Background(), uri)
		if got != want || !errors.Is(err, class) {
			t.Errorf("%s: %q, %v; want %q, %v", uri, got, err, want, class)
		}
	}
	f("s3://b/x", "", "s3://b/x", nil)
	f("models:/m/1", "s3://b/x", "s3://b/x", nil)
	f("models:/a@b@champion", "gs://b/x", "gs://b/x", nil)
	f("models:/m/1", "models:/m/2", "", mlflow.ErrURI) // for ever
	f("models:/m@a", "models:/m@a", "", mlflow.ErrURI)
	for _, uri := range []string{"models:/", "models:/m", "models:/m/", "models:/m/1/x",
		"models:/@a", "models:/a/b@c/d", "runs:/", "runs:/r", "runs:/r/../x", "runs:/r//x"} {
		f(uri, "", "", mlflow.ErrURI)
	}
	f("models:/m/latest", "", "", mlflow.ErrNotFound)
}

// TestVerifyWebhook holds the check against one that openssl dgst has made.
func TestVerifyWebhook(t *testing.T) {
	const body = `{"entity": "model_version_alias", "action": "created", ` +
		`"timestamp": "2025-07-31T08:27:32.080217+00:00", ` +
		`"data": {"name": "churn-onnx", "alias": "champion", "version": "1"}}`
	signed := func() http.Header {
		h := make(http.Header)
		h.Set("X-MLflow-Delivery-Id", "7f8a9b60-0000-4000-8000-000000000001")
		h.Set("X-MLflow-Timestamp", "1753950452")
		h.Set("X-MLflow-Signature", "v1,L9YbJfaavyLjfxCoQDWXLK43mNk0p8+Kw8YzoIFkX14=")
		return h
	}
	sent := time.Unix(1753950452, 0)
	f := func(change func(h http.Header), secret, body string, at time.Duration) error {
		h := signed()
		change(h)
		return mlflow.VerifyWebhook(secret, h, []byte(body), sent.Add(at))
	}
	good := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	bad := func(err error) {
		t.Helper()
		if !errors.Is(err, mlflow.ErrWebhook) {
			t.Errorf("got %v", err)
		}
	}
	as := func(key, value string) func(http.Header) {
		return func(h http.Header) { h.Set(key, value) }
	}
	const secret = "your-secret-key"
	same := func(http.Header) {}
	good(f(same, secret, body, 0))
	good(f(same, secret, body, 5*time.Minute))
	good(f(same, secret, body, -5*time.Minute))
	bad(f(same, secret, body, 5*time.Minute+1))
	bad(f(same, secret, body, -5*time.Minute-1))
	bad(f(same, "another", body, 0))
	bad(f(same, "", body, 0))
	bad(f(same, secret, body+" ", 0))
	bad(f(as("X-MLflow-Delivery-Id", ""), secret, body, 0))
	bad(f(as("X-MLflow-Delivery-Id", "other"), secret, body, 0))
	bad(f(as("X-MLflow-Timestamp", "1753950453"), secret, body, 0))
	bad(f(as("X-MLflow-Timestamp", "soon"), secret, body, 0))
	bad(f(as("X-MLflow-Signature", ""), secret, body, 0))
	bad(f(as("X-MLflow-Signature", "v1,"), secret, body, 0))
}

func TestFlavors(t *testing.T) {
	f := func(text, want, library string, onnx bool) {
		t.Helper()
		got, err := mlflow.ParseFlavors([]byte(text))
		if want == "" {
			if !errors.Is(err, mlflow.ErrForeign) {
				t.Errorf("%q: %v, %v", text, got, err)
			}
			return
		}
		if err != nil || fmt.Sprint(got) != want || got.Library() != library || got.ONNX() != onnx {
			t.Errorf("%q: %v %q %v, %v", text, got, got.Library(), got.ONNX(), err)
		}
	}
	f("flavors:\n  python_function: {loader_module: mlflow.onnx}\n  onnx: {data: model.onnx}\n",
		"[onnx python_function]", "onnx", true)
	f("flavors:\n  sklearn: {pickled_model: m.pkl}\n  python_function: {env: conda.yaml}\n",
		"[python_function sklearn]", "sklearn", false)
	f("flavors: {python_function: {env: {conda: conda.yaml}}}", "[python_function]", "", false)
	f("flavors: {}", "", "", false)
	f("<html>", "", "", false)
	f("", "", "", false)
	f("flavors: [a", "", "", false)
}

func FuzzFlavors(f *testing.F) {
	f.Add("flavors: {onnx: {data: model.onnx}, python_function: {}}")
	f.Add("a: &a [*a]\nflavors: {x: *a, <<: {y: 1}}")
	f.Fuzz(func(t *testing.T, text string) {
		flavors, err := mlflow.ParseFlavors([]byte(text))
		if (err == nil) != (len(flavors) > 0) {
			t.Errorf("%q, %v", flavors, err)
		}
	})
}
