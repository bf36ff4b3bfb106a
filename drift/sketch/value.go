package sketch

import (
	"math"
	"strconv"
	"unsafe"
)

// Value is one value of a feature as a client sent it. The zero value is a missing
// one. A Value of bytes is valid as long as they are not written to.
type Value struct {
	kind valueKind
	bits uint64
	text string
}

type valueKind uint8

const (
	missing valueKind = iota
	number
	integer
	boolean
	text
)

// Missing returns the value that is not there.
func Missing() Value { return Value{} }

// Number returns a floating-point value.
func Number(x float64) Value { return Value{kind: number, bits: math.Float64bits(x)} }

// Integer returns a whole number.
func Integer(i int64) Value { return Value{kind: integer, bits: uint64(i)} }

// Boolean returns a truth value.
func Boolean(b bool) Value {
	if b {
		return Value{kind: boolean, bits: 1}
	}
	return Value{kind: boolean}
}

// Text returns a string, whose bytes it refers to.
func Text(b []byte) Value {
	// As no slice it leaves a Value small enough to be passed in registers.
	return Value{kind: text, text: unsafe.String(unsafe.SliceData(b), len(b))}
}

// Float returns the value as a number: NaN for texts and what is missing.
func (v Value) Float() float64 {
	switch v.kind {
	case number:
		return math.Float64frombits(v.bits)
	case integer:
		return float64(int64(v.bits))
	case boolean:
		return float64(v.bits)
	}
	return math.NaN()
}

// IsMissing says whether the value is not there.
func (v Value) IsMissing() bool { return v.kind == missing }

// IsNumber says whether the value is a number, whole or not.
func (v Value) IsNumber() bool { return v.kind == number || v.kind == integer }

// AppendText appends the value as categories are written: numbers in the shortest
// decimal form, truth values as true and false, nothing for what is missing.
func (v Value) AppendText(b []byte) []byte {
	switch v.kind {
	case number:
		if x := v.Float(); x != math.Trunc(x) || math.Abs(x) > maxWhole {
			return strconv.AppendFloat(b, x, 'g', -1, 64)
		}
		return strconv.AppendInt(b, int64(v.Float()), 10)
	case integer:
		return strconv.AppendInt(b, int64(v.bits), 10)
	case boolean:
		return strconv.AppendBool(b, v.bits == 1)
	}
	return append(b, v.text...)
}

// maxWhole is up to where all whole numbers are float64.
const maxWhole = 1 << 53
