package model

import (
	"log/slog"
	"maps"
	"strconv"
	"time"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// Mode says what decides which models are loaded.
type Mode string

// The modes, by Triton's names.
const (
	ModeNone     Mode = "none"     // all, once at the start
	ModePoll     Mode = "poll"     // all, and whatever changes
	ModeExplicit Mode = "explicit" // what is asked for by name
)

// Options says what a Repository serves.
type Options struct {
	Runtime      *ort.Runtime
	Repositories []string
	// Synced is one more repository, whose models are all loaded in each mode: somebody
	// else brings them there and calls Sync. It may come into being later; "" is none.
	Synced       string
	Mode         Mode
	Startup      []string // models to load at the start in ModeExplicit; "*" for all
	PollInterval time.Duration
	Trial        TrialConfig
	Defaults     Defaults
	Models       map[string]Settings // of single models, by their names
	Logger       *slog.Logger
}

// Defaults is what holds for a model that says nothing else.
type Defaults struct {
	MaxBatchSize int // of a model without configuration whose batch axis is proven
	Batch        batch.Config
	Session      ort.SessionConfig
}

// DefaultDefaults returns the values for models about which nothing is known.
func DefaultDefaults() Defaults {
	return Defaults{
		MaxBatchSize: 64, Batch: batch.DefaultConfig(), Session: ort.DefaultSessionConfig(),
	}
}

// numberParameter reads a parameter whose value layout has checked; one that
// is not there leaves *into as it is.
func numberParameter[T int | int64](cfg *configpb.ModelConfig, key string, into *T) {
	n, err := strconv.ParseInt(cfg.GetParameters()[key].GetStringValue(), 10, 64)
	if err == nil {
		*into = T(n)
	}
}

// batchConfig maps a model's configuration onto the batcher's.
func batchConfig(cfg *configpb.ModelConfig, d batch.Config) batch.Config {
	d.MaxBatchSize = int(cfg.MaxBatchSize)
	for _, g := range cfg.InstanceGroup {
		if g.Count > 0 {
			d.MaxRuns = int(g.Count)
		}
	}
	numberParameter(cfg, layout.ParameterQueueSize, &d.QueueSize)
	numberParameter(cfg, layout.ParameterQueueBytes, &d.QueueBytes)
	target := d.LatencyTarget.Microseconds()
	numberParameter(cfg, layout.ParameterLatencyTarget, &target)
	d.LatencyTarget = time.Duration(target) * time.Microsecond
	dyn := cfg.GetDynamicBatching()
	if dyn == nil {
		d.MaxBatchSize = min(d.MaxBatchSize, 1)
		return d
	}
	d.MaxQueueDelay = time.Duration(dyn.MaxQueueDelayMicroseconds) * time.Microsecond
	for _, n := range dyn.PreferredBatchSize {
		d.PreferredSizes = append(d.PreferredSizes, int(n))
	}
	d.PriorityLevels = int(dyn.PriorityLevels)
	d.DefaultPriority = int(dyn.DefaultPriorityLevel)
	if dyn.DefaultQueuePolicy != nil || len(dyn.PriorityQueuePolicy) > 0 {
		d.Queue = make([]batch.QueuePolicy, max(d.PriorityLevels, 1)+1)
		for i := range d.Queue {
			d.Queue[i] = queuePolicy(dyn.DefaultQueuePolicy)
		}
		for level, p := range dyn.PriorityQueuePolicy {
			if level < uint64(len(d.Queue)) {
				d.Queue[level] = queuePolicy(p)
			}
		}
	}
	return d
}

func queuePolicy(p *configpb.ModelQueuePolicy) batch.QueuePolicy {
	return batch.QueuePolicy{
		Size: int(p.GetMaxQueueSize()), AllowOverride: p.GetAllowTimeoutOverride(),
		Timeout: time.Duration(p.GetDefaultTimeoutMicroseconds()) * time.Microsecond,
		Delay:   p.GetTimeoutAction() == configpb.ModelQueuePolicy_DELAY,
	}
}

// sessionConfig maps a model's configuration, which may be nil, onto the
// session's. What it leaves open is as in s.
func sessionConfig(cfg *configpb.ModelConfig, name string, s ort.SessionConfig) ort.SessionConfig {
	s.LogID = name
	numberParameter(cfg, "intra_op_thread_count", &s.IntraOpThreads)
	numberParameter(cfg, "inter_op_thread_count", &s.InterOpThreads)
	flag := func(key string, is bool) bool {
		text := cfg.GetParameters()[key].GetStringValue()
		return text == "1" || text == "true" || text == "" && is
	}
	s.Parallel = flag("execution_mode", s.Parallel)
	s.DisableArena = !flag("enable_mem_arena", !s.DisableArena)
	s.DisableMemPattern = !flag("enable_mem_pattern", !s.DisableMemPattern)
	s.Fallback = flag(layout.ParameterFallback, s.Fallback)
	if own := layout.SessionEntries(cfg); own != nil {
		s.Entries = maps.Clone(s.Entries)
		if s.Entries == nil {
			s.Entries = make(map[string]string)
		}
		maps.Copy(s.Entries, own)
	}
	switch level := cfg.GetOptimization().GetGraph().GetLevel(); {
	case level < 0:
		s.GraphLevel = "basic"
	case level == 1:
		s.GraphLevel = "extended"
	case level > 1:
		s.GraphLevel = "all"
	}
	if own, ok := providersOf(cfg); ok {
		s.Providers = own
	}
	return s
}

// providersOf returns the execution providers that a configuration names; ok
// is false when it leaves them to the server.
func providersOf(cfg *configpb.ModelConfig) (list []ort.Provider, ok bool) {
	accelerators := cfg.GetOptimization().GetExecutionAccelerators()
	add := func(
		from []*configpb.ModelOptimizationPolicy_ExecutionAccelerators_Accelerator) {
		for _, a := range from {
			list = append(list, ort.Provider{Name: a.Name, Options: a.Parameters})
		}
	}
	add(accelerators.GetGpuExecutionAccelerator())
	for _, g := range cfg.GetInstanceGroup() {
		switch g.Kind {
		case configpb.ModelInstanceGroup_KIND_GPU:
			device := 0
			if len(g.Gpus) > 0 {
				device = int(g.Gpus[0])
			}
			list = append(list, ort.CUDA(device, 0))
		case configpb.ModelInstanceGroup_KIND_CPU:
			ok = true
		}
	}
	add(accelerators.GetCpuExecutionAccelerator())
	return list, ok || len(list) > 0 || accelerators != nil
}
