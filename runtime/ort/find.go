package ort

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNotFound is returned when there is no library in any of the places.
var ErrNotFound = errors.New("ort: no ONNX Runtime library found")

// Env is the environment variable that names the library.
const Env = "MILLRACE_ONNXRUNTIME"

// Found is a library and where it was found.
type Found struct {
	Path   string
	Origin string // for people: "configuration", "environment", ...
}

// FindLibrary looks for the library: the configured path, the environment
// variable MILLRACE_ONNXRUNTIME, beside the binary, inside the binary, in the
// cache. A path that was named and is not there is an error: the next place
// would hide the mistake.
func FindLibrary(configured string) (Found, error) {
	for _, named := range []Found{{configured, "configuration"},
		{os.Getenv(Env), "environment " + Env}} {
		if named.Path == "" {
			continue
		}
		if _, err := os.Stat(named.Path); err != nil {
			return Found{}, fmt.Errorf("cannot use the library of the %s: %w", named.Origin, err)
		}
		return named, nil
	}
	var looked []string
	if exe, err := os.Executable(); err == nil {
		looked = append(looked, filepath.Dir(exe))
		if path := newest(filepath.Dir(exe)); path != "" {
			return Found{path, "beside the binary"}, nil
		}
	}
	if path, ok, err := carried(); err != nil {
		return Found{}, err
	} else if ok {
		return Found{path, "carried inside the binary"}, nil
	}
	for _, dir := range caches() {
		looked = append(looked, dir)
		if path := newest(dir); path != "" {
			return Found{path, "cache"}, nil
		}
	}
	return Found{},
		fmt.Errorf(
			"%w in %s; `make build` fetches it, or set %s to the path of a libonnxruntime.so",
			ErrNotFound, strings.Join(looked, ", "), Env)
}

// caches lists the cache folders: of MILLRACE_CACHE, of the checkout that the
// binary or the working directory is in, of the user.
func caches() []string {
	var dirs []string
	if dir := os.Getenv("MILLRACE_CACHE"); dir != "" {
		dirs = append(dirs, dir)
	}
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Join(filepath.Dir(filepath.Dir(exe)), ".cache"))
	}
	if wd, err := os.Getwd(); err == nil {
		for dir := wd; ; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				dirs = append(dirs, filepath.Join(dir, ".cache"))
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	if dir, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "millrace"))
	}
	return dirs
}

// newest returns the library of the highest name in a folder or one below it.
func newest(dir string) string {
	found, _ := filepath.Glob(filepath.Join(dir, "libonnxruntime.so*"))
	below, _ := filepath.Glob(filepath.Join(dir, "onnxruntime-*", "libonnxruntime.so*"))
	found = append(found, below...)
	if len(found) == 0 {
		return ""
	}
	return slices.Max(found)
}
