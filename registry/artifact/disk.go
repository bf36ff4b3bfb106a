package artifact

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// The names below the store's folder.
const (
	blobsDir     = "blobs/sha256"
	manifestsDir = "manifests"
	partialDir   = "partial"
	tempDir      = "temp"
	pinsFile     = "pins.json"
	lockFile     = "lock"
)

// Modes. Blobs are read-only, since folders made of them are links to them.
const (
	dirMode  = 0o755
	fileMode = 0o600
	blobMode = 0o444
)

func blobPath(digest string) string     { return path.Join(blobsDir, digest[:2], digest) }
func manifestPath(digest string) string { return path.Join(manifestsDir, digest) }
func partialPath(digest string) string  { return path.Join(partialDir, digest) }

// Open opens the store in a folder, or makes one there. What a killed process
// has left unfinished is removed, all but files that were received in part. A
// version whose files are not all there is damaged, and is there to be repaired.
func Open(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("artifact: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, dirMode); err != nil {
		return nil, fmt.Errorf("cannot make the artifact store: %w", err)
	}
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the artifact store: %w", err)
	}
	s := &Store{
		cfg: cfg, root: root,
		versions: make(map[string]*version),
		blobs:    make(map[string]*blob),
		partials: make(map[string]*partial),
		pins:     make(map[string][]string),
	}
	if err := s.takeLock(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the artifact store %s: %w", cfg.Dir, err),
			root.Close())
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot read the artifact store %s: %w", cfg.Dir, err),
			s.Close())
	}
	return s, nil
}

// takeLock makes sure that this is the only process with the store open. The
// kernel gives the lock back when the process ends, however it ends.
func (s *Store) takeLock() (err error) {
	s.lock, err = s.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return err
	}
	err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return errors.Join(err, s.lock.Close())
	}
	return nil
}

// load reads what is on disk.
func (s *Store) load() error {
	if err := s.root.RemoveAll(tempDir); err != nil {
		return err
	}
	for _, dir := range []string{blobsDir, manifestsDir, partialDir, tempDir} {
		if err := s.root.MkdirAll(dir, dirMode); err != nil {
			return err
		}
	}
	for _, dir := range []string{".", path.Dir(blobsDir)} {
		if err := s.syncDir(dir); err != nil {
			return err
		}
	}
	if err := s.loadPins(); err != nil {
		return err
	}
	folders, err := fs.ReadDir(s.root.FS(), blobsDir)
	if err != nil {
		return err
	}
	for _, folder := range folders {
		if !folder.IsDir() {
			continue
		}
		err := s.each(path.Join(blobsDir, folder.Name()), func(digest string, i fs.FileInfo) error {
			s.blobs[digest] = &blob{size: i.Size(), changed: i.ModTime()}
			s.used += i.Size()
			return nil
		})
		if err != nil {
			return err
		}
	}
	err = s.each(partialDir, func(digest string, i fs.FileInfo) error {
		s.partials[digest] = &partial{size: i.Size(), changed: i.ModTime()}
		s.used += i.Size()
		return nil
	})
	if err != nil {
		return err
	}
	return s.each(manifestsDir, s.loadManifest)
}

// each calls f with the regular files of a folder whose names are digests.
func (s *Store) each(dir string, f func(digest string, info fs.FileInfo) error) error {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !ValidDigest(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err == nil {
			err = f(e.Name(), info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxManifest bounds the text of a manifest: mostFiles lines with paths in which
// each byte takes six, and 256 bytes for the rest.
const maxManifest = mostFiles * (6*maxPath + 256)

// loadManifest makes a manifest on disk a version. One that cannot be trusted is
// removed: nothing can be done with it.
func (s *Store) loadManifest(digest string, info fs.FileInfo) error {
	f, err := s.root.Open(manifestPath(digest))
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	m, err := decode(text, digest)
	if err != nil {
		s.cfg.Logger.Error("manifest removed", "digest", digest, "reason", err)
		return s.root.Remove(manifestPath(digest))
	}
	s.addVersion(digest, m, info.ModTime())
	if path := s.missing(m); path != "" {
		s.cfg.Logger.Error("version is damaged", "digest", digest, "file", path)
	}
	return nil
}

// addVersion counts a manifest that is on disk. The caller holds mu.
func (s *Store) addVersion(digest string, m Manifest, used time.Time) {
	s.versions[digest] = &version{manifest: m, used: used}
	for _, f := range m {
		b := s.blobs[f.SHA256]
		if b == nil {
			b = &blob{damaged: true}
			s.blobs[f.SHA256] = b
		}
		b.damaged = b.damaged || b.size != f.Size
		b.refs++
	}
}

func (s *Store) loadPins() error {
	text, err := s.root.ReadFile(pinsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s.pins)
	}
	if err == nil && s.pins == nil {
		err = errors.New("null")
	}
	if err != nil {
		return fmt.Errorf("%w: %s says which versions must stay and cannot be read; "+
			"restore it, or remove it to keep none: %w", ErrDamaged, pinsFile, err)
	}
	return nil
}

// replace writes a file of the store's folder: whenever it is interrupted, the
// file holds what it held before or data, and once it has returned nil the latter.
func (s *Store) replace(name string, data []byte) error {
	f, temp, err := s.createTemp()
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, s.root.Remove(temp))
	}
	return s.syncDir(path.Dir(name))
}

// createTemp makes an empty file that the next Open removes.
func (s *Store) createTemp() (*os.File, string, error) {
	name := path.Join(tempDir, rand.Text())
	f, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	return f, name, err
}

// syncDir makes the names in a folder last.
func (s *Store) syncDir(dir string) error { return syncDir(s.root, dir) }

func syncDir(root *os.Root, dir string) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
