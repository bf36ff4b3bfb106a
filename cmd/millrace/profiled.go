package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/cmd/millrace/plot"
	"github.com/millrace-ml/millrace/cmd/millrace/profile"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/runtime/model"
)

// profiled is what profile found out.
type profiled struct {
	Model    string          `json:"model"`
	Version  string          `json:"version"`
	Cores    int             `json:"cores"`
	Batching model.Batching  `json:"batching"`
	Points   []profile.Point `json:"points"`
	Line     *profile.Line   `json:"line,omitempty"` // of one run at once on one thread
	Target   time.Duration   `json:"latency_target_ns,omitempty"`
	Advice   []advice        `json:"advice"`
	// Disturbed says that other programs had the cores meanwhile.
	Disturbed bool `json:"disturbed"`
}

// advice is a setup and the settings that bring it about.
type advice struct {
	For string `json:"for"`
	profile.Point
	Meets       bool   `json:"meets_target"`
	ConfigPbtxt string `json:"config_pbtxt"`
	Settings    string `json:"millrace_yaml"`
}

// conclude fits the line and chooses the settings.
func (p *profiled) conclude() {
	p.Disturbed = profile.Disturbed(p.Points)
	if l, ok := profile.Fit(p.of(1, 1)); ok {
		p.Line = &l
	}
	best, _ := profile.Choose(p.Points, 0)
	p.Advice = []advice{p.advise("throughput", best, 0)}
	if p.Target > 0 {
		best, meets := profile.Choose(p.Points, p.Target)
		a := p.advise(fmt.Sprintf("answers within %v", p.Target), best, p.Target)
		a.Meets = meets
		p.Advice = append(p.Advice, a)
	}
}

// of returns the points with so many runs at once and threads a run.
func (p *profiled) of(runs, threads int) []profile.Point {
	var list []profile.Point
	for _, point := range p.Points {
		if point.Runs == runs && point.Threads == threads {
			list = append(list, point)
		}
	}
	return list
}

// advise writes the settings of a setup.
func (p *profiled) advise(what string, best profile.Point, target time.Duration) advice {
	a := advice{For: what, Point: best, Meets: true}
	var b strings.Builder
	if p.Batching == model.BatchingNone {
		b.WriteString("max_batch_size: 0\n")
	} else {
		fmt.Fprintf(&b, "max_batch_size: %d  # requests of more rows are refused\n", best.Rows)
		b.WriteString("dynamic_batching { }\n")
	}
	fmt.Fprintf(&b, "instance_group [ { count: %d } ]\n", best.Runs)
	fmt.Fprintf(&b, "parameters { key: \"intra_op_thread_count\" "+
		"value: { string_value: \"%d\" } }\n", best.Threads)
	a.ConfigPbtxt = b.String()

	b.Reset()
	name, _ := json.Marshal(p.Model) // a JSON string is one of YAML too
	fmt.Fprintf(&b, "models:\n  - name: %s\n    instances: %d\n    intra_op_threads: %d\n", name,
		best.Runs, best.Threads)
	if p.Batching != model.BatchingNone {
		latency := ""
		if target > 0 {
			latency = fmt.Sprintf(", latency_target: %v", target)
		}
		fmt.Fprintf(&b, "    batching: {max_batch_size: %d%s}\n", best.Rows, latency)
	}
	a.Settings = b.String()
	return a
}

func (p *profiled) json(w io.Writer) error { return json.NewEncoder(w).Encode(p) }

// series lists the ways to run at once, in the order of the points.
func (p *profiled) series() []profile.Setup {
	var list []profile.Setup
	seen := make(map[profile.Setup]bool)
	for _, point := range p.Points {
		s := profile.Setup{Runs: point.Runs, Threads: point.Threads}
		if !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	return list
}

// describe says how a setup runs the model.
func describe(s profile.Setup) string {
	runs := "1 run at a time"
	if s.Runs > 1 {
		runs = fmt.Sprintf("%d runs at once", s.Runs)
	}
	if s.Threads > 1 {
		runs += fmt.Sprintf(" on %d threads", s.Threads)
	}
	return runs
}

// print writes table, chart and advice.
func (p *profiled) print(w io.Writer) error {
	fmt.Fprintf(w, "%s, version %s, on %d cores\n\n", values.Printable(p.Model),
		values.Printable(p.Version), p.Cores)
	if err := p.table(w); err != nil {
		return err
	}
	if l := p.Line; l != nil {
		fmt.Fprintf(w, "\nA run of b rows takes about %v + b * %v, off by %.0f %% at most.\n",
			short(l.Alpha), short(l.Beta), 100*l.Off)
	}
	if p.Disturbed {
		fmt.Fprintln(w, "\nOther programs had a part of the cores meanwhile: these figures are "+
			"too low. Stop them\nand measure again.")
	}
	fmt.Fprintln(w)
	if err := p.chart(w); err != nil {
		return err
	}
	for _, a := range p.Advice {
		if err := p.printAdvice(w, &a); err != nil {
			return err
		}
	}
	return nil
}

func (p *profiled) table(w io.Writer) error {
	t := table(w)
	fmt.Fprint(t, "ROWS")
	for _, s := range p.series() {
		fmt.Fprintf(t, "\t%s\t", describe(s))
	}
	fmt.Fprintln(t)
	for _, rows := range p.sizes() {
		fmt.Fprint(t, rows)
		for _, s := range p.series() {
			for _, point := range p.of(s.Runs, s.Threads) {
				if point.Rows == rows {
					fmt.Fprintf(t, "\t%v\t%s rows/s", short(point.Time),
						plot.Number(point.RowsPerSecond))
				}
			}
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// sizes lists the batch sizes that were measured, ascending.
func (p *profiled) sizes() []int {
	var list []int
	for _, point := range p.of(1, 1) {
		list = append(list, point.Rows)
	}
	return list
}

func (p *profiled) chart(w io.Writer) error {
	c := plot.Chart{XName: "rows of a run", YName: "rows/s"}
	for _, rows := range p.sizes() {
		c.Xs = append(c.Xs, fmt.Sprint(rows))
	}
	for i, s := range p.series() {
		mark := rune('a' + i)
		series := plot.Series{Mark: mark, Name: describe(s)}
		for _, rows := range p.sizes() {
			y := math.NaN()
			for _, point := range p.of(s.Runs, s.Threads) {
				if point.Rows == rows {
					y = point.RowsPerSecond
				}
			}
			series.Ys = append(series.Ys, y)
		}
		c.Series = append(c.Series, series)
	}
	return c.Draw(w)
}

func (p *profiled) printAdvice(w io.Writer, a *advice) error {
	fmt.Fprintf(w, "\nBest for %s: %d rows a run, %s: %s rows/s, %v a run.\n", a.For, a.Rows,
		describe(a.Setup), plot.Number(a.RowsPerSecond), short(a.Time))
	if !a.Meets {
		fmt.Fprintf(w, "No setup keeps to that: a request may just miss a run and be in the next, "+
			"so that\ntwo runs must fit, and the fastest takes %v.\n", short(a.Time))
	}
	_, err := fmt.Fprintf(w, "\n  config.pbtxt\n%s\n  or millrace.yaml\n%s", indent(a.ConfigPbtxt),
		indent(a.Settings))
	return err
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + line)
	}
	return b.String()
}

// short drops the digits that no reader needs.
func short(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	case d >= 10*time.Microsecond:
		return d.Round(100 * time.Nanosecond)
	}
	return d
}
