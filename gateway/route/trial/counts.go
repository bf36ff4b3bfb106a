// Package trial counts what a rollout decides on: the requests of an endpoint that
// were sent to the canary or to the stable version by chance or by a sticky key,
// and what became of them.
//
// The gateway counts, the control plane looks; neither waits for the other.
// Requests whose arm a rule or the client chose say nothing of the arms and are
// left out. A [Recorder] counts the requests of one rollout, with a [Counter] for
// each weight of the canary. [Counts] is what it has counted, a plain value that
// its holder guards.
package trial

import (
	"cmp"
	"math"
	"slices"
)

// Bounds are the upper bounds of the buckets of latencies, in seconds: from 10 us
// to 100 s, 8 to an octave. The last bucket also has all that is longer.
var Bounds = bounds()

// firstBound is that of the first bucket, and buckets are as many as it takes to
// 100 s.
const firstBound, buckets = 10e-6, 188

func bounds() []float64 {
	b := make([]float64, buckets)
	for i := range b {
		b[i] = firstBound * math.Exp2(float64(i)/8)
	}
	return b
}

// Counts is what is known of a rollout's requests. Counts of several processes, or
// of one before and after a restart, add up.
type Counts struct {
	Cells []Cell `json:"cells,omitempty"` // one for each propensity, in ascending order
	Row   uint64 `json:"row,omitempty"`   // the longest row of errors of the canary
	// Requests that the stable version answered since the canary could not serve.
	Fallbacks uint64 `json:"fallbacks,omitempty"`
}

// Cell is the requests that went to the canary with the same probability. At 1 there
// is nothing to compare, but the canary's own errors count.
type Cell struct {
	Rho    float64 `json:"rho"` // that probability, above 0
	Canary Arm     `json:"canary"`
	Stable Arm     `json:"stable"`
}

// Arm is what became of the requests of one arm. Where users stick to their arm,
// all but Requests counts users: each at its first request, error or answer.
type Arm struct {
	Requests uint64 `json:"requests"` // that are over, but those that fell back
	Picked   uint64 `json:"picked"`   // counted when they were sent to the arm
	// Errors are failed runs, deadlines and faults of the server, not what is the
	// client's fault or was refused under overload.
	Errors uint64 `json:"errors"`
	// Answers with a NaN or an infinity among their outputs.
	NonFinite uint64   `json:"non_finite,omitempty"`
	Latency   []uint64 `json:"latency,omitempty"` // answers by Bounds
}

// Reward is a reward that came by feedback.
type Reward struct {
	Rho    float64 // probability with which its request went to the canary
	Canary bool    // it did
	Value  float64
}

// Merge adds what was counted elsewhere or before.
func (c *Counts) Merge(other Counts) {
	for i := range other.Cells {
		o := &other.Cells[i]
		at := c.cell(o.Rho)
		at.Canary.merge(&o.Canary)
		at.Stable.merge(&o.Stable)
	}
	c.Row = max(c.Row, other.Row)
	c.Fallbacks += other.Fallbacks
}

// cell returns the cell of a propensity, which is made where there is none.
func (c *Counts) cell(rho float64) *Cell {
	i, found := slices.BinarySearchFunc(c.Cells, rho, func(k Cell, rho float64) int {
		return cmp.Compare(k.Rho, rho)
	})
	if !found {
		c.Cells = slices.Insert(c.Cells, i, Cell{Rho: rho})
	}
	return &c.Cells[i]
}

func (a *Arm) merge(o *Arm) {
	a.Requests += o.Requests
	a.Picked += o.Picked
	a.Errors += o.Errors
	a.NonFinite += o.NonFinite
	if more := len(o.Latency) - len(a.Latency); more > 0 {
		a.Latency = append(slices.Clone(a.Latency), make([]uint64, more)...)
	}
	for i, n := range o.Latency {
		a.Latency[i] += n
	}
}

// Clone returns a copy that shares nothing with c.
func (c Counts) Clone() Counts {
	var k Counts
	k.Merge(c)
	return k
}

// Arms returns the sums over all cells.
func (c Counts) Arms() (canary, stable Arm) {
	for i := range c.Cells {
		canary.merge(&c.Cells[i].Canary)
		stable.merge(&c.Cells[i].Stable)
	}
	return canary, stable
}
