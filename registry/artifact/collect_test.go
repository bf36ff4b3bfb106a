package artifact

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// digests lists the versions of a store.
func digests(s *Store) []string {
	var list []string
	for _, v := range s.List() {
		list = append(list, v.Digest)
	}
	return list
}

func checkVersions(t *testing.T, s *Store, want ...string) {
	t.Helper()
	if got := digests(s); !slices.Equal(got, want) {
		t.Errorf("the store has %v, want %v", got, want)
	}
}

// TestCollect removes by age, but not what is pinned or what others have too.
func TestCollect(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	a := ingest(t, s, "x", "shared", "y", "aaa")
	b := ingest(t, s, "x", "shared", "y", "bb")
	c := ingest(t, s, "x", "c")
	_, err := s.Ingest(t.Context(), "half", func(w *Writer) error {
		if err := w.File("whole", -1, "", strings.NewReader("loose")); err != nil {
			return err
		}
		return w.File("cut", 100, sum(nil), io.MultiReader(strings.NewReader("1234567"),
			iotest.ErrReader(io.ErrUnexpectedEOF)))
	})
	want(t, err, io.ErrUnexpectedEOF, "")
	for _, who := range []string{"stable", "canary", "stable"} {
		if err := s.Pin(b, who); err != nil {
			t.Fatal(err)
		}
	}
	collect := func(after time.Duration, want int64, versions ...string) {
		t.Helper()
		s = reopen(t, s)
		freed, err := s.Collect(t.Context(), time.Now().Add(after))
		if freed != want || err != nil {
			t.Errorf("freed %d bytes, %v; want %d", freed, err, want)
		}
		checkVersions(t, s, versions...)
	}
	collect(cfg.KeepPartial-time.Minute, 0, a, c, b)
	collect(cfg.KeepPartial+time.Minute, int64(len("loose1234567")), a, c, b)
	collect(cfg.KeepUnused-time.Minute, 0, a, c, b)
	collect(cfg.KeepUnused+time.Minute, int64(len("aaac")), b)
	if err := s.Verify(t.Context(), b); err != nil {
		t.Error(err)
	}
	if got := s.List()[0].Pins; !slices.Equal(got, []string{"canary", "stable"}) {
		t.Errorf("it is pinned by %v", got)
	}
	if err := errors.Join(s.Unpin(b, "stable"), s.Unpin(b, "nobody")); err != nil {
		t.Fatal(err)
	}
	collect(cfg.KeepUnused+time.Minute, 0, b)
	if err := s.Unpin(b, "canary"); err != nil {
		t.Fatal(err)
	}
	// It was in use until now.
	collect(cfg.KeepUnused-time.Minute, 0, b)
	collect(cfg.KeepUnused+time.Minute, int64(len("sharedbb")))
	if got := onDisk(t, s); !slices.Equal(got, []string{pinsFile}) {
		t.Errorf("%q is left", got)
	}
	want(t, s.Pin(b, "late"), ErrNotFound, b)
	want(t, s.Pin(b, ""), ErrInvalid, "name")
}

// TestBound fills a store: the version that was not used for longest makes room,
// a pinned one does not, and nothing is removed in vain.
func TestBound(t *testing.T) {
	cfg := config(t)
	cfg.MaxBytes = 100
	s := open(t, cfg)
	content := func(c string, n int) []string { return []string{"f", strings.Repeat(c, n)} }
	a := ingest(t, s, content("a", 40)...)
	b := ingest(t, s, content("b", 40)...)
	c := ingest(t, s, content("c", 20)...)
	checkVersions(t, s, a, b, c)
	if err := s.Pin(a, "stable"); err != nil {
		t.Fatal(err)
	}
	checkVersions(t, s, b, c, a)
	d := ingest(t, s, content("d", 30)...) // of b's place
	checkVersions(t, s, c, a, d)
	full := func(f func(*Writer) error) {
		t.Helper()
		_, err := s.Ingest(t.Context(), "large", f)
		var e *FullError
		if want(t, err, ErrFull, "raise max_bytes"); !errors.As(err, &e) ||
			e.Used != 40 && e.Used != 100 || e.Pinned != 40 || e.Max != 100 {
			t.Errorf("got %+v", e)
		}
	}
	full(func(w *Writer) error { return w.File("f", 61, "", strings.NewReader("")) })
	checkVersions(t, s, c, a, d)
	full(files("f", strings.Repeat("e", 61)))
	checkVersions(t, s, c, a, d)
	// What the same ingest has received before does not make room.
	full(files("f", strings.Repeat("e", 60), "g", "g"))
	checkVersions(t, s, a)
	// Loose files leave before versions do.
	e := ingest(t, s, content("f", 50)...)
	checkVersions(t, s, a, e)
	reopen(t, s)
	if s.Used() != 90 {
		t.Errorf("%d bytes are in use", s.Used())
	}
}

// TestSmallerBound opens a store with less room than it takes.
func TestSmallerBound(t *testing.T) {
	s := open(t, config(t))
	ingest(t, s, "f", "aaaa")
	b := ingest(t, s, "f", "bbbb")
	s.cfg.MaxBytes = 5
	s = reopen(t, s)
	if freed, err := s.Collect(t.Context(), time.Now()); freed != 4 || err != nil {
		t.Errorf("freed %d bytes, %v", freed, err)
	}
	checkVersions(t, s, b)
}

// TestMaterialize makes folders.
func TestMaterialize(t *testing.T) {
	s := open(t, config(t))
	one := []string{"model.onnx", "weights", "data/deep/b.bin", "", "data/c.bin", "c"}
	digest := ingest(t, s, one...)
	other := ingest(t, s, "model.onnx", "other")
	dir := filepath.Join(t.TempDir(), "models", "fraud")
	f := func(digest, dir string, kind error) {
		t.Helper()
		want(t, s.Materialize(t.Context(), digest, dir), kind, "")
		entries, err := os.ReadDir(filepath.Dir(dir))
		if err != nil || len(entries) != 1 {
			t.Errorf("%v lie beside the folder: %v", entries, err)
		}
	}
	// What a killed process has left is in nobody's way.
	if err := os.MkdirAll(filepath.Join(filepath.Dir(dir), ".fraud.new", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	f(digest, dir, nil)
	checkSame(t, dir, one...)
	f(digest, dir, nil)
	f(other, dir, fs.ErrExist)
	checkSame(t, dir, one...)
	info, err := os.Stat(filepath.Join(dir, "model.onnx"))
	if err != nil || info.Mode().Perm() != blobMode {
		t.Errorf("the file has the mode %v: %v", info.Mode(), err)
	}
	blob, err := s.root.Stat(blobPath(sum([]byte("weights"))))
	if err != nil || !os.SameFile(info, blob) {
		t.Errorf("the file is a copy: %v", err)
	}
	if _, err := s.Collect(t.Context(), time.Now().Add(s.cfg.KeepUnused+time.Hour)); err != nil {
		t.Fatal(err)
	}
	checkSame(t, dir, one...)
	want(t, s.Materialize(t.Context(), digest, dir+"2"), ErrNotFound, digest)
	if err := os.WriteFile(filepath.Join(dir, "more"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ingest(t, s, one...)
	f(digest, dir, fs.ErrExist)
	if err := errors.Join(os.Remove(filepath.Join(dir, "more")),
		os.Remove(filepath.Join(dir, "data", "c.bin"))); err != nil {
		t.Fatal(err)
	}
	f(digest, dir, fs.ErrExist)
}

// TestCopy makes a folder on another file system, where links cannot lead.
func TestCopy(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "millrace")
	if err != nil {
		t.Skip("no other file system:", err)
	}
	defer os.RemoveAll(dir)
	s := open(t, config(t))
	one := []string{"model.onnx", strings.Repeat("weights", 100_000), "d/e", "e"}
	digest := ingest(t, s, one...)
	if err := s.Materialize(t.Context(), digest, filepath.Join(dir, "m")); err != nil {
		t.Fatal(err)
	}
	checkSame(t, filepath.Join(dir, "m"), one...)
}

// TestDamage changes files on disk. Verify finds them, the version is not used,
// and another ingest repairs it.
func TestDamage(t *testing.T) {
	s := open(t, config(t))
	one := []string{"a", "aaaa", "b", "bbbb", "c", "cccc"}
	digest := ingest(t, s, one...)
	if err := s.Verify(t.Context(), digest); err != nil {
		t.Error(err)
	}
	f := func(damage func(blob string) error, reopened bool) {
		t.Helper()
		if err := damage(blobPath(sum([]byte("bbbb")))); err != nil {
			t.Fatal(err)
		}
		if reopened {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, s.cfg)
		} else {
			err := s.Verify(t.Context(), digest)
			want(t, err, ErrDamaged, `file "b"`)
			if strings.Contains(err.Error(), `"a"`) {
				t.Errorf("a file that is not damaged is named: %v", err)
			}
		}
		if list := s.List(); len(list) != 1 || !list[0].Damaged {
			t.Errorf("the store has %+v", list)
		}
		s.Ingest(t.Context(), "x", func(w *Writer) error {
			if ok, _ := w.Reuse("b", sum([]byte("bbbb"))); ok {
				t.Error("a damaged file is reused")
			}
			return io.EOF
		})
		dir := filepath.Join(t.TempDir(), "m")
		want(t, s.Materialize(t.Context(), digest, dir), ErrDamaged, "ingest it again")
		if again := ingest(t, s, one...); again != digest || s.List()[0].Damaged {
			t.Errorf("it is not repaired")
		}
		if err := errors.Join(s.Verify(t.Context(), digest),
			s.Materialize(t.Context(), digest, dir)); err != nil {
			t.Error(err)
		}
		checkSame(t, dir, one...)
		s = reopen(t, s)
	}
	remove := func(blob string) error { return s.root.Remove(blob) }
	write := func(content string) func(string) error {
		return func(blob string) error {
			return errors.Join(s.root.Remove(blob),
				s.root.WriteFile(blob, []byte(content), blobMode))
		}
	}
	f(write("bbXb"), false)
	f(write("bb"), false)
	f(write("bb"), true)
	f(remove, false)
	f(remove, true)
}
