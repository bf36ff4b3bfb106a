package model

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/millrace-ml/millrace/runtime/model/layout"
)

// Repository loads, serves and unloads the models of some folders.
type Repository struct {
	opts   Options
	log    *slog.Logger
	table  atomic.Pointer[table]
	ready  atomic.Bool
	cancel context.CancelFunc
	wait   sync.WaitGroup // the watcher and the versions that drain

	control   sync.Mutex         // one change at a time; held over slow work
	closed    bool               // Guarded by control, as all down to sources.
	trials    trials             //
	marks     map[key]mark       // what was seen of each version
	looks     uint64             // how often the folders were looked at
	unsettled bool               // the last look met files that still change
	doubled   map[string]bool    // models that are in two repositories
	sources   map[string]*source // models asked for in ModeExplicit; "*" is all, at the start

	mu     sync.Mutex
	states map[key]entry // Guarded by mu.
}

// table is what serves, immutable.
type table struct {
	models map[string]*served
}

type served struct {
	versions map[string]*Version
	latest   *Version
}

// Open loads what the options ask for. A model that cannot be loaded is not an
// error of the repository: its reason stands in the index.
func Open(ctx context.Context, opts Options) (*Repository, error) {
	r := &Repository{
		opts: opts, log: opts.Logger, marks: make(map[key]mark),
		sources: make(map[string]*source), states: make(map[key]entry),
	}
	r.trials = trials{cfg: opts.Trial, log: opts.Logger}
	r.table.Store(&table{models: make(map[string]*served)})
	for _, name := range opts.Startup {
		r.sources[name] = new(source)
	}
	if err := r.Sync(ctx); err != nil {
		return nil, err
	}
	r.ready.Store(true)
	watch, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	if opts.Mode == ModePoll {
		r.wait.Go(func() { r.poll(watch) })
	}
	return r, nil
}

// Acquire pins a version of a model; an empty version is the latest that is
// ready. Every Acquire that returns no error is followed by one Release.
func (r *Repository) Acquire(name, version []byte) (*Version, error) {
	for {
		m := r.table.Load().models[string(name)]
		if m == nil {
			return nil, r.notServed(string(name), string(version))
		}
		v := m.latest
		if len(version) > 0 {
			v = m.versions[string(version)]
		}
		if v == nil {
			return nil, r.notServed(string(name), string(version))
		}
		if v.acquire() {
			return v, nil
		}
	}
}

// Ready says whether the first load is over. A model that could not be loaded
// does not make it false: the others serve, and its reason stands in the index.
func (r *Repository) Ready() bool { return r.ready.Load() }

// Versions lists the ready versions of a model.
func (r *Repository) Versions(name string) []string {
	m := r.table.Load().models[name]
	if m == nil {
		return nil
	}
	return slices.SortedFunc(maps.Keys(m.versions), layout.CompareVersions)
}

// Each calls f with every version that serves, in the order of their names.
func (r *Repository) Each(f func(*Version)) {
	models := r.table.Load().models
	for _, name := range slices.Sorted(maps.Keys(models)) {
		m := models[name]
		for _, version := range slices.SortedFunc(maps.Keys(m.versions), layout.CompareVersions) {
			f(m.versions[version])
		}
	}
}

// errClosed is returned for changes after Close.
var errClosed = fmt.Errorf("%w: the server stops", ErrNotReady)

// Close drains all versions, until ctx is done.
func (r *Repository) Close(ctx context.Context) error {
	r.cancel()
	r.control.Lock()
	r.closed = true
	for name := range r.table.Load().models {
		r.unload(name, "the server stops")
	}
	for name := range r.sources {
		r.drop(name)
	}
	r.control.Unlock()
	done := make(chan struct{})
	go func() { r.wait.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot close all models: %w", ctx.Err())
	}
}
