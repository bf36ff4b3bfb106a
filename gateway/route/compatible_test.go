package route

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func TestCompatible(t *testing.T) {
	input := func(name string, d tensor.Datatype, shape ...int64) tensor.Spec {
		return tensor.Spec{Name: name, Datatype: d, Shape: shape}
	}
	optional := func(s tensor.Spec) tensor.Spec {
		s.Optional = true
		return s
	}
	x := input("x", tensor.FP32, -1, 4)
	f := func(stable, other []tensor.Spec, want ...string) {
		t.Helper()
		err := Compatible(&tensor.Signature{Model: "a", Inputs: stable},
			&tensor.Signature{Model: "b", Inputs: other})
		if (err != nil) != (len(want) > 0) {
			t.Errorf("%v and %v: %v, want %q", stable, other, err, want)
			return
		}
		for _, text := range want {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%v and %v: %v, want %q", stable, other, err, text)
			}
		}
	}
	type specs = []tensor.Spec
	y := input("y", tensor.Bytes, -1)
	f(specs{x, y}, specs{y, x})
	f(specs{x}, specs{input("x", tensor.FP32, 1, -1)})
	f(specs{input("x", tensor.FP32, 1, -1)}, specs{x})
	f(specs{x}, specs{x, optional(y)})
	f(specs{x}, specs{optional(x)})
	f(nil, nil)

	f(specs{x}, specs{input("x", tensor.FP32, -1, 5)},
		`stable (model "a") takes input "x" as required FP32 [-1,4]`,
		`the other (model "b") takes it as required FP32 [-1,5]`)
	f(specs{x}, specs{input("x", tensor.FP64, -1, 4)}, "required FP64 [-1,4]")
	f(specs{x}, specs{input("x", tensor.FP32, -1)}, "required FP32 [-1]")
	f(specs{x, y}, specs{x}, `takes input "y", required BYTES [-1]`,
		`the other (model "b") has no such input`)
	f(specs{x}, specs{x, y}, `stable (model "a") has no input "y"`,
		`the other (model "b") needs it, required BYTES [-1]`)
	f(specs{optional(x)}, specs{x}, "as optional FP32", "as required FP32")
	f(specs{x}, specs{y}, `"x"`, `"y"`)
}

// TestCheck holds endpoints against versions of which some are not there and
// one takes another input.
func TestCheck(t *testing.T) {
	table, err := New([]Spec{
		{Name: "good", Arms: []ArmSpec{{Name: "stable", Model: "m", Version: "1"},
			{Name: "canary", Model: "m", Version: "2", Weight: 500}}},
		{Name: "bad", Arms: []ArmSpec{{Name: "stable", Model: "m", Version: "1"},
			{Name: "gone", Model: "m", Version: "9"}},
			Shadows: []ShadowSpec{{Name: "other", Model: "n", Percent: 1}}},
		{Name: "none", Arms: []ArmSpec{{Name: "stable", Model: "m", Version: "8"}}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = table.Check(func(model, version []byte) (*tensor.Signature, error) {
		if string(version) > "2" {
			return nil, fmt.Errorf("no %s", version)
		}
		return &tensor.Signature{Model: string(model), Inputs: []tensor.Spec{
			{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, int64(len(version) + 3)}}}}, nil
	})
	want := `endpoint "bad", arm gone: no 9
endpoint "bad", shadow other: stable (model "m") takes input "x" as required FP32 [-1,4]; ` +
		`the other (model "n") takes it as required FP32 [-1,3]
endpoint "none", stable: no 8`
	if err == nil || err.Error() != want {
		t.Errorf("the faults are\n%v\nwant\n%s", err, want)
	}
}
