package capture

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

var (
	// ErrFile is returned for a file that no tap has written.
	ErrFile = errors.New("capture: not a file of samples")
	// ErrMixed is returned for samples of several models or versions.
	ErrMixed = errors.New("capture: samples of several models")
)

// Options say which samples count and what of them.
type Options struct {
	// Endpoint, Model and Version, where they are given, are those that count.
	Endpoint, Model, Version string
	// Signature is the model's, for the names of columns and classes. Without it they
	// are numbered, and the first dimension of all tensors counts rows.
	Signature *tensor.Signature
	// Reference is for the profile. Outputs are known here and need not be named.
	Reference reference.Options
}

// sample is one record of a file.
type sample struct {
	at                       time.Time
	endpoint, model, version string
	outcome                  string
	tensors                  [2][]tensor.Tensor // inputs, outputs; without those that are null
}

// Builder gathers samples.
type Builder struct {
	options   Options
	first     *sample // that counted
	signature *tensor.Signature
	rows      *drift.Rows
	collector *reference.Collector
	last      time.Time
	samples   int
	varying   []string // tensors whose rows are of different sizes
}

// NewBuilder returns a builder without samples.
func NewBuilder(o Options) *Builder { return &Builder{options: o} }

// Samples returns how many samples count so far.
func (b *Builder) Samples() int { return b.samples }

// Build makes a profile of the samples so far.
func (b *Builder) Build() (*reference.Profile, error) {
	if b.collector == nil {
		return nil, fmt.Errorf("%w: there is no answered request among the samples",
			reference.ErrRows)
	}
	columns := b.rows.Columns()
	for _, name := range b.varying {
		part := drift.NewRows(b.only(name)).Columns()
		columns = slices.DeleteFunc(columns, func(c string) bool {
			return slices.Contains(part, c)
		})
		b.collector.Ignore(part...)
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("%w: no tensor can be watched; all are redacted, or of different "+
			"sizes, which the model's signature must say: --models and --model",
			reference.ErrColumn)
	}
	return b.collector.Build()
}

// only returns a signature with no other tensor than this.
func (b *Builder) only(name string) *tensor.Signature {
	other := func(s tensor.Spec) bool { return s.Name != name }
	s := tensor.Signature{MaxBatchSize: b.signature.MaxBatchSize}
	s.Inputs = slices.DeleteFunc(slices.Clone(b.signature.Inputs), other)
	s.Outputs = slices.DeleteFunc(slices.Clone(b.signature.Outputs), other)
	return &s
}

// add takes a sample, unless it does not count.
func (b *Builder) add(s *sample) error {
	o := &b.options
	if s.outcome != "ok" || o.Endpoint != "" && s.endpoint != o.Endpoint ||
		o.Model != "" && s.model != o.Model || o.Version != "" && s.version != o.Version {
		return nil
	}
	if b.first == nil {
		if err := b.start(s); err != nil {
			return err
		}
	}
	if s.model != b.first.model || s.version != b.first.version {
		return fmt.Errorf("%w: %s version %s and %s version %s; say which", ErrMixed, b.first.model,
			b.first.version, s.model, s.version)
	}
	b.samples++
	// Requests that overlap are written as they end. What is a little late keeps the
	// order, by which the reference knows how dependent rows are.
	if early := b.last.Sub(s.at); early > 0 && early < time.Minute {
		s.at = b.last
	}
	b.last = s.at
	inputs := b.ordered(s.tensors[0], b.signature.Inputs)
	outputs := b.ordered(s.tensors[1], b.signature.Outputs)
	return b.rows.Each(inputs, outputs, func(row []sketch.Value) error {
		return b.collector.Add(s.at, row)
	})
}

// start learns from the first sample what there is.
func (b *Builder) start(s *sample) error {
	b.signature = b.options.Signature
	if b.signature == nil {
		b.signature = guess(s)
	}
	b.rows = drift.NewRows(b.signature)
	columns := b.rows.Columns()
	o := b.options.Reference
	inputs := drift.NewRows(&tensor.Signature{Inputs: b.signature.Inputs,
		MaxBatchSize: b.signature.MaxBatchSize})
	o.Outputs = columns[len(inputs.Columns()):]
	var err error
	if b.collector, err = reference.NewCollector(columns, o); err != nil {
		return err
	}
	b.first = s
	return nil
}

// guess makes up the signature of a model that has answered a sample.
func guess(s *sample) *tensor.Signature {
	sig := &tensor.Signature{Model: s.model, MaxBatchSize: math.MaxInt32}
	rows := int64(-1)
	for _, list := range s.tensors {
		for i := range list {
			shape := list[i].Shape
			if len(shape) == 0 || rows >= 0 && shape[0] != rows {
				sig.MaxBatchSize = 0
				continue
			}
			rows = shape[0]
		}
	}
	for side, list := range s.tensors {
		for i := range list {
			spec := tensor.Spec{Name: list[i].Name, Datatype: list[i].Datatype, BatchAxis: -1,
				Shape: slices.Clone(list[i].Shape)}
			if sig.MaxBatchSize > 0 {
				spec.BatchAxis, spec.Shape[0] = 0, -1
			}
			if side == 0 {
				sig.Inputs = append(sig.Inputs, spec)
			} else {
				sig.Outputs = append(sig.Outputs, spec)
			}
		}
	}
	return sig
}

// ordered returns the tensors in the order of their specs; those that are not there, or
// have rows of another size, are invalid.
func (b *Builder) ordered(list []tensor.Tensor, specs []tensor.Spec) []tensor.Tensor {
	all := make([]tensor.Tensor, len(specs))
	for i := range specs {
		s := &specs[i]
		at := slices.IndexFunc(list, func(t tensor.Tensor) bool { return t.Name == s.Name })
		if at < 0 {
			continue
		}
		all[i] = list[at]
		if !fits(all[i].Shape, s) {
			all[i] = tensor.Tensor{}
			if !slices.Contains(b.varying, s.Name) {
				b.varying = append(b.varying, s.Name)
			}
		}
	}
	return all
}

func fits(shape []int64, s *tensor.Spec) bool {
	return slices.EqualFunc(shape, s.Shape, func(got, want int64) bool {
		return want < 0 || got == want
	})
}
