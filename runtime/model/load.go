package model

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// loadVersion takes one version from files to serving. A failure leaves what
// serves as it is. Callers hold control.
func (r *Repository) loadVersion(ctx context.Context, p *plan, v layout.VersionDir) {
	k := key{p.Name, v.Version}
	serving := r.current(p.Name, v.Version) != nil
	if !serving {
		r.setState(p.Name, v.Version, StateLoading, "")
	}
	loaded, err := r.load(ctx, p, v)
	if err != nil {
		m := r.marks[k]
		m.failed = p.fingerprint(v)
		r.marks[k] = m
		state := StateUnavailable
		if serving {
			state = StateReady // the version as it was goes on
		}
		// Clients read the reason: where the files lie is not their business.
		reason := strings.ReplaceAll(err.Error(), p.Dir+"/", "")
		r.setState(p.Name, v.Version, state, reason)
		return
	}
	for _, w := range p.Warnings {
		r.log.Warn("configuration: "+w, "model", p.Name)
	}
	if leaving := r.put(p.Name, v.Version, loaded); leaving != nil {
		r.wait.Go(leaving.drain)
		r.log.Info("model replaced by what its files and settings say now", "model", p.Name,
			"version", v.Version)
	}
	r.setState(p.Name, v.Version, StateReady, "")
}

// load tries and loads one version.
func (r *Repository) load(ctx context.Context, p *plan, v layout.VersionDir) (*Version, error) {
	if v.Fault != nil {
		return nil, v.Fault
	}
	if err := layout.CheckModel(v); err != nil {
		return nil, err
	}
	result, err := r.try(ctx, p, v)
	if err != nil {
		return nil, err
	}
	return r.open(p, v, result)
}

// open loads a version that has passed its trial.
func (r *Repository) open(p *plan, v layout.VersionDir, result trialResult) (*Version, error) {
	began := time.Now()
	session, err := r.opts.Runtime.NewSession(v.File, p.session)
	if err != nil {
		return nil, err
	}
	loaded, err := r.assemble(p, v, session, result)
	if err != nil {
		session.Close()
		return nil, err
	}
	loaded.loadTime = time.Since(began)
	return loaded, nil
}

func (r *Repository) assemble(p *plan, v layout.VersionDir, session *ort.Session,
	result trialResult) (*Version, error) {
	cfg, sig, claimed, err := p.Complete(inspect(session, v), p.batch)
	if err != nil {
		return nil, err
	}
	if err := result.decide(cfg, sig, claimed); err != nil {
		return nil, err
	}
	sig.Model = p.Name
	how := batchConfig(cfg, r.opts.Defaults.Batch)
	if first := p.session.Providers; len(first) > 0 && onGPU(first[0].Name) {
		how.Steady = true
		how.MaxRuns = max(1, how.MaxRuns)
	}
	b, err := batch.New(how, sig, engine{session})
	if err != nil {
		return nil, err
	}
	if err := warmUp(p.Folder, cfg, sig, session); err != nil {
		return nil, err
	}
	return &Version{
		name: p.Name, version: v.Version, sig: sig, cfg: cfg, session: session, batcher: b,
		fingerprint: p.fingerprint(v), fileBytes: v.Bytes, drained: make(chan struct{}),
	}, nil
}

// try runs the version's trial, unless the same files have passed before.
func (r *Repository) try(ctx context.Context, p *plan, v layout.VersionDir) (trialResult, error) {
	job := trialJob{
		Library: r.opts.Runtime.Library(), Name: p.Name, Dir: p.Dir, Version: v,
		Session: p.session, DefaultBatch: p.batch, Memory: r.opts.Trial.Memory,
	}
	if strings.HasPrefix(job.Library, "/proc/self/") {
		job.Library = ""
	}
	if p.Config != nil {
		var err error
		job.Config, err = proto.MarshalOptions{Deterministic: true}.Marshal(p.Config)
		if err != nil {
			return trialResult{}, err
		}
	}
	mark, err := trialKey(job, r.opts.Runtime.Version(), len(p.Config.GetModelWarmup()) > 0)
	if err != nil {
		return trialResult{}, err
	}
	if result, ok := r.opts.Trial.passed(mark); ok {
		return result, nil
	}
	result := r.trials.run(ctx, job)
	if result.Error != "" {
		return result, errors.New(result.Error)
	}
	r.opts.Trial.remember(mark, result)
	return result, nil
}

// put puts a version into the table, or takes it out with nil, and returns the
// one that it replaces, which the caller lets drain.
func (r *Repository) put(name, version string, v *Version) (leaving *Version) {
	old := r.table.Load()
	models := maps.Clone(old.models)
	m := &served{versions: make(map[string]*Version)}
	if before := models[name]; before != nil {
		maps.Copy(m.versions, before.versions)
		leaving = before.versions[version]
	}
	delete(m.versions, version)
	if v != nil {
		m.versions[version] = v
	}
	for _, candidate := range m.versions {
		if m.latest == nil || layout.CompareVersions(candidate.version, m.latest.version) > 0 {
			m.latest = candidate
		}
	}
	models[name] = m
	if len(m.versions) == 0 {
		delete(models, name)
	}
	r.table.Store(&table{models: models})
	return leaving
}

// retire takes a version out of service. Its requests in flight are answered;
// then its line in the index is UNAVAILABLE for that reason, or gone without
// one. Callers hold control.
func (r *Repository) retire(name, version, reason string) {
	v := r.put(name, version, nil)
	if v == nil {
		return
	}
	r.enter(entry{IndexEntry{name, version, StateUnloading, reason}, v})
	r.wait.Go(func() {
		v.drain()
		r.left(v, reason)
	})
}
