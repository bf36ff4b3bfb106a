package compare

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/bench"
)

// Bars of the issue "Serving core".
const (
	barP50         = 1.25 // of the echo's p50
	barP99         = 1.5  // of the echo's p99
	barTail        = 4.0  // p99 over p50
	barAllocations = 0.01 // a request: none, but for what the runtime does now and then
	barImageJSON   = 3.0  // ms
	barImageBinary = 20.0 // us
)

// singleClient measures what one client waits for, beyond the model and beyond
// what any server takes.
func singleClient(ctx context.Context, l *lab) ([]Figure, error) {
	server, err := l.mainServer(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.limit.Load(mlp, l.samples()+"/"+mlp+"/1/model.onnx"); err != nil {
		return nil, err
	}
	var figures []Figure
	err = pinned(func() error {
		for _, way := range []struct {
			name string
			e    encoding
		}{{"HTTP, JSON", asJSON}, {"HTTP, binary", asBinary}, {"gRPC", asGRPC}} {
			f, err := l.oneClient(ctx, server, way.e, way.name)
			if err != nil {
				f = []Figure{{Name: "one client, " + way.name, Error: err.Error()}}
			}
			figures = append(figures, f...)
		}
		return ctx.Err()
	})
	return figures, err
}

func (l *lab) oneClient(ctx context.Context, server *process, e encoding, name string) (
	[]Figure, error) {
	requests := payloads(mlp, mlpInputs, e)
	var p99 [2][]float64
	p50 := func(p *process, r []bench.Request, tails *[]float64) measurement {
		return func() (float64, error) {
			result, err := l.load(ctx, p, e, func(c *bench.Config) {
				c.Requests, c.Concurrency, c.Duration = r, 1, l.span(1500*time.Millisecond)
			})
			*tails = append(*tails, micros(result.Latency.P99))
			return micros(result.Latency.P50), err
		}
	}
	rounds := l.rounds(7)
	v, err := alternate(rounds,
		func() (float64, error) {
			s, err := l.limit.Run(mlp, 1, 1, l.span(300*time.Millisecond))
			return s.P50Micros, err
		},
		p50(l.echo, toEcho(requests, e), &p99[0]),
		p50(server, requests, &p99[1]))
	if err != nil {
		return nil, err
	}
	return []Figure{{
		Name: "one client, " + name + ": (p50 - bare Run) over the echo's p50", Bar: barP50,
		Value: median(rounds, func(i int) float64 { return (v[2][i] - v[0][i]) / v[1][i] }),
		Detail: fmt.Sprintf("(%.1f us - %.1f us) over %.1f us",
			middle(v[2]), middle(v[0]), middle(v[1])),
	}, {
		Name: "one client, " + name + ": p99 over the echo's p99", Bar: barP99,
		Value:  median(rounds, func(i int) float64 { return p99[1][i] / p99[0][i] }),
		Detail: fmt.Sprintf("%.0f us over %.0f us", middle(p99[1]), middle(p99[0])),
	}}, nil
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// allocations counts the server's heap allocations while it answers.
func allocations(ctx context.Context, l *lab) ([]Figure, error) {
	server, err := l.mainServer(ctx)
	if err != nil {
		return nil, err
	}
	var figures []Figure
	for _, way := range []struct {
		name string
		e    encoding
	}{{"JSON", asJSON}, {"binary REST", asBinary}} {
		f := Figure{Name: "heap allocations a request, " + way.name, Bar: barAllocations}
		if err := l.countAllocations(ctx, server, payloads(mlp, mlpInputs, way.e), &f); err != nil {
			f.Error = err.Error()
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// countAllocations measures how many objects on the heap a request costs.
func (l *lab) countAllocations(ctx context.Context, server *process, requests []bench.Request,
	f *Figure) error {
	load := func(count int64) error {
		_, err := l.load(ctx, server, asBinary, func(c *bench.Config) {
			c.Requests, c.Count, c.Duration, c.Warmup = requests, count, 0, 0
		})
		return err
	}
	// So many that a garbage collection's own allocations do not show.
	count := int64(200_000)
	if l.cfg.Short {
		count /= 4
	}
	if err := load(count / 4); err != nil { // to the steady state
		return err
	}
	// Connections and the counting itself allocate: the same with few requests
	// says how much.
	var grown [2]float64
	for i, n := range []int64{modelClients, count} {
		before, err := mallocs(ctx, server)
		if err == nil {
			err = load(n)
		}
		if err != nil {
			return err
		}
		after, err := mallocs(ctx, server)
		if err != nil {
			return err
		}
		grown[i] = after - before
	}
	f.Value = max(0, grown[1]-grown[0]) / float64(count-modelClients)
	f.Detail = fmt.Sprintf("%.0f in %d requests, %.0f in %d",
		grown[1], count, grown[0], modelClients)
	return nil
}

// mallocs returns how many objects on the heap a server has ever made. The
// profile counts exactly; the metric of the same name lags thousands behind.
func mallocs(ctx context.Context, p *process) (float64, error) {
	return heapStatistic(ctx, p, "Mallocs", "")
}

// heapStatistic returns one of those that end a server's heap profile.
func heapStatistic(ctx context.Context, p *process, name, query string) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, "GET",
		"http://"+p.addresses["admin"]+"/debug/pprof/heap?debug=1"+query, nil)
	if err != nil {
		return 0, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, fmt.Errorf("cannot read the profile: %w", err)
	}
	defer answer.Body.Close()
	for in := bufio.NewScanner(answer.Body); in.Scan(); {
		if text, ok := strings.CutPrefix(in.Text(), "# "+name+" = "); ok {
			_, _ = io.Copy(io.Discard, answer.Body)
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("the profile does not say %s", name)
}

// tail measures the spread of latencies below saturation.
func tail(ctx context.Context, l *lab) ([]Figure, error) {
	server, err := l.mainServer(ctx)
	if err != nil {
		return nil, err
	}
	requests := payloads(mlp, mlpInputs, asJSON)
	var last [2]bench.Result // of the echo, of the server
	spread := func(i int, p *process, r []bench.Request) measurement {
		return func() (float64, error) {
			most, err := l.load(ctx, p, asJSON, func(c *bench.Config) {
				c.Requests, c.Concurrency, c.Duration = r, mlpClients, l.span(2*time.Second)
			})
			if err != nil {
				return 0, err
			}
			last[i], err = l.load(ctx, p, asJSON, func(c *bench.Config) {
				c.Requests, c.Rate, c.Concurrency = r, 0.7*most.Rate, 4*mlpClients
				c.Duration = l.span(4 * time.Second)
			})
			return float64(last[i].Latency.P99) / float64(last[i].Latency.P50), err
		}
	}
	v, err := alternate(l.rounds(3), spread(0, l.echo, toEcho(requests, asJSON)),
		spread(1, server, requests))
	if err != nil {
		return nil, err
	}
	f := Figure{Name: "MLP, JSON, on schedule at 70 % of saturation: p99 over p50", Bar: barTail,
		Value: middle(v[1])}
	echo, own := &last[0], &last[1]
	f.Detail = fmt.Sprintf("last round at %s requests/s, p50 %v, p99 %v; the echo at 70 %% of "+
		"its own has %.3g, last round at %s requests/s, p50 %v, p99 %v", amount(own.TargetRate),
		own.Latency.P50.Round(time.Microsecond), own.Latency.P99.Round(time.Microsecond),
		middle(v[0]), amount(echo.TargetRate), echo.Latency.P50.Round(time.Microsecond),
		echo.Latency.P99.Round(time.Microsecond))
	if own.LimitedBy != "" {
		f.Detail += "; limited by the " + own.LimitedBy + ": " + own.LimitedWhy
	}
	return []Figure{f}, nil
}

// decode takes the codec's own benchmarks of an image.
func decode(ctx context.Context, l *lab) ([]Figure, error) {
	var figures []Figure
	for _, way := range []struct {
		name, benchmark, unit string
		nanos, bar            float64
	}{
		{"JSON", "BenchmarkDecodeImageJSON", "ms", 1e6, barImageJSON},
		{"binary", "BenchmarkDecodeImageBinary", "us", 1e3, barImageBinary},
	} {
		f := Figure{Name: "image of 150,528 floats decoded, " + way.name,
			Unit: way.unit, Bar: way.bar}
		nanos, err := l.goBenchmark(ctx, "./gateway/wire", way.benchmark)
		if err != nil {
			f.Error = err.Error()
		}
		f.Value = nanos / way.nanos
		figures = append(figures, f)
	}
	return figures, nil
}

// goBenchmark runs one benchmark of a package and returns its median ns/op.
func (l *lab) goBenchmark(ctx context.Context, pkg, name string) (float64, error) {
	test := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^"+name+"$",
		"-benchtime", l.span(time.Second).String(), "-count", strconv.Itoa(l.rounds(3)), pkg)
	test.Dir = l.cfg.Root
	out, err := test.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("cannot run %s: %w: %s", name, err, out)
	}
	var nanos []float64
	for line := range strings.Lines(string(out)) {
		// BenchmarkX-2   500   2000 ns/op   ...
		f := strings.Fields(line)
		if len(f) >= 4 && strings.HasPrefix(f[0], name) && f[3] == "ns/op" {
			v, err := strconv.ParseFloat(f[2], 64)
			if err != nil {
				return 0, fmt.Errorf("cannot read %q: %w", line, err)
			}
			nanos = append(nanos, v)
		}
	}
	if len(nanos) == 0 {
		return 0, fmt.Errorf("%s has no benchmark %s", pkg, name)
	}
	return middle(nanos), nil
}
