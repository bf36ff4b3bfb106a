package syncer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/source"
	"github.com/millrace-ml/millrace/runtime/model"
)

// Names of those who pin: "model/NAME/VERSION" needs a version of that digest, and
// "converted/KEY/LIBRARY" is the result of a conversion.
const (
	modelPrefix     = "model/"
	convertedPrefix = "converted/"
)

func pinName(name, version string) string { return modelPrefix + name + "/" + version }

// here is what there is of a version on this machine.
type here struct {
	digests   []string  // that are pinned; more than one where a Sync was broken off
	converted string    // from what library
	folder    bool      // there is one
	time      time.Time // of the folder: when the source made what lies in it
	err       error     // why it was not fetched
}

// current says whether what is here is what the source has.
func (h *here) current(entry *source.Version) bool {
	return h.folder && len(h.digests) == 1 && h.time.Equal(stamp(entry))
}

// stamp is the time that the folder of a version gets. It tells what the source has now
// from what it had under that name: by the millisecond at which that was made and, below
// it, by the digest where the source says one, as registries of images do.
func stamp(entry *source.Version) time.Time {
	made := time.Unix(0, 0)
	if t := entry.Created; t.After(made) && t.Before(latestTime) {
		made = t.Truncate(time.Millisecond)
	}
	if digest := entry.Tags["digest"]; digest != "" {
		sum := sha256.Sum256([]byte(digest))
		made = made.Add(time.Duration(binary.BigEndian.Uint32(sum[:]) % 1e6))
	}
	return made
}

// latestTime is before the last time that file systems can hold.
var latestTime = time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC)

// pinned is the digest of a version, and how it came about.
type pinned struct{ digest, converted string }

// pins reads from the store which digests the versions have, by model and version.
func (s *Syncer) pins() map[string]map[string][]pinned {
	all := make(map[string]map[string][]pinned)
	for _, v := range s.cfg.Store.List() {
		from := converted(v.Pins)
		for _, who := range v.Pins {
			rest, ok := strings.CutPrefix(who, modelPrefix)
			name, version, ok2 := strings.Cut(rest, "/")
			if !ok || !ok2 {
				continue
			}
			if all[name] == nil {
				all[name] = make(map[string][]pinned)
			}
			all[name][version] = append(all[name][version], pinned{v.Digest, from})
		}
	}
	return all
}

// here reads what there is of a model's versions.
func (s *Syncer) here(name string, pins map[string][]pinned) map[string]*here {
	all := make(map[string]*here)
	for version, list := range pins {
		h := new(here)
		for _, p := range list {
			h.digests, h.converted = append(h.digests, p.digest), p.converted
		}
		all[version] = h
	}
	there, err := folders(filepath.Join(s.cfg.Dir, name))
	if err != nil {
		s.cfg.Log.Warn("cannot read the folder of a model", "model", name, "error", err)
	}
	for version, changed := range there {
		if all[version] == nil {
			all[version] = new(here)
		}
		all[version].folder, all[version].time = true, changed
	}
	return all
}

// folders lists the folders in dir with their times, those left out that nobody serves.
// There are none in one that is not there.
func folders(dir string) (map[string]time.Time, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	all := make(map[string]time.Time)
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if info, err := e.Info(); err == nil { // else it has just gone
			all[e.Name()] = info.ModTime()
		}
	}
	return all, err
}

// temp is the folder for what is coming and going. It lies beside the models, on the
// same file system, and its name hides it from those who look for models.
func (s *Syncer) temp() string { return filepath.Join(s.cfg.Dir, ".temp") }

// scratch makes a new folder in temp.
func (s *Syncer) scratch() (string, error) {
	if err := os.MkdirAll(s.temp(), 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(s.temp(), "")
}

// policy has all versions of a model served that are in its folder: the Syncer has put
// only wanted ones there. The server's settings stand above it.
const policy = "version_policy: { all {} }\n"

// place makes the folder of a version and puts it into the place of the one before.
// Who reads meanwhile finds a whole folder or, for an instant, none.
func (s *Syncer) place(ctx context.Context, p placed) error {
	scratch, err := s.scratch()
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch) // what is left goes when New is called
	fresh := filepath.Join(scratch, "new")
	if err := s.cfg.Store.Materialize(ctx, p.digest, fresh); err != nil {
		return err
	}
	if err := os.Chtimes(fresh, p.time, p.time); err != nil {
		return err
	}
	config := filepath.Join(scratch, "config")
	if err := os.WriteFile(config, []byte(policy), 0o644); err != nil {
		return err
	}
	dir := filepath.Join(s.cfg.Dir, p.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	target := filepath.Join(dir, "config.pbtxt")
	if text, err := os.ReadFile(target); err != nil || string(text) != policy {
		if err := os.Rename(config, target); err != nil {
			return err
		}
	}
	target = filepath.Join(dir, p.version)
	err = os.Rename(target, filepath.Join(scratch, "old"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(fresh, target)
}

// placed says what a folder is to hold.
type placed struct {
	name, version, digest string
	time                  time.Time
}

// discard removes a folder: it has left its place before the first file of it goes.
func (s *Syncer) discard(dir string) error {
	scratch, err := s.scratch()
	if err != nil {
		return err
	}
	err = os.Rename(dir, filepath.Join(scratch, "old"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(scratch))
}

// remove removes a version, and lets the store have its files.
func (s *Syncer) remove(name, version string, digests []string) error {
	err := s.discard(filepath.Join(s.cfg.Dir, name, version))
	if err == nil {
		err = s.unpin(name, version, digests)
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s version %s: %w", name, version, err)
	}
	return nil
}

// unpin says that a version does not need those digests any more.
func (s *Syncer) unpin(name, version string, digests []string) error {
	var faults []error
	for _, digest := range digests {
		faults = append(faults, s.cfg.Store.Unpin(digest, pinName(name, version)))
	}
	if len(digests) == 0 {
		return nil
	}
	for _, v := range s.cfg.Store.List() {
		if slices.Contains(digests, v.Digest) {
			faults = append(faults, s.unpinConverted(v))
		}
	}
	return errors.Join(faults...)
}

// unpinConverted lets go of the result of a conversion that no version needs.
func (s *Syncer) unpinConverted(v artifact.Version) error {
	if slices.ContainsFunc(v.Pins, func(who string) bool {
		return !strings.HasPrefix(who, convertedPrefix)
	}) {
		return nil
	}
	var faults []error
	for _, who := range v.Pins {
		faults = append(faults, s.cfg.Store.Unpin(v.Digest, who))
	}
	return errors.Join(faults...)
}

// removeUnwanted removes what nobody wants of a model, and says whether there was any.
func (s *Syncer) removeUnwanted(w *work) bool {
	unwanted := w.unwanted()
	for _, version := range unwanted {
		err := s.remove(w.model.Name, version, w.here[version].digests)
		if err != nil { // the next Sync tries again
			s.cfg.Log.Warn(err.Error())
			continue
		}
		s.cfg.Log.Info("version removed, since nothing wants it any more", "model", w.model.Name,
			"version", version)
	}
	served := slices.ContainsFunc(w.wanted, func(v string) bool { return w.here[v].folder })
	if len(unwanted) > 0 && !served {
		if err := s.discard(filepath.Join(s.cfg.Dir, w.model.Name)); err != nil {
			s.cfg.Log.Warn("cannot remove the folder of a model", "model", w.model.Name,
				"error", err)
		}
	}
	return len(unwanted) > 0
}

// index is the repository's index, by model and version.
type index map[[2]string]model.IndexEntry

func (s *Syncer) index() index {
	all := make(index)
	for _, e := range s.cfg.Models.Index(false) {
		all[[2]string{e.Name, e.Version}] = e
	}
	return all
}

func (x index) ready(name, version string) bool {
	return x[[2]string{name, version}].State == model.StateReady
}

// state says how far a version is that has a folder.
func (x index) state(name, version string) (State, string) {
	e, ok := x[[2]string{name, version}]
	if !ok {
		e = x[[2]string{name, ""}] // what concerns the whole model
	}
	switch {
	case e.State == model.StateReady && ok:
		return Ready, e.Reason
	case e.State == model.StateUnavailable:
		return Failed, e.Reason
	}
	return Fetching, "it is not loaded; if it stays so, version_policy of the model leaves it out"
}

// missing says whether a version is in the index neither way.
func (x index) missing(name, version string) bool {
	state, _ := x.state(name, version)
	return state == Fetching
}
