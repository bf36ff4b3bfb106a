package model

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Times between looks at the folders in ModePoll.
const (
	defaultPoll = 15 * time.Second
	// gathering is how long the first change waits for more of them.
	gathering = 100 * time.Millisecond
)

// Bounds of what is watched; the interval alone finds changes elsewhere.
const (
	maxWatches = 4000 // folders; a system allows at least 8192 for a user
	watchDepth = 3    // below a repository: model, version, model.onnx as a folder
)

// poll looks at the folders when they change, until they have settled, and at
// least every PollInterval.
func (r *Repository) poll(ctx context.Context) {
	interval := r.opts.PollInterval
	if interval <= 0 {
		interval = defaultPoll
	}
	w := watcher{roots: r.opts.Repositories}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		r.log.Warn("changes of models are found by looking only", "interval", interval, "error",
			err)
	} else {
		defer notify.Close()
		w.notify, w.events, w.errors = notify, notify.Events, notify.Errors
	}
	w.refresh()
	// Something may have changed since the first load.
	timer := time.NewTimer(min(interval, gathering))
	defer timer.Stop()
	next := time.Now().Add(min(interval, gathering))
	again := func(after time.Duration) {
		next = time.Now().Add(after)
		timer.Reset(after)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.events:
			if time.Until(next) > gathering {
				again(gathering)
			}
		case <-w.errors: // events were lost
			if time.Until(next) > gathering {
				again(gathering)
			}
		case <-timer.C:
			w.refresh()
			settled, err := r.look(ctx)
			if err != nil && ctx.Err() == nil {
				r.log.Error("cannot read the model repository", "error", err)
			}
			if settled {
				again(interval)
			} else {
				again(min(interval, settle))
			}
		}
	}
}

// watcher watches the folders of models and versions. Its zero value watches
// nothing.
type watcher struct {
	roots  []string
	notify *fsnotify.Watcher
	events chan fsnotify.Event
	errors chan error
}

// refresh watches what folders there are now. A folder that is made later is a
// change in one that is watched.
func (w *watcher) refresh() {
	if w.notify == nil {
		return
	}
	dirs := below(w.roots)
	there := make(map[string]bool)
	for _, dir := range dirs {
		there[filepath.Clean(dir)] = true
	}
	// First: a folder that was renamed is the same one to the system.
	for _, dir := range w.notify.WatchList() {
		if !there[filepath.Clean(dir)] {
			_ = w.notify.Remove(dir) // fails for one that has just gone
		}
	}
	for _, dir := range dirs {
		// Adding a folder again follows a path that is another one now. It
		// fails when the folder has gone or the system allows no more.
		_ = w.notify.Add(dir)
	}
}

// below lists the folders in and below some, down to watchDepth.
func below(dirs []string) []string {
	for depth, level := 0, dirs; depth < watchDepth && len(dirs) < maxWatches; depth++ {
		var next []string
		for _, dir := range level {
			next = append(next, folders(dir)...)
		}
		dirs, level = slices.Concat(dirs, next), next
	}
	return dirs[:min(len(dirs), maxWatches)]
}

// folders lists the folders in dir.
func folders(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has just gone
	}
	var list []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") || e.Type().IsRegular() {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			list = append(list, path)
		}
	}
	return list
}
