package batch

import (
	"maps"
	"slices"
	"time"
)

// Duration counts events and adds up their time.
type Duration struct {
	Count uint64
	NS    uint64
}

func (d *Duration) add(count int, ns int64) {
	d.Count += uint64(count)
	d.NS += uint64(max(0, ns))
}

// SizeStats are the times of the runs of one size.
type SizeStats struct {
	Rows                                      int
	ComputeInput, ComputeInfer, ComputeOutput Duration
}

// Stats is what a batcher has counted since it was made. The durations have
// the meaning of the statistics extension: one count a request, with the time
// that the request waited or that its whole run took.
type Stats struct {
	Success, Fail, Queue                      Duration
	ComputeInput, ComputeInfer, ComputeOutput Duration
	Inferences                                uint64 // rows
	Executions                                uint64 // runs
	Rejected, Expired, Canceled               uint64 // requests that were not run
	LastRun                                   time.Time
	Sizes                                     []SizeStats // by size

	Waiting      int   // requests in the queue
	WaitingBytes int64 // of their tensors
	Running      int   // runs under way
	BestSize     int   // rows of the largest run that is worth it, as learned
	Runs         int   // runs that may be under way at once, as learned
	// Alpha and Beta are the learned cost t(b) = alpha + beta*b of a run of b rows.
	Alpha, Beta time.Duration
}

// counters is what is counted. Guarded by Batcher.mu.
type counters struct {
	success, fail, queue        Duration
	input, infer, output        Duration
	inferences, executions      uint64
	rejected, expired, canceled uint64
	failed                      uint64
	lastRun                     int64
	sizes                       map[int]*SizeStats
}

// maxSizes bounds the sizes that are told apart.
const maxSizes = 1024

// leave counts a request that has left before it was run.
func (c *counters) leave(err error) {
	if err == ErrDeadline {
		c.expired++
	} else {
		c.canceled++
	}
}

// add counts a run that has ended.
func (c *counters) add(r *run) {
	n := len(r.tickets)
	c.lastRun = r.times.End
	if r.err != nil {
		for _, t := range r.tickets {
			c.fail.add(1, r.times.End-t.Times.Queued)
		}
		return
	}
	var total, queued int64
	for _, t := range r.tickets {
		total += r.times.End - t.Times.Queued
		queued += t.Times.ComputeStart - t.Times.Queued
	}
	began := r.tickets[0].Times.ComputeStart
	in := r.times.InputEnd - began
	run := r.times.OutputStart - r.times.InputEnd
	out := r.times.End - r.times.OutputStart
	c.success.add(n, total)
	c.queue.add(n, queued)
	c.input.add(n, in*int64(n))
	c.infer.add(n, run*int64(n))
	c.output.add(n, out*int64(n))
	c.inferences += uint64(r.rows)
	c.executions++
	s := c.sizes[r.rows]
	if s == nil {
		if c.sizes == nil {
			c.sizes = make(map[int]*SizeStats)
		}
		if len(c.sizes) >= maxSizes {
			return
		}
		s = &SizeStats{Rows: r.rows}
		c.sizes[r.rows] = s
	}
	s.ComputeInput.add(1, in)
	s.ComputeInfer.add(1, run)
	s.ComputeOutput.add(1, out)
}

// Stats returns what has been counted.
func (b *Batcher) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &b.stats
	s := Stats{
		Success: c.success, Fail: c.fail, Queue: c.queue,
		ComputeInput: c.input, ComputeInfer: c.infer, ComputeOutput: c.output,
		Inferences: c.inferences, Executions: c.executions,
		Rejected: c.rejected, Expired: c.expired, Canceled: c.canceled,
		Waiting: b.q.count, WaitingBytes: b.q.bytes, Running: b.running,
		BestSize: b.limit(), Runs: b.costs.plan.runs,
	}
	s.Fail.Count += c.failed
	if c.lastRun != 0 {
		s.LastRun = start.Add(time.Duration(c.lastRun))
	}
	alpha, beta, _ := b.costs.line()
	s.Alpha, s.Beta = time.Duration(alpha), time.Duration(beta)
	for _, rows := range slices.Sorted(maps.Keys(c.sizes)) {
		s.Sizes = append(s.Sizes, *c.sizes[rows])
	}
	return s
}
