// Package cache keeps the answers to requests for one model, so that an equal
// request is answered without a run, and lets equal requests that come at once
// share one run.
//
// [Cache.Look] takes what pins an answer: the digest of the version's files, and
// the datatypes, shapes and bytes of the inputs. It returns the outputs of an
// equal request, or a [Flight]. The first to ask leads the flight: it runs the
// request and calls [Flight.Land]. The others follow: each joins with a
// [Waiter], which is told when the leader is back. No goroutine waits.
//
// Requests are found by a hash and then compared in full, so that a collision
// costs a run and never gives a wrong answer.
//
// All memory is of the Go heap: inputs and outputs are copied in, and outputs
// are handed out as they are kept. They are immutable and stay valid for as long
// as somebody refers to them, evicted or not.
//
// A Cache may be used concurrently. It is divided by the hash into shards, each
// a small cache of its own with its own lock, its own part of the bytes, and its
// own order of use. A lock is never held over a hash, a comparison, a copy or a
// call of a Waiter, and no two are held at a time.
//
// The package reads no clock: callers say what time it is. It does not know
// which models give the same answer to the same request; whoever makes a Cache does.
package cache

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Config says what is kept.
type Config struct {
	// MaxBytes bounds inputs, outputs and overhead of all that is kept, the
	// inputs of flights included. What one request takes is at most a quarter of
	// a shard, and there is a shard for each 8 MiB, at most 16.
	MaxBytes int64
	// TTL is how long outputs are good for; 0 is for ever.
	TTL time.Duration
	// AdmitAfter is how often a request has to miss before it is kept. With 0 or
	// 1 the first miss is. With 2 the first is only noted, so that requests that
	// never repeat are not copied and push out nothing; the price is a second run
	// for those that do. The notes take 1 % of MaxBytes, which is not counted.
	AdmitAfter int
}

const (
	leastBytes = 64 << 10 // still some requests of a few KiB
	// A shard has room for some large requests and is small enough for a busy
	// cache to have many.
	shardBytes = 8 << 20
	maxShards  = 16
)

// Validate lists all that is wrong with the configuration.
func (c Config) Validate() error {
	var faults []error
	if c.MaxBytes < leastBytes {
		faults = append(faults, fmt.Errorf("cache: MaxBytes is %d, must be at least %d",
			c.MaxBytes, leastBytes))
	}
	if c.TTL < 0 {
		faults = append(faults, fmt.Errorf("cache: TTL is %v, must not be negative", c.TTL))
	}
	if c.AdmitAfter < 0 || c.AdmitAfter > 2 {
		faults = append(faults, fmt.Errorf("cache: AdmitAfter is %d, must be 0, 1 or 2",
			c.AdmitAfter))
	}
	return errors.Join(faults...)
}

// Cache keeps answers of the versions of one model.
type Cache struct {
	cfg    Config
	hash   func(version string, inputs []tensor.Tensor) key
	shards []*shard
}

// New returns an empty Cache.
func New(cfg Config) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := min(max(cfg.MaxBytes/shardBytes, 1), maxShards)
	c := &Cache{cfg: cfg, hash: newHasher().sum}
	for range n {
		entries, err := simplelru.NewLRU[key, *entry](math.MaxInt, nil) // bytes are the bound
		if err != nil {
			return nil, err
		}
		s := &shard{maxBytes: cfg.MaxBytes / n, ttl: int64(cfg.TTL), entries: entries,
			flights: make(map[key]*Flight), versions: make(map[string]int)}
		if cfg.AdmitAfter == 2 {
			s.seen = make([]uint64, s.maxBytes/notedBytes)
		}
		c.shards = append(c.shards, s)
	}
	return c, nil
}

// Config returns the configuration that the Cache was made with.
func (c *Cache) Config() Config { return c.cfg }

// Look returns the outputs of an equal request, never nil, or a flight. lead
// says that the caller has to run the request and to call Land on the flight,
// whatever comes of it; otherwise somebody else does, and the caller may join.
// Without outputs and flight the caller runs the request by itself: the cache
// does not want it.
//
// now is in nanoseconds of a monotonic clock, the same as for Land. inputs are
// in the order of the signature; of one that is left out (tensor.Invalid) only
// that counts.
func (c *Cache) Look(now int64, version string, inputs []tensor.Tensor) (
	outputs []tensor.Tensor, f *Flight, lead bool) {
	k := c.hash(version, inputs)
	s := c.shards[k[0]%uint64(len(c.shards))]
	e, f, welcome := s.find(now, k)
	if e == nil && welcome {
		if f = s.newFlight(k, version, inputs); f != nil {
			e, f, lead = s.start(now, f)
		}
	}
	switch {
	case lead:
		s.misses.Add(1)
		return nil, f, true
	case e == nil || !e.answers(version, inputs):
		s.misses.Add(1)
		return nil, nil, false
	case f != nil:
		s.shared.Add(1)
		return nil, f, false
	}
	s.hits.Add(1)
	return e.outputs, nil, false
}

// Versions lists the versions that have answers here, in no order.
func (c *Cache) Versions() []string {
	all := make(map[string]struct{})
	for _, s := range c.shards {
		s.addVersions(all)
	}
	versions := make([]string, 0, len(all))
	for v := range all {
		versions = append(versions, v)
	}
	return versions
}

// Purge drops a version's answers. Those of its flights that are under way go to
// their followers and are not kept; nobody joins them any more.
func (c *Cache) Purge(version string) {
	for _, s := range c.shards {
		s.purge(func(v string) bool { return v == version })
	}
}

// PurgeAll does what Purge does for all versions.
func (c *Cache) PurgeAll() {
	for _, s := range c.shards {
		s.purge(func(string) bool { return true })
	}
}

// Stats is what a Cache has counted since it was made, and what it holds. Each
// Look is one of Hits, Shared and Misses.
type Stats struct {
	Hits      uint64 // outputs were there
	Shared    uint64 // followers
	Misses    uint64 // all others: leaders, and those that the cache did not want
	Stored    uint64 // answers that were kept
	Rejected  uint64 // misses that were not, being too large or too many at once
	Evictions uint64 // answers that others took the place of
	Expired   uint64 // answers that were asked for after their time
	Entries   int    // answers that are kept
	Bytes     int64  // of those and of flights
}

// Stats adds up what the shards have counted.
func (c *Cache) Stats() Stats {
	var t Stats
	for _, s := range c.shards {
		s.addStats(&t)
	}
	return t
}
