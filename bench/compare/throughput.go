package compare

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/bench"
	"github.com/millrace-ml/millrace/bench/models"
)

// Bars of the issue "Serving core".
const (
	barCombined  = 0.90 // of 1/(1/R + 1/E)
	barExpensive = 0.95 // of R, for models above expensiveRow
	barBatching  = 0.98 // of the same model one row at a time
	barJSON      = 0.70 // of the echo
	barBinary    = 0.80
	barGRPC      = 0.85
)

// expensiveRow is the time of one row from which a model counts as expensive,
// in us: the front end is then within the noise.
const expensiveRow = 5000

// modelClients is how many clients ask for the real models.
const modelClients = 16

// oneRow is the config that keeps the server from batching: it states the
// inputs as they are, without a batch axis.
func oneRow(m *models.Model) string {
	var b strings.Builder
	b.WriteString("platform: \"onnxruntime_onnx\"\nmax_batch_size: 0\n")
	for _, in := range m.Inputs {
		dims := strings.ReplaceAll(fmt.Sprint(in.Dims), " ", ", ")
		fmt.Fprintf(&b, "input { name: %q data_type: TYPE_%s dims: %s }\n",
			in.Name, in.Datatype, dims)
	}
	return b.String()
}

// modelThroughput holds each model against ONNX Runtime and the echo together.
func modelThroughput(ctx context.Context, l *lab) ([]Figure, error) {
	server, err := l.mainServer(ctx)
	if err != nil {
		return nil, err
	}
	var figures []Figure
	for _, m := range models.Catalogue() {
		if err := ctx.Err(); err != nil {
			return figures, err
		}
		f, err := l.oneModel(ctx, server, m)
		if err != nil {
			f = []Figure{{Name: m.Name, Error: err.Error()}}
		}
		figures = append(figures, f...)
	}
	return figures, nil
}

func (l *lab) oneModel(ctx context.Context, server *process, m models.Model) ([]Figure, error) {
	bare, err := l.limit.Run(m.Name, 1, 1, l.span(400*time.Millisecond))
	if err != nil {
		return nil, err
	}
	expensive := bare.P50Micros > expensiveRow
	span, every := l.span(400*time.Millisecond), checkEvery
	if expensive { // few rows a second
		span, every = l.span(time.Second), checkEvery/6
	}
	batch, err := l.bestBatch(m.Name, span)
	if err != nil {
		return nil, err
	}
	requests := payloads(m.Name, m.Inputs, asBinary)
	one := payloads(m.Name+oneSuffix, m.Inputs, asBinary)
	check, err := l.expected(ctx, server, asBinary, requests)
	if err != nil {
		return nil, err
	}
	served := func(p *process, r []bench.Request, check checker) measurement {
		return func() (float64, error) {
			result, err := l.load(ctx, p, asBinary, func(c *bench.Config) {
				c.Requests, c.Concurrency, c.Duration = r, modelClients, span
				c.Check, c.CheckEvery = check, every
			})
			return result.Rate, err
		}
	}
	rounds := l.rounds(8)
	v, err := alternate(rounds, // those that are compared stand beside each other
		func() (float64, error) {
			s, err := l.limit.Run(m.Name, batch, runtime.NumCPU(), span)
			return s.RowsPerSecond, err
		},
		served(server, requests, check),
		served(server, one, check),
		served(l.echo, toEcho(requests, asBinary), nil))
	if err != nil {
		return nil, err
	}
	limit, allowed, alone, echo := v[0], v[1], v[2], v[3]
	over := Figure{Name: m.Name + ", 16 clients, binary REST: over the combined limit",
		Bar: barCombined, AtLeast: true,
		Value: median(rounds, func(i int) float64 { return allowed[i] * (1/limit[i] + 1/echo[i]) })}
	if expensive {
		over.Name, over.Bar = m.Name+", 16 clients, binary REST: over ONNX Runtime", barExpensive
		over.Value = median(rounds, func(i int) float64 { return allowed[i] / limit[i] })
	}
	over.Detail = fmt.Sprintf("%s of R %s (batch %d), E %s rows/s", amount(middle(allowed)),
		amount(middle(limit)), batch, amount(middle(echo)))
	return []Figure{over, {
		Name: m.Name + ": batching allowed over batch 1 only", Bar: barBatching, AtLeast: true,
		Value:  median(rounds, func(i int) float64 { return allowed[i] / alone[i] }),
		Detail: fmt.Sprintf("%s, %s rows/s", amount(middle(allowed)), amount(middle(alone))),
	}}, nil
}

// bestBatch returns the batch size from 1 to 32 with the most rows per second.
// A model whose rate has fallen by a third does not recover at larger sizes.
func (l *lab) bestBatch(model string, span time.Duration) (int, error) {
	best, batch := 0.0, 1
	for size := 1; size <= 32; size *= 2 {
		s, err := l.limit.Run(model, size, runtime.NumCPU(), span)
		if err != nil {
			return 0, err
		}
		if s.RowsPerSecond > best {
			best, batch = s.RowsPerSecond, size
		} else if s.RowsPerSecond < best*2/3 {
			break
		}
	}
	return batch, nil
}

// mlpClients is how many clients ask for the small model.
const mlpClients = 64

// mlpThroughput holds a cheap model against the echo: what is lost is the front end.
func mlpThroughput(ctx context.Context, l *lab) ([]Figure, error) {
	server, err := l.mainServer(ctx)
	if err != nil {
		return nil, err
	}
	var figures []Figure
	for _, way := range []struct {
		name string
		e    encoding
		bar  float64
	}{
		{"JSON over a fasthttp echo", asJSON, barJSON},
		{"binary REST over a fasthttp echo", asBinary, barBinary},
		{"gRPC over a bare grpc-go echo", asGRPC, barGRPC},
	} {
		f := Figure{Name: "MLP 64-256-256-10, 64 clients: " + way.name, Bar: way.bar, AtLeast: true}
		if err := l.overEcho(ctx, server, way.e, &f); err != nil {
			f.Error = err.Error()
		}
		figures = append(figures, f)
	}
	return figures, nil
}

func (l *lab) overEcho(ctx context.Context, server *process, e encoding, f *Figure) error {
	requests := payloads(mlp, mlpInputs, e)
	check, err := l.expected(ctx, server, e, requests)
	if err != nil {
		return err
	}
	rate := func(p *process, r []bench.Request, check checker) measurement {
		return func() (float64, error) {
			result, err := l.load(ctx, p, e, func(c *bench.Config) {
				c.Requests, c.Concurrency, c.Duration = r, mlpClients, l.span(2*time.Second)
				c.Check, c.CheckEvery = check, checkEvery
			})
			return result.Rate, err
		}
	}
	rounds := l.rounds(5)
	v, err := alternate(rounds,
		rate(l.echo, toEcho(requests, e), nil),
		rate(server, requests, check))
	if err != nil {
		return err
	}
	f.Value = median(rounds, func(i int) float64 { return v[1][i] / v[0][i] })
	f.Detail = fmt.Sprintf("%s of %s requests/s", amount(middle(v[1])), amount(middle(v[0])))
	return nil
}

// middle is the median of all rounds.
func middle(v []float64) float64 { return median(len(v), func(i int) float64 { return v[i] }) }

// amount writes a number to three digits.
func amount(v float64) string {
	switch {
	case v >= 99_950:
		return fmt.Sprintf("%.0fk", v/1000)
	case v >= 1000:
		return fmt.Sprintf("%.1fk", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.1f", v)
	}
}
