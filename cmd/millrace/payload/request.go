package payload

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/bench"
	"github.com/millrace-ml/millrace/cmd/millrace/client"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/gateway/grpc/pb"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Protocol is how a request carries its tensors.
type Protocol string

// The protocols, by what people call them.
const (
	JSON   Protocol = "json"
	Binary Protocol = "binary" // REST with binary tensors
	GRPC   Protocol = "grpc"
)

// Target is who a request is for.
type Target struct {
	Protocol Protocol
	Model    string
	Version  string // "" lets the server pick
}

// Request makes a request with these inputs.
func (t *Target) Request(inputs []tensor.Tensor) (bench.Request, error) {
	switch t.Protocol {
	case JSON:
		return bench.Request{Path: t.path(), Body: jsonBody(inputs),
			Header: map[string]string{"content-type": "application/json"}}, nil
	case Binary:
		body, header, err := client.Body(&client.Request{Inputs: inputs})
		if err != nil {
			return bench.Request{}, err
		}
		lines := make(map[string]string)
		for name := range header {
			lines[name] = header.Get(name)
		}
		return bench.Request{Path: t.path(), Body: body, Header: lines}, nil
	case GRPC:
		return t.grpc(inputs)
	}
	return bench.Request{}, fmt.Errorf("protocol %q is none of %s, %s, %s", t.Protocol, JSON,
		Binary, GRPC)
}

func (t *Target) path() string {
	path := "/v2/models/" + url.PathEscape(t.Model)
	if t.Version != "" {
		path += "/versions/" + url.PathEscape(t.Version)
	}
	return path + "/infer"
}

// jsonBody writes the inputs as a JSON request.
func jsonBody(inputs []tensor.Tensor) []byte {
	var b strings.Builder
	b.WriteString(`{"inputs":[`)
	for i := range inputs {
		t := &inputs[i]
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":%s,"shape":%s,"datatype":%q,"data":[`,
			values.JSON(tensor.Bytes, t.Name), tensor.FormatShape(t.Shape), t.Datatype.String())
		for j, text := range values.Texts(t) {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteString(values.JSON(t.Datatype, text))
		}
		b.WriteString("]}")
	}
	b.WriteString("]}")
	return []byte(b.String())
}

func (t *Target) grpc(inputs []tensor.Tensor) (bench.Request, error) {
	m := &pb.ModelInferRequest{ModelName: t.Model, ModelVersion: t.Version}
	for i := range inputs {
		in := &inputs[i]
		m.Inputs = append(m.Inputs, &pb.ModelInferRequest_InferInputTensor{
			Name: in.Name, Datatype: in.Datatype.String(), Shape: in.Shape})
		m.RawInputContents = append(m.RawInputContents, in.Data)
	}
	body, err := proto.Marshal(m)
	if err != nil {
		return bench.Request{}, fmt.Errorf("cannot write the request: %w", err)
	}
	return bench.Request{Path: pb.GRPCInferenceService_ModelInfer_FullMethodName, Body: body}, nil
}

// Distinct requests of a run: enough values that no branch predictor learns
// them, few enough bytes to stay in memory.
const (
	maxRequests = 64
	maxBytes    = 8 << 20
)

// Requests makes distinct requests of that many rows from made-up inputs.
func (t *Target) Requests(m *Maker, rows int64) ([]bench.Request, error) {
	if m.Rand == nil {
		m.Rand = rand.New(rand.NewPCG(7, 7))
	}
	var all []bench.Request
	for size := 0; len(all) < 2 || len(all) < maxRequests && size < maxBytes; {
		inputs, err := m.Rows(rows)
		if err != nil {
			return nil, err
		}
		r, err := t.Request(inputs)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
		size += len(r.Body)
	}
	return all, nil
}
