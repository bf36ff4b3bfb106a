// Package profile finds out how long a model runs by the number of rows in a
// run and the number of runs at once, and what configuration follows from it.
//
// [Measure] runs the model in this process, with nothing around it. [Fit] and
// [Choose] are pure. Measurements want the machine for themselves: one
// Measure at a time.
package profile

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Setup is one way to run a model.
type Setup struct {
	Rows    int `json:"rows"`    // of a run
	Runs    int `json:"runs"`    // at once
	Threads int `json:"threads"` // of a run
}

// Point is what was measured of a setup.
type Point struct {
	Setup
	Time          time.Duration `json:"run_ns"` // of a run, the median
	RowsPerSecond float64       `json:"rows_per_second"`
	Samples       int           `json:"samples"` // runs that were timed
	// CPU is the part of the time for which the runs had their cores, 0 to 1.
	// Below 1 other programs had them. It says nothing of runs on many threads,
	// which wait for each other.
	CPU float64 `json:"cpu_share"`
}

// Config says what is measured.
type Config struct {
	Sizes   []int         // rows of a run, ascending
	Runs    []int         // runs at once
	Time    time.Duration // for a setup, in a round
	Rounds  int           // the best one counts: what disturbs comes and goes
	MaxTime time.Duration // no larger sizes once a run takes longer

	Source Source
	Before func(Setup) // is told each setup before it is measured
}

// Source gives the inputs of a run with that many rows, in the order of the
// model's inputs; one of the datatype tensor.Invalid is left out.
type Source func(rows int) ([]tensor.Tensor, error)

// Measure measures a session that was made to run on so many threads.
func Measure(ctx context.Context, s *ort.Session, threads int, cfg Config) ([]Point, error) {
	best := make(map[Setup]Point)
	sizes := cfg.Sizes
	for range cfg.Rounds {
		for i, rows := range sizes {
			inputs, err := cfg.Source(rows)
			if err != nil {
				return nil, err
			}
			slowest := time.Duration(0)
			for _, runs := range cfg.Runs {
				p := Point{Setup: Setup{rows, runs, threads}}
				cfg.Before(p.Setup)
				if err := p.measure(ctx, s, inputs, cfg.Time); err != nil {
					if ctx.Err() != nil {
						return nil, ctx.Err()
					}
					return nil, fmt.Errorf("cannot run the model with %d rows: %w", rows, err)
				}
				if old, ok := best[p.Setup]; !ok || p.RowsPerSecond > old.RowsPerSecond {
					best[p.Setup] = p
				}
				slowest = max(slowest, p.Time)
			}
			if slowest > cfg.MaxTime {
				sizes = sizes[:i+1]
				break
			}
		}
	}
	var points []Point
	for _, rows := range sizes {
		for _, runs := range cfg.Runs {
			points = append(points, best[Setup{rows, runs, threads}])
		}
	}
	return points, nil
}

// minRuns is how often a setup is timed at least, however slow.
const minRuns = 3

// measure times p.Runs goroutines that run the model over and over for d.
func (p *Point) measure(ctx context.Context, s *ort.Session, inputs []tensor.Tensor,
	d time.Duration) error {
	var (
		mu    sync.Mutex // for the three below
		times []time.Duration
		rate  float64
		fault error
		wait  sync.WaitGroup
	)
	start := make(chan struct{})
	var warm sync.WaitGroup
	warm.Add(p.Runs)
	for range p.Runs {
		wait.Go(func() {
			own, perSecond, err := loop(ctx, s, inputs, func() time.Time {
				warm.Done()
				<-start
				return time.Now().Add(d)
			})
			mu.Lock()
			defer mu.Unlock()
			times = append(times, own...)
			rate += perSecond
			if err != nil {
				fault = err
			}
		})
	}
	warm.Wait()
	before, began := cpuTime(), time.Now()
	close(start)
	wait.Wait()
	p.CPU = float64(cpuTime()-before) / float64(time.Since(began)) / float64(p.Runs)
	if fault != nil {
		return fault
	}
	slices.Sort(times)
	p.Samples, p.Time = len(times), times[len(times)/2]
	p.RowsPerSecond = rate * float64(p.Rows)
	return nil
}

// cpuTime returns the CPU time that this process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// loop runs the model until the instant that begin returns, once it is warm.
// It calls begin once, also when it fails before.
func loop(ctx context.Context, s *ort.Session, inputs []tensor.Tensor,
	begin func() time.Time) (times []time.Duration, perSecond float64, err error) {
	var mem tensor.Arena
	defer mem.Free()
	call, err := s.NewCall()
	if err == nil {
		defer call.Close()
		inputs, err = outside(&mem, inputs)
	}
	if err == nil {
		_, err = call.Run(inputs, 0) // sizes the session's own memory
	}
	until := begin()
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	for now := began; len(times) < minRuns || now.Before(until); {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		if _, err := call.Run(inputs, 0); err != nil {
			return nil, 0, err
		}
		after := time.Now()
		times = append(times, after.Sub(now))
		now = after
	}
	return times, float64(len(times)) / time.Since(began).Seconds(), nil
}

// outside copies the inputs to where C may read them.
func outside(mem *tensor.Arena, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	out := slices.Clone(inputs)
	for i := range out {
		data, err := mem.Alloc(len(out[i].Data))
		if err != nil {
			return nil, err
		}
		copy(data, out[i].Data)
		out[i].Data = data
	}
	return out, nil
}
