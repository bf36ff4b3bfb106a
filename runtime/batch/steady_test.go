package batch

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func TestSteadyPad(t *testing.T) {
	f := func(most int, rows, want []int) {
		t.Helper()
		var s steady
		var got []int
		for _, n := range rows {
			before := s.size
			size, changed := s.pad(n, most)
			if changed != (size != before) {
				t.Errorf("after %d rows: %d, before %d, changed is %v", n, size, before, changed)
			}
			got = append(got, size)
		}
		if !slices.Equal(got, want) {
			t.Errorf("of %v rows the engine gets %v, want %v", rows, got, want)
		}
	}
	f(32, []int{1, 2, 3, 4, 5, 8, 9, 1, 31, 32}, []int{1, 2, 4, 4, 8, 8, 16, 16, 32, 32})
	f(24, []int{17, 24, 3}, []int{24, 24, 24})
	f(4, []int{9, 1}, []int{9, 9}) // a request of its own size
	few := slices.Repeat([]int{3}, 2*shrinkAfter+1)
	f(16, append([]int{16}, few...), slices.Concat([]int{16},
		slices.Repeat([]int{16}, shrinkAfter-1), slices.Repeat([]int{8}, shrinkAfter),
		[]int{4, 4}))
	again := slices.Repeat([]int{3, 3, 3, 9}, shrinkAfter) // one now and then needs it all
	f(16, again, slices.Concat([]int{4, 4, 4}, slices.Repeat([]int{16}, len(again)-3)))
}

func TestSteadyLimit(t *testing.T) {
	s := steady{size: 16, small: shrinkAfter - 1}
	for i := range shrinkAfter + 2 {
		want := 8
		if i == 0 || i == shrinkAfter+1 {
			want = 32
		}
		if got := s.limit(32); got != want {
			t.Errorf("before run %d up to %d rows are gathered, want %d", i, got, want)
		}
		s.pad(5, 32)
	}
	if size, changed := s.pad(16, 32); size != 16 || !changed {
		t.Errorf("a request of 16 rows makes %d", size)
	}
}

// echo is an engine that answers what it gets, and keeps the sizes of its runs.
type echo struct {
	mu    sync.Mutex
	sizes map[int64]int
}

func (e *echo) NewCall() (Call, error) { return &echoing{engine: e}, nil }

type echoing struct {
	engine *echo
	out    []tensor.Tensor
}

func (c *echoing) Run(in []tensor.Tensor, _ time.Duration) ([]tensor.Tensor, error) {
	c.engine.mu.Lock()
	c.engine.sizes[in[0].Shape[0]]++
	c.engine.mu.Unlock()
	c.out = c.out[:0]
	for _, t := range in {
		n := int64(1)
		for _, side := range t.Shape {
			n *= side
		}
		if int64(len(t.Data)) != n {
			return nil, fmt.Errorf("%d bytes for the shape %v", len(t.Data), t.Shape)
		}
		t.Data, t.Shape = bytes.Clone(t.Data), slices.Clone(t.Shape)
		c.out = append(c.out, t)
	}
	return c.out, nil
}

func (*echoing) Terminate() {}
func (*echoing) Close()     {}

// TestSteady wants each request to get its rows of padded runs, along both axes.
func TestSteady(t *testing.T) {
	specs := []tensor.Spec{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{-1, 2}},
		{Name: "h", Datatype: tensor.Uint8, Shape: []int64{3, -1, 2}, BatchAxis: 1}}
	sig := tensor.Signature{Inputs: specs, Outputs: specs, MaxBatchSize: 16}
	engine := &echo{sizes: make(map[int64]int)}
	cfg := DefaultConfig()
	cfg.MaxBatchSize, cfg.Steady = 16, true
	b, err := New(cfg, &sig, engine)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var clients sync.WaitGroup
	for client := range 8 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 7))
			var ticket Ticket
			defer ticket.Free()
			for range 200 {
				rows := 1 + random.IntN(3)
				data := make([]byte, 8*rows)
				for i := range data {
					data[i] = byte(1 + random.IntN(255))
				}
				n := int64(rows)
				ticket.Rows = rows
				ticket.Inputs = []tensor.Tensor{
					{Name: "x", Datatype: tensor.Uint8, Shape: []int64{n, 2}, Data: data[:2*n]},
					{Name: "h", Datatype: tensor.Uint8, Shape: []int64{3, n, 2}, Data: data[2*n:]}}
				if err := b.Do(&ticket); err != nil {
					t.Error(err)
					return
				}
				for i, got := range ticket.Outputs {
					if want := ticket.Inputs[i]; !bytes.Equal(got.Data, want.Data) ||
						!slices.Equal(got.Shape, want.Shape) {
						t.Errorf("got %v %v, want %v %v", got.Shape, got.Data, want.Shape,
							want.Data)
					}
				}
				ticket.Release()
			}
		})
	}
	clients.Wait()
	for size := range engine.sizes {
		if size&(size-1) != 0 || size > 16 {
			t.Errorf("runs of %d rows: %v", size, engine.sizes)
		}
	}
}

func TestCanPad(t *testing.T) {
	f := func(change func(*tensor.Signature), want bool) {
		t.Helper()
		specs := []tensor.Spec{{Name: "x", Datatype: tensor.Int64, Shape: []int64{-1, 2}}}
		sig := tensor.Signature{Inputs: slices.Clone(specs), Outputs: specs, MaxBatchSize: 8}
		change(&sig)
		if got := canPad(&sig); got != want {
			t.Errorf("%+v, %+v: %v", sig.Inputs, sig.Outputs, got)
		}
	}
	f(func(*tensor.Signature) {}, true)
	f(func(s *tensor.Signature) { s.Inputs[0].Datatype = tensor.Bytes }, false)
	f(func(s *tensor.Signature) { s.Outputs[0].BatchAxis = -1 }, false)
}
