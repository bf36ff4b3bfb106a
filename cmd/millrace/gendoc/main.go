// Command gendoc writes docs/metrics.md from the metrics that the packages gateway and
// control define.
//
//	go run ./gendoc FILE
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/gateway"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendoc FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], page(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "cannot write the metrics page:", err)
		os.Exit(1)
	}
}

const intro = `# Metrics

<!-- Made from gateway/definitions.go and control/metrics.go by "make docs". -->

The admin port answers ` + "`GET /metrics`" + ` in the text, OpenMetrics and Protobuf forms of
Prometheus. Times are in seconds, sizes in bytes. Labels come from closed sets: what is loaded,
` + "`http` or `grpc`" + `, and the outcomes below; nothing that a client sends becomes a label.

Histograms of times are native ones (schema 3: buckets 9 % wide) with classic buckets beside them,
one for each power of two from 15 us to 16 s. Prometheus takes the native form once native
histograms are switched on there; a quantile is then right within 5 %:

` + "```" + `
histogram_quantile(0.99, sum by (model) (rate(millrace_request_duration_seconds[5m])))
histogram_quantile(0.99, sum by (model, le) (rate(millrace_request_duration_seconds_bucket[5m])))
` + "```" + `

The time of an answered request is decode + queue + compute + encode, without a gap. A version
that is loaded anew goes on with its counters of requests and times; those of its runs begin again.
Ten minutes after a version has left, its counters leave too.
`

const plane = `
## Sources, rollouts, monitors and triggers

The evidence of a guard rolls a canary back when its ` + "`harm`" + ` reaches about
ln(guards / (1 - confidence)), 3.7 for two guards at 0.95. See [rollouts.md](rollouts.md).

| metric | type | labels | meaning |
|---|---|---|---|
`

const outcomesIntro = `
## Outcomes

Values of the label ` + "`outcome`" + `. ` + "`ok`" + ` is an answer;
` + "`internal` and `panic`" + ` are bugs of the server and worth an alarm
at any rate above none; the others are the client's or the load's.

| outcome | HTTP | gRPC |
|---|---|---|
`

const triton = `
## Under Triton's names

Dashboards and autoscalers made for Triton find these. Counts and times have Triton's meaning: a
time counts in full for each request of a run, and ` + "`_us`" + ` are microseconds.
What Triton has of caches, GPUs and pinned memory is left out.
`

const outside = `
## Go and the process

` + "`go_*`" + ` are those of the Go runtime, ` + "`process_*`" + ` those of the process:
CPU time, resident memory (models included), open files.
Their meaning is that of the Prometheus client for Go.
`

// page returns the whole page.
func page() []byte {
	var b bytes.Buffer
	b.WriteString(intro)
	table := func(title string, ofTriton bool) {
		b.WriteString(title)
		b.WriteString("\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
		for _, d := range gateway.MetricDocs() {
			if strings.HasPrefix(d.Name, "nv_") == ofTriton {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.Name, d.Type,
					strings.Join(d.Labels, ", "), strings.TrimPrefix(d.Help, "Triton: "))
			}
		}
	}
	table("\n## Requests, runs and models\n", false)
	b.WriteString(plane)
	for _, d := range control.MetricDocs() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.Name, d.Type(),
			strings.Join(d.Labels, ", "), d.Help)
	}
	b.WriteString(outcomesIntro)
	for _, o := range gateway.Outcomes() {
		fmt.Fprintf(&b, "| `%s` | %d | %s |\n", o.Label, o.HTTP, o.GRPC)
	}
	table(triton, true)
	b.WriteString(outside)
	return b.Bytes()
}
