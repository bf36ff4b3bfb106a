package tap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
	"golang.org/x/sys/unix"
)

// openSuffix marks a file under way.
const openSuffix = ".open"

// ours are the names of files that are ended and removed here; all else in a
// folder is left alone.
var ours = regexp.MustCompile(
	`^(samples-.+|feedback)-\d{8}T\d{6}Z-\d{6}\.(parquet|jsonl)(\.open)?$`)

var unsafe = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// safe makes part of a file's name of a text. It need not be unique.
func safe(text string) string {
	text = unsafe.ReplaceAllString(text, "_")
	return text[:min(len(text), 100)]
}

// create makes a file that nobody had, open and locked, and returns its later
// path: STEM-TIME-NUMBER and the extension.
func create(dir, stem, extension string) (*os.File, string, error) {
	at := time.Now().UTC().Format("20060102T150405Z")
	for number := 1; number < 1_000_000; number++ {
		path := filepath.Join(dir, fmt.Sprintf("%s-%s-%06d%s", stem, at, number, extension))
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		f, err := os.OpenFile(path+openSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if lock(f) {
			return f, path, nil
		}
		// Another process started just now and takes the file for one left over.
		_ = f.Close()
	}
	return nil, "", fmt.Errorf("all numbers of %s-%s are used", stem, at)
}

// lock takes the lock of a file, which lasts until it is closed. It returns
// false for one that somebody else has or that is removed. A file system
// without locks gives everybody all of them.
func lock(f *os.File) bool {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink > 0
}

// publish gives a file that is whole and on the disk its name, and closes it.
func publish(f *os.File, path string) error {
	if err := os.Rename(path+openSuffix, path); err != nil {
		return err
	}
	_ = f.Close() // nothing is left to be written
	return syncFolder(filepath.Dir(path))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// salvage ends a file whose writer failed or died: it is cut behind its last
// whole record and published, or removed where nothing is readable.
func salvage(f *os.File, path string) error {
	defer f.Close()
	size, err := readable(f, strings.HasSuffix(path, "."+Parquet))
	if err != nil || size == 0 {
		return errors.Join(err, os.Remove(path+openSuffix))
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return publish(f, path)
}

// readable returns the length of a file's part that can be read as it is.
func readable(f *os.File, isParquet bool) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !isParquet {
		return wholeLines(f, info.Size())
	}
	err = guard(func() error {
		_, err := parquet.OpenFile(f, info.Size())
		return err
	})
	if err != nil {
		return 0, nil
	}
	return info.Size(), nil
}

// wholeLines returns the place behind the last end of a line.
func wholeLines(f *os.File, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for size > 0 {
		n := min(size, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], size-n); err != nil && err != io.EOF {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return size - n + int64(i) + 1, nil
		}
		size -= n
	}
	return 0, nil
}

// recoverFolder ends the files that nobody writes any more.
func recoverFolder(dir string, log *slog.Logger) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), openSuffix) || !ours.MatchString(e.Name()) ||
			!e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil && !lock(f) {
			_ = f.Close()
			continue
		}
		if err == nil {
			err = salvage(f, strings.TrimSuffix(path, openSuffix))
		}
		if err != nil {
			log.Warn("a file of samples was left open and cannot be ended", "file", path,
				"error", err)
			continue
		}
		log.Info("a file of samples was left open; what is whole of it is kept", "file", path)
	}
	return nil
}

// retain removes files that were written before an instant, and the oldest of
// those that take more than keepBytes together with the ones under way.
func retain(dir string, keepBytes int64, before time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var infos []fs.FileInfo
	var total int64
	for _, e := range entries {
		if !ours.MatchString(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if total += info.Size(); !strings.HasSuffix(e.Name(), openSuffix) {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int {
		if n := a.ModTime().Compare(b.ModTime()); n != 0 {
			return n
		}
		return strings.Compare(a.Name(), b.Name())
	})
	for _, info := range infos {
		if total <= keepBytes && !info.ModTime().Before(before) {
			break
		}
		err := os.Remove(filepath.Join(dir, info.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= info.Size()
	}
	return nil
}
