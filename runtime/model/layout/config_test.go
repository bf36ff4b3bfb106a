package layout

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
)

func TestParseConfig(t *testing.T) {
	f := func(text, warning, fault string) {
		t.Helper()
		_, warnings, err := ParseConfig([]byte(text))
		if got := strings.Join(warnings, "; "); got != warning {
			t.Errorf("%s: warnings are %q, want %q", text, got, warning)
		}
		if fault == "" && err != nil || fault != "" &&
			(err == nil || !strings.Contains(err.Error(), fault) || !errors.Is(err, ErrConfig)) {
			t.Errorf("%s: the error is %v, want one with %q", text, err, fault)
		}
	}
	f(``, "", "")
	f(`name: "x" backend: "onnxruntime" max_batch_size: 8`, "", "")
	f(`platform: "onnx_onnxv1"`, "", "")
	f(`platform: "tensorflow_graphdef"`, "", "only onnxruntime_onnx is served")
	f(`backend: "python"`, "", "only onnxruntime is served")
	f(`max_batch_size: -1`, "", "must be 0 or more")
	f(`max_batch_sise: 1`, "", "max_batch_sise")
	f(`max_batch_size: "1"`, "", "invalid value")
	f(`response_cache { enable: true }`,
		"response_cache is ignored: there is no response cache yet", "")
	f(`runtime: "x" metric_tags { key: "a" value: "b" }`,
		"metric_tags is ignored: metrics carry model and version; "+
			"runtime is ignored: there is one runtime", "")
	f(`sequence_batching { }`, "", "sequences are not served")
	f(`ensemble_scheduling { }`, "", "ensembles are not served")
	f(`batch_input [ { kind: BATCH_ELEMENT_COUNT } ]`, "", "ragged batching is not served")
	f(`input [ { name: "x" allow_ragged_batch: true } ]`, "", "allow_ragged_batch is not served")
	f(`model_transaction_policy { decoupled: true }`, "", "decoupled models are not served")
	f(`model_transaction_policy { decoupled: false }`, "", "")
	f(`default_model_filename: "../x.onnx"`, "", "leads out of the folder")
	f(`optimization { graph { level: 1 } eager_batching: true }`,
		"optimization.eager_batching is ignored", "")
	f(`parameters { key: "intra_op_thread_count" value: { string_value: "2" } }`, "", "")
	f(`parameters { key: "intra_op_thread_count" value: { string_value: "two" } }`, "",
		`intra_op_thread_count is "two", must be a number`)
	f(`parameters { key: "execution_mode" value: { string_value: "2" } }`, "", "must be 0 or 1")
	f(`parameters { key: "specific_versions" value: { string_value: "v1" } }`, "",
		"must be a JSON list of names")
	f(`parameters { key: "EXECUTION_ENV_PATH" value: { string_value: "x" } }`,
		`parameters: "EXECUTION_ENV_PATH" is ignored: nobody reads it`, "")
	f(strings.Repeat(" ", maxConfig+1), "", "larger than")
}

// TestKeys: each field of a configuration has its treatment.
func TestKeys(t *testing.T) {
	fields := map[string]bool{}
	list := new(configpb.ModelConfig).ProtoReflect().Descriptor().Fields()
	for i := range list.Len() {
		fields[string(list.Get(i).Name())] = true
	}
	for _, k := range Keys() {
		if !fields[k.Name] {
			t.Errorf("%s is no key of a configuration", k.Name)
		}
		delete(fields, k.Name)
	}
	for name := range fields {
		t.Errorf("nothing is said of the key %s", name)
	}
}

func TestParseConfigJSON(t *testing.T) {
	f := func(text, fault string) {
		t.Helper()
		_, _, err := ParseConfigJSON([]byte(text))
		if (err == nil) != (fault == "") || err != nil && !strings.Contains(err.Error(), fault) {
			t.Errorf("%s: the error is %v, want one with %q", text, err, fault)
		}
	}
	f(`{}`, "")
	f(`{"maxBatchSize": 4, "dynamic_batching": {}}`, "")
	f(`{"max_batch_sise": 4}`, "max_batch_sise")
	f(`{"max_batch_size": 1e99}`, "int32 field maxBatchSize")
	f(`{"sequence_batching": {}}`, "sequences are not served")
	f(`[`, "unexpected")
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`max_batch_size: 8 input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]`))
	f.Add([]byte(
		`dynamic_batching { priority_queue_policy { key: 1 value { max_queue_size: 2 } } }`))
	f.Add([]byte(`parameters { key: "queue_size" value: { string_value: "1" } } # x`))
	f.Add([]byte(`model_warmup [ { inputs { key: "x" value { zero_data: true } } } ]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, _, err := ParseConfig(text)
		if err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("the error is not ErrConfig: %v", err)
		}
		if err == nil {
			Select([]VersionDir{{Version: "1"}, {Version: "v2"}}, cfg)
		}
	})
}

func FuzzParseConfigJSON(f *testing.F) {
	f.Add([]byte(`{"max_batch_size": 8, "input": [{"name": "x", "dims": [-1]}]}`))
	f.Add([]byte(`{"version_policy": {"specific": {"versions": [1, 2]}}}`))
	f.Add([]byte(`{"parameters": {"specific_versions": {"string_value": "[\"v2\"]"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, _, err := ParseConfigJSON(text)
		if err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("the error is not ErrConfig: %v", err)
		}
		if err == nil {
			Select([]VersionDir{{Version: "1"}, {Version: "v2"}}, cfg)
		}
	})
}
