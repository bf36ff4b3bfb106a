package feedback

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestPendingAgainstModel compares random operations on one set with a map whose
// oldest entry makes room.
func TestPendingAgainstModel(t *testing.T) {
	model := make(map[string]int64)
	oldest := func() (id string) {
		for other, at := range model {
			if id == "" || at < model[id] {
				id = other
			}
		}
		return id
	}
	p := newPending(ways, time.Hour)
	r := rand.New(rand.NewPCG(1, 2))
	evicted := uint64(0)
	for now := range int64(20_000) {
		id := fmt.Sprint(r.IntN(2 * ways))
		at, present := model[id]
		switch r.IntN(4) {
		case 0, 1:
			if !present && len(model) == ways {
				delete(model, oldest())
				evicted++
			}
			model[id] = now + 1
			p.put([]byte(id), &Decision{Arm: id}, now+1)
		case 2:
			delete(model, id)
			p.drop(p.hash(id))
		default:
			d, got := p.get(p.hash(id))
			if (d != nil) != present || got != at || d != nil && d.Arm != id {
				t.Fatalf("get(%s) = %v, %d; want %d, %v", id, d, got, at, present)
			}
		}
		if n, e := p.stats(now); n != len(model) || e != evicted {
			t.Fatalf("%d wait, %d were evicted; want %d and %d", n, e, len(model), evicted)
		}
	}
	if evicted == 0 {
		t.Error("the test evicts nothing")
	}
}

// TestPendingEvictsOld puts four times as many decisions in as there is room for.
// Sets fill unevenly, but the newest quarter of what there is room for is there.
func TestPendingEvictsOld(t *testing.T) {
	const capacity, all = 1000 * ways, 4000 * ways
	f := func(apart time.Duration, waiting, early int) {
		t.Helper()
		p := newPending(capacity, time.Hour)
		for i := range int64(all) {
			p.put(fmt.Append(nil, i), &Decision{}, (i+1)*int64(apart))
		}
		if n, e := p.stats(all * int64(apart)); n != waiting || int(e) != early {
			t.Errorf("%v apart: %d wait, %d were evicted early", apart, n, e)
		}
		lost := 0
		for i := range capacity / 4 {
			if d, _ := p.get(p.hash(fmt.Sprint(all - 1 - i))); d == nil {
				lost++
			}
		}
		if lost > capacity/4/1000 {
			t.Errorf("%d of the newest %d are gone", lost, capacity/4)
		}
	}
	f(time.Millisecond, capacity, all-capacity)
	f(2*time.Hour, 1, 0) // all but one were too old by then
}

func TestDecideAllocatesNothing(t *testing.T) {
	l := open(t, fresh(t))
	id, d := []byte("0123456789abcdef"), Decision{Endpoint: "e", Model: "m", Version: "1"}
	at := time.Now()
	n := testing.AllocsPerRun(1000, func() {
		id[0]++
		at = at.Add(1)
		l.Decide(id, &d, at)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	capacity := DefaultConfig().Capacity
	l := &Ledger{pending: newPending(capacity, time.Hour)}
	d := Decision{Endpoint: "endpoint", Arm: "arm", Model: "model", Version: "1"}
	decide := func(id []byte, i uint64) {
		binary.LittleEndian.PutUint64(id, i)
		l.Decide(id, &d, time.Unix(0, int64(i)))
	}
	for i := range uint64(2 * capacity) { // as it is after a while
		decide(make([]byte, 36), i)
	}
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		id, i := make([]byte, 36), uint64(1<<40)
		for b.Loop() {
			i++
			decide(id, i)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			id, i := make([]byte, 36), rand.Uint64()>>2
			for pb.Next() {
				i++
				decide(id, i)
			}
		})
	})
}

func BenchmarkGive(b *testing.B) {
	for _, clients := range []int{1, 8, 64, 512} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			cfg := DefaultConfig()
			cfg.Path = fresh(b)
			l, err := Open(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			b.ReportAllocs()
			work := make(chan int)
			done := make(chan struct{})
			for range clients {
				go func() {
					for i := range work {
						id := fmt.Sprint(i)
						decide(l, id)
						give(b, l, id, Accepted)
					}
					done <- struct{}{}
				}()
			}
			for i := range b.N {
				work <- i
			}
			close(work)
			for range clients {
				<-done
			}
		})
	}
}
