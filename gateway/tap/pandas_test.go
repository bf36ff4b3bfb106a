package tap_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// sentTensor and sentSample are what check.py compares with.
type sentTensor struct {
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
	Data     []byte  `json:"data"`
}

type sentSample struct {
	ID      string                 `json:"id"`
	Plain   map[string]any         `json:"plain"`
	Tensors map[string]*sentTensor `json:"tensors"`
}

type sentFeedback struct {
	ID     string   `json:"id"`
	Reward *float64 `json:"reward"`
	Label  any      `json:"label"`
}

// tell notes a sample for check.py. Tensors that it lacks are nulls.
func tell(s *tap.Sample, columns []string) sentSample {
	told := sentSample{ID: string(s.ID), Tensors: make(map[string]*sentTensor),
		Plain: map[string]any{
			"time": s.Time.UTC().Truncate(time.Microsecond), "endpoint": s.Endpoint,
			"model": s.Model, "version": s.Version, "route": s.Route, "propensity": s.Propensity,
			"protocol": s.Protocol, "outcome": s.Outcome, "status": s.Status,
			"total_seconds": s.Total.Seconds(), "queue_seconds": s.Queue.Seconds(),
			"compute_seconds": s.Compute.Seconds(),
		}}
	for _, key := range columns {
		told.Tensors[key] = nil
	}
	for side, list := range map[string][]tensor.Tensor{"input.": s.Inputs, "output.": s.Outputs} {
		for _, t := range list {
			if t.Datatype != tensor.Invalid {
				told.Tensors[side+t.Name] = &sentTensor{t.Datatype.String(),
					slices.Clone(t.Shape), bytes.Clone(t.Data)}
			}
		}
	}
	return told
}

// writeAll writes the same samples and feedback in both formats to a folder.
func writeAll(t *testing.T, dir string) {
	t.Helper()
	var sinks []*tap.Sink
	for _, format := range formats {
		d := open(t, tap.FilesConfig{Path: dir, Format: format})
		sinks = append(sinks, tap.NewSink(tap.SinkConfig{}, d.files, slog.New(slog.DiscardHandler)))
	}
	var columns []string
	for _, in := range everything(false) {
		columns = append(columns, "input."+in.Name, "output."+in.Name)
	}
	var sent struct {
		Samples  []sentSample   `json:"samples"`
		Feedback []sentFeedback `json:"feedback"`
	}
	pool := tap.NewPool(10, 64<<20)
	write := func(endpoint string, columns []string, in, out []tensor.Tensor) {
		s := take(t, pool, fmt.Sprint("request ", len(sent.Samples)), sampled{in, out})
		defer s.Release()
		s.Endpoint = endpoint
		s.Time = s.Time.Add(time.Duration(len(sent.Samples)) * 12345678 * time.Microsecond)
		sent.Samples = append(sent.Samples, tell(s, columns))
		for _, k := range sinks {
			k.Offer(s)
		}
	}
	plain, exotic := everything(false), everything(true)
	for range 3 {
		write("plain", columns, plain, plain)
	}
	write("plain", columns, plain, nil)     // was not answered
	write("plain", columns, plain[3:], nil) // optional inputs
	write("exotic", nil, exotic, exotic)
	write("exotic", nil, exotic, exotic)
	write("odd", nil, odd(), nil)
	half := 0.5
	for i, f := range []sentFeedback{{Reward: &half, Label: map[string]any{"class": "a"}},
		{Reward: &half}, {Label: map[string]any{"class": "é"}}, {}} {
		f.ID = fmt.Sprint("request ", i)
		sent.Feedback = append(sent.Feedback, f)
		for _, k := range sinks {
			k.OfferFeedback(&tap.Feedback{ID: f.ID, Endpoint: "plain", Time: time.Unix(1e9, 0),
				Reward: f.Reward, Label: f.Label})
		}
	}
	for _, k := range sinks {
		if err := k.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := k.Stats(); s.Written != 8 || s.Feedback != 4 {
			t.Fatalf("the counts are %+v", s)
		}
	}
	text, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sent.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPandas opens files with pandas and DuckDB and compares each value.
func TestPandas(t *testing.T) {
	interpreter := venv.Python(t, filepath.Join("pandas", "requirements.txt"))
	dir := t.TempDir()
	writeAll(t, dir)
	venv.Run(t, interpreter, filepath.Join("pandas", "check.py"), dir)
}
