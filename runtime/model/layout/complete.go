package layout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Inspected is what a session says of a model, and what MLflow said of it
// when it was logged.
type Inspected struct {
	Inputs, Outputs []tensor.Spec
	MLflow          *MLflow // nil for a model that did not come from there
}

// Complete holds a configuration against the model and fills in what it leaves
// open, with defaultBatch as max_batch_size of a model that seems to have a
// batch axis. claimed says that the configuration itself asks for batching;
// else the axes are candidates, which a run has to prove.
func (f *Folder) Complete(got Inspected,
	defaultBatch int) (cfg *configpb.ModelConfig, sig *tensor.Signature, claimed bool, err error) {
	cfg = &configpb.ModelConfig{}
	if f.Config != nil {
		cfg = proto.Clone(f.Config).(*configpb.ModelConfig)
	}
	claimed = cfg.MaxBatchSize > 0 || len(cfg.Input) > 0 || fullOutputs(cfg, got.Outputs)
	cfg.Name, cfg.Platform, cfg.Backend = f.Name, "onnxruntime_onnx", "onnxruntime"
	if cfg.DefaultModelFilename == "" {
		cfg.DefaultModelFilename = defaultFile
	}
	sig = &tensor.Signature{Inputs: slices.Clone(got.Inputs), Outputs: slices.Clone(got.Outputs)}
	if err := got.MLflow.narrow(sig); err != nil {
		return nil, nil, claimed, err
	}
	if !claimed && candidateAxes(sig) {
		cfg.MaxBatchSize = int32(defaultBatch)
		if cfg.SchedulingChoice == nil && defaultBatch > 1 {
			cfg.SchedulingChoice = &configpb.ModelConfig_DynamicBatching{
				DynamicBatching: &configpb.ModelDynamicBatching{}}
		}
	}
	sig.MaxBatchSize = int(cfg.MaxBatchSize)
	if claimed && cfg.MaxBatchSize > 0 {
		candidateAxes(sig)
	}
	var faults []error
	faults = append(faults, checkTensors(cfg, sig)...)
	faults = append(faults, f.labels(cfg, sig), nameFeatures(cfg, sig))
	if err := errors.Join(faults...); err != nil {
		return nil, nil, claimed, err
	}
	fillTensors(cfg, sig)
	return cfg, sig, claimed, nil
}

// fullOutputs says whether a configuration lists outputs with as many
// dimensions as they have in the model: then it claims that there is no batch axis.
func fullOutputs(cfg *configpb.ModelConfig, outputs []tensor.Spec) bool {
	return slices.ContainsFunc(cfg.Output, func(out *configpb.ModelOutput) bool {
		return slices.ContainsFunc(outputs, func(s tensor.Spec) bool {
			return s.Name == out.Name && len(s.Shape) == len(out.Dims)
		})
	})
}

// candidateAxes sets the batch axis of each input and output to where it may
// be: axis 0 where it varies, else the only axis that does, or the one of the
// same symbolic name; scalars among the inputs have none. It returns false,
// and sets none, when an input leaves no candidate. An output that leaves none
// has -1: a run has to show its axis.
func candidateAxes(sig *tensor.Signature) bool {
	name := ""
	for i := range sig.Inputs {
		if s := &sig.Inputs[i]; len(s.DimNames) > 0 && s.Shape[0] == -1 {
			name = s.DimNames[0]
			break
		}
	}
	ok := false
	for i := range sig.Inputs {
		s := &sig.Inputs[i]
		s.BatchAxis = candidate(s, name)
		if s.BatchAxis >= 0 {
			ok = true
		} else if len(s.Shape) > 0 {
			ok = false
			break
		}
	}
	for i := range sig.Outputs {
		s := &sig.Outputs[i]
		s.BatchAxis = candidate(s, name)
	}
	if !ok {
		for _, specs := range [][]tensor.Spec{sig.Inputs, sig.Outputs} {
			for i := range specs {
				specs[i].BatchAxis = -1
			}
		}
	}
	return ok
}

func candidate(s *tensor.Spec, name string) int {
	if name != "" {
		if i := slices.Index(s.DimNames, name); i >= 0 && s.Shape[i] == -1 {
			return i
		}
	}
	if len(s.Shape) > 0 && s.Shape[0] == -1 {
		return 0
	}
	axis := -1
	for d, n := range s.Shape {
		if n == -1 && axis >= 0 {
			return -1
		}
		if n == -1 {
			axis = d
		}
	}
	return axis
}

// SetOutputAxes sets the batch axes of the outputs to those that a run has
// shown: a model's shapes do not always tell.
func SetOutputAxes(cfg *configpb.ModelConfig, sig *tensor.Signature, axes []int) {
	for i, axis := range axes {
		s := &sig.Outputs[i]
		if s.BatchAxis == axis {
			continue
		}
		s.BatchAxis = axis
		for _, out := range cfg.Output {
			if out.Name == s.Name && len(out.Dims) == len(s.Shape)-1 {
				out.Dims = slices.Delete(slices.Clone(s.Shape), axis, axis+1)
			}
		}
	}
}

// DropBatching makes a signature one without batch axis: the proof failed.
// What the configuration says of queues stays.
func DropBatching(cfg *configpb.ModelConfig, sig *tensor.Signature) {
	cfg.MaxBatchSize, sig.MaxBatchSize = 0, 0
	if proto.Size(cfg.GetDynamicBatching()) == 0 {
		cfg.SchedulingChoice = nil
	}
	for _, specs := range [][]tensor.Spec{sig.Inputs, sig.Outputs} {
		for i := range specs {
			specs[i].BatchAxis = -1
		}
	}
	cfg.Input, cfg.Output = nil, nil
	fillTensors(cfg, sig)
}

// configured is an input or output of a configuration.
type configured interface {
	GetName() string
	GetDataType() configpb.DataType
	GetDims() []int64
}

func checkTensors(cfg *configpb.ModelConfig, sig *tensor.Signature) []error {
	var faults []error
	for _, in := range cfg.Input {
		faults = append(faults, checkTensor("input", in, sig.Inputs, sig.MaxBatchSize))
	}
	for _, out := range cfg.Output {
		faults = append(faults, checkTensor("output", out, sig.Outputs, sig.MaxBatchSize))
	}
	for i := range sig.Inputs {
		in := &sig.Inputs[i]
		has := slices.ContainsFunc(cfg.Input,
			func(c *configpb.ModelInput) bool { return c.Name == in.Name })
		if len(cfg.Input) > 0 && !has && !in.Optional {
			faults = append(faults,
				fmt.Errorf("%w: the model has the input %q, the configuration has not", ErrConfig,
					in.Name))
		}
	}
	if sig.MaxBatchSize > 0 && len(sig.Inputs) > 0 && sig.Inputs[0].BatchAxis < 0 {
		faults = append(faults,
			fmt.Errorf("%w: max_batch_size is %d, but the model's shapes leave no batch axis: "+
				"input %q is %s; set max_batch_size: 0", ErrConfig, sig.MaxBatchSize,
				sig.Inputs[0].Name,
				tensor.FormatShape(sig.Inputs[0].Shape)))
	}
	return faults
}

// checkTensor narrows a spec to the configured dims, which must be possible ones of it.
func checkTensor(kind string, c configured, specs []tensor.Spec, maxBatch int) error {
	i := slices.IndexFunc(specs, func(s tensor.Spec) bool { return s.Name == c.GetName() })
	if i < 0 {
		var names []string
		for _, s := range specs {
			names = append(names, s.Name)
		}
		return fmt.Errorf("%w: %s %q is not one of the model, which has %s", ErrConfig, kind,
			c.GetName(),
			strings.Join(names, ", "))
	}
	s := &specs[i]
	if want := DataTypeOf(s.Datatype); c.GetDataType() != want {
		return fmt.Errorf("%w: %s %q is %s in the configuration, %s in the model", ErrConfig, kind,
			s.Name,
			c.GetDataType(), want)
	}
	dims := slices.Clone(c.GetDims())
	if r, ok := c.(interface {
		GetReshape() *configpb.ModelTensorReshape
	}); ok && r.GetReshape() != nil {
		dims = slices.Clone(r.GetReshape().Shape)
	}
	if maxBatch > 0 && s.BatchAxis >= 0 && s.BatchAxis <= len(dims) {
		dims = slices.Insert(dims, s.BatchAxis, -1)
	}
	fits := len(dims) == len(s.Shape)
	for d := 0; fits && d < len(dims); d++ {
		fits = dims[d] == s.Shape[d] || dims[d] == -1 || s.Shape[d] == -1
	}
	if !fits {
		return fmt.Errorf(
			"%w: %s %q has dims %s in the configuration (batch axis included), %s in the model",
			ErrConfig, kind, s.Name, tensor.FormatShape(dims), tensor.FormatShape(s.Shape))
	}
	shape := slices.Clone(s.Shape)
	for d := range shape {
		if shape[d] == -1 {
			shape[d] = dims[d]
		}
	}
	s.Shape = shape
	return nil
}

// DataTypeOf returns the configuration's name of a datatype.
func DataTypeOf(d tensor.Datatype) configpb.DataType {
	if d == tensor.Bytes {
		return configpb.DataType_TYPE_STRING
	}
	return configpb.DataType(configpb.DataType_value["TYPE_"+d.String()])
}

// DatatypeOf returns the protocol's name of a configured type.
func DatatypeOf(d configpb.DataType) tensor.Datatype {
	if d == configpb.DataType_TYPE_STRING {
		return tensor.Bytes
	}
	return tensor.ParseDatatype(strings.TrimPrefix(d.String(), "TYPE_"))
}

// fillTensors writes the model's inputs and outputs into a configuration that
// does not list them.
func fillTensors(cfg *configpb.ModelConfig, sig *tensor.Signature) {
	dims := func(s *tensor.Spec) []int64 {
		if sig.MaxBatchSize > 0 && s.BatchAxis >= 0 {
			return slices.Delete(slices.Clone(s.Shape), s.BatchAxis, s.BatchAxis+1)
		}
		return s.Shape
	}
	if len(cfg.Input) == 0 {
		for i := range sig.Inputs {
			s := &sig.Inputs[i]
			cfg.Input = append(cfg.Input, &configpb.ModelInput{
				Name: s.Name, DataType: DataTypeOf(s.Datatype), Dims: dims(s),
				Optional: s.Optional})
		}
	}
	if len(cfg.Output) == 0 {
		for i := range sig.Outputs {
			s := &sig.Outputs[i]
			cfg.Output = append(cfg.Output, &configpb.ModelOutput{
				Name: s.Name, DataType: DataTypeOf(s.Datatype), Dims: dims(s)})
		}
	}
}

// labels reads the label files of the outputs, a name a line.
func (f *Folder) labels(cfg *configpb.ModelConfig, sig *tensor.Signature) error {
	for _, out := range cfg.Output {
		if out.LabelFilename == "" {
			continue
		}
		text, err := f.labelFile(out.LabelFilename)
		if err != nil {
			return fmt.Errorf("cannot read the labels of output %q: %w", out.Name, err)
		}
		for i := range sig.Outputs {
			if sig.Outputs[i].Name == out.Name {
				sig.Outputs[i].Labels = strings.Split(strings.TrimRight(string(text), "\r\n"), "\n")
			}
		}
	}
	return nil
}

// labelFile reads a label file, which lies in the model's folder.
func (f *Folder) labelFile(name string) ([]byte, error) {
	path := filepath.Join(f.Dir, name)
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%w: label_filename %q leads out of the folder", ErrConfig, name)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: the file %q is missing", ErrConfig, name)
	}
	if err := inside(f.Dir, path); err != nil {
		return nil, err
	}
	return readBounded(path)
}
