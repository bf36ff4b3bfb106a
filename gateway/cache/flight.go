package cache

import (
	"errors"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// ErrRetry is returned to followers when the leader has no outputs for them: its
// run failed, its time was over, its client left. The error was the leader's own
// and says nothing of another run, so each follower runs its request by itself.
var ErrRetry = errors.New("cache: the equal request that was waited for has no answer")

// Waiter follows a flight.
type Waiter interface {
	// Landed is called once, from the leader's goroutine. It must take the
	// Outcome, and not block.
	Landed()
}

// Flight is one run of a request that others wait for. Its leader must call
// Land, or the followers wait for ever.
type Flight struct {
	shard *shard
	key   key
	entry *entry

	// Guarded by shard.mu.
	followed bool // somebody may join
	landed   bool
	waiters  []Waiter

	outputs []tensor.Tensor // set once, before landed; nil for none
}

// Join has w told when the flight lands. It returns false when that has
// happened: the Outcome is there, and w is not told. A follower that does not
// wait any more stays joined; what it is told then is of no interest. The flight
// refers to w until it lands.
func (f *Flight) Join(w Waiter) (joined bool) {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	if f.landed {
		return false
	}
	f.waiters = append(f.waiters, w)
	return true
}

// Outcome returns the outputs of the leader's run, immutable and good for as
// long as they are referred to, or ErrRetry. It may be called once the flight
// has landed, any number of times.
func (f *Flight) Outcome() (outputs []tensor.Tensor, err error) {
	if f.outputs == nil {
		return nil, ErrRetry
	}
	return f.outputs, nil
}

// Land ends the flight. It copies outputs, keeps them where they fit, and tells
// all who joined. With an error nothing is kept and the followers get ErrRetry.
// Calling it again does nothing, so that the leader may defer it.
func (f *Flight) Land(now int64, outputs []tensor.Tensor, err error) {
	s := f.shard
	followed, landed := s.stateOf(f)
	if landed {
		return
	}
	var kept []tensor.Tensor
	if err == nil {
		fits := s.fits(f.entry.request + size(outputs))
		if !fits {
			s.rejected.Add(1)
		}
		if fits || followed {
			kept = clone(outputs) // equal requests still join meanwhile
		}
	}
	for _, w := range s.land(now, f, kept) {
		w.Landed()
	}
}
