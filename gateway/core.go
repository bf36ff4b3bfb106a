// Package gateway is the front of the data plane: listeners, handler,
// admission, outcomes and metrics.
//
// [Core] is what all protocols share: it resolves the model, bounds what is in
// flight, takes a request through its batcher and counts what became of it.
// An [Exchange] is one request on that way; it comes from a pool, has one
// owner, and nothing of it may be used after Finish. [HTTP] serves the REST
// dialects on a Core, package gateway/grpc the others, [Admin] the metrics.
package gateway

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"

	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Config says how requests are admitted and answered.
type Config struct {
	Name             string        // of the server in its metadata
	Version          string        // of the server in its metadata
	MaxBodyBytes     int64         // of one request, after decompression
	MaxBytesInFlight int64         // of all request bodies together
	MaxInFlight      int64         // requests
	RequestTimeout   time.Duration // for requests that bring no own deadline; 0 for none
	ShedStatus       int           // of refused requests: 429 or 503
	NullNaN          bool          // JSON answers say null for NaN and the infinities
	LogLevel         *slog.LevelVar
}

// DefaultConfig returns the values for a server about which nothing is known.
func DefaultConfig() Config {
	return Config{
		Name: "millrace", MaxBodyBytes: 64 << 20, MaxBytesInFlight: 1 << 30,
		MaxInFlight: 64 << 10, ShedStatus: 429, LogLevel: new(slog.LevelVar),
	}
}

// Core is what the protocols share. It may be used concurrently.
type Core struct {
	cfg     Config
	models  *model.Repository
	metrics *Metrics
	log     *slog.Logger

	inFlight      atomic.Int64
	bytesInFlight atomic.Int64
	closing       atomic.Bool
	exchanges     sync.Pool
	epoch         time.Time // when batch.Now was 0

	routing   atomic.Pointer[routing]
	routingMu sync.Mutex              // one change of the routing at a time
	mirrors   map[shadowName]mirrored // Guarded by routingMu.
	taps      []Tap                   // Guarded by routingMu.
	tapsSet   int                     // How often. Guarded by routingMu.
	ledger    atomic.Pointer[feedback.Ledger]
	samples   *tap.Pool
	caches    caches
	scorers   map[string]*scoring // by endpoint. Guarded by routingMu.
}

// New returns a core that serves these models.
func New(cfg Config, models *model.Repository, log *slog.Logger) *Core {
	c := &Core{cfg: cfg, models: models, log: log, mirrors: make(map[shadowName]mirrored),
		samples: tap.NewPool(maxSamples, maxSampleBytes),
		epoch:   time.Now().Add(-time.Duration(batch.Now()))}
	c.metrics = newMetrics(c)
	c.exchanges.New = func() any { return &Exchange{serial: rand.Uint64()} }
	c.routing.Store(new(routing))
	return c
}

// Exchange is one request and its answer. It belongs to the caller of Begin
// until Finish.
type Exchange struct {
	Version  *model.Version
	Request  wire.Request
	Ticket   batch.Ticket
	Answer   wire.Answer
	Protocol Protocol
	Start    int64 // as batch.Now

	began         *versionMetrics
	label, status int   // of the outcome, once it is counted
	fault         bool  // the outcome's
	end           int64 // when that was, as batch.Now

	endpoint   *endpoint // nil for a model by its own name
	route      *routeState
	choice     route.Choice
	propensity float64
	permit     adaptivelimiter.Permit
	id         []byte // that was made up, or came in a header; see ID
	serial     uint64 // counts the ids that were made up, from anywhere on
	lot        uint64 // drawn for each request to an endpoint
	home       int    // number of the poller that last took one in by it, 0 for none
	cookie     []byte // to be set, empty for none
	score      []byte // the answer's, as headers have it
	dialect    dialect
	flight     flight

	bytes  int64        // counted in bytesInFlight
	body   []byte       // memory for the body as it came
	binary bool         // body lies in Request.Mem
	text   []byte       // meanwhile the memory for bodies that do not
	large  tensor.Arena // in which any other body lies that has more than keepBody bytes
	plain  []byte       // memory for the body without its Content-Encoding
	out    []byte       // memory for the answer as the lane sends it
}

// keepBody bounds the memory for bodies that an idle Exchange keeps.
const keepBody = 2 << 20

// Open takes an Exchange from the pool and counts it in. It returns
// ErrOverloaded when too many are in flight.
func (c *Core) Open(p Protocol) (*Exchange, error) {
	if c.inFlight.Add(1) > c.cfg.MaxInFlight {
		c.inFlight.Add(-1)
		return nil, ErrOverloaded
	}
	x := c.exchanges.Get().(*Exchange)
	x.Protocol = p
	if p == ProtocolGRPC {
		x.dialect = dialectProto
	}
	x.Start = batch.Now()
	return x, nil
}

// admit opens an Exchange for a plain request and reserves its body.
func (c *Core) admit(h *head) (*Exchange, error) {
	x, err := c.Begin(Query{Name: h.model, Version: h.version, Headers: h}, h.dialect.protocol())
	if err != nil {
		return nil, err
	}
	err = c.Reserve(x, int64(h.body))
	if err == ErrTooLarge {
		err = c.tooLarge()
	}
	x.dialect = h.dialect
	if err == nil {
		err = x.makeRoom(h.body, h.json >= 0)
	}
	if err != nil {
		c.Finish(x, err)
		return nil, err
	}
	return x, nil
}

func (c *Core) tooLarge() error {
	return fmt.Errorf("%w: the request JSON size exceeds the maximum allowed input size. "+
		"The body may have at most %d bytes, see server.limits.body_bytes",
		ErrTooLarge, c.cfg.MaxBodyBytes)
}

// Reserve counts n more bytes of body in. It returns ErrTooLarge when the
// request has more than one may have, ErrOverloaded when all have.
func (c *Core) Reserve(x *Exchange, n int64) error {
	if x.bytes+n > c.cfg.MaxBodyBytes {
		return ErrTooLarge
	}
	if total := c.bytesInFlight.Add(n); total > c.cfg.MaxBytesInFlight && total > n {
		c.bytesInFlight.Add(-n)
		return ErrOverloaded
	}
	x.bytes += n
	return nil
}

// makeRoom sees to it that body has room for n bytes. One with tensors in binary lies in
// the memory of the request's tensors, so that they can stay where they are: mostly they are its
// end, which is aligned as they are to be. Clients announce large bodies that never come:
// a large one gets memory of its own from the system, which takes it for real only as bytes
// arrive. The Go heap would clear it first.
func (x *Exchange) makeRoom(n int, binary bool) (err error) {
	switch {
	case binary:
		x.text, x.binary = x.body, true
		x.body, err = x.Request.Mem.AllocEnd(n)
	case cap(x.body) >= n:
	case n <= keepBody:
		x.body = make([]byte, n)
	default:
		x.body, err = x.large.Alloc(n)
	}
	return err
}

// Deadline sets when the answer is of no more use, in nanoseconds from the
// start of the request; the earliest of several holds. 0 sets none.
func (x *Exchange) Deadline(after int64) {
	if after <= 0 {
		return
	}
	if end := x.Start + after; x.Ticket.Deadline == 0 || end < x.Ticket.Deadline {
		x.Ticket.Deadline = end
	}
}

// catch is deferred: it makes an error of a panic, which would end the process.
func (c *Core) catch(err *error) {
	if fault := recover(); fault != nil {
		c.log.Error("handler panicked", "panic", fault)
		*err = ErrPanic
	}
}

// Finish counts what became of the request and gives everything back. x must
// not be used afterwards.
func (c *Core) Finish(x *Exchange, err error) {
	c.settle(x, err)
	c.free(x)
}

// settle counts what became of the request, for a rollout too, and lets the ledger
// know what answered it: before the answer leaves, since feedback may come at once.
func (c *Core) settle(x *Exchange, err error) {
	c.metrics.finish(x, err)
	e := x.endpoint
	if e == nil {
		return
	}
	if e.trial != nil {
		e.trial.finish(x)
	}
	if e.ledger != nil && err == nil {
		e.ledger.Decide(x.home, x.ID(), x.decision(), c.epoch.UnixNano()+x.end)
	}
}

// free gives back what has been settled.
func (c *Core) free(x *Exchange) {
	c.leave(x)
	x.Ticket.Release()
	if x.Version != nil {
		x.Version.Release()
	}
	if x.bytes != 0 {
		c.bytesInFlight.Add(-x.bytes)
	}
	x.Version, x.began, x.bytes = nil, nil, 0
	x.Answer = wire.Answer{}
	x.Request.Reset()
	if x.binary {
		x.body, x.text, x.binary = x.text, nil, false
	}
	if cap(x.body) > keepBody {
		x.body = nil
		x.large.Free()
	}
	if cap(x.plain) > keepBody {
		x.plain = nil
	}
	if cap(x.out) > keepBody {
		x.out = nil
	}
	c.exchanges.Put(x)
	c.inFlight.Add(-1)
}

// Models returns the repository that is served.
func (c *Core) Models() *model.Repository { return c.models }

// ServerName and ServerVersion are what the server calls itself.
func (c *Core) ServerName() string { return c.cfg.Name }

// ServerVersion is the version in the server's metadata.
func (c *Core) ServerVersion() string { return c.cfg.Version }

// Extensions lists the protocol extensions that are served, by the names that
// clients look for.
func (c *Core) Extensions() []string {
	return []string{
		"classification", "model_repository", "schedule_policy", "model_configuration",
		"binary_tensor_data", "parameters", "statistics", "logging",
	}
}

// Ready says whether requests are welcome: all models are loaded and the
// server is not draining.
func (c *Core) Ready() bool { return !c.closing.Load() && c.models.Ready() }

// Drain makes the server not ready; requests are still answered.
func (c *Core) Drain() { c.closing.Store(true) }

// InFlight returns the number of requests that are not yet answered.
func (c *Core) InFlight() int64 { return c.inFlight.Load() }
