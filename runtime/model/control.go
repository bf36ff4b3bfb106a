package model

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/runtime/model/layout"
)

// LoadOptions are what a load request brings beside the name.
type LoadOptions struct {
	Config []byte // JSON, in place of the folder's config.pbtxt
	// Files are the model's in place of the folder's, by their paths from the
	// model's folder, such as 1/model.onnx. They need Config.
	Files map[string][]byte
}

// maxLoadFiles bounds the files of a load request. Their bytes are bounded by
// the front's bound of a body.
const maxLoadFiles = 1000

// source is where a model that was asked for by name comes from.
type source struct {
	config []byte // in place of config.pbtxt; nil for the folder's own
	root   string // repository of our own with the request's files; "" for none
}

// Load loads a model by name, again if it is loaded. It returns when the model
// is ready, or ErrLoad with the reason; what served before goes on then.
func (r *Repository) Load(ctx context.Context, name string, o LoadOptions) error {
	if r.opts.Mode != ModeExplicit {
		return ErrNotExplicit
	}
	r.control.Lock()
	defer r.control.Unlock()
	if r.closed {
		return errClosed
	}
	defer r.trials.close()
	s := new(source)
	if len(o.Config) > 0 {
		s.config = o.Config
	}
	err := s.keep(name, o.Files)
	if err == nil {
		err = r.loadFrom(ctx, name, s)
	}
	if err != nil {
		s.remove()
		if len(o.Files) > 0 && len(r.Versions(name)) == 0 {
			r.forget(name, func(string) bool { return false }) // clients choose these names
		}
		return err
	}
	r.drop(name)
	r.sources[name] = s
	return nil
}

// loadFrom loads all versions that are wanted of a model, and retires others.
func (r *Repository) loadFrom(ctx context.Context, name string, s *source) error {
	f, err := r.find(name, s)
	if err != nil {
		return err
	}
	p := r.plan(f)
	wanted := layout.Select(p.Versions, p.Config)
	if p.Fault == nil && len(wanted) == 0 {
		p.Fault = errNoVersion
	}
	if p.Fault != nil {
		r.faulty(name, p.Fault)
		return fmt.Errorf("%w '%s': %w", ErrLoad, name, p.Fault)
	}
	for _, v := range wanted {
		r.loadVersion(ctx, &p, v)
		if e := r.state(name, v.Version); e.State != StateReady || e.Reason != "" {
			return fmt.Errorf("%w '%s': version %s: %s", ErrLoad, name, v.Version, e.Reason)
		}
	}
	r.retireUnwanted(&p, wanted)
	return nil
}

// find reads the folder of a model. s may be nil.
func (r *Repository) find(name string, s *source) (layout.Folder, error) {
	roots := r.roots()
	if s == nil {
		s = new(source)
	}
	if s.root != "" {
		roots = []string{s.root}
	}
	for _, root := range roots {
		if f, ok := layout.Find(root, name, s.config); ok || s.root != "" {
			return f, nil
		}
	}
	return layout.Folder{}, fmt.Errorf("%w '%.256s': %w: %w", ErrLoad, name, ErrUnknownModel,
		errNoFolder)
}

// keep writes the files of a load request into a folder of our own.
func (s *source) keep(name string, files map[string][]byte) error {
	if len(files) == 0 {
		return nil
	}
	if s.config == nil {
		return fmt.Errorf("%w '%.256s': files need the parameter config beside them", ErrLoad, name)
	}
	if len(files) > maxLoadFiles {
		return fmt.Errorf("%w '%.256s': %d files, at most %d are taken", ErrLoad, name, len(files),
			maxLoadFiles)
	}
	if !layout.ValidName(name) {
		return fmt.Errorf("%w '%.256s': the name has characters that names may not have", ErrLoad,
			name)
	}
	for path := range files {
		if !validPath(path) {
			return fmt.Errorf("%w '%s': file %.256q: must be <version>/<path>, such as "+
				"1/model.onnx", ErrLoad, name, path)
		}
	}
	var err error
	if s.root, err = os.MkdirTemp("", "millrace-model-"); err != nil {
		return fmt.Errorf("%w '%s': cannot keep its files: %w", ErrLoad, name, err)
	}
	for path, data := range files {
		to := filepath.Join(s.root, name, path)
		if err = os.MkdirAll(filepath.Dir(to), 0o700); err == nil {
			err = os.WriteFile(to, data, 0o600)
		}
		if err != nil {
			var p *os.PathError
			if errors.As(err, &p) {
				err = p.Err
			}
			return fmt.Errorf("%w '%s': cannot keep the file %.256q: %w", ErrLoad, name, path, err)
		}
	}
	return nil
}

// validPath says whether a file of a load request has a path of folder and
// names that stay below the model's folder.
func validPath(path string) bool {
	parts := strings.Split(path, "/")
	return len(path) < 1024 && len(parts) > 1 && !slices.ContainsFunc(parts,
		func(part string) bool { return !layout.ValidName(part) })
}

// remove gives the folder of a source back. Sessions need it no more once they
// are loaded.
func (s *source) remove() {
	if s.root != "" {
		_ = os.RemoveAll(s.root) // what stays lies in the system's folder for such files
	}
}

// drop forgets where a model came from.
func (r *Repository) drop(name string) {
	if s := r.sources[name]; s != nil {
		s.remove()
		delete(r.sources, name)
	}
}

// Unload takes a model out of service and does not wait for its requests in
// flight, which are answered: the index says UNLOADING meanwhile.
func (r *Repository) Unload(_ context.Context, name string) error {
	if r.opts.Mode != ModeExplicit {
		return ErrNotExplicit
	}
	r.control.Lock()
	defer r.control.Unlock()
	if r.closed {
		return errClosed
	}
	s := r.sources[name]
	_, err := r.find(name, nil)
	if err != nil && r.table.Load().models[name] == nil {
		return err
	}
	reason := "unloaded"
	if err != nil && s != nil && s.root != "" {
		reason = "" // nobody else knows the name
	}
	r.drop(name)
	r.unload(name, reason)
	return nil
}

// unload takes all versions of a model out. Callers hold control.
func (r *Repository) unload(name, reason string) {
	for _, version := range r.Versions(name) {
		r.retire(name, version, reason)
	}
}

// Configure takes over the settings of single models. Those whose settings
// have changed are loaded beside what serves, and take its place; where that
// fails, what serves goes on and the index has the reason.
func (r *Repository) Configure(ctx context.Context, models map[string]Settings) {
	r.control.Lock()
	defer r.control.Unlock()
	if r.closed {
		return
	}
	defer r.trials.close()
	before := r.opts.Models
	r.opts.Models = maps.Clone(models)
	names := make(map[string]bool)
	for name, s := range models {
		if old, ok := before[name]; !ok || !reflect.DeepEqual(old, s) {
			names[name] = true
		}
	}
	for name := range before {
		if _, ok := models[name]; !ok {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f, err := r.find(name, r.sources[name])
		if err != nil && models[name].Synced {
			continue // it has not come yet
		}
		if err != nil {
			r.log.Warn("there are settings for a model that is in no repository", "model", name)
			continue
		}
		if r.opts.Mode == ModeExplicit && r.sources[name] == nil && !r.synced(&f) {
			continue
		}
		r.syncFolder(ctx, r.plan(f))
	}
}
