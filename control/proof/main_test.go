package proof

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// TestMain lets the test binary be the child that tries models.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "trial" {
		os.Exit(model.TrialMain(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// samplesDir is where the sample models are.
const samplesDir = "../../configs/models"

// open opens a repository of folders, whose models serve in small batches.
func open(folders ...string) (*model.Repository, error) {
	found, err := ort.FindLibrary("")
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	rt, err := ort.Open(ort.Config{Library: found.Path, Logger: log, Level: slog.LevelError})
	if err != nil {
		return nil, err
	}
	small := 7
	return model.Open(context.Background(), model.Options{
		Runtime: rt, Repositories: folders, Mode: model.ModeNone,
		Trial: model.DefaultTrialConfig(), Defaults: model.DefaultDefaults(), Logger: log,
		Models: map[string]model.Settings{"mlp": {MaxBatchSize: &small},
			"simple": {MaxBatchSize: &small}},
	})
}

// shared has the sample models and those of testdata, until the tests end.
var shared = sync.OnceValues(func() (*model.Repository, error) {
	return open(samplesDir, "testdata/models")
})

// version is one of a shared model, until the test ends.
func version(t testing.TB, name string) *model.Version {
	t.Helper()
	r, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.Acquire([]byte(name), nil)
	if err != nil {
		t.Fatalf("%s: %v: %v", name, err, r.Index(false))
	}
	t.Cleanup(v.Release)
	return v
}

// folder is an artifact of such files: name and text by turns.
func folder(t testing.TB, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.WriteFile(path, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// outcome is what Check says of a version and its files: the report or the error, which
// has "?" before it where nothing is known of the version.
func outcome(v *model.Version, dir string, cfg Config) string {
	report, err := Check(context.Background(), v, dir, cfg)
	switch {
	case err == nil:
		return report.String()
	case errors.Is(err, ErrFailed):
		return err.Error()
	}
	return "? " + err.Error()
}

// holds wants parts of a text in their order.
func holds(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, p := range parts {
		_, after, ok := strings.Cut(rest, p)
		if !ok {
			t.Errorf("%s: %q lacks %q", what, text, p)
			return
		}
		rest = after
	}
}

func TestNothingToShow(t *testing.T) {
	got := outcome(version(t, "iris"), t.TempDir(), DefaultConfig())
	holds(t, "an empty folder", got, "nothing to show")
	got = outcome(version(t, "iris"), filepath.Join(t.TempDir(), "gone"), DefaultConfig())
	holds(t, "no folder", got, "? cannot try iris version 1", "gone")
}

func TestAllTogether(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(samplesDir, "iris", expectedFile))
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, expectedFile, string(text), servingFile, `{"inputs": [[5.1, 3.5, 1.4, 0.2]]}`)
	cfg := DefaultConfig()
	cfg.Golden, cfg.Bound = "testdata/iris.csv", 0.95
	want := "expected answers of 3 cases; input example of 1 row; " +
		"golden set: accuracy 0.9733 over 150 rows, at least 0.95 is needed"
	var wait sync.WaitGroup
	v := version(t, "iris")
	for range 4 {
		wait.Go(func() {
			if got := outcome(v, dir, cfg); got != want {
				t.Errorf("it says %q, want %q", got, want)
			}
		})
	}
	wait.Wait()
}

func TestValidate(t *testing.T) {
	f := func(change func(c *Config), parts ...string) {
		t.Helper()
		c := DefaultConfig()
		change(&c)
		got := fmt.Sprint(c.Validate())
		holds(t, fmt.Sprintf("%+v", c), got, parts...)
		if got != "<nil>" {
			holds(t, "Check", outcome(version(t, "iris"), t.TempDir(), c), "? ", parts[0])
		}
	}
	f(func(*Config) {}, "<nil>")
	f(func(c *Config) { c.Metric = "auc" }, `metric: "auc"`, "accuracy, balanced_accuracy, mae, r2")
	f(func(c *Config) { c.Time, c.Golden = 0, "set.parquet" }, "time: 0s", "golden", ".csv")
	f(func(c *Config) { c.Bound = math.NaN() }, "bound: NaN")
}

func TestTime(t *testing.T) {
	dir := folder(t, servingFile, `{"inputs": [[5.1, 3.5, 1.4, 0.2]]}`)
	cfg := DefaultConfig()
	cfg.Time = time.Nanosecond
	got := outcome(version(t, "iris"), dir, cfg)
	holds(t, "no time", got, "? ", "rows 0 to 0", "it takes longer than 1ns")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Check(ctx, version(t, "iris"), dir, DefaultConfig())
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrFailed) {
		t.Errorf("canceled, it says %v", err)
	}
}
