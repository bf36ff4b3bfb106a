package source_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/source"
)

var (
	_ source.Source = (*source.MLflow)(nil)
	_ source.Source = (*source.Folder)(nil)
	_ source.Source = (*source.Git)(nil)
	_ source.Source = (*source.Blob)(nil)
	_ source.Source = (*source.OCI)(nil)
	_ source.Source = (*source.HTTPS)(nil)
	_ source.Marker = (*source.MLflow)(nil)
)

// loopback is how servers of tests are asked.
func loopback() source.Access {
	a := source.DefaultAccess()
	a.Allow = []string{"127.0.0.0/8"}
	return a
}

// maxFileBytes is more than the big file of the tests has.
const maxFileBytes = 21 << 20

// newStore returns an empty store.
func newStore(t testing.TB) *artifact.Store {
	t.Helper()
	cfg := artifact.DefaultConfig()
	cfg.Dir, cfg.MaxFileBytes = t.TempDir(), maxFileBytes
	store, err := artifact.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// listing looks at one model, which has to be there.
func listing(t testing.TB, s source.Source, model string) source.Listing {
	t.Helper()
	results, err := s.Look(t.Context(), []string{model})
	if err != nil || results[model].Err != nil {
		t.Fatalf("cannot look at %s: %v, %v", model, err, results[model].Err)
	}
	return results[model].Listing
}

// names returns versions as "NAME", with "!" where they cannot be fetched.
func names(l source.Listing) []string {
	var all []string
	for _, v := range l.Versions {
		name := v.Name
		if v.Status != "" {
			name += "!"
		}
		all = append(all, name)
	}
	return all
}

// texts returns a version's files by their paths.
func texts(t testing.TB, store *artifact.Store, digest string) map[string]string {
	t.Helper()
	manifest, err := store.Manifest(digest)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range manifest {
		file, err := store.OpenFile(digest, f.Path)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		_, err = text.ReadFrom(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		files[f.Path] = text.String()
	}
	return files
}

// pullFails wants an error of a class with a text, and a store that has no version more.
func pullFails(t testing.TB, s source.Source, store *artifact.Store) (
	f func(model, version string, want error, text string),
) {
	return func(model, version string, want error, text string) {
		t.Helper()
		before := len(store.List())
		_, err := s.Pull(t.Context(), model, version)
		if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("%s %s: %v; want %v with %q", model, version, err, want, text)
		}
		if after := len(store.List()); after != before {
			t.Errorf("%s %s: the store has %d versions, %d before", model, version, after, before)
		}
	}
}

// pull brings a version into the store, and returns its files by their paths.
func pull(
	t testing.TB, s source.Source, store *artifact.Store, version string,
) map[string]string {
	t.Helper()
	digest, err := s.Pull(t.Context(), "iris", version)
	if err != nil {
		t.Fatal(err)
	}
	return texts(t, store, digest)
}
