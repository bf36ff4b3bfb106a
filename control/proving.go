package control

import (
	"context"

	"github.com/millrace-ml/millrace/control/proof"
)

// prove has a version that is loaded show what it has to before anything names it: the answers
// and examples that came with its files, and the golden set of its model. It returns what was
// shown, for people.
func (p *Plane) prove(ctx context.Context, name, version, dir string) (string, error) {
	v, err := p.models.Acquire([]byte(name), []byte(version))
	if err != nil {
		return "", err
	}
	defer v.Release()
	report, err := proof.Check(ctx, v, dir, p.proofOf(name))
	return report.String(), err
}

// proofOf is what the settings ask of a model's versions.
func (p *Plane) proofOf(name string) proof.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	cfg := proof.DefaultConfig()
	m := p.view.models[name]
	if m == nil || m.spec.Golden == nil {
		return cfg
	}
	g := m.spec.Golden
	cfg.Golden, cfg.Metric = g.File, proof.Accuracy
	if g.Metric != "" {
		cfg.Metric = proof.Metric(g.Metric)
	}
	if g.MinScore != nil {
		cfg.Bound = *g.MinScore
	}
	if g.MaxError != nil {
		cfg.Bound = *g.MaxError
	}
	if g.Timeout > 0 {
		cfg.Time = g.Timeout
	}
	return cfg
}
