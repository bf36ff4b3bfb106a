package model

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/runtime/model/layout"
)

// settle is how long files must look the same before they are loaded while the
// server runs: copying a model makes many changes.
const settle = 200 * time.Millisecond

// mark is what is remembered of a version between two looks at the folders.
type mark struct {
	seen   string // what its files looked like
	since  time.Time
	failed string // fingerprint that could not be loaded
	look   uint64 // the last look that came by it
}

// gone is what a version that is not there looks like.
const gone = "gone"

var (
	errNoVersion = errors.New("at least one version must be available under the version " +
		"policy; put the model at <version>/model.onnx")
	errNoFolder = errors.New("it is in no model repository")
)

// Sync brings what serves in line with the folders.
func (r *Repository) Sync(ctx context.Context) error {
	_, err := r.look(ctx)
	return err
}

// look is Sync; settled is false when something is still being copied and has
// to be looked at again.
func (r *Repository) look(ctx context.Context) (settled bool, err error) {
	r.control.Lock()
	defer r.control.Unlock()
	if r.closed {
		return true, errClosed
	}
	defer r.trials.close()
	r.unsettled = false
	r.looks++
	folders, err := r.scan()
	if err != nil {
		return true, err
	}
	there := make(map[string]bool)
	_, all := r.sources["*"]
	delete(r.sources, "*") // from here on what is unloaded stays so
	for _, f := range folders {
		there[f.Name] = true
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
		if all && r.sources[f.Name] == nil {
			r.sources[f.Name] = new(source)
		}
		if r.opts.Mode == ModeExplicit && r.sources[f.Name] == nil && !r.synced(&f) {
			r.known(f.Name)
			continue
		}
		if s := r.sources[f.Name]; s == nil || s.config == nil {
			r.syncFolder(ctx, r.plan(f))
		}
	}
	for name, s := range r.sources {
		if s.config == nil && !there[name] && len(r.Versions(name)) == 0 {
			r.faulty(name, errNoFolder)
		}
	}
	if !r.ready.Load() {
		for name, s := range r.opts.Models {
			if !there[name] && !s.Synced {
				r.log.Warn("there are settings for a model that is in no repository", "model", name)
			}
		}
	}
	r.sweep(there)
	return !r.unsettled, nil
}

// roots lists the repositories that there are.
func (r *Repository) roots() []string {
	if r.opts.Synced == "" || !isFolder(r.opts.Synced) {
		return r.opts.Repositories
	}
	return append(slices.Clone(r.opts.Repositories), r.opts.Synced)
}

// synced says whether a folder is of the repository that others bring models to.
func (r *Repository) synced(f *layout.Folder) bool {
	return r.opts.Synced != "" && filepath.Dir(f.Dir) == filepath.Clean(r.opts.Synced)
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// scan reads all repositories. Of models of the same name the first one counts.
func (r *Repository) scan() ([]layout.Folder, error) {
	var all []layout.Folder
	first := make(map[string]string)
	doubled := make(map[string]bool)
	for _, root := range r.roots() {
		folders, err := layout.Scan(root)
		if err != nil {
			return nil, err
		}
		for _, f := range folders {
			other, twice := first[f.Name]
			if !twice {
				first[f.Name] = root
				all = append(all, f)
				continue
			}
			if doubled[f.Name] = true; !r.doubled[f.Name] {
				r.log.Warn("model is in two repositories, the first one serves", "model", f.Name,
					"first", other, "other", root)
			}
		}
	}
	r.doubled = doubled
	return all, nil
}

// syncFolder loads what is new in a folder and retires what is not wanted any
// more. Callers hold control.
func (r *Repository) syncFolder(ctx context.Context, p plan) {
	if p.Fault != nil {
		r.faulty(p.Name, p.Fault)
		return
	}
	wanted := layout.Select(p.Versions, p.Config)
	for _, v := range wanted {
		k := key{p.Name, v.Version}
		settled := r.settled(k, p.seen(v))
		if current := r.current(p.Name, v.Version); current != nil &&
			current.fingerprint == p.fingerprint(v) {
			if r.state(p.Name, v.Version).Reason != "" {
				r.setState(p.Name, v.Version, StateReady, "") // what failed was taken back
			}
			continue
		}
		if settled && r.marks[k].failed != p.fingerprint(v) && ctx.Err() == nil {
			r.loadVersion(ctx, &p, v)
		}
	}
	r.retireUnwanted(&p, wanted)
	if len(wanted) == 0 && len(r.Versions(p.Name)) == 0 {
		r.faulty(p.Name, errNoVersion)
	}
}

// retireUnwanted takes out what the version policy does not ask for, once one
// that it does ask for serves, and what has left the folder.
func (r *Repository) retireUnwanted(p *plan, wanted []layout.VersionDir) {
	has := func(list []layout.VersionDir, version string) bool {
		return slices.ContainsFunc(list,
			func(v layout.VersionDir) bool { return v.Version == version })
	}
	ready := slices.ContainsFunc(wanted,
		func(v layout.VersionDir) bool { return r.current(p.Name, v.Version) != nil })
	for _, version := range r.Versions(p.Name) {
		switch {
		case has(wanted, version):
		case len(wanted) > 0 && !ready:
		case len(wanted) == 0 && !r.settled(key{p.Name, version}, gone):
		default:
			r.retire(p.Name, version, "")
		}
	}
	r.forget(p.Name, func(version string) bool {
		return has(wanted, version) || version == "" && len(wanted) == 0
	})
}

// faulty says of a whole folder why nothing of it can be loaded. What serves
// goes on and bears the reason.
func (r *Repository) faulty(name string, fault error) {
	serving := r.Versions(name)
	for _, version := range serving {
		r.setState(name, version, StateReady, fault.Error())
	}
	if len(serving) == 0 {
		r.forget(name, func(version string) bool { return version == "" })
		r.setState(name, "", StateUnavailable, fault.Error())
	}
}

// settled says whether the files of a version have looked the same for long
// enough. At the start and where nobody follows changes they always have.
func (r *Repository) settled(k key, seen string) bool {
	m, now := r.marks[k], time.Now()
	if m.seen != seen {
		m.seen, m.since = seen, now
	}
	m.look = r.looks
	r.marks[k] = m
	if r.opts.Mode != ModePoll || !r.ready.Load() || now.Sub(m.since) >= settle {
		return true
	}
	r.unsettled = true
	return false
}

// sweep retires models whose folders are gone and drops what is remembered of
// them.
func (r *Repository) sweep(there map[string]bool) {
	for name := range r.table.Load().models {
		if s := r.sources[name]; there[name] || s != nil && s.root != "" {
			continue
		}
		for _, version := range r.Versions(name) {
			if r.settled(key{name, version}, gone) {
				r.retire(name, version, "")
				delete(r.marks, key{name, version})
			}
		}
	}
	for _, e := range r.Index(false) {
		if !there[e.Name] && r.sources[e.Name] == nil {
			r.forget(e.Name, func(string) bool { return false })
		}
	}
	for k, m := range r.marks {
		if m.look != r.looks {
			delete(r.marks, k)
		}
	}
}

func (r *Repository) current(name, version string) *Version {
	if m := r.table.Load().models[name]; m != nil {
		return m.versions[version]
	}
	return nil
}
