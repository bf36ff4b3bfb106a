// Package syncer brings the versions of models from where people keep them into the
// folders that are served.
//
// A [Syncer] looks at a source, decides which versions of its models are wanted, pulls
// those into the store, makes their folders, has them loaded, and removes what nobody
// wants any more. What is known afterwards is the [Status] of each model. A [Converter]
// is a source that makes ONNX of models of other kinds.
//
// What is here stands on disk alone: in the pins of the store, which say what digest a
// version has, and in the folders, whose time tells what of the source lies in them. So a
// process may be killed at any instant, and the next Sync goes on.
//
// Sync may be called concurrently for different models. The package does not decide
// when to look: who calls it does.
package syncer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/source"
	"github.com/millrace-ml/millrace/runtime/model"
)

// State says how far a version has come.
type State string

// The states of a version.
const (
	Wanted   State = "Wanted"   // the source does not hand it out yet; the reason says why
	Fetching State = "Fetching" // its files are here, and it is not loaded yet
	Ready    State = "Ready"    // it can serve
	NotONNX  State = "NotONNX"  // it has to be converted first
	Failed   State = "Failed"   // it cannot be fetched or loaded
	Gone     State = "Gone"     // it is wanted, and the source has no such version
)

// Status is what is known of a model at its source.
type Status struct {
	Registry map[string]string `json:"registry,omitempty"` // versions by alias at the source
	Aliases  map[string]string `json:"aliases,omitempty"`  // those in force: they are Ready
	Versions []Version         `json:"versions,omitempty"` // wanted or failed, newest first
	Looked   time.Time         `json:"looked"`             // the last look at the source
	Error    string            `json:"error,omitempty"`    // of that look; what was known stays
}

// Version is what is known of a version.
type Version struct {
	Name    string    `json:"name"`
	Digest  string    `json:"digest,omitempty"` // of the files that are here
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	RunID   string    `json:"run_id,omitempty"`
	Link    string    `json:"link,omitempty"` // a page for people
	Created time.Time `json:"created,omitzero"`
	// The run of a trigger that it was trained in, as its tag millrace.run says.
	TrainedIn string `json:"trained_in,omitempty"`
}

// Model says what is wanted of a model.
type Model struct {
	Name   string   // of its folder
	At     string   // its name at the source
	Wanted []string // versions that endpoints and rollouts need
	Latest int      // how many of the newest versions are wanted whoever needs them
	Status Status   // what the last Sync returned
}

// Repository loads what lies in the folders. It is a [model.Repository] of a mode that
// loads all models, of which Config.Dir is one of the folders.
type Repository interface {
	Sync(ctx context.Context) error
	Index(readyOnly bool) []model.IndexEntry
}

// Config says where versions go.
type Config struct {
	Dir    string // folder of the models, the Syncer's own: Dir/NAME/VERSION/files
	Store  *artifact.Store
	Models Repository
	// Prove has a version that is loaded show, by the files in dir, that it may serve, and
	// returns a line on what it has shown. A version with the same files is asked again only
	// where it has failed, a minute later. Nil lets all versions serve.
	Prove func(ctx context.Context, name, version, dir string) (shown string, err error)
	Log   *slog.Logger
}

// Syncer brings versions from sources to READY.
type Syncer struct {
	cfg   Config
	slots chan struct{} // one for each pull that may run

	mu    sync.Mutex
	notes map[string]map[string]note // by model and version. Guarded by mu.
}

// maxPulls is how many versions are fetched at a time: two keep a line busy while one
// of them waits for a server, and leave room for the requests that are served.
const maxPulls = 2

// New returns a Syncer that has not looked anywhere yet. It removes what a killed
// process has left half-made.
func New(cfg Config) *Syncer {
	s := &Syncer{cfg: cfg, slots: make(chan struct{}, maxPulls),
		notes: make(map[string]map[string]note)}
	if err := os.RemoveAll(s.temp()); err != nil {
		cfg.Log.Warn("cannot remove what was half-made", "error", err)
	}
	return s
}

// Sync looks at a source and brings the wanted versions of its models to READY. Wanted
// are those that an alias names, those of Model.Wanted and the Model.Latest newest; the
// newest one where nothing else is. An alias moves to a version when that is READY.
// What is not wanted any more is removed, but not before what comes in its place is
// READY. Each model stands alone: what fails of one is in its status.
func (s *Syncer) Sync(ctx context.Context, src source.Source, models []Model) map[string]Status {
	statuses := make(map[string]Status, len(models))
	var works []*work
	names := make([]string, 0, len(models))
	for _, m := range models {
		names = append(names, m.At)
	}
	results, err := src.Look(ctx, unique(names))
	looked := time.Now()
	pins := s.pins()
	for _, m := range models {
		result, ok := results[m.At]
		if fault := lookFault(m, result, ok, err); fault != nil {
			m.Status.Looked, m.Status.Error = looked, fault.Error()
			statuses[m.Name] = m.Status
			continue
		}
		works = append(works, s.begin(m, result.Listing, pins))
	}
	s.fetchAll(ctx, src, works)
	fault := s.load(ctx, works)
	index := s.index()
	s.prove(ctx, works, index)
	removed := false
	for _, w := range works {
		w.conclude(index, fault)
		s.remember(w)
		if fault == nil { // else what was there before may still be needed
			removed = s.removeUnwanted(w) || removed
		}
		w.status.Looked = looked
		s.report(w.model.Name, w.model.Status, w.status)
		statuses[w.model.Name] = w.status
	}
	if removed {
		if err := s.cfg.Models.Sync(ctx); err != nil {
			s.cfg.Log.Warn("what was removed is not unloaded yet", "error", err)
		}
	}
	return statuses
}

// Retain removes all models but those of these names, and lets go of what a killed
// process has converted for nobody. It is to be called at the start and when models
// leave the settings, not during a Sync.
func (s *Syncer) Retain(ctx context.Context, names []string) error {
	keep := make(map[string]bool, len(names))
	for _, name := range names {
		keep[name] = true
	}
	pins := s.pins()
	there, err := folders(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("cannot remove models that have left: %w", err)
	}
	for name := range there {
		if pins[name] == nil {
			pins[name] = nil // a folder without pins
		}
	}
	var faults []error
	removed := false
	for name := range pins {
		if keep[name] {
			continue
		}
		for version, h := range s.here(name, pins[name]) {
			faults = append(faults, s.remove(name, version, h.digests))
		}
		faults = append(faults, s.discard(filepath.Join(s.cfg.Dir, name)))
		s.remember(&work{model: Model{Name: name}})
		removed = true
	}
	for _, v := range s.cfg.Store.List() {
		faults = append(faults, s.unpinConverted(v))
	}
	if removed {
		faults = append(faults, s.cfg.Models.Sync(ctx))
	}
	return errors.Join(faults...)
}

// lookFault says why a look has told nothing of a model.
func lookFault(m Model, result source.Result, ok bool, err error) error {
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("the source says nothing of %q", m.At)
	}
	return result.Err
}

// report logs what has changed of a model.
func (s *Syncer) report(name string, before, now Status) {
	was := make(map[string]State, len(before.Versions))
	for _, v := range before.Versions {
		was[v.Name] = v.State
	}
	for _, v := range now.Versions {
		if v.State == was[v.Name] {
			continue
		}
		level := slog.LevelInfo
		if v.State == Failed || v.State == NotONNX || v.State == Gone {
			level = slog.LevelWarn
		}
		s.cfg.Log.Log(context.Background(), level, "version "+strings.ToLower(string(v.State)),
			"model", name, "version", v.Name, "was", was[v.Name], "digest", v.Digest,
			"reason", v.Reason)
	}
	for alias, version := range now.Aliases {
		if old := before.Aliases[alias]; old != version {
			s.cfg.Log.Info("alias moved", "model", name, "alias", alias, "from", old,
				"to", version)
		}
	}
	for alias, version := range before.Aliases {
		if now.Aliases[alias] == "" {
			s.cfg.Log.Info("alias gone", "model", name, "alias", alias, "from", version)
		}
	}
}
