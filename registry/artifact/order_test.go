package artifact

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

// TestOrder watches the disk: a manifest comes after its files and leaves before
// them, so that there is no instant at which it lacks one.
func TestOrder(t *testing.T) {
	s := open(t, config(t))
	blobs := make(map[string]bool)
	w, err := fsnotify.NewBufferedWatcher(1000)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	watch := []string{manifestsDir}
	for _, content := range []string{"aaa", "bbb"} {
		blob := blobPath(sum([]byte(content)))
		blobs[filepath.Join(s.cfg.Dir, blob)] = true
		watch = append(watch, filepath.Dir(blob))
	}
	for _, dir := range watch {
		if err := s.root.MkdirAll(dir, dirMode); err != nil {
			t.Fatal(err)
		}
		if err := w.Add(filepath.Join(s.cfg.Dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	digest := ingest(t, s, "a", "aaa", "b", "bbb")
	if _, err := s.Collect(t.Context(), time.Now().Add(s.cfg.KeepUnused+time.Hour)); err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(s.cfg.Dir, manifestPath(digest))
	var seen []string
	for len(seen) < 6 {
		select {
		case e := <-w.Events:
			what := map[bool]string{true: "file", false: "manifest"}[blobs[e.Name]]
			switch {
			case e.Name != manifest && !blobs[e.Name]:
				t.Errorf("%v is no file of the version", e)
			case e.Has(fsnotify.Create):
				seen = append(seen, what+" comes")
			case e.Has(fsnotify.Remove):
				seen = append(seen, what+" leaves")
			}
		case err := <-w.Errors:
			t.Fatal(err)
		case <-time.After(10 * time.Second):
			t.Fatalf("saw %q only", seen)
		}
	}
	if want := []string{"file comes", "file comes", "manifest comes", "manifest leaves",
		"file leaves", "file leaves"}; !slices.Equal(seen, want) {
		t.Errorf("saw %q", seen)
	}
}
