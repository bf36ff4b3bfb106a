// Package converter_test runs the example converter on real models.
package converter_test

import (
	"testing"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
)

// TestConvert wants of ONNX Runtime what models of scikit-learn, XGBoost and LightGBM
// answer themselves.
func TestConvert(t *testing.T) {
	venv.Run(t, venv.Python(t, "requirements.txt"), "test_convert.py", t.TempDir())
}
