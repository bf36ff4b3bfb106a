// Package shadow runs copies of answered requests on another version of the
// model and compares its answers with those that the clients got.
//
// A [Mirror] is one shadow of one endpoint. It is offered samples, holds those
// it has room for in a bounded queue, and runs them on one goroutine, several in
// a batch. [Compare] holds two answers against each other, a [Report] adds up
// what came of it. The shadow's answers are thrown away.
//
// Nothing here makes a request wait: Offer never blocks, what finds no room is
// dropped and counted, and while requests queue for their own model the shadow
// gets none.
//
// Mirror and Report may be used concurrently.
package shadow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/model"
)

// Config says what a Mirror runs and what it may take.
type Config struct {
	Endpoint string // for the log and the report
	// Stable is the name of the arm whose answers are compared. Samples of other
	// arms are passed by. "" takes all.
	Stable string
	Shadow route.Shadow
	// Label names the class of an error, as the gateway's metrics do.
	Label func(error) string

	QueueSize  int           // samples that wait
	QueueBytes int64         // of the tensors of those that wait or run
	Deadline   time.Duration // of one run of the shadow
	// The shadow pauses when every request of an Interval has waited longer than
	// Target for its own run.
	Target, Interval time.Duration

	Examples        int   // that are kept of disagreements, the worst
	ExampleBytes    int64 // of all of them, about
	ExampleElements int   // of each of their tensors
}

// DefaultConfig returns the values for a shadow about which nothing is known.
// Endpoint, Stable, Shadow and Label are the caller's to fill in.
func DefaultConfig() Config {
	return Config{
		QueueSize: 256, QueueBytes: 64 << 20, Deadline: 5 * time.Second,
		// The target is CoDel's, whose interval is that of a round trip.
		Target: 5 * time.Millisecond, Interval: 100 * time.Millisecond,
		Examples: 20, ExampleBytes: 1 << 20, ExampleElements: 64,
	}
}

// Validate lists everything that is wrong with c.
func (c *Config) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	tolerance := func(x float64) bool { return x >= 0 && x <= math.MaxFloat64 }
	s := &c.Shadow
	check(len(s.Model) > 0, "the shadow has no model")
	check(tolerance(s.Absolute), "absolute is %v, must be a number from 0 on", s.Absolute)
	check(tolerance(s.Relative), "relative is %v, must be a number from 0 on", s.Relative)
	check(s.TopK >= 0 && s.TopK <= maxTopK, "top_k is %d, must be 0 to %d", s.TopK, maxTopK)
	check(c.Label != nil, "nothing names the classes of errors")
	check(c.QueueSize > 0, "the queue's size is %d, must be at least 1", c.QueueSize)
	check(c.QueueBytes > 0, "the queue's bytes are %d, must be at least 1", c.QueueBytes)
	check(c.Deadline > 0, "the deadline is %v, must be more than 0", c.Deadline)
	check(c.Target >= 0, "the target is %v, must be 0 or more", c.Target)
	check(c.Interval > 0, "the interval is %v, must be more than 0", c.Interval)
	check(c.Examples >= 0, "the number of examples is %d, must be 0 or more", c.Examples)
	check(c.ExampleBytes >= 0, "the bytes of examples are %d, must be 0 or more", c.ExampleBytes)
	check(c.ExampleElements >= 0, "the elements of examples are %d, must be 0 or more",
		c.ExampleElements)
	return errors.Join(faults...)
}

// Runner has the versions that shadows run.
type Runner interface {
	// Acquire pins a version until its Release; see [model.Repository.Acquire].
	Acquire(model, version []byte) (*model.Version, error)
}

// Drop says why a sample that was offered is not compared.
type Drop uint8

// The reasons to drop a sample.
const (
	DropNone         Drop = iota // it is not dropped
	DropQueue                    // too many wait
	DropBytes                    // those that wait are too large together
	DropLoad                     // requests queue for their own model
	DropNotReady                 // the shadow's version cannot serve, or the Mirror is closed
	DropIncompatible             // the shadow takes other inputs
	drops
)

var dropNames = [drops]string{"none", "queue", "bytes", "load", "not_ready", "incompatible"}

// String returns the label of the metrics.
func (d Drop) String() string { return dropNames[d] }

// probeEvery is how often one sample is let through to a shadow that could not
// take the last one: perhaps it has been replaced since.
const probeEvery = time.Second

// Mirror is one shadow of one endpoint.
type Mirror struct {
	cfg    Config
	runner Runner
	log    *slog.Logger
	report *Report
	began  time.Time     // from which the times of samples are counted
	wake   chan struct{} // capacity 1: a parked worker is to go on
	done   chan struct{} // closed when the worker has left

	mu       sync.Mutex // held for a few instructions only
	closed   bool
	parked   bool          // the worker waits for wake
	waiting  []*tap.Sample // the oldest first, at most QueueSize
	bytes    int64         // of the samples that wait or run
	load     load
	refusing Drop          // why samples are of no use now. Written by the worker only.
	probeAt  time.Duration // when the next one is let through all the same
}

// New starts a Mirror. It runs until Close.
func New(cfg Config, runner Runner, log *slog.Logger) (*Mirror, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot shadow endpoint %s: %w", cfg.Endpoint, err)
	}
	m := &Mirror{
		cfg: cfg, runner: runner,
		log:    log.With("endpoint", cfg.Endpoint, "shadow", cfg.Shadow.Name),
		report: newReport(&cfg), began: time.Now(), wake: make(chan struct{}, 1),
		done: make(chan struct{}), waiting: make([]*tap.Sample, 0, cfg.QueueSize),
	}
	go newWorker(m).loop()
	return m, nil
}

// Report returns what has come of the samples.
func (m *Mirror) Report() *Report { return m.report }

// Offer takes a sample for comparison, and says whether it did: it then holds
// it for as long as it needs it. It never blocks. Its clock is the Time of the
// samples.
func (m *Mirror) Offer(s *tap.Sample) bool {
	if len(s.Outputs) == 0 || m.cfg.Stable != "" && s.Route != m.cfg.Stable {
		return false
	}
	m.report.offered.Add(1)
	d := m.admit(s)
	if d != DropNone {
		m.report.drop(d)
	}
	return d == DropNone
}

// admit puts the sample into the queue unless there is a reason to drop it.
func (m *Mirror) admit(s *tap.Sample) Drop {
	now, n := s.Time.Sub(m.began), sizeOf(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.load = m.load.next(now, s.Queue, m.cfg.Target, m.cfg.Interval)
	switch {
	case m.closed:
		return DropNotReady
	case m.refusing != DropNone && now < m.probeAt:
		return m.refusing
	case m.load.over:
		return DropLoad
	case m.bytes+n > m.cfg.QueueBytes:
		return DropBytes
	case len(m.waiting) == m.cfg.QueueSize:
		return DropQueue
	}
	s.Hold()
	m.waiting = append(m.waiting, s)
	m.bytes += n
	m.probeAt = now + probeEvery
	m.unpark()
	return DropNone
}

// unpark lets a parked worker go on. Callers hold mu.
func (m *Mirror) unpark() {
	if m.parked {
		m.parked = false
		m.wake <- struct{}{}
	}
}

// sizeOf returns the bytes of the sample's tensors.
func sizeOf(s *tap.Sample) (n int64) {
	for i := range s.Inputs {
		n += int64(len(s.Inputs[i].Data))
	}
	for i := range s.Outputs {
		n += int64(len(s.Outputs[i].Data))
	}
	return n
}

// letGo ends the use of samples that were admitted.
func (m *Mirror) letGo(samples []*tap.Sample) {
	n := int64(0)
	for _, s := range samples {
		n += sizeOf(s)
	}
	tap.Release(samples)
	m.mu.Lock()
	m.bytes -= n
	m.mu.Unlock()
}

// Close refuses new samples and waits until the worker has left, or ctx is
// done. What waits is dropped.
func (m *Mirror) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	m.unpark()
	m.mu.Unlock()
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot stop shadow %s of endpoint %s: its last run has not ended: %w",
			m.cfg.Shadow.Name, m.cfg.Endpoint, ctx.Err())
	}
}
