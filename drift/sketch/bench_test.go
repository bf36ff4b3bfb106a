package sketch

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

func BenchmarkAdd(b *testing.B) {
	f := func(name string, l *Layout, draw func(r *rand.Rand) Value) {
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 1))
			values := make([]Value, 4096)
			for i := range values {
				values[i] = draw(r)
			}
			s := New(l)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				s.Add(values[i%len(values)])
				i++
			}
		})
	}
	f("numeric", numeric(b, -4, -2.6, -2, -1.6, -1.3, -.8, -.5, -.25, 0, .25, .5, .8, 1.3, 1.6, 2,
		2.6, 4), func(r *rand.Rand) Value { return Number(r.NormFloat64()) })
	var names []string
	for i := range 50 {
		names = append(names, strconv.Itoa(i))
	}
	f("text", categorical(b, names...), func(r *rand.Rand) Value {
		return Text(strconv.AppendInt(nil, int64(r.IntN(50)), 10))
	})
	f("integer", categorical(b, names...), func(r *rand.Rand) Value {
		return Integer(int64(r.IntN(50)))
	})
	f("other", categorical(b, "a"), func(r *rand.Rand) Value {
		return Text(strconv.AppendInt(nil, r.Int64(), 10))
	})
}
