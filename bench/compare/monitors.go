package compare

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/bench"
)

// Bars of the issue "Drift".
const (
	barMonitored     = 0.97  // of the requests/s of an endpoint without a monitor
	barMonitors      = 100.0 // MB
	barMonitoredPath = 300.0 // ns that a copy for the monitors takes
	barMonitorValue  = 60.0  // ns
)

// What monitors look at.
const (
	watchedEndpoint  = "watched"
	watchedColumns   = 50 // of the MLP's inputs
	referenceRows    = 5000
	monitorsInMemory = 1000
	beginTimeout     = 2 * time.Minute // each stores that it has
)

// monitorServer starts a server with two endpoints of the MLP, and so many monitors of one of them.
func (l *lab) monitorServer(ctx context.Context, monitors int) (*process, error) {
	dir, err := os.MkdirTemp(l.dir, "monitors")
	if err != nil {
		return nil, err
	}
	reference, file := filepath.Join(dir, "reference.json"), filepath.Join(dir, "millrace.yaml")
	var text strings.Builder
	fmt.Fprintf(&text, "server: {data: %q}\nrepository: {paths: [%q]}\nendpoints:\n"+
		"  - {name: alone, model: %s, stable: '1'}\n  - {name: %s, model: %[3]s, stable: '1'}\n"+
		"monitors:\n", filepath.Join(dir, "data"), l.samples(), mlp, watchedEndpoint)
	for i := range monitors {
		fmt.Fprintf(&text, "  - {name: m%d, endpoint: %s, reference: {file: %q}, tick: 1s}\n", i,
			watchedEndpoint, reference)
	}
	table := filepath.Join(dir, "reference.csv")
	if err = os.WriteFile(table, referenceTable(), 0o644); err == nil {
		err = os.WriteFile(file, []byte(text.String()), 0o644)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write the settings: %w", err)
	}
	build := exec.CommandContext(ctx, l.cfg.Server, "reference", "build", table, "-o", reference)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build a reference: %w: %s", err, out)
	}
	p, err := l.serve(ctx, "-c", file)
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx)
}

// referenceTable is a table of rows as jsonRequest makes them.
func referenceTable() []byte {
	var b []byte
	rng := rand.New(rand.NewPCG(8, 8))
	for row := range referenceRows + 1 {
		for i := range watchedColumns {
			if row == 0 {
				b = fmt.Appendf(b, "x.%d,", i)
			} else {
				b = fmt.Appendf(b, "%.6f,", 2*rng.Float64()-1)
			}
		}
		b[len(b)-1] = '\n'
	}
	return b
}

// monitors measures what it costs that rows are looked at.
func monitors(ctx context.Context, l *lab) ([]Figure, error) {
	figures := []Figure{
		{Name: "MLP JSON, 64 clients: with a monitor of 50 features over without",
			Bar: barMonitored, AtLeast: true},
		{Name: "1,000 monitors of 50 features", Unit: "MB", Bar: barMonitors},
		{Name: "a request of 64 numbers copied for the monitors", Unit: "ns",
			Bar: barMonitoredPath},
		{Name: "a value of 50 counted by a monitor, off the path", Unit: "ns",
			Bar: barMonitorValue},
	}
	measures := []func(context.Context, *lab, *Figure) error{monitoredRate, monitorMemory,
		func(ctx context.Context, l *lab, f *Figure) (err error) {
			f.Value, err = l.goBenchmark(ctx, "./gateway/tap", "BenchmarkTakeOfferRelease/alone")
			return err
		},
		func(ctx context.Context, l *lab, f *Figure) error {
			nanos, err := l.goBenchmark(ctx, "./drift", "BenchmarkAdd")
			f.Value = nanos / watchedColumns
			return err
		}}
	for i, measure := range measures {
		if err := measure(ctx, l, &figures[i]); err != nil {
			figures[i].Error = err.Error()
		}
	}
	return figures, nil
}

func monitoredRate(ctx context.Context, l *lab, f *Figure) error {
	server, err := l.monitorServer(ctx, 1)
	if err != nil {
		return err
	}
	defer server.stop()
	rate := func(endpoint string) measurement {
		requests := payloads(endpoint, mlpInputs, asJSON)
		return func() (float64, error) {
			result, err := l.load(ctx, server, asJSON, func(c *bench.Config) {
				c.Requests, c.Concurrency, c.Duration = requests, mlpClients,
					l.span(400*time.Millisecond)
			})
			return result.Rate, err
		}
	}
	rounds := l.rounds(20)
	v, err := alternate(rounds, rate(watchedEndpoint), rate("alone"))
	if err != nil {
		return err
	}
	f.Value = median(rounds, func(i int) float64 { return v[0][i] / v[1][i] })
	f.Detail = fmt.Sprintf("%s of %s requests/s", amount(middle(v[0])), amount(middle(v[1])))
	return nil
}

// monitorMemory measures what monitors keep, by the heap that is left after a collection.
func monitorMemory(ctx context.Context, l *lab, f *Figure) error {
	var kept [2]float64
	for i, monitors := range []int{1, 1 + monitorsInMemory} {
		server, err := l.monitorServer(ctx, monitors)
		if err != nil {
			return err
		}
		if err = watching(ctx, server, monitors); err == nil {
			kept[i], err = heapStatistic(ctx, server, "HeapAlloc", "&gc=1")
		}
		server.stop()
		if err != nil {
			return err
		}
	}
	f.Value = (kept[1] - kept[0]) / megabyte
	f.Detail = fmt.Sprintf("heap of %s - %s", megabytes(int64(kept[1])), megabytes(int64(kept[0])))
	return nil
}

// watching waits until so many monitors have read their reference.
func watching(ctx context.Context, p *process, monitors int) error {
	ctx, cancel := context.WithTimeout(ctx, beginTimeout)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+p.addresses["admin"]+"/metrics",
			nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return fmt.Errorf("not all monitors have begun: %w", err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err == nil && bytes.Count(text, []byte(`,state="ok"} 1`)) == monitors {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("not all monitors have begun: %w", ctx.Err())
		}
	}
}
