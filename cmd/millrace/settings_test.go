package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/millrace-ml/millrace/control/config"
)

// TestModelSettings: each key of a model's settings is passed on.
func TestModelSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "millrace.yaml")
	text := `
models:
  - name: m
    batching:
      max_batch_size: 16
      max_queue_delay: 1ms
      preferred_batch_size: [4]
      priority_levels: 3
      queue: {size: 10, bytes: 1MiB}
      latency_target: 5ms
    version_policy: {latest: 2}
    providers: [{name: cuda, options: {device_id: "1"}}, {name: cpu}]
    fallback: true
    intra_op_threads: 2
    instances: 3
  - name: other
    version_policy: {all: true}
  - name: named
    version_policy: {specific: [v1]}
  - name: pushed
    source: inbox
    version_policy: {latest: 2}
sources: [{name: inbox, push: true}]
`
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	all := modelSettings(c.Models)
	m := all["m"]
	for what, ok := range map[string]bool{
		"max_batch_size":  *m.MaxBatchSize == 16,
		"max_queue_delay": m.MaxQueueDelay.Milliseconds() == 1,
		"preferred":       reflect.DeepEqual(m.PreferredSizes, []int{4}),
		"priority_levels": *m.PriorityLevels == 3, "queue.size": *m.QueueSize == 10,
		"queue.bytes":    *m.QueueBytes == 1<<20,
		"latency_target": m.LatencyTarget.Milliseconds() == 5,
		"latest":         *m.Latest == 2, "all": *all["other"].All,
		"specific":  reflect.DeepEqual(all["named"].Specific, []string{"v1"}),
		"providers": len(m.Providers) == 2 && m.Providers[0].Options["device_id"] == "1",
		"fallback":  *m.Fallback, "intra_op_threads": *m.IntraOpThreads == 2,
		"instances": *m.Instances == 3,
		"synced":    all["pushed"].Synced && *all["pushed"].All && all["pushed"].Latest == nil,
	} {
		if !ok {
			t.Errorf("%s is not passed on: %+v", what, m)
		}
	}
	// A key that is added to the settings has to be added here too.
	if got := reflect.TypeOf(m).NumField(); got != 15 {
		t.Errorf("the settings of a model have %d fields, 15 are looked at", got)
	}
}
