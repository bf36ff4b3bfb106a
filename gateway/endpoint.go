package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"golang.org/x/time/rate"

	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Query is what a request asks for before its body is read.
type Query struct {
	// Name of an endpoint or a model. Where it is empty the header tells, or there is only one.
	Name []byte
	// Version is a version or "@alias" that the request insists on; empty for none.
	Version []byte
	Headers route.Headers
}

// headerEndpoint names the endpoint in protocols whose paths do not.
const headerEndpoint = "x-millrace-endpoint"

// routing is the endpoints that are served. It is immutable.
type routing struct {
	table     *route.Table
	endpoints map[string]*endpoint
	taps      int // which that were set its endpoints have
}

// endpoint is one endpoint as it is served: the table's with what is counted.
type endpoint struct {
	*route.Endpoint
	*endpointState
	arms      []*routeState // by arm
	pinned    *routeState   // of requests that insist on a version
	unrouted  *routeState   // of requests that were refused before
	consumers []consumer
	ledger    *feedback.Ledger // nil for none
	trial     *onTrial         // nil for none
}

// endpointState is what goes on when the table changes.
type endpointState struct {
	limits   route.LimitSpec // of the limiters
	inFlight atomic.Int64
	requests *rate.Limiter                        // nil for no bound
	rows     *rate.Limiter                        // nil for no bound
	adaptive adaptivelimiter.AdaptiveLimiter[any] // nil for a fixed bound
	routes   map[string]*routeState               // by name. Guarded by Core.routingMu.
	scoring  atomic.Pointer[scoring]              // nil for none
}

// routeState is what is counted of an endpoint's requests with one route.
type routeState struct {
	name      string
	header    []byte          // the name as headers have it
	outcomes  []atomic.Uint64 // by label
	fallbacks atomic.Uint64   // picks of a version that could not serve: the stable one did
	request   histogram
	// For the last version that answered, and those whose rewards count in a trial.
	decision, counted atomic.Pointer[feedback.Decision]
}

// Names of the routes that are no arms.
const (
	routePinned   = "pinned"
	routeUnrouted = ""
)

// SetTable takes over new endpoints. Requests under way go on by the old ones.
func (c *Core) SetTable(t *route.Table) {
	c.routingMu.Lock()
	defer c.routingMu.Unlock()
	c.publish(t)
}

// SetWeights moves the weights of an endpoint's arms, if it still has as many.
func (c *Core) SetWeights(endpoint string, weights []int) {
	c.routingMu.Lock()
	defer c.routingMu.Unlock()
	t := c.routing.Load().table
	if e := t.Endpoint([]byte(endpoint)); e != nil && len(e.Arms) == len(weights) {
		c.publish(t.WithWeights(endpoint, weights))
	}
}

// publish makes a routing of the table. Callers hold routingMu.
func (c *Core) publish(t *route.Table) {
	before := c.routing.Load()
	shadows := maps.Clone(c.mirrors)
	next := &routing{table: t, endpoints: make(map[string]*endpoint)}
	next.taps = c.tapsSet
	for _, spec := range t.Endpoints() {
		if e := before.endpoints[spec.Name]; e != nil && e.Endpoint == spec &&
			before.taps == next.taps && e.ledger == c.ledger.Load() {
			next.endpoints[spec.Name] = e // as it was
			continue
		}
		e := &endpoint{Endpoint: spec, consumers: c.consumers(spec), ledger: c.ledger.Load()}
		old := before.endpoints[spec.Name]
		e.trial = newTrial(spec, old)
		if old != nil && old.limits == spec.Limits {
			e.endpointState = old.endpointState
		} else {
			e.endpointState = newEndpointState(spec.Limits)
			e.scoring.Store(c.scorers[spec.Name])
			if old != nil {
				e.routes = old.routes
			}
		}
		for i := range spec.Arms {
			e.arms = append(e.arms, e.route(c, spec.Arms[i].Name))
		}
		e.pinned, e.unrouted = e.route(c, routePinned), e.route(c, routeUnrouted)
		next.endpoints[spec.Name] = e
	}
	c.routing.Store(next)
	c.endMirrors(shadows, next)
}

// Table returns the endpoints in force; nil before the first SetTable.
func (c *Core) Table() *route.Table { return c.routing.Load().table }

// CheckTable returns an error that lists the arms and shadows of the endpoints in
// force which cannot serve now.
func (c *Core) CheckTable() error {
	return c.Table().Check(func(name, version []byte) (*tensor.Signature, error) {
		v, err := c.models.Acquire(name, version)
		if err != nil {
			return nil, err
		}
		defer v.Release()
		return v.Signature(), nil
	})
}

// Close ends the shadows, at the latest when ctx is done. No request may be under way.
func (c *Core) Close(ctx context.Context) {
	c.routingMu.Lock()
	defer c.routingMu.Unlock()
	for _, m := range c.mirrors {
		if err := m.Close(ctx); err != nil {
			c.log.Warn("a shadow is left behind", "error", err)
		}
	}
	clear(c.mirrors)
}

func newEndpointState(l route.LimitSpec) *endpointState {
	s := &endpointState{limits: l, routes: make(map[string]*routeState)}
	limiter := func(perSecond float64) *rate.Limiter {
		if perSecond == 0 {
			return nil
		}
		return rate.NewLimiter(rate.Limit(perSecond), int(math.Ceil(min(perSecond, 1e9))))
	}
	s.requests, s.rows = limiter(l.Requests), limiter(l.Rows)
	if l.Adaptive {
		most := uint(maxAdaptive)
		if l.Concurrency > 0 {
			most = uint(l.Concurrency)
		}
		s.adaptive = adaptivelimiter.NewBuilder[any]().
			WithLimits(1, most, min(firstAdaptive, most)).Build()
	}
	return s
}

// An adaptive bound begins at firstAdaptive requests and is never above
// maxAdaptive where the endpoint does not say how many.
const firstAdaptive, maxAdaptive = 20, 1000

// route returns what is counted of one route. Callers hold Core.routingMu.
func (s *endpointState) route(c *Core, name string) *routeState {
	if s.routes[name] == nil {
		s.routes[name] = &routeState{name: name, header: headerText(name),
			outcomes: make([]atomic.Uint64, len(c.metrics.labels))}
	}
	return s.routes[name]
}

// Begin opens an Exchange and pins the version that answers.
func (c *Core) Begin(q Query, p Protocol) (*Exchange, error) {
	x, err := c.Open(p)
	if err != nil {
		return nil, err
	}
	if err := c.resolve(x, &q); err != nil {
		c.Finish(x, err)
		return nil, err
	}
	return x, nil
}

// resolve finds what the request asks for: an endpoint, or a model by its name.
func (c *Core) resolve(x *Exchange, q *Query) error {
	r := c.routing.Load()
	if len(q.Name) == 0 && x.Protocol.unnamed() {
		if err := c.choose(r, q); err != nil {
			return err
		}
	}
	e := r.endpoints[string(q.Name)]
	if e == nil {
		version := q.Version
		if len(version) > 0 {
			version = r.table.Version(string(q.Name), version)
		}
		return c.pin(x, q.Name, version)
	}
	x.endpoint, x.route = e, e.unrouted
	e.inFlight.Add(1)
	if err := e.admit(x); err != nil {
		return err
	}
	x.setID(q.Headers)
	x.Deadline(int64(e.Limits.Timeout))
	if len(q.Version) > 0 {
		x.route, x.propensity = e.pinned, 1
		m := e.Arms[0].Model
		return c.pin(x, m, r.table.Version(string(m), q.Version))
	}
	choice := e.Pick(q.Headers)
	if choice.NeedsCookie {
		x.cookie, choice = e.NewCookie(x.cookie[:0])
	}
	return c.take(x, choice)
}

// take pins the version of an arm. One that cannot serve leaves its requests to
// the stable version.
func (c *Core) take(x *Exchange, choice route.Choice) error {
	e := x.endpoint
	x.choice, x.propensity = choice, choice.Propensity
	x.route = e.arms[choice.Arm]
	if e.trial != nil {
		e.trial.picked(&x.choice)
	}
	arm := &e.Arms[choice.Arm]
	err := c.pin(x, arm.Model, arm.Version)
	if err == nil || choice.Arm == 0 || !unavailable(err) {
		return err
	}
	x.route.fallbacks.Add(1)
	x.route, x.propensity = e.arms[0], 0
	return c.pin(x, e.Arms[0].Model, e.Arms[0].Version)
}

func unavailable(err error) bool {
	return errors.Is(err, model.ErrNotReady) || errors.Is(err, model.ErrUnknownModel)
}

// pin takes a version of a model for the request, in place of the one it has.
func (c *Core) pin(x *Exchange, name, version []byte) error {
	v, err := c.models.Acquire(name, version)
	if err != nil {
		return err
	}
	if x.Version != nil {
		x.Version.Release()
	}
	x.Version = v
	x.began = c.metrics.version(v)
	return nil
}

// pickAgain picks by the key among the decoded inputs. It says whether another
// version answers than the one that they were decoded for.
func (c *Core) pickAgain(x *Exchange) (moved bool, err error) {
	before := x.Version
	x.choice.NeedsKey = false
	err = c.take(x, x.endpoint.PickKey(x.endpoint.Key(x.Request.Inputs)))
	return x.Version != before, err
}

// errWhich is returned for a request that does not say what it is for.
var errWhich = errors.New("no endpoint is named")

// choose finds the name of the endpoint where the path has none.
func (c *Core) choose(r *routing, q *Query) error {
	if name := header(q.Headers, headerEndpoint); len(name) > 0 {
		q.Name = name
		return nil
	}
	names := c.callable(r)
	if len(names) == 1 {
		q.Name = []byte(names[0])
		return nil
	}
	return fmt.Errorf("%w: say which one is asked, by the path /NAME/invocations or "+
		"/predict/NAME, or by the header %s; there are: %s", errWhich, headerEndpoint,
		strings.Join(names, ", "))
}

// callable lists the endpoints; where there are none, the models.
func (c *Core) callable(r *routing) []string {
	var names []string
	for _, e := range r.table.Endpoints() {
		names = append(names, e.Name)
	}
	if names == nil {
		c.models.Each(func(v *model.Version) {
			if len(names) == 0 || names[len(names)-1] != v.Name() {
				names = append(names, v.Name())
			}
		})
	}
	return names
}

func header(h route.Headers, name string) []byte {
	if h == nil {
		return nil
	}
	return h.Header(name)
}

// admit counts the request in, or says which bound it is over.
func (e *endpoint) admit(x *Exchange) error {
	l := &e.Limits
	if e.adaptive != nil {
		permit, ok := e.adaptive.TryAcquirePermit()
		if !ok {
			return fmt.Errorf("%w: %d requests of endpoint '%s' are in flight, which is as many "+
				"as it answers without delay", ErrLimited, e.adaptive.Inflight(), e.Name)
		}
		x.permit = permit
	} else if l.Concurrency > 0 && e.inFlight.Load() > int64(l.Concurrency) {
		return fmt.Errorf("%w: %d requests of endpoint '%s' are in flight, see "+
			"limits.concurrency", ErrLimited, l.Concurrency, e.Name)
	}
	if e.requests != nil && !e.requests.Allow() {
		return fmt.Errorf("%w: endpoint '%s' takes %v requests a second", ErrLimited, e.Name,
			l.Requests)
	}
	return nil
}

// admitRows counts the rows of a decoded request in.
func (e *endpoint) admitRows(x *Exchange) error {
	if e.rows == nil {
		return nil
	}
	rows := int64(1)
	for i, spec := range x.Version.Signature().Inputs {
		if in := &x.Request.Inputs[i]; spec.BatchAxis >= 0 && spec.BatchAxis < len(in.Shape) {
			rows = in.Shape[spec.BatchAxis]
			break
		}
	}
	if e.rows.AllowN(time.Now(), int(min(rows, int64(e.rows.Burst())))) {
		return nil
	}
	return fmt.Errorf("%w: endpoint '%s' takes %v rows a second", ErrLimited, e.Name,
		e.Limits.Rows)
}

// leave ends what admit began.
func (e *endpoint) leave(x *Exchange, answered bool) {
	e.inFlight.Add(-1)
	switch {
	case x.permit == nil:
	case answered:
		x.permit.Record()
	default:
		x.permit.Drop()
	}
}

// Served pins the version that serves what clients call by that name: the
// stable one of an endpoint, or a model's. Release follows.
func (c *Core) Served(name, version []byte) (*model.Version, error) {
	r := c.routing.Load()
	if e := r.endpoints[string(name)]; e != nil {
		name = e.Arms[0].Model
		if len(version) == 0 {
			return c.models.Acquire(name, e.Arms[0].Version)
		}
	}
	if len(version) > 0 {
		version = r.table.Version(string(name), version)
	}
	return c.models.Acquire(name, version)
}

// maxHeaderID bounds the ids that headers carry.
const maxHeaderID = 128

// setID takes the id from the headers, or makes one up of a number that no other request has, and
// one that nobody guesses. One in the body stands above it.
func (x *Exchange) setID(h route.Headers) {
	x.lot = rand.Uint64()
	if id := header(h, headerRequestID); len(id) > 0 && len(id) <= maxHeaderID && printable(id) {
		x.id = append(x.id[:0], id...)
		return
	}
	x.id = appendHex(appendHex(x.id[:0], x.serial), x.lot)
	x.serial++
}

// appendHex appends the 16 hexadecimal digits of n, of which it writes eight at a time.
func appendHex(dst []byte, n uint64) []byte {
	for _, half := range [...]uint64{n >> 32, n & 0xffffffff} {
		x := (half<<16 | half) & 0x0000ffff_0000ffff // spread the nibbles, one to a byte
		x = (x<<8 | x) & 0x00ff00ff_00ff00ff
		x = (x<<4 | x) & 0x0f0f0f0f_0f0f0f0f
		letters := (x + 0x06060606_06060606) >> 4 & 0x01010101_01010101 // where one is over 9
		x += 0x30303030_30303030 + letters*('a'-'0'-10)
		dst = binary.BigEndian.AppendUint64(dst, x)
	}
	return dst
}

// printable says whether text may stand in a header.
func printable(text []byte) bool {
	for _, b := range text {
		if b <= ' ' || b >= 0x7f {
			return false
		}
	}
	return true
}

// ID returns the request's id: the client's, or the one that was made up for it.
// It is empty for a request for a model by its own name that brings none.
func (x *Exchange) ID() []byte {
	if len(x.Request.ID) > 0 {
		return x.Request.ID
	}
	return x.id
}
