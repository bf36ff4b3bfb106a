// Package tensor holds the values that travel between clients and models:
// datatypes, shapes, tensors, signatures and the memory they lie in.
//
// A [Tensor] keeps its elements in the layout of the binary tensor data
// extension of the Open Inference Protocol: little-endian, row-major, no
// padding; BOOL is one byte of 0 or 1; each BYTES element is a 4-byte
// little-endian length and then its bytes. Every protocol decodes into this
// layout and encodes from it, so that no other form exists in the server.
//
// Types here carry no locks: a value has one owner at a time.
package tensor

import "fmt"

// Datatype is an element type of the Open Inference Protocol.
type Datatype uint8

// The datatypes of the protocol. BF16 is Triton's addition.
const (
	Invalid Datatype = iota
	Bool
	Uint8
	Uint16
	Uint32
	Uint64
	Int8
	Int16
	Int32
	Int64
	FP16
	BF16
	FP32
	FP64
	Bytes
)

var datatypes = [...]struct {
	name string
	size int // bytes an element; 0 for BYTES, whose elements vary
}{
	Invalid: {"INVALID", 0},
	Bool:    {"BOOL", 1},
	Uint8:   {"UINT8", 1},
	Uint16:  {"UINT16", 2},
	Uint32:  {"UINT32", 4},
	Uint64:  {"UINT64", 8},
	Int8:    {"INT8", 1},
	Int16:   {"INT16", 2},
	Int32:   {"INT32", 4},
	Int64:   {"INT64", 8},
	FP16:    {"FP16", 2},
	BF16:    {"BF16", 2},
	FP32:    {"FP32", 4},
	FP64:    {"FP64", 8},
	Bytes:   {"BYTES", 0},
}

// String returns the protocol's name of the datatype, such as "FP32".
func (d Datatype) String() string {
	if int(d) >= len(datatypes) {
		return fmt.Sprintf("Datatype(%d)", uint8(d))
	}
	return datatypes[d].name
}

// Size returns the bytes of one element, 0 for BYTES and Invalid.
func (d Datatype) Size() int {
	if int(d) >= len(datatypes) {
		return 0
	}
	return datatypes[d].size
}

// ParseDatatype returns the datatype of that name, or Invalid. It does not allocate.
func ParseDatatype[S string | []byte](name S) Datatype {
	switch string(name) {
	case "FP32":
		return FP32
	case "INT64":
		return Int64
	case "INT32":
		return Int32
	case "BYTES":
		return Bytes
	case "BOOL":
		return Bool
	case "UINT8":
		return Uint8
	case "UINT16":
		return Uint16
	case "UINT32":
		return Uint32
	case "UINT64":
		return Uint64
	case "INT8":
		return Int8
	case "INT16":
		return Int16
	case "FP16":
		return FP16
	case "BF16":
		return BF16
	case "FP64":
		return FP64
	}
	return Invalid
}
