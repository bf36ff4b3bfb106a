package compare

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/bench"
)

// Bars of the issue "Endpoints".
const (
	barEndpoint = 0.97 // of the requests/s of the model by its own name
	barShadow   = 0.95 // of what is left beside the shadow's own runs
	barCacheHit = 0.85 // of the echo
	barDialect  = 1.30 // times the time of the Open Inference Protocol's JSON
)

// Endpoints of the second server, all of them over two versions of the MLP.
const (
	trialEndpoint  = "trial"  // a canary with 5 %, sticky by header, a tap
	shadowEndpoint = "shadow" // the other version gets copies of all requests
	cachedModel    = "mlp_cached"
)

// endpointSettings is the file of the server whose endpoints are measured.
const endpointSettings = `
server: {data: %[1]q}
repository: {paths: [%[2]q]}
models:
  - name: mlp
    version_policy: {all: true}
  - name: mlp_cached
    cache: {max_bytes: 64MiB}
endpoints:
  - name: trial
    model: mlp
    stable: "1"
    canary: {version: "2", weight: 5}
    sticky: {header: x-user}
  - name: shadow
    model: mlp
    stable: "1"
    shadows: [{version: "2", percent: 100}]
taps:
  - name: bench
    endpoints: [trial]
    percent: 1
    files: {path: %[3]q, format: jsonl}
`

// endpointServer starts the server with endpoints.
func (l *lab) endpointServer(ctx context.Context) (*process, error) {
	dir := filepath.Join(l.dir, "endpoints")
	repository := filepath.Join(dir, "models")
	version := filepath.Join(l.samples(), mlp, "1")
	for _, name := range []string{mlp + "/1", mlp + "/2", cachedModel + "/1"} {
		if err := os.CopyFS(filepath.Join(repository, name), os.DirFS(version)); err != nil {
			return nil, fmt.Errorf("cannot copy the sample model: %w", err)
		}
	}
	file := filepath.Join(dir, "millrace.yaml")
	text := fmt.Sprintf(endpointSettings, filepath.Join(dir, "data"), repository,
		filepath.Join(dir, "samples"))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("cannot write the settings: %w", err)
	}
	p, err := l.serve(ctx, "-c", file)
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx)
}

// withUser gives each request a user of its own.
func withUser(requests []bench.Request) []bench.Request {
	for i := range requests {
		requests[i].Header["x-user"] = "user-" + strconv.Itoa(i)
	}
	return requests
}

// endpoints measures what routing, shadows, the cache and the other dialects cost.
func endpoints(ctx context.Context, l *lab) ([]Figure, error) {
	server, err := l.endpointServer(ctx)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	direct := withUser(payloads(mlp, mlpInputs, asJSON))
	figures := []Figure{
		{Name: "MLP JSON, 64 clients: canary, sticky, 1 % tap over the model itself",
			Bar: barEndpoint, AtLeast: true},
		{Name: "the same with a shadow at 100 %: over what its own runs leave",
			Bar: barShadow, AtLeast: true},
		{Name: "the same from the response cache: over the fasthttp echo",
			Bar: barCacheHit, AtLeast: true},
		{Name: "heap allocations a request, JSON, canary, sticky, tap", Bar: barAllocations},
	}
	rate := func(p *process, r []bench.Request) measurement {
		return func() (float64, error) {
			result, err := l.load(ctx, p, asJSON, func(c *bench.Config) {
				c.Requests, c.Concurrency, c.Duration = r, mlpClients, l.span(2*time.Second)
			})
			return result.Rate, err
		}
	}
	trial := withUser(payloads(trialEndpoint, mlpInputs, asJSON))
	shadow := withUser(payloads(shadowEndpoint, mlpInputs, asJSON))
	cached := payloads(cachedModel, mlpInputs, asJSON)
	batch, err := l.bestMLP()
	if err != nil {
		return nil, err
	}
	rounds := l.rounds(5)
	v, err := alternate(rounds, rate(server, direct), rate(server, trial), rate(server, shadow),
		rate(server, cached), rate(l.echo, toEcho(cached, asJSON)), func() (float64, error) {
			s, err := l.limit.Run(mlp, batch, runtime.NumCPU(), l.span(time.Second))
			return s.RowsPerSecond, err
		})
	if err != nil {
		return nil, err
	}
	figures[0].Value = median(rounds, func(i int) float64 { return v[1][i] / v[0][i] })
	figures[0].Detail = fmt.Sprintf("%s of %s requests/s", amount(middle(v[1])),
		amount(middle(v[0])))
	figures[1].Value = median(rounds, func(i int) float64 {
		return v[2][i] * (1/v[0][i] + 1/v[5][i])
	})
	figures[1].Detail = fmt.Sprintf("%s requests/s; alone %s, the model's own %s rows/s",
		amount(middle(v[2])), amount(middle(v[0])), amount(middle(v[5])))
	figures[2].Value = median(rounds, func(i int) float64 { return v[3][i] / v[4][i] })
	figures[2].Detail = fmt.Sprintf("%s of %s requests/s", amount(middle(v[3])),
		amount(middle(v[4])))
	if err := l.countAllocations(ctx, server, trial, &figures[3]); err != nil {
		figures[3].Error = err.Error()
	}
	more, err := l.dialects(ctx, server)
	return append(figures, more...), err
}

// bestMLP returns the batch size at which ONNX Runtime runs the most rows of
// the MLP a second.
func (l *lab) bestMLP() (int, error) {
	path := filepath.Join(l.samples(), mlp, "1", "model.onnx")
	if err := l.limit.Load(mlp, path, limitInputs(mlpInputs)...); err != nil {
		return 0, err
	}
	return l.bestBatch(mlp, l.span(400*time.Millisecond))
}

// dialects holds the time of a request in each further dialect against that of
// the same row in the Open Inference Protocol's JSON.
func (l *lab) dialects(ctx context.Context, server *process) ([]Figure, error) {
	base := payloads(mlp, mlpInputs, asJSON)
	ways := []struct {
		name, path, before, after string
	}{
		{"KServe V1", "/v1/models/mlp:predict", `{"instances":[[`, `]]}`},
		{"MLflow dataframe_split", "/mlp/invocations", "", `]]}}`},
		{"MLflow inputs", "/mlp/invocations", `{"inputs":[[`, `]]}`},
		{"plain JSON", "/predict/mlp", `{"x":[`, `]}`},
	}
	columns := make([]string, 64)
	for i := range columns {
		columns[i] = strconv.Quote("f" + strconv.Itoa(i))
	}
	ways[1].before = `{"dataframe_split":{"columns":[` + strings.Join(columns, ",") +
		`],"data":[[`
	rate := func(r []bench.Request) measurement {
		return func() (float64, error) {
			result, err := l.load(ctx, server, asJSON, func(c *bench.Config) {
				c.Requests, c.Concurrency, c.Duration = r, mlpClients, l.span(time.Second)
			})
			return result.Rate, err
		}
	}
	measures := []measurement{rate(base)}
	for _, w := range ways {
		var requests []bench.Request
		for _, r := range base {
			values, err := rowOf(r.Body)
			if err != nil {
				return nil, err
			}
			requests = append(requests, bench.Request{Path: w.path, Header: r.Header,
				Body: []byte(w.before + values + w.after)})
		}
		measures = append(measures, rate(requests))
	}
	rounds := l.rounds(3)
	v, err := alternate(rounds, measures...)
	if err != nil {
		return nil, err
	}
	var figures []Figure
	for k, w := range ways {
		figures = append(figures, Figure{Name: "MLP, 64 clients: time of " + w.name +
			" over the Open Inference Protocol's JSON", Bar: barDialect,
			Value: median(rounds, func(i int) float64 { return v[0][i] / v[k+1][i] }),
			Detail: fmt.Sprintf("%s, %s requests/s", amount(middle(v[k+1])),
				amount(middle(v[0])))})
	}
	return figures, nil
}

// rowOf returns the values of a request's only input, with commas between them.
func rowOf(body []byte) (string, error) {
	var b jsonBody
	if err := json.Unmarshal(body, &b); err != nil {
		return "", fmt.Errorf("cannot read a request of our own: %w", err)
	}
	values := make([]string, len(b.Inputs[0].Data))
	for i, v := range b.Inputs[0].Data {
		values[i] = string(v)
	}
	return strings.Join(values, ","), nil
}
