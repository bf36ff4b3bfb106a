package evidence

// Once lets each user count once. With sticky routing a user's errors come from
// one arm together; counted one by one they raise false alarms nearly every
// second time, by a user's first error alone they do not. It is a Bloom filter: it
// never lets a user count twice, and by chance takes some new ones for known.
//
// Those are lost to the test and cost it power, as all are once the filter is
// full. They do not bend it: which users are taken for known hangs on their hashes
// and on the past, and says nothing of the arm that a new user is on. Use one Once
// for a test, from its beginning to its end, at the place where the events of all
// replicas arrive; a user that several filters see counts once in each.
//
// For Sound the ratio is then that of first events, which comes nearer to 1 as the
// users who have none yet become few. Simulated at the margin, the promise holds
// until a fifth of the users have had one; at half it is broken.
type Once struct {
	Bits []byte `json:"bits"` // a power of two of them
}

// probes is how many bits stand for a user. With 10 bits for each user 1.2 % of
// new ones are taken for known.
const probes = 4

// NewOnce returns a filter for about so many users, of 10 to 20 bits each; at most
// 2^26 users, in 128 MiB.
func NewOnce(users int) *Once {
	size := 64
	for size*8 < 10*min(users, 1<<26) {
		size *= 2
	}
	return &Once{Bits: make([]byte, size)}
}

// First says whether a user, given as a hash, has not been seen before, and
// remembers it. A filter without bits has seen everybody.
func (o *Once) First(user uint64) bool {
	first := false
	size := uint64(len(o.Bits)) * 8
	for range probes {
		user = mix(user)
		if size == 0 {
			break
		}
		bit := user % size
		if mask := byte(1) << (bit % 8); o.Bits[bit/8]&mask == 0 {
			o.Bits[bit/8] |= mask
			first = true
		}
	}
	return first
}

// mix is splitmix64's step. It makes bits that have nothing to do with those of
// the hash, by which the user may have been routed.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
