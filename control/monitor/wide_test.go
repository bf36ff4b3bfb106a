package monitor_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// A monitor of images learns what they are, and names what is other when they get lighter; the
// same where rows have not always as many numbers, and when they get longer.
func TestWide(t *testing.T) {
	f := func(want string, row []int64, size func(r *rand.Rand, changed bool) []int64,
		lighter float64) {
		t.Helper()
		sig := &tensor.Signature{MaxBatchSize: 64, Inputs: []tensor.Spec{{Name: "x",
			Datatype: tensor.FP32, Shape: append([]int64{-1}, row...)}}}
		cfg := monitor.Config{Every: 1000, Tolerance: 0.1, Learn: 1000}
		m, err := monitor.New(cfg, sig, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{t: t, cfg: cfg, m: m, now: time.Unix(1e9, 0)}
		b.status = b.status.Begin(subject, cfg.Every, b.now, "")
		r := rand.New(rand.NewPCG(14, 14))
		for range 150 {
			b.tick([]tensor.Tensor{picture(r, size(r, false), 0)}, nil)
		}
		if b.status.State != monitor.StateOK {
			t.Fatalf("%v: before the change: %s: %s", row, b.status.State, b.status.Reason)
		}
		ticks := 0
		for ; ticks < 50 && b.status.State != monitor.StateAlarm; ticks++ {
			b.tick([]tensor.Tensor{picture(r, size(r, true), lighter)}, nil)
		}
		t.Logf("%v: after %d ticks: %s", row, ticks, b.status.Reason)
		if b.status.State != monitor.StateAlarm || !strings.Contains(b.status.Reason, want) ||
			!b.status.Last.Features[0].Named || b.status.Last.Features[0].Name != want {
			t.Errorf("%v: want %s: %s: %s", row, want, b.status.State, b.status.Reason)
		}
	}
	fixed := func(*rand.Rand, bool) []int64 { return []int64{3, 64, 64} }
	f("x.mean", []int64{3, 64, 64}, fixed, 0.1)
	varied := func(r *rand.Rand, _ bool) []int64 { return []int64{1 + r.Int64N(40)} }
	f("x.mean", []int64{-1}, varied, 0.1)
	longer := func(r *rand.Rand, changed bool) []int64 {
		if changed {
			return []int64{20 + r.Int64N(40)}
		}
		return varied(r, false)
	}
	f("x.size", []int64{-1}, longer, 0)
}

// A table of training data with these columns, or some of them, is a reference of images.
func TestWideTable(t *testing.T) {
	sig := &tensor.Signature{MaxBatchSize: 64, Inputs: []tensor.Spec{{Name: "x",
		Datatype: tensor.FP32, Shape: []int64{-1, 3, 32, 32}}}}
	rows := drift.NewRows(sig)
	r := rand.New(rand.NewPCG(14, 15))
	table := new(strings.Builder)
	fmt.Fprintln(table, strings.Join(rows.Columns(), ","))
	for range 200 {
		in := []tensor.Tensor{picture(r, []int64{3, 32, 32}, 0)}
		if err := rows.Each(in, nil, func(row []sketch.Value) error {
			var cells []string
			for _, v := range row {
				cells = append(cells, string(v.AppendText(nil)))
			}
			fmt.Fprintln(table, strings.Join(cells, ","))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, ignored := range [][]string{nil, rows.Columns()[3:]} {
		p, err := reference.FromCSV(strings.NewReader(table.String()),
			reference.Options{Ignored: ignored})
		if err != nil {
			t.Fatal(err)
		}
		cfg := monitor.Config{Every: 1000, Tolerance: 0.1}
		m, err := monitor.New(cfg, sig, p)
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{t: t, cfg: cfg, m: m, now: time.Unix(1e9, 0)}
		b.status = b.status.Begin(subject, cfg.Every, b.now, "")
		for range 50 {
			b.tick([]tensor.Tensor{picture(r, []int64{3, 32, 32}, 0)}, nil)
		}
		if b.status.State != monitor.StateOK {
			t.Errorf("%s: %s", b.status.State, b.status.Reason)
		}
		for range 10 {
			b.tick([]tensor.Tensor{picture(r, []int64{3, 32, 32}, 0.1)}, nil)
		}
		if !strings.Contains(b.status.Reason, "x.mean") {
			t.Errorf("lighter images: %s: %s", b.status.State, b.status.Reason)
		}
	}
}

// picture draws a request of ten rows of one shape, each of some brightness of its own.
func picture(r *rand.Rand, row []int64, lighter float64) tensor.Tensor {
	x := tensor.Tensor{Name: "x", Datatype: tensor.FP32, Shape: append([]int64{10}, row...)}
	n, err := tensor.Elements(row)
	if err != nil {
		panic(err)
	}
	for range 10 {
		brightness := lighter + 0.4 + 0.2*r.Float64()
		for range n {
			pixel := float32(brightness + 0.1*r.Float64())
			x.Data = binary.LittleEndian.AppendUint32(x.Data, math.Float32bits(pixel))
		}
	}
	return x
}
