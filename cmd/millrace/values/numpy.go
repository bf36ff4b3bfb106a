package values

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sbinet/npyio/npy"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// maxArray bounds the data of a NumPy file, in bytes.
const maxArray = 2 << 30

// FromNPY reads an array for one input from a .npy file.
func FromNPY(spec *tensor.Spec, r io.Reader) (tensor.Tensor, error) {
	a, err := readArray(r)
	if err != nil {
		return tensor.Tensor{}, fmt.Errorf("input %q: %w", spec.Name, err)
	}
	if a.Datatype != spec.Datatype {
		return build(spec, Texts(&a), a.Shape)
	}
	shape, err := fill(spec, elements(a.Shape), a.Shape)
	return tensor.Tensor{Name: spec.Name, Datatype: a.Datatype, Shape: shape, Data: a.Data}, err
}

// FromNPZ reads the arrays of a .npz file, which are named as the inputs are;
// for a model of one input a single array may have any name.
func FromNPZ(specs []tensor.Spec, r io.ReaderAt, size int64) ([]tensor.Tensor, error) {
	archive, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("%w: not a .npz file: %w", ErrValue, err)
	}
	var tensors []tensor.Tensor
	for _, entry := range archive.File {
		name := strings.TrimSuffix(entry.Name, ".npy")
		if len(archive.File) == 1 && len(specs) == 1 {
			name = specs[0].Name
		}
		spec, err := Find(specs, name)
		if err != nil {
			return nil, err
		}
		file, err := entry.Open()
		if err != nil {
			return nil, fmt.Errorf("%w: array %q: %w", ErrValue, name, err)
		}
		t, err := FromNPY(spec, file)
		_ = file.Close()
		if err != nil {
			return nil, err
		}
		tensors = append(tensors, t)
	}
	return tensors, nil
}

// elements returns the product of a shape that readArray has checked.
func elements(shape []int64) int64 {
	n, _ := tensor.Elements(shape)
	return n
}

// readArray reads a .npy file into the layout of package tensor.
func readArray(r io.Reader) (t tensor.Tensor, err error) {
	defer func() { // the library slices a broken header without looking
		if recover() != nil {
			err = fmt.Errorf("%w: not a .npy file", ErrValue)
		}
	}()
	file, err := npy.NewReader(r)
	if err != nil {
		return t, fmt.Errorf("%w: not a .npy file: %w", ErrValue, err)
	}
	d := file.Header.Descr
	for _, n := range d.Shape {
		t.Shape = append(t.Shape, int64(n))
	}
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return t, fmt.Errorf("%w: the array's shape: %w", ErrValue, err)
	}
	kind, width, err := dtype(d.Type)
	if err != nil {
		return t, err
	}
	if n > maxArray/int64(max(width, 1)) {
		return t, fmt.Errorf("%w: the array is larger than %d bytes", ErrValue, maxArray)
	}
	data, err := io.ReadAll(io.LimitReader(r, n*int64(width)))
	if err != nil || int64(len(data)) != n*int64(width) {
		return t, fmt.Errorf("%w: the array is cut short: %d bytes of %d", ErrValue, len(data),
			n*int64(width))
	}
	if d.Fortran {
		data = rowMajor(data, t.Shape, width)
	}
	t.Datatype, t.Data = kind, data
	if kind == tensor.Bytes {
		t.Data = stringsOf(data, d.Type, width)
	} else if d.Type[0] == '>' {
		for i := 0; i < len(data); i += width {
			slices.Reverse(data[i : i+width])
		}
	}
	return t, nil
}

// dtypes are the datatypes by NumPy's codes.
var dtypes = map[string]tensor.Datatype{
	"b1": tensor.Bool, "u1": tensor.Uint8, "u2": tensor.Uint16, "u4": tensor.Uint32,
	"u8": tensor.Uint64, "i1": tensor.Int8, "i2": tensor.Int16, "i4": tensor.Int32,
	"i8": tensor.Int64, "f2": tensor.FP16, "f4": tensor.FP32, "f8": tensor.FP64,
}

// dtype returns the datatype and the bytes of one element of a NumPy dtype.
func dtype(code string) (tensor.Datatype, int, error) {
	bare := strings.TrimLeft(code, "<>|=")
	if d, ok := dtypes[bare]; ok {
		return d, d.Size(), nil
	}
	if len(bare) > 1 && (bare[0] == 'S' || bare[0] == 'U') {
		if n, err := strconv.Atoi(bare[1:]); err == nil && n > 0 && n < maxArray {
			if bare[0] == 'U' {
				n *= 4 // UTF-32
			}
			return tensor.Bytes, n, nil
		}
	}
	return tensor.Invalid, 0, fmt.Errorf("%w: arrays of dtype %s cannot be sent; "+
		"save numbers, booleans or strings that are not all empty", ErrValue, code)
}

// stringsOf converts NumPy's padded strings to BYTES elements.
func stringsOf(data []byte, code string, width int) []byte {
	wide := strings.Contains(code, "U")
	var out []byte
	for i := 0; i < len(data); i += width {
		cell := data[i : i+width]
		if !wide {
			out = tensor.AppendElement(out, bytes.TrimRight(cell, "\x00"))
			continue
		}
		var text []rune
		for j := 0; j < len(cell); j += 4 {
			c := cell[j : j+4]
			if code[0] == '>' {
				c = []byte{c[3], c[2], c[1], c[0]}
			}
			text = append(text, rune(c[0])|rune(c[1])<<8|rune(c[2])<<16|rune(c[3])<<24)
		}
		out = tensor.AppendElement(out, strings.TrimRight(string(text), "\x00"))
	}
	return out
}

// rowMajor reorders the elements of an array that is stored by columns.
func rowMajor(data []byte, shape []int64, width int) []byte {
	out := make([]byte, 0, len(data))
	index := make([]int64, len(shape))
	for len(out) < len(data) {
		at, stride := int64(0), int64(1)
		for i, n := range index {
			at += n * stride
			stride *= shape[i]
		}
		out = append(out, data[at*int64(width):(at+1)*int64(width)]...)
		for i := len(index) - 1; i >= 0; i-- {
			if index[i]++; index[i] < shape[i] {
				break
			}
			index[i] = 0
		}
	}
	return out
}
