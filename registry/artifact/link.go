package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Materialize makes a folder of a version's files. It appears whole, by a rename;
// a folder that already holds just these files is left as it is, and any other
// is an error that wraps fs.ErrExist. The files are read-only links to the
// store's where the file system can do that, else copies, which share the disk's
// blocks where it can do that. They stay when the version leaves the store.
func (s *Store) Materialize(ctx context.Context, digest, dir string) error {
	v, release, err := s.hold(digest)
	if err != nil {
		return err
	}
	defer release()
	s.mu.Lock()
	damaged := s.missing(v.manifest)
	s.touch(digest)
	s.mu.Unlock()
	if damaged != "" {
		return fmt.Errorf("%w: file %q of version %s; ingest it again", ErrDamaged, damaged, digest)
	}
	s.linking.Lock()
	defer s.linking.Unlock()
	if err := s.materialize(ctx, v.manifest, filepath.Clean(dir)); err != nil {
		return fmt.Errorf("cannot make the folder of version %s: %w", digest, err)
	}
	return nil
}

func (s *Store) materialize(ctx context.Context, m Manifest, dir string) error {
	parent, name := filepath.Split(dir)
	if err := os.MkdirAll(filepath.Clean(parent), dirMode); err != nil {
		return err
	}
	out, err := os.OpenRoot(filepath.Clean(parent))
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.Lstat(name); err == nil {
		return holds(ctx, out, name, m)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The name is always the same, so that what a killed process has left is removed.
	temp := "." + name + ".new"
	if err := out.RemoveAll(temp); err != nil {
		return err
	}
	if err = s.fill(ctx, out, temp, m); err == nil {
		err = out.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, out.RemoveAll(temp))
	}
	return syncDir(out, ".")
}

// fill makes a folder with the files of a version.
func (s *Store) fill(ctx context.Context, out *os.Root, dir string, m Manifest) error {
	dirs := map[string]bool{dir: true}
	if err := out.Mkdir(dir, dirMode); err != nil {
		return err
	}
	for _, f := range m {
		if err := ctx.Err(); err != nil {
			return err
		}
		target := path.Join(dir, f.Path)
		if parent := path.Dir(target); !dirs[parent] {
			if err := out.MkdirAll(parent, dirMode); err != nil {
				return err
			}
			for ; !dirs[parent]; parent = path.Dir(parent) {
				dirs[parent] = true
			}
		}
		if err := s.link(out, f, target); err != nil {
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
	}
	for dir := range dirs {
		if err := syncDir(out, dir); err != nil {
			return err
		}
	}
	return nil
}

// cannotLink are the reasons for a copy in place of a link.
var cannotLink = []error{unix.EXDEV, unix.EPERM, unix.EMLINK, unix.EOPNOTSUPP, unix.ENOSYS}

// link makes target a file with the content of f: by its folders, which the two
// roots have opened, so that no link on the way is followed.
func (s *Store) link(out *os.Root, f File, target string) error {
	source := blobPath(f.SHA256)
	from, err := s.root.Open(path.Dir(source))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := out.Open(path.Dir(target))
	if err != nil {
		return err
	}
	defer to.Close()
	err = unix.Linkat(int(from.Fd()), path.Base(source), int(to.Fd()), path.Base(target), 0)
	if slices.ContainsFunc(cannotLink, func(e error) bool { return errors.Is(err, e) }) {
		return s.copyTo(out, f, target)
	}
	return err
}

// copyTo copies a file. Where the kernel can copy it does, and then the file
// system may share the blocks.
func (s *Store) copyTo(out *os.Root, f File, target string) error {
	from, err := s.root.Open(blobPath(f.SHA256))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := out.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, blobMode)
	if err != nil {
		return err
	}
	n, err := io.Copy(to, from)
	if err == nil && n != f.Size {
		err = fmt.Errorf("%w: it has %d bytes, not %d", ErrDamaged, n, f.Size)
	}
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// holds returns nil when a folder holds just the files of a version.
func holds(ctx context.Context, out *os.Root, dir string, m Manifest) error {
	exists := fmt.Errorf("%s holds other files: %w", dir, fs.ErrExist)
	sub, err := out.OpenRoot(dir)
	if err != nil {
		return exists
	}
	defer sub.Close()
	seen := 0
	err = fs.WalkDir(sub.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		i, found := m.find(name)
		if !found || !e.Type().IsRegular() {
			return exists
		}
		seen++
		digest, size, err := hashFile(ctx, sub, name)
		if err == nil && (digest != m[i].SHA256 || size != m[i].Size) {
			err = exists
		}
		return err
	})
	if err == nil && seen != len(m) {
		err = exists
	}
	return err
}

// hashFile returns the digest and the size of a file as it is on disk.
func hashFile(ctx context.Context, root *os.Root, name string) (string, int64, error) {
	f, err := root.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	buffer := make([]byte, bufferSize)
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return "", 0, err
		}
		n, err := f.Read(buffer)
		h.Write(buffer[:n])
		size += int64(n)
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), size, nil
		}
		if err != nil {
			return "", 0, err
		}
	}
}

// Verify reads all files of a version and returns an error that wraps ErrDamaged
// and names those that are not what they were. A version with such files is not
// materialized any more until it is ingested again, which replaces them; folders
// made before keep the files they have.
func (s *Store) Verify(ctx context.Context, digest string) error {
	v, release, err := s.hold(digest)
	if err != nil {
		return err
	}
	defer release()
	var faults []error
	for _, f := range v.manifest {
		got, size, err := hashFile(ctx, s.root, blobPath(f.SHA256))
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("cannot verify version %s: %w", digest, ctx.Err())
		case err == nil && (got != f.SHA256 || size != f.Size):
			err = fmt.Errorf("its %d bytes have the digest %s, not %s", size, got, f.SHA256)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%w: file %q of version %s: %w", ErrDamaged, f.Path,
				digest, err))
		}
		s.mu.Lock()
		s.blobs[f.SHA256].damaged = err != nil
		s.mu.Unlock()
	}
	return errors.Join(faults...)
}
