package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Config says where an embedded store lies and how much it keeps.
type Config struct {
	Path    string  `yaml:"path"`     // of the file; made where there was none
	MaxSize int     `yaml:"max_size"` // bytes of the file; somewhat less than half is for resources
	History History `yaml:"history"`
}

// History bounds the log of changes, which is what watches resume from and what
// Audit returns. The oldest changes make room when new ones come.
type History struct {
	MaxChanges int           `yaml:"max_changes"`
	MaxBytes   int           `yaml:"max_bytes"` // of them, as they lie in the file
	MaxAge     time.Duration `yaml:"max_age"`
}

// DefaultConfig has all but the path.
func DefaultConfig() Config {
	return Config{
		MaxSize: 1 << 30,
		History: History{MaxChanges: 100_000, MaxBytes: 256 << 20, MaxAge: 90 * 24 * time.Hour},
	}
}

// spareSize is what bbolt makes the file larger at once, and as much again.
// leastSize has room for some resources, too.
const (
	spareSize = 32 << 20
	leastSize = 2 * spareSize
)

// maxBytes is how large all resources may get. The file is twice as large as
// what is in it: pages are half full at worst, and written elsewhere before they are
// free.
func (c Config) maxBytes() int { return (c.MaxSize-spareSize)/2 - c.History.MaxBytes }

// Validate lists all faults.
func (c Config) Validate() error {
	var faults []error
	if c.Path == "" {
		faults = append(faults, errors.New("path: is missing"))
	}
	if c.History.MaxChanges < 1 {
		faults = append(faults,
			fmt.Errorf("history.max_changes: %d; 1 is the least", c.History.MaxChanges))
	}
	if c.History.MaxBytes < 1 {
		faults = append(faults, fmt.Errorf("history.max_bytes: %d; 1 is the least",
			c.History.MaxBytes))
	}
	if c.History.MaxAge < time.Second {
		faults = append(faults, fmt.Errorf("history.max_age: %v; 1s is the least",
			c.History.MaxAge))
	}
	if least := 2*max(c.History.MaxBytes, 0) + leastSize; c.MaxSize < least {
		faults = append(faults, fmt.Errorf("max_size: %d; with this history %d is the least",
			c.MaxSize, least))
	}
	return errors.Join(faults...)
}

// Bolt is a Store in one file. Close it after use.
type Bolt struct {
	cfg     Config
	id      string
	db      boltFile
	now     func() time.Time
	closing chan struct{}
	once    sync.Once

	writing chan struct{} // holds one token while somebody writes
	// The next are of whoever writes.
	identity *identityFile
	broken   error // bbolt may still hold its locks, so that nobody can write any more

	changed atomic.Pointer[chan struct{}] // closed at the next change
}

var _ Store = (*Bolt)(nil)

// Open opens the store, or makes one where there was none. No other process can
// open it until Close.
func Open(cfg Config) (*Bolt, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	b, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrFile, cfg.Path, err)
	}
	return b, nil
}

func open(cfg Config) (*Bolt, error) {
	if err := prepare(cfg.Path); err != nil {
		return nil, err
	}
	db, err := openWritable(cfg.Path, cfg.MaxSize)
	if err != nil {
		return nil, err
	}
	i, err := db.claim(cfg.Path)
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	file, err := openIdentity(cfg.Path, i)
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	b := &Bolt{
		cfg:      cfg,
		id:       i.id,
		db:       db,
		now:      time.Now,
		closing:  make(chan struct{}),
		writing:  make(chan struct{}, 1),
		identity: file,
	}
	b.announce()
	return b, nil
}

// prepare checks the file, or makes it where there has never been one.
func prepare(path string) error {
	f, err := openChecked(path)
	if err == nil {
		return f.close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch told, err := readIdentity(path); {
	case err == nil:
		return fmt.Errorf("it is gone, and was at revision %d; restore a backup, or remove %s "+
			"to begin anew", told.revision, identityPath(path))
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return create(path)
}

// claim makes sure that a file is the store that was here, brings it to the
// present schema and says which store it is.
func (f boltFile) claim(path string) (i identity, err error) {
	err = guarded(func() error {
		schema := 0
		err := f.View(func(tx *bbolt.Tx) (err error) {
			if schema, err = schemaOf(tx); err != nil {
				return err
			}
			i, err = identityOf(tx)
			return err
		})
		if err == nil {
			err = i.verify(path)
		}
		if err != nil || schema == len(migrations) {
			return err
		}
		return f.Update(upgrade)
	})
	return i, err
}

// Close waits for the transaction that is being written and closes the file.
// Watches end with ErrClosed.
func (b *Bolt) Close() error {
	var err error
	b.once.Do(func() {
		close(b.closing)
		b.writing <- struct{}{} // for good
		err = b.identity.close()
		if b.broken == nil {
			err = errors.Join(err, b.db.close())
		}
	})
	return err
}

// ID names the store: it stays the same in backups and after a restore.
func (b *Bolt) ID() string { return b.id }

// Get returns a resource. The error wraps ErrNotFound if there is none.
func (b *Bolt) Get(ctx context.Context, k Key) (r Resource, err error) {
	var value []byte
	err = b.view(ctx, func(tx *bbolt.Tx) error {
		row := k.rowKey()
		if value = tx.Bucket(bucketResources).Get(row); value == nil {
			return fmt.Errorf("%w: %v", ErrNotFound, k)
		}
		value, err = unseal(row, bytes.Clone(value))
		return err
	})
	if err != nil {
		return Resource{}, err
	}
	return decodeResource(k, value)
}

// List returns the resources of a kind, or of all kinds where it is "", by kind
// and name, and the revision of the store for which that is so.
func (b *Bolt) List(ctx context.Context, kind string) ([]Resource, uint64, error) {
	var all []Resource
	var s state
	err := b.view(ctx, func(tx *bbolt.Tx) (err error) {
		if s, err = stateOf(tx); err != nil {
			return err
		}
		var prefix []byte
		if kind != "" {
			prefix = Key{Kind: kind}.rowKey()
		}
		c := tx.Bucket(bucketResources).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix) && k != nil; k, v = c.Next() {
			value, err := unseal(k, v)
			if err != nil {
				return err
			}
			of, name, _ := bytes.Cut(k, []byte{0})
			if kind != string(of) {
				kind = string(of) // one text for all of a kind
			}
			r, err := decodeResource(Key{kind, string(name)}, bytes.Clone(value))
			if err != nil {
				return err
			}
			all = append(all, r)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return all, s.revision, nil
}

// view reads. f takes copies of what it finds, and is quick: while it runs, no
// page that it may see is used again.
func (b *Bolt) view(ctx context.Context, f func(tx *bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.explain(guarded(func() error { return b.db.View(f) }))
}

// explain makes an error of bbolt's one of ours.
func (b *Bolt) explain(err error) error {
	switch {
	case err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) ||
		errors.Is(err, ErrFull):
		return err
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return ErrClosed
	case errors.Is(err, bolterrors.ErrMaxSizeReached):
		return fmt.Errorf("%w: the file has reached max_size (%d bytes); raise that", ErrFull,
			b.cfg.MaxSize)
	}
	return fmt.Errorf("%w %s: %w", ErrFile, b.cfg.Path, err)
}

// announce tells all who watch that there is something new.
func (b *Bolt) announce() {
	next := make(chan struct{})
	if last := b.changed.Swap(&next); last != nil {
		close(*last)
	}
}

// Stats are the numbers of a store.
type Stats struct {
	Revision  uint64 // of the last change
	Compacted uint64 // changes up to this one are not given to those who watch
	Changes   uint64 // in the log
	LogBytes  uint64 // of them
	Bytes     uint64 // of the resources
	FileBytes int64
	FreeBytes int64 // of the file, for what comes next
}

// Stats returns the numbers now.
func (b *Bolt) Stats() (Stats, error) {
	var s Stats
	err := b.view(context.Background(), func(tx *bbolt.Tx) error {
		st, err := stateOf(tx)
		s.Revision, s.Compacted = st.revision, st.compacted
		s.Changes, s.LogBytes, s.Bytes = st.logCount, st.logBytes, st.bytes
		numbers := b.db.Stats()
		s.FreeBytes = int64(numbers.FreePageN+numbers.PendingPageN) * int64(b.db.Info().PageSize)
		return err
	})
	if err != nil {
		return s, err
	}
	info, err := os.Stat(b.cfg.Path)
	if err != nil {
		return s, b.explain(err)
	}
	s.FileBytes = info.Size()
	return s, nil
}
