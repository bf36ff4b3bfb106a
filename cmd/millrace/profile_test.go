package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/runtime/model/layout"
)

// quick makes a profile short.
var quick = []string{"--time", "1ms", "--max", "4"}

func TestProfile(t *testing.T) {
	f := func(args ...string) ended {
		t.Helper()
		return millrace(t, append(append([]string{"profile"}, args...), quick...)...)
	}
	f("mlp", "--models", samples, "--latency-target", "1s").want(t, 0, "mlp, version 1, on",
		"ROWS", "1 run at a time", "rows/s", "A run of b rows takes about", "rows of a run",
		"Best for throughput", "Best for answers within 1s", "max_batch_size:",
		"dynamic_batching { }", "intra_op_thread_count", "latency_target: 1s")
	f("mlp", "--models", samples, "--latency-target", "2ns").want(t, 0,
		"No setup keeps to that", "two runs must fit")
	given := filepath.Join(samples, "tips", "sample.json")
	f("tips", "--models", samples, "--data", given).want(t, 0, "Best for throughput")

	// A lone file, and what recommends a model without a batch axis.
	dir := t.TempDir()
	sound, err := os.ReadFile(filepath.Join(samples, "mlp", "1", "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	lone := write(t, filepath.Join(dir, "my model.onnx"), string(sound))
	f(lone).want(t, 0, "my model, version 1", `- name: "my model"`)
	write(t, filepath.Join(dir, "m", "alone", "1", "model.onnx"), string(sound))
	write(t, filepath.Join(dir, "m", "alone", "config.pbtxt"), "max_batch_size: 0\n"+
		"input [ { name: \"x\" data_type: TYPE_FP32 dims: [ 1, 64 ] } ]\n")
	f("alone", "--models", filepath.Join(dir, "m")).want(t, 0, "max_batch_size: 0")

	f("mlp").want(t, 1, "give one with --models DIR, or the path of an .onnx file")
	f("nope", "--models", samples).want(t, 1, `there is no model "nope"`, "see `millrace check`")
	f("mlp", "--models", samples, "--model-version", "9").want(t, 1, "there is no model")
	f(filepath.Join(dir, "none.onnx")).want(t, 1, "no such file")
	f(write(t, filepath.Join(dir, "bad.onnx"), "x")).want(t, 1, "cannot load bad")
	millrace(t, "profile", "mlp", "--models", samples, "--max", "0").want(t, 1,
		"--max is 0; give 1 to")
	f("mlp", "--models", samples, "--shape", "q=1").want(t, 1, "is no NAME=DIMS")
}

// TestAdviceIsValid reads the recommended settings as a server does.
func TestAdviceIsValid(t *testing.T) {
	got := millrace(t, append([]string{"profile", "mlp", "--models", samples, "--json",
		"--latency-target", "1ms"}, quick...)...)
	got.want(t, 0)
	var p profiled
	if err := json.Unmarshal([]byte(got.out), &p); err != nil || len(p.Points) < 3 ||
		len(p.Advice) != 2 || p.Line == nil {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, a := range p.Advice {
		cfg, warnings, err := layout.ParseConfig([]byte(a.ConfigPbtxt))
		if err != nil || len(warnings) > 0 || int(cfg.MaxBatchSize) != a.Rows ||
			int(cfg.InstanceGroup[0].Count) != a.Runs {
			t.Errorf("%v %v for %s", err, warnings, a.ConfigPbtxt)
		}
		c, err := config.Parse("advice", []byte(a.Settings))
		if err != nil || len(c.Models) != 1 || c.Models[0].Name != "mlp" ||
			*c.Models[0].Batching.MaxBatchSize != a.Rows || *c.Models[0].Instances != a.Runs {
			t.Errorf("%v for %s", err, a.Settings)
		}
		if err := yaml.Unmarshal([]byte(a.Settings), new(any)); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(p.Advice[1].Settings, "latency_target: 1ms") {
		t.Errorf("the target is missing in %s", p.Advice[1].Settings)
	}
}
