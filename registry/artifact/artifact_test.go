package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

func config(t testing.TB) Config {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Dir = t.TempDir()
	return cfg
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// reopen closes a store and opens it again; its account must be the same.
func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	used := s.Used()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, s.cfg)
	if s.Used() != used {
		t.Errorf("%d bytes are in use, %d before it was opened again", s.Used(), used)
	}
	return s
}

// files makes an ingest of paths and contents, one after the other.
func files(pairs ...string) func(*Writer) error {
	return func(w *Writer) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := w.File(pairs[i], -1, "", strings.NewReader(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	}
}

func ingest(t testing.TB, s *Store, pairs ...string) string {
	t.Helper()
	digest, err := s.Ingest(t.Context(), "test", files(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// want checks that an error wraps another and says something.
func want(t *testing.T, err, kind error, says string) {
	t.Helper()
	if !errors.Is(err, kind) || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("got the error %v; want %v with %q", err, kind, says)
	}
}

// onDisk lists what lies below the store's folder, without the lock.
func onDisk(t *testing.T, s *Store) []string {
	t.Helper()
	var list []string
	err := fs.WalkDir(s.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && name != lockFile {
			list = append(list, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// checkSame checks that a folder holds these files and no others.
func checkSame(t *testing.T, dir string, pairs ...string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	if err != nil || n != len(pairs)/2 {
		t.Errorf("%s has %d files, %v; want %d", dir, n, err, len(pairs)/2)
	}
	for i := 0; i < len(pairs); i += 2 {
		got, err := os.ReadFile(filepath.Join(dir, pairs[i]))
		if err != nil || string(got) != pairs[i+1] {
			t.Errorf("%s holds %q, %v; want %q", pairs[i], got, err, pairs[i+1])
		}
	}
}

func TestIngest(t *testing.T) {
	s := open(t, config(t))
	one := []string{"model.onnx", "weights", "data/b.bin", "", "MLmodel", "flavors:"}
	digest := ingest(t, s, one...)
	other := ingest(t, s, "MLmodel", "flavors:", "data/b.bin", "", "model.onnx", "weights")
	if digest != other {
		t.Errorf("the order of the files makes two versions, %s and %s", digest, other)
	}
	more := ingest(t, s, append(one, "copy.onnx", "weights")...)
	// weights, nothing, flavors: and two manifests.
	if got := onDisk(t, s); len(got) != 5 || s.Used() != int64(len("weightsflavors:")) {
		t.Errorf("%d bytes in %q", s.Used(), got)
	}
	s = reopen(t, s)
	text, err := s.root.ReadFile(manifestPath(digest))
	if err != nil || sum(text) != digest {
		t.Errorf("the manifest is not what its name says: %v", err)
	}
	list := s.List()
	if len(list) != 2 || list[0].Digest != digest || list[1].Digest != more ||
		list[0].Files != 3 || list[0].Bytes != 15 || list[0].Damaged {
		t.Errorf("the store has %+v", list)
	}
	f, err := s.OpenFile(digest, "model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); string(got) != "weights" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	_, err = s.OpenFile(digest, "model.bin")
	want(t, err, ErrNotFound, "model.bin")
	_, err = s.OpenFile(strings.Repeat("0", 64), "model.onnx")
	want(t, err, ErrNotFound, "0000")
}

// TestRefused checks what must not become a version, and that nothing is left.
func TestRefused(t *testing.T) {
	cfg := config(t)
	cfg.MaxFiles, cfg.MaxFileBytes, cfg.MaxBytes = 3, 100, 1000
	s := open(t, cfg)
	digest := sum([]byte("weights"))
	f := func(kind error, says string, f func(*Writer) error) {
		t.Helper()
		_, err := s.Ingest(t.Context(), "fraud/7", f)
		want(t, err, kind, says)
		want(t, err, kind, "cannot ingest fraud/7")
		if s.Used() != 0 || len(s.List()) != 0 || len(onDisk(t, s)) != 0 {
			t.Errorf("%d bytes are left in %q", s.Used(), onDisk(t, s))
		}
	}
	file := func(path string, size int64, digest, content string) func(*Writer) error {
		return func(w *Writer) error {
			return w.File(path, size, digest, strings.NewReader(content))
		}
	}
	f(ErrInvalid, "no files", func(*Writer) error { return nil })
	f(ErrInvalid, `".."`, file("../a", -1, "", "weights"))
	f(ErrInvalid, "digest", file("a", -1, "ABC", "weights"))
	f(ErrInvalid, "-2 bytes", file("a", -2, "", "weights"))
	f(ErrTooLarge, "101 bytes", file("a", 101, "", "weights"))
	f(ErrTooLarge, "more than 100 bytes", file("a", -1, "", strings.Repeat("a", 101)))
	f(ErrMismatch, "after 7 of 8 bytes", file("a", 8, "", "weights"))
	f(io.ErrUnexpectedEOF, "after 7 of 8 bytes", file("a", 8, "", "weights"))
	f(ErrMismatch, "more than the 6 bytes", file("a", 6, "", "weights"))
	f(ErrMismatch, digest, file("a", 7, digest, "weighty"))
	f(ErrMismatch, digest, file("a", -1, digest, "weights and more"))
	f(io.ErrClosedPipe, "closed", func(w *Writer) error {
		// Whoever forgets the error of a file gets no version without it.
		w.File("a", -1, "", iotest.ErrReader(io.ErrClosedPipe))
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Ingest(ctx, "x", func(w *Writer) error { cancel(); return nil })
	want(t, err, context.Canceled, "")
	_, err = s.Ingest(t.Context(), "x", files("a", "", "b", "", "c", "", "d", ""))
	want(t, err, ErrTooLarge, "more than 3 files")
	_, err = s.Ingest(t.Context(), "x", files("a", "", "A/b", ""))
	want(t, err, ErrInvalid, "clashes")
}

// TestResume cuts a file and goes on, in the same store and in one opened anew.
func TestResume(t *testing.T) {
	s := open(t, config(t))
	content := strings.Repeat("0123456789abcdef", 100_000)
	digest, size := sum([]byte(content)), int64(len(content))
	offset := int64(0)
	f := func(cut int64) {
		t.Helper()
		_, err := s.Ingest(t.Context(), "cut", func(w *Writer) error {
			if got := w.Partial(digest); got != offset {
				t.Errorf("%d bytes are there, want %d", got, offset)
			}
			return w.Rest("a", size, digest, io.MultiReader(
				strings.NewReader(content[offset:cut]), iotest.ErrReader(io.ErrUnexpectedEOF)))
		})
		want(t, err, io.ErrUnexpectedEOF, "")
		if offset = cut; s.Used() != cut {
			t.Errorf("%d bytes are in use, want %d", s.Used(), cut)
		}
	}
	f(10)
	f(10)
	s = reopen(t, s)
	f(700_001)
	s = reopen(t, s)
	version, err := s.Ingest(t.Context(), "rest", func(w *Writer) error {
		return w.Rest("a", size, digest, strings.NewReader(content[offset:]))
	})
	if err != nil || s.Used() != size {
		t.Fatalf("%d bytes are in use: %v", s.Used(), err)
	}
	s = reopen(t, s)
	if err := s.Verify(t.Context(), version); err != nil {
		t.Error(err)
	}
	// What is there is not read again.
	_, err = s.Ingest(t.Context(), "again", func(w *Writer) error {
		if ok, err := w.Reuse("c", sum(nil)); ok || err != nil {
			t.Errorf("what is not there is reused: %v", err)
		}
		if ok, err := w.Reuse("b", digest); !ok || err != nil {
			t.Errorf("what is there is not reused: %v", err)
		}
		return w.File("a", size, digest, iotest.ErrReader(io.ErrClosedPipe))
	})
	if err != nil {
		t.Error(err)
	}
	_, err = s.Ingest(t.Context(), "wrong size", func(w *Writer) error {
		return w.File("a", size+1, digest, iotest.ErrReader(io.ErrClosedPipe))
	})
	want(t, err, ErrMismatch, "1600001 bytes")
}

// TestWrongPartial checks that what is wrong at the start is not kept for ever.
func TestWrongPartial(t *testing.T) {
	s := open(t, config(t))
	digest := sum([]byte("weights"))
	f := func(kind error, offset int64, content string) {
		t.Helper()
		_, err := s.Ingest(t.Context(), "x", func(w *Writer) error {
			if got := w.Partial(digest); got != offset {
				t.Errorf("%d bytes are there, want %d", got, offset)
			}
			return w.Rest("a", 7, digest, strings.NewReader(content))
		})
		want(t, err, kind, "")
	}
	f(io.ErrUnexpectedEOF, 0, "wea")
	f(ErrMismatch, 3, "thER")
	f(nil, 0, "weights")
}

// TestTwoWriters has two writers receive the same file at once: the second one
// neither disturbs nor waits for the first.
func TestTwoWriters(t *testing.T) {
	s := open(t, config(t))
	digest := sum([]byte("weights"))
	rest := func(content string) func(*Writer) error {
		return func(w *Writer) error { return w.Rest("a", 7, digest, strings.NewReader(content)) }
	}
	_, err := s.Ingest(t.Context(), "cut", rest("wei"))
	want(t, err, io.ErrUnexpectedEOF, "")
	_, err = s.Ingest(t.Context(), "first", func(w *Writer) error {
		if got := w.Partial(digest); got != 3 {
			t.Errorf("%d bytes are there", got)
		}
		_, err := s.Ingest(t.Context(), "second", func(w *Writer) error {
			if got := w.Partial(digest); got != 0 {
				t.Errorf("%d bytes are there for a second writer", got)
			}
			return w.File("a", -1, digest, strings.NewReader("not that"))
		})
		want(t, err, ErrMismatch, "")
		_, err = s.Ingest(t.Context(), "cut", rest("w"))
		want(t, err, io.ErrUnexpectedEOF, "")
		return w.Rest("a", 7, digest, strings.NewReader("ghts"))
	})
	if err != nil {
		t.Error(err)
	}
	if s = reopen(t, s); s.Used() != 7 || len(onDisk(t, s)) != 2 {
		t.Errorf("%d bytes are in use: %q", s.Used(), onDisk(t, s))
	}
}

// TestSameFile receives a file while the store gets it from another writer. The one
// that is there stays: it may be the source of a link that is being made.
func TestSameFile(t *testing.T) {
	s := open(t, config(t))
	path := filepath.Join(s.cfg.Dir, blobPath(sum([]byte("weights"))))
	var before os.FileInfo
	_, err := s.Ingest(t.Context(), "first", func(w *Writer) error {
		return w.File("a", -1, "", readerFunc(func(p []byte) (n int, err error) {
			if before == nil {
				ingest(t, s, "a", "weights")
				before, err = os.Stat(path)
				return copy(p, "weights"), err
			}
			return 0, io.EOF
		}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was replaced (%v)", err)
	}
	if s = reopen(t, s); s.Used() != 7 || len(onDisk(t, s)) != 2 {
		t.Errorf("%d bytes are in use: %q", s.Used(), onDisk(t, s))
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestConcurrent ingests the same and other files at once while all that may go
// is collected: each version that was acknowledged while pinned is whole.
func TestConcurrent(t *testing.T) {
	cfg := config(t)
	cfg.KeepUnused, cfg.KeepPartial = 0, 0
	s := open(t, cfg)
	shared := strings.Repeat("shared", 100_000)
	done := make(chan struct{})
	var collector, wg sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, err := s.Collect(context.Background(), time.Now()); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for g := range 4 {
		wg.Go(func() {
			for i := range 20 {
				content := []string{"shared", shared, "own", fmt.Sprint(g, i%10)}
				digest := ingest(t, s, content...)
				if err := s.Pin(digest, "test"); errors.Is(err, ErrNotFound) {
					continue // it was collected first
				}
				if err := s.Verify(t.Context(), digest); err != nil {
					t.Error(err)
				}
				dir := filepath.Join(t.TempDir(), "m")
				if err := s.Materialize(t.Context(), digest, dir); err != nil {
					t.Error(err)
				}
				checkSame(t, dir, content...)
				if err := s.Unpin(digest, "test"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	collector.Wait()
	if _, err := s.Collect(t.Context(), time.Now().Add(time.Second)); err != nil {
		t.Error(err)
	}
	if s.Used() != 0 || len(s.List()) != 0 {
		t.Errorf("%d bytes are left", s.Used())
	}
	reopen(t, s)
}

// TestOneProcess checks that a store is open once, and can be opened after Close.
func TestOneProcess(t *testing.T) {
	s := open(t, config(t))
	_, err := Open(s.cfg)
	want(t, err, ErrLocked, s.cfg.Dir)
	reopen(t, s)
	_, err = s.Ingest(t.Context(), "x", files("a", "b"))
	want(t, err, ErrClosed, "")
	want(t, s.Pin("", "who"), ErrNotFound, "")
	_, err = Open(Config{})
	want(t, err, err, "max_files")
}

// TestForeignFiles checks that what is not the store's does not count.
func TestForeignFiles(t *testing.T) {
	s := open(t, config(t))
	digest := ingest(t, s, "a", "weights")
	manifest, err := s.root.ReadFile(manifestPath(digest))
	if err != nil {
		t.Fatal(err)
	}
	evil := bytes.ReplaceAll(manifest, []byte(`"a"`), []byte(`"../../a"`))
	for name, content := range map[string][]byte{
		manifestPath(strings.Repeat("0", 64)):  manifest,      // of another digest
		manifestPath(sum(manifest[:20])):       manifest[:20], // half
		manifestPath(sum(evil)):                evil,
		manifestPath("README"):                 manifest,
		partialPath("README"):                  manifest,
		"temp/left":                            manifest,
		"blobs/sha256/ab/x":                    manifest,
		"blobs/sha256/x":                       manifest,
		"manifests/" + strings.Repeat("A", 64): manifest,
	} {
		if err := s.root.MkdirAll(filepath.Dir(name), dirMode); err != nil {
			t.Fatal(err)
		}
		if err := s.root.WriteFile(name, content, fileMode); err != nil {
			t.Fatal(err)
		}
	}
	s = reopen(t, s)
	if list := s.List(); len(list) != 1 || list[0].Digest != digest || list[0].Damaged {
		t.Errorf("the store has %+v", list)
	}
	if _, err := s.root.Stat("temp/left"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a temporary file is left: %v", err)
	}
	// A link out of the store is followed by nothing.
	out := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(out, []byte("secret!"), 0o600); err != nil {
		t.Fatal(err)
	}
	blob := blobPath(sum([]byte("weights")))
	if err := errors.Join(s.root.Remove(blob), s.root.Symlink(out, blob)); err != nil {
		t.Fatal(err)
	}
	if f, err := s.OpenFile(digest, "a"); err == nil {
		f.Close()
		t.Error("a link out of the store was followed")
	}
	if err := errors.Join(s.Close(), os.WriteFile(filepath.Join(s.cfg.Dir, pinsFile),
		[]byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err = Open(s.cfg)
	want(t, err, ErrDamaged, "pins.json")
}
