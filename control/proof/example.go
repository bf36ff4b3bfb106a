package proof

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// The files in which MLflow keeps the input example of a model: as a client would send it,
// and as it was given, which is looked at where there is no other: older ones wrote that
// alone.
const (
	servingFile = "serving_input_example.json"
	exampleFile = "input_example.json"
)

// example has the version answer the input example of its artifact with finite numbers,
// and returns how many rows that has: none where the artifact brings no example.
func (r *runner) example(ctx context.Context, folder fs.FS) (int, error) {
	name := servingFile
	body, err := read(folder, name, maxArtifact)
	if errors.Is(err, fs.ErrNotExist) {
		name = exampleFile
		body, err = read(folder, name, maxArtifact)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil && !json.Valid(body) {
		err = errors.New("it is not valid JSON")
	}
	if err != nil {
		return 0, fmt.Errorf("input example: cannot read %s: %w", name, err)
	}
	if name == exampleFile {
		body = asSent(r.v.Signature(), body)
	}
	r.request.Reset()
	if err := wire.DecodeMLflow(&r.request, r.v.Signature(), records(body)); err != nil {
		return 0, fmt.Errorf("input example: the model does not take that of %s: %w", name, err)
	}
	rows, err := r.run(ctx, allFinite)
	if err != nil {
		return 0, fmt.Errorf("input example: %w", err)
	}
	return int(rows), nil
}

// allFinite wants numbers, and neither NaN nor an infinity among them.
func allFinite(p part) error {
	for i := range p.outputs {
		o := &p.outputs[i]
		for k, v := range elements(o) {
			if !finite(v) {
				return fmt.Errorf("output %q at %s is %s, must be a finite number", o.Name,
					at(o.Shape, k, p.first), text(v))
			}
		}
	}
	return nil
}

// asSent makes a request of an example as it was given: a data frame without its name,
// what stands beside params, or the value or values of inputs.
func asSent(sig *tensor.Signature, example []byte) []byte {
	keys := object(example)
	isKey := func(key string) bool { return keys[key] != nil && sig.Input([]byte(key)) < 0 }
	if isKey("inputs") && isKey("params") && len(keys) == 2 {
		return asSent(sig, keys["inputs"])
	}
	name := "inputs"
	if isKey("data") && (len(keys) == 1 || len(keys) == 2 && keys["columns"] != nil) {
		name = "dataframe_split"
	} else if slices.ContainsFunc([]string{"inputs", "instances", "dataframe_split",
		"dataframe_records"}, isKey) {
		return example
	}
	return under(name, example)
}

// under is an object with that only key.
func under(key string, value []byte) []byte {
	return slices.Concat([]byte(`{"`+key+`":`), value, []byte("}"))
}

// records names the rows of a request as such where they are objects, which MLflow keeps
// as inputs.
func records(request []byte) []byte {
	inputs := object(request)["inputs"]
	var rows []json.RawMessage
	if json.Unmarshal(inputs, &rows) != nil || len(rows) == 0 || object(rows[0]) == nil {
		return request
	}
	return under("dataframe_records", inputs)
}

// object returns the values of a JSON object by their keys, nil for every other value.
func object(text []byte) map[string]json.RawMessage {
	if !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) {
		return nil
	}
	var keys map[string]json.RawMessage
	if json.Unmarshal(text, &keys) != nil {
		return nil
	}
	return keys
}
