package model

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/runtime/model/layout"
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
// loaded has only a name; a folder of which nothing can be loaded has no version.
type IndexEntry struct {
	Name    string
	Version string
	State   State
	Reason  string
}

type key struct{ name, version string }

// entry is a line of the index and, while it is UNLOADING, the version that
// drains.
type entry struct {
	IndexEntry
	leaving *Version
}

// Index lists every version that is known, in the order of their names.
func (r *Repository) Index(readyOnly bool) []IndexEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := make([]IndexEntry, 0, len(r.states))
	for _, e := range r.states {
		if !readyOnly || e.State == StateReady {
			entries = append(entries, e.IndexEntry)
		}
	}
	slices.SortFunc(entries, compareEntries)
	return entries
}

func compareEntries(a, b IndexEntry) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	return layout.CompareVersions(a.Version, b.Version)
}

// notServed tells a version that nobody knows from one that cannot serve. Of
// several versions the highest one's reason counts.
func (r *Repository) notServed(name, version string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var best IndexEntry
	for k, e := range r.states {
		if k.name == name && e.State != "" &&
			(version == "" || k.version == version || k.version == "") &&
			(best.Name == "" || compareEntries(e.IndexEntry, best) > 0) {
			best = e.IndexEntry
		}
	}
	if best.Name != "" {
		text := fmt.Sprintf("'%s'", name)
		if best.Version != "" {
			text += " version " + best.Version
		}
		text += " is " + string(best.State)
		if best.Reason != "" {
			text += ": " + best.Reason
		}
		return fmt.Errorf("%w: %s", ErrNotReady, text)
	}
	if len(name) > 256 {
		name = name[:256]
	}
	if version != "" {
		return fmt.Errorf("%w: '%s' version %.64s is not found",
			ErrUnknownModel, name, version)
	}
	return fmt.Errorf("%w: '%s' is not found", ErrUnknownModel, name)
}

func (r *Repository) state(name, version string) IndexEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.states[key{name, version}].IndexEntry
}

func (r *Repository) setState(name, version string, s State, reason string) {
	r.enter(entry{IndexEntry: IndexEntry{name, version, s, reason}})
}

// enter makes e a line of the index. A line of a version takes the place of
// the one of the whole folder.
func (r *Repository) enter(e entry) {
	r.mu.Lock()
	k := key{e.Name, e.Version}
	old := r.states[k].IndexEntry
	if e.Version != "" {
		delete(r.states, key{e.Name, ""})
	}
	r.states[k] = e
	r.mu.Unlock()
	if e.IndexEntry != old {
		level := slog.LevelInfo
		if e.Reason != "" && e.State != StateUnloading && old.State != StateUnloading {
			level = slog.LevelWarn // somebody has to do something about it
		}
		r.log.Log(context.Background(), level, "model "+strings.ToLower(string(e.State)),
			"model", e.Name, "version", e.Version, "was", old.State, "reason", e.Reason)
	}
}

// left ends the UNLOADING of a version that has drained. Without a reason its
// line leaves the index.
func (r *Repository) left(v *Version, reason string) {
	r.mu.Lock()
	k := key{v.name, v.version}
	mine := r.states[k].leaving == v
	if mine && reason == "" {
		delete(r.states, k)
	}
	r.mu.Unlock()
	if mine && reason != "" {
		r.setState(v.name, v.version, StateUnavailable, reason)
	} else if mine {
		r.log.Info("model unloaded", "model", v.name, "version", v.version)
	}
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
	r.states[key{name, ""}] = entry{IndexEntry: IndexEntry{Name: name}}
}

// forget drops the lines of a model for which keep is false. What serves or
// drains keeps its line.
func (r *Repository) forget(name string, keep func(version string) bool) {
	serving := r.Versions(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, e := range r.states {
		if k.name == name && e.leaving == nil && !slices.Contains(serving, k.version) &&
			!keep(k.version) {
			delete(r.states, k)
		}
	}
}
