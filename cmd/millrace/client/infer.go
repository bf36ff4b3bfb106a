package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Request is what Infer sends.
type Request struct {
	Model   string
	Version string // "" lets the server pick
	Inputs  []tensor.Tensor
	Timeout int64 // microseconds, 0 for none

	// Classes asks for the best classes of these outputs in place of their
	// values: texts of score, index and label.
	Classes int
	Outputs []string
}

// Answer is what Infer returns.
type Answer struct {
	Model   string
	Version string
	Outputs []tensor.Tensor
}

// headerLength is the length of the JSON part of a body with binary tensors.
const headerLength = "Inference-Header-Content-Length"

// Infer sends the inputs as binary tensors and takes the outputs as such.
func (c *Client) Infer(ctx context.Context, r *Request) (*Answer, error) {
	body, header, err := Body(r)
	if err != nil {
		return nil, err
	}
	path := modelPath(r.Model, r.Version) + "/infer"
	answer, err := c.do(ctx, "POST", path, payload{body, header})
	if err != nil {
		return nil, err
	}
	a, err := parseAnswer(answer.body, answer.header.Get(headerLength))
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer of model %s: %w", r.Model, err)
	}
	return a, nil
}

// inputHead and the types below are the JSON of the protocol.
type inputHead struct {
	Name       string          `json:"name"`
	Shape      json.RawMessage `json:"shape"`
	Datatype   string          `json:"datatype"`
	Parameters map[string]any  `json:"parameters"`
}

type outputHead struct {
	Name       string         `json:"name"`
	Parameters map[string]any `json:"parameters"`
}

type requestHead struct {
	Inputs     []inputHead    `json:"inputs"`
	Outputs    []outputHead   `json:"outputs,omitempty"`
	Parameters map[string]any `json:"parameters"`
}

type answerHead struct {
	Model   string `json:"model_name"`
	Version string `json:"model_version"`
	Outputs []struct {
		Name       string  `json:"name"`
		Shape      []int64 `json:"shape"`
		Datatype   string  `json:"datatype"`
		Parameters struct {
			Size       *int64 `json:"binary_data_size"`
			ClassNames string `json:"class_names"`
		} `json:"parameters"`
	} `json:"outputs"`
}

// Body returns the body of an inference request and its header lines.
func Body(r *Request) ([]byte, http.Header, error) {
	head := requestHead{Parameters: map[string]any{"binary_data_output": true}}
	if r.Timeout > 0 {
		head.Parameters["timeout"] = r.Timeout
	}
	for _, t := range r.Inputs {
		head.Inputs = append(head.Inputs, inputHead{
			t.Name, json.RawMessage(tensor.FormatShape(t.Shape)), t.Datatype.String(),
			map[string]any{"binary_data_size": len(t.Data)},
		})
	}
	for _, name := range r.Outputs {
		head.Outputs = append(head.Outputs, outputHead{name,
			map[string]any{"binary_data": true, "classification": r.Classes}})
	}
	body, err := json.Marshal(head)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot write the request: %w", err)
	}
	header := http.Header{}
	header.Set(headerLength, strconv.Itoa(len(body)))
	header.Set("Content-Type", "application/octet-stream")
	for _, t := range r.Inputs {
		body = append(body, t.Data...)
	}
	return body, header, nil
}

var errAnswer = errors.New("client: not an answer of the protocol")

func parseAnswer(body []byte, length string) (*Answer, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > len(body) {
		return nil, fmt.Errorf("%w: %s is %q for %d bytes; does the server know binary tensors?",
			errAnswer, headerLength, length, len(body))
	}
	var head answerHead
	if err := json.Unmarshal(body[:n], &head); err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	rest := body[n:]
	a := &Answer{Model: head.Model, Version: head.Version}
	for _, o := range head.Outputs {
		size := o.Parameters.Size
		if size == nil || *size < 0 || *size > int64(len(rest)) {
			return nil, fmt.Errorf("%w: output %q has no binary data of its own", errAnswer, o.Name)
		}
		t := tensor.Tensor{
			Name: o.Name, Shape: o.Shape, Datatype: tensor.ParseDatatype(o.Datatype),
			Data: rest[:*size],
		}
		rest = rest[*size:]
		if err := t.Check(); err != nil {
			return nil, fmt.Errorf("%w: output %q: %w", errAnswer, o.Name, err)
		}
		if names := o.Parameters.ClassNames; names != "" {
			if err := json.Unmarshal([]byte(names), &t.ClassNames); err != nil {
				return nil, fmt.Errorf("%w: class names of output %q: %w", errAnswer, o.Name, err)
			}
		}
		a.Outputs = append(a.Outputs, t)
	}
	return a, nil
}
