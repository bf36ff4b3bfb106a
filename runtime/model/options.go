package model

import (
	"log/slog"
	"strconv"
	"time"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model/configpb"
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
	Mode         Mode
	Startup      []string // models to load at the start in ModeExplicit; "*" for all
	PollInterval time.Duration
	Trial        TrialConfig
	Defaults     Defaults
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

// batchConfig maps a model's configuration onto the batcher's.
func batchConfig(cfg *configpb.ModelConfig, d batch.Config) batch.Config {
	d.MaxBatchSize = int(cfg.MaxBatchSize)
	for _, g := range cfg.InstanceGroup {
		if g.Count > 0 {
			d.MaxRuns = int(g.Count)
		}
	}
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

// sessionConfig maps a model's configuration onto the session's.
func sessionConfig(cfg *configpb.ModelConfig, name string, s ort.SessionConfig) ort.SessionConfig {
	s.LogID = name
	number := func(key string, into *int) {
		if n, err := strconv.Atoi(cfg.GetParameters()[key].GetStringValue()); err == nil && n >= 0 {
			*into = n
		}
	}
	number("intra_op_thread_count", &s.IntraOpThreads)
	number("inter_op_thread_count", &s.InterOpThreads)
	var parallel, arena, pattern = 0, 1, 1
	number("execution_mode", &parallel)
	number("enable_mem_arena", &arena)
	number("enable_mem_pattern", &pattern)
	s.Parallel, s.DisableArena, s.DisableMemPattern = parallel == 1, arena == 0, pattern == 0
	switch level := cfg.GetOptimization().GetGraph().GetLevel(); {
	case level < 0:
		s.GraphLevel = "basic"
	case level == 1:
		s.GraphLevel = "extended"
	case level > 1:
		s.GraphLevel = "all"
	}
	accelerators := cfg.GetOptimization().GetExecutionAccelerators()
	for _, a := range accelerators.GetGpuExecutionAccelerator() {
		s.Providers = append(s.Providers, ort.Provider{Name: a.Name, Options: a.Parameters})
	}
	for _, a := range accelerators.GetCpuExecutionAccelerator() {
		s.Providers = append(s.Providers, ort.Provider{Name: a.Name, Options: a.Parameters})
	}
	for _, g := range cfg.GetInstanceGroup() {
		if g.Kind == configpb.ModelInstanceGroup_KIND_GPU {
			device := 0
			if len(g.Gpus) > 0 {
				device = int(g.Gpus[0])
			}
			s.Providers = append(s.Providers, ort.CUDA(device, 0))
		}
	}
	return s
}
