package batch

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

var (
	errPoison = errors.New("sim: the run met a poisoned row")
	errKilled = errors.New("sim: terminated")
	errNoCall = errors.New("sim: no workspace")
)

// simYield is how long other goroutines run when a leader lets them.
const simYield = 20 * time.Microsecond

// poison is a value that makes its run fail.
const poison = 13

// simEngine doubles INT64 rows in virtual time: alpha and beta a row.
type simEngine struct {
	alpha, beta time.Duration
	noCall      func() bool // the next workspace cannot be had

	atOnce, most, open atomic.Int64
	killed             atomic.Int64 // runs that were terminated
}

// simSignature has rows of one width a run. Output "y" has them doubled, "sum"
// has the batch axis second, "count" has none.
var simSignature = tensor.Signature{
	Inputs: []tensor.Spec{{Name: "x", Datatype: tensor.Int64, Shape: []int64{-1, -1}}},
	Outputs: []tensor.Spec{
		{Name: "y", Datatype: tensor.Int64, Shape: []int64{-1, -1}},
		{Name: "sum", Datatype: tensor.Int64, Shape: []int64{1, -1}, BatchAxis: 1},
		{Name: "count", Datatype: tensor.Int64, Shape: []int64{}, BatchAxis: -1},
	},
	MaxBatchSize: 8,
}

func (e *simEngine) NewCall() (Call, error) {
	if e.noCall != nil && e.noCall() {
		return nil, errNoCall
	}
	e.open.Add(1)
	return &simCall{engine: e, kill: make(chan struct{}, 1)}, nil
}

// simCall keeps its memory over runs, as the real one does.
type simCall struct {
	engine *simEngine
	kill   chan struct{}
	out    [3]tensor.Tensor
	y, sum []byte
	count  [8]byte
}

func (c *simCall) Run(in []tensor.Tensor, _ time.Duration) ([]tensor.Tensor, error) {
	select {
	case <-c.kill: // came when no run was under way
	default:
	}
	e := c.engine
	now := e.atOnce.Add(1)
	defer e.atOnce.Add(-1)
	for old := e.most.Load(); now > old && !e.most.CompareAndSwap(old, now); {
		old = e.most.Load()
	}
	x := &in[0]
	rows, width := int(x.Shape[0]), int(x.Shape[1])
	c.y, c.sum = c.y[:0], c.sum[:0]
	poisoned := false
	for r := range rows {
		sum := uint64(0)
		for i := range width {
			v := binary.LittleEndian.Uint64(x.Data[8*(r*width+i):])
			poisoned = poisoned || v == poison
			sum += v
			c.y = binary.LittleEndian.AppendUint64(c.y, 2*v)
		}
		c.sum = binary.LittleEndian.AppendUint64(c.sum, sum)
	}
	binary.LittleEndian.PutUint64(c.count[:], uint64(rows))
	timer := time.NewTimer(e.alpha + time.Duration(rows)*e.beta)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.kill:
		e.killed.Add(1)
		return nil, errKilled
	}
	if poisoned {
		return nil, errPoison
	}
	c.out = [3]tensor.Tensor{
		{Name: "y", Datatype: tensor.Int64, Shape: []int64{int64(rows), int64(width)}, Data: c.y},
		{Name: "sum", Datatype: tensor.Int64, Shape: []int64{1, int64(rows)}, Data: c.sum},
		{Name: "count", Datatype: tensor.Int64, Shape: []int64{}, Data: c.count[:]},
	}
	return c.out[:], nil
}

func (c *simCall) Terminate() {
	select {
	case c.kill <- struct{}{}:
	default:
	}
}

func (c *simCall) Close() { c.engine.open.Add(-1) }

// sim is one simulation.
type sim struct {
	*testing.T
	b       *Batcher
	engine  *simEngine
	longest time.Duration // of one run

	mu    sync.Mutex
	total uint64 // requests
	ran   []ranRequest
	ends  map[error]int
}

// ranRequest is what the order of service is checked with.
type ranRequest struct {
	level, width  int
	queued, start int64
}

// simClient sends one request after the other.
type simClient struct {
	*sim
	random   *rand.Rand
	ticket   Ticket
	poisoned bool
	data     []byte
	finished chan error
	told     atomic.Int32
	ended    int64 // when the last request did
}

// Finished makes a client the Waiter of its own ticket.
func (c *simClient) Finished() {
	c.told.Add(1)
	c.ended = Now()
	c.finished <- c.ticket.Outcome()
}

// Help drives, as a poller would.
func (c *simClient) Help() { go c.drive(time.Hour) }

func (c *simClient) drive(longest time.Duration) {
	for c.b.Drive(longest) {
	}
}

// request fills the ticket in.
func (c *simClient) request() (width int) {
	rows := 1 + c.random.IntN(3)
	width = 2 + c.random.IntN(2)
	c.poisoned = c.random.IntN(50) == 0
	c.data = c.data[:0]
	for range rows * width {
		c.data = binary.LittleEndian.AppendUint64(c.data, 100+c.random.Uint64()>>2)
	}
	if c.poisoned {
		binary.LittleEndian.PutUint64(c.data, poison)
	}
	t := &c.ticket
	t.Rows, t.Priority = rows, c.random.IntN(4)
	t.Inputs = []tensor.Tensor{{Name: "x", Datatype: tensor.Int64,
		Shape: []int64{int64(rows), int64(width)}, Data: c.data}}
	if c.random.IntN(3) == 0 {
		t.Deadline = Now() + c.random.Int64N(int64(4*c.longest)) - int64(c.longest)/20
	}
	return width
}

// once takes one request through and checks its end.
func (c *simClient) once() {
	t := &c.ticket
	width := c.request()
	deadline := t.Deadline
	sent := Now()
	var err error
	canceled := false
	if c.random.IntN(2) == 0 {
		t.Waiter = c
		before := c.told.Load()
		c.ended = sent
		if err = c.b.Submit(t); err == nil {
			longest := time.Duration(c.random.Int64N(int64(2 * c.longest)))
			if c.random.IntN(2) == 0 {
				c.drive(longest)
			} else {
				go c.drive(longest)
			}
			err = <-c.finished
			before++
		}
		if c.told.Load() != before {
			c.Errorf("the waiter was told %d times, want %d", c.told.Load(), before)
		}
	} else {
		cancel := make(chan struct{})
		var timer *time.Timer
		if c.random.IntN(4) == 0 {
			t.Cancel = cancel
			timer = time.AfterFunc(time.Duration(c.random.Int64N(int64(2*c.longest))),
				func() { close(cancel) })
		}
		err = c.b.Do(t)
		c.ended = Now()
		canceled = timer != nil && !timer.Stop()
	}
	c.check(err, deadline, canceled)
	c.mu.Lock()
	c.total++
	c.ends[err]++
	if err == nil && t.level < 2 {
		c.ran = append(c.ran, ranRequest{t.level, width, sent, t.Times.ComputeStart})
	}
	c.mu.Unlock()
	time.Sleep(time.Duration(c.random.Int64N(int64(c.longest) / 2))) // looks at the answer
	if err == nil {
		c.checkAnswer()
	}
	t.Release()
	time.Sleep(time.Duration(c.random.Int64N(int64(c.longest))))
}

// check holds the outcome against what may have happened, by virtual time.
func (c *simClient) check(err error, deadline int64, canceled bool) {
	t, now := &c.ticket, c.ended
	queueTime := int64(0)
	if p := c.b.policy(c.b.level(t.Priority)); !p.Delay && p.Timeout != 0 {
		queueTime = int64(p.Timeout)
	}
	switch {
	case err == nil:
		if deadline != 0 && now > deadline {
			c.Errorf("an answer %v after its deadline", time.Duration(now-deadline))
		}
	case err == ErrDeadline:
		end := deadline
		if q := t.Times.Queued + queueTime; queueTime != 0 && (end == 0 || q < end) {
			end = q
		}
		if end == 0 || now < end {
			c.Errorf("ErrDeadline %v before the end", time.Duration(end-now))
		}
		if late := time.Duration(now - end); late > c.longest {
			c.Errorf("ErrDeadline %v after the end", late)
		}
	case err == ErrCanceled && !canceled, err == errKilled, err == errStopped:
		c.Errorf("got %v", err)
	case err == ErrCanceled, err == ErrQueueFull, err == errPoison, errors.Is(err, errNoCall):
	default:
		c.Errorf("got %v", err)
	}
}

// checkAnswer checks that the outputs are those of the request.
func (c *simClient) checkAnswer() {
	t := &c.ticket
	rows, width := t.Rows, int(t.Inputs[0].Shape[1])
	y, sum, count := &t.Outputs[0], &t.Outputs[1], &t.Outputs[2]
	if !slices.Equal(y.Shape, t.Inputs[0].Shape) ||
		!slices.Equal(sum.Shape, []int64{1, int64(rows)}) {
		c.Errorf("output shapes %v, %v for %d rows", y.Shape, sum.Shape, rows)
		return
	}
	if n := binary.LittleEndian.Uint64(count.Data); int(n) != t.BatchRows || int(n) < rows {
		c.Errorf("the run had %d rows, the ticket says %d", n, t.BatchRows)
	}
	for r := range rows {
		want := uint64(0)
		for i := range width {
			at := 8 * (r*width + i)
			v := binary.LittleEndian.Uint64(c.data[at:])
			want += v
			if got := binary.LittleEndian.Uint64(y.Data[at:]); got != 2*v {
				c.Errorf("row %d: got %d, want %d", r, got, 2*v)
				return
			}
		}
		if got := binary.LittleEndian.Uint64(sum.Data[8*r:]); got != want {
			c.Errorf("sum of row %d: got %d, want %d", r, got, want)
		}
	}
}

// checkEnd checks what is left when all requests have ended.
func (s *sim) checkEnd(cfg Config) {
	stats := s.b.Stats()
	left := stats.Waiting != 0 || stats.WaitingBytes != 0 || stats.Running != 0
	if left || s.b.q.rows != 0 || s.b.executing != 0 || s.b.gatherer != nil {
		s.Errorf("left: %+v", stats)
	}
	ended := stats.Success.Count + stats.Fail.Count +
		stats.Rejected + stats.Expired + stats.Canceled
	if ended != s.total {
		s.Errorf("%d requests were counted of %d: %+v", ended, s.total, stats)
	}
	if most := s.engine.most.Load(); most > int64(cfg.MaxRuns) {
		s.Errorf("%d runs at once, at most %d are allowed", most, cfg.MaxRuns)
	}
	s.b.Close()
	if open := s.engine.open.Load(); open != 0 {
		s.Errorf("%d workspaces are open after Close", open)
	}
	var late Ticket
	if err := s.b.Do(&late); err != ErrClosed {
		s.Errorf("Do after Close: %v", err)
	}
	slices.SortStableFunc(s.ran, func(a, b ranRequest) int {
		return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(a.width, b.width),
			cmp.Compare(a.queued, b.queued), cmp.Compare(a.start, b.start))
	})
	// A leader that gathers has had its turn; a run that began before takes on.
	grace := int64(cfg.MaxQueueDelay + maxYields*simYield)
	for i := 1; i < len(s.ran); i++ {
		a, b := s.ran[i-1], s.ran[i]
		alike := a.level == b.level && a.width == b.width
		if alike && a.queued < b.queued && a.start > b.start+grace {
			s.Logf("%+v %+v %+v", cfg, a, b)
			s.Errorf("level %d, width %d: a request overtook one that came %v earlier", a.level,
				a.width, time.Duration(b.queued-a.queued))
		}
	}
}

// simulate runs clients against a batcher and returns how their requests ended.
func simulate(t *testing.T, cfg Config, engine *simEngine, seed uint64) map[error]int {
	t.Helper()
	s := &sim{engine: engine, ends: make(map[error]int)}
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		var err error
		if s.b, err = New(cfg, &simSignature, engine); err != nil {
			t.Fatal(err)
		}
		s.b.yield = func() { time.Sleep(simYield) } // else virtual time stands still
		s.longest = engine.alpha + 8*engine.beta
		var clients sync.WaitGroup
		random := rand.New(rand.NewPCG(seed, 11))
		for i := range 2 + random.IntN(24) {
			clients.Go(func() {
				c := &simClient{sim: s, random: rand.New(rand.NewPCG(seed, uint64(i))),
					finished: make(chan error, 1)}
				defer c.ticket.Free()
				for range 80 {
					c.once()
				}
			})
		}
		clients.Wait()
		synctest.Wait()
		s.checkEnd(cfg)
	})
	return s.ends
}

// TestSimulation sends random requests of all kinds, with deadlines, cancels,
// engine errors and bounds, and checks that each ends once, with its own answer.
func TestSimulation(t *testing.T) {
	ends := make(map[error]int)
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 5))
		cfg := DefaultConfig()
		cfg.MaxBatchSize = 8
		cfg.MaxRuns = 1 + random.IntN(4)
		cfg.QueueSize = 4 + random.IntN(40)
		cfg.QueueBytes = 256 << random.IntN(8)
		if random.IntN(2) == 0 {
			cfg.MaxQueueDelay = time.Duration(random.IntN(6000)) * time.Microsecond
			if random.IntN(2) == 0 {
				cfg.PreferredSizes = []int{2, 4}
			}
		}
		if random.IntN(2) == 0 {
			cfg.PriorityLevels, cfg.DefaultPriority = 3, 2
			cfg.Queue = []QueuePolicy{{}, {}, {Size: 8, Timeout: 3 * time.Millisecond}, {
				Timeout: 2 * time.Millisecond, Delay: true,
			}}
		}
		engine := &simEngine{alpha: time.Millisecond,
			beta: time.Duration(random.IntN(2000)) * time.Microsecond}
		var asked atomic.Int64
		engine.noCall = func() bool { return asked.Add(1)%5 == 0 }
		for err, n := range simulate(t, cfg, engine, seed) {
			ends[err] += n
		}
	}
	for _, err := range [...]error{nil, ErrDeadline, ErrCanceled, ErrQueueFull, errPoison} {
		if ends[err] < 50 {
			t.Errorf("only %d requests ended with %v", ends[err], err)
		}
	}
}
