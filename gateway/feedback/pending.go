package feedback

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"time"
)

// pending is a table of decisions by id, of a fixed size.
//
// An id's hash leads to one set, in which the newest decision takes the place of
// the oldest. So a decision touches one place in memory, and waits only for
// another one of the same set. Sets fill unevenly: when as many decisions as the
// table has room for follow an id's, it is gone, give or take a quarter.
type pending struct {
	seeds [2]maphash.Seed // random: nobody can make up ids that collide
	ttl   int64           // nanoseconds
	sets  []set
}

// hash is 128 bits of an id. The first half chooses the set, the second is
// compared: of 10^15 decisions one may be taken for another's.
type hash struct{ set, tag uint64 }

// ways is how many decisions a set has: with the rest of it, six lines of the cache.
const ways = 15

type set struct {
	mu      sync.Mutex
	evicted uint64 // decisions that were younger than ttl
	ways    [ways]way
	_       [8]byte
}

// way is one decision.
type way struct {
	tag      uint64
	at       int64 // Unix nanoseconds, above 0
	decision *Decision
}

func newPending(capacity int, ttl time.Duration) *pending {
	return &pending{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		ttl:   int64(ttl),
		sets:  make([]set, (capacity+ways-1)/ways),
	}
}

func (p *pending) hash(id string) hash {
	return hash{maphash.String(p.seeds[0], id), maphash.String(p.seeds[1], id)}
}

// set returns where a hash belongs.
func (p *pending) set(h hash) *set {
	i, _ := bits.Mul64(h.set, uint64(len(p.sets)))
	return &p.sets[i]
}

func (p *pending) put(id []byte, d *Decision, at int64) {
	h := hash{maphash.Bytes(p.seeds[0], id), maphash.Bytes(p.seeds[1], id)}
	s := p.set(h)
	s.mu.Lock()
	to, oldest := s.find(h.tag)
	if to == nil {
		to = oldest
		if to.decision != nil && at-to.at < p.ttl {
			s.evicted++
		}
	}
	*to = way{h.tag, at, d}
	s.mu.Unlock()
}

// get returns what was decided and when, or nil.
func (p *pending) get(h hash) (d *Decision, at int64) {
	s := p.set(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, _ := s.find(h.tag); w != nil {
		return w.decision, w.at
	}
	return nil, 0
}

func (p *pending) drop(h hash) {
	s := p.set(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, _ := s.find(h.tag); w != nil {
		*w = way{}
	}
}

// stats returns how many decisions are not too old at a time, and how many were
// evicted before they were.
func (p *pending) stats(now int64) (waiting int, evicted uint64) {
	for i := range p.sets {
		s := &p.sets[i]
		s.mu.Lock()
		evicted += s.evicted
		for _, w := range s.ways {
			if w.decision != nil && now-w.at < p.ttl {
				waiting++
			}
		}
		s.mu.Unlock()
	}
	return waiting, evicted
}

// find returns the tag's way, or nil, and the way to use for it otherwise: a free
// one, or the one that was decided first.
func (s *set) find(tag uint64) (found, oldest *way) {
	oldest = &s.ways[0]
	for i := range s.ways {
		w := &s.ways[i]
		if w.tag == tag && w.decision != nil {
			return w, nil
		}
		if w.at < oldest.at { // A free way is as old as can be.
			oldest = w
		}
	}
	return nil, oldest
}
