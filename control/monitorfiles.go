package control

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// What monitors have learned lies in a folder of its own, not in the store: it is large, changes
// all the time, and what a crash loses of it is gathered again.
const monitorDir = "monitors"

// keepMonitorInterval is how often that is written, and so what a crash loses at most.
const keepMonitorInterval = time.Minute

// keptMonitor is the file of a monitor.
type keptMonitor struct {
	Key     string          `json:"key"`
	Skipped uint64          `json:"skipped"`
	Monitor json.RawMessage `json:"monitor"`
	// Replicas say which of their counts are in it, so that those are not counted again.
	Replicas []monitor.Replica `json:"replicas,omitempty"`
}

func (p *Plane) monitorFile(name string) string {
	return filepath.Join(p.cfg.Data, monitorDir, name+".json")
}

// keepLearned writes what a monitor has learned. One that only counts has learned nothing.
func (p *Plane) keepLearned(w *watch) {
	if w.spec.Judge != "" {
		return
	}
	w.mu.Lock()
	var text []byte
	var err error
	if w.monitor != nil && !w.monitor.Learning() {
		text, err = json.Marshal(w.monitor)
	}
	k := keptMonitor{w.key, w.skipped, text, w.judged}
	w.mu.Unlock()
	if err == nil && text == nil {
		return
	}
	path := p.monitorFile(w.name)
	if err == nil {
		text, err = json.Marshal(k)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		p.log.Warn("what a monitor has learned is not kept over a restart", "monitor", w.name,
			"error", err)
	}
}

// forget removes what a monitor has learned.
func (p *Plane) forget(name string) {
	err := os.Remove(p.monitorFile(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("what a monitor has learned cannot be removed", "monitor", name, "error", err)
	}
}

// openWatches opens monitors one after the other: references may be large.
func (p *Plane) openWatches(list []*watch) {
	for _, w := range list {
		if p.ctx.Err() != nil {
			break
		}
		m, about, err := p.openMonitor(w)
		p.opened(w, m, about, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening = false
}

// opened takes over a monitor that was opened, or says why it was not.
func (p *Plane) opened(w *watch, m *monitor.Monitor, about string, fault error) {
	if fault == nil {
		kept, err := p.readLearned(w)
		if err == nil && kept != nil {
			err = m.UnmarshalJSON(kept.Monitor)
		}
		if err != nil {
			p.log.Warn("what a monitor had learned cannot be taken over; it begins anew", "monitor",
				w.name, "error", err)
		}
		w.mu.Lock()
		w.monitor, w.about, w.last = m, about, m.Last()
		if kept != nil {
			w.skipped += kept.Skipped
			w.remember(kept.Replicas)
		}
		w.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	w.open, w.again = fault == nil, now.Add(reopenInterval)
	at := p.view.monitors[w.name]
	if at == nil || p.watches[w.name] != w || fault == nil {
		return
	}
	p.cannotWatch(at, fault, now)
}

// cannotWatch keeps why a monitor cannot watch, if that is new. What is yet to be loaded leaves
// the state as it was. Callers hold mu.
func (p *Plane) cannotWatch(m *monitored, fault error, now time.Time) {
	next := m.status.Fail(now, fault.Error())
	if errors.Is(fault, model.ErrUnknownModel) || errors.Is(fault, model.ErrNotReady) {
		if m.status.State != "" {
			return
		}
		next = m.status.Wait(now, fault.Error())
	}
	if next.Reason == m.status.Reason {
		return
	}
	p.log.Warn("a monitor cannot watch", "monitor", m.Name, "reason", fault)
	p.complain("the state of a monitor is not stored", p.keepMonitor(m, next, now), "monitor",
		m.Name)
}

// readLearned reads what a monitor has learned, nil when there is nothing for this key.
func (p *Plane) readLearned(w *watch) (*keptMonitor, error) {
	text, err := os.ReadFile(p.monitorFile(w.name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	k := new(keptMonitor)
	if err == nil {
		err = json.Unmarshal(text, k)
	}
	if err != nil || k.Key != w.key {
		return nil, err
	}
	return k, nil
}

// openMonitor reads the reference of a monitor, and says for people which that is.
func (p *Plane) openMonitor(w *watch) (*monitor.Monitor, string, error) {
	v, err := p.models.Acquire([]byte(w.subject.Model), []byte(w.subject.Version))
	if err != nil {
		return nil, "", err
	}
	sig := v.Signature()
	v.Release()
	own, err := w.openMeasures(sig)
	if err != nil {
		return nil, "", err
	}
	cfg, r := w.cfg, &w.spec.Reference
	cfg.Derived = own.derived()
	if r.Learn > 0 {
		m, err := monitor.New(cfg, sig, nil)
		return m, fmt.Sprintf("learned from the first %d rows", r.Learn), err
	}
	path := r.File
	if path == "" {
		if path, err = p.artifact(w); err != nil {
			return nil, "", err
		}
	}
	profile, err := readReference(path, w, sig)
	if err != nil {
		return nil, "", fmt.Errorf("cannot use the reference %s: %w", path, err)
	}
	m, err := monitor.New(cfg, sig, profile)
	if err != nil {
		return nil, "", fmt.Errorf("cannot hold version %s of model %s against the reference "+
			"%s: %w", w.subject.Version, w.subject.Model, path, err)
	}
	about := fmt.Sprintf("%s, %d rows", cmp.Or(r.Artifact, r.File), profile.Rows)
	for _, note := range profile.Notes {
		about += "; " + note
	}
	return m, cut(about, 1000), nil
}

// artifact finds a file among those of the version that a monitor watches.
func (p *Plane) artifact(w *watch) (string, error) {
	name := w.spec.Reference.Artifact
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("reference.artifact is %q, must be a path in the version's folder",
			name)
	}
	roots := []string{filepath.Join(p.cfg.Data, ModelDir)}
	p.mu.Lock()
	if p.file != nil {
		roots = append(roots, p.file.Repository.Paths...)
	}
	p.mu.Unlock()
	for _, root := range roots {
		// A model of MLflow may be a folder without versions.
		for _, at := range []string{w.subject.Version, ""} {
			path := filepath.Join(root, w.subject.Model, at, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("version %s of model %s has no file %s; put one there when it is "+
		"trained (`millrace reference build` makes a small one), or give the monitor "+
		"reference.file or reference.learn", w.subject.Version, w.subject.Model, name)
}

// readReference reads a file as its name says.
func readReference(path string, w *watch, sig *tensor.Signature) (*reference.Profile, error) {
	r := &w.spec.Reference
	o := reference.Options{Season: reference.Season(r.Season), TimeColumn: r.TimeColumn,
		Categorical: w.spec.Categorical, Ignored: w.spec.Ignore, Segment: w.spec.Segment}
	if f := w.spec.Performance; f != nil && f.Label != "" {
		o.Truth = reference.Truth{Label: f.Label, Output: f.Output, Scale: f.Scale}
	}
	p, err := readTable(path, o)
	if err != nil || filepath.Ext(path) == ".json" {
		return p, err
	}
	// Only the file says which of the answers' columns it has.
	for i := range p.Features {
		if name := p.Features[i].Name; slices.Contains(monitor.Outputs(sig), name) {
			o.Outputs = append(o.Outputs, name)
		}
	}
	if o.Outputs == nil {
		return p, nil
	}
	return readTable(path, o)
}

func readTable(path string, o reference.Options) (*reference.Profile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	switch filepath.Ext(path) {
	case ".csv":
		return reference.FromCSV(file, o)
	case ".parquet":
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		return reference.FromParquet(file, info.Size(), o)
	}
	return reference.Read(file)
}
