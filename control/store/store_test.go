package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

func config(t testing.TB) Config {
	cfg := DefaultConfig()
	cfg.Path = filepath.Join(t.TempDir(), "store.db")
	return cfg
}

// opened opens a store that is closed, and then checked, when the test ends.
func opened(t testing.TB, cfg Config) *Bolt {
	t.Helper()
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		checkFile(t, cfg.Path)
	})
	return b
}

// checkFile has bbolt check the whole file.
func checkFile(t testing.TB, path string) {
	t.Helper()
	f, err := openChecked(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.close()
	err = f.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

var tester = Author{Who: "tester", From: "here"}

func resource(kind, name, spec string) Resource {
	return Resource{Key: Key{kind, name}, Owner: "api", Spec: json.RawMessage(spec)}
}

// do makes changes.
func do(t testing.TB, s Store, txn Txn) uint64 {
	t.Helper()
	txn.By = tester
	revision, err := s.Txn(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func put(t testing.TB, s Store, name, spec string) uint64 {
	t.Helper()
	return do(t, s, Txn{Put: []Resource{resource("Model", name, spec)}})
}

// TestTxn goes through what a transaction can be. Each case starts with the
// resources a at revision 1 and b at revision 2.
func TestTxn(t *testing.T) {
	a, b, c := Key{"Model", "a"}, Key{"Model", "b"}, Key{"Model", "c"}
	at := func(k Key) Resource { return Resource{Key: k, Spec: json.RawMessage(`2`)} }
	f := func(name string, txn Txn, wantErr error, want string) {
		t.Helper()
		s := opened(t, config(t))
		put(t, s, "a", `1`)
		put(t, s, "b", `1`)
		txn.By = tester
		revision, err := s.Txn(t.Context(), txn)
		if !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) {
			t.Errorf("%s: %v, want %v", name, err, wantErr)
		}
		list, at, err := s.List(t.Context(), "Model")
		if err != nil || wantErr == nil && revision != at || wantErr != nil && at != 2 {
			t.Errorf("%s: revision %d, listed at %d, %v", name, revision, at, err)
		}
		var got []string
		for _, r := range list {
			got = append(got, fmt.Sprintf("%s%d=%s", r.Name, r.Revision, r.Spec))
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	const same = "a1=1 b2=1"
	f("nothing", Txn{}, nil, same)
	f("put", Txn{Put: []Resource{at(a)}}, nil, "a3=2 b2=1")
	f("two", Txn{Put: []Resource{at(b), at(a)}}, nil, "a4=2 b3=2")
	f("put and delete", Txn{Put: []Resource{at(c)}, Delete: []Key{a}}, nil, "b2=1 c3=2")
	f("delete what is not there", Txn{Delete: []Key{c}}, nil, same)
	f("compared", Txn{Compare: []Compare{{a, 1}, {b, 2}, {c, 0}}, Put: []Resource{at(c)}}, nil,
		"a1=1 b2=1 c3=2")
	f("only compared", Txn{Compare: []Compare{{a, 1}}}, nil, same)
	f("stale", Txn{Compare: []Compare{{a, 1}, {b, 1}}, Put: []Resource{at(a)}}, ErrConflict, same)
	f("not new", Txn{Compare: []Compare{{a, 0}}, Put: []Resource{at(a)}}, ErrConflict, same)
	f("not there", Txn{Compare: []Compare{{c, 1}}, Put: []Resource{at(a)}}, ErrConflict, same)
	f("future", Txn{Compare: []Compare{{a, 9}}, Delete: []Key{a}}, ErrConflict, same)
	f("twice", Txn{Put: []Resource{at(c)}, Delete: []Key{c}}, ErrInvalid, same)
	f("no kind", Txn{Put: []Resource{{Key: Key{"", "x"}}}}, ErrInvalid, same)
	f("no name", Txn{Put: []Resource{{Key: Key{"Model", ""}}}}, ErrInvalid, same)
	f("zero byte", Txn{Put: []Resource{{Key: Key{"Model", "a\x00b"}}}}, ErrInvalid, same)
	f("no UTF-8", Txn{Put: []Resource{{Key: Key{"Model", "a\xff"}}}}, ErrInvalid, same)
	f("long name", Txn{Delete: []Key{{"Model", strings.Repeat("x", MaxName+1)}}}, ErrInvalid, same)
	f("key of a condition", Txn{Compare: []Compare{{Key{"Model", ""}, 0}}}, ErrInvalid, same)
	f("no JSON", Txn{Put: []Resource{{Key: a, Spec: json.RawMessage(`{`)}}}, ErrInvalid, same)
	f("no JSON", Txn{Put: []Resource{{Key: a, Status: json.RawMessage(`x`)}}}, ErrInvalid, same)
	f("owner", Txn{Put: []Resource{{Key: a, Owner: "\xff"}}}, ErrInvalid, same)
	f("too large", Txn{Put: []Resource{resource("Model", "a",
		`"`+strings.Repeat("x", MaxResource)+`"`)}}, ErrInvalid, same)
	big := json.RawMessage(`"` + strings.Repeat("x", MaxResource-2) + `"`)
	much := make([]Resource, 16)
	for i := range much {
		much[i] = Resource{Key: Key{"A", fmt.Sprint(i)}, Status: big}
	}
	f("as much as possible", Txn{Put: much}, nil, same)
	f("too much", Txn{Put: append(much, at(c))}, ErrInvalid, same)
	f("too many", Txn{Delete: make([]Key, MaxChanges+1)}, ErrInvalid, same)

	s := opened(t, config(t))
	if _, err := s.Txn(t.Context(), Txn{Delete: []Key{a}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("by nobody: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Txn(ctx, Txn{Put: []Resource{at(a)}, By: tester})
	if _, revision, _ := s.List(t.Context(), ""); !errors.Is(err, ctx.Err()) || revision != 0 {
		t.Errorf("cancelled: %v, revision %d", err, revision)
	}
}

func TestConflict(t *testing.T) {
	s := opened(t, config(t))
	put(t, s, "a/b ü", `1`)
	put(t, s, "a/b ü", `2`)
	f := func(k Key, revision, present uint64, text string) {
		t.Helper()
		_, err := s.Txn(t.Context(), Txn{Compare: []Compare{{k, revision}}, By: tester})
		var conflict *ConflictError
		if !errors.As(err, &conflict) || *conflict != (ConflictError{k, revision, present}) ||
			err.Error() != text {
			t.Errorf("%v", err)
		}
	}
	f(Key{"Model", "a/b ü"}, 1, 2, "store: conflict: Model a/b ü is at revision 2, not 1")
	f(Key{"Model", "a/b ü"}, 0, 2, "store: conflict: Model a/b ü is there already, at revision 2")
	f(Key{"Model", "c"}, 1, 0, "store: conflict: Model c was deleted since revision 1")
}

// TestResource wants back what was put, after the store was opened again, too.
func TestResource(t *testing.T) {
	cfg := config(t)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	made := time.Date(2026, 11, 25, 1, 2, 3, 4, time.UTC)
	b.now = func() time.Time { return made }
	want := Resource{Key: Key{"Endpoint", "fraud/a ü"}, Owner: "file",
		Spec: json.RawMessage(`{"a": "<&>"}`), Status: json.RawMessage(`[1]`), Revision: 77}
	do(t, b, Txn{Put: []Resource{want, resource("Endpoint", "z", ""), resource("End", "b", `0`)}})
	b.now = func() time.Time { return made.Add(time.Hour) }
	do(t, b, Txn{Put: []Resource{want}})
	want.Revision, want.Created, want.Updated = 4, made, made.Add(time.Hour)
	id := b.ID()
	for range 2 {
		got, err := b.Get(t.Context(), want.Key)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
		bare, err := b.Get(t.Context(), Key{"Endpoint", "z"})
		if err != nil || bare.Spec != nil || bare.Status != nil {
			t.Errorf("%+v, %v", bare, err)
		}
		list, revision, err := b.List(t.Context(), "Endpoint")
		if err != nil || revision != 4 || !reflect.DeepEqual(list, []Resource{want, bare}) {
			t.Errorf("%+v, %d, %v", list, revision, err)
		}
		all, _, err := b.List(t.Context(), "")
		if err != nil || len(all) != 3 || all[0].Key != (Key{"End", "b"}) {
			t.Errorf("%+v, %v", all, err)
		}
		if none, _, err := b.List(t.Context(), "Endpoints"); len(none) != 0 || err != nil {
			t.Errorf("%+v, %v", none, err)
		}
		if _, err := b.Get(t.Context(), Key{"Model", "z"}); !errors.Is(err, ErrNotFound) ||
			err.Error() != "store: not found: Model z" {
			t.Error(err)
		}
		// What is returned is the caller's.
		got.Spec[0] = 'x'
		got.Spec = append(got.Spec, "xx"...)
		if string(got.Status) != `[1]` {
			t.Errorf("%s", got.Status)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if b, err = Open(cfg); err != nil || b.ID() != id || len(id) != 32 {
			t.Fatal(err, b.ID())
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestClosed(t *testing.T) {
	b, err := Open(config(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	f := func(name string, err error) {
		t.Helper()
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = b.Txn(t.Context(), Txn{By: tester})
	f("Txn", err)
	_, err = b.Get(t.Context(), Key{"Model", "a"})
	f("Get", err)
	_, _, err = b.List(t.Context(), "")
	f("List", err)
	_, err = b.Audit(t.Context(), Query{})
	f("Audit", err)
	_, err = b.Stats()
	f("Stats", err)
	f("Backup", b.Backup(t.Context(), &bytes.Buffer{}))
	for _, err := range b.Watch(t.Context(), 0) {
		f("Watch", err)
	}
}

// TestTxnConcurrent has many raise the same counters, each reading and comparing
// before. No raise may get lost, and those who list see whole transactions.
func TestTxnConcurrent(t *testing.T) {
	s := opened(t, config(t))
	const writers, raises = 8, 20
	counter := func(name string, n int) Resource { return resource("Counter", name, fmt.Sprint(n)) }
	do(t, s, Txn{Put: []Resource{counter("a", 0), counter("b", 0)}})
	raise := func() error {
		list, _, err := s.List(t.Context(), "Counter")
		if err != nil {
			return err
		}
		if a, b := string(list[0].Spec), string(list[1].Spec); a != b {
			t.Errorf("half of a transaction: %s and %s", a, b)
		}
		var n int
		if err := json.Unmarshal(list[0].Spec, &n); err != nil {
			return err
		}
		_, err = s.Txn(t.Context(), Txn{
			Compare: []Compare{{list[0].Key, list[0].Revision}, {list[1].Key, list[1].Revision}},
			Put:     []Resource{counter("a", n+1), counter("b", n+1)},
			By:      tester,
		})
		return err
	}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < raises; {
				switch err := raise(); {
				case err == nil:
					done++
				case !errors.Is(err, ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	list, revision, err := s.List(t.Context(), "")
	if err != nil || string(list[0].Spec) != fmt.Sprint(writers*raises) ||
		revision != 2+2*writers*raises {
		t.Errorf("%s at %d, %v", list[0].Spec, revision, err)
	}
}
