package layout

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// spec makes an input or output of a notation such as "x FP32 n,4" with names
// of variable dimensions, "?" for one without a name, and "" for a scalar.
func spec(text string) tensor.Spec {
	words := strings.Split(text, " ")
	s := tensor.Spec{Name: words[0], Datatype: tensor.ParseDatatype(words[1]), BatchAxis: -1,
		Shape: []int64{}}
	if len(words) < 3 {
		return s
	}
	for d := range strings.SplitSeq(words[2], ",") {
		n, name := int64(-1), d
		if d == "?" {
			name = ""
		} else if d[0] >= '0' && d[0] <= '9' {
			name, n = "", 0
			for _, c := range d {
				n = 10*n + int64(c-'0')
			}
		}
		s.Shape, s.DimNames = append(s.Shape, n), append(s.DimNames, name)
	}
	return s
}

func specs(texts string) []tensor.Spec {
	var list []tensor.Spec
	for text := range strings.SplitSeq(texts, "; ") {
		list = append(list, spec(text))
	}
	return list
}

func TestCandidateAxes(t *testing.T) {
	f := func(inputs, outputs string, want bool, axes ...int) {
		t.Helper()
		sig := &tensor.Signature{Inputs: specs(inputs), Outputs: specs(outputs)}
		if got := candidateAxes(sig); got != want {
			t.Errorf("%s -> %s: candidates %v, want %v", inputs, outputs, got, want)
		}
		var got []int
		for _, s := range append(sig.Inputs, sig.Outputs...) {
			got = append(got, s.BatchAxis)
		}
		if !slices.Equal(got, axes) {
			t.Errorf("%s -> %s: axes %v, want %v", inputs, outputs, got, axes)
		}
	}
	f("x FP32 n,4", "y FP32 n,2", true, 0, 0)
	f("x FP32 ?,4", "y FP32 ?,2", true, 0, 0)
	f("x FP32 3,4", "y FP32 3,2", false, -1, -1)
	f("x FP32 n,4", "y FP32 1", true, 0, -1)
	f("x FP32 n,4", "y FP32", true, 0, -1)
	f("x FP32 n,4; k INT64", "y FP32 n", true, 0, -1, 0)      // a scalar is equal for all
	f("x FP32 n,4; k INT64 3", "y FP32 n", false, -1, -1, -1) // a vector may not be
	f("x FP32 n,t; h FP32 2,n,8", "y FP32 n,t", true, 0, 1, 0)
	f("x FP32 4,?", "y FP32 ?", true, 1, 0)
	f("x FP32 4,?,?", "y FP32 ?", false, -1, -1)
	f("k INT64", "y FP32 ?", false, -1, -1)
	f("x FP32 n,4", "y FP32 5,?,?", true, 0, -1)
}

func TestComplete(t *testing.T) {
	f := func(config, inputs, outputs, want string) {
		t.Helper()
		folder := Folder{Name: "m", Dir: t.TempDir()}
		if config != "" {
			var err error
			if folder.Config, _, err = ParseConfig([]byte(config)); err != nil {
				t.Fatal(err)
			}
		}
		got := ""
		cfg, sig, claimed, err := folder.Complete(
			Inspected{Inputs: specs(inputs), Outputs: specs(outputs)}, 64)
		if err != nil {
			got = err.Error()
		} else {
			got = tensor.FormatShape([]int64{int64(sig.MaxBatchSize)}) + " " +
				tensor.FormatShape(sig.Inputs[0].Shape) + " " +
				tensor.FormatShape(cfg.Input[0].Dims)
			if claimed {
				got += " claimed"
			}
			if cfg.GetDynamicBatching() != nil {
				got += " dynamic"
			}
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q of %s: got %s, want %s", config, inputs, got, want)
		}
	}
	const x, y = "x FP32 n,4", "y FP32 n,2"
	f(``, x, y, "[64] [-1,4] [4] dynamic")
	f(``, "x FP32 3,4", "y FP32 3", "[0] [3,4] [3,4]")
	f(`max_batch_size: 8`, x, y, "[8] [-1,4] [4] claimed")
	f(`max_batch_size: 8`, "x FP32 3,4", "y FP32 3", "leave no batch axis")
	f(`input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]`, x, y,
		"[0] [-1,4] [-1,4] claimed")
	f(`max_batch_size: 8 input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]`, x, y,
		"[8] [-1,4] [4] claimed")
	f(`max_batch_size: 8 input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]`,
		"x FP32 n,t", "y FP32 n", "[8] [-1,3] [3] claimed")
	f(`input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 5 ] } ]`, x, y, "[-1,5] in the config")
	f(`input [ { name: "x" data_type: TYPE_FP64 dims: [ -1, 4 ] } ]`, x, y,
		"TYPE_FP64 in the configuration, TYPE_FP32 in the model")
	f(`input [ { name: "z" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]`, x, y,
		`input "z" is not one of the model, which has x`)
	f(`output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]`, x, y, "[64] [-1,4] [4] dynamic")
	f(`output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]`, x, y,
		"[0] [-1,4] [-1,4] claimed")
	f(`output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, 3 ] } ]`, x, y, `output "y" has dims`)
}

func TestDropBatching(t *testing.T) {
	f := func(config string, keeps bool) {
		t.Helper()
		folder := Folder{Name: "m"}
		folder.Config, _, _ = ParseConfig([]byte(config))
		cfg, sig, _, err := folder.Complete(
			Inspected{Inputs: specs("x FP32 n,4"), Outputs: specs("y FP32 n")}, 64)
		if err != nil {
			t.Fatal(err)
		}
		DropBatching(cfg, sig)
		if sig.MaxBatchSize != 0 || cfg.MaxBatchSize != 0 || sig.Inputs[0].BatchAxis != -1 ||
			!slices.Equal(cfg.Input[0].Dims, []int64{-1, 4}) {
			t.Errorf("%q: a batch axis is left: %v", config, cfg)
		}
		if got := cfg.GetDynamicBatching() != nil; got != keeps {
			t.Errorf("%q: dynamic_batching is there: %v", config, got)
		}
	}
	f(``, false)
	f(`dynamic_batching { priority_levels: 2 }`, true)
}

func TestLabels(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "m", "labels.txt"), "cat\ndog\n")
	write(t, filepath.Join(dir, "outside.txt"), "x")
	if err := os.Symlink("../outside.txt", filepath.Join(dir, "m", "link.txt")); err != nil {
		t.Fatal(err)
	}
	f := func(file, want string) {
		t.Helper()
		folder := Folder{Name: "m", Dir: filepath.Join(dir, "m"), Config: &configpb.ModelConfig{
			Output: []*configpb.ModelOutput{{Name: "y", DataType: configpb.DataType_TYPE_FP32,
				Dims: []int64{-1, 2}, LabelFilename: file}}}}
		_, sig, _, err := folder.Complete(
			Inspected{Inputs: specs("x FP32 n,4"), Outputs: specs("y FP32 n,2")}, 64)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = strings.Join(sig.Outputs[0].Labels, "|")
		}
		if !strings.Contains(got, want) || strings.Contains(got, dir) {
			t.Errorf("%s: got %s, want %s", file, got, want)
		}
	}
	f("labels.txt", "cat|dog")
	f("none.txt", `"none.txt" is missing`)
	f("../outside.txt", "leads out of the folder")
	f("link.txt", "leads out of its folder")
}

// write makes a file and the folders that it lies in.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSetOutputAxes(t *testing.T) {
	folder := Folder{Name: "m", Dir: t.TempDir()}
	cfg, sig, _, err := folder.Complete(Inspected{
		Inputs:  specs("x FP32 n,t; h FP32 2,n,8"),
		Outputs: specs("y FP32 n,t; k FP32 ?,?,?"),
	}, 64)
	if err != nil {
		t.Fatal(err)
	}
	SetOutputAxes(cfg, sig, []int{0, 1})
	if sig.Outputs[0].BatchAxis != 0 || sig.Outputs[1].BatchAxis != 1 {
		t.Errorf("axes are %d and %d", sig.Outputs[0].BatchAxis, sig.Outputs[1].BatchAxis)
	}
	if got := cfg.Output[1].Dims; !slices.Equal(got, []int64{-1, -1}) {
		t.Errorf("the configuration has dims %v", got)
	}
}
