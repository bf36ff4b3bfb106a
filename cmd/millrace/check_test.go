package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is a field of a protobuf message.
func field(number protowire.Number, value string) string {
	b := protowire.AppendTag(nil, number, protowire.BytesType)
	return string(protowire.AppendString(b, value))
}

// number is a field that is a number.
func number(n protowire.Number, value uint64) string {
	b := protowire.AppendTag(nil, n, protowire.VarintType)
	return string(protowire.AppendVarint(b, value))
}

// Numbers of ONNX's messages that trap needs.
const (
	modelVersion, modelGraph, modelOpset = 1, 7, 8
	graphNode, graphName, graphWeights   = 1, 2, 5
	graphInput, graphOutput              = 11, 12
	nodeInput, nodeOutput, nodeOperator  = 1, 2, 4
	typeInt64                            = 7
)

// trap is a model that divides the least integer by -1: the processor traps,
// and ONNX Runtime takes the process that loads it along.
func trap() string {
	weight := func(name, data string) string {
		return field(graphWeights, number(2, typeInt64)+field(8, name)+field(9, data))
	}
	node := func(operator, a, b, to string) string {
		return field(graphNode, field(nodeInput, a)+field(nodeInput, b)+field(nodeOutput, to)+
			field(nodeOperator, operator))
	}
	value := func(n protowire.Number, name string) string {
		shape := field(2, field(1, number(1, 4)))
		return field(n, field(1, name)+field(2, field(1, number(1, typeInt64)+shape)))
	}
	graph := node("Div", "least", "minus", "q") + node("Add", "x", "q", "y") +
		field(graphName, "trap") +
		weight("least", "\x00\x00\x00\x00\x00\x00\x00\x80") +
		weight("minus", strings.Repeat("\xff", 8)) +
		value(graphInput, "x") + value(graphOutput, "y")
	return number(modelVersion, 8) + field(modelGraph, graph) + field(modelOpset, number(2, 17))
}

// broken makes a folder of models of which one is sound.
func broken(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	copyModel(t, "iris", dir)
	sound, err := os.ReadFile(filepath.Join(samples, "iris", "1", "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "garbage", "1", "model.onnx"), "not a model")
	write(t, filepath.Join(dir, "half", "1", "model.onnx"), string(sound[:len(sound)/2]))
	write(t, filepath.Join(dir, "trap", "1", "model.onnx"), trap())
	write(t, filepath.Join(dir, "two_faults", "1", "model.onnx"), "x")
	write(t, filepath.Join(dir, "two_faults", "config.pbtxt"), "max_batch_size: -3\n"+
		"platform: \"tensorflow\"\n")
	write(t, filepath.Join(dir, "wrong", "1", "model.onnx"), string(sound))
	write(t, filepath.Join(dir, "wrong", "config.pbtxt"), "max_batch_size: 4\n"+
		"input [ { name: \"Y\" data_type: TYPE_FP32 dims: [ 4 ] } ]\n")
	write(t, filepath.Join(dir, "warned", "1", "model.onnx"), string(sound))
	write(t, filepath.Join(dir, "warned", "config.pbtxt"), "response_cache { enable: true }\n")
	write(t, filepath.Join(dir, "notes", "readme.txt"), "nothing to serve")
	write(t, filepath.Join(dir, "none", "config.pbtxt"), "max_batch_size: 4\n")
	return dir
}

func TestCheckSamples(t *testing.T) {
	millrace(t, "check", samples).want(t, 0, "iris, version 1: would be loaded",
		"X FP32 [-1,4]", "output_label BYTES [-1]", "up to 64 rows, proven",
		"completed from the model, there is no config.pbtxt", "configuration  config.pbtxt")
}

// TestCheckBroken shows every fault at once.
func TestCheckBroken(t *testing.T) {
	dir := broken(t)
	millrace(t, "check", dir).want(t, 1,
		"iris, version 1: would be loaded",
		"garbage, version 1: cannot be loaded", "is not a complete ONNX model",
		"half, version 1: cannot be loaded",
		"trap, version 1: cannot be loaded", "the process that tried it died",
		"two_faults: cannot be loaded", "max_batch_size is -3", `platform "tensorflow"`,
		"version 1: layout: not a servable model", // of two_faults, beside its configuration
		"wrong, version 1: cannot be loaded", `input "Y" is not one of the model`,
		"warned, version 1: would be loaded", "warning", "response_cache is ignored",
		"notes: is left out", "neither model.onnx",
		"none: cannot be loaded", "there is no version to load",
		"cannot be loaded; the faults stand above")

	got := millrace(t, "check", dir, "--json")
	got.want(t, 1)
	loads := make(map[string]bool)
	for line := range strings.Lines(got.out) {
		var c checkedJSON
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if loads[c.Model] = c.Loads; !c.Loads && len(c.Faults)+len(c.Warnings) == 0 {
			t.Errorf("there is no reason: %s", line)
		}
	}
	for name, want := range map[string]bool{"iris": true, "warned": true, "garbage": false,
		"trap": false, "two_faults": false, "wrong": false, "none": false} {
		if got, ok := loads[name]; !ok || got != want {
			t.Errorf("%s loads is %v, %v", name, got, ok)
		}
	}
}

func TestCheckErrors(t *testing.T) {
	dir := t.TempDir()
	millrace(t, "check").want(t, 1, "there is nothing to check; give a folder")
	millrace(t, "check", dir).want(t, 1, "there are no models in "+dir)
	millrace(t, "check", filepath.Join(dir, "none")).want(t, 1, "no such file or directory")
	copyModel(t, "iris", filepath.Join(dir, "models"))
	file := write(t, filepath.Join(dir, "m.yaml"), "repository: {paths: [models]}\n")
	millrace(t, "check", "-c", file).want(t, 0, "iris, version 1: would be loaded")
	copyModel(t, "iris", filepath.Join(dir, "again"))
	millrace(t, "check", filepath.Join(dir, "models"), filepath.Join(dir, "again")).want(t, 0,
		"it is in "+filepath.Join(dir, "models")+" too, and that one serves")
}

// TestCrash: a model that takes the process that tries it along is refused with
// its reason; the others serve, and go on when it comes while they do.
func TestCrash(t *testing.T) {
	dir := broken(t)
	p := launch(t, append(anyPort, "--models", dir, "--mode", "explicit", "--load", "*")...)
	p.WaitFor(0, "models loaded, but not all")
	p.ask("models").want(t, 0, "trap", "UNAVAILABLE", "the process that tried it died")
	p.ask("infer", "iris", "-i", "5.1,3.5,1.4,0.2").want(t, 0, "setosa")
	p.ask("models", "load", "trap").want(t, 1, "the process that tried it died")
	p.ask("infer", "trap", "-i", "1,2,3,4").want(t, 1, "the process that tried it died")
	p.ask("infer", "iris", "-i", "5.1,3.5,1.4,0.2").want(t, 0, "setosa")
	if !p.ready() {
		t.Error("a model that failed makes the server unready")
	}
}
