package reference

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// ErrFile is returned for a file that cannot be read as what it should be.
var ErrFile = errors.New("reference: cannot read the file")

// FromCSV builds a profile of a CSV file whose first line has the names of the
// columns. Empty fields, NA and null are missing values; a column is numeric when
// all others are numbers.
func FromCSV(r io.Reader, o Options) (*Profile, error) {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	names, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it is empty", ErrRows)
	}
	if err != nil {
		return nil, fmt.Errorf("%w as CSV: %w", ErrFile, err)
	}
	names = slices.Clone(names)
	names[0] = strings.TrimPrefix(names[0], "\ufeff") // as spreadsheets write it
	t, err := newTable(names, o)
	if err != nil {
		return nil, err
	}
	row := make([]sketch.Value, len(names))
	for {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			return t.Build()
		}
		if err != nil {
			return nil, fmt.Errorf("%w as CSV: %w", ErrFile, err)
		}
		for i, field := range record {
			row[i] = cell(field)
			if t.asText[i] && !row[i].IsMissing() {
				row[i] = sketch.Text([]byte(field))
			}
		}
		var at time.Time
		if t.time >= 0 {
			if at, err = parseTime(record[t.time]); err != nil {
				return nil, fmt.Errorf("row %d: %w", t.Rows()+1, err)
			}
		}
		if err := t.add(at, row); err != nil {
			return nil, err
		}
	}
}

// table collects rows that may have a column with their time, which is no feature.
type table struct {
	*Collector
	time   int // its place, -1 without
	asText []bool
	row    []sketch.Value
}

func newTable(names []string, o Options) (*table, error) {
	t := &table{time: slices.Index(names, o.TimeColumn)}
	switch {
	case o.TimeColumn != "" && t.time < 0:
		return nil, fmt.Errorf("%w: there is no %q among %q", ErrColumn, o.TimeColumn, names)
	case o.TimeColumn == "" && o.Season != NoSeason:
		return nil, fmt.Errorf("%w: season %s needs to know which column has the time", ErrColumn,
			o.Season)
	case o.TimeColumn == "":
		t.time = -1
	}
	for _, name := range names {
		t.asText = append(t.asText, o.asText(name))
	}
	features := names
	if t.time >= 0 {
		features = slices.Delete(slices.Clone(names), t.time, t.time+1)
	}
	var err error
	t.Collector, err = NewCollector(features, o)
	return t, err
}

func (t *table) add(at time.Time, row []sketch.Value) error {
	t.row = t.row[:0]
	for i, v := range row {
		if i != t.time {
			t.row = append(t.row, v)
		}
	}
	return t.Collector.Add(at, t.row)
}

var timeForms = [...]string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02T15:04:05",
	"2006-01-02 15:04:05Z07:00"}

func parseTime(s string) (time.Time, error) {
	for _, form := range timeForms {
		if at, err := time.Parse(form, s); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: %q is no time, write it as 2026-01-31T23:59:59Z",
		ErrColumn, s)
}

// FromParquet builds a profile of a Parquet file of flat columns.
func FromParquet(r io.ReaderAt, size int64, o Options) (p *Profile, err error) {
	// The library panics on some damaged files.
	defer func() {
		if x := recover(); x != nil {
			p, err = nil, fmt.Errorf("%w as Parquet: %v", ErrFile, x)
		}
	}()
	f, err := parquet.OpenFile(r, size)
	if err != nil {
		return nil, fmt.Errorf("%w as Parquet: %w", ErrFile, err)
	}
	var names []string
	o.Ignored = slices.Clone(o.Ignored)
	fields := f.Schema().Fields()
	for _, field := range fields {
		if !field.Leaf() || field.Repeated() {
			return nil, fmt.Errorf("%w: %q is a list or a group, spread it over columns", ErrColumn,
				field.Name())
		}
		names = append(names, field.Name())
		if strings.HasPrefix(field.Name(), "__index_level_") { // pandas' numbers of rows
			o.Ignored = append(o.Ignored, field.Name())
		}
	}
	t, err := newTable(names, o)
	if err != nil {
		return nil, err
	}
	for _, group := range f.RowGroups() {
		if err := t.rows(group, fields); err != nil {
			return nil, err
		}
	}
	return t.Build()
}

// rows adds those of one row group.
func (t *table) rows(group parquet.RowGroup, fields []parquet.Field) (err error) {
	rows := group.Rows()
	defer func() { err = errors.Join(err, rows.Close()) }()
	buffer := make([]parquet.Row, 256)
	row := make([]sketch.Value, len(fields))
	for {
		n, err := rows.ReadRows(buffer)
		for _, record := range buffer[:n] {
			var at time.Time
			for _, v := range record {
				i := v.Column()
				row[i] = value(v, fields[i])
				if i == t.time {
					if at, err = timestamp(v, fields[i]); err != nil {
						return fmt.Errorf("row %d: %w", t.Rows()+1, err)
					}
				}
			}
			if err := t.add(at, row); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w as Parquet: %w", ErrFile, err)
		}
	}
}

func value(v parquet.Value, f parquet.Field) sketch.Value {
	switch v.Kind() {
	case parquet.Boolean:
		return sketch.Boolean(v.Boolean())
	case parquet.Int32:
		if unsigned(f) {
			return sketch.Integer(int64(uint32(v.Int32())))
		}
		return sketch.Integer(int64(v.Int32()))
	case parquet.Int64:
		if v.Int64() < 0 && unsigned(f) {
			return sketch.Number(float64(uint64(v.Int64())))
		}
		return sketch.Integer(v.Int64())
	case parquet.Float:
		return sketch.Number(float64(v.Float()))
	case parquet.Double:
		return sketch.Number(v.Double())
	case parquet.ByteArray, parquet.FixedLenByteArray:
		return sketch.Text(v.ByteArray())
	}
	return sketch.Missing()
}

// unsigned says whether a column has whole numbers without a sign.
func unsigned(f parquet.Field) bool {
	logical := f.Type().LogicalType()
	if logical == nil {
		return false
	}
	whole, ok := logical.Value.(*format.IntType)
	return ok && !whole.IsSigned
}

func timestamp(v parquet.Value, f parquet.Field) (time.Time, error) {
	if v.Kind() == parquet.ByteArray {
		return parseTime(string(v.ByteArray()))
	}
	var unit format.TimeUnitValue
	if logical := f.Type().LogicalType(); logical != nil {
		if stamp, ok := logical.Value.(*format.TimestampType); ok {
			unit = stamp.Unit.Value
		}
	}
	if unit == nil || v.Kind() != parquet.Int64 {
		return time.Time{}, fmt.Errorf("%w: %q is no timestamp", ErrColumn, f.Name())
	}
	switch unit.(type) {
	case *format.MilliSeconds:
		return time.UnixMilli(v.Int64()), nil
	case *format.MicroSeconds:
		return time.UnixMicro(v.Int64()), nil
	}
	return time.Unix(0, v.Int64()), nil
}
