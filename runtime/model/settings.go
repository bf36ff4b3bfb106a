package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// Settings are what the server's operator says of one model. They stand above
// the model's own configuration; what is nil leaves that as it is.
type Settings struct {
	MaxBatchSize   *int           // rows of one run; 1 runs each request alone
	MaxQueueDelay  *time.Duration // that a request may wait for company
	PreferredSizes []int          // batch sizes that end the wait
	PriorityLevels *int
	QueueSize      *int   // waiting requests
	QueueBytes     *int64 // of their tensors
	LatencyTarget  *time.Duration

	Latest   *int     // the n highest versions are loaded
	All      *bool    // all versions are
	Specific []string // these are
	Synced   bool     // it comes from elsewhere, and may not be there yet

	Providers      []ort.Provider // in place of those of the server
	Fallback       *bool
	IntraOpThreads *int
	Instances      *int // runs at once; 0 leaves it to the server
}

// plan is a model folder as the server is to load it.
type plan struct {
	layout.Folder // Config has the settings applied
	settings      string
	batch         int // max_batch_size of a model that says nothing of it
	session       ort.SessionConfig
}

// plan applies the settings for a model to its folder.
func (r *Repository) plan(f layout.Folder) plan {
	p := plan{Folder: f, batch: r.opts.Defaults.MaxBatchSize}
	s, ok := r.opts.Models[f.Name]
	if ok && f.Fault == nil {
		if text, err := json.Marshal(s); err == nil {
			p.settings = string(text)
		}
		p.Config, p.Fault = s.apply(f.Config)
		if s.MaxBatchSize != nil {
			p.batch = *s.MaxBatchSize
		}
	}
	p.session = sessionConfig(p.Config, f.Name, r.opts.Defaults.Session)
	return p
}

// seen is what the files of a version and of its folder look like.
func (p *plan) seen(v layout.VersionDir) string { return v.Fingerprint + p.Stamp }

// fingerprint changes when the version has to be loaded anew.
func (p *plan) fingerprint(v layout.VersionDir) string { return p.seen(v) + p.settings }

// apply returns cfg, which may be nil, with the settings written into it.
func (s *Settings) apply(cfg *configpb.ModelConfig) (*configpb.ModelConfig, error) {
	if cfg == nil {
		cfg = new(configpb.ModelConfig)
	}
	cfg = proto.Clone(cfg).(*configpb.ModelConfig)
	if err := s.batching(cfg); err != nil {
		return nil, err
	}
	s.versions(cfg)
	s.providers(cfg)
	if s.IntraOpThreads != nil {
		parameter(cfg, "intra_op_thread_count", strconv.Itoa(*s.IntraOpThreads))
	}
	if s.Instances != nil {
		if len(cfg.InstanceGroup) == 0 {
			cfg.InstanceGroup = []*configpb.ModelInstanceGroup{{}}
		}
		for _, g := range cfg.InstanceGroup {
			g.Count = int32(*s.Instances)
		}
	}
	return cfg, nil
}

func parameter(cfg *configpb.ModelConfig, name, value string) {
	if cfg.Parameters == nil {
		cfg.Parameters = make(map[string]*configpb.ModelParameter)
	}
	cfg.Parameters[name] = &configpb.ModelParameter{StringValue: value}
}

func (s *Settings) batching(cfg *configpb.ModelConfig) error {
	dynamic := cfg.GetDynamicBatching()
	if dynamic == nil {
		dynamic = new(configpb.ModelDynamicBatching)
	}
	asked := s.MaxQueueDelay != nil || s.PreferredSizes != nil || s.PriorityLevels != nil
	if n := s.MaxBatchSize; n != nil {
		if *n > 1 && cfg.MaxBatchSize == 0 && len(cfg.Input) > 0 {
			return fmt.Errorf("max_batch_size is %d in the server's settings, but the "+
				"config.pbtxt lists inputs without batch axis; change one of the two", *n)
		}
		if *n > 1 || cfg.MaxBatchSize > 0 {
			cfg.MaxBatchSize = int32(*n)
			asked = true
		}
		dynamic.PreferredBatchSize = slices.DeleteFunc(dynamic.PreferredBatchSize,
			func(size int32) bool { return int(size) > *n })
	}
	if s.MaxQueueDelay != nil {
		dynamic.MaxQueueDelayMicroseconds = uint64(s.MaxQueueDelay.Microseconds())
	}
	if s.PreferredSizes != nil {
		dynamic.PreferredBatchSize = nil
		for _, size := range s.PreferredSizes {
			dynamic.PreferredBatchSize = append(dynamic.PreferredBatchSize, int32(size))
		}
	}
	if n := s.PriorityLevels; n != nil {
		dynamic.PriorityLevels = uint64(*n)
		dynamic.DefaultPriorityLevel = min(dynamic.DefaultPriorityLevel, uint64(*n))
		maps.DeleteFunc(dynamic.PriorityQueuePolicy,
			func(level uint64, _ *configpb.ModelQueuePolicy) bool { return level > uint64(*n) })
	}
	if asked {
		cfg.SchedulingChoice = &configpb.ModelConfig_DynamicBatching{DynamicBatching: dynamic}
	}
	if s.QueueSize != nil {
		parameter(cfg, layout.ParameterQueueSize, strconv.Itoa(*s.QueueSize))
	}
	if s.QueueBytes != nil {
		parameter(cfg, layout.ParameterQueueBytes, strconv.FormatInt(*s.QueueBytes, 10))
	}
	if s.LatencyTarget != nil {
		parameter(cfg, layout.ParameterLatencyTarget,
			strconv.FormatInt(s.LatencyTarget.Microseconds(), 10))
	}
	return nil
}

// versions sets the version policy. Names that are no numbers have no place in
// Triton's and become a parameter.
func (s *Settings) versions(cfg *configpb.ModelConfig) {
	policy := new(configpb.ModelVersionPolicy)
	var names []string
	switch {
	case s.Latest != nil:
		policy.PolicyChoice = &configpb.ModelVersionPolicy_Latest_{
			Latest: &configpb.ModelVersionPolicy_Latest{NumVersions: uint32(*s.Latest)}}
	case s.All != nil && *s.All:
		policy.PolicyChoice = &configpb.ModelVersionPolicy_All_{
			All: &configpb.ModelVersionPolicy_All{}}
	case s.Specific != nil:
		specific := new(configpb.ModelVersionPolicy_Specific)
		for _, name := range s.Specific {
			n, err := strconv.ParseInt(name, 10, 64)
			if err != nil || strconv.FormatInt(n, 10) != name {
				names = append(names, name)
				continue
			}
			specific.Versions = append(specific.Versions, n)
		}
		policy.PolicyChoice = &configpb.ModelVersionPolicy_Specific_{Specific: specific}
	default:
		return
	}
	cfg.VersionPolicy = policy
	delete(cfg.Parameters, layout.ParameterVersions)
	if text, err := json.Marshal(names); err == nil && len(names) > 0 {
		parameter(cfg, layout.ParameterVersions, string(text))
	}
}

// providers sets the execution accelerators, all in one list so that their
// order stays.
func (s *Settings) providers(cfg *configpb.ModelConfig) {
	if s.Fallback != nil {
		parameter(cfg, layout.ParameterFallback, strconv.FormatBool(*s.Fallback))
	}
	if s.Providers == nil {
		return
	}
	var list []*configpb.ModelOptimizationPolicy_ExecutionAccelerators_Accelerator
	for _, p := range s.Providers {
		list = append(list, &configpb.ModelOptimizationPolicy_ExecutionAccelerators_Accelerator{
			Name: p.Name, Parameters: maps.Clone(p.Options)})
	}
	if cfg.Optimization == nil {
		cfg.Optimization = new(configpb.ModelOptimizationPolicy)
	}
	accelerators := new(configpb.ModelOptimizationPolicy_ExecutionAccelerators)
	if len(list) > 0 && onGPU(list[0].Name) {
		accelerators.GpuExecutionAccelerator = list
	} else {
		accelerators.CpuExecutionAccelerator = list
	}
	cfg.Optimization.ExecutionAccelerators = accelerators
	for _, g := range cfg.InstanceGroup {
		g.Kind, g.Gpus = configpb.ModelInstanceGroup_KIND_AUTO, nil
	}
}

// onGPU says whether an execution provider is one of GPUs: a run has the whole of one, and plans
// its kernels anew when its shapes are not those of the run before.
func onGPU(provider string) bool {
	name := strings.TrimSuffix(strings.ToLower(provider), "executionprovider")
	return slices.Contains([]string{"cuda", "tensorrt", "nvtensorrtrtx", "rocm", "migraphx"}, name)
}
