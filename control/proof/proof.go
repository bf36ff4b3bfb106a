// Package proof holds a loaded version against what it has to show before it may serve:
// the answers that its own artifact expects, the input example that MLflow keeps with a
// model, and a golden set of the operator, on which it needs a score.
//
// [Check] reads the files, runs the version and says in a [Report] what was shown.
// Requests are read as the gateway reads those of clients, so what passes here can be
// sent by them. Check keeps nothing and may be called concurrently. When to ask, and what
// follows from the answer, is its caller's concern.
package proof

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/runtime/model"
)

// ErrFailed is returned for a version that does not answer as it has to: with the same
// files it will not pass another time. After every other error nothing is known of the
// version, and it may be asked again.
var ErrFailed = errors.New("proof: the version has failed")

// unknown is an error after which nothing is known of the version.
type unknown struct{ error }

func (u unknown) Unwrap() error { return u.error }

// Config says what a version has to show beside what its artifact brings.
type Config struct {
	// Golden is a file of inputs whose answers are known, JSON or CSV by its ending. Empty
	// asks for none. JSON is {"inputs": {"NAME": [...]}, "expected": {"OUTPUT": [...]}}, with
	// inputs as MLflow's clients send them. CSV has a column for each input or feature, and
	// one that is named as the output. Either has one expected value for each row.
	Golden string
	Metric Metric
	Bound  float64       // the least score that will do; of MAE and RMSE, the largest error
	Time   time.Duration // for everything together
}

// DefaultConfig asks for no golden set.
func DefaultConfig() Config { return Config{Metric: Accuracy, Time: time.Minute} }

// Validate lists all faults.
func (c Config) Validate() error {
	var faults []error
	if _, ok := metrics[c.Metric]; !ok {
		faults = append(faults, fmt.Errorf("metric: %q, must be one of %s", c.Metric,
			metricNames()))
	}
	if math.IsNaN(c.Bound) || math.IsInf(c.Bound, 0) {
		faults = append(faults, fmt.Errorf("bound: %v, must be a number", c.Bound))
	}
	if c.Time <= 0 {
		faults = append(faults, fmt.Errorf("time: %v, must be more than 0", c.Time))
	}
	if ext := filepath.Ext(c.Golden); c.Golden != "" && ext != ".json" && ext != ".csv" {
		faults = append(faults, fmt.Errorf("golden: %q, must end in .json or .csv", c.Golden))
	}
	return errors.Join(faults...)
}

// Report is what a version has shown.
type Report struct {
	Cases  int   // expected answers of its artifact that it has given
	Rows   int   // of the input example that it has answered
	Golden Score // on the golden set; of no rows where none is asked for
}

// String says in a line what was checked.
func (r Report) String() string {
	var parts []string
	if r.Cases > 0 {
		parts = append(parts, "expected answers of "+count(r.Cases, "case"))
	}
	if r.Rows > 0 {
		parts = append(parts, "input example of "+count(r.Rows, "row"))
	}
	if r.Golden.Rows > 0 {
		parts = append(parts, "golden set: "+r.Golden.String())
	}
	if len(parts) == 0 {
		return "nothing to show: the artifact brings neither expected answers nor an input " +
			"example, and there is no golden set"
	}
	return strings.Join(parts, "; ")
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Check has a version that its caller holds show what it has to, and returns what it has
// shown, up to the first fault. dir is the folder of its files, which may be hostile.
func Check(ctx context.Context, v *model.Version, dir string, cfg Config) (Report, error) {
	report, err := check(ctx, v, dir, &cfg)
	if err == nil {
		return report, nil
	}
	if _, ok := errors.AsType[unknown](err); ok {
		return report, fmt.Errorf("cannot try %s version %s: %w", v.Name(), v.Version(), err)
	}
	return report, fmt.Errorf("%w: %w", ErrFailed, err)
}

func check(
	ctx context.Context, v *model.Version, dir string, cfg *Config,
) (report Report, err error) {
	if err := cfg.Validate(); err != nil {
		return report, unknown{err}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return report, unknown{err}
	}
	defer root.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Time,
		fmt.Errorf("it takes longer than %v", cfg.Time))
	defer cancel()
	r := &runner{v: v}
	defer r.close()
	if report.Cases, err = r.expected(ctx, root.FS()); err != nil {
		return report, err
	}
	if report.Rows, err = r.example(ctx, root.FS()); err != nil {
		return report, err
	}
	if cfg.Golden != "" {
		report.Golden, err = r.golden(ctx, cfg)
	}
	return report, err
}
