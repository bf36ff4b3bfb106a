package syncer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/registry/source"
	"github.com/millrace-ml/millrace/runtime/model/layout"
)

// maxName bounds names of models and versions, which become names of folders and pins
// with something before and behind them.
const maxName = 200

// reserved are names that mean something else in a model's folder.
var reserved = []string{"warmup", "config.pbtxt", "MLmodel", "model.onnx"}

func validName(name string) bool {
	return layout.ValidName(name) && len(name) <= maxName && !slices.Contains(reserved, name)
}

const nameRule = "names have letters, digits and _@+=~:,.- alone, begin with none of .-, " +
	"have at most 200 characters, and are none of warmup, config.pbtxt, MLmodel and model.onnx"

func errModelName(name string) error {
	return fmt.Errorf("%.300q cannot be the name of a folder: %s; give the model another name "+
		"here, and set registered: to its name at the source", name, nameRule)
}

func errVersionName(name string) error {
	return fmt.Errorf("%.300q cannot be the name of a folder: %s; give the version another name "+
		"at its source", name, nameRule)
}

func unique(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// work is what one Sync does for one model.
type work struct {
	model   Model
	listing source.Listing
	entries map[string]*source.Version // of the listing, by name
	here    map[string]*here           // what there is, and what is to be fetched
	notes   map[string]note            // of the versions that are wanted
	wanted  []string                   // newest first
	fetch   []string                   // of those, the ones to be fetched now
	make    []string                   // and those whose folders the store can make
	changed bool                       // some folder is not what it was
	status  Status
}

// newest is how many of the newest versions are wanted.
func (w *work) newest() int {
	if len(w.listing.Aliases) == 0 && len(w.model.Wanted) == 0 {
		return max(w.model.Latest, 1)
	}
	return max(w.model.Latest, 0)
}

// plan decides what is wanted, and what has to be done for it.
func (w *work) plan(now time.Time) {
	wanted := make(map[string]bool)
	for _, version := range w.listing.Aliases {
		wanted[version] = true
	}
	// What was in force stays until its alias has moved, and for one more look, so that
	// who uses it can move on.
	for _, version := range w.model.Status.Aliases {
		if w.here[version] != nil {
			wanted[version] = true
		}
	}
	for _, version := range w.model.Wanted {
		wanted[version] = true
	}
	left := w.newest()
	for _, v := range w.listing.Versions {
		h := w.here[v.Name]
		if left > 0 && (v.Status == "" || h != nil && h.current(&v)) {
			wanted[v.Name] = true
			left--
		}
	}
	w.wanted = w.sorted(wanted)
	for _, version := range w.wanted {
		h := w.here[version]
		if h == nil {
			h = new(here)
			w.here[version] = h
		}
		switch entry := w.entries[version]; {
		case !validName(w.model.Name):
			h.err = errModelName(w.model.Name)
		case !validName(version):
			h.err = errVersionName(version)
		case entry == nil:
			if len(h.digests) > 0 && (len(h.digests) > 1 || !h.folder) {
				w.make = append(w.make, version)
			}
		case h.current(entry):
		case entry.Status != "":
			h.err = fmt.Errorf("%w: %s", source.ErrPending, entry.Status)
		case w.notes[version].waits(entry, now):
			h.err = w.notes[version].err
		default:
			w.fetch = append(w.fetch, version)
		}
	}
}

// sorted returns versions in the order of the listing, those that it lacks behind.
func (w *work) sorted(versions map[string]bool) []string {
	place := make(map[string]int, len(w.listing.Versions))
	for i, v := range w.listing.Versions {
		place[v.Name] = i - len(w.listing.Versions)
	}
	return slices.SortedFunc(maps.Keys(versions), func(a, b string) int {
		return cmp.Or(cmp.Compare(place[a], place[b]), layout.CompareVersions(b, a))
	})
}

// conclude writes the status when all was done. fault is why nothing was loaded.
func (w *work) conclude(index index, fault error) {
	w.status = Status{Registry: w.listing.Aliases, Aliases: make(map[string]string)}
	ready := make(map[string]bool)
	for _, version := range w.wanted {
		v := w.version(version, index, fault)
		ready[version] = v.State == Ready
		w.status.Versions = append(w.status.Versions, v)
	}
	for alias, version := range w.listing.Aliases {
		if before := w.model.Status.Aliases[alias]; !ready[version] && ready[before] {
			version = before
		}
		if ready[version] {
			w.status.Aliases[alias] = version
		}
	}
	w.keepReady(index)
	w.keepFailed()
}

// keepReady adds the newest versions that are READY to the wanted ones: they stay until
// as many newer ones are. Those that the source has deleted stay only where nothing else
// can serve.
func (w *work) keepReady(index index) {
	others := make(map[string]bool)
	for version := range w.here {
		others[version] = index.ready(w.model.Name, version)
	}
	maps.DeleteFunc(others, func(_ string, ready bool) bool { return !ready })
	left := w.newest()
	served := slices.ContainsFunc(w.wanted, func(v string) bool { return others[v] })
	if !served {
		left = max(left, 1)
	}
	for _, version := range w.sorted(others) {
		if served && w.entries[version] == nil {
			continue
		}
		if left--; left < 0 {
			return
		}
		if !slices.Contains(w.wanted, version) {
			w.wanted = append(w.wanted, version)
			w.status.Versions = append(w.status.Versions, w.version(version, index, nil))
		}
	}
}

// maxFailed bounds the versions that are not wanted any more and still listed, since
// they failed.
const maxFailed = 20

func (w *work) keepFailed() {
	left := maxFailed
	for _, v := range w.model.Status.Versions {
		if (v.State == Failed || v.State == NotONNX) && left > 0 && w.entries[v.Name] != nil &&
			!slices.Contains(w.wanted, v.Name) {
			w.status.Versions = append(w.status.Versions, v)
			left--
		}
	}
	all := make(map[string]bool)
	byName := make(map[string]Version)
	for _, v := range w.status.Versions {
		all[v.Name], byName[v.Name] = true, v
	}
	for i, name := range w.sorted(all) {
		w.status.Versions[i] = byName[name]
	}
}

// unwanted lists what is here of the model and may leave.
func (w *work) unwanted() []string {
	var out []string
	for version := range w.here {
		if !slices.Contains(w.wanted, version) {
			out = append(out, version)
		}
	}
	return out
}

// version says how far a version has come.
func (w *work) version(name string, index index, fault error) Version {
	v := Version{Name: name}
	h, entry := w.here[name], w.entries[name]
	if len(h.digests) > 0 {
		v.Digest = h.digests[len(h.digests)-1]
	}
	if entry != nil {
		v.RunID, v.Link, v.Created = entry.RunID, entry.Link, entry.Created
		v.TrainedIn = entry.Tags["millrace.run"]
	}
	if !h.folder {
		v.State, v.Reason = absent(h.err, entry)
		return v
	}
	v.State, v.Reason = index.state(w.model.Name, name)
	switch {
	case v.State == Fetching && fault != nil:
		v.Reason = fault.Error()
	case v.State != Ready || v.Reason != "":
	case entry == nil:
		v.Reason = "deleted at the source; it stays as long as it is wanted"
	case h.err != nil:
		v.Reason = "the source has something newer of that name: " + h.err.Error()
	case h.converted != "":
		v.Reason = h.converted
	case w.notes[name].replaced:
		v.Reason = "replaced: its files have changed at the source"
	}
	return v
}

// absent says why a version is not here.
func absent(err error, entry *source.Version) (State, string) {
	switch {
	case err == nil && entry == nil:
		return Gone, "the source has no such version"
	case err == nil:
		return Wanted, "it is not fetched yet"
	case errors.Is(err, source.ErrGone):
		return Gone, err.Error()
	case errors.Is(err, source.ErrNotONNX):
		return NotONNX, err.Error() + "; convert it, or name a program that does in convert: " +
			"of its source"
	case later(err):
		return Wanted, err.Error()
	}
	return Failed, err.Error()
}

// note is what is remembered of a version while the process runs.
type note struct {
	replaced bool
	err      error  // why it was not fetched
	entry    string // what the source said of it then
	failures int
	until    time.Time // it is not fetched again before, unless the entry changes

	refused  error     // why it may not serve, though it is loaded
	askAgain time.Time // it is not asked to show that it may before
}

// waits says whether a version that has failed is not fetched yet.
func (n note) waits(entry *source.Version, now time.Time) bool {
	return n.failures > 0 && now.Before(n.until) && n.entry == text(entry)
}

// failed returns the note after a failure.
func (n note) failed(err error, entry *source.Version, now time.Time) note {
	if n.entry != text(entry) {
		n.failures = 0
	}
	n.err, n.entry, n.failures = err, text(entry), n.failures+1
	n.until = now.Add(pause(n.failures))
	return n
}

// text tells what a source says of a version from all else that it may say.
func text(entry *source.Version) string { return fmt.Sprintf("%+v", *entry) }

// The first and the longest pause before a version that has failed is fetched again.
const (
	firstPause = time.Minute
	maxPause   = time.Hour
)

// pause doubles with each failure.
func pause(failures int) time.Duration {
	return min(firstPause<<min(failures-1, 10), maxPause)
}

// converted names the library of a version that was converted, by its pins.
func converted(pins []string) string {
	for _, who := range pins {
		if rest, ok := strings.CutPrefix(who, convertedPrefix); ok {
			_, library, _ := strings.Cut(rest, "/")
			return strings.TrimSuffix("converted from "+library, " from ")
		}
	}
	return ""
}
