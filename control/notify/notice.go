package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/registry/fetch"
)

// Bounds of a Notice.
const (
	queueSize = 256            // events that wait for one receiver
	maxAge    = 24 * time.Hour // after which nobody wants to be told any more
	maxAsked  = time.Hour      // that a receiver can make us wait
)

// Notice tells one receiver about events, in order, each at least once if it can be
// reached within a day. What it cannot tell is counted and logged, and is nobody
// else's trouble. Close it after use.
type Notice struct {
	to      *caller
	log     *slog.Logger
	queue   chan Event
	ctx     context.Context // of the calls; done when Close has waited long enough
	cancel  context.CancelFunc
	closing chan struct{}
	close   sync.Once
	done    chan struct{} // closed when run has ended

	sent, dropped, refused atomic.Uint64
	disabled               atomic.Bool
}

// NoticeStats counts events since the start.
type NoticeStats struct {
	Sent     uint64
	Dropped  uint64 // too many or too old, or the receiver was disabled
	Refused  uint64 // the receiver does not want them as they are
	Waiting  int
	Disabled bool // the receiver has answered 410 Gone
}

// NewNotice starts to send what Send is given, to be ended by Close.
func NewNotice(r Receiver, log *slog.Logger) (*Notice, error) {
	r.Fetch.Attempts = 1 // deliver repeats itself, with a new signature each time
	c, err := newCaller(r)
	if err != nil {
		return nil, err
	}
	n := &Notice{to: c, log: log.With("receiver", r.Name), queue: make(chan Event, queueSize),
		closing: make(chan struct{}), done: make(chan struct{})}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	go n.run()
	return n, nil
}

// Stats returns what has become of the events so far.
func (n *Notice) Stats() NoticeStats {
	return NoticeStats{Sent: n.sent.Load(), Dropped: n.dropped.Load(), Refused: n.refused.Load(),
		Waiting: len(n.queue), Disabled: n.disabled.Load()}
}

// Send has an event sent soon, and never waits. When too many wait already, the oldest
// of them is dropped. Its error says that the event itself cannot be sent.
func (n *Notice) Send(e Event) error {
	if err := e.Validate(); err != nil {
		return err
	}
	select {
	case <-n.closing:
		n.dropped.Add(1)
		return nil
	default:
	}
	for {
		select {
		case n.queue <- e:
			return nil
		default:
		}
		select {
		case <-n.queue:
			n.dropped.Add(1)
		default:
		}
	}
}

// Close sends what waits, each once more at most, as long as ctx allows.
func (n *Notice) Close(ctx context.Context) error {
	n.close.Do(func() { close(n.closing) })
	defer n.to.client.Close()
	defer n.cancel()
	select {
	case <-n.done:
		return nil
	case <-ctx.Done():
		n.cancel()
		<-n.done
		return fmt.Errorf("notify: cannot tell %s all that waits: %w", n.to.Name,
			context.Cause(ctx))
	}
}

func (n *Notice) run() {
	defer close(n.done)
	for {
		select {
		case e := <-n.queue:
			n.deliver(e)
			continue
		case <-n.closing:
		}
		for {
			select {
			case e := <-n.queue:
				n.deliver(e)
				continue
			default:
			}
			return
		}
	}
}

// deliver sends an event until that is done or of no use.
func (n *Notice) deliver(e Event) {
	for failures := 1; ; failures++ {
		if n.disabled.Load() || n.ctx.Err() != nil {
			n.dropped.Add(1)
			return
		}
		_, err := n.to.post(n.ctx, e)
		wait, next := judge(err)
		switch {
		case next == sent:
			n.sent.Add(1)
			if failures > 1 {
				n.log.Info("the receiver takes notices again")
			}
			return
		case next == refused:
			n.refused.Add(1)
			n.log.Warn("a notice is refused", "event", e.ID, "reason", err)
			return
		case next == gone:
			n.disabled.Store(true)
			n.log.Error("the receiver is disabled: it wants nothing more", "reason", err)
			continue
		case time.Since(e.Time) > maxAge:
			n.dropped.Add(1)
			n.log.Warn("a notice is dropped: it is too old", "event", e.ID, "reason", err)
			return
		case failures == 1:
			n.log.Warn("the receiver does not take notices", "event", e.ID, "reason", err)
		}
		if !n.wait(pause(n.to.Fetch, failures, wait, rand.Float64())) {
			n.dropped.Add(1)
			return
		}
	}
}

// wait says whether to try again after a pause.
func (n *Notice) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-n.closing:
		return false
	}
}

// fate is what becomes of an event after a call.
type fate int

const (
	sent fate = iota
	later
	refused
	gone
)

// judge looks at the error of a call, and says for how long the receiver wants to be
// left alone.
func judge(err error) (time.Duration, fate) {
	fault, ok := errors.AsType[*fetch.Error](err)
	switch {
	case err == nil:
		return 0, sent
	case !ok:
		return 0, refused
	case fault.Kind == fetch.ErrTooLarge, fault.Kind == fetch.ErrCut,
		fault.Kind == fetch.ErrContent:
		return 0, sent // the status was one of success, and the body does not matter
	case fault.Kind == fetch.ErrRefused || fault.Kind == fetch.ErrRedirect:
		return 0, refused
	case fault.Kind != fetch.ErrStatus:
		return 0, later
	}
	switch s := fault.Status; {
	case s == http.StatusGone:
		return 0, gone
	case s >= 500, s == http.StatusRequestTimeout, s == http.StatusTooEarly,
		s == http.StatusTooManyRequests:
		return min(fault.RetryAfter, maxAsked), later
	}
	return 0, refused
}

// pause returns how long to wait after so many failures in a row: between half and all
// of backoff * 2^(failures-1), as random says, but as long as the receiver asks.
func pause(c fetch.Config, failures int, asked time.Duration, random float64) time.Duration {
	most := c.Backoff
	for i := 1; i < failures && most < c.MaxBackoff; i++ {
		most *= 2
	}
	most = min(most, c.MaxBackoff)
	return max(most/2+time.Duration(random*float64(most/2)), asked)
}
