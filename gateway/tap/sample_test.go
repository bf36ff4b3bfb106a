package tap_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// floats returns an FP32 tensor of zeros.
func floats(name string, shape ...int64) tensor.Tensor {
	n, err := tensor.ByteSize(tensor.FP32, shape)
	if err != nil {
		panic(err)
	}
	return tensor.Tensor{Name: name, Datatype: tensor.FP32, Shape: shape, Data: make([]byte, n)}
}

// sampled are the tensors of a request and of its answer.
type sampled struct{ in, out []tensor.Tensor }

// take returns a sample with those tensors.
func take(t testing.TB, p *tap.Pool, id string, of sampled) *tap.Sample {
	t.Helper()
	s := p.Take([]byte(id), of.in, of.out)
	if s == nil {
		t.Fatal("the pool is empty")
	}
	s.Endpoint, s.Model, s.Version, s.Route = "fraud", "fraud-model", "3", "canary"
	s.Protocol, s.Outcome, s.Status, s.Propensity = "http", "ok", 200, 0.25
	s.Time = time.Date(2026, 11, 24, 19, 30, 0, 123456789, time.UTC)
	s.Total, s.Queue, s.Compute = 1500*time.Microsecond, time.Millisecond, 300*time.Microsecond
	return s
}

// A sample is a copy, and a new one has nothing of the last.
func TestSampleIsACopy(t *testing.T) {
	p := tap.NewPool(1, 1<<20)
	in := floats("x", 2, 3)
	in.Data[0] = 7
	s := take(t, p, "a", sampled{[]tensor.Tensor{in, {}}, []tensor.Tensor{floats("y", 1)}})
	in.Data[0], in.Shape[0] = 8, 9
	if x := s.Inputs[0]; x.Data[0] != 7 || x.Shape[0] != 2 || x.Name != "x" {
		t.Errorf("the sample follows what it was copied from: %v", x)
	}
	if s.Inputs[1].Datatype != tensor.Invalid || len(s.Outputs) != 1 || string(s.ID) != "a" {
		t.Errorf("the sample is %v", s)
	}
	s.Release()
	s = p.Take([]byte("b"), nil, nil)
	if string(s.ID) != "b" || len(s.Inputs)+len(s.Outputs) != 0 {
		t.Errorf("the next sample has the id %q and %d inputs", s.ID, len(s.Inputs))
	}
	if s.Endpoint+s.Model+s.Version+s.Route+s.Outcome != "" || s.Status != 0 || !s.Time.IsZero() {
		t.Errorf("the next sample has fields of the last: %+v", s)
	}
}

// Neither samples nor bytes are more than was said, and what is released can be
// taken again. A piece of memory takes 64 bytes at least.
func TestPoolBounds(t *testing.T) {
	f := func(samples int, maxBytes int64, elements int64, want int) {
		t.Helper()
		p := tap.NewPool(samples, maxBytes)
		for range 3 {
			var taken []*tap.Sample
			for {
				s := p.Take([]byte("id"), []tensor.Tensor{floats("x", elements)}, nil)
				if s == nil {
					break
				}
				taken = append(taken, s)
			}
			if len(taken) != want || p.Bytes() > maxBytes {
				t.Errorf("%d samples of %d bytes, want %d", len(taken), p.Bytes(), want)
			}
			for _, s := range taken {
				s.Release()
			}
			if p.Bytes() != 0 {
				t.Errorf("%d bytes are used by no sample", p.Bytes())
			}
		}
	}
	f(3, 1<<20, 1, 3)
	f(100, 660, 1, 10)
	f(100, 660, 16, 10)
	f(100, 660, 17, 5)
	f(100, 1, 1, 0)
	f(0, 1<<20, 1, 0)
}

// A sample is free when all who hold it let go of it.
func TestHold(t *testing.T) {
	p := tap.NewPool(1, 1<<20)
	s := p.Take([]byte("a"), nil, nil)
	s.Hold()
	s.Release()
	if p.Take([]byte("b"), nil, nil) != nil {
		t.Error("a sample that is held was given out again")
	}
	s.Release()
	if p.Take([]byte("b"), nil, nil) == nil {
		t.Error("a sample that nobody holds was not given out")
	}
}

// Samples that many take at the same time never share memory.
func TestPoolConcurrently(t *testing.T) {
	p := tap.NewPool(5, 1<<20)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			in := []tensor.Tensor{floats("x", 100)}
			for i := range in[0].Data {
				in[0].Data[i] = byte(g)
			}
			for range 2000 {
				s := p.Take([]byte{byte(g)}, in, nil)
				if s == nil {
					continue
				}
				if !bytes.Equal(s.Inputs[0].Data, in[0].Data) || s.ID[0] != byte(g) {
					t.Error("a sample has the data of another")
				}
				s.Release()
			}
		})
	}
	wg.Wait()
	if p.Bytes() != 0 {
		t.Errorf("%d bytes are used by no sample", p.Bytes())
	}
}

// discard takes everything at once.
type discard struct{}

func (discard) Write(context.Context, tap.Record) (tap.Result, error) {
	return tap.Result{Samples: 1}, nil
}
func (discard) Flush(context.Context) (tap.Result, error) { return tap.Result{}, nil }
func (discard) Close(context.Context) (tap.Result, error) { return tap.Result{}, nil }

// mlp is a small request: 64 numbers in, 10 out.
func mlp() (id []byte, in, out []tensor.Tensor) {
	return []byte("0123456789abcdef"), []tensor.Tensor{floats("input", 1, 64)},
		[]tensor.Tensor{floats("output", 1, 10)}
}

func TestOfferDoesNotAllocate(t *testing.T) {
	p := tap.NewPool(64, 1<<20)
	k := tap.NewSink(tap.SinkConfig{Queue: 16}, discard{}, slog.New(slog.DiscardHandler))
	defer k.Close(t.Context())
	id, in, out := mlp()
	offer := func() {
		s := p.Take(id, in, out)
		if s == nil {
			t.Fatal("the pool is empty")
		}
		k.Offer(s)
		s.Release()
	}
	for range 1000 { // makes the samples
		offer()
	}
	if n := testing.AllocsPerRun(1000, offer); n != 0 {
		t.Errorf("%v allocations a sample", n)
	}
}

func BenchmarkTakeOfferRelease(b *testing.B) {
	for _, parallel := range []bool{false, true} {
		b.Run(map[bool]string{false: "alone", true: "parallel"}[parallel], func(b *testing.B) {
			p := tap.NewPool(8192, 256<<20)
			k := tap.NewSink(tap.SinkConfig{}, discard{}, slog.New(slog.DiscardHandler))
			defer k.Close(context.Background())
			id, in, out := mlp()
			offer := func() {
				if s := p.Take(id, in, out); s != nil {
					k.Offer(s)
					s.Release()
				}
			}
			b.ReportAllocs()
			if parallel {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						offer()
					}
				})
				return
			}
			for b.Loop() {
				offer()
			}
			b.ReportMetric(float64(k.Stats().Dropped)/float64(b.N), "drops/op")
		})
	}
}
