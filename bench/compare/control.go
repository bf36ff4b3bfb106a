package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/bench"
)

// Bars of the issue "Control plane".
const (
	barRebuildP99 = 1.2  // of p99 while nothing changes
	barRebuild    = 50.0 // ms
)

// What the server of the scenario has.
const (
	rebuiltEndpoints = 1000
	namedVersions    = 5 // of each of as many models, by aliases
	rebuildPause     = 500 * time.Millisecond
	rebuildRate      = 1000 // requests a second
)

// controlServer starts a server with many endpoints and models.
func (l *lab) controlServer(ctx context.Context) (*process, error) {
	dir := filepath.Join(l.dir, "control")
	var text strings.Builder
	fmt.Fprintf(&text, "server: {data: %q}\nrepository: {paths: [%q]}\n"+
		"sources: [{name: pushed, push: true}]\nmodels:\n", filepath.Join(dir, "data"), l.samples())
	for i := range rebuiltEndpoints {
		fmt.Fprintf(&text, "  - {name: m%d, source: pushed, aliases: {", i)
		for k := range namedVersions {
			fmt.Fprintf(&text, "a%d: '%d', ", k, k+1)
		}
		text.WriteString("}}\n")
	}
	text.WriteString("endpoints:\n")
	for i := range rebuiltEndpoints {
		fmt.Fprintf(&text, "  - {name: e%d, model: %s, stable: '1', sticky: {header: x-user}}\n", i,
			mlp)
	}
	file := filepath.Join(dir, "millrace.yaml")
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(text.String()), 0o644)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write the settings: %w", err)
	}
	p, err := l.serve(ctx, "-c", file)
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx)
}

// rebuild changes endpoints one after the other until ctx is done, and returns how long each
// change took until it was in force.
func rebuild(ctx context.Context, p *process, pause time.Duration) (took []float64, err error) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return took, nil
		case <-ticker.C:
		}
		began := time.Now()
		url := fmt.Sprintf("http://%s/api/v1/endpoints/e%d?take_over=true", p.addresses["admin"],
			i%rebuiltEndpoints)
		body := fmt.Sprintf(`{"model": %q, "stable": "1", "timeout": "%ds"}`, mlp, 10+i)
		r, err := http.NewRequest("PUT", url, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return nil, fmt.Errorf("cannot change an endpoint: %w", err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("cannot change an endpoint: %d %s", answer.StatusCode, text)
		}
		took = append(took, time.Since(began).Seconds()*1e3)
	}
}

// controlPlane measures what changes of many endpoints cost the requests that are served.
func controlPlane(ctx context.Context, l *lab) ([]Figure, error) {
	server, err := l.controlServer(ctx)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	// One that is not changed: changed limits would be new counters.
	requests := payloads(fmt.Sprintf("e%d", rebuiltEndpoints-1), mlpInputs, asJSON)
	p99 := func() (float64, error) {
		r, err := l.load(ctx, server, asJSON, func(c *bench.Config) {
			c.Requests, c.Rate, c.Duration = requests, rebuildRate, l.span(4*time.Second)
		})
		return micros(r.Latency.P99), err
	}
	var took []float64
	changing := func() (float64, error) {
		sub, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			times, err := rebuild(sub, server, rebuildPause)
			took = append(took, times...)
			done <- err
		}()
		v, err := p99()
		cancel()
		return v, errors.Join(err, <-done)
	}
	rounds := l.rounds(5)
	v, err := alternate(rounds, p99, changing)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%d endpoints, %d versions by alias: ", rebuiltEndpoints,
		rebuiltEndpoints*namedVersions)
	return []Figure{{
		Name:   what + "p99 of 1,000 requests/s with two changes a second over p99 without",
		Bar:    barRebuildP99,
		Value:  median(rounds, func(i int) float64 { return v[1][i] / v[0][i] }),
		Detail: fmt.Sprintf("%.0f us over %.0f us", middle(v[1]), middle(v[0])),
	}, {
		Name: what + "ms for a change by the API to be stored and in force", Bar: barRebuild,
		Value: middle(took), Detail: fmt.Sprintf("%d changes", len(took)),
	}}, nil
}
