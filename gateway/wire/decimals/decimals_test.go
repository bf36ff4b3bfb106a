package decimals

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

var every = flag.Bool("every", false, "test all numbers of single precision, in some minutes")

// want is what the standard library writes, but that of 2^-12, which is in the middle of
// two decimals, it takes the odd one.
func want(dst []byte, f float32) []byte {
	if math.Abs(float64(f)) == 1.0/4096 {
		return fmt.Append(dst, math.Copysign(0.00024414062, float64(f)))
	}
	format := byte('f')
	if a := math.Abs(float64(f)); a != 0 && (a < Least || a >= Most) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, float64(f), format, -1, 32)
}

// check compares the numbers with the bits from first on, count of them at a step.
func check(t *testing.T, first, step uint32, count int) {
	var got, expected []byte
	for range count {
		if f := math.Float32frombits(first); f-f == 0 {
			got, expected = Append(got[:0], f), want(expected[:0], f)
			if string(got) != string(expected) {
				t.Errorf("the number with bits %#x is written %s, not %s", first, got, expected)
			}
		}
		first += step
	}
}

// TestAppend compares numbers of all exponents, with those next to powers of two and ten.
func TestAppend(t *testing.T) {
	if *every {
		var all sync.WaitGroup
		cores := uint32(runtime.NumCPU())
		for i := range cores {
			all.Go(func() { check(t, i, cores, int(1<<32/uint64(cores)+1)) })
		}
		all.Wait()
		return
	}
	check(t, 0, 4099, 1<<32/4099)
	for e := range uint32(512) {
		check(t, e<<23-100, 1, 200)
	}
	for e := -45; e < 39; e++ {
		for m := range 9 {
			near := math.Float32bits(float32(float64(m+1) * math.Pow10(e)))
			check(t, near-20, 1, 40)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		check(t, math.Float32bits(rng.Float32()), 1, 1)
		check(t, math.Float32bits(float32(rng.IntN(1e6))/1000), 1, 1)
	}
}

func BenchmarkAppend(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	numbers := make([]float32, 1024)
	for i := range numbers {
		numbers[i] = rng.Float32()
	}
	for name, f := range map[string]func([]byte, float32) []byte{
		"ours": Append, "standard library": want} {
		b.Run(name, func(b *testing.B) {
			var dst []byte
			for i := range b.N {
				dst = f(dst[:0], numbers[i%len(numbers)])
			}
		})
	}
}
