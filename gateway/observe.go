package gateway

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/shadow"
	"github.com/millrace-ml/millrace/gateway/tap"
)

// Tap is where samples of some endpoints' requests go.
type Tap struct {
	Name      string
	Sink      *tap.Sink
	Endpoints []string // empty for all
	Percent   float64
	// Monitors says that the tap is for drift monitors: of endpoints that have some it gets
	// answered requests, with as many rows a second as route.Spec.Monitored says.
	Monitors bool
}

// on says whether the tap is for an endpoint.
func (t *Tap) on(e *route.Endpoint) bool {
	if t.Monitors && e.Monitored == 0 {
		return false
	}
	return len(t.Endpoints) == 0 || slices.Contains(t.Endpoints, e.Name)
}

// consumer is one who looks at an endpoint's requests: a tap or a shadow. None of
// them makes a request wait.
type consumer struct {
	sink   *tap.Sink
	mirror *shadow.Mirror // of requests that were answered
	share  uint64         // of 2^32, by the upper half of Exchange.lot
	pace   *pace          // of the rows of answered requests; nil for no bound
}

// pace lets so many rows a second pass, on average. It may be used concurrently.
type pace struct {
	interval int64        // nanoseconds between rows at full pace
	slack    int64        // how far ahead of it a burst may be
	next     atomic.Int64 // when the next is due, by the clock of the exchanges
}

// burst is how much of the time's rows may come at once.
const burst = 100 * time.Millisecond

func newPace(perSecond int) *pace {
	interval := int64(time.Second) / int64(perSecond)
	return &pace{interval: interval, slack: max(interval, int64(burst)) - interval}
}

// pass says whether a request at a time is within the pace (the generic cell rate algorithm). One
// with many rows passes as a whole, and holds up those after it. When others are in the way it
// does not pass, rather than to wait.
func (p *pace) pass(now int64, rows int) bool {
	next := p.next.Load()
	due := max(next, now)
	return due-now <= p.slack &&
		p.next.CompareAndSwap(next, due+p.interval*int64(max(rows, 1)))
}

// everything is the share of a consumer that gets all samples.
const everything = 1 << 32

func shareOf(percent float64) uint64 { return uint64(math.Round(percent / 100 * everything)) }

// A sample waits in a tap, a shadow, or both: all together hold at most so
// many, and so many bytes.
const maxSamples, maxSampleBytes = 8192, 256 << 20

// SetTaps says where samples of the endpoints of later tables go.
func (c *Core) SetTaps(taps []Tap) {
	c.routingMu.Lock()
	defer c.routingMu.Unlock()
	c.taps = taps
	c.tapsSet++
}

// SetLedger says who remembers the decisions of the endpoints of later tables.
func (c *Core) SetLedger(l *feedback.Ledger) { c.ledger.Store(l) }

// consumers lists who looks at an endpoint's requests. Callers hold routingMu.
func (c *Core) consumers(e *route.Endpoint) []consumer {
	var list []consumer
	for i := range c.taps {
		t := &c.taps[i]
		if !t.on(e) {
			continue
		}
		k := consumer{sink: t.Sink, share: shareOf(t.Percent)}
		if t.Monitors {
			k.pace = newPace(e.Monitored)
		}
		list = append(list, k)
	}
	for i := range e.Shadows {
		s := &e.Shadows[i]
		m, err := c.mirror(e, s)
		if err != nil {
			c.log.Error("no shadow", "error", err)
			continue
		}
		list = append(list, consumer{mirror: m, share: shareOf(s.Percent)})
	}
	return list
}

// shadowName names a shadow of an endpoint.
type shadowName struct{ endpoint, shadow string }

// mirrored is a shadow at work.
type mirrored struct {
	*shadow.Mirror
	spec    route.ShadowSpec // that it was made for
	version []byte           // with the alias resolved
}

// mirror returns the shadow at work for a table's. Callers hold routingMu.
func (c *Core) mirror(e *route.Endpoint, s *route.Shadow) (*shadow.Mirror, error) {
	name := shadowName{e.Name, s.Name}
	if m, ok := c.mirrors[name]; ok && m.spec == s.ShadowSpec &&
		string(m.version) == string(s.Version) {
		return m.Mirror, nil
	}
	cfg := shadow.DefaultConfig()
	cfg.Endpoint, cfg.Stable, cfg.Shadow = e.Name, e.Arms[0].Name, *s
	cfg.Label = func(err error) string {
		o, _ := Classify(err)
		return o.Label
	}
	m, err := shadow.New(cfg, c.models, c.log)
	if err == nil {
		c.mirrors[name] = mirrored{m, s.ShadowSpec, s.Version}
	}
	return m, err
}

// endMirrors ends the shadows that no endpoint has any more: those that were
// there before and are not in use. Callers hold routingMu.
func (c *Core) endMirrors(before map[shadowName]mirrored, r *routing) {
	used := make(map[*shadow.Mirror]bool)
	for _, e := range r.endpoints {
		for i := range e.consumers {
			used[e.consumers[i].mirror] = true
		}
	}
	for name, m := range c.mirrors {
		if !used[m.Mirror] {
			delete(c.mirrors, name)
		}
	}
	for _, m := range before {
		if !used[m.Mirror] {
			go func() { _ = m.Close(context.Background()) }() // waits as long as it takes
		}
	}
}

// observe offers a request that is over to those who look at the endpoint's.
func (c *Core) observe(x *Exchange) {
	if x.Version == nil {
		return
	}
	answered := x.label == 0
	var s *tap.Sample
	for i := range x.endpoint.consumers {
		k := &x.endpoint.consumers[i]
		switch {
		case !answered && (k.mirror != nil || k.pace != nil):
		case k.share < everything && x.lot>>32 >= k.share:
		case k.pace != nil && !k.pace.pass(x.end, x.Ticket.Rows):
		default:
			if s == nil {
				if s = c.sample(x); s == nil {
					c.metrics.unsampled.Add(1)
					return
				}
			}
			k.offer(s)
		}
	}
	if s != nil {
		s.Release()
	}
}

// decision returns what answered. The ledger keeps it: the requests of a route
// share one for as long as the same version answers them, and those of a trial as
// long as its weights stay.
func (x *Exchange) decision() *feedback.Decision {
	shared, source := &x.route.decision, x.endpoint.trial.source(x)
	if source != nil {
		shared = &x.route.counted
	}
	d := shared.Load()
	if d == nil || d.Version != x.Version.Version() || d.Model != x.Version.Name() ||
		d.Trial != source {
		d = &feedback.Decision{Endpoint: x.endpoint.Name, Arm: x.route.name,
			Model: x.Version.Name(), Version: x.Version.Version(), Trial: source}
		shared.Store(d)
	}
	return d
}

func (k *consumer) offer(s *tap.Sample) {
	if k.sink != nil {
		k.sink.Offer(s)
	} else {
		k.mirror.Offer(s)
	}
}

// sample copies the request and its answer; nil when there are too many copies.
func (c *Core) sample(x *Exchange) *tap.Sample {
	s := c.samples.Take(x.ID(), x.Request.Inputs, x.Answer.Outputs)
	if s == nil {
		return nil
	}
	t := &x.Ticket.Times
	s.Endpoint, s.Model, s.Version = x.endpoint.Name, x.Version.Name(), x.Version.Version()
	s.Route, s.Protocol, s.Propensity = x.route.name, protocolNames[x.Protocol], x.propensity
	s.Outcome, s.Status = c.metrics.labels[x.label], x.status
	s.Total = time.Duration(x.end - x.Start)
	s.Time = c.epoch.Add(time.Duration(x.Start))
	s.Queue, s.Compute = 0, 0
	if x.label == 0 {
		s.Queue = time.Duration(t.ComputeStart - t.Queued)
		s.Compute = time.Duration(t.End - t.ComputeStart)
	}
	return s
}

// offerFeedback lets the endpoint's taps know of a reward or a label.
func (c *Core) offerFeedback(f *tap.Feedback) {
	e := c.routing.Load().endpoints[f.Endpoint]
	if e == nil {
		return
	}
	for i := range e.consumers {
		if k := &e.consumers[i]; k.sink != nil {
			k.sink.OfferFeedback(f)
		}
	}
}
