package batch

import (
	"math/bits"
	"slices"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// steady chooses how many rows the engine gets, so that the number changes rarely. Guarded by
// Batcher.mu.
type steady struct {
	size  int // of the last run
	small int // runs since that would have fitted into half of it
	held  int // runs for which what has gathered is no reason to grow again
}

// shrinkAfter is how many runs in a row fit into half before the size is halved. A change costs
// as much as tens of runs of a small size.
const shrinkAfter = 64

// limit returns how many rows may be gathered for a run, of most at most. What gathers while the
// engine plans for half the size would otherwise have it go back at once, and so on.
func (s *steady) limit(most int) int {
	if s.held > 0 {
		return min(s.size, most)
	}
	return most
}

// pad returns how many rows the engine gets for a run, of most at most, and whether that is another
// number than before.
func (s *steady) pad(rows, most int) (size int, changed bool) {
	s.held = max(0, s.held-1)
	least := max(rows, min(most, 1<<bits.Len(uint(rows-1))))
	switch {
	case least > s.size:
		s.size, s.small = least, 0
		return s.size, true
	case 2*least > s.size:
		s.small = 0
	default:
		s.small++
	}
	if s.small < shrinkAfter {
		return s.size, false
	}
	s.size, s.small, s.held = max(least, (s.size+1)/2), 0, shrinkAfter
	return s.size, true
}

// canPad says whether rows of zeros can be made: strings have no size of their own, and what has
// no batch axis would see them.
func canPad(sig *tensor.Signature) bool {
	return !slices.ContainsFunc(sig.Inputs, func(s tensor.Spec) bool {
		return s.Datatype == tensor.Bytes
	}) && !slices.ContainsFunc(sig.Outputs, func(s tensor.Spec) bool { return s.BatchAxis < 0 })
}
