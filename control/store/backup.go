package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// Backup writes a copy of the store as it is at one revision. It is a file that
// Restore takes. The copy is made beside the store first, so that a slow w holds
// nothing of the store.
func (b *Bolt) Backup(ctx context.Context, w io.Writer) error {
	file, err := os.CreateTemp(filepath.Dir(b.cfg.Path), filepath.Base(b.cfg.Path)+".backup-*")
	if err != nil {
		return b.explain(err)
	}
	defer file.Close()
	// Without a name it is gone whatever becomes of this process.
	if err := os.Remove(file.Name()); err != nil {
		return b.explain(err)
	}
	err = b.view(ctx, func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(file)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return b.explain(err)
	}
	if _, err := io.Copy(contextWriter{ctx, w}, file); err != nil {
		return fmt.Errorf("store: cannot write the backup: %w", err)
	}
	return nil
}

// contextWriter writes until ctx is done.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(b)
}

// Restore puts a backup in the place of a store that no process uses, or of
// none. The backup is checked first, and the store is replaced in one step: after
// an error the old one is still there. The restored store goes on at a revision
// that neither had, as far as the file beside the store tells, so that whoever has
// seen a later one than the backup's finds out; its audit log says who restored it.
func Restore(backup, path string, by Author) error {
	if err := by.validate(); err != nil {
		return err
	}
	err := rewrite(backup, path, func(tx *bbolt.Tx) error {
		s, err := stateOf(tx)
		if err != nil {
			return err
		}
		// Whatever the old one was, or why it cannot be read: this is at its place.
		if told, err := readIdentity(path); err == nil {
			s.revision = max(s.revision, told.revision)
		}
		w := writer{state: s, log: tx.Bucket(bucketLog), at: time.Now().UTC().Round(0), by: by}
		if err := w.append(Key{}, nil, nil); err != nil {
			return err
		}
		w.compacted = w.revision
		return putState(tx, w.state)
	})
	if err != nil {
		return fmt.Errorf("store: cannot restore %s from %s: %w", path, backup, err)
	}
	return nil
}

// Compact rewrites a store that no process uses, so that it takes no more space
// than it needs. The file is replaced in one step.
func Compact(path string) error {
	err := rewrite(path, path, func(tx *bbolt.Tx) error {
		i, err := identityOf(tx)
		if err != nil {
			return err
		}
		return i.verify(path)
	})
	if err != nil {
		return fmt.Errorf("store: cannot compact %s: %w", path, err)
	}
	return nil
}

// compactBytes is how much is copied in one transaction.
const compactBytes = 16 << 20

// rewrite copies a store, has the copy finished, and puts it at a path.
func rewrite(from, path string, finish func(tx *bbolt.Tx) error) error {
	unlock, err := lockOut(path)
	if err != nil {
		return err
	}
	defer unlock()
	source, err := openChecked(from)
	if err != nil {
		return err
	}
	defer source.close()
	temp, err := tempBolt(path)
	if err != nil {
		return err
	}
	defer os.Remove(temp.file.Name())
	var i identity
	err = guarded(func() error {
		if err := bbolt.Compact(temp.DB, source.DB, compactBytes); err != nil {
			return err
		}
		return temp.Update(func(tx *bbolt.Tx) (err error) {
			if err := upgrade(tx); err != nil {
				return err
			}
			if err := finish(tx); err != nil {
				return err
			}
			i, err = identityOf(tx)
			return err
		})
	})
	if err := errors.Join(err, temp.close()); err != nil {
		return err
	}
	if err := os.Rename(temp.file.Name(), path); err != nil {
		return err
	}
	if err := syncDir(path); err != nil {
		return err
	}
	// Should it be cut off here: the revision is not lower than the one that is there.
	return i.replace(path)
}

// lockOut makes sure that no process uses the file at a path as a store until
// unlock. There may be none, and it may be damaged.
func lockOut(path string) (unlock func(), err error) {
	if info, err := os.Stat(path); err == nil && info.Size() == 0 {
		return func() {}, nil
	}
	f, err := openBolt(path, &bbolt.Options{ReadOnly: true})
	switch {
	case err == nil:
		return func() { f.close() }, nil
	case errors.Is(err, errDamaged), errors.Is(err, fs.ErrNotExist):
		return func() {}, nil
	}
	return nil, err
}
