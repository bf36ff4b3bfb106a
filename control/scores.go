package control

import (
	"maps"
	"slices"
	"sync"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// arrangeScores lets the gateway know who scores the answers of which endpoint: the monitors that
// are to, once they have a reference. Callers hold mu.
func (p *Plane) arrangeScores() {
	if p.cfg.Scorers == nil {
		return
	}
	scorers := make(map[string]*route.Scorer)
	for _, w := range p.watches {
		if s := p.scorer(w); s != nil {
			scorers[w.subject.Endpoint] = s
		}
	}
	if !maps.Equal(scorers, p.scorers) {
		p.scorers = scorers
		p.cfg.Scorers(scorers)
	}
}

// scorer returns who scores the answers that a watch is for, nil for nobody. Callers hold mu.
func (p *Plane) scorer(w *watch) *route.Scorer {
	if !w.spec.OutlierScore || !w.open {
		w.scorer = nil // what was learned may be gone
		return nil
	}
	if w.scorer != nil {
		return w.scorer
	}
	w.mu.Lock()
	var profile *reference.Profile
	if w.monitor != nil {
		profile = w.monitor.Reference()
	}
	w.mu.Unlock()
	if profile == nil {
		return nil
	}
	v, err := p.models.Acquire([]byte(w.subject.Model), []byte(w.subject.Version))
	if err == nil {
		w.scorer, err = newScorer(w, v.Signature(), profile)
		v.Release()
	}
	p.complain("the answers of an endpoint get no score", err, "monitor", w.name)
	return w.scorer
}

// newScorer returns a scorer by the reference of a watch. It has as many of a monitor's as there
// are requests at a time: each of these belongs to one goroutine.
func newScorer(
	w *watch, sig *tensor.Signature, profile *reference.Profile,
) (*route.Scorer, error) {
	streams := slices.DeleteFunc(slices.Clone(w.spec.Metrics), func(m config.Metric) bool {
		return m.Type != config.TypeStream
	})
	build := func() (*monitor.Scorer, error) {
		own, err := newMeasures(w.name, streams, sig) // so does an expression
		if err != nil {
			return nil, err
		}
		cfg := w.cfg
		cfg.Derived = own.derived()
		return monitor.NewScorer(cfg, sig, profile)
	}
	first, err := build()
	if err != nil {
		return nil, err
	}
	idle := &sync.Pool{New: func() any {
		s, _ := build() // as before
		return s
	}}
	idle.Put(first)
	score := func(inputs, outputs []tensor.Tensor) (score float64, outlier, ok bool) {
		s := idle.Get().(*monitor.Scorer)
		score, outlier, ok = s.Score(inputs, outputs)
		idle.Put(s) // unless it has panicked
		return score, outlier, ok
	}
	return &route.Scorer{Model: w.subject.Model, Version: w.subject.Version, Score: score}, nil
}
