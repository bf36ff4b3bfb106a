package gateway

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
)

// MetricDoc is what people are told about a metric.
type MetricDoc struct {
	Name, Type, Help string
	Labels           []string
}

// MetricDocs lists the metrics of the server in the order in which they are
// best read; those of Go and the process are not among them.
func MetricDocs() []MetricDoc {
	docs := make([]MetricDoc, len(definitions))
	for i, d := range definitions {
		docs[i] = d.MetricDoc
	}
	return docs
}

// definition is one metric.
type definition struct {
	MetricDoc
	desc      *prometheus.Desc
	valueType prometheus.ValueType // of samples that are no histogram
}

// definitions are all metrics, in the order of the variables below.
var definitions []*definition

func define(kind, name, help string, labels ...string) *definition {
	d := &definition{
		MetricDoc: MetricDoc{name, kind, help, labels},
		desc:      prometheus.NewDesc(name, help, labels, nil), valueType: prometheus.GaugeValue,
	}
	if kind == "counter" {
		d.valueType = prometheus.CounterValue
	}
	definitions = append(definitions, d)
	return d
}

var (
	defRequests = define("counter", "millrace_requests_total",
		"Requests by what became of them. Those that reached no model have empty labels.",
		"model", "version", "protocol", "outcome")
	defRefused = define("counter", "millrace_http_refused_total",
		"What could not be read as a request, by the HTTP status of the answer.", "status")
	defRequest = defineTime("request",
		"Time from a request's header to its answer, of all requests for a model.")
	defDecode = defineTime("decode",
		"Time from a request's header to its place in the queue: reading and parsing.")
	defQueue   = defineTime("queue", "Time that requests waited for a run.")
	defCompute = defineTime("compute",
		"Time of the run that a request was part of, with gathering and splitting.")
	defEncode = defineTime("encode",
		"Time from the end of the run to the answer: waking up and writing.")
	defInFlight = define("gauge", "millrace_requests_in_flight",
		"Requests that are not yet answered.")
	defBytes = define("gauge", "millrace_request_bytes_in_flight",
		"Bytes of the bodies of requests that are not yet answered.")
	defBatch = define("histogram", "millrace_batch_size_rows", "Rows of the model's runs.",
		"model", "version")
	defState = define("gauge", "millrace_model_state",
		"1 for the state in which a version is; millrace models tells the reason.",
		"model", "version", "state")
	defBuild = define("gauge", "millrace_build_info", "1, with what the server was built from.",
		"version", "goversion")
)

func defineTime(what, help string) *definition {
	return define("histogram", "millrace_"+what+"_duration_seconds", help,
		"model", "version", "protocol")
}

// reading is a metric with one number for each version that serves.
type reading struct {
	*definition
	value func(v *model.Version, s *Statistics) float64
}

func read(kind, name, help string, value func(*model.Version, *Statistics) float64) reading {
	return reading{define(kind, name, help, "model", "version"), value}
}

// perVersion are the readings. Those under Triton's names have Triton's
// meaning, which the statistics extension shares: a time is counted in full for
// each request of a run, and of answered requests only.
var perVersion = []reading{
	read("gauge", "millrace_queue_requests", "Requests that wait for a run.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.Waiting) }),
	read("gauge", "millrace_queue_bytes", "Bytes of the tensors of requests that wait for a run.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.WaitingBytes) }),
	read("gauge", "millrace_runs_in_flight", "Runs of the model under way.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.Running) }),
	read("gauge", "millrace_batch_limit_rows",
		"Rows of the largest run that is worth it, as learned from the runs so far.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.BestSize) }),
	read("gauge", "millrace_runs_limit",
		"Runs that may be under way at once, as learned from the runs so far.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.Runs) }),
	read("gauge", "millrace_run_cost_seconds",
		"Learned cost of a run without rows: alpha in alpha + beta * rows.",
		func(_ *model.Version, s *Statistics) float64 { return s.Alpha.Seconds() }),
	read("gauge", "millrace_row_cost_seconds",
		"Learned cost of each row of a run: beta in alpha + beta * rows.",
		func(_ *model.Version, s *Statistics) float64 { return s.Beta.Seconds() }),
	read("gauge", "millrace_model_file_bytes",
		"Size of the version's files: the least memory that its weights take.",
		func(v *model.Version, _ *Statistics) float64 { return float64(v.FileBytes()) }),
	read("gauge", "millrace_model_load_duration_seconds",
		"Time from files to READY, the trial left out.",
		func(v *model.Version, _ *Statistics) float64 { return v.LoadTime().Seconds() }),

	read("counter", "nv_inference_request_success", "Triton: requests that were answered.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.Success.Count) }),
	read("counter", "nv_inference_count", "Triton: rows that were run.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.Inferences) }),
	read("counter", "nv_inference_exec_count", "Triton: runs of the model.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.Executions) }),
	read("gauge", "nv_inference_pending_request_count", "Triton: requests that wait for a run.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.Waiting) }),
	micros("request", "Triton: time of answered requests, queue included, in microseconds.",
		func(s *Statistics) batch.Duration { return s.Success }),
	micros("queue", "Triton: time in the queue, in microseconds.",
		func(s *Statistics) batch.Duration { return s.Queue }),
	micros("compute_input", "Triton: time of gathering inputs, in microseconds.",
		func(s *Statistics) batch.Duration { return s.ComputeInput }),
	micros("compute_infer", "Triton: time of the model's runs, in microseconds.",
		func(s *Statistics) batch.Duration { return s.ComputeInfer }),
	micros("compute_output", "Triton: time of splitting outputs, in microseconds.",
		func(s *Statistics) batch.Duration { return s.ComputeOutput }),
	read("counter", "nv_cache_num_hits_per_model",
		"Triton: requests that the response cache answered.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.CacheHit.Count) }),
	read("counter", "nv_cache_num_misses_per_model",
		"Triton: requests that the response cache did not answer.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.CacheMiss.Count) }),
	read("counter", "nv_cache_hit_duration_per_model",
		"Triton: time of answers from the response cache, in microseconds.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.CacheHit.NS / 1000) }),
	read("counter", "nv_cache_miss_duration_per_model",
		"Triton: time of looking and keeping where there was no answer, in microseconds.",
		func(_ *model.Version, s *Statistics) float64 { return float64(s.CacheMiss.NS / 1000) }),
	read("gauge", "nv_model_load_duration_secs", "Triton: time of loading, in seconds.",
		func(v *model.Version, _ *Statistics) float64 { return v.LoadTime().Seconds() }),
}

func micros(what, help string, of func(*Statistics) batch.Duration) reading {
	return read("counter", "nv_inference_"+what+"_duration_us", help,
		func(_ *model.Version, s *Statistics) float64 { return float64(of(s).NS / 1000) })
}

var defTritonFailure = define("counter", "nv_inference_request_failure",
	"Triton: requests that failed: REJECTED by a full queue or its timeout, "+
		"CANCELED by the client, failed in the BACKEND, or for OTHER reasons of the server's own.",
	"model", "version", "reason")

// Outcomes lists what may become of a request, one entry for each label and
// pair of statuses.
func Outcomes() []Outcome {
	all := []Outcome{OK, internal}
	for i := range outcomes {
		o := outcomes[i].Outcome
		o.Text = ""
		if !slices.Contains(all, o) {
			all = append(all, o)
		}
	}
	return all
}
