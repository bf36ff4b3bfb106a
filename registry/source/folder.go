package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/millrace-ml/millrace/registry/artifact"
)

// FolderConfig says which folder is meant.
type FolderConfig struct {
	Path string `yaml:"path"` // MODEL/VERSION/files lie below it
}

// DefaultFolderConfig has all but the path.
func DefaultFolderConfig() FolderConfig { return FolderConfig{} }

// Validate lists all faults.
func (c FolderConfig) Validate() error {
	if !filepath.IsAbs(c.Path) {
		return fmt.Errorf("path: %q; has to be absolute", c.Path)
	}
	return nil
}

// Folder is a folder of this machine, or one mounted there, with MODEL/VERSION/files
// below it. A version is pending until two looks have seen the same files.
type Folder struct{ shelf }

// NewFolder opens the folder, which has to be there.
func NewFolder(cfg FolderConfig, store *artifact.Store) (*Folder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the folder: %w", err)
	}
	t, err := openDisk(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot use the folder: %w", err)
	}
	return &Folder{newShelf(t, store)}, nil
}

// disk is a tree of a file system. Links lead to files below it or nowhere.
type disk struct{ root *os.Root }

func openDisk(path string) (disk, error) {
	root, err := os.OpenRoot(path)
	return disk{root}, err
}

func (d disk) Close() error { return d.root.Close() }

func (d disk) list(ctx context.Context, dir string) ([]object, error) {
	var objects []object
	files := d.root.FS()
	err := fs.WalkDir(files, dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil // it has gone since its folder was read, or never was
		case err != nil:
			return err
		case path != dir && e.IsDir() && strings.HasPrefix(e.Name(), "."):
			return fs.SkipDir
		case e.IsDir():
			return nil
		case len(objects) == maxObjects:
			return fmt.Errorf("%w: %s has more than %d files", artifact.ErrTooLarge, dir,
				maxObjects)
		}
		o := d.object(path)
		o.path = strings.TrimPrefix(path, dir+"/")
		objects = append(objects, o)
		return nil
	})
	return objects, err
}

// object looks at a file, through a link if it is one.
func (d disk) object(path string) object {
	info, err := d.root.Stat(path)
	switch {
	case err != nil:
		return object{fault: "cannot be read, or is a link that leads out of the folder"}
	case !info.Mode().IsRegular():
		return object{fault: "is neither a file nor a folder"}
	}
	return object{size: info.Size(), modified: info.ModTime()}
}

func (d disk) open(_ context.Context, dir string, o object) (io.ReadCloser, error) {
	// A pipe that has taken the file's place would block without O_NONBLOCK.
	f, err := d.root.OpenFile(dir+"/"+o.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChanged, err)
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != o.size ||
		!info.ModTime().Equal(o.modified) {
		return nil, errors.Join(ErrChanged, err, f.Close())
	}
	return f, nil
}
