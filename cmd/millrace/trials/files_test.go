package trials_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// sample is what the tests look at of a sample in a file.
type sample struct {
	ID      string    `json:"id" parquet:"id,optional"`
	Version string    `json:"version" parquet:"version"`
	Status  int32     `json:"status" parquet:"status"`
	X       []float32 `json:"input.x" parquet:"input.x,optional,list"`
	Y       []float32 `json:"output.y" parquet:"output.y,optional,list"`
}

// whole says that a sample is one of model sum with 1 added to x.
func (s *sample) whole(x float32) bool {
	return s.Version == "1" && s.Status == 200 &&
		slices.Equal(s.X, []float32{x, x, x, x}) &&
		slices.Equal(s.Y, []float32{x + 1, x + 1, x + 1, x + 1})
}

// readSamples reads all files of a format in a folder, each of which must be
// readable. Format "jsonl.open" is that of files under way.
func readSamples(t *testing.T, dir, format string) (all []sample) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "samples-fraud-*."+format))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		var got []sample
		if format == "parquet" {
			if got, err = parquet.ReadFile[sample](path); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		} else {
			got = readLines(t, path)
		}
		all = append(all, got...)
	}
	return all
}

func readLines(t *testing.T, path string) (all []sample) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(path, ".open") {
		text = text[:bytes.LastIndexByte(text, '\n')+1]
	}
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		t.Errorf("%s ends within a line", path)
	}
	for line := range bytes.Lines(text) {
		var s sample
		if err := json.Unmarshal(line, &s); err != nil {
			t.Errorf("%s: %v in %s", path, err, line)
		}
		all = append(all, s)
	}
	return all
}

// underWay lists the files in a folder that are not whole.
func underWay(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".open") {
			names = append(names, e.Name())
		}
	}
	return names
}
