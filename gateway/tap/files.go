package tap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"
)

// The formats of files.
const (
	Parquet = "parquet"
	JSONL   = "jsonl"
)

// FilesConfig says where files lie and how long.
type FilesConfig struct {
	Path   string // of the folder; it is made if it is not there
	Format string // Parquet or JSONL
	// Size and age at which a file ends. 0 is 64 MiB and 1 h.
	RotateBytes int64
	RotateAge   time.Duration
	// Bytes that files may take together; the oldest go. 0 is 1 GiB.
	KeepBytes int64
	// Age at which files go. 0 keeps them until there are too many.
	KeepAge time.Duration
}

const (
	defaultRotateBytes = 64 << 20
	defaultRotateAge   = time.Hour
	defaultKeepBytes   = 1 << 30
)

// DefaultFlush returns how often files of a format are flushed if nothing else
// is asked for. A flush is what a crash may lose. It ends a Parquet file, which
// is readable only when it is whole, so that a short one makes many small files.
func DefaultFlush(format string) time.Duration {
	if format == Parquet {
		return time.Minute
	}
	return defaultFlush
}

// Files writes samples and feedback to files in a folder.
//
// A file under way is called NAME.open and belongs to one process, which holds
// a lock on it. It gets its name when it is whole and on the disk, so that no
// file without ".open" ever changes. A file has samples of one endpoint and
// model whose tensors have the same names and types; feedback has its own files.
type Files struct {
	cfg  FilesConfig
	log  *slog.Logger
	open []*file
	done Result // since the last call
	// No file could be made. It is tried again after the next flush.
	paused error
}

// maxOpen bounds the files under way, each of which takes up to rowGroupBytes of
// memory. For one more, the one that was not written for the longest time ends.
const maxOpen = 16

// encoder writes the records of one file.
type encoder interface {
	// add takes a record, which is written then or later.
	add(r Record) error
	// size is what the file would take if it ended now, about.
	size() int64
	// end writes what the file lacks to be whole.
	end() error
}

// file is one under way.
type file struct {
	out          *os.File
	path         string  // without ".open"
	layout       *layout // nil for feedback
	encoder      encoder
	opened, used time.Time
	records      int64 // that are not safe yet
	bytes        int64 // that were counted
}

// NewFiles makes the folder, and ends the files there that a crash left open.
func NewFiles(cfg FilesConfig, log *slog.Logger) (*Files, error) {
	if cfg.Format != Parquet && cfg.Format != JSONL {
		return nil, fmt.Errorf("tap: format %q is not known, must be %q or %q", cfg.Format,
			Parquet, JSONL)
	}
	cfg.RotateBytes = cmp.Or(cfg.RotateBytes, defaultRotateBytes)
	cfg.RotateAge = cmp.Or(cfg.RotateAge, defaultRotateAge)
	cfg.KeepBytes = cmp.Or(cfg.KeepBytes, defaultKeepBytes)
	if err := os.MkdirAll(cfg.Path, 0o755); err != nil {
		return nil, fmt.Errorf("tap: cannot make the folder for samples: %w", err)
	}
	if err := recoverFolder(cfg.Path, log); err != nil {
		return nil, fmt.Errorf("tap: cannot end the files of the last run: %w", err)
	}
	return &Files{cfg: cfg, log: log}, nil
}

// Write implements [Writer].
func (w *Files) Write(_ context.Context, r Record) (Result, error) {
	err := w.write(r)
	return w.result(), err
}

// Flush implements [Writer]. It ends files that are large or old, and all
// Parquet files, and removes files that are too many.
func (w *Files) Flush(context.Context) (Result, error) {
	w.paused = nil
	now := time.Now()
	err := w.settleAll(func(f *file) bool {
		return w.cfg.Format == Parquet || now.Sub(f.opened) >= w.cfg.RotateAge
	})
	err = errors.Join(err, retain(w.cfg.Path, w.cfg.KeepBytes, oldest(now, w.cfg.KeepAge)))
	return w.result(), err
}

// Close implements [Writer].
func (w *Files) Close(context.Context) (Result, error) {
	err := w.settleAll(func(*file) bool { return true })
	return w.result(), err
}

// oldest returns the instant before which files go; the zero one keeps all.
func oldest(now time.Time, age time.Duration) time.Time {
	if age == 0 {
		return time.Time{}
	}
	return now.Add(-age)
}

func (w *Files) result() Result {
	r := w.done
	w.done = Result{}
	return r
}

func (w *Files) write(r Record) error {
	f, err := w.fileFor(r)
	if err != nil {
		w.done.Failed++
		return err
	}
	f.records++
	f.used = time.Now()
	if err := f.encoder.add(r); err != nil {
		return w.fail(f, err)
	}
	if f.encoder.size() < w.cfg.RotateBytes {
		return nil
	}
	err = w.settle(f, true)
	return errors.Join(err, retain(w.cfg.Path, w.cfg.KeepBytes, time.Time{}))
}

// fileFor returns the open file that takes the record, with its place noted.
func (w *Files) fileFor(r Record) (*file, error) {
	for _, f := range w.open {
		if r.Sample == nil && f.layout == nil ||
			r.Sample != nil && f.layout != nil && f.layout.place(r.Sample) {
			return f, nil
		}
	}
	if w.paused != nil {
		return nil, w.paused
	}
	if len(w.open) >= maxOpen {
		last := slices.MinFunc(w.open, func(a, b *file) int { return a.used.Compare(b.used) })
		if err := w.settle(last, true); err != nil {
			return nil, err
		}
	}
	f, err := w.newFile(r)
	if err != nil {
		w.paused = fmt.Errorf("cannot make a file of samples: %w", err)
		return nil, w.paused
	}
	w.open = append(w.open, f)
	return f, nil
}

func (w *Files) newFile(r Record) (*file, error) {
	f := &file{opened: time.Now()}
	stem := "feedback"
	if s := r.Sample; s != nil {
		stem = "samples-" + safe(cmp.Or(s.Endpoint, s.Model))
		f.layout = newLayout(s)
		f.layout.place(s)
	}
	var err error
	if f.out, f.path, err = create(w.cfg.Path, stem, "."+w.cfg.Format); err != nil {
		return nil, err
	}
	if w.cfg.Format == JSONL {
		f.encoder = &lines{w: f.out, layout: f.layout}
		return f, nil
	}
	err = guard(func() error {
		f.encoder = newParquetFile(f.out, f.layout)
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, salvage(f.out, f.path))
	}
	return f, nil
}

// settleAll settles all open files; end says which of them end.
func (w *Files) settleAll(end func(f *file) bool) error {
	var errs []error
	for _, f := range slices.Clone(w.open) {
		errs = append(errs, w.settle(f, end(f)))
	}
	return errors.Join(errs...)
}

// settle makes a file's records safe.
func (w *Files) settle(f *file, end bool) error {
	if f.records > 0 {
		if err := f.encoder.end(); err != nil {
			return w.fail(f, err)
		}
		if err := f.out.Sync(); err != nil {
			return w.fail(f, err)
		}
		if err := f.there(); err != nil {
			return w.fail(f, err)
		}
	}
	if end {
		if err := publish(f.out, f.path); err != nil {
			return w.fail(f, err)
		}
		w.forget(f)
	}
	w.count(f)
	return nil
}

// there returns an error when the file is not in its folder any more: what is
// written to it is lost when it is closed.
func (f *file) there() error {
	open, err := f.out.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(f.path + openSuffix)
	if err == nil && !os.SameFile(open, named) {
		err = fmt.Errorf("%s%s is another file now", f.path, openSuffix)
	}
	return err
}

// count counts a file's records as safe.
func (w *Files) count(f *file) {
	if f.layout == nil {
		w.done.Feedback += f.records
	} else {
		w.done.Samples += f.records
	}
	w.done.Bytes += f.encoder.size() - f.bytes
	f.records, f.bytes = 0, f.encoder.size()
}

// fail gives a file up. What is readable of it stays.
func (w *Files) fail(f *file, err error) error {
	w.done.Failed += f.records
	w.forget(f)
	err = errors.Join(err, salvage(f.out, f.path))
	return fmt.Errorf("cannot write a file of samples: %w", err)
}

func (w *Files) forget(f *file) {
	w.open = slices.DeleteFunc(w.open, func(g *file) bool { return g == f })
}
