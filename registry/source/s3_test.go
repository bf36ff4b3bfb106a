//go:build peers

package source_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gocloud.dev/blob"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/mlflow/mlflowtest"
	"github.com/millrace-ml/millrace/registry/source"
)

// startS3 starts a real server of S3, and returns the URL of its one bucket, open.
func startS3(t *testing.T) (c *cutter, bucket *blob.Bucket, url string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_CONFIG_FILE": os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	dir, at := t.TempDir(), socket(t)
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, address := serve(t, at, versitygw.Build(t), "--port", at, "--access", "AK", "--secret", "SK",
		"--quiet", "posix", dir)
	url = "s3://bucket?region=us-east-1&use_path_style=true&endpoint=http://" + address
	bucket, err := blob.OpenBucket(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bucket.Close() })
	return c, bucket, url
}

// TestS3 reads a bucket of a real server of S3: versions, a big file over a connection
// that breaks, one that is replaced meanwhile, and wrong credentials.
func TestS3(t *testing.T) {
	c, bucket, url := startS3(t)
	ctx := t.Context()
	big := bigFile()
	put := func(key, text string) {
		t.Helper()
		if err := bucket.WriteAll(ctx, key, []byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	put("models/iris/1/model.onnx", "one")
	put("models/iris/1/data/größe 1+1=2%.bin", "weights")
	put("models/iris/2/model.onnx", string(big))

	store := newStore(t)
	cfg := source.BlobConfig{URL: url, Prefix: "models"}
	s, err := source.NewBlob(ctx, cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	f := pullFails(t, s, store)
	if got := names(listing(t, s, "iris")); !slices.Equal(got, []string{"2!", "1!"}) {
		t.Errorf("at first the versions are %v", got)
	}
	l := listing(t, s, "iris")
	if got := names(l); !slices.Equal(got, []string{"2", "1"}) ||
		time.Since(l.Versions[0].Created) > time.Hour {
		t.Errorf("the versions are %+v", l.Versions)
	}
	if got := pull(t, s, store, "1"); len(got) != 2 || got["model.onnx"] != "one" ||
		got["data/größe 1+1=2%.bin"] != "weights" {
		t.Errorf("version 1 is %v", got)
	}
	f("iris", "3", source.ErrGone, "cannot pull iris version 3")
	f("nobody", "1", source.ErrGone, "nobody")

	cutS3(t, c, func() map[string]string { return pull(t, s, store, "2") })
	put("models/iris/4/model.onnx", string(big))
	listing(t, s, "iris")
	listing(t, s, "iris")
	c.onCut = func() { put("models/iris/4/model.onnx", string(big[1:])) }
	c.cuts.Store(1)
	f("iris", "4", source.ErrChanged, "cannot pull iris version 4")

	wrongS3(t, cfg, store)
}

// cutS3 pulls the big file over a connection that breaks.
func cutS3(t *testing.T, c *cutter, pull func() map[string]string) {
	t.Helper()
	big := bigFile()
	c.cuts.Store(3)
	c.sent.Store(0)
	if got := pull(); got["model.onnx"] != string(big) {
		t.Errorf("the big file has %d bytes", len(got["model.onnx"]))
	}
	if sent := c.sent.Load(); sent > int64(len(big))*5/4 || c.cuts.Load() >= 0 {
		t.Errorf("%d bytes were sent for a file of %d; %d cuts are left", sent, len(big),
			c.cuts.Load())
	}
}

// wrongS3 asks with a wrong secret.
func wrongS3(t *testing.T, cfg source.BlobConfig, store *artifact.Store) {
	t.Helper()
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	s, err := source.NewBlob(t.Context(), cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	results, err := s.Look(t.Context(), []string{"iris"})
	if fault := results["iris"].Err; err != nil || !errors.Is(fault, source.ErrCredentials) {
		t.Errorf("with a wrong secret Look returns %v, %v", results, err)
	}
}

// TestMLflowS3 pulls a version that MLflow has in a bucket, past the server.
func TestMLflowS3(t *testing.T) {
	_, bucket, url := startS3(t)
	python := venv.Python(t, filepath.Join("..", "mlflow", "requirements.txt"))
	server := mlflowtest.Start(t, python)
	call := func(path, body string) {
		t.Helper()
		resp, err := http.Post(server.URI+"/api/2.0/mlflow/"+path, "application/json",
			strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %s, %v\n%s", path, resp.Status, err, text)
		}
	}
	call("registered-models/create", `{"name":"iris"}`)
	for _, folder := range []string{"onnx", "sklearn", "nothing"} {
		call("model-versions/create", `{"name":"iris","source":"s3://bucket/mlflow/`+folder+`"}`)
	}
	for key, text := range map[string]string{
		"mlflow/onnx/MLmodel":      "flavors: {onnx: {}, python_function: {}}",
		"mlflow/onnx/model.onnx":   "one",
		"mlflow/sklearn/MLmodel":   "flavors: {sklearn: {}, python_function: {}}",
		"mlflow/sklearn/model.pkl": "x",
	} {
		if err := bucket.WriteAll(t.Context(), key, []byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	m, store := openMLflow(t, server.URI, strings.Replace(url, "bucket?", "bucket/mlflow?", 1))
	if got := pull(t, m, store, "1"); len(got) != 2 || got["model.onnx"] != "one" {
		t.Errorf("version 1 is %v", got)
	}
	f := pullFails(t, m, store)
	f("iris", "2", source.ErrNotONNX, "sklearn")
	f("iris", "3", source.ErrGone, "MLmodel")
	m, store = openMLflow(t, server.URI, strings.Replace(url, "bucket?", "bucket/other?", 1))
	pullFails(t, m, store)("iris", "1", source.ErrRefused, "s3://bucket/mlflow/onnx")
}
