package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"
)

// How much Watch reads from the file at once.
const (
	watchChanges = 256
	watchBytes   = 1 << 20
)

// Watch gives each change after a revision once, in order, and waits for the
// next, until ctx is done, the store is closed or an error ends it, which is the
// last it gives. A change of a status alone is left out where the resource has
// changed since. Between two of them nothing of the file is held: who is slow
// delays nobody, but may find changes gone (ErrCompacted).
func (b *Bolt) Watch(ctx context.Context, from uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			changed := *b.changed.Load() // before reading, so that no change is missed
			events, read, err := b.after(ctx, from)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
			}
			if read > from {
				from = read
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(Event{}, ctx.Err())
				return
			case <-b.closing:
				yield(Event{}, ErrClosed)
				return
			}
		}
	}
}

// after reads some of the changes after a revision, and returns the last that it has read.
func (b *Bolt) after(ctx context.Context, from uint64) (events []Event, read uint64, err error) {
	var s state
	read = from
	err = b.view(ctx, func(tx *bbolt.Tx) (err error) {
		if s, err = stateOf(tx); err != nil || from < s.compacted {
			return err
		}
		size := 0
		c := tx.Bucket(bucketLog).Cursor()
		for k, v := c.Seek(logKey(from + 1)); k != nil; k, v = c.Next() {
			if read-from == watchChanges || size >= watchBytes {
				break
			}
			ch, err := decodeChange(k, v)
			if err != nil {
				return err
			}
			now := ch.New
			if ch.StatusOnly() {
				if now, err = unchanged(tx, ch.New); err != nil {
					return err
				}
			}
			if now != nil || ch.New == nil {
				events = append(events, Event{ch.Revision, ch.Key, now})
			}
			read = ch.Revision
			size += len(v)
			if now != nil {
				size += len(now.Status)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, from, err
	case from < s.compacted:
		return nil, from, fmt.Errorf("%w: %d; they are kept since %d", ErrCompacted, from,
			s.compacted)
	case from > s.revision:
		return nil, from, fmt.Errorf("%w: %d; the store is at %d", ErrCompacted, from, s.revision)
	}
	return events, read, nil
}

// unchanged returns a resource with spec and status; nil where it has changed since, or is gone.
func unchanged(tx *bbolt.Tx, r *Resource) (*Resource, error) {
	row := r.Key.rowKey()
	value := tx.Bucket(bucketResources).Get(row)
	if value == nil {
		return nil, nil
	}
	value, err := unseal(row, bytes.Clone(value))
	if err != nil {
		return nil, err
	}
	now, err := decodeResource(r.Key, value)
	if err != nil || now.Revision != r.Revision {
		return nil, err
	}
	return &now, nil
}

// The bounds of a page of changes.
const (
	defaultPage = 100
	maxPage     = 1000
	auditRead   = 1000 // changes that are looked at in one transaction of the file
)

// Audit returns changes, the latest first. There may be more of them if it
// returns as many as were asked for.
func (b *Bolt) Audit(ctx context.Context, q Query) ([]Change, error) {
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	q.Limit = min(q.Limit, maxPage)
	if q.Before == 0 {
		q.Before = 1<<64 - 1
	}
	var page []Change
	for more := true; more; {
		err := b.view(ctx, func(tx *bbolt.Tx) (err error) {
			page, more, err = q.read(tx, page)
			return err
		})
		if err != nil {
			return nil, err
		}
		if more {
			more = len(page) < q.Limit
		}
	}
	return page, nil
}

// read looks at the next changes and adds those that match to the page. It moves
// Before on. more says whether there are changes left.
func (q *Query) read(tx *bbolt.Tx, page []Change) (_ []Change, more bool, err error) {
	c := tx.Bucket(bucketLog).Cursor()
	move := c.Prev
	if k, _ := c.Seek(logKey(q.Before)); k == nil {
		move = c.Last
	}
	k, v := move()
	for range auditRead {
		if k == nil || len(page) == q.Limit {
			return page, false, nil
		}
		q.Before = revisionOf(k)
		value, err := unseal(k, v)
		if err != nil {
			return page, false, err
		}
		r, err := decodeRecord(value)
		if err != nil {
			return page, false, err
		}
		if q.matches(&r) {
			ch, err := decodeChange(k, v)
			if err != nil {
				return page, false, err
			}
			if !q.Quiet || ch.By.From != Self || !ch.StatusOnly() {
				page = append(page, ch)
			}
		}
		k, v = c.Prev()
	}
	return page, k != nil, nil
}

func (q *Query) matches(r *record) bool {
	return (q.Kind == "" || q.Kind == string(r.kind)) &&
		(q.Name == "" || q.Name == string(r.name)) && (q.Who == "" || q.Who == string(r.who))
}

func revisionOf(k []byte) uint64 { return binary.BigEndian.Uint64(k) }

// decodeChange copies a change out of the log.
func decodeChange(k, v []byte) (Change, error) {
	value, err := unseal(k, v)
	if err != nil {
		return Change{}, err
	}
	r, err := decodeRecord(bytes.Clone(value))
	if err != nil {
		return Change{}, err
	}
	ch := Change{
		Revision: revisionOf(k),
		Time:     r.at,
		By:       Author{string(r.who), string(r.from)},
		Key:      Key{string(r.kind), string(r.name)},
	}
	if ch.Old, err = resourceOrNil(ch.Key, r.old); err != nil {
		return ch, err
	}
	ch.New, err = resourceOrNil(ch.Key, r.new)
	return ch, err
}

func resourceOrNil(k Key, b []byte) (*Resource, error) {
	if b == nil {
		return nil, nil
	}
	r, err := decodeResource(k, b)
	return &r, err
}
