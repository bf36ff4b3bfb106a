package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// errUnchanged ends a transaction that has nothing to write.
var errUnchanged = errors.New("unchanged")

// Txn makes the changes of a transaction durable, all or none, and returns the
// revision of the last. Its error is a *ConflictError, or wraps ErrInvalid,
// ErrFull, ErrClosed or ErrFile, or ctx was done before it was its turn.
func (b *Bolt) Txn(ctx context.Context, t Txn) (uint64, error) {
	if err := t.validate(); err != nil {
		return 0, err
	}
	if err := b.lock(ctx); err != nil {
		return 0, err
	}
	defer func() { <-b.writing }()
	var s state
	applied, returned := false, false
	err := guarded(func() error {
		err := b.db.Update(func(tx *bbolt.Tx) error {
			// Here, too: bbolt's answer to a panic is to look for free pages, in a goroutine
			// whose panics nobody could recover from.
			err := guarded(func() (err error) {
				s, err = b.apply(tx, &t)
				return err
			})
			applied = err == nil
			return err
		})
		returned = true
		return err
	})
	if errors.Is(err, errUnchanged) {
		return s.revision, nil
	}
	if err != nil {
		err = b.explain(err)
		if !returned {
			b.broken = err
		}
		if applied {
			b.announce() // It may be on disk nevertheless.
		}
		return 0, err
	}
	b.identity.note(s.revision)
	b.announce()
	return s.revision, nil
}

// lock waits for its turn to write.
func (b *Bolt) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case b.writing <- struct{}{}:
	case <-b.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	err := b.broken
	select {
	case <-b.closing:
		err = ErrClosed
	default:
	}
	if err != nil {
		<-b.writing
	}
	return err
}

// apply makes the changes in the file.
func (b *Bolt) apply(tx *bbolt.Tx, t *Txn) (state, error) {
	s, err := stateOf(tx)
	if err != nil {
		return s, err
	}
	w := writer{
		state:     s,
		resources: tx.Bucket(bucketResources),
		log:       tx.Bucket(bucketLog),
		at:        b.now().UTC().Round(0),
		by:        t.By,
	}
	w.log.FillPercent = 0.9 // revisions come in order
	for _, c := range t.Compare {
		if err := w.compare(c); err != nil {
			return s, err
		}
	}
	for i := range t.Put {
		if err := w.put(&t.Put[i]); err != nil {
			return s, err
		}
	}
	for _, k := range t.Delete {
		if err := w.delete(k); err != nil {
			return s, err
		}
	}
	changes := w.revision - s.revision
	if changes == 0 {
		return s, errUnchanged
	}
	if most := uint64(b.cfg.maxBytes()); w.bytes > most && w.bytes > s.bytes {
		return s, fmt.Errorf("%w: %d bytes of resources, %d are possible; delete some, or raise "+
			"max_size (%d)", ErrFull, w.bytes, most, b.cfg.MaxSize)
	}
	if err := w.trim(b.cfg.History, 2*int(changes)+64); err != nil {
		return s, err
	}
	return w.state, putState(tx, w.state)
}

// writer makes changes.
type writer struct {
	state
	resources, log *bbolt.Bucket
	at             time.Time
	by             Author
}

// present returns a resource as it lies in the file, which is nil where there is
// none, and its parts.
func (w *writer) present(k Key) ([]byte, Resource, error) {
	row := k.rowKey()
	value := w.resources.Get(row)
	if value == nil {
		return nil, Resource{}, nil
	}
	value, err := unseal(row, value)
	if err != nil {
		return nil, Resource{}, err
	}
	r, err := decodeResource(k, value)
	return value, r, err
}

func (w *writer) compare(c Compare) error {
	_, r, err := w.present(c.Key)
	if err == nil && r.Revision != c.Revision {
		err = &ConflictError{c.Key, c.Revision, r.Revision}
	}
	return err
}

func (w *writer) put(r *Resource) error {
	old, before, err := w.present(r.Key)
	if err != nil {
		return err
	}
	after := *r
	after.Revision, after.Created, after.Updated = w.revision+1, w.at, w.at
	if old != nil {
		after.Created = before.Created
	}
	value := appendResource(nil, &after)
	was, is := old, value
	if old != nil && sameSpec(&before, &after) {
		was, is = appendResource(nil, before.bare()), appendResource(nil, after.bare())
	}
	if err := w.append(r.Key, was, is); err != nil {
		return err
	}
	row := r.Key.rowKey()
	w.bytes += uint64(len(row) + len(value))
	if old != nil {
		w.bytes -= uint64(len(row) + len(old))
	}
	return w.resources.Put(row, seal(row, value))
}

func (w *writer) delete(k Key) error {
	old, _, err := w.present(k)
	if err != nil || old == nil {
		return err
	}
	if err := w.append(k, old, nil); err != nil {
		return err
	}
	row := k.rowKey()
	w.bytes -= uint64(len(row) + len(old))
	return w.resources.Delete(row)
}

// append adds a change to the log, under the next revision.
func (w *writer) append(k Key, old, new []byte) error {
	w.revision++
	r := record{at: w.at, kind: []byte(k.Kind), name: []byte(k.Name), who: []byte(w.by.Who),
		from: []byte(w.by.From), old: old, new: new}
	row := logKey(w.revision)
	value := seal(row, r.append(nil))
	w.logCount++
	w.logBytes += uint64(len(value))
	return w.log.Put(row, value)
}

// trim forgets the oldest changes of which there are too many, but not more than
// most at once: so no write gets slow, and a clock that jumps does little harm.
// The latest change stays.
func (w *writer) trim(h History, most int) error {
	c := w.log.Cursor()
	for range most {
		k, v := c.First()
		if k == nil || bytes.Equal(k, logKey(w.revision)) {
			break
		}
		value, err := unseal(k, v)
		if err != nil {
			return err
		}
		r, err := decodeRecord(value)
		if err != nil {
			return err
		}
		if w.logCount <= uint64(h.MaxChanges) && w.logBytes <= uint64(h.MaxBytes) &&
			w.at.Sub(r.at) <= h.MaxAge {
			break
		}
		w.compacted = max(w.compacted, revisionOf(k))
		w.logCount--
		w.logBytes -= uint64(len(v))
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}
