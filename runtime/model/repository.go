package model

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// State is where a version stands, by the repository extension's names.
type State string

// The states of the repository extension.
const (
	StateReady       State = "READY"
	StateLoading     State = "LOADING"
	StateUnloading   State = "UNLOADING"
	StateUnavailable State = "UNAVAILABLE"
)

// IndexEntry is one line of the repository's index. A model that was never
// loaded has only a name.
type IndexEntry struct {
	Name    string
	Version string
	State   State
	Reason  string
}

// Repository loads, serves and unloads the models of some folders.
type Repository struct {
	opts   Options
	log    *slog.Logger
	table  atomic.Pointer[table]
	ready  atomic.Bool
	cancel context.CancelFunc
	wait   sync.WaitGroup // the watcher and the versions that drain

	control sync.Mutex        // one change at a time; held over slow work
	trials  trials            // Guarded by control.
	seen    map[string]string // fingerprint at the last look, by version key. Guarded by control.
	wanted  map[string]bool   // models asked for in ModeExplicit. Guarded by control.

	mu     sync.Mutex
	states map[key]IndexEntry // Guarded by mu.
}

type key struct{ name, version string }

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
		opts: opts, log: opts.Logger,
		seen: make(map[string]string), wanted: make(map[string]bool),
		states: make(map[key]IndexEntry),
	}
	r.trials = trials{cfg: opts.Trial, log: opts.Logger}
	r.table.Store(&table{models: make(map[string]*served)})
	for _, name := range opts.Startup {
		r.wanted[name] = true
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

// notServed tells a version that nobody knows from one that cannot serve.
func (r *Repository) notServed(name, version string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, e := range r.states {
		if k.name == name && e.State != "" && (version == "" || k.version == version) {
			reason := e.Reason
			if reason != "" {
				reason = ": " + reason
			}
			return fmt.Errorf("%w: '%s' version %s is %s%s", ErrNotReady, name, k.version, e.State,
				reason)
		}
	}
	if len(name) > 256 {
		name = name[:256]
	}
	if version != "" {
		return fmt.Errorf("%w: Request for unknown model: '%s' version %.64s is not found",
			ErrUnknownModel, name, version)
	}
	return fmt.Errorf("%w: Request for unknown model: '%s' is not found", ErrUnknownModel, name)
}

// Ready says whether the first load is over and no model is without a ready version.
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

// Index lists every version that is known, in the order of their names.
func (r *Repository) Index(readyOnly bool) []IndexEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := make([]IndexEntry, 0, len(r.states))
	for _, e := range r.states {
		if !readyOnly || e.State == StateReady {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b IndexEntry) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return layout.CompareVersions(a.Version, b.Version)
	})
	return entries
}

func (r *Repository) setState(name, version string, s State, reason string) {
	r.mu.Lock()
	k := key{name, version}
	old := r.states[k].State
	if version != "" {
		delete(r.states, key{name, ""})
	}
	r.states[k] = IndexEntry{name, version, s, reason}
	r.mu.Unlock()
	if s != old && s != "" {
		r.log.Info("model "+strings.ToLower(string(s)), "model", name, "version", version, "was",
			old, "reason", reason)
	}
}

func (r *Repository) forget(name, version string) {
	r.mu.Lock()
	delete(r.states, key{name, version})
	r.mu.Unlock()
}

// Sync brings what serves in line with the folders.
func (r *Repository) Sync(ctx context.Context) error {
	r.control.Lock()
	defer r.control.Unlock()
	defer r.trials.close()
	there := make(map[string]bool)
	for _, root := range r.opts.Repositories {
		folders, err := layout.Scan(root)
		if err != nil {
			return err
		}
		for _, f := range folders {
			if there[f.Name] {
				r.log.Warn("model is in two repositories, the first one serves", "model", f.Name)
				continue
			}
			there[f.Name] = true
			if r.opts.Mode == ModeExplicit && !r.wanted[f.Name] && !r.wanted["*"] {
				r.known(f.Name)
				continue
			}
			r.syncFolder(ctx, root, f)
		}
	}
	for name := range r.table.Load().models {
		if !there[name] {
			r.unload(name, "its folder is gone")
		}
	}
	return nil
}

// known gives a model that is not loaded its line in the index.
func (r *Repository) known(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.states {
		if k.name == name {
			return
		}
	}
	r.states[key{name, ""}] = IndexEntry{Name: name}
}

// syncFolder loads what is new in a folder and unloads what is not wanted any more.
func (r *Repository) syncFolder(ctx context.Context, root string, f layout.Folder) {
	if f.Fault != nil {
		r.setState(f.Name, "1", StateUnavailable, f.Fault.Error())
		return
	}
	for _, w := range f.Warnings {
		r.log.Warn("config.pbtxt: "+w, "model", f.Name)
	}
	wanted := layout.Select(f.Versions, f.Config.GetVersionPolicy())
	for _, v := range wanted {
		if current := r.current(f.Name, v.Version); current != nil &&
			current.fingerprint == v.Fingerprint {
			continue
		}
		mark := f.Name + "\x00" + v.Version
		if r.opts.Mode == ModePoll && r.ready.Load() && r.seen[mark] != v.Fingerprint {
			r.seen[mark] = v.Fingerprint // perhaps still being copied: look once more
			continue
		}
		r.seen[mark] = v.Fingerprint
		if failed := r.state(f.Name, v.Version); failed.State == StateUnavailable &&
			r.seen[mark+"\x00failed"] == v.Fingerprint {
			continue
		}
		r.loadVersion(ctx, root, f, v)
	}
	if m := r.table.Load().models[f.Name]; m != nil {
		for version := range m.versions {
			gone := !slices.ContainsFunc(wanted,
				func(v layout.VersionDir) bool { return v.Version == version })
			if gone && r.anyReady(f.Name, wanted) {
				r.replace(f.Name, version, nil)
				r.forget(f.Name, version)
			}
		}
	}
}

// anyReady says whether one of the wanted versions serves: the old one leaves
// only then.
func (r *Repository) anyReady(name string, wanted []layout.VersionDir) bool {
	return slices.ContainsFunc(wanted,
		func(v layout.VersionDir) bool { return r.current(name, v.Version) != nil })
}

func (r *Repository) current(name, version string) *Version {
	if m := r.table.Load().models[name]; m != nil {
		return m.versions[version]
	}
	return nil
}

func (r *Repository) state(name, version string) IndexEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.states[key{name, version}]
}

// loadVersion takes one version from files to serving. A failure leaves what
// serves as it is.
func (r *Repository) loadVersion(ctx context.Context, root string, f layout.Folder,
	v layout.VersionDir) {
	serving := r.current(f.Name, v.Version) != nil
	if !serving {
		r.setState(f.Name, v.Version, StateLoading, "")
	}
	loaded, err := r.load(ctx, root, f, v)
	if err != nil {
		r.seen[f.Name+"\x00"+v.Version+"\x00failed"] = v.Fingerprint
		state := StateUnavailable
		if serving {
			state = StateReady // the version as it was goes on
		}
		r.setState(f.Name, v.Version, state, err.Error())
		return
	}
	r.replace(f.Name, v.Version, loaded)
	r.setState(f.Name, v.Version, StateReady, "")
}

// load tries and loads one version.
func (r *Repository) load(ctx context.Context, root string, f layout.Folder,
	v layout.VersionDir) (*Version, error) {
	if err := layout.CheckModel(v); err != nil {
		return nil, err
	}
	result, err := r.try(ctx, root, f, v)
	if err != nil {
		return nil, err
	}
	return r.open(f, v, result)
}

// open loads a version that has passed its trial.
func (r *Repository) open(f layout.Folder, v layout.VersionDir,
	result trialResult) (*Version, error) {
	began := time.Now()
	session, err := r.opts.Runtime.NewSession(v.File,
		sessionConfig(f.Config, f.Name, r.opts.Defaults.Session))
	if err != nil {
		return nil, err
	}
	loaded, err := r.assemble(f, v, session, result)
	if err != nil {
		session.Close()
		return nil, err
	}
	loaded.loadTime = time.Since(began)
	return loaded, nil
}

func (r *Repository) assemble(f layout.Folder, v layout.VersionDir, session *ort.Session,
	result trialResult) (*Version, error) {
	inspected := layout.Inspected{Inputs: session.Inputs(), Outputs: session.Outputs()}
	cfg, sig, claimed, err := f.Complete(inspected, r.opts.Defaults.MaxBatchSize)
	if err != nil {
		return nil, err
	}
	if !result.Batched && sig.MaxBatchSize > 0 {
		if claimed && result.Ran {
			return nil,
				fmt.Errorf("max_batch_size is %d, but two rows in one run give other answers than "+
					"in two runs: set max_batch_size: 0", sig.MaxBatchSize)
		}
		if !claimed {
			layout.DropBatching(cfg, sig)
		}
	}
	b, err := batch.New(batchConfig(cfg, r.opts.Defaults.Batch), sig, engine{session})
	if err != nil {
		return nil, err
	}
	return &Version{
		name: f.Name, version: v.Version, sig: sig, cfg: cfg, session: session, batcher: b,
		fingerprint: v.Fingerprint, fileBytes: v.Bytes, drained: make(chan struct{}),
	}, nil
}

// try runs the version's trial, unless the same files have passed before.
func (r *Repository) try(ctx context.Context, root string, f layout.Folder,
	v layout.VersionDir) (trialResult, error) {
	digest, err := layout.Digest(v)
	if err != nil {
		return trialResult{}, err
	}
	mark := trialKey(digest, r.opts.Runtime.Version(), f, r.opts.Defaults.MaxBatchSize)
	if result, ok := r.opts.Trial.passed(mark); ok {
		return result, nil
	}
	library := r.opts.Runtime.Library()
	if strings.HasPrefix(library, "/proc/self/") {
		library = ""
	}
	result := r.trials.run(ctx, trialJob{
		Library: library, Root: root, Name: f.Name, Version: v.Version,
		DefaultBatch: r.opts.Defaults.MaxBatchSize, Memory: r.opts.Trial.Memory,
	})
	if result.Error != "" {
		return result, errors.New(result.Error)
	}
	r.opts.Trial.remember(mark, result)
	return result, nil
}

// replace puts a version into the table, or takes it out with nil, and lets
// the one that it replaces drain.
func (r *Repository) replace(name, version string, v *Version) {
	old := r.table.Load()
	models := maps.Clone(old.models)
	m := &served{versions: make(map[string]*Version)}
	var leaving *Version
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
	if leaving != nil {
		r.wait.Go(leaving.drain)
	}
}

// unload takes all versions of a model out. Callers hold control.
func (r *Repository) unload(name, reason string) {
	for _, version := range r.Versions(name) {
		r.replace(name, version, nil)
		r.setState(name, version, StateUnavailable, reason)
	}
}

// Close drains all versions, until ctx is done.
func (r *Repository) Close(ctx context.Context) error {
	r.cancel()
	r.control.Lock()
	for name := range r.table.Load().models {
		r.unload(name, "the server stops")
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
