package cache

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// shard is the part of a Cache that has the keys of one remainder.
type shard struct {
	maxBytes int64
	ttl      int64 // nanoseconds; 0 for none

	hits, misses, shared, rejected atomic.Uint64

	mu       sync.Mutex // guards all below
	entries  *simplelru.LRU[key, *entry]
	flights  map[key]*Flight // a key is in one of entries and flights at most
	versions map[string]int  // entries of each
	bytes    int64           // of entries and flights
	flying   int64           // of flights
	seen     []uint64        // first halves of keys that missed, by the second; nil to admit all

	stored, evictions, expired uint64
}

// What a shard's bytes are divided by: one entry takes at most a fourth, all
// flights together at most half, so that there is room to evict for whatever
// lands.
const entryPart, flightPart = 4, 2

// notedBytes is how many bytes there are for each noted key: a cache of requests
// of a KiB can tell about as many that it has not admitted as it keeps.
const notedBytes = 1 << 10

// find returns the entry of key k, and its flight while that has not landed.
// Where there is none, welcome says whether one may be made.
func (s *shard) find(now int64, k key) (e *entry, f *Flight, welcome bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, f = s.known(now, k)
	return e, f, e == nil && s.admit(k)
}

// known is find for callers that hold mu.
func (s *shard) known(now int64, k key) (*entry, *Flight) {
	if e, ok := s.entries.Get(k); ok {
		if e.expires == 0 || now < e.expires {
			return e, nil
		}
		s.entries.Remove(k)
		s.forget(e)
		s.expired++
	} else if f := s.flights[k]; f != nil {
		f.followed = true
		return f.entry, f
	}
	return nil, nil
}

// admit says whether a key has missed before, where that is asked for, and
// notes it. Callers hold mu.
func (s *shard) admit(k key) bool {
	if s.seen == nil {
		return true
	}
	at, _ := bits.Mul64(k[1], uint64(len(s.seen)))
	before := s.seen[at]
	s.seen[at] = k[0]
	return before == k[0]
}

// newFlight returns a flight for a copy of the request, nil for one that is too
// large.
func (s *shard) newFlight(k key, version string, inputs []tensor.Tensor) *Flight {
	bytes := entryOverhead + size(inputs)
	if !s.fits(bytes) {
		s.rejected.Add(1)
		return nil
	}
	e := &entry{version: version, inputs: clone(inputs), request: bytes}
	return &Flight{shard: s, key: k, entry: e}
}

// fits says whether an entry may have that many bytes.
func (s *shard) fits(bytes int64) bool { return bytes <= s.maxBytes/entryPart }

// start begins a flight, and lead is true, or returns what find does if somebody
// else was faster, or nothing where too many are under way.
func (s *shard) start(now int64, f *Flight) (e *entry, other *Flight, lead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, other = s.known(now, f.key); e != nil {
		return e, other, false
	}
	if s.flying+f.entry.request > s.maxBytes/flightPart {
		s.rejected.Add(1)
		return nil, nil, false
	}
	s.makeRoom(f.entry.request)
	s.bytes += f.entry.request
	s.flying += f.entry.request
	s.flights[f.key] = f
	return f.entry, f, true
}

// stateOf says how far a flight is.
func (s *shard) stateOf(f *Flight) (followed, landed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.followed, f.landed
}

// land ends a flight with outputs, nil for none, and returns who is to be told.
func (s *shard) land(now int64, f *Flight, outputs []tensor.Tensor) []Waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiters := f.waiters
	f.outputs, f.landed, f.waiters = outputs, true, nil
	if s.flights[f.key] != f {
		return waiters // purged
	}
	s.takeOff(f)
	e := f.entry
	e.outputs, e.answer = outputs, size(outputs)
	if outputs == nil || !s.fits(e.request+e.answer) {
		return waiters
	}
	if s.ttl > 0 {
		e.expires = now + s.ttl
	}
	s.makeRoom(e.request + e.answer)
	s.bytes += e.request + e.answer
	s.entries.Add(f.key, e)
	s.versions[e.version]++
	s.stored++
	return waiters
}

// takeOff removes a flight: nobody joins it any more. Callers hold mu.
func (s *shard) takeOff(f *Flight) {
	delete(s.flights, f.key)
	s.bytes -= f.entry.request
	s.flying -= f.entry.request
}

// makeRoom evicts what was not used for longest. Callers hold mu.
func (s *shard) makeRoom(bytes int64) {
	for s.bytes+bytes > s.maxBytes {
		_, e, ok := s.entries.RemoveOldest()
		if !ok {
			return
		}
		s.forget(e)
		s.evictions++
	}
}

// forget counts an entry that was removed. Callers hold mu.
func (s *shard) forget(e *entry) {
	s.bytes -= e.request + e.answer
	if s.versions[e.version]--; s.versions[e.version] == 0 {
		delete(s.versions, e.version)
	}
}

// purge drops the entries and the flights of versions. It takes the lock for
// each entry anew, so that requests are not kept waiting.
func (s *shard) purge(unwanted func(version string) bool) {
	s.mu.Lock()
	for _, f := range s.flights {
		if unwanted(f.entry.version) {
			s.takeOff(f)
		}
	}
	keys := s.entries.Keys()
	s.mu.Unlock()
	for _, k := range keys {
		s.mu.Lock()
		if e, ok := s.entries.Peek(k); ok && unwanted(e.version) {
			s.entries.Remove(k)
			s.forget(e)
		}
		s.mu.Unlock()
	}
}

func (s *shard) addVersions(all map[string]struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for v := range s.versions {
		all[v] = struct{}{}
	}
}

func (s *shard) addStats(t *Stats) {
	t.Hits += s.hits.Load()
	t.Misses += s.misses.Load()
	t.Shared += s.shared.Load()
	t.Rejected += s.rejected.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Stored += s.stored
	t.Evictions += s.evictions
	t.Expired += s.expired
	t.Entries += s.entries.Len()
	t.Bytes += s.bytes
}
