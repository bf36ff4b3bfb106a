package profile

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/cmd/millrace/payload"
	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// points makes the points of one run at once that take alpha + beta*rows.
func points(alpha, beta time.Duration, sizes ...int) []Point {
	var list []Point
	for _, rows := range sizes {
		d := alpha + time.Duration(rows)*beta
		list = append(list, Point{Setup: Setup{rows, 1, 1}, Time: d,
			RowsPerSecond: float64(rows) / d.Seconds()})
	}
	return list
}

func TestFit(t *testing.T) {
	const us = time.Microsecond
	f := func(list []Point, want Line, wantOK bool) {
		t.Helper()
		got, ok := Fit(list)
		if ok != wantOK || (got.Alpha-want.Alpha).Abs() > 2 || (got.Beta-want.Beta).Abs() > 2 ||
			got.Off > want.Off+1e-6 || got.Off < want.Off-0.01 {
			t.Errorf("got %+v, %v; want %+v, %v", got, ok, want, wantOK)
		}
	}
	f(points(10*us, 2*us, 1, 2, 4, 8, 64), Line{10 * us, 2 * us, 0}, true)
	f(points(0, 3*us, 1, 2), Line{0, 3 * us, 0}, true)
	f(points(9*us, 0, 1, 32), Line{9 * us, 0, 0}, true)
	f(points(9*us, us, 4), Line{}, false)
	f(points(9*us, us, 4, 4), Line{}, false)
	f(nil, Line{}, false)
	// A time that rises faster than the rows has no start-up cost below 0.
	bent := points(0, 10*us, 1, 2, 4)
	bent[2].Time = 80 * us
	got, ok := Fit(bent)
	if !ok || got.Alpha != 0 || got.Beta < 10*us || got.Beta > 20*us || got.Off < 0.1 {
		t.Errorf("got %+v, %v", got, ok)
	}
}

func TestChoose(t *testing.T) {
	const ms = time.Millisecond
	f := func(list []Point, target time.Duration, rows int, wantOK bool) {
		t.Helper()
		got, ok := Choose(list, target)
		if got.Rows != rows || ok != wantOK {
			t.Errorf("got %d rows, %v; want %d, %v", got.Rows, ok, rows, wantOK)
		}
	}
	gains := points(10*ms, ms, 1, 2, 4, 8, 16)
	f(gains, 0, 16, true)
	f(gains, time.Second, 16, true)
	f(gains, 36*ms, 8, true) // two runs of 18 ms
	f(gains, 35*ms, 4, true)
	f(gains, 22*ms, 1, true)
	f(gains, 21*ms, 1, false)
	// Where a larger batch wins nothing, the shorter run is better.
	f(points(0, ms, 1, 2, 4), 0, 1, true)
	// A batch that falls out of the cache is slower.
	slower := points(ms, ms, 1, 2, 4)
	slower[2].RowsPerSecond = 10
	f(slower, 0, 2, true)
	f(nil, 0, 0, false)
}

func TestDisturbed(t *testing.T) {
	f := func(want bool, threads int, shares ...float64) {
		t.Helper()
		var list []Point
		for _, share := range shares {
			list = append(list, Point{Setup: Setup{1, 1, threads}, CPU: share})
		}
		if Disturbed(list) != want {
			t.Errorf("disturbed by %v is not %v", shares, want)
		}
	}
	f(false, 1, 1, 0.99, 0.5)
	f(true, 1, 0.7, 0.8, 1)
	f(false, 2, 0.5)
	f(false, 1)
}

// session loads a sample model.
func session(t *testing.T) *ort.Session {
	t.Helper()
	found, err := ort.FindLibrary("")
	if err != nil {
		t.Fatal(err)
	}
	rt, err := ort.Open(ort.Config{Library: found.Path})
	if err != nil {
		t.Fatal(err)
	}
	s, err := rt.NewSession("../../../configs/models/mlp/1/model.onnx", ort.DefaultSessionConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestMeasure runs a real model.
func TestMeasure(t *testing.T) {
	s := session(t)
	specs := s.Inputs()
	payload.RowAxes(specs)
	m := payload.Maker{Specs: specs, Rand: rand.New(rand.NewPCG(1, 2))}
	var told []Setup
	cfg := Config{
		Sizes: []int{1, 64}, Runs: []int{1, 2}, Time: 5 * time.Millisecond, Rounds: 2,
		MaxTime: time.Hour, Before: func(s Setup) { told = append(told, s) },
		Source: func(rows int) ([]tensor.Tensor, error) { return m.Rows(int64(rows)) },
	}
	got, err := Measure(t.Context(), s, 1, cfg)
	if err != nil || len(got) != 4 || len(told) != 8 {
		t.Fatalf("%d points, told of %d: %v", len(got), len(told), err)
	}
	for i, want := range []Setup{{1, 1, 1}, {1, 2, 1}, {64, 1, 1}, {64, 2, 1}} {
		p := got[i]
		if p.Setup != want || p.Time <= 0 || p.Samples < minRuns*p.Runs || p.RowsPerSecond <= 0 ||
			p.CPU <= 0 {
			t.Errorf("point %d is %+v", i, p)
		}
	}
	if got[2].RowsPerSecond < got[0].RowsPerSecond {
		t.Errorf("64 rows are slower than one: %+v", got)
	}

	cfg.MaxTime = 1
	if got, err = Measure(t.Context(), s, 1, cfg); err != nil || len(got) != 2 {
		t.Errorf("slow runs do not end the sweep: %+v, %v", got, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Measure(ctx, s, 1, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}

	cfg.Source = func(int) ([]tensor.Tensor, error) {
		return []tensor.Tensor{{Name: "x", Datatype: tensor.FP32, Shape: []int64{1, 3},
			Data: make([]byte, 12)}}, nil
	}
	var failed *ort.Error
	if _, err := Measure(t.Context(), s, 1, cfg); !errors.As(err, &failed) {
		t.Errorf("error is %v", err)
	}
}
