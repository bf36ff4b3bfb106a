package ort

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
		if slices.Contains(looked, dir) {
			continue
		}
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

// libraryName matches a library's file name; what is behind it is the version.
var libraryName = regexp.MustCompile(`^libonnxruntime\.so((?:\.[0-9]+)*)$`)

// newest returns the library of the highest version in a folder or in one of
// the onnxruntime-VERSION folders in it, "" where there is none.
func newest(dir string) string {
	var best string
	var bestVersion []int
	for _, folder := range append(versionFolders(dir), dir) {
		entries, _ := os.ReadDir(folder) // one that cannot be read has none
		for _, entry := range entries {
			m := libraryName.FindStringSubmatch(entry.Name())
			if m == nil || entry.IsDir() {
				continue
			}
			version := numbers(m[1])
			if best == "" || slices.Compare(version, bestVersion) > 0 {
				best, bestVersion = filepath.Join(folder, entry.Name()), version
			}
		}
	}
	return best
}

func versionFolders(dir string) []string {
	var folders []string
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "onnxruntime-") {
			folders = append(folders, filepath.Join(dir, entry.Name()))
		}
	}
	return folders
}

// numbers reads a version such as ".1.32.0".
func numbers(version string) []int {
	var list []int
	for part := range strings.SplitSeq(strings.TrimPrefix(version, "."), ".") {
		n, _ := strconv.Atoi(part) // "" is below each number
		list = append(list, n)
	}
	return list
}
