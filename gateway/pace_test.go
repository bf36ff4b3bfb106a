package gateway_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// counter counts samples.
type counter struct{ samples atomic.Int64 }

func (c *counter) Write(context.Context, tap.Record) (tap.Result, error) {
	c.samples.Add(1)
	return tap.Result{Samples: 1}, nil
}

func (*counter) Flush(context.Context) (tap.Result, error) { return tap.Result{}, nil }
func (*counter) Close(context.Context) (tap.Result, error) { return tap.Result{}, nil }

// monitored is an endpoint of which a monitor sees so many rows a second.
func (s *server) monitored(t testing.TB, perSecond int) (*tap.Sink, *counter) {
	c := new(counter)
	k := tap.NewSink(tap.SinkConfig{}, c, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = k.Close(context.Background()) })
	s.core.SetTaps([]gateway.Tap{{Name: "monitors", Sink: k, Percent: 100, Monitors: true}})
	s.set(t, nil, route.Spec{Name: "e", Monitored: perSecond,
		Arms: []route.ArmSpec{{Name: "stable", Model: "simple", Version: "1"}}})
	return k, c
}

// answered returns a request of 50 features from Begin to Finish, without what lies between.
func (s *server) answered(t testing.TB, rows int, fault error) func() {
	name := []byte("e")
	in := []tensor.Tensor{{Name: "x", Datatype: tensor.FP32, Shape: []int64{1, 50},
		Data: make([]byte, 200)}}
	return func() {
		x, err := s.core.Begin(gateway.Query{Name: name}, gateway.ProtocolHTTP)
		if err != nil {
			t.Fatal(err)
		}
		x.Request.Inputs, x.Ticket.Rows = append(x.Request.Inputs[:0], in...), rows
		s.core.Finish(x, fault)
	}
}

// A monitor sees as many rows a second as it says, of requests that were answered.
func TestPace(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	var fault error
	f := func(perSecond, rows int, low, high int64) {
		t.Helper()
		k, c := s.monitored(t, perSecond)
		ask := s.answered(t, rows, fault)
		began := time.Now()
		for range 5000 {
			ask()
		}
		took := time.Since(began)
		if err := k.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		seen, more := c.samples.Load()+k.Stats().Dropped, int64(took.Seconds()*float64(perSecond))
		if seen < low || seen > high+more {
			t.Errorf("%d a second: %d of 5000 requests in %v", perSecond, seen, took)
		}
	}
	f(0, 1, 0, 0)
	f(1, 1, 1, 1)
	f(1000, 1, 100, 101)
	f(1000, 50, 2, 3)
	f(1000, 10_000, 1, 1)
	f(1_000_000, 1, 4900, 5000)
	fault = gateway.ErrOverloaded
	f(1000, 1, 0, 0)
}

func TestMonitoredDoesNotAllocate(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	s.monitored(t, 1_000_000)
	ask := s.answered(t, 1, nil)
	n := 1.0
	for i := 0; i < 100 && n != 0; i++ { // until all samples are made
		n = testing.AllocsPerRun(1000, ask)
	}
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkMonitored is a request of 50 features from Begin to Finish: without a monitor, with one
// that sees 1000 a second, and with one that sees each.
func BenchmarkMonitored(b *testing.B) {
	s := serve(b, model.ModeNone, twoVersions(b), nil)
	for _, c := range []struct {
		name      string
		perSecond int
	}{{"without", 0}, {"paced", 1000}, {"each", 1_000_000}} {
		b.Run(c.name, func(b *testing.B) {
			k, _ := s.monitored(b, c.perSecond)
			ask := s.answered(b, 1, nil)
			b.ReportAllocs()
			for b.Loop() {
				ask()
			}
			b.ReportMetric(float64(k.Stats().Dropped)/float64(b.N), "drops/op")
		})
	}
}
