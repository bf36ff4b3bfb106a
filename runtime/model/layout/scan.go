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
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

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

// ValidName says whether a model or version may have that name.
func ValidName(name string) bool { return validName.MatchString(name) }

// Folder is a model folder.
type Folder struct {
	Name     string
	Dir      string
	Config   *configpb.ModelConfig // as written; nil when there is none
	Versions []VersionDir          // in the order of CompareVersions
	Warnings []string
	Stamp    string // changes when the configuration, a labels or a warm-up file does
	Fault    error  // why nothing of the folder can be loaded
}

// VersionDir is the files of one version.
type VersionDir struct {
	Version     string
	Dir         string
	File        string // the model file
	Fingerprint string // names, sizes and times of all files: changes when they do
	Bytes       int64  // of all files
	MLflow      *MLflow
	Fault       error `json:"-"` // why this version cannot be loaded
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
		if f := ScanFolder(root, e.Name()); f.isModel() {
			folders = append(folders, f)
		}
	}
	return folders, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// Find reads the model folder of that name, with a configuration in JSON in
// place of its config.pbtxt unless that is nil; ok is false when there is none.
func Find(root, name string, config []byte) (f Folder, ok bool) {
	if !validName.MatchString(name) || !isDir(filepath.Join(root, name)) {
		return f, false
	}
	if config == nil {
		f = ScanFolder(root, name)
		return f, f.isModel()
	}
	f = scan(root, name, func(f *Folder) {
		f.Config, f.Warnings, f.Fault = ParseConfigJSON(config)
		f.check("config", config)
	})
	return f, len(f.Versions) > 0 || f.Fault != nil
}

// isModel tells a model folder from one that just lies there.
func (f *Folder) isModel() bool {
	return len(f.Versions) > 0 || f.Config != nil || f.Fault != nil
}

// ScanFolder reads one model folder. What is wrong with it is in Fault.
func ScanFolder(root, name string) Folder {
	text, err := readBounded(filepath.Join(root, name, "config.pbtxt"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return scan(root, name, nil)
	case err != nil:
		return Folder{Name: name, Dir: filepath.Join(root, name), Fault: err}
	}
	return scan(root, name, func(f *Folder) {
		f.Config, f.Warnings, f.Fault = ParseConfig(text)
		f.check("config.pbtxt", text)
	})
}

// check holds a configuration that was read against the folder.
func (f *Folder) check(source string, text []byte) {
	f.Stamp = string(text)
	if f.Fault == nil && f.Config.Name != "" && f.Config.Name != f.Name {
		f.Fault = fmt.Errorf("%w: name is %q, the folder's is %q", ErrConfig, f.Config.Name, f.Name)
	}
	if f.Fault != nil {
		f.Fault = fmt.Errorf("%s: %w", source, f.Fault)
	}
}

// scan reads a model folder; configure is nil when it has no configuration.
func scan(root, name string, configure func(*Folder)) Folder {
	f := Folder{Name: name, Dir: filepath.Join(root, name)}
	if !validName.MatchString(name) {
		f.Fault = fmt.Errorf("%w: the name %q has characters that names may not have", ErrLayout,
			name)
		return f
	}
	if f.Fault = inside(root, f.Dir); f.Fault != nil {
		return f
	}
	if configure != nil {
		configure(&f)
	}
	var err error
	if f.Versions, err = f.versions(); err == nil {
		err = f.stamp()
	}
	if f.Fault == nil {
		f.Fault = err
	}
	return f
}

// stamp sums up what beside the versions' files decides how they are served.
func (f *Folder) stamp() error {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", f.Stamp)
	for _, out := range f.Config.GetOutput() {
		if !filepath.IsLocal(out.LabelFilename) {
			continue
		}
		if info, err := os.Stat(filepath.Join(f.Dir, out.LabelFilename)); err == nil {
			fmt.Fprintf(h, "%s\x00%d\x00%d\n", out.LabelFilename, info.Size(),
				info.ModTime().UnixNano())
		}
	}
	var err error
	if dir := f.WarmupDir(); len(f.Config.GetModelWarmup()) > 0 && isDir(dir) {
		err = plain(fingerprint(dir, h, nil))
	}
	f.Stamp = hex.EncodeToString(h.Sum(nil)[:16])
	return err
}

// WarmupDir is the folder of the files that warm-up requests name.
func (f *Folder) WarmupDir() string { return filepath.Join(f.Dir, warmupDir) }

const warmupDir = "warmup"

// WarmupFile returns the path of a file that a warm-up request names, which
// lies in the model's folder of them.
func (f *Folder) WarmupFile(name string) (string, error) {
	path := filepath.Join(f.WarmupDir(), name)
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("%w: input_data_file %q leads out of the folder warmup", ErrConfig,
			name)
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%w: there is no file %q in the folder warmup", ErrConfig, name)
	}
	return path, inside(f.WarmupDir(), path)
}

// plain takes the path of the machine out of an error: reasons go to clients.
func plain(err error) error {
	var p *fs.PathError
	if !errors.As(err, &p) {
		return err
	}
	return fmt.Errorf("cannot read %s: %w", filepath.Base(p.Path), p.Err)
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, plain(err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	err = plain(err)
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("%w: %s is larger than %d bytes", ErrConfig, filepath.Base(path),
			maxConfig)
	}
	return text, err
}

// versions finds the versions of a folder.
func (f *Folder) versions() ([]VersionDir, error) {
	if v, ok := f.version("1", f.Dir); ok {
		return []VersionDir{v}, nil
	}
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the model folder: %w", plain(err))
	}
	var found []VersionDir
	for _, e := range entries {
		dir := filepath.Join(f.Dir, e.Name())
		if e.Name() == warmupDir || !validName.MatchString(e.Name()) || !isDir(dir) {
			continue
		}
		if v, ok := f.version(e.Name(), dir); ok {
			found = append(found, v)
		}
	}
	slices.SortFunc(found,
		func(a, b VersionDir) int { return CompareVersions(a.Version, b.Version) })
	return found, nil
}

// version looks for a model file in dir; ok is false when there is none.
func (f *Folder) version(name, dir string) (v VersionDir, ok bool) {
	v = VersionDir{Version: name, Dir: dir}
	file := f.Config.GetDefaultModelFilename()
	if file == "" || !filepath.IsLocal(file) {
		file = defaultFile
	}
	text, err := readBounded(filepath.Join(dir, "MLmodel"))
	if err == nil {
		v.MLflow, err = ParseMLmodel(text)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if v.Fault = err; err != nil {
		v.look()
		return v, true
	}
	if v.MLflow != nil {
		file = v.MLflow.File
	}
	v.File = filepath.Join(dir, file)
	if isDir(v.File) {
		v.File = filepath.Join(v.File, defaultFile)
	}
	info, err := os.Stat(v.File)
	if err != nil || !info.Mode().IsRegular() {
		return v, false
	}
	if v.Fault = errors.Join(inside(f.Dir, dir), inside(dir, v.File)); v.Fault == nil {
		v.look()
	}
	return v, true
}

// inside returns an error when path, links followed, is not below root.
func inside(root, path string) error {
	realRoot, err := filepath.EvalSymlinks(root)
	if err != nil {
		return plain(err)
	}
	realPath, err := filepath.EvalSymlinks(path)
	if err != nil {
		return plain(err)
	}
	rel, err := filepath.Rel(realRoot, realPath)
	if err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("%w: %s is a link that leads out of its folder", ErrLayout,
			filepath.Base(path))
	}
	return nil
}

// listed is a file that walk has come by.
type listed struct {
	rel  string // its path below the folder
	link string // where it leads, for a link
	info fs.FileInfo
}

// walk calls f with every file below dir, in the order of their names. Links
// to files count as files.
func walk(dir string, f func(listed) error) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	n := 0
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() && e.Type() != fs.ModeSymlink {
			return err
		}
		if n++; n > maxFiles {
			return fmt.Errorf("%w: more than %d files in one version", ErrLayout, maxFiles)
		}
		var one listed
		if one.rel, err = filepath.Rel(dir, path); err != nil {
			return err
		}
		if e.Type() == fs.ModeSymlink {
			if one.link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if one.info, err = os.Stat(path); err != nil || !one.info.Mode().IsRegular() {
			return nil // a link that leads to no file; who needs the file finds out
		}
		return f(one)
	})
}

// fingerprint sums up names, sizes and times of all files below dir, and adds
// their sizes to total unless that is nil.
func fingerprint(dir string, h hash.Hash, total *int64) error {
	return walk(dir, func(f listed) error {
		if total != nil {
			*total += f.info.Size()
		}
		_, err := fmt.Fprintf(h, "%s\x00%s\x00%d\x00%d\n", f.rel, f.link, f.info.Size(),
			f.info.ModTime().UnixNano())
		return err
	})
}

// look sets the fingerprint and the size.
func (v *VersionDir) look() {
	h := sha256.New()
	if err := fingerprint(v.Dir, h, &v.Bytes); err != nil && v.Fault == nil {
		v.Fault = plain(err)
	}
	v.Fingerprint = hex.EncodeToString(h.Sum(nil)[:16])
}

// Digest returns the SHA-256 over all files below a folder, names included.
func Digest(dir string) (string, error) {
	h := sha256.New()
	err := walk(dir, func(f listed) error {
		_, err := fmt.Fprintf(h, "%s\x00%s\x00%d\x00", f.rel, f.link, f.info.Size())
		if err != nil {
			return err
		}
		file, err := os.Open(filepath.Join(dir, f.rel))
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(h, file)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot read the files: %w", plain(err))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
