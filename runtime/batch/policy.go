package batch

import (
	"errors"
	"fmt"
	"time"
)

// Config says how requests for one model version are gathered.
type Config struct {
	// MaxBatchSize is the most rows of one run; up to 1 runs each request alone.
	MaxBatchSize int
	// MaxQueueDelay is how long a request may wait for company on an idle
	// model. 0 sends at once.
	MaxQueueDelay time.Duration
	// PreferredSizes are batch sizes, in rows, that end the waiting of
	// MaxQueueDelay. Empty means MaxBatchSize.
	PreferredSizes []int
	// PriorityLevels is how many priorities there are, 1 the highest. 0 and 1
	// mean that all requests are alike.
	PriorityLevels int
	// DefaultPriority is the level of a request that names none.
	DefaultPriority int
	// Queue bounds each level's queue: Queue[0] is the default, Queue[i] is
	// for level i.
	Queue []QueuePolicy
	// QueueSize bounds the waiting requests, QueueBytes their tensors' bytes.
	QueueSize  int
	QueueBytes int64
	// MaxRuns is how many runs may be under way at once: the bound of what is
	// learned. 0 is one a core.
	MaxRuns int
	// Steady pads runs with rows of zeros to a power of two that changes rarely: for engines
	// to which a run of another size than the last is dear, as those on a GPU, that plan anew.
	Steady bool
	// LatencyTarget bounds the time of one run: batches are kept so small
	// that waiting for one run and being in the next take no longer. 0 is none.
	LatencyTarget time.Duration
}

// QueuePolicy is the policy of one priority level. The zero value adds nothing
// to the bounds of Config.
type QueuePolicy struct {
	Size    int           // waiting requests, 0 for no bound of its own
	Timeout time.Duration // of a request's waiting, 0 for none
	// AllowOverride lets a request's own Ticket.Timeout shorten Timeout. A
	// Deadline always holds: nobody waits for the answer any longer.
	AllowOverride bool
	// Delay puts a request whose time is over behind all others instead of
	// answering it with ErrDeadline.
	Delay bool
}

// DefaultConfig returns the values for a model about which nothing is known.
func DefaultConfig() Config {
	return Config{MaxBatchSize: 64, QueueSize: 4096, QueueBytes: 512 << 20}
}

// Validate lists everything that is wrong with c.
func (c *Config) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(c.MaxBatchSize >= 0, "max_batch_size is %d, must be 0 or more", c.MaxBatchSize)
	check(c.MaxQueueDelay >= 0 && c.MaxQueueDelay <= time.Minute,
		"max_queue_delay is %v, must be 0 to 1m", c.MaxQueueDelay)
	for _, p := range c.PreferredSizes {
		check(p > 0 && p <= c.MaxBatchSize,
			"preferred_batch_size is %d, must be 1 to max_batch_size (%d)", p, c.MaxBatchSize)
	}
	check(c.PriorityLevels >= 0 && c.PriorityLevels <= maxLevels,
		"priority_levels is %d, must be 0 to %d", c.PriorityLevels, maxLevels)
	check(c.DefaultPriority >= 0 && c.DefaultPriority <= max(c.PriorityLevels, 1),
		"default_priority_level is %d, must be 1 to %d", c.DefaultPriority, c.PriorityLevels)
	check(len(c.Queue) <= max(c.PriorityLevels, 1)+1,
		"there are queue policies for %d levels, priority_levels is %d",
		len(c.Queue)-1, c.PriorityLevels)
	check(c.QueueSize > 0, "queue size is %d, must be at least 1", c.QueueSize)
	check(c.QueueBytes > 0, "queue bytes is %d, must be at least 1", c.QueueBytes)
	check(c.MaxRuns >= 0, "runs at once is %d, must be 0 or more", c.MaxRuns)
	check(c.LatencyTarget >= 0, "latency_target is %v, must be 0 or more", c.LatencyTarget)
	return errors.Join(faults...)
}

// maxLevels bounds the priority levels: each has a queue that is looked at
// when a batch is taken.
const maxLevels = 64

// Policy decides how many rows to take. It reads no clock and keeps no state.
type Policy struct {
	Max       int           // rows of one run
	Delay     time.Duration // that the oldest request may wait for company
	Preferred []int
}

// Decide returns how many rows to take now, or how long to wait before asking
// again. rows are waiting, the oldest of them for age.
func (p Policy) Decide(rows int, age time.Duration) (take int, wait time.Duration) {
	if p.Delay <= age || rows >= p.Max {
		return min(rows, p.Max), 0
	}
	best := 0
	for _, size := range p.Preferred {
		if size <= rows && size > best {
			best = size
		}
	}
	if best > 0 {
		return best, 0
	}
	return 0, p.Delay - age
}
