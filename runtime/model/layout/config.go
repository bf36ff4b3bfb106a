package layout

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
)

// ErrConfig is returned for a configuration that cannot be used.
var ErrConfig = errors.New("layout: bad configuration")

// maxConfig bounds a configuration's text, in bytes.
const maxConfig = 1 << 20

// Treatment says what becomes of a key of the configuration.
type Treatment uint8

// Keys are used, or ignored with a warning because answers do not depend on
// them, or refused because answers would.
const (
	Used Treatment = iota
	Ignored
	Refused
)

// Key is a key of the configuration and what becomes of it.
type Key struct {
	Name      string
	Treatment Treatment
	Reason    string
}

//go:generate go run ./gendoc ../../../docs/config-pbtxt.md

// keys is what becomes of each top-level key; docs/config-pbtxt.md is made from it.
var keys = []Key{
	{"name", Used, "must be the folder's name where it is given"},
	{"platform", Used, "onnxruntime_onnx or onnx_onnxv1"},
	{"backend", Used, "onnxruntime"},
	{"runtime", Ignored, "there is one runtime"},
	{"version_policy", Used, "latest, all, specific"},
	{"max_batch_size", Used, "0 for a model without batch axis"},
	{"input", Used, "held against the model"},
	{"output", Used, "held against the model; label_filename gives class labels"},
	{"batch_input", Refused, "ragged batching is not served"},
	{"batch_output", Refused, "ragged batching is not served"},
	{"optimization", Used, "graph.level and execution_accelerators, by ONNX Runtime's names and " +
		"options, in place of the server's providers; the rest is ignored with a warning"},
	{"dynamic_batching", Used, "requests are put together only with it; " +
		"a configuration without max_batch_size and inputs is completed with it"},
	{"sequence_batching", Refused, "sequences are not served"},
	{"ensemble_scheduling", Refused, "ensembles are not served"},
	{"instance_group", Used, "count bounds the runs at once; KIND_GPU and gpus choose the " +
		"device, KIND_CPU keeps the model on the CPU"},
	{"default_model_filename", Used, "in place of model.onnx"},
	{"cc_model_filenames", Ignored, "there is one file for all devices"},
	{"metric_tags", Ignored, "metrics carry model and version"},
	{"parameters", Used, "those below; others are ignored with a warning"},
	{"model_warmup", Used,
		"run before the version is READY; files lie in the model's folder warmup"},
	{"model_operations", Refused, "libraries of custom operators are not loaded"},
	{"model_transaction_policy", Refused, "decoupled models are not served"},
	{"model_repository_agents", Ignored, "there are no agents"},
	{"response_cache", Ignored, "there is no response cache yet"},
	{"model_metrics", Ignored, "histograms have native buckets"},
}

// Keys lists what becomes of each top-level key of a configuration.
func Keys() []Key { return slices.Clone(keys) }

// ParseConfig reads a config.pbtxt. Keys that nobody knows and keys that would
// change answers if they were ignored are errors; others come back as warnings.
func ParseConfig(text []byte) (*configpb.ModelConfig, []string, error) {
	return parse(text, prototext.Unmarshal)
}

// ParseConfigJSON reads a configuration in JSON, as the load API takes it.
func ParseConfigJSON(text []byte) (*configpb.ModelConfig, []string, error) {
	return parse(text, protojson.Unmarshal)
}

func parse(text []byte,
	unmarshal func([]byte, proto.Message) error) (*configpb.ModelConfig, []string, error) {
	if len(text) > maxConfig {
		return nil, nil, fmt.Errorf("%w: it is larger than %d bytes", ErrConfig, maxConfig)
	}
	cfg := new(configpb.ModelConfig)
	if err := unmarshal(text, cfg); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", ErrConfig, protoText(err))
	}
	warnings, err := checkKeys(cfg)
	return cfg, warnings, err
}

// protoText is what protobuf says of a message; it varies its texts with a
// non-breaking space on purpose.
func protoText(err error) string {
	return strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
}

func checkKeys(cfg *configpb.ModelConfig) ([]string, error) {
	var warnings []string
	var faults []error
	cfg.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == string(f.Name()) })
		switch k := keys[i]; {
		case k.Treatment == Ignored:
			warnings = append(warnings, fmt.Sprintf("%s is ignored: %s", k.Name, k.Reason))
		case k.Name == "model_transaction_policy" && !cfg.ModelTransactionPolicy.GetDecoupled():
		case k.Treatment == Refused:
			faults = append(faults, fmt.Errorf("%w: %s: %s", ErrConfig, k.Name, k.Reason))
		}
		return true
	})
	slices.Sort(warnings)
	more, wrong := checkParameters(cfg)
	warnings, faults = append(warnings, more...), append(faults, wrong...)
	if o := cfg.Optimization; o != nil {
		o.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if f.Name() != "graph" && f.Name() != "execution_accelerators" {
				warnings = append(warnings, fmt.Sprintf("optimization.%s is ignored", f.Name()))
			}
			return true
		})
	}
	faults = append(faults, checkValues(cfg)...)
	return warnings, errors.Join(faults...)
}

// checkValues finds values of single keys that cannot be served.
func checkValues(cfg *configpb.ModelConfig) []error {
	var faults []error
	if file := cfg.DefaultModelFilename; file != "" && !filepath.IsLocal(file) {
		faults = append(faults, fmt.Errorf("%w: default_model_filename %q leads out of the folder",
			ErrConfig, file))
	}
	switch cfg.Platform {
	case "", "onnxruntime_onnx", "onnx_onnxv1":
	default:
		faults = append(faults,
			fmt.Errorf("%w: platform %q: only onnxruntime_onnx is served", ErrConfig, cfg.Platform))
	}
	if cfg.Backend != "" && cfg.Backend != "onnxruntime" {
		faults = append(faults,
			fmt.Errorf("%w: backend %q: only onnxruntime is served", ErrConfig, cfg.Backend))
	}
	if cfg.MaxBatchSize < 0 {
		faults = append(faults,
			fmt.Errorf("%w: max_batch_size is %d, must be 0 or more", ErrConfig, cfg.MaxBatchSize))
	}
	for _, in := range cfg.Input {
		if in.AllowRaggedBatch {
			faults = append(faults,
				fmt.Errorf("%w: input %q: allow_ragged_batch is not served", ErrConfig, in.Name))
		}
	}
	return faults
}
