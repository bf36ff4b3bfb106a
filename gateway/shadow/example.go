package shadow

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Example is one disagreement in words and numbers that JSON has.
type Example struct {
	ID      string    `json:"id"` // of the request
	Time    time.Time `json:"time"`
	Version string    `json:"version"` // that answered the client
	Reason  string    `json:"reason"`
	Error   string    `json:"error,omitempty"` // class of the shadow's error
	// See Result.
	MaxAbsolute float64  `json:"max_absolute"`
	MaxRelative float64  `json:"max_relative"`
	Excess      float64  `json:"excess"`
	Inputs      []Values `json:"inputs"`
	Stable      []Values `json:"stable"`
	Shadow      []Values `json:"shadow"`

	bytes int64 // that it takes, about
}

// Values is a tensor, or the first elements of a long one.
type Values struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
	// Data has numbers, booleans and strings; "NaN", "Infinity" and "-Infinity"
	// stand for what JSON has no number for.
	Data      []any `json:"data"`
	Truncated bool  `json:"truncated,omitempty"` // there is more
}

// exampleLimits bound what is kept.
type exampleLimits struct {
	count    int
	bytes    int64
	elements int // of one tensor
}

// Of a request no more tensors than these are kept, of a string no more bytes.
const maxExampleTensors, maxExampleString = 32, 128

// newExample copies what disagrees. The shadow has no outputs where it failed.
func newExample(x *Result, s *tap.Sample, shadow []tensor.Tensor, elements int) *Example {
	e := &Example{
		ID: string(s.ID), Time: s.Time, Version: strings.Clone(s.Version),
		Reason:      x.Reason.String(),
		MaxAbsolute: finite(x.MaxAbs), MaxRelative: finite(x.MaxRel), Excess: finite(x.Excess),
	}
	e.bytes = int64(len(e.ID) + len(e.Version) + 200)
	e.Inputs = e.values(s.Inputs, elements)
	e.Stable = e.values(s.Outputs, elements)
	e.Shadow = e.values(shadow, elements)
	return e
}

// values copies the first elements of tensors and counts what they take.
func (e *Example) values(list []tensor.Tensor, elements int) []Values {
	values := []Values{}
	for i := range list {
		t := &list[i]
		if t.Datatype == tensor.Invalid {
			continue
		}
		if len(values) == maxExampleTensors {
			break
		}
		v := Values{Name: strings.Clone(t.Name), Datatype: t.Datatype.String(),
			Shape: slices.Clone(t.Shape)}
		v.Data, v.Truncated = elementsOf(t, elements)
		e.bytes += int64(100 + len(v.Name) + 8*len(v.Shape) + 24*len(v.Data))
		for _, x := range v.Data {
			if text, ok := x.(string); ok {
				e.bytes += int64(len(text))
			}
		}
		values = append(values, v)
	}
	return values
}

// elementsOf returns the first elements of a tensor, and whether there are more.
func elementsOf(t *tensor.Tensor, most int) (list []any, more bool) {
	list = []any{}
	if t.Datatype == tensor.Bytes {
		for data := t.Data; len(data) > 0; {
			element, rest, ok := tensor.NextElement(data)
			if !ok || len(list) == most {
				return list, true
			}
			text := string(element[:min(len(element), maxExampleString)])
			list = append(list, strings.ToValidUTF8(text, "\uFFFD"))
			data = rest
		}
		return list, false
	}
	n := len(t.Data) / t.Datatype.Size()
	for i := range min(n, most) {
		list = append(list, element(t.Datatype, t.Data, i))
	}
	return list, n > most
}

// element returns element i of data as JSON has it.
func element(d tensor.Datatype, data []byte, i int) any {
	p := data[i*d.Size():]
	switch d {
	case tensor.Bool:
		return p[0] != 0
	case tensor.Uint8:
		return p[0]
	case tensor.Uint16:
		return binary.LittleEndian.Uint16(p)
	case tensor.Uint32:
		return binary.LittleEndian.Uint32(p)
	case tensor.Uint64:
		return binary.LittleEndian.Uint64(p)
	case tensor.Int8:
		return int8(p[0])
	case tensor.Int16:
		return int16(binary.LittleEndian.Uint16(p))
	case tensor.Int32:
		return int32(binary.LittleEndian.Uint32(p))
	case tensor.Int64:
		return int64(binary.LittleEndian.Uint64(p))
	}
	x := number(d, data, i)
	switch {
	case x != x:
		return "NaN"
	case math.IsInf(x, 1):
		return "Infinity"
	case math.IsInf(x, -1):
		return "-Infinity"
	case d == tensor.FP64:
		return x
	}
	return float32(x) // which JSON writes with no more digits than it has
}

// examples are the worst disagreements. Among equals the first ones stay.
type examples struct {
	list  []*Example
	bytes int64
}

// least returns the place of the example that goes first.
func (x *examples) least() int {
	at := 0
	for i, e := range x.list {
		if e.Excess <= x.list[at].Excess {
			at = i
		}
	}
	return at
}

// wants says whether one of that severity would be kept, if it is not too large.
func (x *examples) wants(severity float64, l exampleLimits) bool {
	if len(x.list) < l.count && x.bytes < l.bytes {
		return true
	}
	return len(x.list) > 0 && finite(severity) > x.list[x.least()].Excess
}

// keep takes an example in, and lets the least go until the limits are held.
func (x *examples) keep(e *Example, l exampleLimits) {
	if l.count == 0 || e.bytes > l.bytes {
		return
	}
	x.list = append(x.list, e)
	x.bytes += e.bytes
	for len(x.list) > l.count || x.bytes > l.bytes {
		at := x.least()
		x.bytes -= x.list[at].bytes
		x.list = slices.Delete(x.list, at, at+1)
	}
}

// sorted returns the examples, the worst first.
func (x *examples) sorted() []Example {
	list := make([]Example, 0, len(x.list))
	for _, e := range x.list {
		list = append(list, *e)
	}
	slices.SortStableFunc(list, func(a, b Example) int { return cmp.Compare(b.Excess, a.Excess) })
	return list
}
