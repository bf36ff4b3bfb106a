// Package tap is the stream of samples that the gateway offers to whoever wants
// to see live traffic: files for training, events, shadows, monitors.
//
// A [Sample] is a copy of one answered request. It comes from a [Pool], which
// bounds how many there are and what they take; when the pool is empty the
// request goes by unseen and is counted. Whoever keeps a sample holds it, and
// gives it back with Release. Nothing here makes a request wait.
//
// A [Sink] queues samples and what became known of them later, and hands them
// to a [Writer]: [Files] writes folders of Parquet or JSON Lines files,
// [Events] sends CloudEvents over HTTP.
package tap

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Sample is one request with its answer. All but Release is read-only once it
// was offered. What it refers to is valid until the last Release.
type Sample struct {
	ID             []byte // of the request; never empty
	Endpoint       string // "" for a request for a model by its own name
	Model, Version string // that answered
	Route          string // name of the arm, or how else the version was chosen
	Protocol       string
	Outcome        string  // label of the metrics; "ok" for an answer
	Status         int     // HTTP status
	Propensity     float64 // probability with which the arm was picked
	Time           time.Time
	// How long the request took in all, waited for a run, and ran.
	Total, Queue, Compute time.Duration
	// In the order of the model's signature; a tensor that is not there has the
	// datatype tensor.Invalid. Outputs are empty where there was no answer.
	Inputs, Outputs []tensor.Tensor

	*store
}

// store is what a sample's tensors lie in. It stands apart, so that a sample
// with some fields left out is a plain copy.
type store struct {
	mem    tensor.Arena
	shapes []int64
	bytes  int64 // counted for it
	refs   atomic.Int32
	pool   *Pool
}

// Pool hands samples out. It may be used concurrently.
type Pool struct {
	maxBytes  int64
	keepBytes int // memory that a free sample keeps at most
	bytes     atomic.Int64

	mu sync.Mutex // held for some instructions only
	// Guarded by mu. The sample that was used last goes out first: it is still
	// in the processor's caches, and few samples are ever made where few are used.
	free []*Sample
	left int // samples that were not made yet
}

// A free sample keeps memory for the next request of its size, as long as all
// together keep no more than they may use. An arena's first piece is always kept.
const (
	leastKeep = 16 << 10
	mostKeep  = 256 << 10
)

// NewPool returns a pool of at most that many samples, whose tensors take at
// most maxBytes.
func NewPool(samples int, maxBytes int64) *Pool {
	keep := min(maxBytes/int64(max(samples, 1)), mostKeep)
	return &Pool{
		maxBytes: maxBytes, keepBytes: int(max(keep, leastKeep)), left: samples,
		free: make([]*Sample, 0, samples),
	}
}

// Bytes returns what the tensors of all samples in use take.
func (p *Pool) Bytes() int64 { return p.bytes.Load() }

// alignment is that of an arena's pieces.
const alignment = 64

// Take returns a sample with copies of the id and the tensors, held once, and
// with no other field set. It returns nil when the pool is empty or its bytes
// are used up.
func (p *Pool) Take(id []byte, inputs, outputs []tensor.Tensor) *Sample {
	need, dims := int64(len(id)), 0
	for _, list := range [2][]tensor.Tensor{inputs, outputs} {
		for i := range list {
			need += int64((len(list[i].Data) + alignment - 1) &^ (alignment - 1))
			dims += len(list[i].Shape)
		}
	}
	if p.bytes.Add(need) > p.maxBytes {
		p.bytes.Add(-need)
		return nil
	}
	s := p.pop()
	if s == nil {
		p.bytes.Add(-need)
		return nil
	}
	s.bytes = need
	s.refs.Store(1)
	if s.fill(id, [2][]tensor.Tensor{inputs, outputs}, dims) != nil {
		s.Release()
		return nil
	}
	return s
}

// pop returns a free sample, nil where all are in use.
func (p *Pool) pop() *Sample {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		return s
	}
	if p.left == 0 {
		return nil
	}
	p.left--
	return &Sample{store: &store{pool: p}}
}

// fill copies id and tensors and forgets the sample's other fields. Shapes of
// all tensors have dims dimensions together.
func (s *Sample) fill(id []byte, tensors [2][]tensor.Tensor, dims int) error {
	*s = Sample{
		ID: append(s.ID[:0], id...), Inputs: s.Inputs[:0], Outputs: s.Outputs[:0],
		store: s.store,
	}
	if cap(s.shapes) < dims {
		s.shapes = make([]int64, 0, dims)
	}
	s.shapes = s.shapes[:0]
	into := [2]*[]tensor.Tensor{&s.Inputs, &s.Outputs}
	for k, list := range tensors {
		for i := range list {
			t := list[i]
			data, err := s.mem.Alloc(len(t.Data))
			if err != nil {
				return err
			}
			copy(data, t.Data)
			from := len(s.shapes)
			s.shapes = append(s.shapes, t.Shape...)
			t.Data, t.Shape = data, s.shapes[from:len(s.shapes):len(s.shapes)]
			*into[k] = append(*into[k], t)
		}
	}
	return nil
}

// Hold says that one more Release will come.
func (s *Sample) Hold() { s.refs.Add(1) }

// Release gives the sample back; it must not be used afterwards.
func (s *Sample) Release() {
	if s.refs.Add(-1) == 0 {
		s.pool.takeBack(s)
	}
}

// Release releases many samples of one pool, which costs less than one by one.
func Release(samples []*Sample) {
	last := samples[:0]
	for _, s := range samples {
		if s.refs.Add(-1) == 0 {
			last = append(last, s)
		}
	}
	if len(last) > 0 {
		last[0].pool.takeBack(last...)
	}
}

// takeBack makes samples free that nobody holds any more.
func (p *Pool) takeBack(samples ...*Sample) {
	bytes := int64(0)
	for _, s := range samples {
		s.mem.Reset(p.keepBytes)
		bytes += s.bytes
		clear(s.Inputs)
		clear(s.Outputs)
	}
	p.bytes.Add(-bytes)
	p.mu.Lock()
	p.free = append(p.free, samples...)
	p.mu.Unlock()
}

// Feedback is what became known of a request after its answer.
type Feedback struct {
	ID             string
	Endpoint       string
	Model, Version string // that had answered
	Route          string
	Time           time.Time
	Reward         *float64 // in [0, 1]
	Label          any      // the true answer as it was sent: a JSON value, nil for none
}
