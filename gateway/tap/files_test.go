package tap_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

var formats = []string{tap.Parquet, tap.JSONL}

// folder is a sink for files.
type folder struct {
	*testing.T
	dir   string
	pool  *tap.Pool
	files *tap.Files
}

func open(t *testing.T, cfg tap.FilesConfig) *folder {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = t.TempDir()
	}
	files, err := tap.NewFiles(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return &folder{T: t, dir: cfg.Path, pool: tap.NewPool(8, 64<<20), files: files}
}

// write writes one sample; set changes it before.
func (f *folder) write(in, out []tensor.Tensor, set func(*tap.Sample)) tap.Result {
	f.Helper()
	s := take(f, f.pool, "id", sampled{in, out})
	defer s.Release()
	if set != nil {
		set(s)
	}
	r, err := f.files.Write(f.Context(), tap.Record{Sample: s})
	if err != nil {
		f.Fatal(err)
	}
	return r
}

func (f *folder) flush() tap.Result { f.Helper(); return f.done(f.files.Flush) }
func (f *folder) close() tap.Result { f.Helper(); return f.done(f.files.Close) }

func (f *folder) done(call func(context.Context) (tap.Result, error)) tap.Result {
	f.Helper()
	r, err := call(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	return r
}

func (f *folder) want(pattern string, files, rows int) []row {
	f.Helper()
	got := read(f, f.dir, pattern)
	if n := names(f, f.dir, pattern); len(n) != files || len(got) != rows {
		f.Errorf("%s: %d rows in %q, want %d in %d files", pattern, len(got), n, rows, files)
	}
	return got
}

// Tensors of each datatype come back as the same bytes.
func TestFilesRoundTrip(t *testing.T) {
	f := func(format string, in, out []tensor.Tensor) {
		t.Helper()
		d := open(t, tap.FilesConfig{Format: format})
		for range 3 {
			d.write(in, out, nil)
		}
		if r := d.close(); r.Samples != 3 || r.Failed != 0 || r.Bytes == 0 {
			t.Errorf("%s: three samples became %+v", format, r)
		}
		for _, r := range d.want("samples-fraud-*", 1, 3) {
			for side, list := range map[string][]tensor.Tensor{"input.": in, "output.": out} {
				for i := range list {
					if list[i].Datatype != tensor.Invalid {
						wantTensor(t, r, side+list[i].Name, &list[i])
					}
				}
			}
		}
	}
	f(tap.Parquet, everything(false), everything(true))
	f(tap.Parquet, odd(), nil)
	f(tap.JSONL, everything(false), everything(false))
	f(tap.JSONL, odd(), nil)
	for _, format := range formats { // text in one, bytes in the other
		f(format, everything(true)[tensor.Bytes-1:], everything(false)[tensor.Bytes-1:])
	}
}

// JSON has no NaN and no infinities.
func TestJSONLNotFinite(t *testing.T) {
	d := open(t, tap.FilesConfig{Format: tap.JSONL})
	in := everything(true)[tensor.FP16-1 : tensor.Bytes-1]
	d.write(in, nil, nil)
	d.close()
	for _, r := range d.want("*", 1, 1) {
		for i := range in {
			list := r["input."+in[i].Name].([]any)
			if list[len(list)-1] != nil || list[len(list)-2] != nil || list[0] == nil {
				t.Errorf("%s is %v", in[i].Name, list)
			}
		}
	}
}

// The other columns are there, under the same names in both formats.
func TestFilesColumns(t *testing.T) {
	plain := map[string][2]any{ // of Parquet and of JSON Lines
		"id": {"id", "id"}, "endpoint": {"fraud", "fraud"}, "model": {"fraud-model", "fraud-model"},
		"version": {"3", "3"}, "route": {"canary", "canary"}, "protocol": {"http", "http"},
		"outcome": {"ok", "ok"}, "status": {uint64(200), "200"},
		"time":            {uint64(1795548600123456), "2026-11-24T19:30:00.123456Z"},
		"propensity":      {math.Float64bits(0.25), "0.25"},
		"total_seconds":   {math.Float64bits(0.0015), "0.0015"},
		"queue_seconds":   {math.Float64bits(0.001), "0.001"},
		"compute_seconds": {math.Float64bits(0.0003), "0.0003"},
		"kind":            {nil, "sample"},
	}
	for i, format := range formats {
		d := open(t, tap.FilesConfig{Format: format})
		d.write([]tensor.Tensor{floats("x", 1)}, nil, nil)
		d.close()
		got := d.want("*", 1, 1)[0]
		for name, want := range plain {
			if fmt.Sprint(got[name]) != fmt.Sprint(want[i]) {
				t.Errorf("%s: %s is %v, want %v", format, name, got[name], want[i])
			}
		}
		if want := len(plain) + 2 + i - 1; len(got) != want {
			t.Errorf("%s: %d columns, want %d: %v", format, len(got), want, got)
		}
	}
}

func TestFilesFeedback(t *testing.T) {
	reward := 0.5
	for _, format := range formats {
		d := open(t, tap.FilesConfig{Format: format})
		at := time.Date(2026, 11, 24, 19, 30, 0, 0, time.FixedZone("", 3600))
		for _, f := range []tap.Feedback{
			{ID: "a", Endpoint: "fraud", Model: "m", Version: "3", Route: "stable", Time: at,
				Reward: &reward, Label: map[string]any{"class": "good", "n": 1}},
			{ID: "b\xff", Time: at},
			{Time: at, Label: "text"},
		} {
			if _, err := d.files.Write(t.Context(), tap.Record{Feedback: &f}); err != nil {
				t.Fatal(err)
			}
		}
		if r := d.close(); r.Feedback != 3 || r.Samples != 0 {
			t.Errorf("%s: three feedbacks became %+v", format, r)
		}
		rows := d.want("feedback-*", 1, 3)
		f := func(row int, column string, want [2]any) {
			t.Helper()
			got := rows[row][column]
			if fmt.Sprint(got) != fmt.Sprint(want[slices.Index(formats, format)]) {
				t.Errorf("%s: row %d: %s is %v, want %v", format, row, column, got, want)
			}
		}
		f(0, "id", [2]any{"a", "a"})
		f(0, "reward", [2]any{math.Float64bits(0.5), 0.5})
		f(0, "label", [2]any{`{"class":"good","n":1}`, "map[class:good n:1]"})
		f(0, "time", [2]any{uint64(1795545000000000), "2026-11-24T18:30:00.000000Z"})
		f(0, "route", [2]any{"stable", "stable"})
		f(1, "id", [2]any{"b\ufffd", "b\ufffd"})
		f(1, "reward", [2]any{nil, nil})
		f(1, "label", [2]any{nil, nil})
		f(2, "id", [2]any{nil, nil})
		f(2, "label", [2]any{`"text"`, "text"})
		f(2, "kind", [2]any{nil, "feedback"})
	}
}

// A tensor that a sample lacks, or that is redacted, is null in both columns.
func TestFilesNulls(t *testing.T) {
	for _, format := range formats {
		d := open(t, tap.FilesConfig{Format: format})
		x, y, ssn := floats("x", 1), floats("y", 2), everything(false)[tensor.Bytes-1]
		ssn.Name = "ssn"
		k := tap.NewSink(tap.SinkConfig{Redact: []string{"ssn", "id"}}, d.files,
			slog.New(slog.DiscardHandler))
		for _, in := range [][]tensor.Tensor{{x, y, ssn}, {x, {}, ssn}, {{}, y, {}}, {}} {
			s := take(t, d.pool, "secret", sampled{in, nil})
			k.Offer(s)
			s.Release()
		}
		if err := k.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		rows := d.want("*", 1, 4)
		for i, want := range [][2]*tensor.Tensor{{&x, &y}, {&x, nil}, {nil, &y}, {nil, nil}} {
			wantTensor(t, rows[i], "input.x", want[0])
			wantTensor(t, rows[i], "input.y", want[1])
			wantTensor(t, rows[i], "input.ssn", nil)
			if rows[i]["id"] != nil {
				t.Errorf("%s: the id is %v", format, rows[i]["id"])
			}
		}
		for _, name := range names(t, d.dir, "*") {
			text, err := os.ReadFile(filepath.Join(d.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(text, []byte("secret")) || bytes.Contains(text, []byte("long long")) {
				t.Errorf("%s: what is redacted is in the file", format)
			}
		}
	}
}

// Samples that have other tensors go to other files.
func TestFilesSignatures(t *testing.T) {
	for _, format := range formats {
		d := open(t, tap.FilesConfig{Format: format})
		x, i := floats("x", 1), tensor.Tensor{Name: "x", Datatype: tensor.Int32, Shape: []int64{1},
			Data: make([]byte, 4)}
		text, raw := everything(false)[tensor.Bytes-1], everything(true)[tensor.Bytes-1]
		write := func(set func(*tap.Sample), in ...tensor.Tensor) { d.write(in, nil, set) }
		write(nil, x)
		write(nil, x) // the first's file
		write(nil, i)
		write(nil, x, floats("z", 1))
		write(nil, text)
		write(nil, raw)
		write(nil, text)                                  // the first of the text
		write(func(s *tap.Sample) { s.Version = "4" }, x) // the first's file
		write(func(s *tap.Sample) { s.Endpoint = "../a b/é" }, x)
		write(func(s *tap.Sample) { s.Endpoint, s.Model = "", "m" }, x)
		write(func(s *tap.Sample) { s.Endpoint, s.Model = "", strings.Repeat("m", 300) }, x)
		d.write(nil, []tensor.Tensor{x}, nil) // as an output
		d.close()
		d.want("samples-fraud-*", 6, 9)
		d.want("samples-.._a_b__-*", 1, 1)
		d.want("samples-m-*", 1, 1)
		d.want("*", 9, 12)
	}
}

// One tensor may be called like the shape of another.
func TestFilesNamesCollide(t *testing.T) {
	for _, format := range formats {
		d := open(t, tap.FilesConfig{Format: format})
		a, b, c := floats("x", 1), floats("x.shape", 2), floats("x.shape.shape", 3)
		d.write([]tensor.Tensor{b, a, c}, nil, nil)
		d.close()
		r := d.want("*", 1, 1)[0]
		wantTensor(t, r, "input.x_", &a)
		wantTensor(t, r, "input.x.shape", &b)
		wantTensor(t, r, "input.x.shape.shape_", &c)
	}
}

// However many endpoints there are, few files are open at once.
func TestFilesBoundsOpen(t *testing.T) {
	for _, format := range formats {
		d := open(t, tap.FilesConfig{Format: format})
		for i := range 40 {
			d.write([]tensor.Tensor{floats("x", 1)}, nil, func(s *tap.Sample) {
				s.Endpoint = fmt.Sprint(i)
			})
		}
		if n := len(names(t, d.dir, "*.open")); n != 16 {
			t.Errorf("%s: %d files are open", format, n)
		}
		d.want("*."+format, 24, 24)
		d.close()
		d.want("*", 40, 40)
	}
}

// A file ends at its size, at its age, and of Parquet at each flush.
func TestFilesRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := []tensor.Tensor{floats("x", 1000)}
		for _, format := range formats {
			d := open(t, tap.FilesConfig{Format: format, RotateBytes: 40_000})
			for range 100 {
				d.write(x, nil, nil)
			}
			d.close()
			if n := len(names(t, d.dir, "*")); n < 3 || n > 20 {
				t.Errorf("%s: %d files", format, n)
			}
			d.want("*", len(names(t, d.dir, "*")), 100)
		}
		d := open(t, tap.FilesConfig{Format: tap.JSONL, RotateAge: time.Hour})
		d.write(x, nil, nil)
		if r := d.flush(); r.Samples != 1 || r.Bytes < 4000 {
			t.Errorf("a flush makes %+v safe", r)
		}
		d.want("*.jsonl", 0, 0)
		if text := readLines(t, filepath.Join(d.dir, names(t, d.dir, "*")[0])); len(text) != 1 {
			t.Errorf("%d lines are in the file", len(text))
		}
		time.Sleep(time.Hour)
		d.write(x, nil, nil)
		if r := d.flush(); r.Samples != 1 {
			t.Errorf("a flush makes %+v safe", r)
		}
		d.want("*", 1, 2)
		d = open(t, tap.FilesConfig{Format: tap.Parquet})
		d.write(x, nil, nil)
		if r := d.flush(); r.Samples != 1 {
			t.Errorf("a flush makes %+v safe", r)
		}
		d.want("*", 1, 1)
	})
}

// The oldest files go; what is not of samples stays.
func TestFilesRetention(t *testing.T) {
	f := func(cfg tap.FilesConfig, want ...string) {
		t.Helper()
		cfg.Path, cfg.Format = t.TempDir(), tap.JSONL
		for i, name := range []string{
			"samples-a-20261124T190000Z-000001.jsonl", "samples-b-20261124T180000Z-000001.parquet",
			"feedback-20261124T170000Z-000002.parquet", "samples-mine.parquet", "feedback.jsonl",
		} {
			path := filepath.Join(cfg.Path, name)
			if err := os.WriteFile(path, make([]byte, 1000), 0o644); err != nil {
				t.Fatal(err)
			}
			at := time.Now().Add(time.Duration(i-3) * time.Hour)
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
		d := open(t, cfg)
		d.flush()
		if got := names(t, cfg.Path, "*"); !slices.Equal(got, append(want,
			"samples-mine.parquet")) {
			t.Errorf("%+v keeps %q", cfg, got)
		}
	}
	const a = "samples-a-20261124T190000Z-000001.jsonl"
	const b = "samples-b-20261124T180000Z-000001.parquet"
	const c = "feedback-20261124T170000Z-000002.parquet"
	f(tap.FilesConfig{}, c, "feedback.jsonl", a, b)
	f(tap.FilesConfig{KeepBytes: 3000}, c, "feedback.jsonl", a, b)
	f(tap.FilesConfig{KeepBytes: 2999}, c, "feedback.jsonl", b)
	f(tap.FilesConfig{KeepBytes: 1000}, c, "feedback.jsonl")
	f(tap.FilesConfig{KeepBytes: 1}, "feedback.jsonl")
	f(tap.FilesConfig{KeepAge: 90 * time.Minute}, c, "feedback.jsonl")
	f(tap.FilesConfig{KeepAge: 150 * time.Minute}, c, "feedback.jsonl", b)
}

// Space is kept while files are written, not only at flushes.
func TestFilesRetentionWhileWriting(t *testing.T) {
	for _, format := range formats {
		d := open(t, tap.FilesConfig{Format: format, RotateBytes: 20_000, KeepBytes: 100_000})
		x := everything(false)
		for range 500 {
			d.write(x, nil, nil)
		}
		var total int64
		for _, name := range names(t, d.dir, "*") {
			info, err := os.Stat(filepath.Join(d.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			total += info.Size()
		}
		if total > 140_000 || total < 20_000 {
			t.Errorf("%s: the files take %d bytes", format, total)
		}
		d.close()
		d.want("*", len(names(t, d.dir, "*")), len(read(t, d.dir, "*")))
	}
}

// What a crash left is ended: whole lines stay, whole Parquet files too, and
// what somebody writes, or is not ours, is let be.
func TestFilesRecover(t *testing.T) {
	dir := t.TempDir()
	busy := open(t, tap.FilesConfig{Path: dir, Format: tap.JSONL})
	busy.write([]tensor.Tensor{floats("x", 1)}, nil, nil)
	whole := open(t, tap.FilesConfig{Format: tap.Parquet})
	whole.write([]tensor.Tensor{floats("x", 1)}, nil, nil)
	whole.close()
	file, err := os.ReadFile(filepath.Join(whole.dir, names(t, whole.dir, "*")[0]))
	if err != nil {
		t.Fatal(err)
	}
	const prefix = "samples-a-20261124T190000Z-00000"
	long := `{"kind":"sample","x":"` + strings.Repeat("x", 200_000)
	for name, text := range map[string]string{
		prefix + "1.jsonl.open":   "{\"kind\":1}\n{\"kind\":2}\n{\"ki",
		prefix + "2.jsonl.open":   "{\"kind\":1}\n",
		prefix + "3.jsonl.open":   "{\"kind\"",
		prefix + "4.jsonl.open":   "",
		prefix + "5.jsonl.open":   "{\"kind\":3}\n" + long,
		prefix + "6.parquet.open": string(file[:len(file)-1]),
		prefix + "7.parquet.open": string(file),
		prefix + "8.parquet.open": "PAR1" + strings.Repeat("\xff", 100) + "\x50\x00\x00\x00PAR1",
		"mine.jsonl.open":         "{",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := open(t, tap.FilesConfig{Path: dir, Format: tap.Parquet})
	d.want(prefix+"*", 4, 5)
	if got := names(t, dir, "*.open"); len(got) != 2 || got[0] != "mine.jsonl.open" {
		t.Errorf("%q are open", got)
	}
	busy.write([]tensor.Tensor{floats("x", 1)}, nil, nil)
	busy.close()
	d.want("samples-fraud-*", 1, 2)
}

func TestNewFilesRefuses(t *testing.T) {
	f := func(cfg tap.FilesConfig, want string) {
		t.Helper()
		_, err := tap.NewFiles(cfg, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f(tap.FilesConfig{Path: dir, Format: "csv"}, `must be "parquet" or "jsonl"`)
	f(tap.FilesConfig{Path: filepath.Join(dir, "file", "x"), Format: tap.JSONL}, "cannot make")
}

// A folder that goes away costs the samples, and is used again when it is back.
func TestFilesFolderGoes(t *testing.T) {
	for _, format := range formats {
		d := open(t, tap.FilesConfig{Format: format, Path: filepath.Join(t.TempDir(), "x")})
		if err := os.Remove(d.dir); err != nil {
			t.Fatal(err)
		}
		s := take(t, d.pool, "a", sampled{nil, nil})
		for range 3 {
			r, err := d.files.Write(t.Context(), tap.Record{Sample: s})
			if !errors.Is(err, os.ErrNotExist) || r.Failed != 1 {
				t.Errorf("%s: %+v, %v", format, r, err)
			}
		}
		if err := os.Mkdir(d.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		d.flush()
		d.write(nil, nil, nil)
		d.close()
		d.want("*", 1, 1)
	}
}
