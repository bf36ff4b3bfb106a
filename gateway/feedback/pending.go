package feedback

import (
	"hash/maphash"
	"sync"
	"time"
)

// pending is the newest decisions, of a fixed number.
//
// Every request puts one in and only feedback looks for one. So a decision is
// written behind the last one, into memory that the processor has at hand, many
// go into the ring at once, and the index by id is made when feedback asks, of what
// has come since. As many decisions as there is room for follow an id's before it is
// gone, give or take a twentieth.
type pending struct {
	shards [shards]shard
	seed   maphash.Seed // random: nobody can make up ids that collide
	ttl    int64        // nanoseconds
}

// hash is 64 bits of an id: of 10^14 ids of which nothing is known, one may be
// taken for another's.
type hash uint64

// shards have a lock each.
const shards = 8

// shard is a ring of decisions, and an index of it that lags.
type shard struct {
	mu      sync.Mutex // guards all of it
	waiting int        // decisions in fresh, which settle moves into the ring
	ring    []way
	put     int    // decisions that were ever put into the ring
	evicted uint64 // decisions that were younger than ttl
	indexed int    // decisions that are in the indexes, or were
	// Where an id's newest decision is, as a count of decisions put in before it. When
	// index has as many as the ring, it becomes older, and older is forgotten.
	index, older map[hash]int
	_            [48]byte // the rest of two lines of the cache
	fresh        [freshRoom]way
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
	p := &pending{seed: maphash.MakeSeed(), ttl: int64(ttl)}
	for i := range p.shards {
		p.shards[i].ring = make([]way, (capacity+shards-1)/shards)
	}
	return p
}

func (p *pending) hash(id string) hash { return hash(maphash.String(p.seed, id)) }

// shard returns where a hash belongs.
func (p *pending) shard(h hash) *shard { return &p.shards[h%shards] }

func (p *pending) put(id []byte, d *Decision, at int64) {
	h := hash(maphash.Bytes(p.seed, id))
	s := p.shard(h)
	s.mu.Lock()
	s.fresh[s.waiting] = way{h, at, d}
	if s.waiting++; s.waiting == freshRoom {
		s.settle(p.ttl)
	}
	s.mu.Unlock()
}

// settle moves what is in fresh into the ring. Callers hold mu.
func (s *shard) settle(ttl int64) {
	next := s.put % len(s.ring)
	for _, w := range s.fresh[:s.waiting] {
		if old := &s.ring[next]; old.decision != nil && w.at-old.at < ttl {
			s.evicted++
		}
		s.ring[next] = w
		if next++; next == len(s.ring) {
			next = 0
		}
	}
	s.put += s.waiting
	s.waiting = 0
}

// get returns what was decided and when, or nil.
func (p *pending) get(h hash) (d *Decision, at int64) {
	s := p.shard(h)
	s.catchUp(p.ttl)
	defer s.mu.Unlock()
	if w := s.find(h); w != nil {
		return w.decision, w.at
	}
	return nil, 0
}

func (p *pending) drop(h hash) {
	s := p.shard(h)
	s.catchUp(p.ttl)
	defer s.mu.Unlock()
	if w := s.find(h); w != nil {
		*w = way{}
	}
}

// stats returns how many decisions are not too old at a time, and how many were
// evicted before they were. An id that came again may count again.
func (p *pending) stats(now int64) (waiting int, evicted uint64) {
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		s.settle(p.ttl)
		s.mu.Unlock()
		for from := 0; from < len(s.ring); from += statsStep {
			s.mu.Lock()
			for _, w := range s.ring[from:min(from+statsStep, len(s.ring))] {
				if w.decision != nil && now-w.at < p.ttl {
					waiting++
				}
			}
			s.mu.Unlock()
		}
		s.mu.Lock()
		evicted += s.evicted
		s.mu.Unlock()
	}
	return waiting, evicted
}

// statsStep is how many decisions are counted while requests may wait: 1 us.
const statsStep = 512

// catchUp indexes what has come since the last time, and returns with mu held.
func (s *shard) catchUp(ttl int64) {
	s.mu.Lock()
	for ; ; s.mu.Lock() {
		s.settle(ttl)
		s.indexed = max(s.indexed, s.put-len(s.ring))
		for range min(indexStep, s.put-s.indexed) {
			h := s.ring[s.indexed%len(s.ring)].tag
			if w := s.find(h); w != nil {
				*w = way{} // a newer one has its id
			}
			if len(s.index) >= len(s.ring) || s.index == nil {
				s.older, s.index = s.index, make(map[hash]int)
			}
			s.index[h] = s.indexed
			s.indexed++
		}
		if s.indexed == s.put {
			return
		}
		s.mu.Unlock()
	}
}

// find returns an id's newest decision among those that are indexed, or nil.
func (s *shard) find(h hash) *way {
	at, ok := s.index[h]
	if !ok {
		at, ok = s.older[h]
	}
	w := &s.ring[at%len(s.ring)]
	if !ok || at < s.put-len(s.ring) || w.tag != h || w.decision == nil {
		return nil
	}
	return w
}
