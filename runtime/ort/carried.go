//go:build embedort

package ort

import (
	"bytes"
	_ "embed" // the library
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

//go:embed embedded/libonnxruntime.so.zst
var library []byte

// carried unpacks the library into memory that has a path but no file: it is
// gone with the process.
func carried() (path string, ok bool, err error) {
	f := unpacked()
	return f.path, f.path != "", f.err
}

var unpacked = sync.OnceValue(unpack)

type unpackedLibrary struct {
	path string
	err  error
}

func unpack() unpackedLibrary {
	fail := func(err error) unpackedLibrary {
		return unpackedLibrary{err: fmt.Errorf("%w: cannot unpack the one inside the binary: %w", ErrLibrary, err)}
	}
	fd, err := unix.MemfdCreate("libonnxruntime.so", unix.MFD_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	r, err := zstd.NewReader(bytes.NewReader(library))
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	if _, err := r.WriteTo(fdWriter(fd)); err != nil {
		return fail(err)
	}
	return unpackedLibrary{path: fmt.Sprintf("/proc/self/fd/%d", fd)}
}

type fdWriter int

func (fd fdWriter) Write(p []byte) (int, error) { return unix.Write(int(fd), p) }
