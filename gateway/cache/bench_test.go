package cache_test

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/millrace-ml/millrace/gateway/cache"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

const digest = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"

// floats returns a tensor of n float32 numbers that differ with v.
func floats(v uint64, n int) []tensor.Tensor {
	data := make([]byte, 4*n)
	binary.LittleEndian.PutUint64(data, v)
	return []tensor.Tensor{{Name: "x", Datatype: tensor.FP32, Shape: []int64{1, int64(n)},
		Data: data}}
}

// BenchmarkHit finds requests of some floats among a thousand.
func BenchmarkHit(b *testing.B) {
	for _, n := range []int{16, 64, 1024, 150528} {
		b.Run(fmt.Sprintf("floats=%d", n), func(b *testing.B) {
			c := newCache(b, cache.Config{MaxBytes: 1 << 30})
			requests := make([][]tensor.Tensor, min(1000, 10_000_000/n))
			for i := range requests {
				requests[i] = floats(uint64(i), n)
				ask(c, digest, requests[i], floats(0, 2))
			}
			var workers atomic.Uint64
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := workers.Add(7); pb.Next(); i++ {
					in := requests[i%uint64(len(requests))]
					if out, _, _ := c.Look(0, digest, in); out == nil {
						b.Error("no hit")
						return
					}
				}
			})
		})
	}
}

// BenchmarkMiss sends requests of 64 floats that never repeat to a full cache.
func BenchmarkMiss(b *testing.B) {
	for _, admitAfter := range []int{1, 2} {
		b.Run(fmt.Sprintf("admit_after=%d", admitAfter), func(b *testing.B) {
			c := newCache(b, cache.Config{MaxBytes: 64 << 20, AdmitAfter: admitAfter})
			var workers atomic.Uint64
			out := floats(0, 2)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				in := floats(0, 64)
				for i := workers.Add(1) << 40; pb.Next(); i++ {
					binary.LittleEndian.PutUint64(in[0].Data, i)
					if ask(c, digest, in, out) == hit {
						b.Error("a hit")
						return
					}
				}
			})
		})
	}
}
