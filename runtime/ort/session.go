package ort

// #include "api.h"
// #include <stdlib.h>
import "C"

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	binding "github.com/yalue/onnxruntime_go"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// SessionConfig says how a model is run.
type SessionConfig struct {
	LogID             string // stands at the session's log lines
	IntraOpThreads    int    // threads within an operator, 0 for one a core
	InterOpThreads    int    // threads between operators, with Parallel
	Parallel          bool   // run independent operators at once
	GraphLevel        string // optimisation: "disable", "basic", "extended", "all"; "" for all
	DisableArena      bool
	DisableMemPattern bool
	Spinning          bool              // threads burn a core while they wait for work
	Providers         []Provider        // in order of preference; none for the CPU
	Fallback          bool              // leave out providers that cannot be used
	Entries           map[string]string // by ONNX Runtime's keys, above all of these
}

// Provider is an execution provider: a name such as "cuda" or
// "CUDAExecutionProvider", and its options by ONNX Runtime's keys.
type Provider struct {
	Name    string            `yaml:"name"`
	Options map[string]string `yaml:"options"`
}

// DefaultSessionConfig returns what serves best under concurrent requests: one
// thread a run, and as many runs at once as there are cores.
func DefaultSessionConfig() SessionConfig {
	return SessionConfig{IntraOpThreads: 1, InterOpThreads: 1}
}

// Session is a loaded model. It may be used concurrently.
type Session struct {
	session         unsafe.Pointer
	inputs, outputs []tensor.Spec
	inputNames      **C.char // C memory: the names that every Call shares
	outputNames     **C.char
	elems           []C.int // ONNX element type of each input
}

// NewSession loads the model in the file at path.
func (r *Runtime) NewSession(path string, cfg SessionConfig) (*Session, error) {
	options, err := r.options(cfg)
	if err != nil {
		return nil, err
	}
	defer options.Destroy()
	file, id := C.CString(path), C.CString(cfg.LogID)
	defer C.free(unsafe.Pointer(file))
	defer C.free(unsafe.Pointer(id))
	var e C.mr_error
	parallel := C.int(0)
	if cfg.Parallel {
		parallel = 1
	}
	if C.mr_set_options(unwrap(options), id, parallel, &e) != 0 {
		return nil, newError(&e)
	}
	s := &Session{session: C.mr_session(file, unwrap(options), &e)}
	if s.session == nil {
		return nil, newError(&e).without(path)
	}
	if err := s.describe(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// unwrap returns the C object inside the binding's options, its only field.
func unwrap(o *binding.SessionOptions) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(o))
}

// options makes the binding's session options of cfg. Callers destroy them.
func (r *Runtime) options(cfg SessionConfig) (*binding.SessionOptions, error) {
	o, err := binding.NewSessionOptions()
	if err != nil {
		return nil, fmt.Errorf("ort: cannot make session options: %w", err)
	}
	if err := r.setOptions(o, cfg); err != nil {
		o.Destroy()
		return nil, err
	}
	return o, nil
}

func (r *Runtime) setOptions(o *binding.SessionOptions, cfg SessionConfig) error {
	level, ok := graphLevels[cfg.GraphLevel]
	if !ok {
		return fmt.Errorf("ort: graph level %q is not disable, basic, extended or all",
			cfg.GraphLevel)
	}
	spin := "0"
	if cfg.Spinning {
		spin = "1"
	}
	entries := map[string]string{
		"session.intra_op.allow_spinning": spin,
		"session.inter_op.allow_spinning": spin,
	}
	maps.Copy(entries, cfg.Entries)
	steps := []func() error{
		func() error { return o.SetIntraOpNumThreads(cfg.IntraOpThreads) },
		func() error { return o.SetInterOpNumThreads(cfg.InterOpThreads) },
		func() error { return o.SetGraphOptimizationLevel(level) },
		func() error { return o.SetCpuMemArena(!cfg.DisableArena) },
		func() error { return o.SetMemPattern(!cfg.DisableMemPattern) },
	}
	for key, value := range entries {
		steps = append(steps, func() error { return o.AddSessionConfigEntry(key, value) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("ort: cannot set session options: %w", err)
		}
	}
	for _, p := range cfg.Providers {
		if err := r.addProvider(o, p, &cfg); err != nil {
			return err
		}
	}
	return nil
}

var graphLevels = map[string]binding.GraphOptimizationLevel{
	"":         binding.GraphOptimizationLevelEnableAll,
	"all":      binding.GraphOptimizationLevelEnableAll,
	"extended": binding.GraphOptimizationLevelEnableExtended,
	"basic":    binding.GraphOptimizationLevelEnableBasic,
	"disable":  binding.GraphOptimizationLevelDisableAll,
}

// addProvider asks for an execution provider by its short or full name.
func (r *Runtime) addProvider(o *binding.SessionOptions, p Provider, cfg *SessionConfig) error {
	has := slices.IndexFunc(r.providers, func(name string) bool {
		return p.Is(strings.TrimSuffix(name, "ExecutionProvider"))
	})
	if has < 0 {
		if cfg.Fallback {
			r.log.Warn("execution provider is left out: it is not in this library",
				"provider", p.Name, "model", cfg.LogID)
			return nil
		}
		return fmt.Errorf("ort: execution provider %q is not in this library, which has %s; "+
			"set fallback to run on the next one", p.Name, strings.Join(r.providers, ", "))
	}
	name := r.providers[has]
	var err error
	switch name {
	case "CPUExecutionProvider":
	case "CUDAExecutionProvider":
		err = addCUDA(o, p.Options)
	case "TensorrtExecutionProvider":
		err = addTensorRT(o, p.Options)
	case "OpenVINOExecutionProvider":
		err = o.AppendExecutionProviderOpenVINO(p.Options)
	default:
		err = o.AppendExecutionProvider(strings.TrimSuffix(name, "ExecutionProvider"), p.Options)
	}
	if err != nil && cfg.Fallback {
		r.log.Warn("execution provider is left out", "provider", name, "model", cfg.LogID,
			"error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("ort: cannot use execution provider %s: %w", name, err)
	}
	return nil
}

// cudaDefaults are options for CUDA in the place of ONNX Runtime's own. Its own way to choose
// the algorithm of a convolution tries all of them, for a second and more, each time that a batch
// has another size than the last.
var cudaDefaults = map[string]string{"cudnn_conv_algo_search": "HEURISTIC"}

func addCUDA(o *binding.SessionOptions, options map[string]string) error {
	cuda, err := binding.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer cuda.Destroy()
	all := maps.Clone(cudaDefaults) // an update takes back all that it does not name
	maps.Copy(all, options)
	if err := cuda.Update(all); err != nil {
		return err
	}
	return o.AppendExecutionProviderCUDA(cuda)
}

func addTensorRT(o *binding.SessionOptions, options map[string]string) error {
	trt, err := binding.NewTensorRTProviderOptions()
	if err != nil {
		return err
	}
	defer trt.Destroy()
	if err := trt.Update(options); err != nil {
		return err
	}
	return o.AppendExecutionProviderTensorRT(trt)
}

// describe reads the names, types and shapes of the live session.
func (s *Session) describe() error {
	var e C.mr_error
	var in, out C.size_t
	if C.mr_counts(s.session, &in, &out, &e) != 0 {
		return newError(&e)
	}
	var err error
	if s.inputs, s.inputNames, err = s.specs(0, int(in)); err != nil {
		return err
	}
	s.outputs, s.outputNames, err = s.specs(1, int(out))
	for i := range s.inputs {
		s.elems = append(s.elems, elemOf(s.inputs[i].Datatype))
	}
	return err
}

// specs describes the inputs, or the outputs, and makes the C array of their
// names, which is the session's even where an error comes with it.
func (s *Session) specs(output C.int, n int) ([]tensor.Spec, **C.char, error) {
	names := (**C.char)(C.calloc(C.size_t(n+1), C.size_t(unsafe.Sizeof(uintptr(0)))))
	list := unsafe.Slice(names, n)
	specs := make([]tensor.Spec, n)
	for i := range n {
		var err error
		if specs[i], list[i], err = s.spec(output, i); err != nil {
			return specs, names, fmt.Errorf("ort: cannot serve %s %q: %w",
				[...]string{"input", "output"}[output], specs[i].Name, err)
		}
	}
	return specs, names, nil
}

// spec describes one input or output and copies its name for C.
func (s *Session) spec(output C.int, i int) (tensor.Spec, *C.char, error) {
	var c C.mr_spec
	var e C.mr_error
	defer C.mr_spec_free(&c)
	if C.mr_describe(s.session, output, C.size_t(i), &c, &e) != 0 {
		return tensor.Spec{Name: C.GoString(c.name)}, nil, newError(&e)
	}
	spec := specOf(&c)
	switch {
	case output == 0 && c.container != 0:
		return spec, nil, errors.New("sequences and maps work as outputs only")
	case spec.Datatype == tensor.Invalid:
		return spec, nil, fmt.Errorf("its element type %s is not one of the protocol",
			elemName(c.elem))
	}
	return spec, C.CString(spec.Name), nil
}

func specOf(c *C.mr_spec) tensor.Spec {
	spec := tensor.Spec{
		Name: C.GoString(c.name), Datatype: datatypeOf(c.elem), BatchAxis: -1,
		Optional: c.optional != 0,
		Shape:    make([]int64, c.rank), DimNames: make([]string, c.rank),
	}
	for d := range spec.Shape {
		spec.Shape[d] = max(-1, int64(c.shape[d]))
		if c.dim_names[d] != nil {
			spec.DimNames[d] = C.GoString(c.dim_names[d])
		}
	}
	return spec
}

// datatypes are the protocol's, by ONNXTensorElementDataType.
var datatypes = [...]tensor.Datatype{
	1: tensor.FP32, 2: tensor.Uint8, 3: tensor.Int8, 4: tensor.Uint16, 5: tensor.Int16,
	6: tensor.Int32, 7: tensor.Int64, 8: tensor.Bytes, 9: tensor.Bool, 10: tensor.FP16,
	11: tensor.FP64, 12: tensor.Uint32, 13: tensor.Uint64, 16: tensor.BF16,
}

// others are the names of the element types that the protocol has no
// datatype for, by ONNXTensorElementDataType.
var others = map[C.int]string{
	14: "COMPLEX64", 15: "COMPLEX128", 17: "FLOAT8E4M3FN", 18: "FLOAT8E4M3FNUZ", 19: "FLOAT8E5M2",
	20: "FLOAT8E5M2FNUZ", 21: "UINT4", 22: "INT4", 23: "FLOAT4E2M1", 24: "UINT2", 25: "INT2",
}

func elemName(elem C.int) string {
	if name, ok := others[elem]; ok {
		return name
	}
	return strconv.Itoa(int(elem))
}

func datatypeOf(elem C.int) tensor.Datatype {
	if elem < 0 || int(elem) >= len(datatypes) {
		return tensor.Invalid
	}
	return datatypes[elem]
}

func elemOf(d tensor.Datatype) C.int { return C.int(slices.Index(datatypes[:], d)) }

// Inputs describes the inputs. Variable dimensions are -1; BatchAxis is -1.
func (s *Session) Inputs() []tensor.Spec { return s.inputs }

// Outputs describes the outputs. A sequence of maps (ZipMap) is a matrix.
func (s *Session) Outputs() []tensor.Spec { return s.outputs }

// Close gives the model's memory back. No Call of it may be in use.
func (s *Session) Close() {
	if s.session != nil {
		C.mr_session_close(s.session)
	}
	freeNames(s.inputNames, len(s.inputs))
	freeNames(s.outputNames, len(s.outputs))
	s.session, s.inputNames, s.outputNames = nil, nil, nil
}

func freeNames(names **C.char, n int) {
	if names == nil {
		return
	}
	for _, name := range unsafe.Slice(names, n) {
		C.free(unsafe.Pointer(name))
	}
	C.free(unsafe.Pointer(names))
}

// Is says whether the provider is the one with a short name, such as cuda.
func (p Provider) Is(short string) bool {
	return strings.EqualFold(p.Name, short) || strings.EqualFold(p.Name, short+"ExecutionProvider")
}

// CUDA returns the provider for a device with a memory limit in bytes, 0 for none.
func CUDA(device int, memoryLimit int64) Provider {
	p := Provider{Name: "cuda", Options: map[string]string{"device_id": strconv.Itoa(device)}}
	if memoryLimit > 0 {
		p.Options["gpu_mem_limit"] = strconv.FormatInt(memoryLimit, 10)
	}
	return p
}
