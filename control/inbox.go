package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/source"
)

// KindPushed is the kind of the records of what was pushed, one for each model.
const KindPushed = "Pushed"

// pushed is what was pushed of a model.
type pushed struct {
	Versions []pushedVersion   `json:"versions"` // the oldest first
	Aliases  map[string]string `json:"aliases,omitempty"`
}

type pushedVersion struct {
	Name    string            `json:"name"`
	Digest  string            `json:"digest"`
	Created time.Time         `json:"created"`
	By      string            `json:"by"`
	Tags    map[string]string `json:"tags,omitempty"`
}

// maxPushed bounds the versions that are kept of a model; the oldest that no alias names go.
const maxPushed = 100

// inbox is the source of versions that were pushed.
type inbox struct{ plane *Plane }

// Look says what was pushed of the models.
func (b *inbox) Look(_ context.Context, models []string) (map[string]source.Result, error) {
	b.plane.mu.Lock()
	defer b.plane.mu.Unlock()
	all := make(map[string]source.Result, len(models))
	for _, name := range models {
		it := b.plane.view.pushed[name]
		if it == nil {
			all[name] = source.Result{} // nothing yet, which is no fault
			continue
		}
		l := source.Listing{Aliases: maps.Clone(it.status.Aliases)}
		for _, v := range slices.Backward(it.status.Versions) {
			one := source.Version{Name: v.Name, Created: v.Created, Tags: v.Tags}
			for alias, version := range it.status.Aliases {
				if version == v.Name {
					one.Aliases = append(one.Aliases, alias)
				}
			}
			slices.Sort(one.Aliases)
			l.Versions = append(l.Versions, one)
		}
		all[name] = source.Result{Listing: l}
	}
	return all, nil
}

// Pull returns the digest of a version, whose files came with the push.
func (b *inbox) Pull(_ context.Context, model, version string) (string, error) {
	b.plane.mu.Lock()
	defer b.plane.mu.Unlock()
	if it := b.plane.view.pushed[model]; it != nil {
		if i := it.status.find(version); i >= 0 {
			return it.status.Versions[i].Digest, nil
		}
	}
	return "", notPushed(model, version)
}

func notPushed(model, version string) error {
	return fmt.Errorf("%w: version %q of model %q was not pushed", source.ErrGone, version, model)
}

// Close has nothing to close.
func (b *inbox) Close() error { return nil }

// SetAlias makes an alias point to a version.
func (b *inbox) SetAlias(ctx context.Context, model, version, alias string) error {
	return b.change(ctx, model, version, func(s *pushed, _ *pushedVersion) {
		s.Aliases[alias] = version
	})
}

// Tag sets tags of a version.
func (b *inbox) Tag(ctx context.Context, model, version string, tags map[string]string) error {
	return b.change(ctx, model, version, func(_ *pushed, v *pushedVersion) {
		if v.Tags == nil {
			v.Tags = make(map[string]string)
		}
		maps.Copy(v.Tags, tags)
	})
}

func (b *inbox) change(
	ctx context.Context, model, version string, f func(*pushed, *pushedVersion),
) error {
	p := b.plane
	p.mu.Lock()
	defer p.mu.Unlock()
	it := p.view.pushed[model]
	if it == nil || it.status.find(version) < 0 {
		return notPushed(model, version)
	}
	next := it.status.clone()
	f(&next, &next.Versions[next.find(version)])
	return p.commit(ctx, store.Txn{By: author, Put: []store.Resource{it.with(next)}})
}

func (s *pushed) find(version string) int {
	return slices.IndexFunc(s.Versions, func(v pushedVersion) bool { return v.Name == version })
}

func (s *pushed) clone() pushed {
	next := pushed{Versions: slices.Clone(s.Versions), Aliases: maps.Clone(s.Aliases)}
	if next.Aliases == nil {
		next.Aliases = make(map[string]string)
	}
	for i := range next.Versions {
		next.Versions[i].Tags = maps.Clone(next.Versions[i].Tags)
	}
	return next
}

// next is the number after the highest that was pushed.
func (s *pushed) next() string {
	highest := 0
	for _, v := range s.Versions {
		if n, err := strconv.Atoi(v.Name); err == nil {
			highest = max(highest, n)
		}
	}
	return strconv.Itoa(highest + 1)
}

// Push takes in a version of a model whose source is for pushes, and returns its name. It is on
// disk when Push returns; it is loaded soon after.
func (p *Plane) Push(ctx context.Context, up Push) (version string, err error) {
	p.mu.Lock()
	err = p.ensure(ctx)
	var name string
	if m := p.view.models[up.Model]; err == nil && m != nil {
		if s := p.view.sources[m.spec.Source]; s != nil && s.spec.Push {
			name = registered(&m.spec)
		}
	}
	artifacts := p.artifacts
	p.mu.Unlock()
	if err != nil {
		return "", err
	}
	if name == "" {
		return "", fmt.Errorf("%w: there is no model %q whose source is for pushes; apply "+
			"sources: [{name: pushed, push: true}] and models: [{name: %s, source: pushed}]",
			store.ErrNotFound, up.Model, up.Model)
	}
	digest, err := artifacts.Ingest(ctx, up.Model, func(w *artifact.Writer) error {
		for _, f := range up.Files {
			if err := ingest(w, f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return p.keepPushed(ctx, name, digest, up)
}

func ingest(w *artifact.Writer, f PushFile) error {
	var r io.ReadCloser
	r, err := f.Open()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", f.Path, err)
	}
	return errors.Join(w.File(f.Path, f.Size, f.SHA256, r), r.Close())
}

// keepPushed records a version whose files are in the store.
func (p *Plane) keepPushed(ctx context.Context, name, digest string, up Push) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var next pushed
	r := store.Resource{Key: store.Key{Kind: KindPushed, Name: name}, Owner: OwnerAPI}
	if it := p.view.pushed[name]; it != nil {
		next, r = it.status.clone(), it.Resource
	} else {
		next = next.clone()
	}
	version := up.Version
	if version == "" {
		version = next.next()
	}
	switch i := next.find(version); {
	case i >= 0 && next.Versions[i].Digest != digest:
		return "", fmt.Errorf("%w: version %s of %s was pushed with other files; give another "+
			"version", store.ErrConflict, version, name)
	case i < 0:
		next.Versions = append(next.Versions, pushedVersion{Name: version, Digest: digest,
			Created: time.Now(), By: up.By.Who})
	}
	for _, alias := range up.Aliases {
		next.Aliases[alias] = version
	}
	dropped := next.shrink()
	if err := p.artifacts.Pin(digest, pin(name, version)); err != nil {
		return "", err
	}
	r.Status = encode(next)
	if err := p.commit(ctx, store.Txn{By: up.By, Put: []store.Resource{r}}); err != nil {
		return "", err
	}
	for _, v := range dropped {
		if err := p.artifacts.Unpin(v.Digest, pin(name, v.Name)); err != nil {
			p.log.Warn("files of an old version stay", "model", name, "version", v.Name,
				"error", err)
		}
	}
	for _, f := range p.followers {
		if f.spec.Push {
			f.look()
		}
	}
	return version, nil
}

// freePushed lets go of files whose push a killed process did not come to record. Callers hold mu.
func (p *Plane) freePushed() error {
	recorded := make(map[string]bool)
	for name, it := range p.view.pushed {
		for _, v := range it.status.Versions {
			recorded[v.Digest+pin(name, v.Name)] = true
		}
	}
	var faults []error
	for _, v := range p.artifacts.List() {
		for _, who := range v.Pins {
			if strings.HasPrefix(who, pinPrefix) && !recorded[v.Digest+who] {
				faults = append(faults, p.artifacts.Unpin(v.Digest, who))
			}
		}
	}
	return errors.Join(faults...)
}

// pin names who needs the files of a pushed version.
func pin(name, version string) string { return pinPrefix + name + "/" + version }

const pinPrefix = "pushed/"

// shrink takes out the oldest versions that no alias names while there are too many.
func (s *pushed) shrink() (dropped []pushedVersion) {
	named := make(map[string]bool)
	for _, version := range s.Aliases {
		named[version] = true
	}
	for i := 0; len(s.Versions) > maxPushed && i < len(s.Versions)-1; {
		if named[s.Versions[i].Name] {
			i++
			continue
		}
		dropped = append(dropped, s.Versions[i])
		s.Versions = slices.Delete(s.Versions, i, i+1)
	}
	return dropped
}
