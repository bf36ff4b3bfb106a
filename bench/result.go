package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
)

// LoadGenerator is what Result.LimitedBy says when the figures are bounded by
// the sender of the load.
const LoadGenerator = "load generator"

// busyLimit is the share of its CPU time at which a sender counts as saturated.
const busyLimit = 0.95

// Result is what a run measured. Warm-up requests are in none of its figures.
type Result struct {
	Protocol    Protocol `json:"protocol"`
	TargetRate  float64  `json:"target_rate"` // 0 in a closed loop
	Concurrency int      `json:"concurrency"`

	Elapsed time.Duration `json:"elapsed_ns"`
	OK      int64         `json:"ok"`     // answered well: HTTP 2xx, gRPC OK, check passed
	Failed  int64         `json:"failed"` // everything else
	// Rate is OK per second. In a closed loop that a time bounds it is the good answers
	// that came within that time, per second: what was under way at its beginning
	// counts, what was at its end does not.
	Rate     float64          `json:"rate"`
	Statuses map[string]int64 `json:"statuses"`
	Errors   []ErrorCount     `json:"errors,omitempty"` // most frequent first
	BytesOut int64            `json:"bytes_out"`
	BytesIn  int64            `json:"bytes_in"`

	// Latency is that of good answers, from the scheduled instant (closed loop:
	// from the sending) to the end of the answer.
	Latency Quantiles `json:"latency"`
	// Lateness says how long after the scheduled instant, or after a client
	// became free if that was later, the generator sent. Empty in a closed loop.
	Lateness Quantiles `json:"lateness"`
	// Busy is the part of the senders' CPU time that was used, 0 to 1.
	Busy float64 `json:"generator_busy"`
	// LimitedBy is LoadGenerator when the generator and not the server was the
	// limit, otherwise empty; LimitedWhy says what showed it.
	LimitedBy  string `json:"limited_by,omitempty"`
	LimitedWhy string `json:"limited_why,omitempty"`
}

// ErrorCount is a kind of failure and how often it happened.
type ErrorCount struct {
	Text  string `json:"text"`
	Count int64  `json:"count"`
}

// newResult sums up the senders' shares. window is the instant up to which load
// was offered; the last answer came then or later, or the count ended the run.
func newResult(c *Config, shares []share, window int64) Result {
	all := newRecorder()
	var busy time.Duration
	for _, s := range shares {
		all.merge(s.rec)
		busy += s.busy
	}
	elapsed := time.Duration(max(all.last, window, int64(c.Warmup)) - int64(c.Warmup))
	r := Result{
		Protocol: c.Protocol, TargetRate: c.Rate, Concurrency: c.Concurrency,
		Elapsed: elapsed, OK: all.ok, Failed: all.failed,
		Statuses: make(map[string]int64, len(all.codes)),
		BytesOut: all.bytesOut, BytesIn: all.bytesIn,
		Latency: all.latency.quantiles(), Lateness: all.lateness.quantiles(),
	}
	if elapsed > 0 {
		r.Rate = float64(all.ok) / elapsed.Seconds()
		if offered := time.Duration(window) - c.Warmup; c.Rate == 0 && offered > 0 {
			r.Rate = float64(all.served) / offered.Seconds()
		}
		r.Busy = busy.Seconds() / elapsed.Seconds() / float64(len(shares))
	}
	for code, n := range all.codes {
		name := strconv.Itoa(code)
		if c.Protocol == GRPC {
			name = codes.Code(code).String()
		}
		r.Statuses[name] = n
	}
	for _, text := range slices.Sorted(maps.Keys(all.errors)) {
		r.Errors = append(r.Errors, ErrorCount{text, all.errors[text]})
	}
	slices.SortStableFunc(r.Errors, func(a, b ErrorCount) int {
		return cmp.Compare(b.Count, a.Count)
	})
	r.limit(c.MaxLateness)
	return r
}

// limit decides whether the generator was the limit.
func (r *Result) limit(maxLateness time.Duration) {
	switch {
	case r.Lateness.P99 > maxLateness:
		r.LimitedWhy = fmt.Sprintf(
			"1 request in 100 was sent %v or more after it was due, allowed is %v",
			round(r.Lateness.P99), maxLateness)
	case r.Busy >= busyLimit:
		r.LimitedWhy = fmt.Sprintf("its threads used %.0f %% of their CPU time", 100*r.Busy)
	default:
		return
	}
	r.LimitedBy = LoadGenerator
}

// Print writes the result as a table.
func (r *Result) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	load := fmt.Sprintf("closed loop, %d clients", r.Concurrency)
	if r.TargetRate > 0 {
		load = fmt.Sprintf("%.0f/s on schedule, at most %d under way", r.TargetRate, r.Concurrency)
	}
	fmt.Fprintf(t, "load\t%s, %s\n", r.Protocol, load)
	fmt.Fprintf(t, "answered\t%d in %v, %.0f/s\n", r.OK, round(r.Elapsed), r.Rate)
	fmt.Fprintf(t, "failed\t%d\n", r.Failed)
	for _, name := range slices.Sorted(maps.Keys(r.Statuses)) {
		fmt.Fprintf(t, "  status %s\t%d\n", name, r.Statuses[name])
	}
	for _, e := range r.Errors {
		fmt.Fprintf(t, "  error\t%d: %s\n", e.Count, e.Text)
	}
	fmt.Fprintf(t, "sent, received\t%.1f MB, %.1f MB\n",
		float64(r.BytesOut)/1e6, float64(r.BytesIn)/1e6)
	fmt.Fprintf(t, "latency\t%s\n", r.Latency)
	if r.TargetRate > 0 {
		fmt.Fprintf(t, "sent late\t%s\n", r.Lateness)
	}
	fmt.Fprintf(t, "generator busy\t%.0f %%\n", 100*r.Busy)
	if r.LimitedBy != "" {
		fmt.Fprintf(t, "limited by\t%s: %s\n", r.LimitedBy, r.LimitedWhy)
	}
	return t.Flush()
}

// String lists the quantiles in a line.
func (q Quantiles) String() string {
	return fmt.Sprintf("p50 %v  p90 %v  p95 %v  p99 %v  p99.9 %v  max %v  mean %v", round(q.P50),
		round(q.P90), round(q.P95), round(q.P99), round(q.P999), round(q.Max), round(q.Mean))
}

// round drops the digits that no reader needs.
func round(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	default:
		return d.Round(100 * time.Nanosecond)
	}
}
