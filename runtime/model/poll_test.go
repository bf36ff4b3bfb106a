package model

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

// soon is more than a change may take to be served on a busy machine, and far
// less than the interval at which folders are looked at without notification.
const soon = 20 * time.Second

// follow opens a repository in ModePoll that depends on notification.
func follow(t *testing.T, root string) *Repository {
	return open(t, root, func(o *Options) { o.Mode, o.PollInterval = ModePoll, time.Hour })
}

func TestPoll(t *testing.T) {
	root := t.TempDir()
	model := func(path string, c float32) {
		t.Helper()
		write(t, filepath.Join(root, "m", path, "model.onnx"), addModel(c))
	}
	model("1", 1)
	r := follow(t, root)
	f := func(what, want string) {
		t.Helper()
		eventually(t, soon, what+": "+want, func() bool {
			got := index(r, "m")
			return want == "" && got == "" || want != "" && strings.HasPrefix(got, want)
		})
	}
	f("at the start", "1 READY")
	model("2", 2)
	f("a new version", "2 READY")
	model("2", 3)
	eventually(t, soon, "the version that was written anew serves",
		func() bool { return ask(r, "m", "") == 3 })
	write(t, filepath.Join(root, "m", "config.pbtxt"), []byte("max_batch_size: 3"))
	eventually(t, soon, "the new configuration is in force", func() bool {
		v, err := r.Acquire([]byte("m"), nil)
		if err != nil {
			return false
		}
		defer v.Release()
		return v.Config().MaxBatchSize == 3
	})
	write(t, filepath.Join(root, "m", "config.pbtxt"), []byte("max_batch_sise: 3"))
	f("a faulty configuration", "2 READY (config.pbtxt: ")
	if err := os.Remove(filepath.Join(root, "m", "config.pbtxt")); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the fault is mended", func() bool { return index(r, "m") == "2 READY" })
	if err := os.RemoveAll(filepath.Join(root, "m", "2")); err != nil {
		t.Fatal(err)
	}
	f("the version before", "1 READY")
	if err := os.RemoveAll(filepath.Join(root, "m")); err != nil {
		t.Fatal(err)
	}
	f("a folder that is gone", "")
	model("", 4)
	f("a bare folder", "1 READY")
	if got := ask(r, "m", ""); got != 4 {
		t.Errorf("it says %v", got)
	}
}

// TestHalfCopied: a version whose files still change is not loaded.
func TestHalfCopied(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "1", "model.onnx"), addModel(1))
	r := follow(t, root)
	path := filepath.Join(root, "m", "2", "model.onnx")
	whole := addModel(2)
	write(t, path, nil)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tick := time.NewTicker(settle / 8)
	defer tick.Stop()
	for i := range whole {
		if i%8 == 0 {
			<-tick.C
		}
		if got := index(r, "m"); got != "1 READY" {
			t.Fatalf("after %d of %d bytes the index is %s", i, len(whole), got)
		}
		if _, err := file.Write(whole[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, soon, "the whole version serves", func() bool { return ask(r, "m", "") == 2 })
}

// TestWatches: every folder is watched, up to the bound, and none that is gone.
func TestWatches(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "1", "model.onnx", "model.onnx"), nil)
	write(t, filepath.Join(root, "n", "1", "deep", "er", "x"), nil)
	write(t, filepath.Join(root, ".git", "x"), nil)
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	w := watcher{roots: []string{root}, notify: notify}
	f := func(want int) {
		t.Helper()
		w.refresh()
		if got := notify.WatchList(); len(got) != want {
			t.Errorf("%d folders are watched, want %d: %v", len(got), want, got)
		}
	}
	f(7)
	if err := os.Rename(filepath.Join(root, "n"), filepath.Join(root, "o")); err != nil {
		t.Fatal(err)
	}
	f(7)
	if err := os.RemoveAll(filepath.Join(root, "o")); err != nil {
		t.Fatal(err)
	}
	f(4)
}
