package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"
)

// used makes a store of 60 resources and as many changes, closes it, and returns its
// text and that of the file beside it.
func used(t *testing.T) (text, identity []byte) {
	t.Helper()
	cfg := config(t)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		put(t, b, fmt.Sprint(i), `"`+strings.Repeat("x", 500)+`"`)
	}
	size := int64(0) // what bbolt uses of the file; it makes it larger than it needs
	err = b.view(t.Context(), func(tx *bbolt.Tx) error {
		size = tx.Size()
		return nil
	})
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	return read(t, cfg.Path)[:size], read(t, identityPath(cfg.Path))
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tryOpen opens a store whose files have those texts. The second may be nil.
func tryOpen(t *testing.T, text, identity []byte) (*Bolt, error) {
	t.Helper()
	cfg := config(t)
	write(t, cfg.Path, text)
	if identity != nil {
		write(t, identityPath(cfg.Path), identity)
	}
	return Open(cfg)
}

func TestOpenRefuses(t *testing.T) {
	good, identity := used(t)
	f := func(text []byte, want string) {
		t.Helper()
		_, err := tryOpen(t, text, identity)
		if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	page := os.Getpagesize()
	with := func(from, to int, fill byte) []byte {
		text := bytes.Clone(good)
		copy(text[from:], bytes.Repeat([]byte{fill}, to-from))
		return text
	}
	f(nil, "it is empty; restore a backup")
	f([]byte("short"), "it is damaged")
	f(bytes.Repeat([]byte("text\n"), 10_000), "it is damaged")
	f(with(0, 2*page, 0), "it is damaged")
	f(with(0, 2*page, 0xff), "it is damaged")
	f(with(2*page, len(good), 0), "it is damaged")
	f(with(2*page, len(good), 0xff), "it is damaged")
	f(good[:2*page], "it is damaged")
	f(good[:3*page], "it is damaged")
	f(good[:10*page], "it was cut short")

	foreign := filepath.Join(t.TempDir(), "foreign.db")
	db, err := bbolt.Open(foreign, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	f(read(t, foreign), "it is no store of millrace")

	other, otherIdentity := used(t)
	f(other, "it is another store than the one that was here")
	if _, err := tryOpen(t, good, []byte("x")); err == nil ||
		!strings.Contains(err.Error(), "store.db.id is damaged") {
		t.Error(err)
	}
	if b, err := tryOpen(t, other, otherIdentity); err != nil || b.Close() != nil {
		t.Error(err)
	}
	if b, err := tryOpen(t, other, nil); err != nil || b.Close() != nil {
		t.Error(err)
	}

	cfg := DefaultConfig()
	if cfg.Path = t.TempDir(); !errors.Is(refused(cfg), errForeign) {
		t.Errorf("a folder: %v", refused(cfg))
	}
	cfg.Path = filepath.Join(t.TempDir(), "no", "such", "folder")
	if !errors.Is(refused(cfg), os.ErrNotExist) {
		t.Errorf("no folder: %v", refused(cfg))
	}
	if err := refused(Config{MaxSize: 1}); err == nil || !strings.Contains(err.Error(), "max_age") {
		t.Error(err)
	}
}

func refused(cfg Config) error {
	_, err := Open(cfg)
	return err
}

// TestOpenLost wants a store that is gone, or has lost its last transaction, to
// be noticed, and the file beside it to be made again where only that is gone.
func TestOpenLost(t *testing.T) {
	cfg := config(t)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, "a", `1`)
	put(t, b, "a", `2`)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	good := read(t, cfg.Path)
	f := func(want string) {
		t.Helper()
		if err := refused(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	// bbolt has two meta pages and goes on with the other where one is damaged.
	latest, highest := 0, uint64(0)
	for meta := range 2 {
		const transaction = 16 + 48 // offset of its number in the page
		n := binary.LittleEndian.Uint64(good[meta*os.Getpagesize()+transaction:])
		if n > highest {
			latest, highest = meta, n
		}
	}
	damaged := bytes.Clone(good)
	clear(damaged[latest*os.Getpagesize():][:100])
	write(t, cfg.Path, damaged)
	f("it ends at revision 1, but revision 2 was acknowledged (store.db.id); restore a backup")
	if err := os.Remove(cfg.Path); err != nil {
		t.Fatal(err)
	}
	f("it is gone, and was at revision 2; restore a backup")
	write(t, cfg.Path, good)
	for range 2 {
		b, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := b.Get(t.Context(), Key{"Model", "a"}); err != nil || string(r.Spec) != `2` {
			t.Errorf("%s, %v", r.Spec, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(identityPath(cfg.Path)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenDamagedPages ruins one page after the other, and bytes here and there.
// None may bring the process down, and a store that is opened nevertheless has
// lost nothing.
func TestOpenDamagedPages(t *testing.T) {
	good, identity := used(t)
	page := os.Getpagesize()
	seen, pages := 0, 0
	f := func(from, size int, fill byte) {
		t.Helper()
		text := bytes.Clone(good)
		copy(text[from:], bytes.Repeat([]byte{fill}, size))
		b, err := tryOpen(t, text, identity)
		if err != nil {
			seen++
			return
		}
		for i := range 60 {
			r, err := b.Get(t.Context(), Key{"Model", fmt.Sprint(i)})
			if err != nil || strings.Count(string(r.Spec), "x") != 500 {
				t.Fatalf("damage at %d: %s, %v", from, r.Spec, err)
			}
		}
		put(t, b, "new", `1`)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	for from := 0; from < len(good); from += page {
		pages++
		for _, fill := range []byte{0, 0x55, 0xff} {
			f(from, page, fill)
			f(from+page/3, 1, fill)
		}
	}
	if seen < pages/2 {
		t.Errorf("only %d damages were seen", seen)
	}
}

// TestDamageWhileOpen ruins the file under an open store: it gives errors, but
// stays up and can be closed.
func TestDamageWhileOpen(t *testing.T) {
	cfg := config(t)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		put(t, b, fmt.Sprint(i), `"`+strings.Repeat("x", 500)+`"`)
	}
	file, err := os.OpenFile(cfg.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	page := os.Getpagesize()
	if _, err := file.WriteAt(bytes.Repeat([]byte{0xff}, 80*page), int64(2*page)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err := b.Get(t.Context(), Key{"Model", "1"})
		_, _, listed := b.List(t.Context(), "")
		_, written := b.Txn(t.Context(),
			Txn{Put: []Resource{resource("Model", "1", `1`)}, By: tester})
		for _, err := range []error{err, listed, written} {
			if !errors.Is(err, ErrFile) || !errors.Is(err, errDamaged) {
				t.Error(err)
			}
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestOpenTwice wants the second one to hear within seconds that it is the
// second, also when several make the store at the same time.
func TestOpenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t)
		var mu sync.Mutex
		var stores []*Bolt
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				b, err := Open(cfg)
				if err != nil {
					if !errors.Is(err, errInUse) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				stores = append(stores, b)
				mu.Unlock()
			})
		}
		wg.Wait()
		if len(stores) != 1 {
			t.Fatalf("%d have opened it", len(stores))
		}
		put(t, stores[0], "a", `1`)
		if err := Compact(cfg.Path); !errors.Is(err, errInUse) {
			t.Errorf("Compact: %v", err)
		}
		if err := stores[0].Close(); err != nil {
			t.Error(err)
		}
		if files, _ := os.ReadDir(filepath.Dir(cfg.Path)); len(files) != 2 {
			t.Errorf("there are the files %v", files)
		}
		opened(t, cfg)
	})
}

// TestOpenReplaced has a store restored while somebody waits for the old one's
// lock, who may not go on with the file that is gone.
func TestOpenReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, backup := backedUp(t)
		b, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan boltFile)
		go func() {
			f, err := openWritable(cfg.Path, cfg.MaxSize)
			if err != nil {
				t.Error(err)
			}
			got <- f
		}()
		synctest.Wait() // It sleeps between its tries.
		if err := errors.Join(os.Rename(backup, cfg.Path), b.Close()); err != nil {
			t.Fatal(err)
		}
		f := <-got
		i, err := f.claim(backup) // where no other identity lies
		if err := errors.Join(err, f.close()); err != nil || i.revision != 1 {
			t.Errorf("%+v, %v", i, err)
		}
	})
}

// TestMigrate opens a store with one that knows a further schema, and then with
// one that does not.
func TestMigrate(t *testing.T) {
	cfg := config(t)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, "a", `1`)
	backup := filepath.Join(t.TempDir(), "backup")
	backUp(t, b, backup)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	known := migrations
	defer func() { migrations = known }()
	fails := errors.New("no")
	migrated := 0
	migrations = append(known[:1:1], func(tx *bbolt.Tx) error {
		migrated++
		_, err := tx.CreateBucket([]byte("new"))
		return errors.Join(err, fails)
	})
	if err := refused(cfg); !errors.Is(err, fails) ||
		!strings.Contains(err.Error(), "cannot migrate it to schema 2") {
		t.Error(err)
	}
	fails = nil
	opened := func() {
		t.Helper()
		b, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.Get(t.Context(), Key{"Model", "a"})
		if err := errors.Join(err, b.Close()); err != nil || string(r.Spec) != `1` {
			t.Errorf("%+v, %v", r, err)
		}
	}
	opened()
	opened()
	if err := Restore(backup, cfg.Path, tester); err != nil {
		t.Fatal(err)
	}
	opened()
	if migrated != 3 {
		t.Errorf("migrated %d times", migrated)
	}
	migrations = known
	const want = "a newer millrace has written it (schema 2, and this one knows 1)"
	if err := refused(cfg); err == nil || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
}
