package proof

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// golden scores the version on the operator's golden set. A set that cannot be used is no
// fault of the version.
func (r *runner) golden(ctx context.Context, cfg *Config) (Score, error) {
	dir, name := filepath.Split(cfg.Golden)
	body, err := read(os.DirFS(filepath.Clean(dir)), name, maxGolden)
	var s *set
	if err == nil {
		s, err = r.readSet(body, filepath.Ext(name))
	}
	if err != nil {
		return Score{}, unknown{fmt.Errorf("cannot use the golden set %s: %w", name, err)}
	}
	m := metrics[cfg.Metric]
	samples, err := r.answered(ctx, s, m)
	if err != nil {
		return Score{}, fmt.Errorf("golden set: %w", err)
	}
	score := Score{Metric: cfg.Metric, Rows: len(samples), Bound: cfg.Bound}
	if score.Value, err = m.score(samples); err != nil {
		return Score{}, unknown{fmt.Errorf("cannot use the golden set %s: %w", name, err)}
	}
	if !score.Enough() {
		return score, fmt.Errorf("golden set: %v%s", score, farthest(samples))
	}
	return score, nil
}

// set is what is expected of an output, one value for each row of the request.
type set struct {
	output   int // index into the signature
	expected []any
}

// readSet reads the inputs of a golden set into the request, and what is expected.
func (r *runner) readSet(body []byte, kind string) (*set, error) {
	cut, decode := r.cutJSON, wire.DecodeMLflow
	if kind == ".csv" {
		cut, decode = r.cutCSV, wire.DecodeMLflowCSV
	}
	h, err := cut(body)
	if err != nil {
		return nil, err
	}
	s := &set{output: r.v.Signature().Output([]byte(h.output))}
	if s.output < 0 {
		return nil, fmt.Errorf("%q is expected, which is no output; the model has %s", h.output,
			r.outputs())
	}
	r.request.Reset()
	if err := decode(&r.request, r.asInput(s.output), h.expected); err != nil {
		return nil, fmt.Errorf("expected values: %w", err)
	}
	if shape := r.request.Inputs[0].Shape; len(shape) != 1 {
		return nil, fmt.Errorf("expected values: they are of shape %s, must be one for each row",
			tensor.FormatShape(shape))
	}
	for i, v := range elements(&r.request.Inputs[0]) {
		if !finite(v) {
			return nil, fmt.Errorf("the expected value of row %d is %s", i, text(v))
		}
		s.expected = append(s.expected, v)
	}
	r.request.Reset()
	if err := decode(&r.request, r.v.Signature(), h.inputs); err != nil {
		return nil, err
	}
	plan, err := planned(r.v.Signature(), r.request.Inputs)
	if err == nil && int(plan.rows) != len(s.expected) {
		err = fmt.Errorf("there are %d rows of inputs and %d expected values", plan.rows,
			len(s.expected))
	}
	return s, err
}

// asInput is a signature that reads the expected values of an output. Numbers for floats
// have all digits of a double.
func (r *runner) asInput(output int) *tensor.Signature {
	of := &r.v.Signature().Outputs[output]
	spec := tensor.Spec{Name: of.Name, Datatype: of.Datatype, Shape: []int64{-1}}
	switch spec.Datatype {
	case tensor.FP16, tensor.BF16, tensor.FP32:
		spec.Datatype = tensor.FP64
	}
	return &tensor.Signature{Model: r.v.Name(), Inputs: []tensor.Spec{spec}}
}

// outputs names the outputs of the model.
func (r *runner) outputs() string {
	var names []string
	for i := range r.v.Signature().Outputs {
		names = append(names, r.v.Signature().Outputs[i].Name)
	}
	return strings.Join(names, ", ")
}

// halves are a golden set cut in two requests: one for the model, and one whose only input
// is what is expected of an output.
type halves struct {
	inputs, expected []byte
	output           string
}

func (r *runner) cutJSON(body []byte) (halves, error) {
	var golden struct {
		Inputs   json.RawMessage
		Expected map[string]json.RawMessage
	}
	if err := json.Unmarshal(body, &golden); err != nil {
		return halves{}, err
	}
	if golden.Inputs == nil || len(golden.Expected) != 1 {
		return halves{}, errors.New(`there must be "inputs", and one output in "expected"`)
	}
	h := halves{inputs: records(under("inputs", golden.Inputs))}
	for output, values := range golden.Expected {
		h.output, h.expected = output, under("inputs", values)
	}
	return h, nil
}

func (r *runner) cutCSV(body []byte) (h halves, err error) {
	lines := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(body, []byte("\ufeff"))))
	lines.ReuseRecord = true
	names, err := lines.Read()
	if errors.Is(err, io.EOF) {
		return h, errors.New("there is no line of names")
	}
	if err != nil {
		return h, err
	}
	column, err := r.expectedColumn(names)
	if err != nil {
		return h, err
	}
	h.output = names[column]
	var inputs, expected bytes.Buffer // to write into them cannot fail
	in, out := csv.NewWriter(&inputs), csv.NewWriter(&expected)
	cells := names
	for row := -1; err == nil; row++ {
		if cells[column] == "" {
			return h, fmt.Errorf("row %d has no expected value", row)
		}
		_ = out.Write(cells[column : column+1])
		_ = in.Write(slices.Delete(cells, column, column+1))
		cells, err = lines.Read()
	}
	if !errors.Is(err, io.EOF) {
		return h, err
	}
	in.Flush()
	out.Flush()
	h.inputs, h.expected = inputs.Bytes(), expected.Bytes()
	return h, nil
}

// expectedColumn finds the only column that is named as an output.
func (r *runner) expectedColumn(names []string) (int, error) {
	sig, found, column := r.v.Signature(), 0, 0
	for i, name := range names {
		key := []byte(name)
		if sig.Output(key) < 0 {
			continue
		}
		if sig.Input(key) >= 0 || sig.Column(key) >= 0 {
			return 0, fmt.Errorf("column %q is named as an input and as an output; say in JSON "+
				"which it is", name)
		}
		found, column = found+1, i
	}
	if found != 1 {
		return 0, fmt.Errorf("%d columns are named as an output, must be one; the model has %s",
			found, r.outputs())
	}
	return column, nil
}

// maxWidth bounds the classes of an output.
const maxWidth = 1 << 16

// answered has the version answer the golden set.
func (r *runner) answered(ctx context.Context, s *set, m metric) ([]sample, error) {
	samples := make([]sample, 0, len(s.expected))
	_, err := r.run(ctx, func(p part) error {
		got := &p.outputs[s.output]
		n, _ := tensor.Elements(got.Shape)
		if len(got.Shape) == 0 || got.Shape[0] != p.rows || n == 0 || n/p.rows > maxWidth {
			return unknown{fmt.Errorf("output %q of shape %s cannot be scored: it must have %s of "+
				"up to %d values", got.Name, tensor.FormatShape(got.Shape),
				count(int(p.rows), "row"), maxWidth)}
		}
		if err := allFinite(part{p.first, p.rows, p.outputs[s.output : s.output+1]}); err != nil {
			return err
		}
		values := make([]any, 0, n)
		for _, v := range elements(got) {
			values = append(values, v)
		}
		for row := range slices.Chunk(values, int(n/p.rows)) {
			one, err := m.read(row, s.expected[len(samples)])
			if err != nil {
				return unknown{fmt.Errorf("output %q, row %d: %w", got.Name, len(samples), err)}
			}
			samples = append(samples, one)
		}
		return nil
	})
	return samples, err
}
