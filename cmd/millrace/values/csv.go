package values

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// FromCSV reads a table. With a first line that names inputs, each of them is
// filled from its column and ignored lists the other columns. Without, the
// model must have one input, whose rows the lines are; a first line that is no
// data is then passed over.
func FromCSV(specs []tensor.Spec,
	r io.Reader) (tensors []tensor.Tensor, ignored []string, err error) {
	records, err := csv.NewReader(r).ReadAll()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: not CSV: %w", ErrValue, err)
	}
	if len(records) == 0 {
		return nil, nil, fmt.Errorf("%w: the table is empty", ErrValue)
	}
	columns := make(map[string]int)
	// Spreadsheets write a byte order mark in front of the first name.
	records[0][0] = strings.TrimPrefix(records[0][0], "\ufeff")
	for i, name := range records[0] {
		name = strings.TrimSpace(name)
		if _, err := Find(specs, name); err == nil {
			columns[name] = i
		} else {
			ignored = append(ignored, name)
		}
	}
	if len(columns) > 0 {
		tensors, err = fromColumns(specs, columns, records[1:])
		return tensors, ignored, err
	}
	if len(specs) != 1 {
		return nil, nil, fmt.Errorf("%w: the first line names none of the inputs %s", ErrValue,
			names(specs))
	}
	t, err := fromLines(&specs[0], records)
	return []tensor.Tensor{t}, nil, err
}

func fromColumns(specs []tensor.Spec, columns map[string]int,
	lines [][]string) ([]tensor.Tensor, error) {
	var tensors []tensor.Tensor
	var faults []error
	for i := range specs {
		column, ok := columns[specs[i].Name]
		if !ok {
			if !specs[i].Optional {
				faults = append(faults,
					fmt.Errorf("%w: there is no column %q", ErrValue, specs[i].Name))
			}
			continue
		}
		texts := make([]string, len(lines))
		for j, line := range lines {
			texts[j] = line[column]
		}
		t, err := build(&specs[i], texts, nil)
		if err != nil {
			faults = append(faults, err)
		}
		tensors = append(tensors, t)
	}
	return tensors, errors.Join(faults...)
}

func fromLines(spec *tensor.Spec, lines [][]string) (tensor.Tensor, error) {
	for _, cell := range lines[0] {
		if _, err := AppendElement(nil, spec.Datatype, cell); err != nil {
			lines = lines[1:] // column names
			break
		}
	}
	var texts []string
	for _, line := range lines {
		texts = append(texts, line...)
	}
	if len(lines) == 0 {
		return tensor.Tensor{}, fmt.Errorf("%w: the table has no lines of data", ErrValue)
	}
	return build(spec, texts, []int64{int64(len(lines)), int64(len(lines[0]))})
}
