package tensor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
)

// ErrData is returned when the bytes of a tensor do not fit its datatype and shape.
var ErrData = errors.New("tensor: data does not fit")

// Tensor is one named value. Data has the protocol's binary layout (see the
// package comment). Shape and Data belong to whoever owns the request or the
// run that the tensor is part of.
type Tensor struct {
	Name     string
	Datatype Datatype
	Shape    []int64
	Data     []byte
	// ClassNames are the keys of a map output (ZipMap) that is served as a
	// matrix: ClassNames[j] names column j. Nil for every other tensor.
	ClassNames []string
}

// Spec describes an input or output of a model.
type Spec struct {
	Name     string
	Datatype Datatype
	Shape    []int64  // the full shape, batch axis included; -1 is a variable dimension
	DimNames []string // symbolic names, parallel to Shape, "" where there is none
	// BatchAxis is the dimension along which requests are put together, -1
	// where there is none (such an input must be equal in all of a batch).
	BatchAxis int
	Optional  bool     // an input that may be left out
	Labels    []string // names of the classes of an output, from its label file
	// Columns name the columns of a matrix input [rows, n], or say of which type
	// the one of an input [rows] or [rows, 1] is; nil where nothing is known.
	Columns []Column
}

// Column is one feature of a table that clients send by its name.
type Column struct {
	Name     string
	Type     string // MLflow's type of a column, such as double; "" is unknown
	Optional bool   // it may be left out: its values are missing then
}

// Signature is what a model takes and gives. It is immutable once built.
type Signature struct {
	Model   string // its name, for error texts
	Inputs  []Spec
	Outputs []Spec
	// MaxBatchSize is the most rows a request may have along the batch axis;
	// 0 says that the model has no batch axis.
	MaxBatchSize int

	inputs, outputs, columns index
}

// Input returns the index of the input of that name, or -1.
func (s *Signature) Input(name []byte) int {
	return s.inputs.find(len(s.Inputs), func(i int) string { return s.Inputs[i].Name }, name)
}

// Output returns the index of the output of that name, or -1.
func (s *Signature) Output(name []byte) int {
	return s.outputs.find(len(s.Outputs), func(i int) string { return s.Outputs[i].Name }, name)
}

// Column returns the index of the column of that name of the only input, or -1.
func (s *Signature) Column(name []byte) int {
	if len(s.Inputs) != 1 {
		return -1
	}
	columns := s.Inputs[0].Columns
	return s.columns.find(len(columns), func(i int) string { return columns[i].Name }, name)
}

// index finds a name among many: the places are noted on the first look-up, so
// that a request that names thousands of tensors does not compare each with all.
type index struct {
	places atomic.Pointer[map[string]int]
}

// fewNames is up to how many names comparing is as fast as looking up.
const fewNames = 16

// find looks for name among n names, which nameOf returns.
func (x *index) find(n int, nameOf func(i int) string, name []byte) int {
	if n <= fewNames {
		for i := range n {
			if nameOf(i) == string(name) {
				return i
			}
		}
		return -1
	}
	places := x.places.Load()
	if places == nil {
		m := make(map[string]int, n)
		for i := range n {
			m[nameOf(i)] = i
		}
		places = &m
		x.places.Store(places)
	}
	if i, ok := (*places)[string(name)]; ok {
		return i
	}
	return -1
}

// AppendElement appends one BYTES element: its length and its bytes.
func AppendElement[S string | []byte](dst []byte, v S) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(v)))
	return append(dst, v...)
}

// AppendRandom appends one made-up value of datatype d: f as a float, zero or
// one as an integer or a boolean, a string of one digit as BYTES.
func AppendRandom(dst []byte, d Datatype, f float64, r *rand.Rand) []byte {
	switch d {
	case FP32:
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(f)))
	case FP64:
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(f))
	case FP16:
		return binary.LittleEndian.AppendUint16(dst, FP16FromFloat64(f))
	case BF16:
		return binary.LittleEndian.AppendUint16(dst, BF16FromFloat64(f))
	case Bytes:
		return AppendElement(dst, string(rune('0'+r.IntN(10))))
	}
	dst = append(dst, byte(r.IntN(2)))
	return append(dst, make([]byte, d.Size()-1)...)
}

// NextElement splits the first BYTES element off data. ok is false when data
// is too short for the length that it announces.
func NextElement(data []byte) (element, rest []byte, ok bool) {
	if len(data) < 4 {
		return nil, nil, false
	}
	n := int64(binary.LittleEndian.Uint32(data))
	if n > int64(len(data)-4) {
		return nil, nil, false
	}
	return data[4 : 4+n], data[4+n:], true
}

// Check returns ErrData when Data does not have the size that the datatype and
// the shape ask for, or, for BYTES, does not hold exactly that many elements.
func (t *Tensor) Check() error {
	n, err := Elements(t.Shape)
	if err != nil {
		return err
	}
	if t.Datatype != Bytes {
		want, err := ByteSize(t.Datatype, t.Shape)
		if err != nil {
			return err
		}
		if want != int64(len(t.Data)) {
			return fmt.Errorf("%w: %s of shape %s takes %d bytes, got %d",
				ErrData, t.Datatype, FormatShape(t.Shape), want, len(t.Data))
		}
		return nil
	}
	rest := t.Data
	for i := int64(0); i < n; i++ {
		var ok bool
		if _, rest, ok = NextElement(rest); !ok {
			return fmt.Errorf("%w: BYTES element %d of %d is cut short", ErrData, i, n)
		}
	}
	if len(rest) != 0 {
		return fmt.Errorf("%w: %d bytes left over after %d BYTES elements", ErrData, len(rest), n)
	}
	return nil
}
