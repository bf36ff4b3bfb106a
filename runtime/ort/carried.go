//go:build embedort

package ort

// #include <dlfcn.h>
// #include <stdlib.h>
import "C"

import (
	"bytes"
	"embed"
	"fmt"
	"sync"
	"unsafe"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// embedded holds ONNX Runtime and the C++ libraries that it needs, packed.
//
//go:embed embedded/*.zst
var embedded embed.FS

// companions are what ONNX Runtime needs beside libc, each before what needs it.
var companions = [...]string{"libgcc_s.so.1", "libstdc++.so.6"}

// carried unpacks the library into memory that has a path but no file: it is
// gone with the process.
func carried() (path string, ok bool, err error) {
	path, err = unpacked()
	if err != nil {
		return "", false, fmt.Errorf("%w: cannot unpack the one inside the binary: %w", ErrLibrary,
			err)
	}
	return path, true, nil
}

var unpacked = sync.OnceValues(func() (path string, err error) {
	for _, name := range companions {
		if err := load(name); err != nil {
			return "", err
		}
	}
	return unpack("libonnxruntime.so")
})

// load makes a companion known to the dynamic linker, which takes a loaded
// library for each later one that asks for its name. The system's own goes
// first: other libraries, such as those of a GPU, may need a newer one than ours.
func load(name string) error {
	if open(name) == nil {
		return nil
	}
	path, err := unpack(name)
	if err != nil {
		return err
	}
	return open(path)
}

func open(library string) error {
	path := C.CString(library)
	defer C.free(unsafe.Pointer(path))
	if C.dlopen(path, C.RTLD_NOW|C.RTLD_GLOBAL) == nil {
		return fmt.Errorf("cannot load %s: %s", library, C.GoString(C.dlerror()))
	}
	return nil
}

// unpack unpacks an embedded library into a file in memory and returns its
// path. The file stays open for the life of the process: the dynamic linker
// knows libraries by their paths, so that none may be used for a second one.
func unpack(name string) (path string, err error) {
	packed, err := embedded.ReadFile("embedded/" + name + ".zst")
	if err != nil {
		return "", err
	}
	r, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	defer r.Close()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("cannot make a file in memory: %w", err)
	}
	if _, err := r.WriteTo(memory(fd)); err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

// memory is the descriptor of a file in memory.
type memory int

// Write implements io.Writer.
func (fd memory) Write(p []byte) (int, error) { return unix.Write(int(fd), p) }
