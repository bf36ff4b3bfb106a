package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// The parameters of a configuration that Triton does not have. The server's
// settings for a model are written into them, so that they show.
const (
	ParameterFallback      = "fallback"
	ParameterQueueSize     = "queue_size"
	ParameterQueueBytes    = "queue_bytes"
	ParameterLatencyTarget = "latency_target_microseconds"
	ParameterVersions      = "specific_versions"
	ParameterFeatures      = "feature_names"
)

// Parameter is a key of a configuration's parameters.
type Parameter struct {
	Name    string
	Values  string // that are allowed, in words
	Meaning string
	valid   func(string) bool
}

var parameters = []Parameter{
	{"intra_op_thread_count", "a number, 0 for one a core", "threads within one run",
		atLeast(0)},
	{"inter_op_thread_count", "a number, 0 for one a core",
		"threads over independent parts of the model, with execution_mode 1", atLeast(0)},
	{"execution_mode", "0 or 1", "1 runs independent parts of the model at once", oneOf("0", "1")},
	{"enable_mem_arena", "0 or 1", "1 keeps the memory of finished runs", oneOf("0", "1")},
	{"enable_mem_pattern", "0 or 1", "1 plans memory by the runs before", oneOf("0", "1")},
	{useDeviceAllocator, "0 or 1", "1 keeps the weights out of the arena", oneOf("0", "1")},
	{ParameterFallback, "true or false",
		"leave out an execution provider that the library lacks", oneOf("true", "false")},
	{ParameterQueueSize, "a number from 1", "requests that may wait", atLeast(1)},
	{ParameterQueueBytes, "a number from 1", "bytes of the tensors of requests that may wait",
		atLeast(1)},
	{ParameterLatencyTarget, "a number, 0 for none",
		"batches are kept so small that waiting and running take no longer", atLeast(0)},
	{ParameterVersions, "a JSON list of names",
		"versions to load, of any name, beside those of version_policy.specific",
		func(text string) bool { _, err := versionNames(text); return err == nil }},
	{ParameterFeatures, "a JSON list of different names",
		"names of the columns of the only input, a matrix, by which clients may send them",
		func(text string) bool { _, err := featureNames(text); return err == nil }},
}

// useDeviceAllocator is a session setting of ONNX Runtime's that Triton hands on.
const useDeviceAllocator = "session.use_device_allocator_for_initializers"

// Parameters lists the parameters that a configuration may have.
func Parameters() []Parameter { return slices.Clone(parameters) }

// SessionEntries returns the parameters that are ONNX Runtime's own.
func SessionEntries(cfg *configpb.ModelConfig) map[string]string {
	if p, ok := cfg.GetParameters()[useDeviceAllocator]; ok {
		return map[string]string{useDeviceAllocator: p.StringValue}
	}
	return nil
}

func atLeast(low int64) func(string) bool {
	return func(text string) bool {
		n, err := strconv.ParseInt(text, 10, 64)
		return err == nil && n >= low
	}
}

func oneOf(values ...string) func(string) bool {
	return func(text string) bool { return slices.Contains(values, text) }
}

func versionNames(text string) ([]string, error) {
	var names []string
	err := json.Unmarshal([]byte(text), &names)
	return names, err
}

func featureNames(text string) ([]tensor.Column, error) {
	names, err := versionNames(text)
	if err != nil {
		return nil, err
	}
	columns := make([]Column, len(names))
	for i, name := range names {
		columns[i].Name = name
	}
	list := features(columns)
	if len(list) == 0 {
		return nil, errors.New("the names must be different and not empty")
	}
	return list, nil
}

// nameFeatures gives the columns of the only input the names of the
// configuration, which stand above those that MLflow knows.
func nameFeatures(cfg *configpb.ModelConfig, sig *tensor.Signature) error {
	p, ok := cfg.GetParameters()[ParameterFeatures]
	if !ok {
		return nil
	}
	columns, err := featureNames(p.GetStringValue())
	if err != nil {
		return fmt.Errorf("%w: parameters: %s: %w", ErrConfig, ParameterFeatures, err)
	}
	if len(sig.Inputs) != 1 || len(sig.Inputs[0].Shape) != 2 || sig.Inputs[0].BatchAxis > 0 {
		return fmt.Errorf("%w: parameters: %s is for models with one input of the shape "+
			"[rows, columns]", ErrConfig, ParameterFeatures)
	}
	s := &sig.Inputs[0]
	if n := int64(len(columns)); s.Shape[1] != -1 && s.Shape[1] != n {
		return fmt.Errorf("%w: parameters: %s has %d names, the input %q has the shape %s",
			ErrConfig, ParameterFeatures, n, s.Name, tensor.FormatShape(s.Shape))
	}
	for i := range columns {
		for _, known := range s.Columns {
			if known.Name == columns[i].Name {
				columns[i] = known
			}
		}
	}
	s.Shape = []int64{s.Shape[0], int64(len(columns))}
	s.Columns = columns
	return nil
}

// checkParameters finds values that are not allowed, and warns of keys that
// nobody reads.
func checkParameters(cfg *configpb.ModelConfig) (warnings []string, faults []error) {
	for name, value := range cfg.Parameters {
		i := slices.IndexFunc(parameters, func(p Parameter) bool { return p.Name == name })
		if i < 0 {
			warnings = append(warnings, fmt.Sprintf("parameters: %q is ignored: nobody reads it",
				name))
			continue
		}
		if p := &parameters[i]; !p.valid(value.GetStringValue()) {
			faults = append(faults, fmt.Errorf("%w: parameters: %s is %q, must be %s", ErrConfig,
				name, value.GetStringValue(), p.Values))
		}
	}
	slices.Sort(warnings)
	return warnings, faults
}
