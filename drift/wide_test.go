package drift

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// one is the signature of a model with one input x, whose rows have a shape.
func one(d tensor.Datatype, row ...int64) *tensor.Signature {
	return &tensor.Signature{MaxBatchSize: 64, Inputs: []tensor.Spec{{Name: "x", Datatype: d,
		Shape: append([]int64{-1}, row...)}}}
}

// number appends a number to the data of a tensor.
func number(data []byte, d tensor.Datatype, x float64) []byte {
	switch d {
	case tensor.FP16:
		return binary.LittleEndian.AppendUint16(data, tensor.FP16FromFloat64(x))
	case tensor.BF16:
		return binary.LittleEndian.AppendUint16(data, tensor.BF16FromFloat64(x))
	case tensor.FP32:
		return binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(x)))
	case tensor.FP64:
		return binary.LittleEndian.AppendUint64(data, math.Float64bits(x))
	}
	return append(data, binary.LittleEndian.AppendUint64(nil, uint64(int64(x)))[:d.Size()]...)
}

// numbers is a tensor of these numbers, at an odd address, as in a request they may be.
func numbers(d tensor.Datatype, shape []int64, values []float64) tensor.Tensor {
	t := tensor.Tensor{Name: "x", Datatype: d, Shape: shape}
	for _, x := range values {
		t.Data = number(t.Data, d, x)
	}
	t.Data = append([]byte{0}, t.Data...)[1:]
	return t
}

// rowsOf returns the numbers of the rows that a tensor has, NaN for what is missing.
func rowsOf(t testing.TB, r *Rows, x tensor.Tensor) (rows [][]float64) {
	t.Helper()
	if err := r.Each([]tensor.Tensor{x}, nil, func(row []sketch.Value) error {
		var all []float64
		for _, v := range row {
			all = append(all, v.Float())
		}
		rows = append(rows, all)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return rows
}

// near compares what sums give, but for rounding; NaN is NaN.
func near(got, want float64) bool {
	return got == want || math.Abs(got-want) <= 1e-5*(1+math.Abs(want)) ||
		math.IsNaN(got) && math.IsNaN(want)
}

// eighths are 1500 numbers, whose sums have no rounding.
func eighths() []float64 {
	all := make([]float64, 1500)
	for i := range all {
		all[i] = float64(i*7919%1000) / 8
	}
	return all
}

// TestWideGolden holds rows against what the program in docs/drift.md gives, with NumPy
// 2.4.6: kept references count on that.
func TestWideGolden(t *testing.T) {
	f := func(row []int64, values []float64, want ...float64) {
		t.Helper()
		x := numbers(tensor.FP32, append([]int64{1}, row...), values)
		got := rowsOf(t, NewRows(one(tensor.FP32, row...)), x)
		if !slices.EqualFunc(got[0], want, func(got, want float64) bool {
			return math.Abs(got-want) < 1e-8
		}) {
			t.Errorf("%v: got %v, want %v", row, got, want)
		}
	}
	projected := []float64{-35.86169434, -17.20678711, -66.11828613, 29.88439941,
		-30.27380371, 39.19885254, 39.18164062, -33.16564941, 16.22351074, 3.45556641,
		-31.14306641, 46.76843262, 3.53308105, -7.70288086, -3.46411133, 60.93920898}
	f([]int64{1500}, eighths(), append([]float64{62.47912598, 36.10241699, 18.63330078, 0},
		projected...)...)
	f([]int64{20, 25, 3}, eighths(), append([]float64{62.47912598, 36.10241699, 46.15869141, 0},
		projected...)...)
	some := eighths()
	for _, i := range []int{5, 700, 701, 1499} {
		some[i] = math.NaN()
	}
	f([]int64{1500}, some, 62.50463867, 36.13122559, 18.64465332, 0.00266667,
		-35.89648438, -17.27978516, -66.23022461, 29.94274902, -33.93151855, 43.09106445,
		40.23327637, -33.22570801, 16.20312500, 3.40234375, -31.17944336, 46.88354492,
		3.51147461, -7.70275879, -3.46350098, 61.01538086)
}

// plainly sums up a row as it is defined, one thing after the other.
func plainly(values []float64, channels int) []float64 {
	mean := func(of []float64) float64 {
		sum := 0.0
		for _, x := range of {
			sum += x
		}
		return sum / float64(len(of))
	}
	numbers := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	middle := mean(numbers)
	var squares, steps []float64
	projected := make([]float64, 16)
	for i, x := range values {
		if math.IsNaN(x) {
			continue
		}
		squares = append(squares, (x-middle)*(x-middle))
		if i >= channels && i&4 == 0 && !math.IsNaN(values[i-channels]) {
			steps = append(steps, math.Abs(x-values[i-channels]))
		}
		signs, turn := shuffle(i)
		projected[i%16^turn] += (x - middle) * float64(1-2*int(signs>>(i%64)&1)) *
			math.Sqrt(16/float64(len(numbers)))
	}
	if steps == nil {
		steps = []float64{0}
	}
	row := append([]float64{middle, math.Sqrt(mean(squares)), mean(steps),
		1 - float64(len(numbers))/float64(len(values))}, projected...)
	for i := range row {
		if len(numbers) == 0 && i != 3 {
			row[i] = math.NaN()
		}
	}
	return row
}

// TestWidePlainly compares rows of all sizes with their definition, with NaN at some or
// all places.
func TestWidePlainly(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 1))
	for _, channels := range []int{1, 2, 3, 4} {
		rows := NewRows(one(tensor.FP64, -1, int64(channels)))
		for _, share := range []float64{0, 0.001, 0.5, 1} {
			for _, n := range []int{1, 2, 5, 63, 64, 65, 255, 256, 257, 768, 3001} {
				values := make([]float64, 2*n*channels)
				for i := range values {
					if values[i] = 3 + r.NormFloat64(); r.Float64() < share {
						values[i] = math.NaN()
					}
				}
				got := rowsOf(t, rows, numbers(tensor.FP64,
					[]int64{2, int64(n), int64(channels)}, values))
				for i, half := range [][]float64{values[:n*channels], values[n*channels:]} {
					size := float64(len(half))
					want := append([]float64{size}, plainly(half, channels)...)
					if !slices.EqualFunc(got[i], want, near) {
						t.Fatalf("%v with %v NaN: got %v, want %v", size, share, got[i], want)
					}
				}
			}
		}
	}
}

// TestWideDatatypes wants the same of the same numbers, whatever they are written in.
func TestWideDatatypes(t *testing.T) {
	values := make([]float64, 1100)
	for i := range values {
		values[i] = float64(i * 7 % 2)
	}
	want := plainly(values, 1)
	for d := tensor.Bool; d < tensor.Bytes; d++ {
		got := rowsOf(t, NewRows(one(d, 1100)), numbers(d, []int64{1, 1100}, values))
		if len(got) != 1 || !slices.EqualFunc(got[0], want, near) {
			t.Errorf("%v: got %v, want %v", d, got, want)
		}
	}
	values[1], values[500] = math.Inf(1), math.Inf(1)
	x := numbers(tensor.FP32, []int64{1, 1100}, values)
	row := rowsOf(t, NewRows(one(tensor.FP32, 1100)), x)[0]
	if !math.IsInf(row[0], 1) || !math.IsNaN(row[1]) || row[3] != 0 {
		t.Errorf("with infinite ones: %v", row)
	}
}

// TestWideRounding wants nothing to be left of the rounding of probabilities, whose mean is
// the same whatever they are.
func TestWideRounding(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 2))
	rows := NewRows(one(tensor.FP32, -1))
	means := make(map[float64]bool)
	for range 1000 {
		p := []float64{r.Float64(), r.Float64(), r.Float64()}
		sum := p[0] + p[1] + p[2]
		for i := range p {
			p[i] /= sum
		}
		means[rowsOf(t, rows, numbers(tensor.FP32, []int64{1, 3}, p))[0][1]] = true
	}
	if len(means) > 2 { // the grain is one of two
		t.Errorf("the mean is one of %v", means)
	}
}

// TestWideShapes takes tensors of variable size, empty ones, texts, and what does not fit.
func TestWideShapes(t *testing.T) {
	f := func(s *tensor.Signature, x tensor.Tensor, columns int, want string) {
		t.Helper()
		r := NewRows(s)
		var rows []string
		for _, row := range strings.Split(show(t, r, []tensor.Tensor{x}, nil), " | ") {
			cells := strings.Fields(row)
			rows = append(rows, strings.Join(cells[:min(5, len(cells))], " "))
		}
		if got := strings.Join(rows, " | "); got != want || len(r.Columns()) != columns {
			t.Errorf("got %q of %v, want %q", got, r.Columns(), want)
		}
	}
	varied := one(tensor.FP32, -1)
	f(varied, floats([]int64{2, 2}, 1, 5, 4, 4), 21, "2 3 2 4 0 | 2 4 0 0 0")
	f(varied, floats([]int64{2, 1}, 1, 2), 21, "1 1 0 0 0 | 1 2 0 0 0")
	f(varied, floats([]int64{2, 0}), 21, "0 - - - - | 0 - - - -")
	f(varied, floats([]int64{0, 3}), 21, "")
	f(varied, floats([]int64{}, 1), 21, "")
	f(varied, tensor.Tensor{}, 21, "")
	f(varied, texts([]int64{1, 2}, "a", "b"), 21, "")
	f(one(tensor.FP32, -1, 4), floats([]int64{1, 0, 4}), 21, "0 - - - -")
	f(one(tensor.FP32, 1025), floats([]int64{1, 2}, 1, 2), 20, "")
	f(one(tensor.FP32, 1<<40, 1<<40), floats([]int64{1, 2}, 1, 2), 0, "")
	f(one(tensor.FP32, 0), floats([]int64{1, 0}), 0, "")
	f(one(tensor.Bytes, -1), texts([]int64{2, 2}, "a", "bcd", "", ""), 2, "2 2 | 2 0")
	f(one(tensor.Bytes, -1), texts([]int64{1, 0}), 2, "0 -")
	f(one(tensor.Bytes, -1), floats([]int64{1, 1}, 1), 2, "")
	f(one(tensor.Bytes, 2000), texts([]int64{1, 2000}, slices.Repeat([]string{"ab"}, 2000)...), 1,
		"2")
	single := &tensor.Signature{Inputs: []tensor.Spec{{Name: "x", Datatype: tensor.FP32,
		Shape: []int64{-1, 2}, BatchAxis: -1}}}
	f(single, floats([]int64{2, 2}, 1, 5, 1, 5), 21, "4 3 2 0 0")
	f(single, floats([]int64{0, 2}), 21, "0 - - - -")
	// Of a model with batches what has none is in no row.
	beside := one(tensor.FP32, 3)
	beside.Inputs = append(beside.Inputs, tensor.Spec{Name: "y", Datatype: tensor.FP32,
		Shape: []int64{-1}, BatchAxis: -1})
	f(beside, floats([]int64{1, 3}, 1, 2, 3), 3, "1 2 3")
}

// TestWideMissing wants the rows that a tensor lacks beside others to be missing.
func TestWideMissing(t *testing.T) {
	s := one(tensor.FP32, -1)
	s.Inputs = append(s.Inputs, tensor.Spec{Name: "y", Datatype: tensor.FP32, Shape: []int64{-1}})
	r := NewRows(s)
	y := floats([]int64{2}, 7, 8)
	rest := strings.Repeat("- ", 20)
	if got := show(t, r, []tensor.Tensor{{}, y}, nil); got != "- "+rest+"7 | - "+rest+"8" {
		t.Errorf("without x: %s", got)
	}
	got := show(t, r, []tensor.Tensor{floats([]int64{1, 2}, 3, 3), y}, nil)
	if !strings.HasPrefix(got, "2 3 0 0 0 ") || !strings.HasSuffix(got, "7 | - "+rest+"8") {
		t.Errorf("with one x: %s", got)
	}
}

func TestWideAllocations(t *testing.T) {
	r := NewRows(one(tensor.FP32, -1))
	x := []tensor.Tensor{numbers(tensor.FP32, []int64{1, 1500}, eighths())}
	if n := testing.AllocsPerRun(10, func() {
		_ = r.Each(x, nil, func([]sketch.Value) error { return nil })
	}); n != 0 {
		t.Errorf("a row allocates %v times", n)
	}
}

// BenchmarkWide sums up images of 224 by 224 pixels.
func BenchmarkWide(b *testing.B) {
	f := func(d tensor.Datatype, row ...int64) {
		b.Run(fmt.Sprint(d, row), func(b *testing.B) {
			r := NewRows(one(d, row...))
			values := make([]float64, 3*224*224)
			for i := range values {
				values[i] = float64(i * 7919 % 256)
			}
			x := []tensor.Tensor{numbers(d, append([]int64{1}, row...), values)}
			b.ReportAllocs()
			for b.Loop() {
				_ = r.Each(x, nil, func([]sketch.Value) error { return nil })
			}
			elements := float64(b.N * len(values))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/elements, "ns/element")
		})
	}
	f(tensor.FP32, 3, 224, 224)
	f(tensor.FP32, 224, 224, 3)
	f(tensor.Uint8, 224, 224, 3)
	f(tensor.Int64, 3, 224, 224)
	f(tensor.FP16, 3, 224, 224)
}
