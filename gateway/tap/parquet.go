package tap

import (
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// parquetFile writes one Parquet file: a row a sample or a feedback, tensors as
// lists of their elements in row-major order beside their shapes.
type parquetFile struct {
	w       *parquet.GenericWriter[any]
	layout  *layout // nil for feedback
	row     rowBuilder
	flushed int64 // size when the last row group ended
}

const (
	rowGroupBytes = 8 << 20  // are kept in memory
	pageBytes     = 64 << 10 // is taken for each plain column of an open file
)

func newParquetFile(w io.Writer, l *layout) *parquetFile {
	fields := feedbackFields
	options := []parquet.WriterOption{
		parquet.Compression(&parquet.Snappy), parquet.PageBufferSize(pageBytes),
	}
	if l != nil {
		fields = sampleFields[:len(sampleFields):len(sampleFields)]
		for i := range l.columns {
			c := &l.columns[i]
			fields = append(fields, field{nullableList(c.node()), c.key},
				field{nullableList(parquet.Int(64)), c.shape})
			if c.datatype == tensor.Bytes { // the least and the greatest may be long
				options = append(options, parquet.SkipPageBounds(c.key, "list", "element"),
					parquet.SkipPageStatistics(c.key, "list", "element"))
			}
		}
	}
	options = append(options, parquet.NewSchema("record", newRecord(fields)))
	return &parquetFile{w: parquet.NewGenericWriter[any](w, options...), layout: l}
}

func (p *parquetFile) add(r Record) error {
	return guard(func() error {
		b := &p.row
		b.reset()
		if r.Sample != nil {
			b.sample(r.Sample, p.layout)
		} else {
			b.feedback(r.Feedback)
		}
		if _, err := p.w.WriteRows([]parquet.Row{b.row}); err != nil {
			return err
		}
		if cap(b.row) > mostValues {
			b.row = nil
		}
		if p.w.Size()-p.flushed < rowGroupBytes {
			return nil
		}
		err := p.w.Flush()
		p.flushed = p.w.Size()
		return err
	})
}

func (p *parquetFile) size() int64 { return p.w.Size() }

func (p *parquetFile) end() error { return guard(p.w.Close) }

// guard makes an error of a panic: what clients and models send must not be
// able to end the server, even where the library does not expect it.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("parquet: %v", p)
		}
	}()
	return f()
}

// record is the root of a schema. The library's own group would sort the
// columns and refuse names with commas.
type record struct {
	parquet.Group
	fields []parquet.Field
}

// field is a column, or a list with its elements.
type field struct {
	parquet.Node
	name string
}

func newRecord(fields []field) record {
	r := record{parquet.Group{}, make([]parquet.Field, len(fields))}
	for i, f := range fields {
		r.Group[f.name], r.fields[i] = f.Node, f
	}
	return r
}

func (r record) Fields() []parquet.Field { return r.fields }
func (r record) GoType() reflect.Type    { return reflect.TypeFor[parquet.Row]() }

func (f field) Name() string { return f.name }

// Value is for rows that are Go structs; there are none.
func (f field) Value(reflect.Value) reflect.Value { return reflect.Value{} }

// Columns of which rows have few different values are stored by number.
func name() parquet.Node {
	return parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
}

func number() parquet.Node { return parquet.Leaf(parquet.DoubleType) }

var sampleFields = []field{
	{parquet.Optional(parquet.String()), "id"},
	{parquet.Timestamp(parquet.Microsecond), "time"},
	{name(), "endpoint"},
	{name(), "model"},
	{name(), "version"},
	{name(), "route"},
	{number(), "propensity"},
	{name(), "protocol"},
	{name(), "outcome"},
	{parquet.Int(32), "status"},
	{number(), "total_seconds"},
	{number(), "queue_seconds"},
	{number(), "compute_seconds"},
}

var feedbackFields = []field{
	{parquet.Optional(parquet.String()), "id"},
	{parquet.Timestamp(parquet.Microsecond), "time"},
	{name(), "endpoint"},
	{name(), "model"},
	{name(), "version"},
	{name(), "route"},
	{parquet.Optional(number()), "reward"},
	{parquet.Optional(parquet.String()), "label"}, // JSON
}

func nullableList(element parquet.Node) parquet.Node {
	return parquet.Optional(parquet.List(element))
}

// node is the type of the column's elements.
func (c *column) node() parquet.Node {
	switch c.datatype {
	case tensor.Bool:
		return parquet.Leaf(parquet.BooleanType)
	case tensor.FP32, tensor.FP16, tensor.BF16:
		return parquet.Leaf(parquet.FloatType)
	case tensor.FP64:
		return number()
	case tensor.Bytes:
		if c.binary {
			return parquet.Leaf(parquet.ByteArrayType)
		}
		return parquet.String()
	case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64:
		return parquet.Uint(8 * c.datatype.Size())
	}
	return parquet.Int(8 * c.datatype.Size())
}

// rowBuilder puts a row together, column by column.
type rowBuilder struct {
	row    parquet.Row
	column int
}

// mostValues are kept for the next row.
const mostValues = 64 << 10

func (b *rowBuilder) reset() { b.row, b.column = b.row[:0], 0 }

func (b *rowBuilder) sample(s *Sample, l *layout) {
	b.optionalText(string(s.ID))
	b.put(parquet.Int64Value(s.Time.UnixMicro()))
	b.texts(s.Endpoint, s.Model, s.Version, s.Route)
	b.put(parquet.DoubleValue(s.Propensity))
	b.texts(s.Protocol, s.Outcome)
	b.put(parquet.Int32Value(int32(s.Status)))
	b.put(parquet.DoubleValue(s.Total.Seconds()))
	b.put(parquet.DoubleValue(s.Queue.Seconds()))
	b.put(parquet.DoubleValue(s.Compute.Seconds()))
	for _, t := range l.places {
		if t == nil {
			b.null()
			b.null()
			continue
		}
		b.list(func(add func(parquet.Value)) {
			elements(t, func(p []byte) { add(value(t.Datatype, p)) })
		})
		b.list(func(add func(parquet.Value)) {
			for _, d := range t.Shape {
				add(parquet.Int64Value(d))
			}
		})
	}
}

func (b *rowBuilder) feedback(f *Feedback) {
	b.optionalText(f.ID)
	b.put(parquet.Int64Value(f.Time.UnixMicro()))
	b.texts(f.Endpoint, f.Model, f.Version, f.Route)
	if f.Reward == nil {
		b.null()
	} else {
		b.optional(parquet.DoubleValue(*f.Reward))
	}
	if f.Label == nil {
		b.null()
	} else {
		b.optional(parquet.ByteArrayValue(labelText(f.Label)))
	}
}

// put ends a column with one value, of a column that is never null.
func (b *rowBuilder) put(v parquet.Value) { b.add(v, 0, 0); b.column++ }

func (b *rowBuilder) optional(v parquet.Value) { b.add(v, 0, 1); b.column++ }

func (b *rowBuilder) null() { b.put(parquet.NullValue()) }

func (b *rowBuilder) add(v parquet.Value, repetition, definition int) {
	b.row = append(b.row, v.Level(repetition, definition, b.column))
}

func (b *rowBuilder) texts(texts ...string) {
	for _, s := range texts {
		b.put(text(s))
	}
}

// optionalText takes an empty text for none.
func (b *rowBuilder) optionalText(s string) {
	if s == "" {
		b.null()
	} else {
		b.optional(text(s))
	}
}

func text(s string) parquet.Value {
	return parquet.ByteArrayValue([]byte(strings.ToValidUTF8(s, "\ufffd")))
}

// list puts the values that each adds: a null list is defined to level 0, an
// empty one to 1, elements to 2; all but the first repeat at level 1.
func (b *rowBuilder) list(each func(add func(parquet.Value))) {
	from := len(b.row)
	each(func(v parquet.Value) { b.add(v, min(len(b.row)-from, 1), 2) })
	if len(b.row) == from {
		b.add(parquet.NullValue(), 0, 1)
	}
	b.column++
}

func value(d tensor.Datatype, p []byte) parquet.Value {
	switch d {
	case tensor.Bool:
		return parquet.BooleanValue(p[0] != 0)
	case tensor.FP32, tensor.FP16, tensor.BF16:
		return parquet.FloatValue(single(d, p))
	case tensor.FP64:
		return parquet.DoubleValue(double(p))
	case tensor.Int64, tensor.Uint64:
		return parquet.Int64Value(integer(d, p))
	case tensor.Bytes:
		return parquet.ByteArrayValue(p)
	}
	return parquet.Int32Value(int32(integer(d, p)))
}
