package model

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// parse reads a config.pbtxt; "" is none.
func parse(t *testing.T, text string) *configpb.ModelConfig {
	t.Helper()
	if text == "" {
		return nil
	}
	cfg, _, err := layout.ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestApply(t *testing.T) {
	f := func(config string, s Settings, want string) {
		t.Helper()
		cfg, err := s.apply(parse(t, config))
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", config, err, want)
			}
			return
		}
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		// protojson puts spaces in at random.
		if got := strings.ReplaceAll(string(text), " ", ""); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", config, got, want)
		}
	}
	one, two := 1, 2
	f("", Settings{}, "{}")
	f("", Settings{MaxBatchSize: &two}, `"max_batch_size":2,"dynamic_batching":{}`)
	f("", Settings{MaxBatchSize: &one}, `{}`)
	f("max_batch_size: 8", Settings{MaxBatchSize: &one}, `"max_batch_size":1`)
	f(`input [ { name: "x" } ]`, Settings{MaxBatchSize: &one}, `"name":"x"`)
	f(`input [ { name: "x" } ]`, Settings{MaxBatchSize: &two}, "lists inputs without batch axis")
	f("max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 2, 8 ] }",
		Settings{MaxBatchSize: &two}, `"dynamic_batching":{"preferred_batch_size":[2]}`)
	delay := 1500 * time.Microsecond
	f("max_batch_size: 8", Settings{MaxQueueDelay: &delay, PreferredSizes: []int{4}},
		`"dynamic_batching":{"preferred_batch_size":[4],"max_queue_delay_microseconds":"1500"}`)
	f("dynamic_batching { priority_levels: 5 default_priority_level: 4 priority_queue_policy "+
		"[ { key: 1 value { max_queue_size: 1 } }, { key: 3 value { max_queue_size: 3 } } ] }",
		Settings{PriorityLevels: &two}, `"dynamic_batching":{"priority_levels":"2",`+
			`"default_priority_level":"2","priority_queue_policy":{"1":{"max_queue_size":1}}}`)
	size, bytes, yes := 7, int64(1<<20), true
	f("", Settings{QueueSize: &size}, `"parameters":{"queue_size":{"string_value":"7"}}`)
	f("", Settings{QueueBytes: &bytes}, `"queue_bytes":{"string_value":"1048576"}`)
	f("", Settings{LatencyTarget: &delay},
		`"latency_target_microseconds":{"string_value":"1500"}`)
	f("", Settings{Fallback: &yes}, `"fallback":{"string_value":"true"}`)
	f("", Settings{IntraOpThreads: &two}, `"intra_op_thread_count":{"string_value":"2"}`)
	f("", Settings{Instances: &two}, `"instance_group":[{"count":2}]`)
	f("version_policy { all { } }", Settings{Latest: &two},
		`"version_policy":{"latest":{"num_versions":2}}`)
	f("", Settings{All: &yes}, `"version_policy":{"all":{}}`)
	f("", Settings{Specific: []string{"1", "v2", "007"}},
		`"version_policy":{"specific":{"versions":["1"]}}`)
	f("", Settings{Specific: []string{"1", "v2", "007"}}, `"[\"v2\",\"007\"]"`)
	f(`instance_group [ { kind: KIND_GPU gpus: 1 count: 2 } ]`, Settings{
		Providers: []ort.Provider{{Name: "cuda"}, {Name: "cpu"}}},
		`"optimization":{"execution_accelerators":{"gpu_execution_accelerator":`+
			`[{"name":"cuda"},{"name":"cpu"}]}},"instance_group":[{"count":2}]`)
	f("", Settings{Providers: []ort.Provider{{Name: "openvino", Options: map[string]string{
		"device_type": "CPU"}}}}, `"cpu_execution_accelerator":[{"name":"openvino",`+
		`"parameters":{"device_type":"CPU"}}]`)
}

func TestSessionConfig(t *testing.T) {
	base := ort.SessionConfig{IntraOpThreads: 3, Parallel: true, DisableArena: true,
		Providers: []ort.Provider{{Name: "openvino"}}, Fallback: true, GraphLevel: "basic"}
	f := func(config string, ok func(ort.SessionConfig) bool) {
		t.Helper()
		if got := sessionConfig(parse(t, config), "m", base); !ok(got) {
			t.Errorf("%s: got %+v", config, got)
		}
	}
	parameter := func(key, value string) string {
		return `parameters { key: "` + key + `" value: { string_value: "` + value + `" } } `
	}
	f("", func(s ort.SessionConfig) bool {
		return s.IntraOpThreads == 3 && s.Parallel && s.DisableArena && s.Fallback &&
			s.GraphLevel == "basic" && len(s.Providers) == 1 && s.LogID == "m"
	})
	f(parameter("execution_mode", "0")+parameter("enable_mem_arena", "1")+
		parameter("fallback", "false")+parameter("intra_op_thread_count", "0"),
		func(s ort.SessionConfig) bool {
			return !s.Parallel && !s.DisableArena && !s.Fallback && s.IntraOpThreads == 0
		})
	f(parameter("enable_mem_pattern", "0"),
		func(s ort.SessionConfig) bool { return s.DisableMemPattern })
	f(parameter("session.use_device_allocator_for_initializers", "1"),
		func(s ort.SessionConfig) bool {
			return s.Entries["session.use_device_allocator_for_initializers"] == "1" &&
				base.Entries == nil
		})
	f("optimization { graph { level: -1 } }",
		func(s ort.SessionConfig) bool { return s.GraphLevel == "basic" })
	f("optimization { graph { level: 2 } }",
		func(s ort.SessionConfig) bool { return s.GraphLevel == "all" })
	f("instance_group [ { kind: KIND_CPU } ]",
		func(s ort.SessionConfig) bool { return len(s.Providers) == 0 })
	f(`instance_group [ { kind: KIND_GPU gpus: [ 1 ] } ] optimization { execution_accelerators {
		gpu_execution_accelerator [ { name: "tensorrt" } ] } }`,
		func(s ort.SessionConfig) bool {
			return len(s.Providers) == 2 && s.Providers[0].Name == "tensorrt" &&
				s.Providers[1].Options["device_id"] == "1"
		})
}

func TestBatchConfig(t *testing.T) {
	f := func(config string, ok func(batch.Config) bool) {
		t.Helper()
		if got := batchConfig(parse(t, config), batch.DefaultConfig()); !ok(got) {
			t.Errorf("%s: got %+v", config, got)
		}
	}
	f("max_batch_size: 8", func(c batch.Config) bool { return c.MaxBatchSize == 1 })
	f("max_batch_size: 8 dynamic_batching { preferred_batch_size: 4 "+
		"max_queue_delay_microseconds: 100 }", func(c batch.Config) bool {
		return c.MaxBatchSize == 8 && c.MaxQueueDelay == 100*time.Microsecond &&
			c.PreferredSizes[0] == 4
	})
	f(`parameters { key: "queue_size" value: { string_value: "5" } }
		parameters { key: "queue_bytes" value: { string_value: "6" } }
		parameters { key: "latency_target_microseconds" value: { string_value: "7" } }`,
		func(c batch.Config) bool {
			return c.QueueSize == 5 && c.QueueBytes == 6 && c.LatencyTarget == 7*time.Microsecond
		})
	f("instance_group [ { count: 3 } ]", func(c batch.Config) bool { return c.MaxRuns == 3 })
	f("dynamic_batching { priority_levels: 2 default_queue_policy { max_queue_size: 4 } "+
		"priority_queue_policy { key: 2 value { max_queue_size: 9 timeout_action: DELAY } } }",
		func(c batch.Config) bool {
			return len(c.Queue) == 3 && c.Queue[1].Size == 4 && c.Queue[2].Size == 9 &&
				c.Queue[2].Delay && !c.Queue[1].Delay
		})
}

// TestConfigure: changed settings load just the models that they are of.
func TestConfigure(t *testing.T) {
	root := t.TempDir()
	for _, version := range []string{"1", "2", "v3"} {
		write(t, filepath.Join(root, "a", version, "model.onnx"), addModel(1))
		write(t, filepath.Join(root, "b", version, "model.onnx"), addModel(1))
	}
	four, eight, bad := 4, 8, 1<<20
	r := open(t, root, func(o *Options) {
		o.Models = map[string]Settings{"a": {MaxBatchSize: &four}, "none": {MaxBatchSize: &four}}
	})
	version := func(name, version string) *Version {
		t.Helper()
		v, err := r.Acquire([]byte(name), []byte(version))
		if err != nil {
			t.Fatal(err)
		}
		v.Release()
		return v
	}
	a, b := version("a", ""), version("b", "")
	if a.Config().MaxBatchSize != 4 || a.Signature().MaxBatchSize != 4 {
		t.Errorf("max_batch_size is %d, want 4", a.Config().MaxBatchSize)
	}
	if b.Config().MaxBatchSize != 64 {
		t.Errorf("max_batch_size of a model without settings is %d", b.Config().MaxBatchSize)
	}
	configure := func(s map[string]Settings) {
		t.Helper()
		r.Configure(context.Background(), s)
		if version("b", "") != b {
			t.Error("a model whose settings are as they were was loaded anew")
		}
	}
	configure(map[string]Settings{"a": {MaxBatchSize: &four}})
	if version("a", "") != a {
		t.Error("a model with the same settings was loaded anew")
	}
	configure(map[string]Settings{"a": {MaxBatchSize: &eight, Specific: []string{"1", "v3"}}})
	if got := index(r, "a"); got != "1 READY, v3 READY" || version("a", "1").sig.MaxBatchSize != 8 {
		t.Errorf("the index is %s", got)
	}
	configure(map[string]Settings{"a": {Specific: []string{"1", "v3"},
		Providers: []ort.Provider{{Name: "nosuch"}}}})
	if got := index(r, "a"); !strings.HasPrefix(got,
		`1 READY (ort: execution provider "nosuch" is not in this library`) {
		t.Errorf("the index is %s", got)
	}
	if version("a", "1").sig.MaxBatchSize != 8 {
		t.Error("settings that cannot be used have changed what serves")
	}
	configure(map[string]Settings{"a": {PreferredSizes: []int{bad}}})
	if got := index(r, "a"); !strings.Contains(got, "preferred_batch_size is 1048576") {
		t.Errorf("the index is %s", got)
	}
	configure(nil)
	eventually(t, 5*time.Second, "only the latest version serves",
		func() bool { return index(r, "a") == "v3 READY" })
	if got := version("a", ""); got.sig.MaxBatchSize != 64 {
		t.Errorf("without settings max_batch_size is %d", got.sig.MaxBatchSize)
	}
}
