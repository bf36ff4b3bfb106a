package tap

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"sync/atomic"
	"time"
)

// SinkConfig says what a sink takes and passes on.
type SinkConfig struct {
	// Records that may wait to be written. 0 is 1024.
	Queue int
	// Time after which what was written is made safe. 0 is 10s; see [DefaultFlush].
	Flush time.Duration
	// Fields that are left out: "input.NAME", "output.NAME", "NAME" of an input or an
	// output, "id", "label".
	Redact []string
}

// Writer is where the records of a sink go. Its methods are called by one
// goroutine. They return what came to rest during the call, also with an error;
// what is still in memory is in the Result of a later call. ctx ends when
// nobody waits any more.
type Writer interface {
	// Write takes one record, and keeps nothing that it refers to.
	Write(ctx context.Context, r Record) (Result, error)
	// Flush makes safe what was taken.
	Flush(ctx context.Context) (Result, error)
	// Close flushes for the last time. The writer must not be used afterwards.
	Close(ctx context.Context) (Result, error)
}

// Record is a sample or a feedback; the other is nil. What is redacted is gone:
// a tensor's Data and Shape are nil, an id is empty.
type Record struct {
	Sample   *Sample
	Feedback *Feedback
}

// Result is what became of records.
type Result struct {
	Samples, Feedback int64 // that are safe
	Failed            int64 // records that are lost
	Bytes             int64 // written
}

// Stats are the counts of a sink since its start.
type Stats struct {
	Written  int64 // samples that are safe
	Feedback int64 // feedbacks that are safe
	Dropped  int64 // records that the queue had no room for
	Failed   int64 // records that could not be written
	Bytes    int64 // written
	Queued   int   // records that wait now
}

// Sink queues records for a writer, in whose goroutine everything slow is done.
// Its methods may be called concurrently.
type Sink struct {
	cfg    SinkConfig
	redact redaction
	w      Writer
	log    *slog.Logger

	queue  chan Record
	half   chan struct{} // capacity 1: half of the queue is full
	closed atomic.Bool
	stop   chan struct{} // closed by the first Close
	done   chan struct{} // closed when the goroutine is over
	cancel context.CancelFunc

	written, feedback, dropped, failed, bytes atomic.Int64

	// Of the goroutine.
	failing bool
	err     error // of the writer's Close; read by others after done
}

const (
	defaultQueue = 1024
	defaultFlush = 10 * time.Second
)

// NewSink starts a sink. The writer is its own from now on.
func NewSink(cfg SinkConfig, w Writer, log *slog.Logger) *Sink {
	cfg.Queue = cmp.Or(cfg.Queue, defaultQueue)
	cfg.Flush = cmp.Or(cfg.Flush, defaultFlush)
	ctx, cancel := context.WithCancel(context.Background())
	k := &Sink{
		cfg: cfg, redact: newRedaction(cfg.Redact), w: w, log: log,
		queue: make(chan Record, cfg.Queue), half: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}), cancel: cancel,
	}
	go k.run(ctx)
	return k
}

// Offer holds the sample and queues it, or counts a drop and returns false. It
// never blocks.
func (k *Sink) Offer(s *Sample) bool {
	s.Hold()
	if k.put(Record{Sample: s}) {
		return true
	}
	s.Release()
	return false
}

// OfferFeedback queues what became known of a request, or counts a drop and
// returns false. It never blocks.
func (k *Sink) OfferFeedback(f *Feedback) bool { return k.put(Record{Feedback: f}) }

func (k *Sink) put(r Record) bool {
	if k.closed.Load() {
		k.dropped.Add(1)
		return false
	}
	select {
	case k.queue <- r:
	default:
		k.dropped.Add(1)
		return false
	}
	if len(k.queue) == cap(k.queue)/2 {
		select {
		case k.half <- struct{}{}:
		default:
		}
	}
	if k.closed.Load() {
		k.sweep() // Close may have looked at the queue for the last time
	}
	return true
}

// sweep drops what is queued.
func (k *Sink) sweep() {
	for {
		select {
		case r := <-k.queue:
			k.dropped.Add(1)
			r.release()
		default:
			return
		}
	}
}

func (r Record) release() {
	if r.Sample != nil {
		r.Sample.Release()
	}
}

// Stats returns the counts.
func (k *Sink) Stats() Stats {
	return Stats{
		Written: k.written.Load(), Feedback: k.feedback.Load(), Dropped: k.dropped.Load(),
		Failed: k.failed.Load(), Bytes: k.bytes.Load(), Queued: len(k.queue),
	}
}

// Close takes nothing any more, writes what is queued and closes the writer.
// What could not be written when ctx ends is counted as dropped.
func (k *Sink) Close(ctx context.Context) error {
	if k.closed.CompareAndSwap(false, true) {
		close(k.stop)
	}
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
	}
	k.cancel()
	<-k.done
	if k.err != nil {
		return k.err
	}
	return ctx.Err()
}

func (k *Sink) run(ctx context.Context) {
	defer close(k.done)
	defer k.cancel()
	tick := time.NewTicker(k.cfg.Flush)
	defer tick.Stop()
	rest := time.NewTimer(0)
	<-rest.C
	queue := k.queue // nil while it rests
	var view Sample
	for {
		select {
		case r := <-queue:
			k.write(ctx, r, &view)
			k.writeQueued(ctx, cap(queue), &view)
			rest.Reset(restFor)
			queue = nil
		case <-rest.C:
			queue = k.queue
		case <-k.half:
			queue = k.queue
		case <-tick.C:
			k.note(k.w.Flush(ctx))
		case <-k.stop:
			k.finish(ctx, &view)
			return
		}
	}
}

// restFor is how long a sink lets records gather after it has written, unless its queue fills
// up. To be woken takes more from the requests than to write some records.
const restFor = 50 * time.Millisecond

// writeQueued writes what is queued, most records at most.
func (k *Sink) writeQueued(ctx context.Context, most int, view *Sample) {
	for range most {
		select {
		case r := <-k.queue:
			k.write(ctx, r, view)
		default:
			return
		}
	}
}

// finish writes what is queued and closes the writer.
func (k *Sink) finish(ctx context.Context, view *Sample) {
	k.writeQueued(ctx, math.MaxInt, view)
	var r Result
	r, k.err = k.w.Close(ctx)
	k.note(r, k.err)
}

// write passes a record on without what is redacted, or drops it when nobody
// waits any more. view is room for what is left.
func (k *Sink) write(ctx context.Context, r Record, view *Sample) {
	if ctx.Err() == nil {
		k.note(k.w.Write(ctx, k.redact.apply(r, view)))
	} else {
		k.dropped.Add(1)
	}
	r.release()
}

// note counts, and logs when the writer fails for the first time or no longer.
func (k *Sink) note(r Result, err error) {
	k.written.Add(r.Samples)
	k.feedback.Add(r.Feedback)
	k.failed.Add(r.Failed)
	k.bytes.Add(r.Bytes)
	switch {
	case err != nil && !k.failing:
		k.failing = true
		k.log.Error("samples cannot be written; they are lost until it is possible again",
			"error", err)
	case err == nil && k.failing && r.Samples+r.Feedback > 0:
		k.failing = false
		k.log.Info("samples are written again")
	}
}
