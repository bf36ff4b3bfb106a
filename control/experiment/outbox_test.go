package experiment

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/fetch"
	"github.com/millrace-ml/millrace/registry/mlflow"
)

func open(t *testing.T, cfg Config) *Outbox {
	t.Helper()
	o, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	return o
}

func config(dir string) Config {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Backoff, cfg.MaxBackoff = dir, 20*time.Millisecond, 100*time.Millisecond
	cfg.MaxRecords = 100_000
	return cfg
}

func add(t *testing.T, o *Outbox, records ...Record) {
	t.Helper()
	for _, r := range records {
		if err := o.Add(r); err != nil {
			t.Fatal(err)
		}
	}
}

// kept lists the records as "id status points", with what has become of them.
func kept(t *testing.T, o *Outbox) string {
	t.Helper()
	list, err := o.Records()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range list {
		text := fmt.Sprint(s.Record.ID, " ", s.Record.Status, " ", len(s.Record.Series[0].Points))
		if s.Sent {
			text += " sent"
		}
		if s.Refused != "" {
			text += " refused"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func want(t *testing.T, o *Outbox, text string) {
	t.Helper()
	if got := kept(t, o); got != text {
		t.Errorf("kept: %s, want %s", got, text)
	}
}

// mark notes that a record was sent, as Run does.
func mark(t *testing.T, o *Outbox, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := o.update(id, func(e *entry, _ uint64) { e.Sent = true }); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKept adds records, and opens the outbox again.
func TestKept(t *testing.T) {
	cfg := config(t.TempDir())
	o := open(t, cfg)
	add(t, o, record("a", Running, 1), record("b/../ü'", Running, 1), record("c", Running, 1))
	add(t, o, record("a", Running, 2), record("c", Finished, 3))
	want(t, o, "a running 2, b/../ü' running 1, c finished 3")
	if err := o.Add(Record{ID: "d"}); err == nil || !strings.Contains(err.Error(),
		`cannot take the record "d"`) {
		t.Errorf("an empty record: %v", err)
	}
	mark(t, o, "a", "c")
	add(t, o, record("c", Finished, 3)) // nothing new
	add(t, o, record("a", Running, 5))  // comes after the others now
	const all = "b/../ü' running 1, c finished 3 sent, a running 5"
	want(t, o, all)
	before := o.Stats()
	if before.Records != 3 || before.Waiting != 2 || before.Dropped != 0 {
		t.Errorf("%+v", before)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, cfg)
	want(t, again, all)
	if got := again.Stats(); got != before {
		t.Errorf("opened again: %+v, before %+v", got, before)
	}
}

// TestRoom fills an outbox: those that were sent go first, then the oldest that are done.
func TestRoom(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxRecords = 4
	o := open(t, cfg)
	add(t, o, record("a", Finished, 1), record("b", Running, 1), record("c", Failed, 1),
		record("d", Finished, 1))
	mark(t, o, "d")
	add(t, o, record("e", Finished, 1))
	want(t, o, "a finished 1, b running 1, c failed 1, e finished 1")
	add(t, o, record("f", Running, 1))
	want(t, o, "b running 1, c failed 1, e finished 1, f running 1")
	if got := o.Stats(); got.Dropped != 1 {
		t.Errorf("%+v", got)
	}
	add(t, o, record("g", Running, 1), record("h", Running, 1))
	err := o.Add(record("i", Running, 1))
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "raise max_records, 4") {
		t.Errorf("without any that is done: %v", err)
	}
	add(t, o, record("b", Finished, 2), record("i", Running, 1))
	want(t, o, "f running 1, g running 1, h running 1, i running 1")
	if got := o.Stats(); got.Dropped != 4 || got.Records != 4 {
		t.Errorf("%+v", got)
	}
}

// TestBytes fills an outbox by size.
func TestBytes(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxBytes = 100_000
	o := open(t, cfg)
	large := func(id string, status Status, size int) Record {
		r := record(id, status, 1)
		r.Artifacts = []Artifact{{"a", make([]byte, size*3/4)}} // in base64
		return r
	}
	add(t, o, large("a", Finished, 40_000), large("b", Finished, 40_000))
	if err := o.Add(large("c", Finished, 110_000)); !errors.Is(err, ErrFull) {
		t.Errorf("one that never has room: %v", err)
	}
	want(t, o, "a finished 1, b finished 1") // nothing went for it
	add(t, o, large("c", Running, 30_000))
	want(t, o, "b finished 1, c running 1")
	add(t, o, large("c", Running, 90_000))
	want(t, o, "c running 1")
	if err := o.Add(large("c", Finished, 110_000)); !errors.Is(err, ErrFull) {
		t.Errorf("one that has grown too much: %v", err)
	}
	add(t, o, large("c", Running, 10))
	if got := o.Stats(); got.Bytes > 2000 || got.Dropped != 2 {
		t.Errorf("%+v", got)
	}
	files, err := os.ReadDir(cfg.Dir)
	if err != nil || len(files) != 1 {
		t.Errorf("the folder has %v, %v", files, err)
	}
}

// TestDamaged opens a folder in which files are not as they were written.
func TestDamaged(t *testing.T) {
	cfg := config(t.TempDir())
	o := open(t, cfg)
	add(t, o, record("a", Running, 1), record("b", Running, 1), record("c", Running, 1))
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(cfg.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(cfg.Dir, fileName("a")))
	if err != nil {
		t.Fatal(err)
	}
	write(fileName("a"), string(text[:len(text)/2]))
	write(fileName("b"), string(text)) // another one's
	write(tempFile, "half a fi")
	o = open(t, cfg)
	want(t, o, "c running 1")
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "*"+damaged))
	if err != nil || len(files) != 2 {
		t.Errorf("set aside are %q, %v", files, err)
	}
	add(t, o, record("a", Running, 2))
	want(t, o, "c running 1, a running 2")
}

func TestConfig(t *testing.T) {
	_, err := Open(Config{Backoff: 1, MaxRecords: -1})
	for _, text := range []string{"dir: is missing", "max_records: -1", "max_bytes: 0",
		"backoff: 1ns", "logger: is missing"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v lacks %q", err, text)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(config(file)); err == nil {
		t.Error("a file is a folder")
	}
}

func TestJudge(t *testing.T) {
	f := func(err error, want fate) {
		t.Helper()
		if got := judge(fmt.Errorf("cannot: %w", err)); got != want {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
	}
	answer := func(status int, class error) error {
		return &mlflow.Error{Status: status, Code: "X", Err: class}
	}
	f(answer(400, nil), refused)
	f(answer(404, mlflow.ErrNotFound), refused)
	f(mlflow.ErrLimit, refused)
	f(answer(401, mlflow.ErrDenied), away)
	f(answer(403, mlflow.ErrDenied), away)
	f(answer(429, mlflow.ErrUnavailable), away)
	f(answer(503, mlflow.ErrUnavailable), away)
	f(answer(404, mlflow.ErrForeign), away)
	f(answer(200, mlflow.ErrTruncated), away)
	f(answer(500, mlflow.ErrUnavailable), stuck)
	f(errors.New("the experiment is deleted"), stuck)
	f(&fetch.Error{Kind: fetch.ErrConnection}, away)
	f(&url.Error{Op: "Post", URL: "http://x", Err: errors.New("refused")}, away)
	f(context.DeadlineExceeded, away)
}

func TestPause(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Dir, cfg.MaxBackoff = t.TempDir(), 10*time.Second
	o := open(t, cfg)
	f := func(failures int, random float64, want time.Duration) {
		t.Helper()
		if got := o.pause(failures, random); got != want {
			t.Errorf("%d, %v: got %v, want %v", failures, random, got, want)
		}
	}
	f(1, 0, 500*time.Millisecond)
	f(2, 0.5, 1500*time.Millisecond)
	f(4, 0, 4*time.Second)
	f(5, 0, 5*time.Second)
	f(1000, 0.5, 7500*time.Millisecond)
}
