package main

import (
	"context"
	"sync/atomic"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/tap"
)

// monitors lets the control plane's monitors see samples. It is the writer of their tap.
type monitors struct {
	plane atomic.Pointer[control.Plane] // nil until it is open
}

// Write implements [tap.Writer].
func (m *monitors) Write(_ context.Context, r tap.Record) (tap.Result, error) {
	p, s := m.plane.Load(), r.Sample
	if s == nil || p == nil {
		return tap.Result{}, nil
	}
	p.Sampled(&control.Sample{Endpoint: s.Endpoint, Model: s.Model, Version: s.Version,
		Time: s.Time, Inputs: s.Inputs, Outputs: s.Outputs})
	return tap.Result{Samples: 1}, nil
}

// Flush implements [tap.Writer]. There is nothing to do.
func (m *monitors) Flush(context.Context) (tap.Result, error) { return tap.Result{}, nil }

// Close implements [tap.Writer].
func (m *monitors) Close(context.Context) (tap.Result, error) { return tap.Result{}, nil }

// openMonitors starts the tap of the monitors. It copies nothing where there are none.
func (e *endpoints) openMonitors() gateway.Tap {
	e.seen = tap.NewSink(tap.SinkConfig{}, e.monitors, e.log.With("tap", config.MonitorTap))
	return gateway.Tap{Name: config.MonitorTap, Sink: e.seen, Percent: 100, Monitors: true}
}
