package batch

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// stand is a batcher in virtual time whose runs take alpha + beta a row.
type stand struct {
	*testing.T
	b      *Batcher
	engine *simEngine
	start  time.Time
	helps  int
}

// inBubble calls f in a bubble of virtual time with a batcher of its own.
func inBubble(t *testing.T, change func(*Config), f func(*stand)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.MaxBatchSize, cfg.MaxRuns = 8, 1
		change(&cfg)
		w := &stand{T: t, engine: &simEngine{alpha: 10 * time.Millisecond}, start: time.Now()}
		var err error
		if w.b, err = New(cfg, &simSignature, w.engine); err != nil {
			t.Fatal(err)
		}
		if cfg.MaxQueueDelay > 0 {
			w.b.yield = func() { time.Sleep(simYield) }
		}
		for k := range 4 { // as if learned: the largest batch is the best
			w.b.costs.table[0][k] = estimate{ns: float64(10*ms) / float64(int(1)<<k), seen: trust}
		}
		w.b.costs.plan.size = 8
		f(w)
		synctest.Wait()
		if s := w.b.Stats(); s.Waiting != 0 || s.Running != 0 {
			t.Errorf("left: %+v", s)
		}
		w.b.Close()
	})
}

// ticket returns a request of one row with that time to live, 0 for none.
func (w *stand) ticket(life time.Duration) *Ticket {
	t := &Ticket{Rows: 1, Inputs: []tensor.Tensor{{Name: "x", Datatype: tensor.Int64,
		Shape: []int64{1, 2}, Data: binary.LittleEndian.AppendUint64(make([]byte, 8), 7)}}}
	if life != 0 {
		t.Deadline = Now() + int64(life)
	}
	return t
}

// sleep lets time pass, and all that is due in it happen.
func (w *stand) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// do runs a ticket on a goroutine of its own and checks how and when it ends.
func (w *stand) do(t *Ticket, want error, after time.Duration) {
	go func() {
		err := w.b.Do(t)
		if took := time.Since(w.start); err != want || took != after {
			w.Errorf("ended with %v after %v, want %v after %v", err, took, want, after)
		}
		t.Release()
		t.Free()
	}()
	synctest.Wait() // it waits or runs
}

// waiter checks how and when its ticket ends.
type waiter struct {
	*stand
	t     *Ticket
	want  error
	after time.Duration
}

// Help counts how often it was asked for.
func (w *waiter) Help() { w.helps++ }

func (w *waiter) Finished() {
	err := w.t.Outcome()
	if took := time.Since(w.start); err != w.want || took != w.after {
		w.Errorf("ended with %v after %v, want %v after %v", err, took, w.want, w.after)
	}
	w.t.Release()
	w.t.Free()
}

// submit is do with Submit; somebody else drives.
func (w *stand) submit(t *Ticket, want error, after time.Duration) {
	t.Waiter = &waiter{w, t, want, after}
	if err := w.b.Submit(t); err != nil {
		w.Errorf("cannot submit: %v", err)
	}
	synctest.Wait()
}

func alone(c *Config) { c.MaxBatchSize = 1 }

func delayed(c *Config) { c.MaxQueueDelay = 50 * time.Millisecond }

const ms = time.Millisecond

func TestDeadlineInTheQueue(t *testing.T) {
	inBubble(t, alone, func(w *stand) {
		w.do(w.ticket(0), nil, 10*ms)
		w.do(w.ticket(3*ms), ErrDeadline, 3*ms) // the only run is busy
		w.submit(w.ticket(4*ms), ErrDeadline, 4*ms)
		w.do(w.ticket(25*ms), nil, 20*ms)
		w.sleep(30 * ms)
		if s := w.b.Stats(); s.Expired != 2 || s.Executions != 2 {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestDeadlineInARun has one request whose time is over while others want the
// answer of its run.
func TestDeadlineInARun(t *testing.T) {
	inBubble(t, func(*Config) {}, func(w *stand) {
		w.do(w.ticket(0), nil, 10*ms)
		w.do(w.ticket(15*ms), ErrDeadline, 20*ms)
		w.do(w.ticket(0), nil, 20*ms)
		w.sleep(30 * ms)
		if n := w.engine.killed.Load(); n != 0 {
			t.Errorf("%d runs were stopped, somebody waited for each", n)
		}
	})
}

// TestRunNobodyWaitsFor stops a run when the last of its requests leaves, also
// when one of them has both a deadline and a client that leaves.
func TestRunNobodyWaitsFor(t *testing.T) {
	inBubble(t, func(*Config) {}, func(w *stand) {
		w.do(w.ticket(4*ms), ErrDeadline, 4*ms)
		cancel := make(chan struct{})
		both := w.ticket(7 * ms)
		both.Cancel = cancel
		w.do(w.ticket(0), nil, 14*ms)
		w.do(both, ErrCanceled, 14*ms) // its run ends with the other's answer
		w.sleep(5 * ms)
		close(cancel)
		w.sleep(20 * ms)
		if n := w.engine.killed.Load(); n != 1 {
			t.Errorf("%d runs were stopped, want 1", n)
		}
	})
}

func TestClientThatLeavesEarly(t *testing.T) {
	inBubble(t, alone, func(w *stand) {
		w.do(w.ticket(0), nil, 10*ms)
		cancel := make(chan struct{})
		ticket := w.ticket(0)
		ticket.Cancel = cancel
		w.do(ticket, ErrCanceled, 3*ms)
		w.sleep(3 * ms)
		close(cancel)
		w.sleep(20 * ms)
		if s := w.b.Stats(); s.Canceled != 1 || s.Executions != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestLeaderThatLeaves has leaders that wait for company when their time is
// over; those behind them go on.
func TestLeaderThatLeaves(t *testing.T) {
	inBubble(t, delayed, func(w *stand) {
		w.do(w.ticket(5*ms), ErrDeadline, 5*ms)
		w.do(w.ticket(0), nil, 60*ms)
		w.sleep(100 * ms)
	})
	inBubble(t, delayed, func(w *stand) {
		w.submit(w.ticket(5*ms), ErrDeadline, 5*ms)
		w.submit(w.ticket(0), nil, 60*ms)
		w.sleep(100 * ms)
	})
	inBubble(t, delayed, func(w *stand) {
		cancel := make(chan struct{})
		ticket := w.ticket(0)
		ticket.Cancel = cancel
		w.do(ticket, ErrCanceled, 5*ms)
		w.sleep(5 * ms)
		close(cancel)
		w.sleep(10 * ms)
		if s := w.b.Stats(); s.Canceled != 1 || s.Executions != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestPolicyTimeout bounds the wait in the queue and not the run.
func TestPolicyTimeout(t *testing.T) {
	policy := func(p QueuePolicy) func(*Config) {
		return func(c *Config) {
			c.MaxBatchSize = 1
			c.Queue = []QueuePolicy{p}
		}
	}
	inBubble(t, policy(QueuePolicy{Timeout: 6 * ms}), func(w *stand) {
		w.do(w.ticket(0), nil, 10*ms) // runs for longer
		w.do(w.ticket(0), ErrDeadline, 6*ms)
		w.do(w.ticket(2*ms), ErrDeadline, 2*ms) // a deadline holds in any case
		w.sleep(8 * ms)
		w.do(w.ticket(0), nil, 20*ms) // came 2 ms before its turn
		w.sleep(20 * ms)
	})
	inBubble(t, policy(QueuePolicy{Timeout: 6 * ms, Delay: true}), func(w *stand) {
		w.do(w.ticket(0), nil, 10*ms)
		w.do(w.ticket(0), nil, 30*ms) // was put behind the next
		w.do(w.ticket(8*ms), ErrDeadline, 8*ms)
		w.sleep(7 * ms)
		w.do(w.ticket(0), nil, 20*ms)
		w.sleep(40 * ms)
	})
}

// TestTimeoutOfTheRequest has requests that ask for an end themselves: a queue
// policy with a timeout has to allow it.
func TestTimeoutOfTheRequest(t *testing.T) {
	f := func(p QueuePolicy, want error, after time.Duration) {
		t.Helper()
		inBubble(t, func(c *Config) { c.MaxBatchSize, c.Queue = 1, []QueuePolicy{p} },
			func(w *stand) {
				w.do(w.ticket(0), nil, 10*ms)
				ticket := w.ticket(0)
				ticket.Timeout = Now() + int64(3*ms)
				w.do(ticket, want, after)
				w.sleep(30 * ms)
			})
	}
	f(QueuePolicy{}, ErrDeadline, 3*ms)
	f(QueuePolicy{Timeout: time.Second, AllowOverride: true}, ErrDeadline, 3*ms)
	f(QueuePolicy{Timeout: time.Second}, nil, 20*ms)
}

// TestCompanyOfOneShape checks that requests of another shape do not end the
// wait for company, and that it ends at once when the batch is full.
func TestCompanyOfOneShape(t *testing.T) {
	wide := func(w *stand) *Ticket {
		t := w.ticket(0)
		t.Inputs[0].Shape = []int64{1, 3}
		t.Inputs[0].Data = make([]byte, 24)
		return t
	}
	inBubble(t, delayed, func(w *stand) {
		for range 4 {
			w.do(w.ticket(0), nil, 15*ms)
		}
		for range 8 {
			w.do(wide(w), nil, 25*ms)
		}
		if w.b.company != 4 {
			t.Errorf("%d rows of company, 4 are of one shape", w.b.company)
		}
		w.do(w.ticket(3*ms), ErrDeadline, 3*ms)
		w.sleep(5 * ms)
		if w.b.company != 4 {
			t.Errorf("%d rows of company after one has left", w.b.company)
		}
		for range 4 {
			w.do(w.ticket(0), nil, 15*ms)
		}
		w.sleep(60 * ms)
		if s := w.b.Stats(); s.Executions != 2 {
			t.Errorf("%d runs, want 2", s.Executions)
		}
	})
}

// TestPreferredSize ends the wait at a preferred size and takes no more.
func TestPreferredSize(t *testing.T) {
	inBubble(t, func(c *Config) { delayed(c); c.PreferredSizes = []int{3} }, func(w *stand) {
		w.do(w.ticket(0), nil, 12*ms)
		w.do(w.ticket(0), nil, 12*ms)
		w.sleep(2 * ms)
		w.do(w.ticket(0), nil, 12*ms)
		w.do(w.ticket(0), nil, 62*ms) // waits for company for 50 ms
		w.sleep(100 * ms)
	})
	inBubble(t, func(c *Config) { delayed(c); c.PreferredSizes = []int{3} }, func(w *stand) {
		for range 3 {
			w.submit(w.ticket(0), nil, 10*ms)
		}
		for range 3 {
			w.submit(w.ticket(0), nil, 20*ms)
		}
		w.submit(w.ticket(0), nil, 60*ms) // more than is preferred
		w.sleep(100 * ms)
	})
}

// TestStoppedRunDoesNotBegin stops a run while its inputs are put together.
func TestStoppedRunDoesNotBegin(t *testing.T) {
	inBubble(t, alone, func(w *stand) {
		call, err := w.engine.NewCall()
		if err != nil {
			t.Fatal(err)
		}
		defer call.Close()
		r := &run{batcher: w.b, call: call, tickets: []*Ticket{w.ticket(0)}}
		r.stopped.Store(true)
		r.execute()
		if r.err != errStopped || w.engine.most.Load() != 0 {
			t.Errorf("ended with %v, %d runs began", r.err, w.engine.most.Load())
		}
	})
}

// TestChangingRunsAtOnceTeachNothing overlaps two runs in part.
func TestChangingRunsAtOnceTeachNothing(t *testing.T) {
	two := func(c *Config) { c.MaxBatchSize, c.MaxRuns = 1, 2 }
	inBubble(t, two, func(w *stand) {
		w.b.costs = newCosts(2, 0)
		w.do(w.ticket(0), nil, 10*ms)
		w.sleep(5 * ms)
		w.do(w.ticket(0), nil, 15*ms)
		w.sleep(20 * ms)
		if one, both := w.b.costs.table[0][0].seen, w.b.costs.table[1][0].seen; one+both != 0 {
			t.Errorf("learned from %d runs alone and %d of two", one, both)
		}
		w.do(w.ticket(0), nil, 35*ms)
		w.sleep(20 * ms)
		if one := w.b.costs.table[0][0].seen; one != 1 {
			t.Errorf("learned from %d runs alone, there was one", one)
		}
	})
}

// TestAlone: a request that may have company lets others in first, one that is
// alone does not.
func TestAlone(t *testing.T) {
	f := func(alone bool, want int) {
		t.Helper()
		inBubble(t, func(*Config) {}, func(w *stand) {
			yields := 0
			w.b.yield = func() { yields++ }
			ticket := w.ticket(0)
			defer ticket.Free()
			ticket.Alone = alone
			if err := w.b.Do(ticket); err != nil || yields != want {
				t.Errorf("alone is %v: %v, %d yields, want %d", alone, err, yields, want)
			}
			ticket.Release()
		})
	}
	f(true, 0)
	f(false, 1)
}
