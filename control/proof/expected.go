package proof

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// expectedFile is the name of the answers that an artifact expects: requests and responses
// of the inference protocol, {"cases": [{"request": {"inputs": [...]}, "response":
// {"outputs": [...]}, "rtol": 1e-4, "atol": 1e-5}]}. Outputs that a response leaves out
// are not looked at.
const expectedFile = "expected.json"

// answers is what an expectedFile holds.
type answers struct {
	Cases []struct {
		Request  json.RawMessage
		Response struct{ Outputs json.RawMessage }
		Rtol     *float64
		Atol     *float64
	}
}

// tolerance is how far a float may be from what is expected:
// |got - want| <= absolute + relative |want|.
type tolerance struct{ relative, absolute float64 }

// usual is for cases that say nothing: libraries that train and those that serve add in
// different orders, in FP32.
var usual = tolerance{relative: 1e-4, absolute: 1e-6}

// expected has the version give the answers that its artifact expects, and returns how
// many cases there are: none where the artifact brings no such file.
func (r *runner) expected(ctx context.Context, folder fs.FS) (int, error) {
	body, err := read(folder, expectedFile, maxArtifact)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var all answers
	if err == nil {
		err = json.Unmarshal(body, &all)
	}
	if err == nil && len(all.Cases) == 0 {
		err = errors.New("there are no \"cases\"")
	}
	if err != nil {
		return 0, fmt.Errorf("expected answers: cannot read %s: %w", expectedFile, err)
	}
	for i, c := range all.Cases {
		tol := usual
		if c.Rtol != nil {
			tol.relative = *c.Rtol
		}
		if c.Atol != nil {
			tol.absolute = *c.Atol
		}
		if err := r.expect(ctx, c.Request, c.Response.Outputs, tol); err != nil {
			return i, fmt.Errorf("expected answers: case %d: %w", i, err)
		}
	}
	return len(all.Cases), nil
}

// expect has the version answer one request.
func (r *runner) expect(
	ctx context.Context, request, outputs json.RawMessage, tol tolerance,
) error {
	if tol.relative < 0 || tol.absolute < 0 {
		return errors.New("rtol and atol must not be negative")
	}
	var want wire.Request
	defer want.Mem.Free()
	asWritten := &tensor.Signature{Model: r.v.Name(), Inputs: r.v.Signature().Outputs}
	if outputs == nil {
		return errors.New("the response has no \"outputs\"")
	}
	if err := wire.Decode(&want, asWritten, under("inputs", outputs), -1); err != nil {
		return fmt.Errorf("the response, its outputs read as inputs: %w", err)
	}
	r.request.Reset()
	if err := wire.Decode(&r.request, r.v.Signature(), request, -1); err != nil {
		return err
	}
	left := slices.DeleteFunc(want.Inputs, func(t tensor.Tensor) bool {
		return t.Datatype == tensor.Invalid
	})
	if len(left) == 0 {
		return errors.New("the response has no outputs")
	}
	_, err := r.run(ctx, func(p part) error {
		for i := range left {
			got := &p.outputs[r.v.Signature().Output([]byte(left[i].Name))]
			if err := equal(got, &left[i], tol, p.first); err != nil {
				return fmt.Errorf("output %q %w", left[i].Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, t := range left {
		if len(t.Shape) > 0 && t.Shape[0] > 0 {
			return fmt.Errorf("output %q lacks %s", t.Name, count(int(t.Shape[0]), "row"))
		}
	}
	return nil
}

// equal holds an output against the next rows of what is wanted, and takes these out of
// it. first is the number of the first of them.
func equal(got, wanted *tensor.Tensor, tol tolerance, first int64) error {
	want := *wanted
	if len(want.Shape) > 0 && len(got.Shape) > 0 && got.Shape[0] <= want.Shape[0] {
		want = take(wanted, got.Shape[0])
	}
	if !slices.Equal(got.Shape, want.Shape) {
		return fmt.Errorf("is of shape %s, expected %s", tensor.FormatShape(got.Shape),
			tensor.FormatShape(want.Shape))
	}
	next, stop := iter.Pull2(elements(&want))
	defer stop()
	for i, g := range elements(got) {
		if _, w, _ := next(); !same(g, w, tol) {
			return fmt.Errorf("at %s is %s, expected %s%s", at(got.Shape, i, first), text(g),
				text(w), within(w, tol))
		}
	}
	return nil
}

// same compares two elements of one datatype.
func same(got, want any, tol tolerance) bool {
	g, ok := got.(float64)
	if !ok || got == want {
		return got == want
	}
	w := want.(float64)
	if !finite(g) || !finite(w) {
		return math.IsNaN(g) && math.IsNaN(w)
	}
	return math.Abs(g-w) <= tol.absolute+tol.relative*math.Abs(w)
}

// within says how far off would have been near enough.
func within(want any, tol tolerance) string {
	w, ok := want.(float64)
	if !ok || !finite(w) {
		return ""
	}
	return " to within " + text(tol.absolute+tol.relative*math.Abs(w))
}
