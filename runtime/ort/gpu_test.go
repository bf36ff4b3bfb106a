package ort_test

import (
	"encoding/binary"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// needCUDA skips a test where nothing can run on a GPU.
func needCUDA(t *testing.T) {
	t.Helper()
	rt := library(t)
	if !slices.Contains(rt.Providers(), "CUDAExecutionProvider") {
		t.Skipf("the library %s has no CUDA provider; set %s to one that has",
			rt.Version(), ort.Env)
	}
	if _, err := os.Stat("/dev/nvidia0"); err != nil {
		t.Skip("the library has the CUDA provider, but this machine has no NVIDIA device")
	}
}

// TestCUDA runs models on the first GPU, with a bound on its memory, and holds
// the answers against the CPU's.
func TestCUDA(t *testing.T) {
	needCUDA(t)
	f := func(name string, inputs ...string) {
		t.Helper()
		cfg := ort.DefaultSessionConfig()
		want := floats(t, loadAs(t, name, cfg), inputs)
		gpu := ort.CUDA(0, 256<<20)
		gpu.Options["use_tf32"] = "0" // whose products are rougher than FP32's
		cfg.Providers = []ort.Provider{gpu}
		// An operator that could not run on the GPU is to be an error.
		cfg.Entries = map[string]string{"session.disable_cpu_ep_fallback": "1"}
		m := loadAs(t, name, cfg)
		for range 2 {
			got := floats(t, m, inputs)
			if len(got) != len(want) {
				t.Fatalf("%s: %d values on the GPU, %d on the CPU", name, len(got), len(want))
			}
			for i := range got {
				if math.Abs(got[i]-want[i]) > 1e-4*(1+math.Abs(want[i])) {
					t.Errorf("%s: value %d is %v on the GPU, %v on the CPU", name, i, got[i],
						want[i])
				}
			}
		}
	}
	f("relu", "FP32[2,4] -1 0 1 2 3 -4 5 6")
	f("mlp", "FP32[3,64]"+strings.Repeat(" 0.5 -0.25 1", 64))

	cfg := ort.DefaultSessionConfig()
	cfg.Providers = []ort.Provider{ort.CUDA(99, 0)}
	if s, err := library(t).NewSession(path("relu"), cfg); err == nil {
		s.Close()
		t.Error("a device that is not there was taken")
	}
}

// floats runs a model of one FP32 output and returns its values.
func floats(t *testing.T, m *model, inputs []string) []float64 {
	t.Helper()
	out, err := m.call.Run(m.inputs(inputs...), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 1 || out[0].Datatype != tensor.FP32 {
		t.Fatalf("outputs %s", show(out))
	}
	var values []float64
	for data := range slices.Chunk(out[0].Data, 4) {
		values = append(values, float64(math.Float32frombits(binary.LittleEndian.Uint32(data))))
	}
	return values
}

// TestCUDAProvider holds the options that device and memory become.
func TestCUDAProvider(t *testing.T) {
	f := func(device int, limit int64, want map[string]string) {
		t.Helper()
		p := ort.CUDA(device, limit)
		if p.Name != "cuda" || len(p.Options) != len(want) {
			t.Errorf("got %v, want %v", p, want)
		}
		for key, value := range want {
			if p.Options[key] != value {
				t.Errorf("%s is %q, want %q", key, p.Options[key], value)
			}
		}
	}
	f(0, 0, map[string]string{"device_id": "0"})
	f(3, 1<<30, map[string]string{"device_id": "3", "gpu_mem_limit": "1073741824"})
}
