package syncer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/registry/source"
)

// begin reads what there is of a model and plans what is to be done.
func (s *Syncer) begin(
	m Model, listing source.Listing, pins map[string]map[string][]pinned,
) *work {
	w := &work{model: m, listing: listing, here: make(map[string]*here),
		entries: make(map[string]*source.Version, len(listing.Versions))}
	if validName(m.Name) {
		w.here = s.here(m.Name, pins[m.Name])
	}
	for i := range listing.Versions {
		v := &listing.Versions[i]
		w.entries[v.Name] = v
	}
	s.mu.Lock()
	w.notes = maps.Clone(s.notes[m.Name])
	s.mu.Unlock()
	if w.notes == nil {
		w.notes = make(map[string]note)
	}
	w.plan(time.Now())
	return w
}

// remember keeps the notes of the versions that are wanted.
func (s *Syncer) remember(w *work) {
	kept := make(map[string]note)
	for _, version := range w.wanted {
		if n, ok := w.notes[version]; ok {
			kept[version] = n
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notes[w.model.Name] = kept; len(kept) == 0 {
		delete(s.notes, w.model.Name)
	}
}

// job is a version that is to be fetched, or whose folder is to be made.
type job struct {
	work    *work
	version string
	entry   *source.Version // nil where the source has it no more
	here    *here
	note    note
	changed bool
}

// fetchAll fetches what the plans say.
func (s *Syncer) fetchAll(ctx context.Context, src source.Source, works []*work) {
	var jobs []*job
	for _, w := range works {
		for _, version := range w.make {
			jobs = append(jobs, &job{work: w, version: version, here: w.here[version]})
		}
		for _, version := range w.fetch {
			jobs = append(jobs, &job{work: w, version: version, here: w.here[version],
				entry: w.entries[version], note: w.notes[version]})
		}
	}
	queue := make(chan *job, len(jobs))
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	var wait sync.WaitGroup
	for range min(maxPulls, len(jobs)) {
		wait.Go(func() {
			for j := range queue {
				s.slots <- struct{}{} // other Syncs fetch, too
				s.do(ctx, src, j)
				<-s.slots
			}
		})
	}
	wait.Wait()
	for _, j := range jobs {
		j.work.notes[j.version] = j.note
		j.work.changed = j.work.changed || j.changed
	}
}

// do fetches a version, or makes its folder.
func (s *Syncer) do(ctx context.Context, src source.Source, j *job) {
	if ctx.Err() != nil {
		j.here.err = errStopped
		return
	}
	var err error
	if j.entry == nil {
		p := placed{j.work.model.Name, j.version, last(j.here.digests), j.here.time}
		if !j.here.folder {
			p.time = time.Unix(0, 0) // whatever the source has then is something new
		}
		if err = s.place(ctx, p); err == nil {
			err = s.settle(j, p.digest)
		}
	} else {
		err = s.fetch(ctx, src, j)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", errStopped, err)
	}
	if j.here.err = err; err == nil {
		j.note = note{replaced: j.note.replaced}
	} else if j.entry != nil && !later(err) {
		j.note = j.note.failed(err, j.entry, time.Now())
	}
}

// fetch takes a version from its source to its folder.
func (s *Syncer) fetch(ctx context.Context, src source.Source, j *job) error {
	name := j.work.model.Name
	digest, err := src.Pull(ctx, j.work.model.At, j.version)
	if err != nil {
		return err
	}
	if err := s.cfg.Store.Pin(digest, pinName(name, j.version)); err != nil {
		return err
	}
	j.note.replaced = j.note.replaced || len(j.here.digests) == 1 && j.here.digests[0] != digest
	p := placed{name, j.version, digest, stamp(j.entry)}
	if err := s.place(ctx, p); err != nil {
		return err
	}
	return s.settle(j, digest)
}

// settle notes that the folder of a version has a digest, which alone is pinned then.
func (s *Syncer) settle(j *job, digest string) error {
	j.changed = true
	var old []string
	for _, d := range j.here.digests {
		if d != digest {
			old = append(old, d)
		}
	}
	j.here.folder, j.here.digests = true, []string{digest}
	for _, v := range s.cfg.Store.List() {
		if v.Digest == digest {
			j.here.converted = converted(v.Pins)
		}
	}
	return s.unpin(j.work.model.Name, j.version, old)
}

func last(digests []string) string { return digests[len(digests)-1] }

// errStopped is wrapped for what was not done since the Sync was stopped.
var errStopped = errors.New("syncer: stopped before it was here; the next look goes on")

// later says whether an error is none of the version's: it is fetched at the next look.
func later(err error) bool {
	return errors.Is(err, source.ErrPending) || errors.Is(err, source.ErrChanged) ||
		errors.Is(err, errStopped)
}

// settleTime is how long a repository that follows its folders wants files to look the
// same before it loads them, and a little more.
const settleTime = 250 * time.Millisecond

// load has the repository load what is new, and returns why it could not. The second
// look is for a repository that waits for files to settle.
func (s *Syncer) load(ctx context.Context, works []*work) error {
	if !s.toLoad(works) {
		return nil
	}
	err := s.cfg.Models.Sync(ctx)
	if err != nil {
		return err
	}
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	return s.cfg.Models.Sync(ctx)
}

// toLoad says whether folders have changed, or the repository has not seen some.
func (s *Syncer) toLoad(works []*work) bool {
	index := s.index()
	for _, w := range works {
		if w.changed {
			return true
		}
		for _, version := range w.wanted {
			if w.here[version].folder && index.missing(w.model.Name, version) {
				return true
			}
		}
	}
	return false
}
