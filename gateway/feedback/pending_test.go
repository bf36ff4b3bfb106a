package feedback

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestPendingAgainstModel compares random operations with a list of all that was
// ever put in.
func TestPendingAgainstModel(t *testing.T) {
	const room = 160
	type put struct {
		id string
		at int64
	}
	var all []put
	dropped := make(map[put]bool)
	p := newPending(room, time.Hour)
	newest := func(id string) (at int64) {
		for _, k := range all[max(0, len(all)-room):] {
			if k.id == id {
				at = k.at
			}
		}
		if dropped[put{id, at}] {
			return 0
		}
		return at
	}
	r := rand.New(rand.NewPCG(1, 2))
	lost := 0
	for now := range int64(100_000) {
		id := fmt.Sprint(r.IntN(3 * room))
		switch op := r.IntN(1000); {
		case op < 700 || now%5000 > 4000: // and now and then nobody asks for long
			all = append(all, put{id, now + 1})
			p.add(3, []byte(id), &Decision{Arm: id}, now+1)
		case op < 800:
			dropped[put{id, newest(id)}] = true
			p.drop(hashOf(id))
		default:
			want := newest(id)
			d, got := p.get(hashOf(id))
			if (d != nil) != (want != 0) || got != want || d != nil && d.Arm != id {
				t.Fatalf("at %d get(%s) = %v, %d; want %d", now, id, d, got, want)
			}
			if want == 0 {
				lost++
			}
		}
	}
	if lost == 0 {
		t.Error("the test loses nothing")
	}
	if n, _ := p.stats(0); n < room/2 || n > room {
		t.Errorf("%d wait", n)
	}
}

// TestPendingEvictsOld puts four times as many decisions in as there is room for.
// Some are on the way, but the newest 95 % of what there is room for are there.
func TestPendingEvictsOld(t *testing.T) {
	const capacity, all = 80_000, 320_000
	f := func(apart time.Duration, waiting, early int) {
		t.Helper()
		p := newPending(capacity, time.Hour)
		for i := range int64(all) {
			p.add(int(i), fmt.Append(nil, i), &Decision{}, (i+1)*int64(apart))
		}
		if n, e := p.stats(all * int64(apart)); n != waiting || int(e) != early {
			t.Errorf("%v apart: %d wait, %d were evicted early", apart, n, e)
		}
		for i := range capacity * 95 / 100 {
			if d, _ := p.get(hashOf(fmt.Sprint(all - 1 - i))); d == nil {
				t.Fatalf("the decision that %d others followed is gone", i)
			}
		}
		if d, _ := p.get(hashOf(fmt.Sprint(all - capacity*105/100))); d != nil {
			t.Error("a decision is there that many others followed")
		}
	}
	f(time.Millisecond, capacity, all-capacity)
	f(2*time.Hour, 1, 0) // all but one were too old by then
}

// TestPendingAcrossHomes gives one id twice by different threads, whose decisions may go
// into the ring in the other order: the newer one holds.
func TestPendingAcrossHomes(t *testing.T) {
	p := newPending(1000, time.Hour)
	old, young := &Decision{Arm: "old"}, &Decision{Arm: "young"}
	for i := range 2 * stripes {
		id := fmt.Sprint(i)
		p.add(i, []byte(id), old, 1)
		p.add(i+stripes/2, []byte(id), young, 2)
	}
	for i := range 2 * stripes {
		if d, at := p.get(hashOf(fmt.Sprint(i))); d != young || at != 2 {
			t.Errorf("%d: %v, %d", i, d, at)
		}
	}
	if n, _ := p.stats(2); n != 2*stripes {
		t.Errorf("%d wait", n)
	}
}

// TestPendingAtOnce puts in and takes out on many goroutines: each finds its own.
func TestPendingAtOnce(t *testing.T) {
	p := newPending(1<<16, time.Hour)
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			for i := range 4000 {
				id := fmt.Sprint(g, "/", i)
				p.add(g, []byte(id), &Decision{Arm: id}, 1)
				if i%3 == 0 {
					if d, _ := p.get(hashOf(id)); d == nil || d.Arm != id {
						t.Errorf("%s is %v", id, d)
						return
					}
					p.drop(hashOf(id))
				}
			}
		})
	}
	wait.Wait()
	if n, _ := p.stats(1); n != 8*(4000-1334) {
		t.Errorf("%d wait", n)
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	l := open(t, fresh(t))
	id, d := []byte("0123456789abcdef"), Decision{Endpoint: "e", Model: "m", Version: "1"}
	at := time.Now()
	n := testing.AllocsPerRun(1000, func() {
		id[0]++
		at = at.Add(1)
		l.Decide(0, id, &d, at.UnixNano())
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	capacity := DefaultConfig().Capacity
	l := &Ledger{pending: newPending(capacity, time.Hour)}
	d := Decision{Endpoint: "endpoint", Arm: "arm", Model: "model", Version: "1"}
	decide := func(home int, id []byte, i uint64) {
		binary.LittleEndian.PutUint64(id, i)
		l.Decide(home, id, &d, int64(i))
	}
	for i := range uint64(2 * capacity) { // as it is after a while
		decide(0, make([]byte, 36), i)
	}
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		id, i := make([]byte, 36), uint64(1<<40)
		for b.Loop() {
			i++
			decide(0, id, i)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		var homes atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			home := int(homes.Add(1))
			id, i := make([]byte, 36), rand.Uint64()>>2
			for pb.Next() {
				i++
				decide(home, id, i)
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
