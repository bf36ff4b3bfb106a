package batch_test

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// doubler is an engine that doubles INT64 rows; it stands for a model where
// only the batcher matters.
type doubler struct {
	runs, atOnce, most atomic.Int64
	largest            atomic.Int64
}

func (d *doubler) NewCall() (batch.Call, error) { return &doubling{engine: d}, nil }

type doubling struct {
	engine *doubler
	out    []tensor.Tensor
}

func (d *doubling) Run(in []tensor.Tensor, _ time.Duration) ([]tensor.Tensor, error) {
	now := d.engine.atOnce.Add(1)
	defer d.engine.atOnce.Add(-1)
	for old := d.engine.most.Load(); now > old && !d.engine.most.CompareAndSwap(old, now); {
		old = d.engine.most.Load()
	}
	d.engine.runs.Add(1)
	if n := in[0].Shape[0]; n > d.engine.largest.Load() {
		d.engine.largest.Store(n)
	}
	data := make([]byte, len(in[0].Data))
	for i := 0; i < len(data); i += 8 {
		v := binary.LittleEndian.Uint64(in[0].Data[i:])
		binary.LittleEndian.PutUint64(data[i:], 2*v)
	}
	shape := append([]int64(nil), in[0].Shape...)
	d.out = append(d.out[:0],
		tensor.Tensor{Name: "y", Datatype: tensor.Int64, Shape: shape, Data: data})
	return d.out, nil
}

func (*doubling) Terminate() {}
func (*doubling) Close()     {}

var signature = tensor.Signature{
	Inputs:       []tensor.Spec{{Name: "x", Datatype: tensor.Int64, Shape: []int64{-1, 2}}},
	Outputs:      []tensor.Spec{{Name: "y", Datatype: tensor.Int64, Shape: []int64{-1, 2}}},
	MaxBatchSize: 16,
}

func newBatcher(t *testing.T, cfg batch.Config, e batch.Engine) *batch.Batcher {
	t.Helper()
	b, err := batch.New(cfg, &signature, e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAnswersBelongToTheirRequests sends many requests of one to three rows at
// once and checks that each gets its own rows back.
func TestAnswersBelongToTheirRequests(t *testing.T) {
	engine := &doubler{}
	cfg := batch.DefaultConfig()
	cfg.MaxBatchSize = 16
	b := newBatcher(t, cfg, engine)
	var wg sync.WaitGroup
	for client := range 32 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 7))
			var ticket batch.Ticket
			defer ticket.Free()
			for range 500 {
				rows := 1 + random.IntN(3)
				data := make([]byte, 16*rows)
				for i := 0; i < len(data); i += 8 {
					binary.LittleEndian.PutUint64(data[i:], random.Uint64()>>1)
				}
				ticket.Rows = rows
				ticket.Inputs = []tensor.Tensor{{Name: "x", Datatype: tensor.Int64,
					Shape: []int64{int64(rows), 2}, Data: data}}
				if err := b.Do(&ticket); err != nil {
					t.Error(err)
					return
				}
				got := ticket.Outputs[0]
				if got.Shape[0] != int64(rows) || len(got.Data) != len(data) {
					t.Errorf("got shape %v for %d rows", got.Shape, rows)
				}
				for i := 0; i < len(data); i += 8 {
					want := 2 * binary.LittleEndian.Uint64(data[i:])
					if v := binary.LittleEndian.Uint64(got.Data[i:]); v != want {
						t.Errorf("value %d is %d, want %d", i/8, v, want)
						return
					}
				}
				ticket.Release()
			}
		})
	}
	wg.Wait()
	stats := b.Stats()
	if stats.Success.Count != 32*500 || stats.Waiting != 0 || stats.Running != 0 {
		t.Errorf("stats after all: %+v", stats)
	}
	if engine.most.Load() > int64(runtime.GOMAXPROCS(0)) {
		t.Errorf("%d runs at once, more than cores", engine.most.Load())
	}
	b.Close()
	var ticket batch.Ticket
	if err := b.Do(&ticket); err != batch.ErrClosed {
		t.Errorf("Do after Close: %v", err)
	}
}
