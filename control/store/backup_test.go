package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// backUp writes a backup to a file.
func backUp(t *testing.T, b *Bolt, path string) {
	t.Helper()
	var text bytes.Buffer
	if err := b.Backup(t.Context(), &text); err != nil {
		t.Fatal(err)
	}
	write(t, path, text.Bytes())
}

// TestBackup takes backups while somebody writes. Each has to be a whole store.
func TestBackup(t *testing.T) {
	cfg := config(t)
	b := opened(t, cfg)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			do(t, b, Txn{Put: []Resource{resource("Model", "a", fmt.Sprint(i)),
				resource("Model", fmt.Sprint(i%50), fmt.Sprintf("%500d", i))}})
		}
	})
	last := uint64(0)
	for i := range 5 {
		path := filepath.Join(t.TempDir(), fmt.Sprint(i))
		put(t, b, "b", fmt.Sprint(i))
		backUp(t, b, path)
		copied := cfg
		copied.Path = path
		c := opened(t, copied)
		r, err := c.Get(t.Context(), Key{"Model", "b"})
		stats, statsErr := c.Stats()
		if errors.Join(err, statsErr) != nil || string(r.Spec) != fmt.Sprint(i) ||
			stats.Revision <= last || c.ID() != b.ID() {
			t.Errorf("%+v, %+v, %v, %v", r, stats, err, statsErr)
		}
		last = stats.Revision
	}
}

// stuck takes what is written once it is told to.
type stuck struct {
	begun, goOn chan struct{}
	once        sync.Once
	n           int
}

func (w *stuck) Write(b []byte) (int, error) {
	w.once.Do(func() { close(w.begun) })
	<-w.goOn
	w.n += len(b)
	return len(b), nil
}

// TestBackupSlow wants a backup that nobody takes to hold no reader's
// transaction, and nobody up.
func TestBackupSlow(t *testing.T) {
	cfg := config(t)
	b := opened(t, cfg)
	w := &stuck{begun: make(chan struct{}), goOn: make(chan struct{})}
	done := make(chan error)
	go func() { done <- b.Backup(t.Context(), w) }()
	<-w.begun
	put(t, b, "a", `1`)
	if n := b.db.Stats().OpenTxN; n != 0 {
		t.Errorf("%d transactions are open", n)
	}
	close(w.goOn)
	if err := <-done; err != nil || w.n == 0 {
		t.Error(err, w.n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Backup(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if files, _ := os.ReadDir(filepath.Dir(cfg.Path)); len(files) != 2 {
		t.Errorf("there are the files %v", files)
	}
}

// backedUp makes a store with a backup at revision 1, which ends at revision 2.
func backedUp(t *testing.T) (cfg Config, backup string) {
	t.Helper()
	cfg = config(t)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, "a", `1`)
	backup = filepath.Join(t.TempDir(), "backup")
	backUp(t, b, backup)
	put(t, b, "a", `2`)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return cfg, backup
}

// TestRestoreRefuses wants the store untouched where it cannot be restored.
func TestRestoreRefuses(t *testing.T) {
	cfg, backup := backedUp(t)
	good := read(t, cfg.Path)
	text := read(t, backup)
	f := func(text []byte, by Author, want error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "bad")
		write(t, path, text)
		if err := Restore(path, cfg.Path, by); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if !bytes.Equal(read(t, cfg.Path), good) {
			t.Error("the store was changed")
		}
		if files, _ := os.ReadDir(filepath.Dir(cfg.Path)); len(files) != 2 {
			t.Errorf("there are the files %v", files)
		}
	}
	f(nil, tester, errBlank)
	f(text[:len(text)-1], tester, errDamaged)
	f([]byte("text"), tester, errDamaged)
	f(text, Author{}, ErrInvalid)
	if err := Restore(backup+"x", cfg.Path, tester); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	b := opened(t, cfg)
	if err := Restore(backup, cfg.Path, tester); !errors.Is(err, errInUse) {
		t.Errorf("in use: %v", err)
	}
	if r, err := b.Get(t.Context(), Key{"Model", "a"}); err != nil || string(r.Spec) != `2` {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRestore restores over a store that went on after the backup, and over one
// that is blank, damaged, another's or gone.
func TestRestore(t *testing.T) {
	cfg, backup := backedUp(t)
	f := func(revision uint64) {
		t.Helper()
		if err := Restore(backup, cfg.Path, tester); err != nil {
			t.Error(err)
			return
		}
		b := opened(t, cfg)
		r, err := b.Get(t.Context(), Key{"Model", "a"})
		if err != nil || string(r.Spec) != `1` || r.Revision != 1 {
			t.Errorf("%+v, %v", r, err)
		}
		page, err := b.Audit(t.Context(), Query{})
		if err != nil || len(page) != 2 || page[0].Revision != revision || page[0].By != tester {
			t.Errorf("%+v, %v", page, err)
		}
		for from := range revision {
			for _, err := range b.Watch(t.Context(), from) {
				if !errors.Is(err, ErrCompacted) {
					t.Errorf("watch from %d: %v", from, err)
				}
			}
		}
		if got := put(t, b, "a", `3`); got != revision+1 {
			t.Errorf("goes on at %d", got)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	f(3)
	f(5)
	write(t, cfg.Path, nil)
	f(7)
	write(t, cfg.Path, bytes.Repeat([]byte("text"), 10_000))
	f(9)
	other, otherIdentity := used(t)
	write(t, cfg.Path, other)
	write(t, identityPath(cfg.Path), otherIdentity)
	f(61)
	if err := errors.Join(os.Remove(cfg.Path), os.Remove(identityPath(cfg.Path))); err != nil {
		t.Fatal(err)
	}
	f(2)

	// Cut off before the file beside the store was replaced, it opens nevertheless.
	identity := read(t, identityPath(cfg.Path))
	if err := Restore(backup, cfg.Path, tester); err != nil {
		t.Fatal(err)
	}
	write(t, identityPath(cfg.Path), identity)
	opened(t, cfg)
}

// TestCompact wants a store that had much in it to get small and to be the same.
func TestCompact(t *testing.T) {
	cfg := config(t)
	cfg.History.MaxChanges = 1
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		txn := Txn{}
		for i := range 100 {
			txn.Put = append(txn.Put, resource("Model", fmt.Sprint(round*100+i),
				`"`+strings.Repeat("x", 10_000)+`"`))
		}
		do(t, b, txn)
	}
	for i := 10; i < 2000; i++ {
		if i%100 == 0 {
			txn := Txn{}
			for j := range 100 {
				txn.Delete = append(txn.Delete, Key{"Model", fmt.Sprint(i + j)})
			}
			do(t, b, txn)
		}
	}
	listed, revision, err := b.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	before, err := b.Stats()
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	if err := Compact(cfg.Path); err != nil {
		t.Fatal(err)
	}
	b = opened(t, cfg)
	again, at, err := b.List(t.Context(), "")
	if err != nil || at != revision || fmt.Sprint(again) != fmt.Sprint(listed) {
		t.Errorf("%d resources at %d, %v", len(again), at, err)
	}
	after, err := b.Stats()
	if err != nil || after.FileBytes > before.FileBytes/5 || after.Revision != before.Revision {
		t.Errorf("%+v, then %+v, %v", before, after, err)
	}
	put(t, b, "more", `1`)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	// One that has lost something may not be made to look whole.
	i, err := readIdentity(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	i.revision += 5
	write(t, identityPath(cfg.Path), i.text())
	if err := Compact(cfg.Path); err == nil || !strings.Contains(err.Error(), "was acknowledged") {
		t.Error(err)
	}
	i.revision -= 5
	write(t, identityPath(cfg.Path), i.text())
}
