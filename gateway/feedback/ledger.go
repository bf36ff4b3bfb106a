// Package feedback joins what was decided for a request with the reward or the
// label that becomes known later.
//
// The gateway tells a [Ledger] of every [Decision]: which version answered the
// request of that id. These are kept in memory, so many and so long as [Config]
// allows. Whoever learns how good the answer was gives it with that id. A
// reward that was accepted is on disk when Give returns, is counted once however
// often it comes, and is part of [Counts], which replicas exchange and merge,
// and from which bandits take their evidence.
//
// Everything may be called concurrently. Decide is for the path of requests: it
// does not allocate and waits for nothing but a short lock. Decisions whose
// feedback is not there yet are put into the file by Close; a crash loses them.
package feedback

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/gateway/route/trial"
	"github.com/millrace-ml/millrace/gateway/tap"
)

// MaxID is how long an id may be, in bytes.
const MaxID = 1 << 10

var (
	// ErrInvalid is wrapped by what Give returns for feedback that cannot be.
	ErrInvalid = errors.New("feedback: invalid")
	// ErrClosed is returned by Give once the ledger is closed.
	ErrClosed = errors.New("feedback: closed")
	// ErrFile is wrapped by what Open and Give return when the file cannot be used.
	ErrFile = errors.New("feedback: cannot use the file")
)

// Config says what a Ledger keeps, and where.
type Config struct {
	Path string `yaml:"path"` // of the file; made where it is not there
	// How many decisions wait for feedback, somewhat more or less, and how many ids
	// with feedback are remembered. The oldest make room.
	Capacity int `yaml:"capacity"`
	// How long a decision waits for feedback, and an id with feedback is known.
	TTL time.Duration `yaml:"ttl"`
}

// DefaultConfig has all but the path. Its decisions take 3 MB, and where feedback
// comes up to 10 MB more.
func DefaultConfig() Config { return Config{Capacity: 1 << 17, TTL: time.Hour} }

// maxCapacity keeps the memory below 2 GB, and the file small.
const maxCapacity = 1 << 24

// Validate lists all faults.
func (c Config) Validate() error {
	var faults []error
	if c.Path == "" {
		faults = append(faults, errors.New("path: is missing"))
	}
	if c.Capacity < 1 || c.Capacity > maxCapacity {
		faults = append(faults,
			fmt.Errorf("capacity: %d; 1 to %d are allowed", c.Capacity, maxCapacity))
	}
	if c.TTL < time.Second {
		faults = append(faults, fmt.Errorf("ttl: %v; 1s is the least", c.TTL))
	}
	return errors.Join(faults...)
}

// Decision says what answers requests. It may be shared by all that were answered
// alike, and must not be changed once a ledger has it.
type Decision struct {
	Endpoint       string
	Arm            string
	Model, Version string // that answered, with the alias or the latest resolved
	// Trial is told of the reward once it is on disk; nil for none. It is not kept over a restart.
	Trial *trial.Source `json:"-"`
}

// Given is what a client tells of an earlier request: a reward, a label, or both.
type Given struct {
	ID     string          `json:"id"`
	Reward *float64        `json:"reward,omitempty"` // in [0, 1]
	Label  json.RawMessage `json:"label,omitempty"`  // the true answer; null is none
}

// Result says what became of feedback.
type Result uint8

// The results.
const (
	Unknown   Result = iota // no decision of that id is known, or not any more
	Accepted                // it is on disk, and counts
	Duplicate               // the id had feedback before; nothing has changed
	Late                    // the decision is older than Config.TTL
	results
)

func (r Result) String() string {
	return [...]string{"unknown", "accepted", "duplicate", "late"}[r]
}

// Stats are the numbers of a ledger since it was opened.
type Stats struct {
	Accepted, Duplicate, Late, Unknown uint64 // feedback by Result
	Invalid                            uint64 // feedback that wraps ErrInvalid
	Failed                             uint64 // feedback that could not be written
	Evicted                            uint64 // decisions that made room before Config.TTL
	Pending                            int    // decisions that wait for feedback, repeated ids too
}

// Ledger knows decisions and counts rewards. Close it after use.
type Ledger struct {
	cfg     Config
	pending *pending
	store   *store
	calls   chan *call
	closing chan struct{}
	stopped chan struct{} // closed when the committer has ended
	once    sync.Once
	broken  error // of the committer: the store must not be touched any more

	results         [results]atomic.Uint64
	invalid, failed atomic.Uint64

	mu   sync.RWMutex
	kept kept // Guarded by mu; only the committer writes, after the file has it.
}

// Open opens the file, or makes it. Close gives it back; until then no other
// process can open it.
func Open(cfg Config) (*Ledger, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("feedback: %w", err)
	}
	s, kept, err := openStore(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrFile, cfg.Path, err)
	}
	waiting, err := s.loadWaiting()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w %s: %w", ErrFile, cfg.Path, err), s.close())
	}
	l := &Ledger{
		cfg:     cfg,
		pending: newPending(cfg.Capacity, cfg.TTL),
		store:   s,
		kept:    kept,
		calls:   make(chan *call),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	l.pending.restore(waiting)
	go l.run()
	return l, nil
}

// Close waits for the feedback that is being written, puts the decisions that wait for theirs into
// the file and closes it.
func (l *Ledger) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closing)
		<-l.stopped
		if l.broken == nil { // else bbolt may still hold its locks, and Close would wait for them
			err = l.store.saveWaiting(l.pending.waiting(time.Now().UnixNano()))
			if err != nil {
				err = fmt.Errorf("%w %s: what waits for feedback is not kept: %w", ErrFile,
					l.cfg.Path, err)
			}
			err = errors.Join(err, l.store.close())
		}
	})
	return err
}

// Decide notes what answered the request of that id, and when, in Unix nanoseconds. It
// takes the place of an earlier decision of the same id, unless that has feedback: then
// the id's next feedback is a duplicate until Config.TTL has passed. An id that is empty
// or longer than MaxID can have no feedback and is not noted. id is not kept, d is.
// Threads that give different numbers from 0 on as home do not wait for each other.
func (l *Ledger) Decide(home int, id []byte, d *Decision, at int64) {
	if len(id) > 0 && len(id) <= MaxID {
		l.pending.add(home, id, d, at)
	}
}

// Give takes feedback for an earlier decision. When it is Accepted the reward is
// on disk, and the feedback carries what was decided and the present time. After
// an error that does not wrap ErrInvalid nothing is decided: give it again.
func (l *Ledger) Give(g Given) (tap.Feedback, Result, error) {
	if err := g.check(); err != nil {
		l.invalid.Add(1)
		return tap.Feedback{}, Unknown, err
	}
	now := time.Now()
	d, result, err := l.give(&g, now)
	if err != nil {
		l.failed.Add(1)
		return tap.Feedback{}, Unknown, err
	}
	l.results[result].Add(1)
	if result != Accepted {
		return tap.Feedback{}, result, nil
	}
	if d.Trial != nil && g.Reward != nil {
		d.Trial.Reward(*g.Reward)
	}
	f := tap.Feedback{ID: g.ID, Endpoint: d.Endpoint, Model: d.Model, Version: d.Version,
		Route: d.Arm, Time: now, Reward: g.Reward}
	if g.labelled() {
		f.Label = g.Label
	}
	return f, Accepted, nil
}

// give looks the decision up and has the reward written.
func (l *Ledger) give(g *Given, now time.Time) (*Decision, Result, error) {
	c := call{id: idOf(g.ID), hash: hashOf(g.ID), reward: g.Reward,
		done: make(chan struct{})}
	// In this order: the committer remembers an id before it drops its decision.
	d, at := l.pending.get(c.hash)
	switch {
	case l.remembers(c.id, now.UnixNano()):
		return nil, Duplicate, nil
	case d == nil:
		return nil, Unknown, nil
	case now.UnixNano()-at >= int64(l.cfg.TTL):
		return nil, Late, nil
	}
	select {
	case l.calls <- &c:
	case <-l.closing:
		return nil, Unknown, ErrClosed
	}
	<-c.done // The committer answers whatever it has taken.
	return c.decision, c.result, c.err
}

// remembers says whether an id has had feedback.
func (l *Ledger) remembers(id id, now int64) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	at, ok := l.kept.given[id]
	return ok && now-at < int64(l.cfg.TTL)
}

// Stats returns the numbers now.
func (l *Ledger) Stats() Stats {
	waiting, evicted := l.pending.stats(time.Now().UnixNano())
	return Stats{
		Accepted:  l.results[Accepted].Load(),
		Duplicate: l.results[Duplicate].Load(),
		Late:      l.results[Late].Load(),
		Unknown:   l.results[Unknown].Load(),
		Invalid:   l.invalid.Load(),
		Failed:    l.failed.Load(),
		Evicted:   evicted,
		Pending:   waiting,
	}
}

// labelled says whether there is a label.
func (g *Given) labelled() bool { return len(g.Label) > 0 && string(g.Label) != "null" }

// check says what is wrong with feedback.
func (g *Given) check() error {
	switch r := g.Reward; {
	case g.ID == "":
		return fmt.Errorf("%w: the id of the request is missing", ErrInvalid)
	case len(g.ID) > MaxID:
		return fmt.Errorf("%w: the id has %d bytes; %d are allowed", ErrInvalid, len(g.ID), MaxID)
	case r == nil && !g.labelled():
		return fmt.Errorf("%w: neither reward nor label is there", ErrInvalid)
	case r != nil && (math.IsNaN(*r) || *r < 0 || *r > 1):
		return fmt.Errorf("%w: the reward is %v; 0 to 1 are allowed", ErrInvalid, *r)
	case g.labelled() && !json.Valid(g.Label):
		return fmt.Errorf("%w: the label is no JSON value", ErrInvalid)
	}
	return nil
}

// id stands for the id of a request in the file: half its SHA-256. Nobody can
// make up two ids with the same one.
type id [16]byte

func idOf(s string) id {
	sum := sha256.Sum256([]byte(s))
	return id(sum[:16])
}
