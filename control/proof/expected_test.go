package proof

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestSampleModels wants of each sample model the answers that the library gives which has
// trained it.
func TestSampleModels(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(samplesDir, "*", expectedFile))
	if err != nil || len(files) < 9 {
		t.Fatalf("found %d files of expected answers: %v", len(files), err)
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		got := outcome(version(t, filepath.Base(dir)), dir, DefaultConfig())
		holds(t, dir, got, "expected answers of ", " case")
	}
}

func TestExpected(t *testing.T) {
	f := func(name, cases string, parts ...string) {
		t.Helper()
		got := outcome(version(t, name), folder(t, expectedFile, cases), DefaultConfig())
		holds(t, name+" "+cases[:min(len(cases), 300)], got, parts...)
	}
	request := `{"inputs": [{"name": "x", "shape": [2,2], "datatype": "FP32", "data": [1,2,3,%s]}]}`
	one := func(last, outputs, more string) string {
		return fmt.Sprintf(`{"cases": [{"request": `+request+`, "response": {"outputs": %s}%s}]}`,
			last, outputs, more)
	}
	y := func(shape, data string) string {
		return `[{"name": "y", "datatype": "FP32", "shape": [` + shape + `], "data": [` + data +
			`]}]`
	}
	// The model takes one row at a time: both are asked for.
	f("single", one("4", y("2,2", "-1,-2,-3,-4"), ""), "expected answers of 1 case")
	f("single", one("4", y("2,2", "-1,-2,-3,-4.0003"), ""), "expected answers of 1 case")
	f("single", one("4", y("2,2", "-1,-2,-3,-4.001"), ""), "proof: the version has failed: "+
		`expected answers: case 0: output "y" at [1,1] is -4, expected -4.001 to within 0.0004`)
	f("single", one("4", y("2,2", "-1,-2,-3,-4.001"), `, "atol": 0.01`), "of 1 case")
	f("single", one("4", y("2,2", "-1,-2,-3,-4.0003"), `, "rtol": 0`), "to within 1e-06")
	f("single", one("4", y("2,2", "-1,-2,-3,-4.0003"), `, "rtol": -1`), "must not be negative")
	f("single", one("4", y("1,2", "-1,-2"), ""), "is of shape [1,2], expected [0,2]")
	f("single", one("4", y("3,2", "-1,-2,-3,-4,-5,-6"), ""), `output "y" lacks 1 row`)
	f("single", one("4", y("2", "-1,-2"), ""), "is of shape [1,2], expected [1]")
	f("single", one("4", y("", "-1"), ""), "is of shape [1,2], expected []")
	f("mean", one("4", y("2,2", "-1,-1,1,1"), ""), "expected answers of 1 case")
	f("mean", one("4", y("3,2", "-1,-1,1,1,1,1"), ""), `output "y" lacks 1 row`)
	f("mean", one("4", y("1,2", "-1,-1"), ""), "is of shape [2,2], expected [1,2]")
	f("second", one("4", y("2,2", "-1,-2,-3,-4"), ""), "expected answers of 1 case")
	f("second", one("4", y("2,2", "-1,-2,-3,-5"), ""), `at [1,1] is -4, expected -5`)
	f("logarithm", one("1e999", y("2,2", "0,0,0,0"), ""), "case 0: bad request")
	f("logarithm", one("4", y("2,2", "0,0.693147,1.098612,1.386294"), ""), "of 1 case")

	f("single", `{"cases": []}`, `there are no "cases"`)
	f("single", `[1, 2]`, "cannot read expected.json", "json")
	f("single", `{"cases": [{}]}`, "case 0", `no "outputs"`)
	f("single", one("4", "[]", ""), "case 0", "no outputs")
	f("single", one("4", "null", ""), "case 0", "bad request")
	f("single", one("4", `[{"name": "z", "datatype": "FP32", "shape": [1], "data": [1]}]`, ""),
		"case 0", "bad request", "'z'")
	f("single", one("4", `[{"name": "y", "datatype": "FP64", "shape": [1], "data": [1]}]`, ""),
		"case 0", "FP64")
	f("single", one("4", y("2,2", "1"), ""), "case 0", "bad request")
	f("single", one("4", y("9223372036854775807,9223372036854775807", "1"), ""), "bad request")
	f("index", `{"cases": [{"request": {"inputs": [{"name": "x", "shape": [1,1], "datatype": "FP32",
		"data": [9]}]}, "response": {"outputs": `+y("1,1", "9")+`}}]}`, "case 0: rows 0 to 0",
		"the model failed on this input")
	f("simple_identity", `{"cases": [{"request": {"inputs": [{"name": "INPUT0", "shape": [1,2],
		"datatype": "BYTES", "data": ["a", "b"]}]}, "response": {"outputs": [{"name": "OUTPUT0",
		"shape": [1,2], "datatype": "BYTES", "data": ["a", "c"]}]}}]}`,
		`at [0,1] is "b", expected "c"`)
}

// TestFiles has files that cannot be read as they are.
func TestFiles(t *testing.T) {
	v := version(t, "single")
	f := func(make func(path string) error, parts ...string) {
		t.Helper()
		for _, name := range []string{expectedFile, servingFile, exampleFile} {
			dir := t.TempDir()
			if err := make(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			holds(t, name, outcome(v, dir, DefaultConfig()), parts...)
		}
	}
	failed := "proof: the version has failed"
	f(func(path string) error { return os.Mkdir(path, 0o755) }, failed, "is no plain file")
	f(func(path string) error { return syscall.Mkfifo(path, 0o644) }, failed, "is no plain file")
	f(func(path string) error { return os.Symlink("/etc/hostname", path) }, failed, "escapes")
	f(func(path string) error { return os.Symlink(path, path) }, failed, "cannot read")
	f(func(path string) error { return os.WriteFile(path, nil, 0o644) }, failed, "JSON")
	f(func(path string) error {
		err := os.WriteFile(path, nil, 0o644)
		if err == nil {
			err = os.Truncate(path, maxArtifact+1)
		}
		return err
	}, failed, "has more than 16777216 bytes")
}
