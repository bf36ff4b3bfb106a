package tap_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// fake is a writer that notes what it gets, fails when told to, and waits where
// a gate is set.
type fake struct {
	mu      sync.Mutex
	got     []string
	err     error
	gate    chan struct{}
	flushes []time.Time
	closed  int
}

func (f *fake) Write(ctx context.Context, r tap.Record) (tap.Result, error) {
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return tap.Result{Failed: 1}, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return tap.Result{Failed: 1}, f.err
	}
	if r.Feedback != nil {
		f.got = append(f.got, fmt.Sprintf("feedback %s %v", r.Feedback.ID, r.Feedback.Label))
		return tap.Result{Feedback: 1, Bytes: 10}, nil
	}
	s := r.Sample
	line := fmt.Sprintf("sample %s", s.ID)
	for _, t := range slices.Concat(s.Inputs, s.Outputs) {
		line += fmt.Sprintf(" %s=%d", t.Name, len(t.Data))
	}
	f.got = append(f.got, line)
	return tap.Result{Samples: 1, Bytes: 100}, nil
}

func (f *fake) Flush(context.Context) (tap.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushes = append(f.flushes, time.Now())
	return tap.Result{}, f.err
}

func (f *fake) Close(context.Context) (tap.Result, error) {
	f.closed++
	return tap.Result{Bytes: 1}, f.err
}

func (f *fake) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// offer takes a sample from the pool, offers it and lets go of it.
func offer(t testing.TB, p *tap.Pool, k *tap.Sink, id string) bool {
	t.Helper()
	s := take(t, p, id, sampled{[]tensor.Tensor{floats("x", 2), floats("ssn", 1)},
		[]tensor.Tensor{floats("y", 1)}})
	defer s.Release()
	return k.Offer(s)
}

func wantStats(t *testing.T, k *tap.Sink, want tap.Stats) {
	t.Helper()
	if got := k.Stats(); got != want {
		t.Errorf("the counts are %+v, want %+v", got, want)
	}
}

// What is queued is written by Close, in order, and everything is given back.
func TestSinkWritesAll(t *testing.T) {
	p, w := tap.NewPool(10, 1<<20), &fake{}
	k := tap.NewSink(tap.SinkConfig{}, w, slog.New(slog.DiscardHandler))
	offer(t, p, k, "a")
	k.OfferFeedback(&tap.Feedback{ID: "a", Label: 1.0})
	offer(t, p, k, "b")
	if err := k.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"sample a x=8 ssn=4 y=4", "feedback a 1", "sample b x=8 ssn=4 y=4"}
	if !slices.Equal(w.got, want) {
		t.Errorf("the writer got %q, want %q", w.got, want)
	}
	wantStats(t, k, tap.Stats{Written: 2, Feedback: 1, Bytes: 211})
	if offer(t, p, k, "late") || k.OfferFeedback(&tap.Feedback{}) {
		t.Error("a closed sink takes records")
	}
	wantStats(t, k, tap.Stats{Written: 2, Feedback: 1, Bytes: 211, Dropped: 2})
	if err := k.Close(t.Context()); err != nil || w.closed != 1 || p.Bytes() != 0 {
		t.Errorf("%v; closed %d times; %d bytes are held", err, w.closed, p.Bytes())
	}
}

// A writer that hangs costs the samples that the queue has no room for, and
// holds no more memory than the queue.
func TestSinkDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, w := tap.NewPool(100, 1<<20), &fake{gate: make(chan struct{})}
		k := tap.NewSink(tap.SinkConfig{Queue: 3}, w, slog.New(slog.DiscardHandler))
		offer(t, p, k, "0")
		synctest.Wait() // the writer has it
		for i := range 10 {
			if got := offer(t, p, k, fmt.Sprint(i+1)); got != (i < 3) {
				t.Errorf("sample %d: taken is %v", i+1, got)
			}
		}
		if k.OfferFeedback(&tap.Feedback{ID: "0"}) {
			t.Error("the queue has room for feedback")
		}
		wantStats(t, k, tap.Stats{Dropped: 8, Queued: 3})
		const each = 3 * 64
		if got := p.Bytes(); got > 4*(each+1) {
			t.Errorf("four samples hold %d bytes", got)
		}
		close(w.gate)
		if err := k.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantStats(t, k, tap.Stats{Written: 4, Dropped: 8, Bytes: 401})
		if p.Bytes() != 0 {
			t.Errorf("%d bytes are held", p.Bytes())
		}
	})
}

// Close waits for a writer that hangs no longer than it is told to.
func TestSinkCloseDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, w := tap.NewPool(100, 1<<20), &fake{gate: make(chan struct{})}
		k := tap.NewSink(tap.SinkConfig{Queue: 3}, w, slog.New(slog.DiscardHandler))
		offer(t, p, k, "0")
		synctest.Wait()
		offer(t, p, k, "1")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if err := k.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close returns %v", err)
		}
		if took := time.Since(start); took != 5*time.Second || w.closed != 1 || p.Bytes() != 0 {
			t.Errorf("Close took %v; closed %d times; %d bytes are held", took, w.closed, p.Bytes())
		}
		wantStats(t, k, tap.Stats{Failed: 1, Dropped: 1, Bytes: 1})
	})
}

// Offers during Close are either written or dropped, and never held.
func TestSinkOfferDuringClose(t *testing.T) {
	for range 200 {
		p, w := tap.NewPool(1000, 1<<20), &fake{}
		k := tap.NewSink(tap.SinkConfig{Queue: 4}, w, slog.New(slog.DiscardHandler))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 20 {
					offer(t, p, k, "a")
				}
			})
		}
		if err := k.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if s := k.Stats(); s.Written+s.Dropped != 80 || s.Queued != 0 || p.Bytes() != 0 {
			t.Fatalf("80 samples became %+v; %d bytes are held", s, p.Bytes())
		}
	}
}

func TestSinkFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fake{}
		start := time.Now()
		k := tap.NewSink(tap.SinkConfig{Flush: 7 * time.Second}, w, slog.New(slog.DiscardHandler))
		time.Sleep(22 * time.Second)
		if err := k.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(w.flushes) != 3 || w.flushes[2].Sub(start) != 21*time.Second {
			t.Errorf("flushed at %v", w.flushes)
		}
	})
}

// A writer that fails is logged once, and once when it works again.
func TestSinkLogsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p, w := tap.NewPool(10, 1<<20), &fake{}
		k := tap.NewSink(tap.SinkConfig{}, w, slog.New(slog.NewTextHandler(&log, nil)))
		step := func(err error, want string) {
			t.Helper()
			w.fail(err)
			log.Reset()
			for range 3 {
				offer(t, p, k, "a")
				synctest.Wait()
			}
			time.Sleep(time.Minute) // some flushes
			synctest.Wait()
			if n := strings.Count(log.String(), "\n"); n != min(len(want), 1) {
				t.Errorf("%d lines: %s", n, log.String())
			}
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %q: %s", want, log.String())
			}
		}
		full := errors.New("no space left")
		step(nil, "")
		step(full, "no space left")
		step(full, "")
		step(nil, "written again")
		step(nil, "")
		step(full, "no space left")
		if err := k.Close(t.Context()); !errors.Is(err, full) {
			t.Errorf("Close returns %v", err)
		}
		wantStats(t, k, tap.Stats{Written: 9, Failed: 9, Bytes: 901})
	})
}

func TestRedact(t *testing.T) {
	f := func(want string, fields ...string) {
		t.Helper()
		p, w := tap.NewPool(10, 1<<20), &fake{}
		k := tap.NewSink(tap.SinkConfig{Redact: fields}, w, slog.New(slog.DiscardHandler))
		s := take(t, p, "a", sampled{[]tensor.Tensor{floats("x", 1), floats("input.x", 1)},
			[]tensor.Tensor{floats("x", 1), floats("y", 1)}})
		feedback := &tap.Feedback{ID: "a", Label: "good"}
		k.Offer(s)
		k.OfferFeedback(feedback)
		if err := k.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(w.got, "; "); got != want {
			t.Errorf("without %q the writer got\n%s, want\n%s", fields, got, want)
		}
		whole := len(s.Inputs[0].Data) + len(s.Outputs[0].Data)
		if whole != 8 || len(s.ID) != 1 || feedback.ID != "a" || feedback.Label != "good" {
			t.Error("the sample of others was redacted")
		}
		s.Release()
	}
	f("sample a x=4 input.x=4 x=4 y=4; feedback a good")
	f("sample a x=4 input.x=4 x=4 y=4; feedback a good", "z", "input.y", "output.z", "ID", "")
	f("sample a x=0 input.x=4 x=0 y=4; feedback a good", "x")
	f("sample a x=4 input.x=4 x=4 y=0; feedback a good", "y")
	f("sample a x=0 input.x=0 x=4 y=4; feedback a good", "input.x")
	f("sample a x=4 input.x=4 x=0 y=4; feedback a good", "output.x")
	f("sample a x=0 input.x=0 x=0 y=0; feedback a good", "x", "input.x", "y")
	f("sample  x=4 input.x=4 x=4 y=4; feedback  good", "id")
	f("sample a x=4 input.x=4 x=4 y=4; feedback a <nil>", "label")
}
