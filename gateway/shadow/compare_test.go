package shadow

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// numbers is a tensor of floating-point numbers.
func numbers(d tensor.Datatype, shape []int64, values ...float64) tensor.Tensor {
	t := tensor.Tensor{Name: "y", Datatype: d, Shape: shape}
	for _, x := range values {
		t.Data = tensor.AppendRandom(t.Data, d, x, nil)
	}
	return t
}

// words is a tensor of strings.
func words(values ...string) tensor.Tensor {
	t := tensor.Tensor{Name: "y", Datatype: tensor.Bytes, Shape: []int64{int64(len(values))}}
	for _, s := range values {
		t.Data = tensor.AppendElement(t.Data, s)
	}
	return t
}

func one(t tensor.Tensor) []tensor.Tensor { return []tensor.Tensor{t} }

// inf is an infinity, and nan none of the numbers.
var inf, nan = math.Inf(1), math.NaN()

// errors compared are sums of a few roundings.
func near(a, b float64) bool { return a == b || math.Abs(a-b) <= 1e-12*math.Abs(b) }

// TestTolerance compares two numbers of each kind.
func TestTolerance(t *testing.T) {
	f := func(agree bool, tol Tolerance, d tensor.Datatype, ab ...float64) {
		t.Helper()
		shape := []int64{1}
		r := Compare(one(numbers(d, shape, ab[0])), one(numbers(d, shape, ab[1])), tol, new(Scores))
		if r.Agree() != agree || !agree && r.Reason != ReasonValue {
			t.Errorf("%s %v: agree is %v, reason %s", d, ab, r.Agree(), r.Reason)
		}
		if agree != (r.Excess <= 1) {
			t.Errorf("%s %v: excess is %v", d, ab, r.Excess)
		}
	}
	none := Tolerance{}
	f(true, none, tensor.FP64, 0, 0.9e-9)
	f(false, none, tensor.FP64, 0, 1.1e-9)
	f(true, none, tensor.FP64, 100, 100.0000100009)
	f(false, none, tensor.FP64, 100, 100.0000100011)
	f(true, none, tensor.FP32, 0, 0.9e-5)
	f(false, none, tensor.FP32, 0, 1.1e-5)
	f(true, none, tensor.FP32, 1000, 1000.0999)
	f(false, none, tensor.FP32, -1000, -1000.1002)
	f(true, none, tensor.FP16, 1, 1.0107421875)
	f(false, none, tensor.FP16, 1, 1.01171875)
	f(true, none, tensor.BF16, 1, 1.0546875)
	f(false, none, tensor.BF16, 1, 1.0625)
	f(true, Tolerance{Absolute: 0.5}, tensor.FP32, 0, 0.5)
	f(false, Tolerance{Absolute: 0.5}, tensor.FP32, 0, 0.625)
	f(true, Tolerance{Relative: 0.5}, tensor.FP32, 4, 6)
	f(false, Tolerance{Relative: 0.5}, tensor.FP32, 4, 6.5)
	f(true, none, tensor.FP64, nan, nan)
	f(true, none, tensor.FP64, inf, inf)
	f(false, none, tensor.FP64, inf, -inf)
	f(false, none, tensor.FP64, nan, 0)
	f(false, none, tensor.FP64, inf, 1)
	f(false, none, tensor.FP64, 1, inf)
	f(false, none, tensor.FP64, math.MaxFloat64, -math.MaxFloat64)
	f(true, none, tensor.FP64, 0, math.Copysign(0, -1))
}

// TestErrors holds the sizes of errors against sums done by hand.
func TestErrors(t *testing.T) {
	f := func(a, b []float64, want ...float64) {
		t.Helper()
		shape := []int64{int64(len(a))}
		r := Compare(one(numbers(tensor.FP64, shape, a...)), one(numbers(tensor.FP64, shape, b...)),
			Tolerance{Absolute: 0.25, Relative: 0.125}, new(Scores))
		if !near(r.MaxAbs, want[0]) || !near(r.MaxRel, want[1]) || !near(r.Excess, want[2]) {
			t.Errorf("%v and %v: abs %v rel %v excess %v, want %v", a, b, r.MaxAbs, r.MaxRel,
				r.Excess, want)
		}
		if r.Floats != len(a) {
			t.Errorf("%d floats", r.Floats)
		}
	}
	f([]float64{1, 2, 3}, []float64{1, 2, 3}, 0, 0, 0)
	f([]float64{2, -8}, []float64{2.5, -7}, 1, 0.25, 1) // 0.5/0.5, and 1/1.25
	f([]float64{0, 4}, []float64{3, 4}, 3, 0, 12)       // nothing is relative to 0
	f([]float64{1, 100}, []float64{1.5, 103}, 3, 0.5, 0.5/0.375)
	f([]float64{1, nan}, []float64{1, nan}, 0, 0, 0)
	f([]float64{1, nan}, []float64{1, 1}, inf, inf, inf)
}

// TestReasons compares answers that differ in other ways than by a little.
func TestReasons(t *testing.T) {
	f := func(stable, shadow []tensor.Tensor, want Reason) {
		t.Helper()
		if r := Compare(stable, shadow, Tolerance{}, new(Scores)); r.Reason != want {
			t.Errorf("the reason is %q, want %q", r.Reason, want)
		} else if want > ReasonValue && r.Excess != inf {
			t.Errorf("%s: the excess is %v", want, r.Excess)
		}
	}
	named := func(name string, t tensor.Tensor) tensor.Tensor { t.Name = name; return t }
	whole := func(d tensor.Datatype, data ...byte) tensor.Tensor {
		return tensor.Tensor{Name: "y", Datatype: d, Shape: []int64{1}, Data: data}
	}
	classes := func(names ...string) tensor.Tensor {
		x := numbers(tensor.FP32, []int64{1, 2}, 0, 1)
		x.ClassNames = names
		return x
	}
	x := numbers(tensor.FP32, []int64{2}, 1, 2)
	off := numbers(tensor.FP32, []int64{2}, 1, 3)
	f(one(x), one(x), ReasonNone)
	f(nil, one(x), ReasonNone) // more than asked for
	f(one(x), nil, ReasonMissing)
	f(one(x), one(named("z", x)), ReasonMissing)
	f(one(x), one(tensor.Tensor{Name: "y"}), ReasonMissing)
	f(one(tensor.Tensor{Name: "y"}), nil, ReasonNone) // the client had none either
	f(one(x), one(numbers(tensor.FP64, []int64{2}, 1, 2)), ReasonDatatype)
	f(one(x), one(numbers(tensor.FP32, []int64{1, 2}, 1, 2)), ReasonShape)
	f(one(x), one(numbers(tensor.FP32, []int64{3}, 1, 2, 3)), ReasonShape)
	f(one(x), one(numbers(tensor.FP32, []int64{2}, 1)), ReasonShape) // its data do not fit
	f(one(classes("a", "b")), one(classes("a", "b")), ReasonNone)
	f(one(classes("a", "b")), one(classes("b", "a")), ReasonShape)
	f([]tensor.Tensor{x, named("z", off)}, []tensor.Tensor{named("z", off), x}, ReasonNone)
	f([]tensor.Tensor{x, named("z", x)}, []tensor.Tensor{off}, ReasonMissing)
	f([]tensor.Tensor{x, named("z", x)}, []tensor.Tensor{x, named("z", off)}, ReasonValue)
	f(one(whole(tensor.Uint8, 3)), one(whole(tensor.Uint8, 3)), ReasonNone)
	f(one(whole(tensor.Uint8, 3)), one(whole(tensor.Uint8, 4)), ReasonValue)
	f(one(whole(tensor.Bool, 1)), one(whole(tensor.Bool, 0)), ReasonValue)
	f(one(words("a", "b")), one(words("a", "b")), ReasonNone)
	f(one(words("ab", "")), one(words("a", "b")), ReasonValue)
	f(one(words("cat")), one(words("dog")), ReasonValue)
}

// TestScores compares the best classes.
func TestScores(t *testing.T) {
	type want struct {
		rows, agree, topRows int
		overlap              float64
	}
	f := func(a, b tensor.Tensor, tol Tolerance, w want) {
		t.Helper()
		r := Compare(one(a), one(b), tol, new(Scores))
		if got := (want{r.ArgmaxRows, r.ArgmaxAgree, r.TopKRows, r.TopKOverlap}); got != w {
			t.Errorf("got %+v, want %+v", got, w)
		}
	}
	row := func(values ...float64) tensor.Tensor {
		return numbers(tensor.FP32, []int64{1, int64(len(values))}, values...)
	}
	two := func(shape []int64, values ...float64) tensor.Tensor {
		return numbers(tensor.FP64, shape, values...)
	}
	top := func(k int) Tolerance { return Tolerance{TopK: k} }
	f(row(.1, .9), row(.2, .8), top(0), want{rows: 1, agree: 1})
	f(row(.1, .9), row(.6, .4), top(0), want{rows: 1})
	f(row(.5, .5), row(.4, .6), top(0), want{rows: 1, agree: 1}) // a tie is no choice
	f(row(.500001, .5), row(.4, .6), top(0), want{rows: 1, agree: 1})
	f(row(.51, .5), row(.4, .6), top(0), want{rows: 1})
	f(row(nan, .5), row(.4, .6), top(0), want{rows: 1, agree: 1})
	f(row(nan, nan), row(nan, nan), top(0), want{rows: 1, agree: 1})
	f(row(inf, 1), row(1, inf), top(0), want{rows: 1})
	f(row(.9), row(.1), top(0), want{}) // one class is no choice
	f(row(1, 2, 3, 4), row(4, 3, 2, 1), top(2), want{rows: 1, topRows: 1})
	f(row(1, 2, 3, 4), row(1, 3, 2, 4), top(2), want{rows: 1, agree: 1, topRows: 1, overlap: .5})
	f(row(1, 2, 3, 4), row(1, 2, 4, 3), top(2), want{rows: 1, topRows: 1, overlap: 1})
	f(row(6, 5, 4, 3, 2, 1), row(6, 5, 4, 1, 2, 3), top(0),
		want{rows: 1, agree: 1, topRows: 1, overlap: .8})
	f(row(1, 2, 3), row(1, 2, 3), top(3), want{rows: 1, agree: 1}) // all classes say nothing
	f(two([]int64{2, 3}, 1, 2, 3, 3, 2, 1), two([]int64{2, 3}, 1, 2, 3, 1, 2, 3), top(2),
		want{rows: 2, agree: 1, topRows: 2, overlap: 1.5})
	f(two([]int64{3}, 1, 2, 3), two([]int64{3}, 1, 2, 3), top(0), want{})
	f(two([]int64{3}, 1, 2, 3), two([]int64{3}, 1, 2, 3), Tolerance{Vectors: true},
		want{rows: 1, agree: 1})
	f(two([]int64{1, 2, 2}, 1, 2, 3, 4), two([]int64{1, 2, 2}, 1, 2, 3, 4), top(0), want{})
}

// TestScoreBuckets looks where best scores are counted.
func TestScoreBuckets(t *testing.T) {
	f := func(score, above, to float64) {
		t.Helper()
		x := numbers(tensor.FP64, []int64{1, 2}, -inf, score)
		var scores Scores
		Compare(one(x), one(x), Tolerance{}, &scores)
		h := newHistogram(scoreBounds[:])
		h.merge(&scores.Stable)
		b := h.buckets()
		if len(b) != 1 || b[0] != (Bucket{above, to, 1}) {
			t.Errorf("%v is in %v, want (%v, %v]", score, b, above, to)
		}
		if scores.Stable != scores.Shadow {
			t.Errorf("%v: the two versions' scores differ", score)
		}
	}
	f(0.01, 0, 0.05)
	f(0.05, 0, 0.05)
	f(0.97, 0.95, 1)
	f(1, 0.95, 1)
	f(1.5, 1, 2)
	f(40000, 32768, 65536)
	f(1e9, 65536, math.MaxFloat64)
	f(inf, 65536, math.MaxFloat64)
	f(-0.3, -0.5, -0.25)
	f(-1e9, -math.MaxFloat64, -65536)
	f(0, -1.0/1024, 0)
}

// TestCompareAllocations compares large answers that differ.
func TestCompareAllocations(t *testing.T) {
	a := make([]float64, 32*100)
	for i := range a {
		a[i] = float64(i*7919%3200) / 3200
	}
	b := append([]float64(nil), a...)
	b[5] += 0.5
	shape := []int64{32, 100}
	stable := []tensor.Tensor{numbers(tensor.FP32, shape, a...), words("cat", "dog")}
	shadow := []tensor.Tensor{numbers(tensor.FP32, shape, b...), words("cat", "cow")}
	stable[1].Name, shadow[1].Name = "label", "label"
	var scores Scores
	n := testing.AllocsPerRun(100, func() {
		if r := Compare(stable, shadow, Tolerance{}, &scores); r.Agree() || r.ArgmaxRows != 32 {
			t.Errorf("%+v", r)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzCompare compares what no model would give. kind is a datatype and the
// dimensions.
func FuzzCompare(f *testing.F) {
	kind := func(d tensor.Datatype, rows, classes int64) []byte {
		return binary.AppendVarint(binary.AppendVarint([]byte{byte(d)}, rows), classes)
	}
	f.Add(kind(tensor.FP32, 2, 2), []byte("0123456789abcdef"), []byte("0123"))
	f.Add(kind(tensor.FP32, 2, 2), []byte("0123456789abcdef"), []byte("0123456789ABCDEF"))
	f.Add(kind(tensor.FP64, 1, 1<<60), make([]byte, 17), make([]byte, 17))
	f.Add(kind(tensor.BF16, 0, -1), []byte{0xc0, 0x7f}, []byte{0x80, 0xff})
	f.Add(kind(tensor.Bytes, 1, 3), []byte{9, 0, 0, 0, 1}, []byte{1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, kind, a, b []byte) {
		if len(kind) == 0 {
			return
		}
		rows, n := binary.Varint(kind[1:])
		classes, _ := binary.Varint(kind[1+max(n, 0):])
		list := func(data []byte) []tensor.Tensor {
			return one(tensor.Tensor{Name: "y", Datatype: tensor.Datatype(kind[0]%15 + 1),
				Shape: []int64{rows, classes}, Data: data})
		}
		r := Compare(list(a), list(b), Tolerance{}, new(Scores))
		if r.ArgmaxAgree > r.ArgmaxRows || r.TopKOverlap > float64(r.TopKRows) {
			t.Errorf("%+v", r)
		}
		if r.Agree() != (r.Excess <= 1) {
			t.Errorf("agree %v, excess %v", r.Agree(), r.Excess)
		}
		if same := Compare(list(a), list(a), Tolerance{}, new(Scores)); !same.Agree() {
			t.Errorf("not equal to itself: %s", same.Reason)
		}
	})
}

func BenchmarkCompare(b *testing.B) {
	x := make([]float64, 32*10)
	y := make([]float64, 32*10)
	for i := range x {
		x[i] = float64(i*7919%320) / 320
		y[i] = x[i] + 1e-7
	}
	shape := []int64{32, 10}
	stable := one(numbers(tensor.FP32, shape, x...))
	shadow := one(numbers(tensor.FP32, shape, y...))
	b.ReportAllocs()
	var scores Scores
	for b.Loop() {
		Compare(stable, shadow, Tolerance{}, &scores)
	}
	b.SetBytes(int64(len(stable[0].Data)))
}

// little is the binary form of numbers of FP32.
func little(values ...float32) (data []byte) {
	for _, x := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return data
}
