package trial

import (
	"math/bits"
	"sync/atomic"
)

// Once lets each user count once. With sticky routing a user's errors come from
// one arm together; counted one by one they raise false alarms nearly every
// second time, by a user's first error alone they do not. It is a Bloom filter: it
// never lets a user count twice, and by chance takes some new ones for known.
//
// Those are lost to the test and cost it power, as all are once the filter is
// full. They do not bend it: which users are taken for known hangs on their hashes
// and on the past, and says nothing of the arm that a new user is on. Use one Once
// for a test, from its beginning to its end; a user that several filters see, as
// those of replicas or of one before and after a restart, counts once in each.
//
// For Sound of package control/evidence the ratio is then that of first events,
// which comes nearer to 1 as the users who have none yet become few. Simulated at
// the margin, the promise holds until a fifth of the users have had one; at half it
// is broken.
//
// It may be used concurrently. All bits of a user are in one word, so that one of
// those who bring the same user at once is the first.
type Once struct {
	words []atomic.Uint64 // one for each event, those of a user side by side
	shift int             // of a hash, that leaves the place of a user
	// How many events a user counts for, each once: in one line of the cache, which is
	// what there is to wait for.
	events uint64
}

// probes is how many bits stand for a user. With 10 bits for each user 1.8 % of
// new ones are taken for known, and 0.5 % of all that came until then.
const probes = 4

// maxUsers are in 128 MiB.
const maxUsers = 1 << 26

// NewOnce returns a filter for about so many users, of 10 to 20 bits each; at most
// 2^26 users.
func NewOnce(users int) *Once { return newOnce(users, 1) }

// newOnce returns a filter in which each of some events counts by itself.
func newOnce(users, events int) *Once {
	places := 1 << bits.Len(uint(10*min(max(users, 1), maxUsers)/64))
	return &Once{make([]atomic.Uint64, places*events), 64 - bits.Len(uint(places-1)),
		uint64(events)}
}

// First says whether a user, given as a hash, has not been seen before, and
// remembers it.
func (o *Once) First(user uint64) bool { return o.first(user, 0) }

// first is First for one of the events.
func (o *Once) first(user, event uint64) bool {
	h := mix(user)
	word := &o.words[h>>o.shift*o.events+event]
	var mask uint64
	for range probes { // The lowest bits of h choose; the word took the highest.
		mask |= 1 << (h % 64)
		h >>= 6
	}
	if word.Load()&mask == mask {
		return false // The usual case writes nothing that other cores would wait for.
	}
	return word.Or(mask)&mask != mask
}

// mix is splitmix64's step. It makes bits that have nothing to do with those of
// the hash, by which the user was routed.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
