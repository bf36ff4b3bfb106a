package model

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func TestGrown(t *testing.T) {
	f := func(one, two []int64, want int) {
		t.Helper()
		if got := grown(one, two); got != want {
			t.Errorf("from %v to %v the axis %d has grown, want %d", one, two, got, want)
		}
	}
	f([]int64{1, 3}, []int64{2, 3}, 0)
	f([]int64{2, 1, 128}, []int64{2, 2, 128}, 1) // as the state of a recurrent net
	f([]int64{1}, []int64{2}, 0)
	f([]int64{3, 1}, []int64{3, 1}, -1)        // a value for all rows
	f([]int64{4, 3}, []int64{8, 3}, -1)        // several lines a row
	f([]int64{1, 1}, []int64{2, 2}, -1)        // each row with each
	f([]int64{1, 5}, []int64{2, 7}, -1)        // as long as the data make it
	f([]int64{1, 3}, []int64{2, 3, 1}, -1)     // another rank
	f([]int64{}, []int64{}, -1)                // a scalar
	f([]int64{0, 3}, []int64{0, 3}, -1)        // nothing found
	f([]int64{1, 0, 2}, []int64{2, 0, 2}, 0)   // nothing in each row
	f([]int64{16, 1, 1}, []int64{16, 2, 1}, 1) // the batch behind the time
}

func TestAlike(t *testing.T) {
	bytes := func(d tensor.Datatype, values []float32) (data []byte) {
		for _, v := range values {
			switch d {
			case tensor.FP32:
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
			case tensor.FP16:
				data = binary.LittleEndian.AppendUint16(data, tensor.FP16FromFloat64(float64(v)))
			}
		}
		return data
	}
	d := tensor.FP32
	f := func(a, b []float32, exact, rough bool) {
		t.Helper()
		for _, p := range []probe{{}, {rough: true}} {
			want := exact
			if p.rough {
				want = rough
			}
			if got := p.alike(d, bytes(d, a), bytes(d, b)); got != want {
				t.Errorf("%v and %v, rough %v: alike is %v", a, b, p.rough, got)
			}
		}
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	f([]float32{1, 2}, []float32{1.00001, 2}, true, true)
	f([]float32{50, 0.1}, []float32{50.1, 0.15}, false, true)         // as of a deep net
	f([]float32{50, 0.1}, []float32{52, 0.1}, false, false)           // of other rows
	f([]float32{0.004, 0.001}, []float32{0.001, 0.004}, false, false) // shares of many
	f([]float32{1e-9}, []float32{2e-9}, true, true)                   // nothing left
	f([]float32{nan, inf, 1}, []float32{nan, inf, 1}, true, true)
	f([]float32{inf}, []float32{1}, false, false)
	f([]float32{1}, []float32{inf}, false, false)
	f([]float32{nan, 50}, []float32{nan, 50.1}, false, true)
	f([]float32{nan}, []float32{1}, false, false)
	f([]float32{1, 2}, []float32{1}, false, false)
	d = tensor.FP16
	f([]float32{1}, []float32{1.01}, true, true)
}
