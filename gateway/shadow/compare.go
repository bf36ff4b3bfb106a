package shadow

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Tolerance says which answers agree.
type Tolerance struct {
	// Two numbers agree when they differ by at most Absolute + Relative * |stable|.
	// 0 takes the default of the datatype.
	Absolute, Relative float64
	// TopK is how many classes of a row are compared as a set. 0 takes 5.
	TopK int
	// Vectors says that an output of rank 1 is the scores of one row: the model
	// has no batch axis.
	Vectors bool
}

// Reason says why two answers do not agree. A greater one hides those below.
type Reason uint8

// The reasons.
const (
	ReasonNone     Reason = iota // they agree
	ReasonValue                  // a value is out of tolerance
	ReasonShape                  // an output has another shape, or other classes
	ReasonDatatype               // an output has another datatype
	ReasonMissing                // the shadow lacks an output
	ReasonError                  // the shadow failed on a request that was answered
	reasons
)

var reasonNames = [reasons]string{"", "value", "shape", "datatype", "missing", "error"}

// String returns the label of the metrics.
func (r Reason) String() string { return reasonNames[r] }

// Result is what Compare found in one pair of answers.
type Result struct {
	Reason Reason
	Floats int // elements that were compared as floating-point numbers
	// MaxAbs is the greatest |stable - shadow|, MaxRel that over |stable|, where
	// stable is not 0. They are infinite when one side is NaN or infinite.
	MaxAbs, MaxRel float64
	// Excess is the greatest error in units of what is tolerated: above 1 is too
	// much. It is infinite for errors that have no size.
	Excess float64
	// ArgmaxRows are rows of scores, ArgmaxAgree those of them that have the same
	// best class. Classes that score alike for the stable version are the same.
	ArgmaxRows, ArgmaxAgree int
	// TopKRows are rows with more than k classes, TopKOverlap the sum over them
	// of the share of the best k classes that both versions have.
	TopKRows    int
	TopKOverlap float64
}

// Agree says whether all values are within tolerance.
func (r *Result) Agree() bool { return r.Reason == ReasonNone }

// differ notes a reason that is no matter of size.
func (r *Result) differ(why Reason) {
	r.Reason = max(r.Reason, why)
	r.Excess = math.Inf(1)
}

// Compare holds the shadow's outputs against the stable version's. They are
// matched by name; what only the shadow has is of no interest. How the best
// scores of the rows lie is added to scores. It does not allocate.
func Compare(stable, shadow []tensor.Tensor, tol Tolerance, scores *Scores) Result {
	var r Result
	for i := range stable {
		a := &stable[i]
		if a.Datatype == tensor.Invalid {
			continue
		}
		b := named(shadow, a.Name, i)
		switch {
		case b == nil:
			r.differ(ReasonMissing)
		case a.Datatype != b.Datatype:
			r.differ(ReasonDatatype)
		case !slices.Equal(a.Shape, b.Shape) || !slices.Equal(a.ClassNames, b.ClassNames):
			r.differ(ReasonShape)
		default:
			r.compare(a, b, tol, scores)
		}
	}
	return r
}

// named returns the tensor of that name, which is likely to be at place i; nil
// where there is none.
func named(list []tensor.Tensor, name string, i int) *tensor.Tensor {
	if i < len(list) && list[i].Name == name && list[i].Datatype != tensor.Invalid {
		return &list[i]
	}
	for i := range list {
		if list[i].Name == name && list[i].Datatype != tensor.Invalid {
			return &list[i]
		}
	}
	return nil
}

// compare compares two tensors of the same datatype and shape.
func (r *Result) compare(a, b *tensor.Tensor, tol Tolerance, scores *Scores) {
	bound, floating := boundOf(a.Datatype, tol)
	same := bytes.Equal(a.Data, b.Data)
	switch {
	case !floating:
		if !same {
			r.differ(ReasonValue)
		}
		return
	case len(a.Data) != len(b.Data): // one of them does not fit its shape
		r.differ(ReasonShape)
		return
	}
	r.Floats += len(a.Data) / a.Datatype.Size()
	if !same {
		r.floats(a, b, bound)
	}
	classes := int64(0)
	switch {
	case len(a.Shape) == 2:
		classes = a.Shape[1]
	case len(a.Shape) == 1 && tol.Vectors:
		classes = a.Shape[0]
	}
	if classes >= 2 && classes <= int64(len(a.Data)/a.Datatype.Size()) {
		p := pair{a: a, b: b, same: same, classes: int(classes), bound: bound, topK: tol.TopK}
		p.scores(r, scores)
	}
}

// bound is how far a number may be from another.
type bound struct{ absolute, relative float64 }

// of returns the difference that is tolerated from x.
func (b bound) of(x float64) float64 { return b.absolute + b.relative*math.Abs(x) }

// allows says whether y may stand for x.
func (b bound) allows(x, y float64) bool {
	diff := math.Abs(x - y)
	return x == y || diff <= math.MaxFloat64 && diff <= b.of(x)
}

// boundOf returns the bound of a datatype. floating is false for those that
// have to be equal. The defaults leave room for another order of additions, and
// for kernels that round in between.
func boundOf(d tensor.Datatype, tol Tolerance) (b bound, floating bool) {
	switch d {
	case tensor.FP64:
		b = bound{1e-9, 1e-7}
	case tensor.FP32:
		b = bound{1e-5, 1e-4}
	case tensor.FP16:
		b = bound{1e-3, 1e-2}
	case tensor.BF16:
		b = bound{1e-2, 5e-2}
	default:
		return b, false
	}
	if tol.Absolute > 0 {
		b.absolute = tol.Absolute
	}
	if tol.Relative > 0 {
		b.relative = tol.Relative
	}
	return b, true
}

// floats compares the elements of two floating-point tensors of equal size.
func (r *Result) floats(a, b *tensor.Tensor, bound bound) {
	d := a.Datatype
	for i := range len(a.Data) / d.Size() {
		x, y := number(d, a.Data, i), number(d, b.Data, i)
		if x == y || x != x && y != y {
			continue
		}
		diff := math.Abs(x - y)
		if !(diff <= math.MaxFloat64) {
			r.MaxAbs, r.MaxRel = math.Inf(1), math.Inf(1)
			r.differ(ReasonValue)
			continue
		}
		allowed := bound.of(x)
		r.MaxAbs = max(r.MaxAbs, diff)
		if x != 0 {
			r.MaxRel = max(r.MaxRel, diff/math.Abs(x))
		}
		r.Excess = max(r.Excess, diff/allowed)
		if diff > allowed {
			r.Reason = max(r.Reason, ReasonValue)
		}
	}
}

// number returns element i of floating-point data.
func number(d tensor.Datatype, data []byte, i int) float64 {
	switch d {
	case tensor.FP32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
	case tensor.FP64:
		return math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:]))
	case tensor.FP16:
		return float64(tensor.FP16ToFloat32(binary.LittleEndian.Uint16(data[2*i:])))
	}
	return float64(tensor.BF16ToFloat32(binary.LittleEndian.Uint16(data[2*i:])))
}
