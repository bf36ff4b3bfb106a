package source

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"

	"github.com/millrace-ml/millrace/registry/artifact"
)

// openStore returns an empty store.
func openStore(t *testing.T) *artifact.Store {
	t.Helper()
	cfg := artifact.DefaultConfig()
	cfg.Dir = t.TempDir()
	store, err := artifact.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// TestBucket reads a bucket that is a folder, with keys that no folder would have.
func TestBucket(t *testing.T) {
	dir := t.TempDir()
	files, err := fileblob.OpenBucket(dir, &fileblob.Options{Metadata: fileblob.MetadataDontWrite})
	if err != nil {
		t.Fatal(err)
	}
	for key, text := range map[string]string{
		"models/iris/1/model.onnx":        "one",
		"models/iris/2/model.onnx":        "two",
		"models/iris/2/data/größe 100%":   "data",
		"models/iris/2/":                  "",
		"models/iris/2/.hidden":           "x",
		"models/iris/out/../../../x.onnx": "x",
		"models/iris/out/model.onnx":      "x",
		"models/iris/slashes//model.onnx": "x",
		"models/iris/README":              "x",
		"models/irises/7/model.onnx":      "x",
	} {
		if err := files.WriteAll(t.Context(), key, []byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	store := openStore(t)
	b := Blob{newShelf(&bucket{blob.PrefixedBucket(files, "models/")}, store)}
	defer func() { _ = b.Close() }()
	for _, want := range []string{"its files have come or changed since the last look", ""} {
		results, err := b.Look(t.Context(), []string{"iris", "nobody"})
		if err != nil || !errors.Is(results["nobody"].Err, ErrGone) {
			t.Fatalf("Look returns %v, %v", results, err)
		}
		var names []string
		for _, v := range results["iris"].Listing.Versions {
			if v.Status != want || v.Created.IsZero() {
				t.Errorf("the version is %+v, its status is not %q", v, want)
			}
			names = append(names, v.Name)
		}
		slices.Sort(names)
		if !slices.Equal(names, []string{"1", "2", "out", "slashes"}) {
			t.Errorf("the versions are %v", names)
		}
	}
	digest, err := b.Pull(t.Context(), "iris", "2")
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := store.Manifest(digest)
	if err != nil || len(manifest) != 2 || manifest[0].Path != "data/größe 100%" ||
		manifest[1].Path != "model.onnx" || manifest[1].Size != 3 {
		t.Errorf("version 2 is %v, %v", manifest, err)
	}
	f := func(version string, want error) {
		t.Helper()
		if _, err := b.Pull(t.Context(), "iris", version); !errors.Is(err, want) {
			t.Errorf("version %s: %v, want %v", version, err, want)
		}
	}
	f("out", artifact.ErrInvalid)
	f("slashes", artifact.ErrInvalid)
	f("3", ErrGone)
	f("", ErrGone)
	if all := store.List(); len(all) != 1 {
		t.Errorf("the store has %v", all)
	}
}

// TestChanged replaces a file between the list and its reading.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "1", "model.onnx")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	onDisk, err := openDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = onDisk.Close() }()
	files, err := fileblob.OpenBucket(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = files.Close() }()
	for _, tree := range []tree{onDisk, &bucket{files}} {
		write("one")
		store := openStore(t)
		if _, err := pullTree(t.Context(), into{store: store},
			changing{tree, func() { write("other") }}, "1"); !errors.Is(err, ErrChanged) ||
			len(store.List()) != 0 {
			t.Errorf("%T: a file that was replaced: %v", tree, err)
		}
	}
}

// changing is a tree in which something happens after each list.
type changing struct {
	tree
	change func()
}

func (c changing) open(
	ctx context.Context, dir string, o object,
) (io.ReadCloser, error) {
	c.change()
	return c.tree.open(ctx, dir, o)
}

// TestPlaces reads URLs of places, and what MLflow says of where files lie.
func TestPlaces(t *testing.T) {
	f := func(allowed, root, want string) {
		t.Helper()
		p, err := parsePlace(allowed)
		if err != nil {
			t.Fatal(err)
		}
		at, err := parseArtifacts(root)
		dir, ok := "", false
		if err == nil {
			dir, ok = p.below(at)
		}
		if ok != (want != "") || dir != want {
			t.Errorf("%s below %s: %q, %v, %v; want %q", root, allowed, dir, ok, err, want)
		}
	}
	f("s3://bucket?region=x", "s3://bucket/a/b", "a/b")
	f("s3://bucket/a?region=x", "s3://bucket/a/b", "b")
	f("s3://bucket/a", "s3://bucket/a", ".")
	f("s3://bucket", "s3://bucket", ".")
	f("s3://bucket/a", "s3://bucket/ab/c", "")
	f("s3://bucket", "s3://other/a", "")
	f("s3://bucket", "gs://bucket/a", "")
	f("s3://bucket", "s3://bucket/a/../../other", "")
	f("s3://bucket", "s3://bucket?endpoint=http://evil/a", "")
	f("s3://bucket", "s3://bucket/a?endpoint=http://evil", "")
	f("gs://bucket/a/", "gs://bucket/a/b/", "b")
	f("file:///mlflow", "file:///mlflow/1/my%20model", "1/my model")
	f("file:///mlflow", "/mlflow/1", "1")
	f("file:///", "/mlflow/1", "mlflow/1")
	f("file:///mlflow", "file:///mlflow/%2e%2e/etc", "")
	f("file:///mlflow", "file:///mlflow/../etc", "")
	f("file:///mlflow", "file://host/mlflow/1", "")
	f("file:///mlflow", "mlruns/1", "")
	f("azblob://c?storage_account=me", "wasbs://c@me.blob.core.windows.net/a", "a")
	f("azblob://c?storage_account=me", "abfss://c@me.dfs.core.windows.net/a", "a")
	f("azblob://c?storage_account=me", "wasbs://c@evil.blob.core.windows.net/a", "")
	f("azblob://c?storage_account=me", "wasbs://c@me.blob.core.windows.net.evil.org/a", "")
	f("azblob://c?storage_account=me", "wasbs://c@evil.org/a", "")

	g := func(text, want string) {
		t.Helper()
		if _, err := parsePlace(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	g("http://host/x", "s3, gs, azblob and file are allowed")
	g("s3:///x", "s3://BUCKET")
	g("s3://key:secret@bucket", "environment")
	g("file://host/x", "file:///folder")
	g("mem://", "s3, gs, azblob and file are allowed")
	g("%", "not a URL")
}
