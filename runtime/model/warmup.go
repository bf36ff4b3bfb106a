package model

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Bounds of warm-up requests: what is beyond them is a slip, and would keep a
// version from READY for long.
const (
	maxWarmups       = 100     // requests of one model
	maxWarmupRuns    = 10_000  // of one request
	maxWarmupBytes   = 1 << 30 // of one input
	maxWarmupElement = 1 << 26 // elements of one made-up input
)

// warmer runs the warm-up requests of a configuration on a session.
type warmer struct {
	folder layout.Folder // whose warmup folder holds the files
	cfg    *configpb.ModelConfig
	sig    *tensor.Signature
	mem    tensor.Arena
	rand   *rand.Rand
}

// warmUp runs the model as its configuration's model_warmup says. An error
// says which request failed, and why.
func warmUp(f layout.Folder, cfg *configpb.ModelConfig, sig *tensor.Signature,
	s *ort.Session) error {
	if len(cfg.ModelWarmup) == 0 {
		return nil
	}
	if len(cfg.ModelWarmup) > maxWarmups {
		return fmt.Errorf("model_warmup has %d requests, at most %d are run", len(cfg.ModelWarmup),
			maxWarmups)
	}
	w := warmer{folder: f, cfg: cfg, sig: sig, rand: rand.New(rand.NewPCG(1, 2))}
	defer w.mem.Free()
	call, err := s.NewCall()
	if err != nil {
		return err
	}
	defer call.Close()
	for i, request := range cfg.ModelWarmup {
		if err := w.run(call, request); err != nil {
			return fmt.Errorf("model_warmup[%d] %q: %w", i, request.Name, err)
		}
	}
	return nil
}

func (w *warmer) run(call *ort.Call, request *configpb.ModelWarmup) error {
	if request.Count > maxWarmupRuns {
		return fmt.Errorf("count is %d, must be at most %d", request.Count, maxWarmupRuns)
	}
	rows := int64(request.BatchSize)
	switch limit := int64(w.sig.MaxBatchSize); {
	case limit == 0 && rows > 1:
		return fmt.Errorf("batch_size is %d, but the model has no batch axis", rows)
	case limit > 0 && rows > limit:
		return fmt.Errorf("batch_size is %d, max_batch_size is %d", rows, limit)
	}
	w.mem.Reset(1 << 20)
	inputs := make([]tensor.Tensor, len(w.sig.Inputs))
	for name := range request.Inputs {
		if w.sig.Input([]byte(name)) < 0 {
			return fmt.Errorf("input %q is not one of the model", name)
		}
	}
	for i := range w.sig.Inputs {
		spec := &w.sig.Inputs[i]
		in := request.Inputs[spec.Name]
		if in == nil {
			if spec.Optional {
				continue
			}
			return fmt.Errorf("input %q is missing", spec.Name)
		}
		var err error
		if inputs[i], err = w.input(spec, in, max(rows, 1)); err != nil {
			return fmt.Errorf("input %q: %w", spec.Name, err)
		}
	}
	for range max(request.Count, 1) {
		if _, err := call.Run(inputs, 0); err != nil {
			return err
		}
	}
	return nil
}

// input makes one input of a request.
func (w *warmer) input(spec *tensor.Spec, in *configpb.ModelWarmup_Input,
	rows int64) (tensor.Tensor, error) {
	t := tensor.Tensor{Name: spec.Name, Datatype: spec.Datatype, Shape: slices.Clone(in.Dims)}
	if want := layout.DataTypeOf(spec.Datatype); in.DataType != want {
		return t, fmt.Errorf("data_type is %s, the model's is %s", in.DataType, want)
	}
	if spec.BatchAxis >= 0 && w.sig.MaxBatchSize > 0 && spec.BatchAxis <= len(t.Shape) {
		t.Shape = slices.Insert(t.Shape, spec.BatchAxis, rows)
	}
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return t, err
	}
	if !tensor.Fits(t.Shape, spec.Shape) {
		return t, fmt.Errorf("its shape is %s (batch axis included), the model takes %s",
			tensor.FormatShape(t.Shape), tensor.FormatShape(spec.Shape))
	}
	var data []byte
	switch source := in.InputDataType.(type) {
	case *configpb.ModelWarmup_Input_InputDataFile:
		data, err = w.file(source.InputDataFile, &t)
	case *configpb.ModelWarmup_Input_ZeroData, *configpb.ModelWarmup_Input_RandomData:
		if n > maxWarmupElement {
			return t, fmt.Errorf("it has %d elements, at most %d are made up", n, maxWarmupElement)
		}
		_, random := source.(*configpb.ModelWarmup_Input_RandomData)
		data = w.made(spec.Datatype, n, random)
	default:
		return t, errors.New("give zero_data, random_data or input_data_file")
	}
	if err != nil {
		return t, err
	}
	if t.Data, err = w.mem.Alloc(len(data)); err != nil {
		return t, err
	}
	copy(t.Data, data)
	return t, t.Check()
}

// made returns n elements, zeros (empty strings) or random ones.
func (w *warmer) made(d tensor.Datatype, n int64, random bool) []byte {
	if !random {
		size := int64(d.Size())
		if d == tensor.Bytes {
			size = 4 // the length of an empty string
		}
		return make([]byte, n*size)
	}
	var data []byte
	for range n {
		data = tensor.AppendRandom(data, d, w.rand.Float64(), w.rand)
	}
	return data
}

// file reads a file of the warmup folder, in the protocol's binary layout.
func (w *warmer) file(name string, t *tensor.Tensor) ([]byte, error) {
	path, err := w.folder.WarmupFile(name)
	if err != nil {
		return nil, err
	}
	limit := int64(maxWarmupBytes)
	if t.Datatype != tensor.Bytes {
		size, err := tensor.ByteSize(t.Datatype, t.Shape)
		if err != nil {
			return nil, err
		}
		limit = min(limit, size)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", filepath.Base(path), errors.Unwrap(err))
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than the %d bytes of the input", name, limit)
	}
	return data, err
}
