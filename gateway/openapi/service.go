package openapi

import (
	"net/http"
	"net/url"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// service is a Service with what its paths are made of.
type service struct {
	*Service
	features []feature
	rows     []any // by input: the example's value of one row; nil for no example
	most     int   // rows of a request; 0 for no bound
	single   bool  // a request is one row: the model has no axis for more
}

// feature is one thing that a row has: a column of the only input, or an input.
type feature struct {
	name     string
	shape    []int64 // without the axis of the rows
	datatype tensor.Datatype
	whole    bool // values are whole numbers
	optional bool
	input    int
	column   bool // of a matrix
}

// rowAxis returns the axis along which a tensor's rows lie, -1 for none.
func rowAxis(s *tensor.Spec) int {
	if s.BatchAxis < 0 && len(s.Columns) > 0 {
		return 0
	}
	return s.BatchAxis
}

// rowShape returns the shape of one row.
func rowShape(s *tensor.Spec) []int64 {
	axis := rowAxis(s)
	shape := make([]int64, 0, len(s.Shape))
	for i, d := range s.Shape {
		if i != axis {
			shape = append(shape, d)
		}
	}
	return shape
}

func newService(s *Service) *service {
	v := &service{Service: s, most: s.Signature.MaxBatchSize, single: true}
	for i := range s.Signature.Inputs {
		if rowAxis(&s.Signature.Inputs[i]) >= 0 {
			v.single = false
		}
		v.features = append(v.features, featuresOf(s.Signature, i)...)
	}
	v.rows = v.exampleRows()
	return v
}

// featuresOf returns the features that an input holds.
func featuresOf(sig *tensor.Signature, input int) []feature {
	in := &sig.Inputs[input]
	f := feature{name: in.Name, shape: rowShape(in), datatype: in.Datatype,
		whole: isWhole(in.Datatype), optional: in.Optional, input: input}
	if len(in.Columns) == 0 {
		return []feature{f}
	}
	f.whole = f.whole || wholeTypes[in.Columns[0].Type]
	f.optional = f.optional || in.Columns[0].Optional
	if len(sig.Inputs) > 1 {
		return []feature{f}
	}
	if len(f.shape) == 0 {
		f.name = in.Columns[0].Name
		return []feature{f}
	}
	columns := make([]feature, len(in.Columns))
	for i, c := range in.Columns {
		columns[i] = feature{name: c.Name, datatype: in.Datatype, input: input, column: true,
			whole: isWhole(in.Datatype) || wholeTypes[c.Type], optional: c.Optional}
	}
	return columns
}

// wholeTypes are MLflow's types of whole numbers.
var wholeTypes = map[string]bool{"integer": true, "long": true}

func isWhole(d tensor.Datatype) bool { return element(d)["type"] == "integer" }

// exampleRows returns a value of one row for each input, nil where one is too
// large to show.
func (s *service) exampleRows() []any {
	rows := make([]any, len(s.Signature.Inputs))
	for _, f := range s.features {
		shape := ones(f.shape)
		n, err := tensor.Elements(shape)
		if err != nil || n > maxExample {
			return nil
		}
		value, ok := fitting(s.Example[f.name], f.shape, f.datatype)
		if !ok {
			value = filled(shape, f.typical())
		}
		if f.column {
			all, _ := rows[f.input].([]any)
			value = append(all, value)
		}
		rows[f.input] = value
	}
	return rows
}

// tabular says whether each feature is one value, so that rows make a table.
func (s *service) tabular() bool {
	for _, f := range s.features {
		if len(f.shape) > 1 || len(f.shape) == 1 && f.shape[0] != 1 {
			return false
		}
	}
	return !s.single && len(s.features) > 0
}

// plainRow is one row as an object of features.
func (s *service) plainRow() fields {
	row := make(fields, 0, len(s.features))
	column := make([]int, len(s.rows))
	for _, f := range s.features {
		value := s.rows[f.input]
		if f.column {
			value = value.([]any)[column[f.input]]
			column[f.input]++
		}
		row = append(row, field{f.name, value})
	}
	return row
}

// tensors are the inputs by name, with the axis of their rows.
func (s *service) tensors() fields {
	all := make(fields, len(s.rows))
	for i, row := range s.rows {
		in := &s.Signature.Inputs[i]
		all[i] = field{in.Name, row}
		if axis := rowAxis(in); axis >= 0 {
			all[i].value = withAxis(row, axis)
		}
	}
	return all
}

// bare is the value of the only field, or all of them.
func bare(all fields) any {
	if len(all) == 1 {
		return all[0].value
	}
	return all
}

func (s *service) tag() string { return s.Kind + " " + s.Name }

// service adds the paths of a service, and returns what the page shows of it.
func (b *builder) service(s *service) object {
	name := url.PathEscape(s.Name)
	var operations []any
	for _, p := range []protocol{s.plain(), s.infer(), s.v1(), s.mlflow()} {
		path := p.before + name + p.after
		b.add("post", path, operation{
			summary: p.label + ": ask " + s.Kind + " " + s.Name, description: s.Description,
			tag: s.tag(), request: p.request, answer: p.answer,
			headers: answerHeaders(s.Kind), errors: p.errors, failures: inferFailures()})
		operations = append(operations, link(p.label, "post", path))
	}
	path := "/v2/models/" + name
	b.add("get", path, operation{summary: "Inputs and outputs of " + s.Kind + " " + s.Name,
		description: s.Description, tag: s.tag(), answer: s.metadata(), errors: plainErrors,
		failures: []int{http.StatusNotFound, http.StatusServiceUnavailable}})
	operations = append(operations, link("Metadata", "get", path))
	return object{
		"name": s.Name, "kind": s.Kind, "version": s.Version, "description": s.Description,
		"maxBatchSize": s.most, "inputs": tensors(s.Signature.Inputs),
		"outputs": tensors(s.Signature.Outputs), "operations": operations,
	}
}

// link leads the page to an operation.
func link(label, method, path string) object {
	return object{"label": label, "method": method, "path": path}
}

// metadata is the schema of a model's metadata.
func (s *service) metadata() object {
	text := object{"type": "string"}
	list := object{"type": "array", "items": reference("schemas", "Tensor")}
	return record(object{"name": text, "versions": object{"type": "array", "items": text},
		"platform": text, "inputs": list, "outputs": list}, "name", "platform", "inputs", "outputs")
}

// maxLabels is how many names of classes the page is told.
const maxLabels = 50

// tensors are inputs or outputs as the page shows them.
func tensors(specs []tensor.Spec) []any {
	all := make([]any, len(specs))
	for i := range specs {
		s := &specs[i]
		columns := []any{}
		for _, c := range s.Columns {
			columns = append(columns, object{"name": c.Name, "optional": c.Optional})
		}
		shape := append([]int64{}, s.Shape...)
		all[i] = object{"name": s.Name, "datatype": s.Datatype.String(), "shape": shape,
			"dimNames": append([]string{}, s.DimNames...), "optional": s.Optional,
			"columns": columns, "classes": len(s.Labels),
			"labels": append([]string{}, s.Labels[:min(len(s.Labels), maxLabels)]...)}
	}
	return all
}
