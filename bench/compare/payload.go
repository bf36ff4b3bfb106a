package compare

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/millrace-ml/millrace/bench"
	"github.com/millrace-ml/millrace/bench/echo"
	"github.com/millrace-ml/millrace/bench/models"
	"google.golang.org/protobuf/encoding/protowire"
)

// encoding is how a request carries its tensors.
type encoding int

const (
	asJSON encoding = iota
	asBinary
	asGRPC
)

// payloadBytes bounds the distinct bodies of a run: enough values that no
// branch predictor learns them, few enough bytes to stay in memory.
const (
	payloadBytes = 8 << 20
	maxPayloads  = 64
)

// payloads returns requests of one row for a model, with random values.
func payloads(model string, inputs []models.Input, e encoding) []bench.Request {
	rng := rand.New(rand.NewPCG(7, 7))
	var all []bench.Request
	for size := 0; len(all) < 2 || len(all) < maxPayloads && size < payloadBytes; {
		var r bench.Request
		switch e {
		case asJSON:
			r = jsonRequest(model, inputs, rng)
		case asBinary:
			r = binaryRequest(model, inputs, rng)
		case asGRPC:
			r = grpcRequest(model, inputs, rng)
		}
		all = append(all, r)
		size += len(r.Body)
	}
	return all
}

// toEcho returns the same requests with the path that the echo server has.
func toEcho(requests []bench.Request, e encoding) []bench.Request {
	if e == asGRPC {
		return requests
	}
	out := make([]bench.Request, len(requests))
	for i, r := range requests {
		r.Path = "/echo"
		out[i] = r
	}
	return out
}

// row returns the shape of one row and its number of values.
func row(in *models.Input) (shape []int64, count int) {
	count = 1
	shape = []int64{} // not nil: a scalar's shape is [] in JSON
	for _, d := range in.Dims {
		if d == models.Batch {
			d = 1
		}
		shape = append(shape, d)
		count *= int(d)
	}
	return shape, count
}

// raw appends the values of one row as the binary protocol has them.
func raw(dst []byte, in *models.Input, rng *rand.Rand) []byte {
	_, count := row(in)
	for range count {
		switch in.Datatype {
		case "FP32":
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(rng.Float32()))
		case "INT32":
			dst = binary.LittleEndian.AppendUint32(dst, uint32(int32(in.Value)))
		case "INT64":
			dst = binary.LittleEndian.AppendUint64(dst, uint64(int64(in.Value)))
		default:
			panic("compare: no values of datatype " + in.Datatype)
		}
	}
	return dst
}

type jsonInput struct {
	Name       string            `json:"name"`
	Shape      []int64           `json:"shape"`
	Datatype   string            `json:"datatype"`
	Parameters map[string]int    `json:"parameters,omitempty"`
	Data       []json.RawMessage `json:"data,omitempty"`
}

type jsonBody struct {
	Inputs     []jsonInput     `json:"inputs"`
	Parameters map[string]bool `json:"parameters,omitempty"`
}

// jsonRequest writes floats with six digits, signed, as people's data has them.
func jsonRequest(model string, inputs []models.Input, rng *rand.Rand) bench.Request {
	var b jsonBody
	for i := range inputs {
		in := &inputs[i]
		shape, count := row(in)
		t := jsonInput{Name: in.Name, Shape: shape, Datatype: in.Datatype}
		for range count {
			text := strconv.FormatInt(int64(in.Value), 10)
			if in.Datatype == "FP32" {
				text = strconv.FormatFloat(2*rng.Float64()-1, 'f', 6, 64)
			}
			t.Data = append(t.Data, json.RawMessage(text))
		}
		b.Inputs = append(b.Inputs, t)
	}
	return bench.Request{Path: inferPath(model), Body: marshal(b),
		Header: map[string]string{"content-type": "application/json"}}
}

func binaryRequest(model string, inputs []models.Input, rng *rand.Rand) bench.Request {
	b := jsonBody{Parameters: map[string]bool{"binary_data_output": true}}
	var data []byte
	for i := range inputs {
		before := len(data)
		data = raw(data, &inputs[i], rng)
		shape, _ := row(&inputs[i])
		b.Inputs = append(b.Inputs, jsonInput{Name: inputs[i].Name, Shape: shape,
			Datatype:   inputs[i].Datatype,
			Parameters: map[string]int{"binary_data_size": len(data) - before}})
	}
	head := marshal(b)
	return bench.Request{Path: inferPath(model), Header: map[string]string{
		"content-type":                    "application/octet-stream",
		"inference-header-content-length": strconv.Itoa(len(head)),
	}, Body: append(head, data...)}
}

func inferPath(model string) string { return "/v2/models/" + model + "/infer" }

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("compare: %v", err)) // only types of this file come here
	}
	return b
}

// Field numbers of ModelInferRequest and its tensors.
const (
	requestModel, requestInputs, requestRaw = 1, 5, 7
	inputName, inputDatatype, inputShape    = 1, 2, 3
)

func grpcRequest(model string, inputs []models.Input, rng *rand.Rand) bench.Request {
	message := field(nil, requestModel, []byte(model))
	var contents []byte
	for i := range inputs {
		in := &inputs[i]
		var dims []byte
		shape, _ := row(in)
		for _, d := range shape {
			dims = protowire.AppendVarint(dims, uint64(d))
		}
		tensor := field(nil, inputName, []byte(in.Name))
		tensor = field(tensor, inputDatatype, []byte(in.Datatype))
		message = field(message, requestInputs, field(tensor, inputShape, dims))
		contents = field(contents, requestRaw, raw(nil, in, rng))
	}
	return bench.Request{Path: echo.Method, Body: append(message, contents...)}
}

func field(dst []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, number, protowire.BytesType), value)
}
