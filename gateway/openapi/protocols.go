package openapi

import (
	"bytes"
	"encoding/csv"
	"fmt"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// protocol is one way to ask a service for a prediction.
type protocol struct {
	label         string
	before, after string // of the service's name in the path
	request       object // by content type
	answer        object // schema
	errors        *errorForm
}

// infer is the Open Inference Protocol.
func (s *service) infer() protocol {
	inputs, outputs, names := []any{}, []any{}, []any{}
	needed := 0
	for i := range s.Signature.Inputs {
		inputs = append(inputs, sent(&s.Signature.Inputs[i]))
		if !s.Signature.Inputs[i].Optional {
			needed++
		}
	}
	for i := range s.Signature.Outputs {
		outputs = append(outputs, received(&s.Signature.Outputs[i]))
		names = append(names, s.Signature.Outputs[i].Name)
	}
	text := object{"type": "string"}
	parameters := reference("schemas", "Parameters")
	wanted := record(object{"name": object{"enum": names}, "parameters": parameters}, "name")
	request := record(object{
		"id": text, "parameters": parameters,
		"inputs": object{"type": "array", "items": anyOf(inputs), "minItems": needed,
			"maxItems": len(inputs)},
		"outputs": object{"type": "array", "items": wanted},
	}, "inputs")
	answer := record(object{
		"model_name": text, "model_version": text, "id": text, "parameters": parameters,
		"outputs": object{"type": "array", "items": anyOf(outputs)},
	}, "model_name", "outputs")
	return protocol{label: "Open Inference Protocol", before: "/v2/models/", after: "/infer",
		request: body(request, s.inferExample()), answer: answer, errors: plainErrors}
}

func (s *service) inferExample() any {
	if s.rows == nil {
		return nil
	}
	all := s.tensors()
	inputs := make([]any, len(all))
	for i, in := range all {
		inputs[i] = fields{{"name", in.name},
			{"datatype", s.Signature.Inputs[i].Datatype.String()},
			{"shape", extent(in.value)}, {"data", flat([]any{}, in.value)}}
	}
	return fields{{"inputs", inputs}}
}

// plain is JSON as people write it: an object of features, or a list of them.
func (s *service) plain() protocol {
	row := s.row()
	request, answer := row, s.answerRow(answerClasses)
	if !s.single {
		request = object{"anyOf": []any{row, list(row, s.most)}}
		answer = object{"anyOf": []any{answer, list(answer, s.most)}}
	}
	var example any
	if s.rows != nil {
		example = s.plainRow()
	}
	return protocol{label: "Plain JSON", before: "/predict/", request: body(request, example),
		answer: answer, errors: plainErrors}
}

// row is the schema of a row as an object of features.
func (s *service) row() object {
	properties := object{}
	var required []string
	for _, f := range s.features {
		properties[f.name] = loose(f.shape, nullable(f.datatype))
		if !f.optional {
			required = append(required, f.name)
		}
	}
	return record(properties, required...)
}

// answerClasses is the schema of an output's row that may have names of classes:
// then it is an object of them.
func answerClasses(o *tensor.Spec) object {
	leaf := nullable(o.Datatype)
	schema := loose(rowShape(o), leaf)
	if len(o.Shape) != 2 || o.Datatype == tensor.Bytes || o.Datatype == tensor.Bool {
		return schema
	}
	classes := object{"type": "object", "additionalProperties": leaf}
	return object{"anyOf": []any{schema, classes}}
}

// answerRow is the schema of all outputs of one row by name.
func (s *service) answerRow(of func(*tensor.Spec) object) object {
	properties := object{}
	for i := range s.Signature.Outputs {
		o := &s.Signature.Outputs[i]
		properties[o.Name] = of(o)
	}
	return record(properties)
}

// v1 is KServe's first protocol.
func (s *service) v1() protocol {
	var instance object
	inputs, required := object{}, []string{}
	for i := range s.Signature.Inputs {
		in := &s.Signature.Inputs[i]
		instance = loose(rowShape(in), nullable(in.Datatype))
		inputs[in.Name] = instance
		if !in.Optional {
			required = append(required, in.Name)
		}
	}
	if len(inputs) != 1 {
		instance = record(inputs, required...)
	}
	key, value := "instances", list(instance, s.most)
	if s.single {
		key, value = "inputs", instance
	}
	var example any
	if s.rows != nil {
		row := make(fields, len(s.rows))
		for i := range row {
			row[i] = field{s.Signature.Inputs[i].Name, s.rows[i]}
		}
		one := bare(row)
		if !s.single {
			one = []any{one}
		}
		example = fields{{key, one}}
	}
	return protocol{label: "KServe V1", before: "/v1/models/", after: ":predict",
		request: body(record(object{key: value}, key), example), answer: s.predictions(),
		errors: plainErrors}
}

// predictions is the schema of an answer in KServe's first protocol: rows of the
// only output, or objects of all.
func (s *service) predictions() object {
	if s.single {
		return record(object{"predictions": object{}, "outputs": object{}})
	}
	values := func(o *tensor.Spec) object { return loose(rowShape(o), nullable(o.Datatype)) }
	row := s.answerRow(values)
	if outputs := s.Signature.Outputs; len(outputs) == 1 {
		row = values(&outputs[0])
	}
	return record(object{"predictions": list(row, s.most)}, "predictions")
}

// mlflow is the scoring protocol of MLflow.
func (s *service) mlflow() protocol {
	forms := []any{record(object{"inputs": s.columns()}, "inputs")}
	if s.tabular() {
		row := s.row()
		forms = append(forms,
			record(object{"dataframe_split": s.split()}, "dataframe_split"),
			record(object{"dataframe_records": list(row, s.most)}, "dataframe_records"),
			record(object{"instances": list(object{}, s.most)}, "instances"))
	}
	p := protocol{label: "MLflow", before: "/", after: "/invocations",
		request: body(object{"anyOf": forms}, s.mlflowExample()),
		answer: record(object{"predictions": object{"type": []any{"array", "object"}}},
			"predictions"), errors: mlflowErrors}
	if s.tabular() {
		media := object{"schema": object{"type": "string"}}
		if s.rows != nil {
			media["example"] = s.table()
		}
		p.request["text/csv"] = media
	}
	return p
}

// columns is the schema of all inputs with all their rows.
func (s *service) columns() object {
	inputs, required := object{}, []string{}
	var schemas []any
	for i := range s.Signature.Inputs {
		in := &s.Signature.Inputs[i]
		inputs[in.Name] = nested(in.Shape, nullable(in.Datatype))
		if !in.Optional {
			required = append(required, in.Name)
		}
		schemas = append(schemas, inputs[in.Name])
	}
	all := record(inputs, required...)
	if len(schemas) == 1 {
		return object{"anyOf": append(schemas, all)}
	}
	return all
}

// split is the schema of a table that has the names of its columns apart.
func (s *service) split() object {
	var names, cells []any
	for _, f := range s.features {
		names = append(names, f.name)
		cells = append(cells, nullable(f.datatype))
	}
	return record(object{
		"columns": object{"type": "array", "items": object{"enum": names}},
		"index":   object{}, // it is passed over
		"data":    list(object{"type": "array", "items": anyOf(cells)}, s.most),
	}, "data")
}

// cells are the names of the features and their values in one row.
func (s *service) cells() (names, values []any) {
	for _, f := range s.plainRow() {
		names = append(names, f.name)
		values = append(values, flat(nil, f.value)[0])
	}
	return names, values
}

func (s *service) mlflowExample() any {
	switch {
	case s.rows == nil:
		return nil
	case !s.tabular():
		return fields{{"inputs", bare(s.tensors())}}
	}
	names, values := s.cells()
	return fields{{"dataframe_split", fields{{"columns", names}, {"data", []any{values}}}}}
}

// table is the example's row as CSV.
func (s *service) table() string {
	var text bytes.Buffer
	w := csv.NewWriter(&text)
	names, values := s.cells()
	for _, line := range [][]any{names, values} {
		record := make([]string, len(line))
		for i, v := range line {
			record[i] = fmt.Sprint(v)
		}
		_ = w.Write(record) // to memory, with a comma between fields: it cannot fail
	}
	w.Flush()
	return text.String()
}
