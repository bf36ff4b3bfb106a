package profile

import (
	"math"
	"slices"
	"time"
)

// Line is t(b) = Alpha + Beta*b, the time of a run of b rows.
type Line struct {
	Alpha time.Duration `json:"alpha_ns"`
	Beta  time.Duration `json:"beta_ns"`
	// Off is how far the worst point lies from the line, as a part of the point.
	Off float64 `json:"worst_deviation"`
}

// Fit lays the line through the points by least squares of the relative
// deviations, so that the time of small runs counts as much as that of large
// ones. ok is false for points of less than two sizes.
func Fit(points []Point) (l Line, ok bool) {
	var w, b, t, bb, bt float64
	for _, p := range points {
		weight := 1 / (float64(p.Time) * float64(p.Time))
		rows := float64(p.Rows)
		w += weight
		b += weight * rows
		t += weight * float64(p.Time)
		bb += weight * rows * rows
		bt += weight * rows * float64(p.Time)
	}
	det := w*bb - b*b
	if len(points) < 2 || det <= 1e-9*w*bb {
		return l, false
	}
	beta := max(0, (w*bt-b*t)/det)
	alpha := (t - beta*b) / w
	if alpha < 0 { // the best line through the origin
		alpha, beta = 0, bt/bb
	}
	l.Alpha, l.Beta = time.Duration(alpha), time.Duration(beta)
	for _, p := range points {
		off := math.Abs(alpha+beta*float64(p.Rows)-float64(p.Time)) / float64(p.Time)
		l.Off = max(l.Off, off)
	}
	return l, true
}

// worth is the part of the best throughput that a setup of shorter runs must
// reach to be preferred: below this, waiting is paid for with nothing.
const worth = 0.98

// Choose returns the setup with the best throughput whose runs are short
// enough for the latency target; 0 is no target. A request may just miss one
// run and be in the next, so two runs must fit into the target. ok is false
// when no setup keeps to it, and the one with the shortest run comes back.
func Choose(points []Point, target time.Duration) (best Point, ok bool) {
	fits := func(p *Point) bool { return target <= 0 || 2*p.Time <= target }
	top := 0.0
	for i := range points {
		if p := &points[i]; fits(p) {
			top = max(top, p.RowsPerSecond)
		}
	}
	for _, p := range points {
		good := fits(&p) && p.RowsPerSecond >= worth*top
		if top == 0 {
			good = true
		}
		if good && (best.Rows == 0 || p.Time < best.Time) {
			best = p
		}
	}
	return best, top > 0
}

// quiet is the share of their cores that runs have on a machine that does
// nothing else; the clock and the kernel take the rest.
const quiet = 0.9

// Disturbed says whether other programs had a part of the cores while the
// points were measured: the typical point's share tells.
func Disturbed(points []Point) bool {
	var shares []float64
	for _, p := range points {
		if p.Threads == 1 {
			shares = append(shares, p.CPU)
		}
	}
	slices.Sort(shares)
	return len(shares) > 0 && shares[len(shares)/2] < quiet
}
