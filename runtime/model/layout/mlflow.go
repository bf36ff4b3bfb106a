package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// MLflow is the part of an MLmodel file that is used.
type MLflow struct {
	File            string // the model file, below the folder of the MLmodel
	Inputs, Outputs []Column
}

// Column is one entry of a signature: a tensor, or a column of a table.
type Column struct {
	Name     string
	Type     string  // "tensor", or MLflow's type of a column
	Dtype    string  // of a tensor, by numpy's name
	Shape    []int64 // of a tensor
	Optional bool
}

// ParseMLmodel reads an MLmodel file.
func ParseMLmodel(text []byte) (*MLflow, error) {
	var m struct {
		Flavors map[string]struct {
			Data string `yaml:"data"`
		} `yaml:"flavors"`
		Signature struct {
			Inputs  string `yaml:"inputs"`
			Outputs string `yaml:"outputs"`
		} `yaml:"signature"`
	}
	if err := yaml.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("%w: MLmodel is not as MLflow writes it: %w", ErrLayout, err)
	}
	onnx, ok := m.Flavors["onnx"]
	if !ok {
		var flavors []string
		for name := range m.Flavors {
			flavors = append(flavors, name)
		}
		slices.Sort(flavors)
		return nil, fmt.Errorf("%w: the MLflow model has the flavors %s, not onnx; convert it "+
			"first", ErrLayout, strings.Join(flavors, ", "))
	}
	if onnx.Data == "" || !filepath.IsLocal(onnx.Data) {
		return nil, fmt.Errorf("%w: MLmodel names the file %q", ErrLayout, onnx.Data)
	}
	result := &MLflow{File: onnx.Data}
	var err error
	if result.Inputs, err = parseColumns("inputs", m.Signature.Inputs); err != nil {
		return nil, err
	}
	result.Outputs, err = parseColumns("outputs", m.Signature.Outputs)
	return result, err
}

// parseColumns reads one half of a signature, JSON within the YAML.
func parseColumns(half, text string) ([]Column, error) {
	if text == "" {
		return nil, nil
	}
	var list []struct {
		Name     string
		Type     string
		Required *bool
		Tensor   *struct {
			Dtype string
			Shape []int64
		} `json:"tensor-spec"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("%w: MLmodel: the %s of the signature: %w", ErrLayout, half, err)
	}
	columns := make([]Column, len(list))
	for i, c := range list {
		columns[i] = Column{Name: c.Name, Type: c.Type, Optional: c.Required != nil && !*c.Required}
		if c.Type != "tensor" {
			continue
		}
		if c.Tensor == nil {
			return nil, fmt.Errorf("%w: MLmodel: entry %d of the %s of the signature is a tensor "+
				"without tensor-spec", ErrLayout, i, half)
		}
		columns[i].Dtype, columns[i].Shape = c.Tensor.Dtype, c.Tensor.Shape
	}
	return columns, nil
}

// numpyTypes are the datatypes by numpy's names. What is not among them makes
// no claim.
var numpyTypes = map[string]tensor.Datatype{
	"bool": tensor.Bool, "int8": tensor.Int8, "int16": tensor.Int16, "int32": tensor.Int32,
	"int64": tensor.Int64, "uint8": tensor.Uint8, "uint16": tensor.Uint16,
	"uint32": tensor.Uint32, "uint64": tensor.Uint64, "float16": tensor.FP16,
	"bfloat16": tensor.BF16, "float32": tensor.FP32, "float64": tensor.FP64,
	"object": tensor.Bytes, "str": tensor.Bytes, "bytes": tensor.Bytes,
}

// columnTypes are the datatypes that a column of a table may have in the
// model. MLflow casts doubles down for models that take floats. What is not
// among them (arrays, objects, times) makes no claim.
var columnTypes = map[string][]tensor.Datatype{
	"boolean": {tensor.Bool}, "integer": {tensor.Int32}, "long": {tensor.Int64},
	"float": {tensor.FP32}, "double": {tensor.FP64, tensor.FP32},
	"string": {tensor.Bytes}, "binary": {tensor.Bytes},
}

// narrow holds a signature of MLflow against the model's and sets variable
// dimensions that it fixes.
func (m *MLflow) narrow(sig *tensor.Signature) error {
	if m == nil {
		return nil
	}
	in := half{"input", m.Inputs, sig.Inputs}
	out := half{"output", m.Outputs, sig.Outputs}
	fault := errors.Join(append(in.narrow(), out.narrow()...)...)
	if fault != nil {
		return fmt.Errorf("%w: the signature in MLmodel: %w", ErrLayout, fault)
	}
	return nil
}

// half is the inputs or the outputs: what MLflow says and what the model does.
type half struct {
	kind    string
	columns []Column
	specs   []tensor.Spec
}

func (h half) narrow() []error {
	if len(h.columns) == 0 {
		return nil
	}
	if h.columns[0].Type != "tensor" {
		return h.table()
	}
	var faults []error
	for i := range h.columns {
		c := &h.columns[i]
		if c.Name == "" && (len(h.specs) != 1 || len(h.columns) != 1) {
			continue // it says of none of them in particular
		}
		s := &h.specs[0]
		if c.Name != "" {
			if s = h.spec(c.Name); s == nil {
				faults = append(faults, fmt.Errorf("%s %q is not one of the model, which has %s",
					h.kind, c.Name, h.names()))
				continue
			}
		}
		faults = append(faults, h.tensor(c, s))
	}
	return append(faults, h.left()...)
}

// left names the inputs of the model that the signature does not have.
func (h half) left() []error {
	if h.kind != "input" || len(h.columns) == 1 && h.columns[0].Name == "" {
		return nil
	}
	var faults []error
	for i := range h.specs {
		s := &h.specs[i]
		has := slices.ContainsFunc(h.columns, func(c Column) bool { return c.Name == s.Name })
		if !has && !s.Optional {
			faults = append(faults, fmt.Errorf("input %q of the model is missing", s.Name))
		}
	}
	return faults
}

func (h half) spec(name string) *tensor.Spec {
	i := slices.IndexFunc(h.specs, func(s tensor.Spec) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &h.specs[i]
}

func (h half) names() string {
	names := make([]string, len(h.specs))
	for i := range h.specs {
		names[i] = h.specs[i].Name
	}
	return strings.Join(names, ", ")
}

func (h half) tensor(c *Column, s *tensor.Spec) error {
	if want, ok := numpyTypes[c.Dtype]; ok && want != s.Datatype {
		return fmt.Errorf("%s %q is %s, the model's is %s", h.kind, s.Name, c.Dtype, s.Datatype)
	}
	fits := len(c.Shape) == len(s.Shape)
	for d := 0; fits && d < len(c.Shape); d++ {
		fits = c.Shape[d] == s.Shape[d] || c.Shape[d] == -1 || s.Shape[d] == -1 && c.Shape[d] >= 0
	}
	if !fits {
		return fmt.Errorf("%s %q has the shape %s, the model's has %s", h.kind, s.Name,
			tensor.FormatShape(c.Shape), tensor.FormatShape(s.Shape))
	}
	shape := slices.Clone(s.Shape)
	for d := range shape {
		if shape[d] == -1 {
			shape[d] = c.Shape[d]
		}
	}
	s.Shape = shape
	return nil
}

// table holds columns against the model: each is an input, [rows] or
// [rows, 1], or all together are the columns of its only one, [rows, columns].
func (h half) table() []error {
	known := 0
	for _, c := range h.columns {
		if h.spec(c.Name) != nil {
			known++
		}
	}
	if len(h.specs) == 1 && len(h.specs[0].Shape) == 2 && (known == 0 || len(h.columns) > 1) {
		return []error{h.matrix()}
	}
	if known == 0 && h.kind == "output" {
		return nil // predictions have names of their own
	}
	var faults []error
	for i := range h.columns {
		c := &h.columns[i]
		s := h.spec(c.Name)
		if s == nil {
			if !c.Optional {
				faults = append(faults, fmt.Errorf("column %q is not an %s of the model, which "+
					"has %s", c.Name, h.kind, h.names()))
			}
			continue
		}
		allowed, claims := columnTypes[c.Type]
		if claims && !slices.Contains(allowed, s.Datatype) {
			faults = append(faults, fmt.Errorf("column %q is %s, the model's %s is %s", c.Name,
				c.Type, h.kind, s.Datatype))
		} else if claims && h.kind == "input" {
			faults = append(faults, oneColumn(s))
			s.Columns = features(h.columns[i : i+1])
		}
	}
	return append(faults, h.left()...)
}

// oneColumn narrows [rows, -1] to [rows, 1].
func oneColumn(s *tensor.Spec) error {
	last := len(s.Shape) - 1
	if last > 1 || last == 1 && s.Shape[1] != 1 && s.Shape[1] != -1 {
		return fmt.Errorf("column %q has one value a row, the model's input has the shape %s",
			s.Name, tensor.FormatShape(s.Shape))
	}
	if last == 1 {
		s.Shape = []int64{s.Shape[0], 1}
	}
	return nil
}

// matrix holds columns against the only input or output of a model.
func (h half) matrix() error {
	s := &h.specs[0]
	texts := 0
	for _, c := range h.columns {
		if allowed, ok := columnTypes[c.Type]; !ok || allowed[0] == tensor.Bytes {
			texts++
		}
	}
	if s.Datatype != tensor.Bytes && texts > 0 {
		return fmt.Errorf("%d of its columns are not numbers, the model's %s %q is %s", texts,
			h.kind, s.Name, s.Datatype)
	}
	n := int64(len(h.columns))
	if s.Shape[1] != -1 && s.Shape[1] != n {
		return fmt.Errorf("it has %d columns, the model's %s %q has the shape %s", n, h.kind,
			s.Name, tensor.FormatShape(s.Shape))
	}
	s.Shape = []int64{s.Shape[0], n}
	if h.kind == "input" {
		s.Columns = features(h.columns)
	}
	return nil
}

// features are the columns of an input, nil where they have no names to tell
// them apart by.
func features(columns []Column) []tensor.Column {
	list := make([]tensor.Column, len(columns))
	names := make(map[string]bool, len(columns))
	for i, c := range columns {
		list[i] = tensor.Column{Name: c.Name, Type: c.Type, Optional: c.Optional}
		names[c.Name] = true
	}
	if len(names) < len(columns) || names[""] {
		return nil
	}
	return list
}
