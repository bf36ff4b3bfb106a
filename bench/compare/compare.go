// Package compare holds the server against its limits, all measured in the
// same run on the same machine: ONNX Runtime called from C, and servers that
// only echo. Its figures are ratios, which outlive the machine they were
// measured on.
//
// A Scenario gives some Figures. Measurements that are divided by one another
// alternate, and the ratio is taken within each round before the median is
// taken over the rounds: machines change their speed from minute to minute.
//
// The server is started as a program of its own, like the echo servers and the
// C program, and spoken to over the network only.
package compare

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Config says what is compared and where things lie.
type Config struct {
	Server  string // the program millrace
	Library string // ONNX Runtime's shared library
	Cache   string // folder for fetched models and compiled programs
	Root    string // of the repository: sample models, benchmarks of packages
	Short   bool   // a quick look: one round, a fraction of the time
	Only    string // the name of the one scenario to run, empty for all
	Logger  *slog.Logger
}

// Figure is one measured ratio or amount and the bar it is held against.
type Figure struct {
	Scenario string  `json:"scenario"`
	Name     string  `json:"name"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit,omitempty"` // empty for a ratio
	Bar      float64 `json:"bar"`
	AtLeast  bool    `json:"at_least"` // the bar is a lower bound
	Detail   string  `json:"detail,omitempty"`
	Error    string  `json:"error,omitempty"` // why it could not be measured
}

// OK says whether the figure meets its bar.
func (f *Figure) OK() bool {
	if f.Error != "" {
		return false
	}
	if f.AtLeast {
		return f.Value >= f.Bar
	}
	return f.Value <= f.Bar
}

// scenario measures some figures in a lab.
type scenario struct {
	name string
	run  func(context.Context, *lab) ([]Figure, error)
}

var scenarios = []scenario{
	{"models", modelThroughput},
	{"mlp", mlpThroughput},
	{"single", singleClient},
	{"allocations", allocations},
	{"tail", tail},
	{"decode", decode},
	{"idle", idleMemory},
	{"start", startTime},
	{"many", manyModels},
	{"reload", reloads},
	{"endpoints", endpoints},
	{"control", controlPlane},
	{"monitors", monitors},
}

// Names lists the scenarios.
func Names() []string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

// Run measures. A scenario that fails gives a figure with its error, and the
// others go on.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if cfg.Only != "" && !slices.Contains(Names(), cfg.Only) {
		return Report{}, fmt.Errorf("compare: there is no scenario %q, there are %s", cfg.Only,
			strings.Join(Names(), ", "))
	}
	l, err := newLab(ctx, cfg)
	if err != nil {
		return Report{}, err
	}
	defer l.close()
	r := Report{Machine: machine(ctx, l.limit.Version()), Short: cfg.Short, Began: time.Now()}
	for _, s := range scenarios {
		if cfg.Only != "" && s.name != cfg.Only {
			continue
		}
		began := time.Now()
		figures, err := s.run(ctx, l)
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		if err != nil {
			figures = append(figures, Figure{Name: s.name, Error: err.Error()})
		}
		for i := range figures {
			figures[i].Scenario = s.name
		}
		r.Figures = append(r.Figures, figures...)
		cfg.Logger.Info("scenario done", "name", s.name,
			"took", time.Since(began).Round(time.Second))
	}
	r.Took = time.Since(r.Began)
	return r, nil
}
