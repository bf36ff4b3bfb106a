// Package store keeps the resources of the control plane.
//
// A [Resource] is what a person wants (spec) and what millrace found (status)
// under a [Key]. A [Store] changes resources in transactions, numbers the
// changes, and gives them in order to whoever watches. [Open] returns the
// embedded store, a [Bolt], which is one file: the resources and a log of the
// changes, which is both the history for those who watch and the audit log.
//
// A transaction that was acknowledged is on disk. Everything may be called
// concurrently; what is returned is the caller's, and what is handed over is
// not kept. The file belongs to one process. A file that is blank, damaged, cut
// short, older than what was acknowledged, or somebody else's is refused: a
// store never starts empty where there was one.
//
// Who may change what, and what a spec means, is decided elsewhere.
package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode/utf8"
)

// The bounds of what a store takes.
const (
	MaxName     = 512     // bytes of a name
	MaxResource = 1 << 20 // bytes of spec and status together
	MaxChanges  = 10_000  // puts and deletions of one transaction
	MaxTxn      = 1 << 24 // bytes of all specs and statuses that one transaction puts
	maxKind     = 64      // bytes of a kind
	maxLabel    = 1 << 10 // bytes of an owner, of who and of from
)

var (
	// ErrNotFound is wrapped by what Get returns when there is no such resource.
	ErrNotFound = errors.New("store: not found")
	// ErrConflict is wrapped by a ConflictError.
	ErrConflict = errors.New("store: conflict")
	// ErrInvalid is wrapped by what Txn returns for a transaction that cannot be.
	ErrInvalid = errors.New("store: invalid")
	// ErrCompacted is wrapped by what Watch gives when changes since the revision
	// are not known any more: list again, and watch from there.
	ErrCompacted = errors.New("store: changes since that revision are not kept")
	// ErrClosed is returned once the store is closed.
	ErrClosed = errors.New("store: closed")
	// ErrFull is wrapped by what Txn returns when it would make the resources larger
	// than the store may get. What makes them smaller is still possible.
	ErrFull = errors.New("store: full")
	// ErrFile is wrapped by what is returned when the file cannot be used, or not
	// be written. After such an error of Txn all of the transaction is there, or
	// nothing: Get tells.
	ErrFile = errors.New("store: cannot use the file")
)

// Key names a resource.
type Key struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

func (k Key) String() string { return k.Kind + " " + k.Name }

// Resource is one thing that the control plane knows.
type Resource struct {
	Key
	Revision uint64          `json:"revision"` // of its last change; set by the store
	Created  time.Time       `json:"created"`  // set by the store
	Updated  time.Time       `json:"updated"`  // set by the store
	Owner    string          `json:"owner"`    // who may change it: "file" or "api"
	Spec     json.RawMessage `json:"spec,omitempty"`
	Status   json.RawMessage `json:"status,omitempty"`
}

// Author says who makes a change.
type Author struct {
	Who  string `json:"who"`  // a user, or a part of millrace
	From string `json:"from"` // an address, a file, or Self
}

// Self is where the changes come from that millrace makes by itself.
const Self = "millrace"

// Compare is a condition of a transaction.
type Compare struct {
	Key
	Revision uint64 // that the resource has; 0: there is none
}

// Txn is a transaction: if all of Compare holds, all of Put and Delete is done,
// else nothing. A key may occur once among Put and Delete. Each put is a change,
// also one that is equal to what was there; to delete what is not there is none.
type Txn struct {
	Compare []Compare
	Put     []Resource // Revision, Created and Updated do not matter
	Delete  []Key
	By      Author
}

// Event is a change.
type Event struct {
	Revision uint64 `json:"revision"`
	Key
	Resource *Resource `json:"resource"` // nil: it was deleted
}

// Change is an Event with all that the audit log knows of it. Of one of the status alone that is
// not what the resource was and became: rollouts save their counts, kilobytes each minute, and
// what people change is not to make room for that.
type Change struct {
	Revision uint64    `json:"revision"`
	Time     time.Time `json:"time"`
	By       Author    `json:"by"`
	Key                // zero where the whole store was restored
	Old      *Resource `json:"old"` // nil: it was made
	New      *Resource `json:"new"` // nil: it was deleted
}

// StatusOnly says whether spec and owner are as they were. Then neither Old nor New has a spec or
// a status, unless an earlier millrace wrote them.
func (c *Change) StatusOnly() bool {
	return c.Old != nil && c.New != nil && sameSpec(c.Old, c.New)
}

func sameSpec(a, b *Resource) bool { return a.Owner == b.Owner && bytes.Equal(a.Spec, b.Spec) }

// bare is a resource without spec and status.
func (r *Resource) bare() *Resource {
	return &Resource{Key: r.Key, Revision: r.Revision, Created: r.Created, Updated: r.Updated,
		Owner: r.Owner}
}

// Query picks changes from the audit log. What is zero does not matter.
type Query struct {
	Kind, Name, Who string
	Quiet           bool   // leave out changes of a status alone by Self
	Before          uint64 // only changes of lower revisions: the last of the page before
	Limit           int    // how many at most; 100 where it is 0, and never more than 1000
}

// Reader is the side of a store that changes nothing.
type Reader interface {
	// Get returns a resource.
	Get(ctx context.Context, k Key) (Resource, error)
	// List returns the resources of a kind, or of all kinds where it is "", by
	// kind and name, and the revision of the store for which that is so.
	List(ctx context.Context, kind string) ([]Resource, uint64, error)
	// Audit returns changes, the latest first.
	Audit(ctx context.Context, q Query) ([]Change, error)
}

// Store keeps resources. Revisions count changes: they grow by one from change
// to change and are never used twice.
type Store interface {
	Reader
	// Txn makes changes and returns the revision of the last: puts come first, in
	// their order. Without a change it is the revision of the store.
	Txn(ctx context.Context, t Txn) (revision uint64, err error)
	// Watch gives each change after a revision once, in order, and waits for the
	// next, until ctx is done or an error ends it, which is the last it gives. A
	// change of a status alone is left out where the resource has changed since.
	// Whoever is slow delays nobody, but may find changes gone (ErrCompacted).
	Watch(ctx context.Context, from uint64) iter.Seq2[Event, error]
}

// ConflictError is returned by Txn when a Compare does not hold.
type ConflictError struct {
	Key     Key
	Want    uint64 // of the Compare
	Present uint64 // revision of the resource; 0: there is none
}

func (e *ConflictError) Error() string {
	switch {
	case e.Want == 0:
		return fmt.Sprintf("%v: %v is there already, at revision %d", ErrConflict, e.Key, e.Present)
	case e.Present == 0:
		return fmt.Sprintf("%v: %v was deleted since revision %d", ErrConflict, e.Key, e.Want)
	}
	return fmt.Sprintf("%v: %v is at revision %d, not %d", ErrConflict, e.Key, e.Present, e.Want)
}

// Unwrap returns ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// validate says what is wrong with a transaction.
func (t *Txn) validate() error {
	if n := len(t.Put) + len(t.Delete); n > MaxChanges {
		return fmt.Errorf("%w: %d changes; %d are allowed", ErrInvalid, n, MaxChanges)
	}
	if err := t.By.validate(); err != nil {
		return err
	}
	for _, c := range t.Compare {
		if err := c.Key.validate(); err != nil {
			return err
		}
	}
	seen := make(map[Key]bool, len(t.Put)+len(t.Delete))
	once := func(k Key) error {
		if seen[k] {
			return fmt.Errorf("%w: %v occurs twice", ErrInvalid, k)
		}
		seen[k] = true
		return k.validate()
	}
	size := 0
	for i := range t.Put {
		if err := errors.Join(once(t.Put[i].Key), t.Put[i].validate()); err != nil {
			return err
		}
		size += len(t.Put[i].Spec) + len(t.Put[i].Status)
	}
	if size > MaxTxn {
		return fmt.Errorf("%w: %d bytes; %d are allowed", ErrInvalid, size, MaxTxn)
	}
	for _, k := range t.Delete {
		if err := once(k); err != nil {
			return err
		}
	}
	return nil
}

func (a Author) validate() error {
	if a.Who == "" || !isLabel(a.Who) || !isLabel(a.From) {
		return fmt.Errorf("%w: who makes the change is missing, too long, or no UTF-8", ErrInvalid)
	}
	return nil
}

func isLabel(s string) bool { return len(s) <= maxLabel && utf8.ValidString(s) }

func (k Key) validate() error {
	switch {
	case k.Kind == "" || len(k.Kind) > maxKind:
		return fmt.Errorf("%w: a kind of %d bytes; 1 to %d are allowed", ErrInvalid, len(k.Kind),
			maxKind)
	case k.Name == "" || len(k.Name) > MaxName:
		return fmt.Errorf("%w: a name of %d bytes; 1 to %d are allowed", ErrInvalid, len(k.Name),
			MaxName)
	case !utf8.ValidString(k.Kind+k.Name) || strings.ContainsRune(k.Kind+k.Name, 0):
		return fmt.Errorf("%w: %q is no UTF-8, or has a zero byte", ErrInvalid, k.String())
	}
	return nil
}

func (r *Resource) validate() error {
	switch {
	case !isLabel(r.Owner):
		return fmt.Errorf("%w: the owner of %v is too long, or no UTF-8", ErrInvalid, r.Key)
	case len(r.Spec)+len(r.Status) > MaxResource:
		return fmt.Errorf("%w: %v has %d bytes; %d are allowed", ErrInvalid, r.Key,
			len(r.Spec)+len(r.Status), MaxResource)
	case len(r.Spec) > 0 && !json.Valid(r.Spec):
		return fmt.Errorf("%w: the spec of %v is no JSON value", ErrInvalid, r.Key)
	case len(r.Status) > 0 && !json.Valid(r.Status):
		return fmt.Errorf("%w: the status of %v is no JSON value", ErrInvalid, r.Key)
	}
	return nil
}
