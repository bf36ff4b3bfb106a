package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
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

// usersEach is how many users send each of the requests.
const usersEach = 16

// withUser returns the requests as they come from many users.
func withUser(requests []bench.Request) []bench.Request {
	var all []bench.Request
	for i := range usersEach * len(requests) {
		r := requests[i%len(requests)]
		r.Header = maps.Clone(r.Header)
		r.Header["x-user"] = "user-" + strconv.Itoa(i)
		all = append(all, r)
	}
	return all
}

// asRouted returns the requests with the path of the version that an endpoint
// answers each of them by: a canary's own runs are not what routing costs.
func asRouted(ctx context.Context, p *process, requests []bench.Request) ([]bench.Request, error) {
	out := make([]bench.Request, len(requests))
	for i, r := range requests {
		url := "http://" + p.addresses["http"] + r.Path
		sent, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(r.Body))
		if err != nil {
			return nil, err
		}
		for name, value := range r.Header {
			sent.Header.Set(name, value)
		}
		answer, err := http.DefaultClient.Do(sent)
		if err != nil {
			return nil, fmt.Errorf("cannot ask which version answers: %w", err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		version := answer.Header.Get("x-millrace-version")
		r.Path = "/v2/models/" + mlp + "/versions/" + version + "/infer"
		out[i] = r
	}
	return out, nil
}

// endpoints measures what routing, shadows, the cache and the other dialects cost.
func endpoints(ctx context.Context, l *lab) ([]Figure, error) {
	server, err := l.endpointServer(ctx)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	trial := withUser(payloads(trialEndpoint, mlpInputs, asJSON))
	routed, err := l.routed(ctx, server, trial)
	if err != nil {
		return nil, err
	}
	copied, err := l.copied(ctx, server)
	if err != nil {
		return nil, err
	}
	cached, err := l.cached(ctx, server)
	if err != nil {
		return nil, err
	}
	allocations := Figure{Name: "heap allocations a request, JSON, canary, sticky, tap",
		Bar: barAllocations}
	if err := l.countAllocations(ctx, server, trial, &allocations); err != nil {
		allocations.Error = err.Error()
	}
	more, err := l.dialects(ctx, server)
	return append([]Figure{routed, copied, cached, allocations}, more...), err
}

// rate measures the requests/s that many clients of the MLP get answered, for so long.
func (l *lab) rate(ctx context.Context, p *process, r []bench.Request,
	d time.Duration) measurement {
	return func() (float64, error) {
		result, err := l.load(ctx, p, asJSON, func(c *bench.Config) {
			c.Requests, c.Concurrency = r, mlpClients
			c.Duration, c.Warmup = l.span(d), d/2
		})
		return result.Rate, err
	}
}

// rateSpan is for how long a rate is measured at a time. What differs by less than the machine does
// from one moment to the next takes many short looks: from one briefSpan to the next it changes
// little less than from one rateSpan to the next.
const rateSpan, briefSpan = 400 * time.Millisecond, 25 * time.Millisecond

// routed holds requests to an endpoint against those to the versions that answer them.
func (l *lab) routed(ctx context.Context, p *process, trial []bench.Request) (Figure, error) {
	f := Figure{
		Name: "MLP JSON, 64 clients: canary, sticky, 1 % tap over the same versions by number",
		Bar:  barEndpoint, AtLeast: true}
	direct, err := asRouted(ctx, p, trial)
	if err != nil {
		return f, err
	}
	return f.over(l.rounds(480), l.rate(ctx, p, trial, briefSpan),
		l.rate(ctx, p, direct, briefSpan))
}

// over returns the figure with the value of one rate over another.
func (f Figure) over(rounds int, rate, base measurement) (Figure, error) {
	v, err := alternate(rounds, rate, base)
	if err != nil {
		return f, err
	}
	f.Value = median(rounds, func(i int) float64 { return v[0][i] / v[1][i] })
	f.Detail = fmt.Sprintf("%s of %s requests/s", amount(middle(v[0])), amount(middle(v[1])))
	return f, nil
}

// copied measures what a shadow costs beyond its own runs.
func (l *lab) copied(ctx context.Context, p *process) (Figure, error) {
	f := Figure{Name: "the same with a shadow at 100 %: over what its own runs leave",
		Bar: barShadow, AtLeast: true}
	rate := l.rate(ctx, p, withUser(payloads(shadowEndpoint, mlpInputs, asJSON)), 2*briefSpan)
	var own []float64 // seconds that a run of the shadow took for each row
	shadowed := func() (float64, error) {
		before, err := runTime(ctx, p)
		if err != nil {
			return 0, err
		}
		r, err := rate()
		if err != nil {
			return 0, err
		}
		after, err := runTime(ctx, p)
		own = append(own, (after.seconds-before.seconds)/(after.rows-before.rows))
		return r, err
	}
	rounds := l.rounds(200)
	v, err := alternate(rounds, shadowed,
		l.rate(ctx, p, withUser(payloads(mlp, mlpInputs, asJSON)), 2*briefSpan))
	if err != nil {
		return f, err
	}
	cores := float64(runtime.NumCPU())
	f.Value = median(rounds, func(i int) float64 { return v[0][i] * (1/v[1][i] + own[i]/cores) })
	f.Detail = fmt.Sprintf("%s requests/s; alone %s, runs of the shadow take %.1f us each",
		amount(middle(v[0])), amount(middle(v[1])), middle(own)*1e6)
	return f, nil
}

// cached measures answers from the cache.
func (l *lab) cached(ctx context.Context, p *process) (Figure, error) {
	f := Figure{Name: "the same from the response cache: over the fasthttp echo",
		Bar: barCacheHit, AtLeast: true}
	requests := payloads(cachedModel, mlpInputs, asJSON)
	return f.over(l.rounds(15), l.rate(ctx, p, requests, rateSpan),
		l.rate(ctx, l.echo, toEcho(requests, asJSON), rateSpan))
}

// ran is what the runs of a version have done so far.
type ran struct{ seconds, rows float64 }

// runTime returns the runs of the version that is the shadow.
func runTime(ctx context.Context, p *process) (sum ran, err error) {
	r, err := http.NewRequestWithContext(ctx, "GET",
		"http://"+p.addresses["http"]+"/v2/models/"+mlp+"/versions/2/stats", nil)
	if err != nil {
		return sum, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return sum, fmt.Errorf("cannot read the statistics: %w", err)
	}
	defer answer.Body.Close()
	var stats struct {
		Models []struct {
			Rows  float64 `json:"inference_count"`
			Sizes []struct {
				Infer struct{ NS float64 } `json:"compute_infer"`
			} `json:"batch_stats"`
		} `json:"model_stats"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&stats); err != nil {
		return sum, fmt.Errorf("cannot read the statistics: %w", err)
	}
	for _, m := range stats.Models {
		sum.rows += m.Rows
		for _, s := range m.Sizes {
			sum.seconds += s.Infer.NS / 1e9
		}
	}
	return sum, nil
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
	rate := func(r []bench.Request) measurement { return l.rate(ctx, server, r, rateSpan) }
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
	rounds := l.rounds(7)
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
