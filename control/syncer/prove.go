package syncer

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/runtime/model"
)

// provePause is how long a version that has not shown what it has to is left alone: what
// is asked of it may have changed meanwhile.
const provePause = time.Minute

// prove has the versions that have become READY show that they may serve. In the index,
// those that do not are none that can.
func (s *Syncer) prove(ctx context.Context, works []*work, index index) {
	if s.cfg.Prove == nil {
		return
	}
	for _, w := range works {
		for version := range w.here {
			if w.proven(version) || !index.ready(w.model.Name, version) {
				continue
			}
			n := w.notes[version]
			if now := time.Now(); !now.Before(n.askAgain) {
				n.refused = s.ask(ctx, w.model.Name, version)
				n.askAgain = now.Add(provePause)
				w.notes[version] = n
			}
			if n.refused == nil {
				continue
			}
			state := model.StateUnavailable
			if ctx.Err() != nil { // it had no time to show anything
				state = model.StateLoading
			}
			key := [2]string{w.model.Name, version}
			index[key] = model.IndexEntry{Name: key[0], Version: key[1], State: state,
				Reason: n.refused.Error()}
		}
	}
}

// proven says whether a version was Ready with the files that it has now.
func (w *work) proven(version string) bool {
	h := w.here[version]
	return slices.ContainsFunc(w.model.Status.Versions, func(v Version) bool {
		return v.Name == version && v.State == Ready && len(h.digests) > 0 &&
			v.Digest == last(h.digests)
	})
}

func (s *Syncer) ask(ctx context.Context, name, version string) error {
	shown, err := s.cfg.Prove(ctx, name, version, filepath.Join(s.cfg.Dir, name, version))
	if err == nil {
		s.cfg.Log.Info("version has shown that it may serve", "model", name, "version", version,
			"shown", shown)
	}
	return err
}
