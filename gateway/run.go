package gateway

import (
	"errors"
	"time"

	"github.com/millrace-ml/millrace/gateway/cache"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// flight is a request's part in the response cache.
type flight struct {
	cached *cache.Cache  // nil for a model whose answers are not kept
	of     *cache.Flight // that it leads or waits for; nil for none
	lead   bool          // it has to land
	state  cacheState
}

// alone makes the request run its model by itself: another's run gave no answer.
func (f *flight) alone() { *f = flight{cached: f.cached, state: cacheMiss} }

// cacheState is what the answer's header says of the cache.
type cacheState uint8

const (
	cacheNone   cacheState = iota // the model has no cache
	cacheMiss                     // the model was run
	cacheHit                      // an answer that was kept
	cacheShared                   // the answer to an equal request that was under way
)

var cacheStates = [...][]byte{nil, []byte("miss"), []byte("hit"), []byte("shared")}

// Infer runs the decoded request. When it returns nil, x.Answer is set.
func (c *Core) Infer(x *Exchange) error {
	if err := c.prepare(x); err != nil {
		return err
	}
	if outputs := c.look(x); outputs != nil {
		x.collect(outputs)
		return nil
	}
	if f := &x.flight; f.of != nil && !f.lead {
		outputs, err := x.share()
		if !errors.Is(err, cache.ErrRetry) {
			if err == nil {
				x.collect(outputs)
			}
			return err
		}
		f.alone()
	}
	x.Ticket.Alone = c.InFlight() == 1
	return x.landed(x.Version.Do(&x.Ticket))
}

// submit is Infer for a request with a Waiter, which calls outcome. It says
// whether the answer is there at once.
func (c *Core) submit(x *Exchange, w Waiter) (answered bool, err error) {
	if err := c.prepare(x); err != nil {
		return false, err
	}
	if outputs := c.look(x); outputs != nil {
		x.collect(outputs)
		return true, nil
	}
	x.Ticket.Waiter = w
	if f := &x.flight; f.of != nil && !f.lead {
		if f.of.Join(w) {
			return false, nil
		}
		outputs, err := x.joined()
		if err == nil {
			x.collect(outputs)
			return true, nil
		}
		f.alone()
	}
	return false, x.Version.Submit(&x.Ticket)
}

// Waiter is who submitted a request: told of the end of its run, or of the
// run of an equal one that it waits for.
type Waiter interface {
	batch.Waiter
	cache.Waiter
}

// outcome ends a submit: when it returns nil, x.Answer is set.
func (x *Exchange) outcome() error { return x.landed(model.Outcome(&x.Ticket)) }

// landed takes the outputs of the ticket's run, or its error, and gives them to
// those who wait for the same.
func (x *Exchange) landed(err error) error {
	if x.flight.lead {
		x.flight.lead = false
		now := batch.Now()
		x.flight.of.Land(now, x.Ticket.Outputs, err)
		x.began.cacheMiss.ns.Add(uint64(batch.Now() - now))
	}
	if err == nil {
		x.collect(x.Ticket.Outputs)
	}
	return err
}

// look returns the outputs that are kept for an equal request, or sets the
// flight that will have them.
func (c *Core) look(x *Exchange) []tensor.Tensor {
	kept := c.caches.of(x.Version)
	if kept == nil {
		return nil
	}
	now := batch.Now()
	f := &x.flight
	f.cached, f.state = kept, cacheMiss
	var outputs []tensor.Tensor
	outputs, f.of, f.lead = kept.Look(now, x.Version.Digest(), x.Request.Inputs)
	end := batch.Now()
	switch {
	case outputs != nil:
		f.state = cacheHit
		x.began.cacheHit.add(end - now)
		x.Ticket.Times = batch.Times{Queued: now, ComputeStart: now, InputEnd: now,
			OutputStart: now, End: end}
	case f.of == nil || f.lead:
		x.began.cacheMiss.add(end - now)
	}
	return outputs
}

// landing is a Waiter for a goroutine that can wait.
type landing chan struct{}

// Landed implements cache.Waiter.
func (l landing) Landed() { close(l) }

// share waits for the run of an equal request.
func (x *Exchange) share() ([]tensor.Tensor, error) {
	done := make(landing)
	if !x.flight.of.Join(done) {
		return x.joined()
	}
	var late <-chan time.Time
	if end := x.Ticket.Deadline; end != 0 {
		timer := time.NewTimer(time.Duration(end - batch.Now()))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-done:
		return x.joined()
	case <-late:
		return nil, batch.ErrDeadline
	case <-x.Ticket.Cancel:
		return nil, batch.ErrCanceled
	}
}

// joined returns what became of the run of an equal request.
func (x *Exchange) joined() ([]tensor.Tensor, error) {
	outputs, err := x.flight.of.Outcome()
	if err != nil {
		return nil, err
	}
	x.flight.state = cacheShared
	now := batch.Now()
	t := &x.Ticket.Times
	t.Queued = max(t.Queued, x.Start)
	t.ComputeStart, t.InputEnd, t.OutputStart, t.End = now, now, now, now
	if x.Ticket.Deadline != 0 && x.Ticket.Deadline < now {
		return nil, batch.ErrDeadline
	}
	x.began.cacheHit.add(now - t.Queued)
	return outputs, nil
}

// prepare fills in the ticket.
func (c *Core) prepare(x *Exchange) error {
	r, t := &x.Request, &x.Ticket
	if r.Sequence {
		return ErrUnsupported
	}
	x.Deadline(int64(c.cfg.RequestTimeout))
	if r.TimeoutMicros > 0 {
		t.Timeout = x.Start + int64(min(r.TimeoutMicros, 1<<53)*1000)
	}
	t.Priority = int(min(r.Priority, 1<<20))
	t.Inputs = r.Inputs
	if e := x.endpoint; e != nil {
		if t.Priority == 0 {
			t.Priority = e.Limits.Priority
		}
		return e.admitRows(x)
	}
	return nil
}

// collect makes the answer.
func (x *Exchange) collect(outputs []tensor.Tensor) {
	x.Answer.Model, x.Answer.Version = x.Version.Name(), x.Version.Version()
	x.Answer.Sig, x.Answer.Outputs = x.Version.Signature(), outputs
	if x.endpoint != nil {
		x.Answer.Model = x.endpoint.Name
	}
}

// leave ends the Exchange's part in an endpoint and in a cache.
func (c *Core) leave(x *Exchange) {
	if x.flight.lead {
		x.flight.of.Land(batch.Now(), nil, cache.ErrRetry)
	}
	x.flight = flight{}
	if e := x.endpoint; e != nil {
		if len(e.consumers) > 0 {
			c.observe(x)
		}
		e.leave(x, x.label == 0)
		x.endpoint, x.route, x.permit = nil, nil, nil
		x.choice, x.cookie = route.Choice{}, x.cookie[:0]
	}
	x.id, x.dialect, x.label = x.id[:0], dialectOIP, 0
}
