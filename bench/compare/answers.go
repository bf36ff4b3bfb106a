package compare

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/millrace-ml/millrace/bench"
)

// checkEvery is how many answers pass for each one that is looked at, so that
// looking costs the generator little.
const checkEvery = 101

// tolerance is how far a value may lie from the one that a lone request got:
// other batch sizes sum up in another order.
const tolerance = 1e-3

var errAnswer = errors.New("compare: another answer than the request gets alone")

// checker is a bench.Config.Check.
type checker func(request int, body []byte) error

// expected asks for each request's answer alone and returns a check that holds
// later answers against them: answers may not be mixed up under load.
func (l *lab) expected(ctx context.Context, p *process, e encoding, requests []bench.Request) (
	checker, error) {
	want := make([][]float64, len(requests))
	_, err := l.load(ctx, p, e, func(c *bench.Config) {
		c.Requests, c.Concurrency, c.Count = requests, 1, int64(len(requests))
		c.Warmup, c.Duration = 0, 0
		c.Check = func(i int, body []byte) (err error) {
			want[i], err = values(body, e)
			return err
		}
	})
	if err != nil {
		return nil, fmt.Errorf("cannot get an answer: %w", err)
	}
	return func(i int, body []byte) error {
		got, err := values(body, e)
		if err != nil {
			return err
		}
		return near(got, want[i])
	}, nil
}

func near(got, want []float64) error {
	if len(got) != len(want) || len(got) == 0 {
		return fmt.Errorf("%w: %d values, want %d", errAnswer, len(got), len(want))
	}
	for i := range got {
		if d := math.Abs(got[i] - want[i]); !(d <= tolerance*max(1, math.Abs(want[i]))) {
			return fmt.Errorf("%w: value %d is %v, want %v", errAnswer, i, got[i], want[i])
		}
	}
	return nil
}

// values reads the numbers of an answer: of all outputs in JSON, of the tail of
// floats that an answer with binary tensors or a gRPC message ends with.
func values(body []byte, e encoding) ([]float64, error) {
	if e == asJSON {
		var answer struct {
			Outputs []struct{ Data []float64 }
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil, err
		}
		var all []float64
		for _, o := range answer.Outputs {
			all = append(all, o.Data...)
		}
		return all, nil
	}
	tail := body
	if e == asBinary {
		var head struct{ Outputs []json.RawMessage }
		d := json.NewDecoder(bytes.NewReader(body))
		if err := d.Decode(&head); err != nil || len(head.Outputs) == 0 {
			return nil, fmt.Errorf("cannot read the answer's head: %w", err)
		}
		tail = body[d.InputOffset():]
	}
	// A gRPC message ends with its last raw output; its ten last values tell
	// the answers of different requests apart.
	if n := len(tail) / 4; e == asGRPC {
		tail = tail[len(tail)-4*min(n, 10):]
	}
	all := make([]float64, 0, len(tail)/4)
	for ; len(tail) >= 4; tail = tail[4:] {
		all = append(all, float64(math.Float32frombits(binary.LittleEndian.Uint32(tail))))
	}
	return all, nil
}
