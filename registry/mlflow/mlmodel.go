package mlflow

import (
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Flavors are the ways in which a model can be loaded, by name.
type Flavors []string

// pythonFunction is the flavor that MLflow adds to those of the libraries.
const pythonFunction = "python_function"

// ParseFlavors reads the flavors of an MLmodel file, whose size the caller bounds.
// Its error is ErrForeign.
func ParseFlavors(text []byte) (Flavors, error) {
	var m struct {
		Flavors map[string]yaml.Node `yaml:"flavors"`
	}
	if err := yaml.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("%w: MLmodel: %w", ErrForeign, err)
	}
	if len(m.Flavors) == 0 {
		return nil, fmt.Errorf("%w: MLmodel names no flavors", ErrForeign)
	}
	return slices.Sorted(maps.Keys(m.Flavors)), nil
}

// ONNX says whether the model can be served as it is.
func (f Flavors) ONNX() bool { return slices.Contains(f, "onnx") }

// Library names the library that made the model: onnx if it is among them, or the
// first, as in sklearn, xgboost, lightgbm or pytorch. A model of Python code alone
// is of none, "".
func (f Flavors) Library() string {
	if f.ONNX() {
		return "onnx"
	}
	for _, name := range f {
		if name != pythonFunction {
			return name
		}
	}
	return ""
}
