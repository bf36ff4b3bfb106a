package reference

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// split is a table in JSON, as pandas and MLflow write it.
type split struct {
	Columns []string `json:"columns"`
	Data    [][]any  `json:"data"`
}

// FromMLflow builds a profile of an input example that MLflow keeps beside a model: JSON
// with columns and data. Examples have a few rows as a rule; the error says how many a
// reference needs.
func FromMLflow(r io.Reader, o Options) (*Profile, error) {
	var file struct {
		split
		Serving *split `json:"dataframe_split"`
		Inputs  any    `json:"inputs"`
	}
	if err := json.NewDecoder(r).Decode(&file); err != nil {
		return nil, fmt.Errorf("%w as an input example: %w", ErrFile, err)
	}
	if file.Serving != nil {
		file.split = *file.Serving
	}
	switch rows := length(file.Inputs); {
	case file.Columns != nil:
		return file.profile(o)
	case file.Inputs != nil && rows < MinRows:
		return nil, tooFew(uint64(rows), 0, 1)
	}
	return nil, fmt.Errorf("%w: it is JSON without columns and data; use CSV, Parquet or a tap's "+
		"JSON Lines", ErrFile)
}

// length returns how many rows tensors in JSON have: a list, or lists by name.
func length(inputs any) (rows int) {
	switch x := inputs.(type) {
	case []any:
		return len(x)
	case map[string]any:
		for _, list := range x {
			rows = max(rows, length(list))
		}
	}
	return rows
}

func (s *split) profile(o Options) (*Profile, error) {
	t, err := newTable(s.Columns, o)
	if err != nil {
		return nil, err
	}
	row := make([]sketch.Value, len(s.Columns))
	for i, record := range s.Data {
		if len(record) != len(row) {
			return nil, fmt.Errorf("%w: row %d has %d values, there are %d columns", ErrFile, i+1,
				len(record), len(row))
		}
		for k, x := range record {
			row[k] = plain(x)
		}
		var at time.Time
		if t.time >= 0 {
			if at, err = parseTime(fmt.Sprint(record[t.time])); err != nil {
				return nil, fmt.Errorf("row %d: %w", i+1, err)
			}
		}
		if err := t.add(at, row); err != nil {
			return nil, err
		}
	}
	return t.Build()
}

// plain takes a value of JSON; lists and objects are no values of a feature.
func plain(x any) sketch.Value {
	switch x := x.(type) {
	case float64:
		return sketch.Number(x)
	case bool:
		return sketch.Boolean(x)
	case string:
		return sketch.Text([]byte(x))
	}
	return sketch.Missing()
}
