// Package artifact keeps the files of model versions, addressed by their content.
//
// A version is a [Manifest]: the sorted list of its files with their sizes and
// SHA-256 sums. The SHA-256 of the manifest's text is the version's digest and
// its name in the [Store]. A file that several versions have is kept once.
//
// [Store.Ingest] takes a version in. It appears when all its files are on disk
// and verified, and not at all when anything fails or the process is killed.
// What was received of a file whose digest was known beforehand stays, so that
// the next attempt can go on there. [Store.Materialize] makes a folder of a
// version's files for others to read. What is pinned stays; other versions leave
// by age, or when room is needed, the one first that was not used for longest.
//
// Below the store's folder lie
//
//	blobs/sha256/ab/abcdef...  the files, by digest
//	manifests/abcdef...        the manifests, by digest; their time is that of the last use
//	partial/abcdef...          files that were received in part
//	temp/                      files being received; emptied by Open
//	pins.json                  who needs which version
//	lock                       held by the one process that has the store open
//
// All methods of a Store may be called concurrently; a Writer belongs to one
// goroutine. The package fetches nothing and knows no names of models.
package artifact

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

var (
	// ErrInvalid is wrapped by errors about paths, digests and sizes that cannot be.
	ErrInvalid = errors.New("artifact: invalid")
	// ErrTooLarge is wrapped when a file or the number of files is beyond the Config.
	ErrTooLarge = errors.New("artifact: too large")
	// ErrMismatch is wrapped when a file is not what its size or digest promised.
	ErrMismatch = errors.New("artifact: not the promised content")
	// ErrFull is wrapped by a FullError.
	ErrFull = errors.New("artifact: the store is full")
	// ErrNotFound is wrapped when the store has no such version or file.
	ErrNotFound = errors.New("artifact: not found")
	// ErrDamaged is wrapped when files of a version are missing or have changed on disk.
	ErrDamaged = errors.New("artifact: damaged")
	// ErrLocked is wrapped by Open when another process has the store open.
	ErrLocked = errors.New("artifact: another process has the store open")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("artifact: closed")
)

// FullError says why there is no room. It wraps ErrFull.
type FullError struct {
	Need   int64 // bytes that were to be added
	Used   int64 // bytes that are in the store, after all that may leave has left
	Pinned int64 // of these, bytes of pinned versions
	Max    int64 // Config.MaxBytes
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%v: %d bytes more are needed, %d of %d are in use, %d of them pinned; "+
		"raise max_bytes or unpin versions", ErrFull, e.Need, e.Used, e.Max, e.Pinned)
}

func (e *FullError) Unwrap() error { return ErrFull }

// Config says where a store is and what it may hold.
type Config struct {
	Dir          string        `yaml:"dir"`            // made where it is not there
	MaxBytes     int64         `yaml:"max_bytes"`      // of all files together
	MaxFiles     int           `yaml:"max_files"`      // of one version
	MaxFileBytes int64         `yaml:"max_file_bytes"` // of one file
	KeepUnused   time.Duration `yaml:"keep_unused"`    // versions that are not pinned
	KeepPartial  time.Duration `yaml:"keep_partial"`   // files that were received in part
	Logger       *slog.Logger  `yaml:"-"`              // told of what Open finds damaged
}

// DefaultConfig has all but the folder.
func DefaultConfig() Config {
	return Config{
		MaxBytes:     100 << 30,
		MaxFiles:     1000,
		MaxFileBytes: 20 << 30,
		KeepUnused:   14 * 24 * time.Hour,
		KeepPartial:  24 * time.Hour,
		Logger:       slog.New(slog.DiscardHandler),
	}
}

// mostFiles bounds Config.MaxFiles, and so what a manifest takes in memory.
const mostFiles = 10_000

// Validate lists all faults.
func (c Config) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(c.Dir != "", "dir: is missing")
	check(c.MaxBytes > 0, "max_bytes: %d; must be positive", c.MaxBytes)
	check(c.MaxFiles > 0 && c.MaxFiles <= mostFiles,
		"max_files: %d; 1 to %d are allowed", c.MaxFiles, mostFiles)
	check(c.MaxFileBytes > 0, "max_file_bytes: %d; must be positive", c.MaxFileBytes)
	check(c.KeepUnused >= 0, "keep_unused: %v; must not be negative", c.KeepUnused)
	check(c.KeepPartial >= 0, "keep_partial: %v; must not be negative", c.KeepPartial)
	check(c.Logger != nil, "a logger is missing")
	return errors.Join(faults...)
}

// Store is an open store. Close it after use.
type Store struct {
	cfg  Config
	root *os.Root
	lock *os.File
	wait sync.WaitGroup // operations that use the folder outside of mu

	linking sync.Mutex // one Materialize at a time

	mu       sync.Mutex
	closed   bool                // Guarded by mu, as all below.
	versions map[string]*version // by digest
	blobs    map[string]*blob    // by digest
	partials map[string]*partial // by digest
	pins     map[string][]string // who needs a version, by digest; sorted
	used     int64               // bytes of blobs, partials and files being received
}

// version is a manifest on disk.
type version struct {
	manifest Manifest
	used     time.Time
	holds    int // operations that read its files
}

// blob is a file on disk.
type blob struct {
	size    int64     // on disk
	changed time.Time // when it was received
	refs    int       // files of versions
	holds   int       // writers that want it for their version
	damaged bool      // missing, of another size, or known to have another digest
}

// partial is a file that was received in part, or is being received.
type partial struct {
	size    int64
	changed time.Time
	claimed bool // by a writer
}

// Version says what the store knows of a version.
type Version struct {
	Digest  string    `json:"digest"`
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"` // of its files; versions may share them
	Used    time.Time `json:"used"`  // ingested, pinned or materialized, whichever was last
	Pins    []string  `json:"pins,omitempty"`
	Damaged bool      `json:"damaged,omitempty"` // ingest it again to repair it
}

// Close waits for operations that are under way and gives the folder back.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.wait.Wait()
	return errors.Join(s.lock.Close(), s.root.Close())
}

// enter begins an operation; unless it returns an error, s.wait.Done ends it.
func (s *Store) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.wait.Add(1)
	return nil
}

// List returns all versions, the one first that was not used for longest.
func (s *Store) List() []Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Version, 0, len(s.versions))
	for digest, v := range s.versions {
		list = append(list, Version{
			Digest:  digest,
			Files:   len(v.manifest),
			Bytes:   v.manifest.Bytes(),
			Used:    v.used,
			Pins:    slices.Clone(s.pins[digest]),
			Damaged: s.missing(v.manifest) != "",
		})
	}
	slices.SortFunc(list, func(a, b Version) int {
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(a.Digest, b.Digest))
	})
	return list
}

// Used returns how many bytes the store takes, files that were received in part
// or are being received included.
func (s *Store) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// Manifest returns the files of a version. Do not change them.
func (s *Store) Manifest(digest string) (Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.versions[digest]
	if v == nil {
		return nil, fmt.Errorf("%w: version %.64q", ErrNotFound, digest)
	}
	return v.manifest, nil
}

// OpenFile opens one file of a version for reading. The caller closes it; until
// then it can be read, even if the version leaves the store.
func (s *Store) OpenFile(digest, path string) (*os.File, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.wait.Done()
	m, err := s.Manifest(digest)
	if err != nil {
		return nil, err
	}
	i, found := m.find(path)
	if !found {
		return nil, fmt.Errorf("%w: version %s has no file %.256q", ErrNotFound, digest, path)
	}
	f, err := s.root.Open(blobPath(m[i].SHA256))
	if err != nil {
		return nil, fmt.Errorf("cannot open %q of version %s: %w", path, digest, err)
	}
	return f, nil
}

// hold returns a version whose files stay until release is called.
func (s *Store) hold(digest string) (v *version, release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, ErrClosed
	}
	v = s.versions[digest]
	if v == nil {
		return nil, nil, fmt.Errorf("%w: version %.64q", ErrNotFound, digest)
	}
	v.holds++
	s.wait.Add(1)
	return v, func() {
		s.mu.Lock()
		v.holds--
		s.mu.Unlock()
		s.wait.Done()
	}, nil
}

// missing returns the path of a file that is known to be missing or damaged.
// The caller holds mu.
func (s *Store) missing(m Manifest) string {
	for _, f := range m {
		if b := s.blobs[f.SHA256]; b == nil || b.damaged {
			return f.Path
		}
	}
	return ""
}
