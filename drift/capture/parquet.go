package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// IsParquet says whether a Parquet file is one of samples: tensors are lists there.
func IsParquet(r io.ReaderAt, size int64) (is bool) {
	defer func() {
		// The library panics on some damaged files.
		if recover() != nil {
			is = false
		}
	}()
	f, err := parquet.OpenFile(r, size)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(f.Schema().Columns(), isTensor)
}

func isTensor(path []string) bool {
	_, _, ok := split(path[0])
	return ok && len(path) > 1
}

// Parquet takes the samples of a Parquet file.
func (b *Builder) Parquet(r io.ReaderAt, size int64) (err error) {
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("%w: %v", ErrFile, x)
		}
	}()
	f, err := parquet.OpenFile(r, size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	columns := f.Schema().Columns()
	unsigned := make([]bool, len(columns))
	for i, path := range columns {
		if leaf, ok := f.Schema().Lookup(path...); ok {
			unsigned[i] = isUnsigned(leaf.Node)
		}
	}
	if !slices.ContainsFunc(columns, isTensor) {
		return fmt.Errorf("%w: there are no tensors among its columns", ErrFile)
	}
	rows := parquet.NewReader(f)
	defer rows.Close()
	buffer := make([]parquet.Row, 64)
	for {
		n, err := rows.ReadRows(buffer)
		for _, row := range buffer[:n] {
			s, err := record(row, columns, unsigned)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrFile, err)
			}
			if err := b.add(s); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFile, err)
		}
	}
}

// record takes one row. A tensor's column is followed by that of its shape.
func record(row parquet.Row, columns [][]string, unsigned []bool) (*sample, error) {
	s := new(sample)
	var values []parquet.Value // of the last tensor; nil when its shape was seen
	row.Range(func(i int, column []parquet.Value) bool {
		if !isTensor(columns[i]) {
			s.plain(columns[i][0], column[0])
			return true
		}
		if values == nil {
			values = slices.Clone(column)
			return true
		}
		side, name, _ := split(columns[i-1][0])
		if values[0].DefinitionLevel() > 0 { // else it is null
			t := tensor.Tensor{Name: name}
			t.Datatype, t.Data = elements(values, unsigned[i-1])
			for _, v := range list(column) {
				t.Shape = append(t.Shape, v.Int64())
			}
			s.tensors[side] = append(s.tensors[side], t)
		}
		values = nil
		return true
	})
	for _, list := range s.tensors {
		for i := range list {
			if err := list[i].Check(); err != nil {
				return nil, fmt.Errorf("%q: %w", list[i].Name, err)
			}
		}
	}
	if s.at.IsZero() || s.outcome == "" {
		return nil, errors.New("it has no time or no outcome")
	}
	return s, nil
}

func (s *sample) plain(name string, v parquet.Value) {
	switch {
	case v.Kind() == parquet.Int64 && name == "time":
		s.at = time.UnixMicro(v.Int64())
	case v.Kind() != parquet.ByteArray:
	case name == "endpoint":
		s.endpoint = string(v.ByteArray())
	case name == "model":
		s.model = string(v.ByteArray())
	case name == "version":
		s.version = string(v.ByteArray())
	case name == "outcome":
		s.outcome = string(v.ByteArray())
	}
}

// list returns the elements of a list: an empty one has a value that stands for none.
func list(column []parquet.Value) []parquet.Value {
	return slices.DeleteFunc(slices.Clone(column), parquet.Value.IsNull)
}

// isUnsigned says whether a column has whole numbers without a sign.
func isUnsigned(n parquet.Node) bool {
	logical := n.Type().LogicalType()
	if logical == nil {
		return false
	}
	whole, ok := logical.Value.(*format.IntType)
	return ok && !whole.IsSigned
}

// elements makes the data of a tensor.
func elements(column []parquet.Value, unsigned bool) (d tensor.Datatype, data []byte) {
	d = tensor.FP64
	for _, v := range list(column) {
		switch v.Kind() {
		case parquet.Boolean:
			d, data = tensor.Bool, append(data, v.Byte()&1)
		case parquet.Int32:
			d, data = tensor.Int32, binary.LittleEndian.AppendUint32(data, uint32(v.Int32()))
		case parquet.Int64:
			d, data = tensor.Int64, binary.LittleEndian.AppendUint64(data, uint64(v.Int64()))
		case parquet.Float:
			d, data = tensor.FP32, binary.LittleEndian.AppendUint32(data,
				math.Float32bits(v.Float()))
		case parquet.Double:
			d, data = tensor.FP64, binary.LittleEndian.AppendUint64(data,
				math.Float64bits(v.Double()))
		default:
			d, data = tensor.Bytes, tensor.AppendElement(data, v.ByteArray())
		}
	}
	switch {
	case unsigned && d == tensor.Int32:
		d = tensor.Uint32
	case unsigned && d == tensor.Int64:
		d = tensor.Uint64
	}
	return d, data
}
