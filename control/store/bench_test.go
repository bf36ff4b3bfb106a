package store

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// fill puts n resources of size bytes into a store, 100 in a transaction.
func fill(t testing.TB, s Store, n, size int) {
	t.Helper()
	for i := 0; i < n; i += 100 {
		var txn Txn
		for j := i; j < i+100; j++ {
			r := resource("Model", fmt.Sprintf("model-%05d", j), `"`+strings.Repeat("x", size)+`"`)
			txn.Put = append(txn.Put, r)
		}
		do(t, s, txn)
	}
}

// TestListMany wants all of 5,000 resources of 2 kB at the cost of a copy.
func TestListMany(t *testing.T) {
	const n, size = 5000, 2000
	s := opened(t, config(t))
	fill(t, s, n, size)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begun := time.Now()
	list, _, err := s.List(t.Context(), "")
	took := time.Since(begun)
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	stats, statsErr := s.Stats()
	t.Logf("%v, %d bytes in %d pieces; %+v, %v", took, allocated, after.Mallocs-before.Mallocs,
		stats, statsErr)
	if err != nil || len(list) != n || allocated > 2*n*size {
		t.Errorf("%d resources, %v", len(list), err)
	}
}

func BenchmarkTxn(b *testing.B) {
	s := opened(b, config(b))
	fill(b, s, 5000, 2000)
	r := resource("Model", "model-00007", `"`+strings.Repeat("y", 2000)+`"`)
	b.ReportAllocs()
	for b.Loop() {
		do(b, s, Txn{Put: []Resource{r}})
	}
}

func BenchmarkGet(b *testing.B) {
	s := opened(b, config(b))
	fill(b, s, 5000, 2000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get(b.Context(), Key{"Model", "model-00007"}); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkList(b *testing.B) {
	s := opened(b, config(b))
	fill(b, s, 5000, 2000)
	b.ReportAllocs()
	for b.Loop() {
		if list, _, err := s.List(b.Context(), "Model"); err != nil || len(list) != 5000 {
			b.Fatal(len(list), err)
		}
	}
}

// BenchmarkOpen opens a store of 5,000 resources and 20,000 changes.
func BenchmarkOpen(b *testing.B) {
	cfg := config(b)
	s, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	for range 4 {
		fill(b, s, 5000, 2000)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s, err := Open(cfg)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
