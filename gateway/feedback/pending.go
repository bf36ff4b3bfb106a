package feedback

import (
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// pending is the newest decisions, of a fixed number.
//
// Every request puts one in and only feedback looks for one. So each thread writes
// its decisions behind one another, into memory that its processor has at hand, many
// go into the ring at once, and the index by id is made when feedback asks, of what
// has come since. As many decisions as there is room for follow an id's before it is
// gone, give or take those that are on the way.
type pending struct {
	mu      sync.Mutex // guards all up to stripes
	ring    []way
	put     int    // decisions that were ever put into the ring
	evicted uint64 // decisions that were younger than ttl
	indexed int    // decisions that are in the indexes, or were
	// Where an id's newest decision is, as a count of decisions put in before it. When
	// index has as many as the ring, it becomes older, and older is forgotten.
	index, older map[hash]int

	stripes [stripes]stripe
	ttl     int64 // nanoseconds
}

// hash is 64 bits of an id: of 10^14 ids of which nothing is known, one may be
// taken for another's. Who makes up an id to that end knows the other one, and
// could give feedback for it.
type hash uint64

// stripes is how many threads can put decisions in without waiting for each other.
const stripes = 8

// stripe is decisions on their way to the ring.
type stripe struct {
	mu      sync.Mutex // guards all of it; pending's comes after it
	waiting int
	_       [48]byte // the rest of a line of the cache
	fresh   [freshRoom]way
}

// way is one decision.
type way struct {
	tag      hash
	at       int64     // Unix nanoseconds
	decision *Decision // nil for none
}

// freshRoom is how many decisions go into the ring at once. The ring is far larger than what the
// processor keeps at hand: to fetch a line of it takes 100 ns, and several at once no longer.
const freshRoom = 64

// indexStep is how many decisions are indexed while requests may wait: 3 us.
const indexStep = 64

func newPending(capacity int, ttl time.Duration) *pending {
	return &pending{ttl: int64(ttl), ring: make([]way, capacity)}
}

func hashOf(id string) hash { return hash(xxhash.Sum64String(id)) }

// add notes a decision. Threads with different homes do not wait for each other.
func (p *pending) add(home int, id []byte, d *Decision, at int64) {
	h := hash(xxhash.Sum64(id))
	s := &p.stripes[home%stripes]
	s.mu.Lock()
	s.fresh[s.waiting] = way{h, at, d}
	if s.waiting++; s.waiting == freshRoom {
		p.settle(s)
	}
	s.mu.Unlock()
}

// settle moves what is in a stripe into the ring. Callers hold its mu.
func (p *pending) settle(s *stripe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.put % len(p.ring)
	for _, w := range s.fresh[:s.waiting] {
		if old := &p.ring[next]; old.decision != nil && w.at-old.at < p.ttl {
			p.evicted++
		}
		p.ring[next] = w
		if next++; next == len(p.ring) {
			next = 0
		}
	}
	p.put += s.waiting
	s.waiting = 0
}

// settleAll moves all that is in stripes into the ring.
func (p *pending) settleAll() {
	for i := range p.stripes {
		s := &p.stripes[i]
		s.mu.Lock()
		if s.waiting > 0 {
			p.settle(s)
		}
		s.mu.Unlock()
	}
}

// get returns what was decided and when, or nil.
func (p *pending) get(h hash) (d *Decision, at int64) {
	p.catchUp()
	defer p.mu.Unlock()
	if w := p.find(h); w != nil {
		return w.decision, w.at
	}
	return nil, 0
}

func (p *pending) drop(h hash) {
	p.catchUp()
	defer p.mu.Unlock()
	if w := p.find(h); w != nil {
		*w = way{}
	}
}

// stats returns how many decisions are not too old at a time, and how many were
// evicted before they were. An id that came again may count again.
func (p *pending) stats(now int64) (waiting int, evicted uint64) {
	p.settleAll()
	for from := 0; from < len(p.ring); from += statsStep {
		p.mu.Lock()
		for _, w := range p.ring[from:min(from+statsStep, len(p.ring))] {
			if w.decision != nil && now-w.at < p.ttl {
				waiting++
			}
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return waiting, p.evicted
}

// statsStep is how many decisions are counted while requests may wait: 1 us.
const statsStep = 512

// catchUp indexes what has come since the last time, and returns with mu held.
func (p *pending) catchUp() {
	p.settleAll()
	p.mu.Lock()
	for ; ; p.mu.Lock() {
		p.indexed = max(p.indexed, p.put-len(p.ring))
		for range min(indexStep, p.put-p.indexed) {
			p.indexNext()
			p.indexed++
		}
		if p.indexed == p.put {
			return
		}
		p.mu.Unlock()
	}
}

// indexNext indexes the oldest decision that is not in the indexes. Of two with one id the newer
// one stays: they may have come by different stripes. Callers hold mu.
func (p *pending) indexNext() {
	next := &p.ring[p.indexed%len(p.ring)]
	if w := p.find(next.tag); w != nil {
		if w.at > next.at {
			*next = way{}
			return
		}
		*w = way{}
	}
	if len(p.index) >= len(p.ring) || p.index == nil {
		p.older, p.index = p.index, make(map[hash]int)
	}
	p.index[next.tag] = p.indexed
}

// find returns an id's newest decision among those that are indexed, or nil.
func (p *pending) find(h hash) *way {
	at, ok := p.index[h]
	if !ok {
		at, ok = p.older[h]
	}
	w := &p.ring[at%len(p.ring)]
	if !ok || at < p.put-len(p.ring) || w.tag != h || w.decision == nil {
		return nil
	}
	return w
}
