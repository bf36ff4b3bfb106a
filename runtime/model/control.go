package model

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/fsnotify/fsnotify"

	"github.com/millrace-ml/millrace/runtime/model/layout"
)

// trialVersion changes when what a trial proves does.
const trialVersion = "1"

// trialKey names a trial: files, library, configuration and what is proven.
func trialKey(digest, library string, f layout.Folder, defaultBatch int) string {
	text := ""
	if f.Config != nil {
		text = prototext.Format(f.Config)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s|%s|%s|%d|%s", trialVersion, digest, library,
		defaultBatch, text))
	return hex.EncodeToString(sum[:])
}

// LoadOptions are what a load request brings beside the name.
type LoadOptions struct {
	Config []byte // JSON, in place of the folder's config.pbtxt
}

// Load loads a model by name, again if it is loaded. It returns when the model
// is ready, or ErrLoad with the reason.
func (r *Repository) Load(ctx context.Context, name string, o LoadOptions) error {
	if r.opts.Mode != ModeExplicit {
		return ErrNotExplicit
	}
	r.control.Lock()
	defer r.control.Unlock()
	defer r.trials.close()
	root, f, err := r.find(name)
	if err != nil {
		return err
	}
	if len(o.Config) > 0 {
		if f.Config, f.Warnings, f.Fault = layout.ParseConfigJSON(o.Config); f.Fault != nil {
			return fmt.Errorf("%w '%s': %w", ErrLoad, name, f.Fault)
		}
	}
	if f.Fault != nil {
		r.setState(name, "1", StateUnavailable, f.Fault.Error())
		return fmt.Errorf("%w '%s': %w", ErrLoad, name, f.Fault)
	}
	r.wanted[name] = true
	wanted := layout.Select(f.Versions, f.Config.GetVersionPolicy())
	if len(wanted) == 0 {
		return fmt.Errorf(
			"%w '%s': at least one version must be available under the version policy", ErrLoad,
			name)
	}
	for _, v := range wanted {
		r.loadVersion(ctx, root, f, v)
		if e := r.state(name, v.Version); e.State != StateReady || e.Reason != "" {
			return fmt.Errorf("%w '%s': version %s: %s", ErrLoad, name, v.Version, e.Reason)
		}
	}
	return nil
}

// find returns the folder of a model.
func (r *Repository) find(name string) (string, layout.Folder, error) {
	for _, root := range r.opts.Repositories {
		folders, err := layout.Scan(root)
		if err != nil {
			return "", layout.Folder{}, err
		}
		for _, f := range folders {
			if f.Name == name {
				return root, f, nil
			}
		}
	}
	return "", layout.Folder{},
		fmt.Errorf("%w: %w '%s': it is in no model repository", ErrUnknownModel, ErrLoad, name)
}

// Unload takes a model out of service. Its requests in flight are answered.
func (r *Repository) Unload(_ context.Context, name string) error {
	if r.opts.Mode != ModeExplicit {
		return ErrNotExplicit
	}
	r.control.Lock()
	defer r.control.Unlock()
	if _, _, err := r.find(name); err != nil && r.table.Load().models[name] == nil {
		return err
	}
	delete(r.wanted, name)
	r.unload(name, "unloaded")
	return nil
}

// poll looks at the folders when they change and at least every PollInterval.
func (r *Repository) poll(ctx context.Context) {
	interval := r.opts.PollInterval
	if interval <= 0 {
		interval = 15 * time.Second
	}
	var events chan fsnotify.Event
	if w, err := fsnotify.NewWatcher(); err == nil {
		defer w.Close()
		for _, root := range r.opts.Repositories {
			_ = w.Add(root) // without it the interval alone finds changes
		}
		events = w.Events
	}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			timer.Reset(settle)
		case <-timer.C:
			if err := r.Sync(ctx); err != nil {
				r.log.Error("cannot read the model repository", "error", err)
			}
			timer.Reset(interval)
		}
	}
}

// settle is how long after a change the folders are looked at: copying a model
// makes many changes.
const settle = 200 * time.Millisecond
