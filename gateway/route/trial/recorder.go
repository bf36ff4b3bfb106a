package trial

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// Recorder counts the requests of one rollout while they come and go. All may be
// called concurrently; what is called for each request takes no lock and does not
// allocate.
type Recorder struct {
	users *Once // who stick to their arm, by what they were counted for already

	row, longest atomic.Uint64 // errors of the canary without an answer between
	fallbacks    atomic.Uint64
	rewards      queue

	mu    sync.Mutex
	cells []*Counter // Guarded by mu; ascending.
}

// What a user counts for, once each.
const (
	countPicked = iota
	countAnswer
	countError
	countNonFinite
	events
)

// maxCells bounds the cells of a Recorder: each takes 3 KiB. The steps of a ramp
// need a handful.
const maxCells = 64

// NewRecorder returns one that knows about so many users by their sticky keys: it
// takes 5 to 10 bytes for each, which the system gives as they are needed.
func NewRecorder(users int) *Recorder {
	return &Recorder{users: newOnce(users, events)}
}

// Cell returns what counts the requests that go to the canary with a probability.
// It is nil, and they are not counted, when that is no probability or 0, which
// leaves nothing to decide on, or when there are too many cells.
func (r *Recorder) Cell(rho float64) *Counter {
	if !(rho > 0 && rho <= 1) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i, found := slices.BinarySearchFunc(r.cells, rho, func(c *Counter, rho float64) int {
		return cmp.Compare(c.rho, rho)
	})
	switch {
	case found:
		return r.cells[i]
	case len(r.cells) == maxCells:
		return nil
	}
	c := &Counter{rho: rho, recorder: r}
	for canary := range c.sources {
		c.sources[canary] = Source{&r.rewards, rho, canary == 1}
	}
	r.cells = slices.Insert(r.cells, i, c)
	return c
}

// Canary notes how a request ended that the canary was to answer, whoever chose it:
// the row of errors is of all of them.
func (r *Recorder) Canary(end End) {
	switch {
	case end == Failed:
		row := r.row.Add(1)
		for longest := r.longest.Load(); row > longest; longest = r.longest.Load() {
			if r.longest.CompareAndSwap(longest, row) {
				return
			}
		}
	case end != Refused && r.row.Load() != 0:
		r.row.Store(0)
	}
}

// FellBack counts a request of the canary, which could not serve, that the stable
// version has answered.
func (r *Recorder) FellBack() { r.fallbacks.Add(1) }

// Counts returns what is counted by now.
func (r *Recorder) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := Counts{Row: r.longest.Load(), Fallbacks: r.fallbacks.Load()}
	for _, k := range r.cells {
		c.Cells = append(c.Cells, Cell{k.rho, k.arms[1].counts(), k.arms[0].counts()})
	}
	return c
}

// Rewards returns the rewards that came since the last call, and how many were lost
// by now, as too many waited.
func (r *Recorder) Rewards() (list []Reward, lost uint64) {
	q := &r.rewards
	q.mu.Lock()
	defer q.mu.Unlock()
	list, q.list = q.list, nil
	return list, q.lost
}

// Counter counts the requests of one cell.
type Counter struct {
	rho      float64
	recorder *Recorder
	sources  [2]Source
	arms     [2]counters // of the stable version and of the canary
}

type counters struct {
	requests, picked, errors, nonFinite atomic.Uint64
	latency                             [buckets]atomic.Uint64
}

// End is how a request ended.
type End uint8

// The ends.
const (
	Refused End = iota // by the client's fault, or under overload: it says nothing
	Failed             // by the fault of the version or of the server
	Answered
	NonFinite // answered, with a NaN or an infinity among the outputs
)

// Picked counts a request that is sent to an arm. user is the hash of its sticky
// key, 0 where it has none.
func (c *Counter) Picked(canary bool, user uint64) {
	if c.recorder.counts(user, countPicked) {
		c.arm(canary).picked.Add(1)
	}
}

// Finished counts a request that was sent to an arm, and which that arm was to
// answer to the end. seconds is how long it took.
func (c *Counter) Finished(canary bool, user uint64, end End, seconds float64) {
	a, r := c.arm(canary), c.recorder
	a.requests.Add(1)
	switch end {
	case Refused:
	case Failed:
		if r.counts(user, countError) {
			a.errors.Add(1)
		}
	default:
		if r.counts(user, countAnswer) {
			a.latency[bucket(seconds)].Add(1)
		}
		if end == NonFinite && r.counts(user, countNonFinite) {
			a.nonFinite.Add(1)
		}
	}
}

func (c *Counter) arm(canary bool) *counters {
	if canary {
		return &c.arms[1]
	}
	return &c.arms[0]
}

// counts says whether an event of a user counts; of nobody all do.
func (r *Recorder) counts(user, event uint64) bool {
	return user == 0 || r.users.first(user, event)
}

// counts returns what is counted by now. What is counted first of a request is
// read last, so that there are never more errors than requests.
func (c *counters) counts() Arm {
	var a Arm
	a.Latency = make([]uint64, buckets)
	last := 0
	for i := range c.latency {
		if a.Latency[i] = c.latency[i].Load(); a.Latency[i] > 0 {
			last = i + 1
		}
	}
	a.Latency = a.Latency[:last]
	a.NonFinite, a.Errors = c.nonFinite.Load(), c.errors.Load()
	a.Requests = c.requests.Load()
	a.Picked = c.picked.Load()
	return a
}

// Source is what rewards are for: an arm of a cell. It outlives its Recorder where
// a reward is still awaited.
type Source struct {
	queue  *queue
	rho    float64
	canary bool
}

// Source returns what rewards for the requests of an arm go by, always the same.
func (c *Counter) Source(canary bool) *Source {
	if canary {
		return &c.sources[1]
	}
	return &c.sources[0]
}

// Reward takes a reward.
func (s *Source) Reward(value float64) {
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == maxRewards {
		q.lost++
		return
	}
	q.list = append(q.list, Reward{s.rho, s.canary, value})
}

// queue is the rewards that nobody has asked for yet. Each was written to disk
// before it came, next to which a lock is nothing.
type queue struct {
	mu   sync.Mutex
	list []Reward // Guarded by mu, as lost.
	lost uint64   // that found the queue full
}

// maxRewards wait at most, in 96 KiB: of a second, when somebody asks five times in
// one.
const maxRewards = 4096

// eighths are, by the upper 7 bits of a number's fraction, how many eighths of an
// octave begin at or below the number.
var eighths = func() (n [128]uint8) {
	for i := range n {
		n[i] = uint8(math.Ceil(8 * math.Log2(1+float64(i)/128)))
	}
	return n
}()

// bucket returns the first of Bounds that is not below x: by the exponent of a
// float64 and the upper bits of its fraction, which leave two to choose from.
func bucket(x float64) int {
	if !(x > firstBound) {
		return 0
	}
	b := math.Float64bits(x / firstBound)
	i := int(b>>52-1023)*8 + int(eighths[b>>45&127])
	if i >= buckets-1 {
		return buckets - 1
	}
	if x > Bounds[i] {
		i++
	}
	return i
}
