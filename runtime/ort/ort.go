// Package ort runs models on ONNX Runtime.
//
// [Open] loads the library once for the process; [Runtime.NewSession] loads a
// model; a [Call] is a workspace for one run at a time of it, without a Go
// allocation and with one call into C for each run. Sessions may be used
// concurrently, each Call has one owner.
//
// Set-up (the environment, session options, execution providers) goes through
// github.com/yalue/onnxruntime_go. Sessions and runs are our own calls of the C
// API beside it, because the binding copies outputs, cuts strings at a NUL,
// cannot return scalars and half floats that it allocated, and has no error
// codes, dimension names or log hook.
package ort

// #cgo CFLAGS: -O2
// #cgo LDFLAGS: -ldl
// #cgo noescape mr_run
// #cgo nocallback mr_run
// #include "api.h"
// #include <stdlib.h>
import "C"

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	binding "github.com/yalue/onnxruntime_go"
	"golang.org/x/sys/unix"
)

// ErrLibrary is returned when ONNX Runtime itself cannot be used.
var ErrLibrary = errors.New("ort: cannot use ONNX Runtime")

// Code is an error code of ONNX Runtime.
type Code int

// The codes of ONNX Runtime. Own marks errors that are not of the library.
const (
	Own              Code = -1
	OK               Code = 0
	Fail             Code = 1
	InvalidArgument  Code = 2
	NoSuchFile       Code = 3
	NoModel          Code = 4
	EngineError      Code = 5
	RuntimeException Code = 6
	InvalidProtobuf  Code = 7
	ModelLoaded      Code = 8
	NotImplemented   Code = 9
	InvalidGraph     Code = 10
	EPFail           Code = 11
)

// Error is what ONNX Runtime answered.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string {
	if e.Code == Own {
		return e.Message
	}
	return "onnxruntime: " + e.Message
}

// newError takes an error over from C.
func newError(e *C.mr_error) *Error {
	return &Error{Code: Code(e.code), Message: message(C.GoString(&e.text[0]))}
}

// without takes the path of a model's file out of the message: it is not for
// those who see why a model is not served.
func (e *Error) without(path string) *Error {
	text := strings.TrimPrefix(e.Message, "Load model from "+path+" failed:")
	e.Message = message(strings.ReplaceAll(text, path, filepath.Base(path)))
	return e
}

// Config says which library is used and where its log lines go.
type Config struct {
	Library string       // path of libonnxruntime.so
	Logger  *slog.Logger // nil for slog.Default
	Level   slog.Level   // lines below are not made
}

// Runtime is the loaded library. There is one in a process.
type Runtime struct {
	library   string
	log       *slog.Logger
	providers []string
}

var (
	opened   *Runtime // Guarded by openLock.
	openLock sync.Mutex
)

// Open loads the library. The library stays loaded for the life of the
// process; a second call returns the first one's Runtime.
func Open(cfg Config) (*Runtime, error) {
	openLock.Lock()
	defer openLock.Unlock()
	if opened != nil {
		return opened, nil
	}
	r := &Runtime{library: cfg.Library, log: cfg.Logger}
	if r.log == nil {
		r.log = slog.Default()
	}
	// The published library sends usage data to its makers and keeps files for
	// that in the user's cache. What is served here is nobody else's business.
	if err := os.Setenv("ORT_DISABLE_TELEMETRY", "1"); err != nil {
		return nil, fmt.Errorf("%w: cannot switch its telemetry off: %w", ErrLibrary, err)
	}
	if err := r.open(cfg.Level); err != nil {
		return nil, fmt.Errorf("%w: cannot load %s: %w", ErrLibrary, cfg.Library, err)
	}
	opened = r
	return r, nil
}

// open loads the library and asks it for its providers.
func (r *Runtime) open(level slog.Level) error {
	fd, err := startLog(r.log)
	if err != nil {
		return err
	}
	path := C.CString(r.library)
	defer C.free(unsafe.Pointer(path))
	var e C.mr_error
	if C.mr_open(path, C.int(fd), C.int(severity(level)), &e) != 0 {
		_ = unix.Close(fd) // ends the log
		return newError(&e)
	}
	binding.SetSharedLibraryPath(r.library)
	if err := binding.InitializeEnvironment(); err != nil {
		return err
	}
	var list **C.char
	var n C.int
	if C.mr_providers(&list, &n, &e) != 0 {
		return newError(&e)
	}
	defer C.mr_providers_free(list, n)
	for _, p := range unsafe.Slice(list, int(n)) {
		r.providers = append(r.providers, C.GoString(p))
	}
	return nil
}

// Version returns the library's version, such as "1.32.0".
func (r *Runtime) Version() string { return C.GoString(C.mr_version()) }

// Library returns the path that the library was loaded from.
func (r *Runtime) Library() string { return r.library }

// Providers lists the execution providers that the library has, by its names.
func (r *Runtime) Providers() []string { return r.providers }

// TrimMemory gives memory that C has freed back to the system.
func TrimMemory() { C.mr_trim() }

// severity returns ONNX Runtime's level for ours: it has verbose, info,
// warning, error, fatal.
func severity(l slog.Level) int {
	switch {
	case l < slog.LevelInfo:
		return 0
	case l < slog.LevelWarn:
		return 1
	case l < slog.LevelError:
		return 2
	}
	return 3
}
