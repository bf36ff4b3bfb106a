package gateway_test

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/runtime/model"
)

// nativeForm is what Prometheus says when it takes native histograms.
const nativeForm = "application/vnd.google.protobuf;" +
	"proto=io.prometheus.client.MetricFamily;encoding=delimited"

// scrape asks for the metrics as Prometheus does.
func scrape(t *testing.T, core *gateway.Core, accept string) *httptest.ResponseRecorder {
	t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", accept)
	core.Handler().ServeHTTP(w, r)
	if w.Code != 200 {
		t.Fatalf("a scrape is answered with %d: %s", w.Code, w.Body)
	}
	return w
}

// families scrapes the native form.
func families(t *testing.T, core *gateway.Core) map[string]*dto.MetricFamily {
	t.Helper()
	w := scrape(t, core, nativeForm)
	all := make(map[string]*dto.MetricFamily)
	d := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
	for {
		f := new(dto.MetricFamily)
		if err := d.Decode(f); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[f.GetName()] = f
	}
}

// find returns the sample with these labels: name, value, name, value.
func find(f *dto.MetricFamily, labels ...string) *dto.Metric {
	for _, m := range f.GetMetric() {
		got := make(map[string]string)
		for _, l := range m.Label {
			got[l.GetName()] = l.GetValue()
		}
		same := true
		for i := 0; i < len(labels); i += 2 {
			same = same && got[labels[i]] == labels[i+1]
		}
		if same {
			return m
		}
	}
	return new(dto.Metric)
}

// TestMetrics sends requests that end in several ways and holds a scrape
// against what was sent.
func TestMetrics(t *testing.T) {
	s := serve(t, model.ModeNone, "../configs/models", nil)
	good, err := os.ReadFile("../configs/models/digits/sample.json")
	if err != nil {
		t.Fatal(err)
	}
	const path = "/v2/models/digits/infer"
	var clients sync.WaitGroup
	for range 10 {
		clients.Go(func() {
			for range 5 {
				if status, body := post(t, s.network, path, good); status != 200 {
					t.Errorf("status %d: %s", status, body)
				}
			}
		})
	}
	clients.Wait()
	post(t, s.network, path, []byte(`{"inputs":[]}`))
	post(t, s.memory, path, []byte(`{`))
	post(t, s.memory, "/v2/models/nothing/infer", good)

	s.useAll(t)

	all := families(t, s.core)
	counter := func(want float64, name string, labels ...string) {
		t.Helper()
		if got := find(all[name], labels...).GetCounter().GetValue(); got != want {
			t.Errorf("%s%v is %v, want %v", name, labels, got, want)
		}
	}
	counter(50, "millrace_requests_total",
		"model", "digits", "version", "1", "protocol", "http", "outcome", "ok")
	counter(2, "millrace_requests_total", "model", "digits", "outcome", "bad_request")
	counter(1, "millrace_requests_total", "model", "", "outcome", "unknown_model")
	counter(50, "nv_inference_request_success", "model", "digits", "version", "1")
	counter(50, "nv_inference_count", "model", "digits")
	counter(0, "nv_inference_request_failure", "model", "digits", "reason", "BACKEND")

	sum := 0.0
	for _, what := range []string{"request", "decode", "queue", "compute", "encode"} {
		name := "millrace_" + what + "_duration_seconds"
		h := find(all[name], "model", "digits", "protocol", "http").GetHistogram()
		want := uint64(50)
		if what == "request" {
			want = 52 // failed ones took time too
		}
		if h.GetSampleCount() != want || h.GetSchema() != 3 || len(h.GetBucket()) == 0 {
			t.Errorf("%s: got %v", name, h)
		}
		sum += h.GetSampleSum()
	}
	request := find(all["millrace_request_duration_seconds"], "model", "digits").GetHistogram()
	if parts := sum - request.GetSampleSum(); parts <= 0 || parts > request.GetSampleSum() {
		t.Errorf("the parts of requests took %v s of %v s", parts, request.GetSampleSum())
	}
	runs := find(all["millrace_batch_size_rows"], "model", "digits").GetHistogram()
	executions := find(all["nv_inference_exec_count"], "model", "digits").GetCounter().GetValue()
	if runs.GetSampleSum() != 50 || float64(runs.GetSampleCount()) != executions {
		t.Errorf("%v runs, but the batch sizes are %v", executions, runs)
	}
	if got := find(all["millrace_model_state"], "model", "digits", "state",
		"READY"); got.Gauge == nil {
		t.Error("no sample says that digits is ready")
	}
	wantOutside(t, all)
	wantAll(t, s.core, all)
}

// wantOutside looks for the metrics of Go and the process.
func wantOutside(t *testing.T, all map[string]*dto.MetricFamily) {
	t.Helper()
	for _, name := range []string{
		"go_goroutines", "process_resident_memory_bytes", "process_open_fds",
	} {
		if find(all[name]).GetGauge().GetValue() <= 0 {
			t.Errorf("there is no %s", name)
		}
	}
}

// wantAll holds the names of a scrape against those in the documentation, and
// what is no alias against the rules for names.
func wantAll(t *testing.T, core *gateway.Core, all map[string]*dto.MetricFamily) {
	t.Helper()
	for _, d := range gateway.MetricDocs() {
		f := all[d.Name]
		if f == nil && d.Name != "millrace_http_refused_total" && // nothing was refused
			d.Name != "millrace_shadow_errors_total" { // and no shadow has failed
			t.Errorf("%s is documented, but not in a scrape", d.Name)
		} else if f != nil && !strings.EqualFold(f.GetType().String(), d.Type) {
			t.Errorf("%s is documented as a %s and is a %v", d.Name, d.Type, f.GetType())
		}
	}
	text := scrape(t, core, "text/plain").Body.Bytes()
	for _, bound := range []string{`le="0.0009765625"`, `le="1"`, `le="+Inf"`} {
		if !bytes.Contains(text, []byte(bound)) {
			t.Errorf("the text form has no bucket %s", bound)
		}
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "millrace_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
