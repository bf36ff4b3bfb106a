package main

import (
	"context"
	"sync"

	"github.com/millrace-ml/millrace/gateway/tap"
)

// written counts the samples of requests that taps have written to files, by tap and endpoint.
type written struct {
	mu     sync.Mutex
	counts map[[2]string]int // guarded by mu
}

func (w *written) add(tap, endpoint string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.counts == nil {
		w.counts = make(map[[2]string]int)
	}
	w.counts[[2]string{tap, endpoint}]++
}

// counting is a writer of a tap that counts.
type counting struct {
	tap.Writer
	tap string
	to  *written
}

// Write implements [tap.Writer].
func (c *counting) Write(ctx context.Context, r tap.Record) (tap.Result, error) {
	if r.Sample == nil {
		return c.Writer.Write(ctx, r)
	}
	endpoint := r.Sample.Endpoint
	result, err := c.Writer.Write(ctx, r)
	if err == nil {
		c.to.add(c.tap, endpoint)
	}
	return result, err
}

// writtenOf returns how many samples of an endpoint's requests went to files: to those of its first
// tap with files, which is the one that triggers tell of.
func (e *endpoints) writtenOf(endpoint string) int {
	for i := range e.cfg.Taps {
		t := &e.cfg.Taps[i]
		if t.Keeps(endpoint) {
			e.written.mu.Lock()
			defer e.written.mu.Unlock()
			return e.written.counts[[2]string{t.Name, endpoint}]
		}
	}
	return 0
}
