package bench

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// clientsPerConnection is the default share of clients on one gRPC connection:
// HTTP/2 carries more, but a connection is written to by one goroutine.
const clientsPerConnection = 16

// maxMessage bounds a gRPC answer, in bytes.
const maxMessage = 1 << 30

// rawCodec passes messages as they are: []byte out, *[]byte in.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b := v.(*[]byte)
	if n := data.Len(); cap(*b) < n {
		*b = make([]byte, n)
	} else {
		*b = (*b)[:n]
	}
	data.CopyTo(*b)
	return nil
}

// grpcRun is one run over gRPC: its clients are goroutines.
type grpcRun struct {
	cfg     *Config
	conns   []*grpc.ClientConn
	headers []metadata.MD // parallel to cfg.Requests

	work chan call // scheduled requests; closed when there are no more

	mu   sync.Mutex
	plan plan      // guarded by mu in a closed loop, else the scheduler's
	rec  *recorder // guarded by mu
	good int       // guarded by mu

	served atomic.Int64 // as in the recorder
}

// call is one request that is due.
type call struct {
	number int64
	due    int64
}

// outcome is how a call ended.
type outcome struct {
	request int
	late    int64 // how long after it could be sent it was sent
	sent    bool
	err     error
	body    []byte
}

func runGRPC(ctx context.Context, c *Config) ([]share, time.Time, error) {
	r := &grpcRun{cfg: c, rec: newRecorder(), work: make(chan call)}
	defer func() {
		for _, cc := range r.conns {
			_ = cc.Close()
		}
	}()
	if err := r.connect(ctx); err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot connect to %s: %w", c.Address, err)
	}
	t, err := newTimer()
	if err != nil {
		return nil, time.Time{}, err
	}
	defer t.close()
	for i := range c.Requests {
		r.headers = append(r.headers, metadata.New(c.Requests[i].Header))
	}
	start := time.Now()
	r.plan = newPlan(c, start, 0, 1)
	var clients sync.WaitGroup
	for i := range c.Concurrency {
		clients.Go(func() { r.client(ctx, r.conns[i%len(r.conns)]) })
	}
	var before atomic.Int64 // CPU time when the warm-up was over
	warm := time.AfterFunc(c.Warmup, func() {
		before.Store(int64(cpuTime(unix.RUSAGE_SELF)))
	})
	if c.Rate > 0 {
		r.schedule(ctx, t)
	}
	clients.Wait()
	r.rec.served = r.served.Load()
	s := share{rec: r.rec}
	if warm.Stop(); before.Load() > 0 {
		used := cpuTime(unix.RUSAGE_SELF) - time.Duration(before.Load())
		s.busy = used / time.Duration(runtime.GOMAXPROCS(0))
	}
	return []share{s}, start, nil
}

// connect brings up all connections before the clock starts.
func (r *grpcRun) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, errNoAnswer)
	defer cancel()
	n := r.cfg.Connections
	if n == 0 {
		n = (r.cfg.Concurrency + clientsPerConnection - 1) / clientsPerConnection
	}
	target := r.cfg.Address
	if !strings.HasPrefix(target, unixPrefix) {
		target = "passthrough:///" + target
	}
	for range n {
		cc, err := grpc.NewClient(target,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}),
				grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
		if err != nil {
			return err
		}
		r.conns = append(r.conns, cc)
		cc.Connect()
	}
	for _, cc := range r.conns {
		for s := cc.GetState(); s != connectivity.Ready; s = cc.GetState() {
			if s == connectivity.TransientFailure {
				return errNoAnswer
			}
			if !cc.WaitForStateChange(ctx, s) {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// schedule hands out each request when it is due, or, when all clients are busy
// then, as soon as one is free.
func (r *grpcRun) schedule(ctx context.Context, t timer) {
	defer close(r.work)
	defer context.AfterFunc(ctx, t.wake)()
	for {
		now := r.plan.now()
		at, ok := r.plan.due(now)
		if !ok || ctx.Err() != nil {
			return
		}
		if at > now {
			t.sleep(time.Duration(at - now))
			continue
		}
		select {
		case r.work <- call{number: r.plan.take(at), due: at}:
		case <-ctx.Done():
			return
		}
	}
}

// next returns the request that a client sends next, and the instant at which
// it begins to. ok is false when there is none left.
func (r *grpcRun) next(ctx context.Context) (c call, now int64, ok bool) {
	if r.cfg.Rate > 0 {
		c, ok = <-r.work
		return c, r.plan.now(), ok
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now = r.plan.now()
	if c.due, ok = r.plan.due(now); ok {
		c.number = r.plan.take(now)
	}
	return c, now, ok && ctx.Err() == nil
}

// client sends requests one after the other.
func (r *grpcRun) client(ctx context.Context, cc *grpc.ClientConn) {
	var body []byte // of the answer; reused
	for freeSince := int64(0); ; {
		c, now, ok := r.next(ctx)
		if !ok {
			return
		}
		a := outcome{request: int(c.number % int64(len(r.cfg.Requests)))}
		if deadline := c.due + int64(r.cfg.Timeout); now > deadline {
			a.err = errQueued
		} else {
			a.late = now - max(c.due, freeSince)
			call, cancel := context.WithDeadline(
				metadata.NewOutgoingContext(ctx, r.headers[a.request]),
				r.plan.start.Add(time.Duration(deadline)))
			request := &r.cfg.Requests[a.request]
			a.err = cc.Invoke(call, request.Path, &request.Body, &body)
			cancel()
			a.body, a.sent = body, true
		}
		if ctx.Err() != nil {
			return // The call was cut off; it says nothing of the server.
		}
		freeSince = r.plan.now()
		if r.plan.measured(c.due) {
			r.record(&a, freeSince, c.due)
		}
		if a.err == nil && r.plan.within(freeSince) {
			r.served.Add(1)
		}
	}
}

// record takes down how a call ended at now that was due at that instant.
func (r *grpcRun) record(a *outcome, now, due int64) {
	check := false
	r.mu.Lock()
	if a.sent {
		r.rec.codes[int(status.Code(a.err))]++
		r.rec.bytesOut += int64(len(r.cfg.Requests[a.request].Body))
		if r.cfg.Rate > 0 {
			r.rec.lateness.add(a.late)
		}
	}
	if a.err == nil {
		r.rec.bytesIn += int64(len(a.body))
		r.good++
		check = r.cfg.Check != nil && r.good%r.cfg.CheckEvery == 0
	}
	r.mu.Unlock()

	if check { // not under the lock: it may take its time
		if err := r.cfg.Check(a.request, a.body); err != nil {
			a.err = fmt.Errorf("wrong answer: %w", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.err != nil {
		r.rec.fail(now, a.err.Error())
		return
	}
	r.rec.good(now, now-due)
}
