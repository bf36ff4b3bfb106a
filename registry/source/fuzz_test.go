package source

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/registry/artifact"
)

// FuzzParseManifest wants only files with a digest, or an error.
func FuzzParseManifest(f *testing.F) {
	f.Add(`{"layers":[{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":3,` +
		`"annotations":{"org.opencontainers.image.title":"model.onnx"}}]}`)
	f.Add(`{"layers":[{"digest":"sha512:00","size":-1,` +
		`"annotations":{"org.opencontainers.image.title":"../x"}}]}`)
	f.Add(`{"layers":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		files, err := parseManifest([]byte(text))
		if (err == nil) != (len(files) > 0) {
			t.Errorf("%d files, %v", len(files), err)
		}
		for _, f := range files {
			if f.path == "" || f.size < 0 || !artifact.ValidDigest(f.digest) {
				t.Errorf("the file %+v", f)
			}
		}
	})
}

// FuzzParseTree wants a name and an object for each file, or an error.
func FuzzParseTree(f *testing.F) {
	f.Add("100644 blob 0123456789abcdef0123456789abcdef01234567\tmodel.onnx\x00")
	f.Add("120000 blob 0123456789abcdef0123456789abcdef01234567\tlink\x00")
	f.Add("100644 blob x\ta\nb\x00100644 blob y\t\x00")
	f.Fuzz(func(t *testing.T, text string) {
		files, objects, err := parseTree(text)
		for _, f := range files {
			if err != nil || f.size != -1 || objects[f.path] == "" {
				t.Errorf("the file %+v, %v", f, err)
			}
		}
	})
}

// FuzzParseArtifacts wants places of known kinds without ways up and without options that
// could name another server.
func FuzzParseArtifacts(f *testing.F) {
	f.Add("s3://bucket/a/b")
	f.Add("file:///a/%2e%2e/b")
	f.Add("wasbs://c@account.blob.core.windows.net/a?endpoint=x")
	f.Add("/a//../b")
	f.Fuzz(func(t *testing.T, root string) {
		p, err := parseArtifacts(root)
		if err != nil {
			return
		}
		clean := strings.Trim(path.Clean("/"+p.path), "/")
		delete(p.query, "storage_account")
		if !slices.Contains([]string{"s3", "gs", "file", "azblob"}, p.scheme) ||
			clean != strings.Trim(p.path, "/") || len(p.query) > 0 ||
			strings.Contains(p.bucket, "?") {
			t.Errorf("%q is %+v", root, p)
		}
	})
}
