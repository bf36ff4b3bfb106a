package bench

import "time"

// maxErrorTexts bounds how many different error texts a sender keeps.
const maxErrorTexts = 32

// A recorder gathers what one sender measures; it belongs to one goroutine.
type recorder struct {
	latency  histogram
	lateness histogram
	codes    map[int]int64 // HTTP status or gRPC code: answers
	errors   map[string]int64
	ok       int64
	served   int64 // good answers that came within the measured time
	failed   int64
	bytesOut int64
	bytesIn  int64
	last     int64 // instant of the last answer, ns since the start
}

func newRecorder() *recorder {
	return &recorder{codes: make(map[int]int64), errors: make(map[string]int64)}
}

// good records an answer that came latency after its request was due.
func (r *recorder) good(now, latency int64) {
	r.ok++
	r.last = max(r.last, now)
	r.latency.add(latency)
}

// fail records a request that got no good answer.
func (r *recorder) fail(now int64, text string) {
	r.failed++
	r.last = max(r.last, now)
	if _, known := r.errors[text]; !known && len(r.errors) >= maxErrorTexts {
		text = "other errors"
	}
	r.errors[text]++
}

func (r *recorder) merge(o *recorder) {
	r.latency.merge(&o.latency)
	r.lateness.merge(&o.lateness)
	for k, n := range o.codes {
		r.codes[k] += n
	}
	for k, n := range o.errors {
		r.errors[k] += n
	}
	r.ok += o.ok
	r.served += o.served
	r.failed += o.failed
	r.bytesOut += o.bytesOut
	r.bytesIn += o.bytesIn
	r.last = max(r.last, o.last)
}

// A share is what a sender hands back when it has finished.
type share struct {
	rec  *recorder
	busy time.Duration // CPU time that sending and reading took
}
