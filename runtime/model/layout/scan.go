// Package layout reads what lies in a model repository folder: model folders,
// their versions and configurations. It does not need ONNX Runtime, keeps
// nothing, and may be called concurrently.
//
// A model is a folder of the repository: Triton's layout
// (name/config.pbtxt, name/version/model.onnx), or a bare folder with a
// model.onnx, which is version 1, or a folder that MLflow has written. Other
// files beside them are left alone.
package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
)

// ErrLayout is returned for files that do not make a model.
var ErrLayout = errors.New("layout: not a servable model")

// Bounds of a repository: what is beyond them is a mistake or an attack.
const (
	maxFolders = 10_000
	maxFiles   = 10_000 // of one version
)

const defaultFile = "model.onnx"

// validName is what model and version names may be: a path element without tricks.
var validName = regexp.MustCompile(`^[A-Za-z0-9_@+=~:,][A-Za-z0-9_@+=~:,. -]{0,254}$`)

// Folder is a model folder.
type Folder struct {
	Name     string
	Dir      string
	Config   *configpb.ModelConfig // as written; nil when there is none
	Versions []VersionDir          // in the order of CompareVersions
	Warnings []string
	Fault    error // why nothing of the folder can be loaded
}

// VersionDir is the files of one version.
type VersionDir struct {
	Version     string
	Dir         string
	File        string // the model file
	Fingerprint string // names, sizes and times of all files: changes when they do
	Bytes       int64  // of all files
}

// Scan returns the model folders of a repository, by name.
func Scan(root string) ([]Folder, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the model repository: %w", err)
	}
	var folders []Folder
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !isDir(filepath.Join(root, e.Name())) {
			continue
		}
		if len(folders) == maxFolders {
			return nil, fmt.Errorf("%w: more than %d models in one repository", ErrLayout,
				maxFolders)
		}
		if f := ScanFolder(root, e.Name()); len(f.Versions) > 0 || f.Config != nil ||
			f.Fault != nil {
			folders = append(folders, f)
		}
	}
	return folders, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// ScanFolder reads one model folder. What is wrong with it is in Fault.
func ScanFolder(root, name string) Folder {
	f := Folder{Name: name, Dir: filepath.Join(root, name)}
	if !validName.MatchString(name) {
		f.Fault = fmt.Errorf("%w: the name %q has characters that names may not have", ErrLayout,
			name)
		return f
	}
	if err := inside(root, f.Dir); err != nil {
		f.Fault = err
		return f
	}
	text, err := readBounded(filepath.Join(f.Dir, "config.pbtxt"))
	if err == nil {
		f.Config, f.Warnings, f.Fault = ParseConfig(text)
		if f.Fault != nil {
			f.Fault = fmt.Errorf("config.pbtxt: %w", f.Fault)
		} else if n := f.Config.Name; n != "" && n != name {
			f.Fault = fmt.Errorf("%w: config.pbtxt: name is %q, the folder's is %q", ErrConfig, n,
				name)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		f.Fault = err
	}
	f.Versions, err = f.versions()
	if f.Fault == nil {
		f.Fault = err
	}
	return f
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("%w: %s is larger than %d bytes", ErrConfig, filepath.Base(path),
			maxConfig)
	}
	return text, err
}

// versions finds the versions of a folder.
func (f *Folder) versions() ([]VersionDir, error) {
	if v, ok, err := f.version("1", f.Dir); ok || err != nil {
		return []VersionDir{v}, err
	}
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the model folder: %w", err)
	}
	var found []VersionDir
	for _, e := range entries {
		dir := filepath.Join(f.Dir, e.Name())
		if e.Name() == "warmup" || !validName.MatchString(e.Name()) || !isDir(dir) {
			continue
		}
		v, ok, err := f.version(e.Name(), dir)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, v)
		}
	}
	slices.SortFunc(found,
		func(a, b VersionDir) int { return CompareVersions(a.Version, b.Version) })
	return found, nil
}

// version looks for a model file in dir; ok is false when there is none.
func (f *Folder) version(name, dir string) (v VersionDir, ok bool, err error) {
	file := f.Config.GetDefaultModelFilename()
	if file == "" {
		file = defaultFile
	}
	if !filepath.IsLocal(file) {
		return v, false, fmt.Errorf("%w: default_model_filename %q leads out of the folder",
			ErrLayout, file)
	}
	if text, err := readBounded(filepath.Join(dir, "MLmodel")); err == nil {
		if file, err = mlflowFile(text); err != nil {
			return v, false, err
		}
	}
	path := filepath.Join(dir, file)
	if isDir(path) {
		path = filepath.Join(path, defaultFile)
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return v, false, nil
	}
	if err := inside(dir, path); err != nil {
		return v, false, err
	}
	v = VersionDir{Version: name, Dir: dir, File: path}
	err = v.look()
	return v, err == nil, err
}

// mlflowFile returns the model file that an MLmodel names.
func mlflowFile(text []byte) (string, error) {
	var m struct {
		Flavors map[string]struct {
			Data string `yaml:"data"`
		} `yaml:"flavors"`
	}
	if err := yaml.Unmarshal(text, &m); err != nil {
		return "", fmt.Errorf("%w: MLmodel is not YAML: %w", ErrLayout, err)
	}
	onnx, ok := m.Flavors["onnx"]
	if !ok {
		var flavors []string
		for name := range m.Flavors {
			flavors = append(flavors, name)
		}
		slices.Sort(flavors)
		return "", fmt.Errorf("%w: the MLflow model has the flavors %s, not onnx; convert it first",
			ErrLayout, strings.Join(flavors, ", "))
	}
	if onnx.Data == "" || !filepath.IsLocal(onnx.Data) {
		return "", fmt.Errorf("%w: MLmodel names the file %q", ErrLayout, onnx.Data)
	}
	return onnx.Data, nil
}

// inside returns an error when path, links followed, is not below root.
func inside(root, path string) error {
	realRoot, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	realPath, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(realRoot, realPath)
	if err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("%w: %s is a link that leads out of its folder", ErrLayout,
			filepath.Base(path))
	}
	return nil
}

// walk calls f with every regular file of a version, in the order of their names.
func walk(dir string, f func(rel string, info fs.FileInfo) error) error {
	n := 0
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if n++; n > maxFiles {
			return fmt.Errorf("%w: more than %d files in one version", ErrLayout, maxFiles)
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return f(rel, info)
	})
}

// look sets the fingerprint and the size.
func (v *VersionDir) look() error {
	h := sha256.New()
	err := walk(v.Dir, func(rel string, info fs.FileInfo) error {
		v.Bytes += info.Size()
		_, err := fmt.Fprintf(h, "%s\x00%d\x00%d\n", rel, info.Size(), info.ModTime().UnixNano())
		return err
	})
	v.Fingerprint = hex.EncodeToString(h.Sum(nil)[:16])
	return err
}

// Digest returns the SHA-256 over all files of a version, names included.
func Digest(v VersionDir) (string, error) {
	h := sha256.New()
	err := walk(v.Dir, func(rel string, info fs.FileInfo) error {
		if _, err := fmt.Fprintf(h, "%s\x00%d\x00", rel, info.Size()); err != nil {
			return err
		}
		file, err := os.Open(filepath.Join(v.Dir, rel))
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(h, file)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot read version %s: %w", v.Version, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
