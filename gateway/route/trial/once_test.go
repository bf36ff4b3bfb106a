package trial

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestOnce(t *testing.T) {
	f := func(users int, most float64) {
		t.Helper()
		o := NewOnce(users)
		lost := 0
		for user := range uint64(users) {
			if !o.First(user << 40) { // hashes may be alike in what is not mixed
				lost++
			}
		}
		if share := float64(lost) / float64(users); share > most {
			t.Errorf("%.4f of %d users were taken for known", share, users)
		}
		for user := range uint64(users) {
			if o.First(user << 40) {
				t.Fatalf("user %d counted twice", user)
			}
		}
	}
	f(10_000, 0.005) // 13 bits for each
	f(13_000, 0.008) // 10.1
	f(1, 0)
	o := NewOnce(-1)
	if n := len(o.words); n != 1 {
		t.Errorf("the smallest filter has %d words", n)
	}
	for user := range uint64(1000) {
		o.First(user)
	}
	for user := range uint64(1000) {
		if o.First(1<<40 + user) {
			t.Fatal("a full filter let a user through")
		}
	}
	if n := len(NewOnce(maxUsers + 1).words); n != 1<<24 {
		t.Errorf("the largest filter has %d words", n)
	}
}

// TestOnceConcurrently brings each user on four goroutines at once.
func TestOnceConcurrently(t *testing.T) {
	const users, goroutines = 20_000, 4
	o := NewOnce(10 * users)
	var first atomic.Int64
	var wait sync.WaitGroup
	for range goroutines {
		wait.Go(func() {
			for user := range uint64(users) {
				if o.First(user) {
					first.Add(1)
				}
			}
		})
	}
	wait.Wait()
	if n := first.Load(); n > users || n < users*995/1000 {
		t.Errorf("%d of %d users counted", n, users)
	}
}

func BenchmarkOnce(b *testing.B) {
	b.ReportAllocs()
	o := NewOnce(1_000_000)
	for user := uint64(0); b.Loop(); user++ {
		o.First(user)
	}
}
