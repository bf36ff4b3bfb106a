package artifact

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"
)

// maxWho is how long the name of one who pins may be, in bytes.
const maxWho = 512

// Pin makes a version stay until who does not need it any more. The pin lasts
// over restarts. To pin twice is the same as once.
func (s *Store) Pin(digest, who string) error {
	if who == "" || len(who) > maxWho {
		return fmt.Errorf("%w: who pins a version has a name of 1 to %d bytes", ErrInvalid, maxWho)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.versions[digest] == nil {
		return fmt.Errorf("%w: version %.64q", ErrNotFound, digest)
	}
	place, found := slices.BinarySearch(s.pins[digest], who)
	if found {
		return nil
	}
	return s.setPins(digest, slices.Insert(slices.Clone(s.pins[digest]), place, who))
}

// Unpin takes a pin back. It is no error if there is none.
func (s *Store) Unpin(digest, who string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	place, found := slices.BinarySearch(s.pins[digest], who)
	if !found {
		return nil
	}
	return s.setPins(digest, slices.Delete(slices.Clone(s.pins[digest]), place, place+1))
}

// setPins changes the pins of a version, on disk first. The caller holds mu.
func (s *Store) setPins(digest string, who []string) error {
	if s.closed {
		return ErrClosed
	}
	pins := maps.Clone(s.pins)
	if pins[digest] = who; len(who) == 0 {
		delete(pins, digest)
	}
	text, err := json.MarshalIndent(pins, "", " ")
	if err == nil {
		err = s.replace(pinsFile, text)
	}
	if err != nil {
		return fmt.Errorf("cannot change the pins of version %s: %w", digest, err)
	}
	s.pins = pins
	s.touch(digest)
	return nil
}

// touch notes that a version was used. That the time may be lost in a crash only
// makes the version leave earlier. The caller holds mu.
func (s *Store) touch(digest string) {
	if v := s.versions[digest]; v != nil {
		v.used = time.Now()
		if err := s.root.Chtimes(manifestPath(digest), v.used, v.used); err != nil {
			s.cfg.Logger.Warn("use of a version not noted", "digest", digest, "error", err)
		}
	}
}

// Collect removes what is neither pinned nor in use and has not been used for as
// long as the Config says, then more while there is more than Config.MaxBytes.
// It returns how many bytes that has freed.
func (s *Store) Collect(ctx context.Context, now time.Time) (freed int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	before := s.used
	err = s.collect(ctx, now)
	if err == nil && s.used > s.cfg.MaxBytes {
		err = s.makeRoom(ctx, 0)
	}
	if err != nil {
		err = fmt.Errorf("cannot remove all that is unused: %w", err)
	}
	return before - s.used, err
}

// collect removes by age. The caller holds mu.
func (s *Store) collect(ctx context.Context, now time.Time) error {
	for _, digest := range s.evictable() {
		if now.Sub(s.versions[digest].used) < s.cfg.KeepUnused {
			break // they are in the order of their last use
		}
		if err := cmp.Or(ctx.Err(), s.removeVersion(digest)); err != nil {
			return err
		}
	}
	return s.removeLoose(ctx, now.Add(-s.cfg.KeepPartial))
}

// removeLoose removes blobs of no version and partial files that are as old.
// The caller holds mu.
func (s *Store) removeLoose(ctx context.Context, before time.Time) error {
	for digest, b := range s.blobs {
		if b.refs == 0 && b.holds == 0 && !b.changed.After(before) {
			if err := cmp.Or(ctx.Err(), s.removeBlob(digest)); err != nil {
				return err
			}
		}
	}
	for digest, p := range s.partials {
		if !p.claimed && !p.changed.After(before) {
			if err := cmp.Or(ctx.Err(), s.removePartial(digest)); err != nil {
				return err
			}
		}
	}
	return nil
}

// evictable returns the versions that may leave, the one first that was not used
// for longest. The caller holds mu.
func (s *Store) evictable() []string {
	var list []string
	for digest, v := range s.versions {
		if len(s.pins[digest]) == 0 && v.holds == 0 {
			list = append(list, digest)
		}
	}
	slices.SortFunc(list, func(a, b string) int {
		return s.versions[a].used.Compare(s.versions[b].used)
	})
	return list
}

// reserve counts bytes as used by a file that is received, after what may leave
// has made room for them.
func (s *Store) reserve(in *incoming, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.cfg.MaxBytes {
		if err := s.makeRoom(context.Background(), n); err != nil {
			return err
		}
	}
	s.used += n
	in.reserved += n
	return nil
}

// makeRoom removes until n bytes more fit: first what belongs to no version, then
// versions. Nothing is removed in vain. The caller holds mu.
func (s *Store) makeRoom(ctx context.Context, n int64) error {
	if stays, pinned := s.staying(); stays+n > s.cfg.MaxBytes {
		return &FullError{Need: n, Used: stays, Pinned: pinned, Max: s.cfg.MaxBytes}
	}
	if err := s.removeLoose(ctx, time.Now()); err != nil {
		return err
	}
	for _, digest := range s.evictable() {
		if s.used+n <= s.cfg.MaxBytes {
			break
		}
		if err := cmp.Or(ctx.Err(), s.removeVersion(digest)); err != nil {
			return err
		}
	}
	return nil
}

// staying returns how many bytes may not leave, and how many of them belong to
// pinned versions. The caller holds mu.
func (s *Store) staying() (all, pinned int64) {
	stay, pin := make(map[string]bool), make(map[string]bool)
	for digest, v := range s.versions {
		for _, f := range v.manifest {
			if len(s.pins[digest]) > 0 {
				pin[f.SHA256] = true
			} else if v.holds > 0 {
				stay[f.SHA256] = true
			}
		}
	}
	all = s.used
	for digest, b := range s.blobs {
		switch {
		case pin[digest]:
			pinned += b.size
		case !stay[digest] && b.holds == 0:
			all -= b.size
		}
	}
	for _, p := range s.partials {
		if !p.claimed {
			all -= p.size
		}
	}
	return all, pinned
}

// removeVersion removes a version, and its files unless others have them too. The
// manifest is gone for certain before the first file goes: a version without all
// its files is none that a crash may leave. The caller holds mu.
func (s *Store) removeVersion(digest string) error {
	if err := s.remove(manifestPath(digest)); err != nil {
		return err
	}
	v := s.versions[digest]
	delete(s.versions, digest)
	err := s.syncDir(manifestsDir)
	for _, f := range v.manifest {
		b := s.blobs[f.SHA256]
		if b.refs--; err == nil && b.refs == 0 && b.holds == 0 {
			err = s.removeBlob(f.SHA256)
		}
	}
	return err
}

// removeBlob removes a file that nobody needs. The caller holds mu.
func (s *Store) removeBlob(digest string) error {
	if err := s.remove(blobPath(digest)); err != nil {
		return err
	}
	s.used -= s.blobs[digest].size
	delete(s.blobs, digest)
	return nil
}

// removePartial removes a file that was received in part. The caller holds mu.
func (s *Store) removePartial(digest string) error {
	if err := s.remove(partialPath(digest)); err != nil {
		return err
	}
	s.used -= s.partials[digest].size
	delete(s.partials, digest)
	return nil
}

// remove makes sure that a file is not there.
func (s *Store) remove(name string) error {
	if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
