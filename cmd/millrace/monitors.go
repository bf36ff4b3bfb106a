package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/tap"
)

// monitors lets the control plane's monitors see samples. It is the writer of their tap.
type monitors struct {
	plane atomic.Pointer[control.Plane] // nil until it is open
}

// Write implements [tap.Writer].
func (m *monitors) Write(_ context.Context, r tap.Record) (tap.Result, error) {
	p, s, f := m.plane.Load(), r.Sample, r.Feedback
	switch {
	case p == nil:
		return tap.Result{}, nil
	case s != nil:
		p.Sampled(&control.Sample{Endpoint: s.Endpoint, Model: s.Model, Version: s.Version,
			Request: monitor.Request{ID: s.ID, Time: s.Time, Inputs: s.Inputs,
				Outputs: s.Outputs}})
		return tap.Result{Samples: 1}, nil
	}
	known := control.Feedback{ID: []byte(f.ID), Endpoint: f.Endpoint, Model: f.Model,
		Version: f.Version, Time: f.Time, Reward: f.Reward}
	if f.Label != nil {
		var err error
		if known.Label, err = json.Marshal(f.Label); err != nil {
			return tap.Result{}, fmt.Errorf("cannot read the label of request %s: %w", f.ID, err)
		}
	}
	p.Learned(&known)
	return tap.Result{Feedback: 1}, nil
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
