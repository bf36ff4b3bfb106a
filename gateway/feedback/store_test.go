package feedback

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
)

// used makes a file in which 100 ids have had feedback, and returns its text.
func used(t *testing.T) []byte {
	t.Helper()
	path := fresh(t)
	l := open(t, path)
	for i := range 100 {
		decide(l, fmt.Sprint(i))
		give(t, l, fmt.Sprint(i), Accepted)
	}
	l.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// tryOpen opens a file with that text.
func tryOpen(t *testing.T, text []byte) (*Ledger, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "feedback.db")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return Open(Config{Path: path, Capacity: 100, TTL: time.Hour})
}

func TestOpenRefuses(t *testing.T) {
	good := used(t)
	f := func(text []byte, want error) {
		t.Helper()
		_, err := tryOpen(t, text)
		if !errors.Is(err, ErrFile) || !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	page := os.Getpagesize()
	with := func(from, to int, fill byte) []byte {
		text := bytes.Clone(good)
		copy(text[from:], bytes.Repeat([]byte{fill}, to-from))
		return text
	}
	f(nil, errBlank)
	f([]byte("short"), errDamaged)
	f(bytes.Repeat([]byte("text\n"), 10_000), errDamaged)
	f(with(0, 2*page, 0), errDamaged)
	f(with(0, 2*page, 0xff), errDamaged)
	f(with(2*page, len(good), 0), errDamaged)
	f(with(2*page, len(good), 0xff), errDamaged)
	f(good[:2*page], errDamaged)
	f(good[:3*page], errDamaged)

	other := fresh(t)
	db, err := bbolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	text, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	f(text, errForeign)
	cfg := DefaultConfig()
	cfg.Path = t.TempDir()
	if _, err := Open(cfg); !errors.Is(err, errForeign) {
		t.Errorf("a folder: %v", err)
	}
	cfg.Path = filepath.Join(t.TempDir(), "no", "such", "folder")
	if _, err := Open(cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// TestOpenDamagedPages ruins one page after the other. None may bring the process
// down, and a file that is opened nevertheless has lost nothing but its last
// transaction, for which there is a spare meta page.
func TestOpenDamagedPages(t *testing.T) {
	good := used(t)
	page := os.Getpagesize()
	refused := 0
	for from := 0; from < len(good); from += page {
		for _, fill := range []byte{0, 0x55, 0xff} {
			text := bytes.Clone(good)
			copy(text[from:], bytes.Repeat([]byte{fill}, page))
			l, err := tryOpen(t, text)
			if err != nil {
				refused++
				continue
			}
			if n := counted(l); n < 99 {
				t.Errorf("%d of 100 rewards are left after damage at %d", n, from)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if refused < 6 {
		t.Errorf("only %d damages were seen", refused)
	}
}

// TestOpenTwice wants the second one to hear within seconds that it is the second,
// also when several make the file at the same time.
func TestOpenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := fresh(t)
		begun := time.Now()
		var mu sync.Mutex
		var opened []*Ledger
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				l, err := Open(Config{Path: path, Capacity: 100, TTL: time.Hour})
				if err != nil && !errors.Is(err, errInUse) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					opened = append(opened, l)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(opened) != 1 || time.Since(begun) > 10*lockTimeout {
			t.Fatalf("%d have opened it, after %v", len(opened), time.Since(begun))
		}
		if err := opened[0].Close(); err != nil {
			t.Error(err)
		}
		if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
			t.Errorf("there are the files %v", files)
		}
		open(t, path)
	})
}

// TestGiveCannotWrite wants an error and the decision to wait on.
func TestGiveCannotWrite(t *testing.T) {
	l, err := Open(Config{Path: fresh(t), Capacity: 100, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	decide(l, "x")
	if err := l.store.close(); err != nil {
		t.Fatal(err)
	}
	reward := 1.0
	_, _, err = l.Give(Given{ID: "x", Reward: &reward})
	if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), l.cfg.Path) {
		t.Errorf("Give: %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrFile) {
		t.Errorf("Close: %v", err)
	}
	if got := l.Stats(); got != (Stats{Failed: 1, Pending: 1}) || counted(l) != 0 {
		t.Errorf("%+v, %d rewards count", got, counted(l))
	}
}

// TestGiveAfterDamage ruins the file under an open ledger: it gives errors, but
// stays up and can be closed.
func TestGiveAfterDamage(t *testing.T) {
	path := fresh(t)
	l := open(t, path)
	decide(l, "x")
	decide(l, "y")
	give(t, l, "x", Accepted)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	page := os.Getpagesize()
	if _, err := file.WriteAt(bytes.Repeat([]byte{0xff}, 6*page), int64(2*page)); err != nil {
		t.Fatal(err)
	}
	reward := 1.0
	for range 3 {
		if _, _, err := l.Give(Given{ID: "y", Reward: &reward}); !errors.Is(err, errDamaged) {
			t.Errorf("Give: %v", err)
		}
	}
	give(t, l, "x", Duplicate)
	decide(l, "z")
	if n := counted(l); n != 1 {
		t.Errorf("%d rewards count", n)
	}
}
