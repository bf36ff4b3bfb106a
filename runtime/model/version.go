// Package model takes model versions from files to READY and serves them.
//
// A [Repository] watches folders, tries each new version in a child process,
// loads it beside the one that serves, and switches by one pointer. A request
// pins a [Version] with Acquire, uses it, and gives it back with Release; a
// version that was replaced closes when its last request has finished.
//
// Both may be used concurrently.
package model

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

var (
	// ErrUnknownModel is returned for a model or version that no repository has.
	//lint:ignore ST1005 clients of Triton look for this text
	ErrUnknownModel = errors.New("Request for unknown model")
	// ErrNotReady is returned for a model that is known and cannot serve now.
	//lint:ignore ST1005 clients of Triton look for this text
	ErrNotReady = errors.New("Model version not ready")
	// ErrBadInput is returned for inputs that the model does not take.
	ErrBadInput = errors.New("bad input")
	// ErrRun is returned when the model refused the values that it was given.
	ErrRun = errors.New("the model failed on this input")
	// ErrLoad is returned when a model could not be loaded.
	ErrLoad = errors.New("failed to load")
	// ErrNotExplicit is returned for load and unload where folders decide.
	ErrNotExplicit = errors.New("explicit model load / unload is not allowed " +
		"if polling is enabled or models are loaded at start; use mode explicit")
)

// Version is one loaded model version.
type Version struct {
	name, version string
	sig           *tensor.Signature
	cfg           *configpb.ModelConfig
	session       *ort.Session
	batcher       *batch.Batcher
	fingerprint   string
	loadTime      time.Duration
	fileBytes     int64

	_        [64]byte // what every request writes stands alone in its cache line
	inFlight atomic.Int64
	closed   atomic.Bool
	drained  chan struct{}
	once     sync.Once
}

// Name returns the model's name.
func (v *Version) Name() string { return v.name }

// Version returns the version's name.
func (v *Version) Version() string { return v.version }

// Digest tells the version's files and settings from all others of its name.
func (v *Version) Digest() string { return v.fingerprint }

// Signature returns what the model takes and gives.
func (v *Version) Signature() *tensor.Signature { return v.sig }

// Config returns the completed configuration, which must not be changed.
func (v *Version) Config() *configpb.ModelConfig { return v.cfg }

// Platform returns what Triton calls the back end.
func (v *Version) Platform() string { return "onnxruntime_onnx" }

// Stats returns what was counted since the version was loaded.
func (v *Version) Stats() batch.Stats { return v.batcher.Stats() }

// LoadTime returns how long it took from files to READY, the trial left out.
func (v *Version) LoadTime() time.Duration { return v.loadTime }

// FileBytes returns the size of the version's files: the least memory that
// its weights take.
func (v *Version) FileBytes() int64 { return v.fileBytes }

// acquire pins the version, unless it is closing.
func (v *Version) acquire() bool {
	v.inFlight.Add(1)
	if v.closed.Load() {
		v.Release()
		return false
	}
	return true
}

// Release ends what Acquire began.
func (v *Version) Release() {
	if v.inFlight.Add(-1) == 0 && v.closed.Load() {
		v.once.Do(func() { close(v.drained) })
	}
}

// drain waits until the last request has finished and closes the session.
// Nobody may find the version any more.
func (v *Version) drain() {
	v.closed.Store(true)
	if v.inFlight.Load() == 0 {
		v.once.Do(func() { close(v.drained) })
	}
	<-v.drained
	v.batcher.Close()
	v.session.Close()
	// What loading left behind goes too: without load nothing else collects it.
	debug.FreeOSMemory()
	ort.TrimMemory()
}

// engine makes a session's calls batch.Calls.
type engine struct{ *ort.Session }

func (e engine) NewCall() (batch.Call, error) { return e.Session.NewCall() }

// Do checks the inputs of t against the signature, sets its rows and runs it.
func (v *Version) Do(t *batch.Ticket) error {
	var err error
	if t.Rows, err = v.check(t.Inputs); err != nil {
		return err
	}
	return refused(v.batcher.Do(t))
}

// Submit is Do for a ticket with a Waiter; see [batch.Batcher.Submit]. The
// Waiter takes the outcome from [Outcome].
func (v *Version) Submit(t *batch.Ticket) error {
	var err error
	if t.Rows, err = v.check(t.Inputs); err != nil {
		return err
	}
	return v.batcher.Submit(t)
}

// Cancel ends the waiting of a submitted ticket; see [batch.Batcher.Cancel].
func (v *Version) Cancel(t *batch.Ticket) bool { return v.batcher.Cancel(t) }

// Outcome returns what became of a submitted ticket.
func Outcome(t *batch.Ticket) error { return refused(t.Outcome()) }

// Drive runs what was submitted; see [batch.Batcher.Drive]. It may be called
// on a version that has closed.
func (v *Version) Drive(longest time.Duration) (left bool) { return v.batcher.Drive(longest) }

// refused marks an error of the model as one of its input.
func refused(err error) error {
	if err == nil {
		return nil
	}
	var failed *ort.Error
	if errors.As(err, &failed) {
		return fmt.Errorf("%w: %w", ErrRun, err)
	}
	return err
}

// check returns the rows of a request.
func (v *Version) check(inputs []tensor.Tensor) (int, error) {
	rows := int64(-1)
	for i := range v.sig.Inputs {
		spec, in := &v.sig.Inputs[i], &inputs[i]
		if in.Datatype == tensor.Invalid {
			if spec.Optional {
				continue
			}
			return 0, v.missing(inputs)
		}
		if !tensor.Fits(in.Shape, spec.Shape) {
			return 0, fmt.Errorf("%w: unexpected shape for input '%s' for model '%s'. "+
				"Expected %s, got %s", ErrBadInput, spec.Name, v.name,
				tensor.FormatShape(spec.Shape), tensor.FormatShape(in.Shape))
		}
		if spec.BatchAxis < 0 || v.sig.MaxBatchSize == 0 {
			continue
		}
		n := in.Shape[spec.BatchAxis]
		if rows >= 0 && n != rows {
			return 0, fmt.Errorf("%w: input '%s' batch size does not match other inputs for '%s': "+
				"%d, not %d", ErrBadInput, spec.Name, v.name, n, rows)
		}
		rows = n
	}
	if rows < 0 {
		return 1, nil
	}
	if rows > int64(v.sig.MaxBatchSize) {
		return 0, fmt.Errorf("%w: inference request batch-size must be <= %d for '%s', got %d",
			ErrBadInput, v.sig.MaxBatchSize, v.name, rows)
	}
	if rows == 0 {
		return 0, fmt.Errorf("%w: the batch of the request for '%s' is empty", ErrBadInput, v.name)
	}
	return int(rows), nil
}

func (v *Version) missing(inputs []tensor.Tensor) error {
	var got, missing []string
	required := 0
	for i := range v.sig.Inputs {
		if !v.sig.Inputs[i].Optional {
			required++
		}
		name := "'" + v.sig.Inputs[i].Name + "'"
		if inputs[i].Datatype != tensor.Invalid {
			got = append(got, name)
		} else if !v.sig.Inputs[i].Optional {
			missing = append(missing, name)
		}
	}
	expected := fmt.Sprintf("%d inputs", len(v.sig.Inputs))
	if required < len(v.sig.Inputs) {
		expected = fmt.Sprintf("number of inputs between %d and %d", required, len(v.sig.Inputs))
	}
	//lint:ignore ST1005 clients of Triton look for this text
	return fmt.Errorf("%w: expected %s but got %d inputs for model '%s'. "+
		"Got input(s) [%s], but missing required input(s) [%s]. "+
		"Please provide all required input(s).", ErrBadInput,
		expected, len(got), v.name, strings.Join(got, ","), strings.Join(missing, ","))
}
