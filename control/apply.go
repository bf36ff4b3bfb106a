package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
)

// Owners of resources.
const (
	OwnerFile = "file" // the settings file: it is changed there
	OwnerAPI  = "api"
)

var (
	// ErrOwned is wrapped when somebody changes what the settings file has, and does not take
	// it over.
	ErrOwned = errors.New("control: the settings file has it")
	// ErrDown is wrapped by everything while there is no store.
	ErrDown = errors.New("control: the control plane is not running")
)

// Change is a change of resources: all of it is done, or nothing.
type Change struct {
	Put    []config.Resource
	Delete []store.Key
	// Revisions are those that resources must have; 0 is that there is none. One that is not
	// among them may have any.
	Revisions map[store.Key]uint64
	DryRun    bool // only say what would be
	TakeOver  bool // what is the settings file's becomes the API's
	By        store.Author
}

// Effect is what a Change does to one resource.
type Effect struct {
	store.Key
	Action   string          `json:"action"` // created, changed, unchanged or deleted
	Old      json.RawMessage `json:"old,omitempty"`
	New      json.RawMessage `json:"new,omitempty"`
	Revision uint64          `json:"revision,omitempty"` // of the resource afterwards
}

// Apply changes resources. Its error is a *config.Error with all that is wrong with the specs,
// or wraps store.ErrConflict, store.ErrNotFound, ErrOwned or ErrDown.
func (p *Plane) Apply(ctx context.Context, c Change) ([]Effect, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ensure(ctx); err != nil {
		return nil, err
	}
	return p.apply(ctx, c, OwnerAPI)
}

// apply is Apply for an owner. Callers hold mu.
func (p *Plane) apply(ctx context.Context, c Change, owner string) ([]Effect, error) {
	put, err := p.view.with(c)
	if err != nil {
		return nil, err
	}
	txn := store.Txn{By: c.By}
	effects, err := p.effects(c, put, owner, &txn)
	if err != nil {
		return nil, err
	}
	if err := p.compare(c.Revisions, &txn); err != nil || c.DryRun {
		return effects, err
	}
	if len(txn.Put)+len(txn.Delete) == 0 {
		return effects, nil
	}
	if err := p.commit(ctx, txn); err != nil {
		return nil, err
	}
	for i := range effects {
		r, _ := p.view.resource(effects[i].Key)
		effects[i].Revision = r.Revision
	}
	p.untidy = p.untidy || len(txn.Delete) > 0
	p.changed()
	p.fetch(txn.Put)
	return effects, nil
}

// effects says what a change does, and adds it to a transaction. put is what the change puts, as
// it is kept.
func (p *Plane) effects(
	c Change, put []config.Resource, owner string, txn *store.Txn,
) ([]Effect, error) {
	effects := make([]Effect, 0, len(put)+len(c.Delete))
	owned := func(r *store.Resource) bool {
		return r.Owner == OwnerFile && owner == OwnerAPI && !c.TakeOver
	}
	for _, r := range put {
		key := store.Key{Kind: r.Kind, Name: r.Name}
		old, there := p.view.resource(key)
		e := Effect{Key: key, Action: "created", Old: old.Spec, New: r.Spec, Revision: old.Revision}
		switch {
		case owned(&old):
			return nil, fmt.Errorf("%w: %s; change it in %s, or take it over (--take-over)",
				ErrOwned, key, p.cfg.File)
		case there && old.Owner == owner && bytes.Equal(old.Spec, r.Spec):
			e.Action = "unchanged"
		case there:
			e.Action = "changed"
		}
		effects = append(effects, e)
		if e.Action != "unchanged" {
			txn.Put = append(txn.Put, store.Resource{Key: key, Owner: owner, Spec: r.Spec,
				Status: old.Status})
		}
	}
	for _, key := range c.Delete {
		old, _ := p.view.resource(key)
		if owned(&old) {
			return nil, fmt.Errorf("%w: %s; take it out of %s", ErrOwned, key, p.cfg.File)
		}
		effects = append(effects, Effect{Key: key, Action: "deleted", Old: old.Spec})
		txn.Delete = append(txn.Delete, key)
		if key.Kind == config.KindMonitor {
			txn.Delete = append(txn.Delete, p.view.alarmsOf(key.Name, math.MaxInt)...)
		}
		if key.Kind == config.KindEndpoint { // one that is made later begins anew
			txn.Delete = append(txn.Delete, p.view.rolloutsOf(key.Name)...)
		}
		if key.Kind == config.KindTrigger {
			txn.Delete = append(txn.Delete, p.view.startsOf(key.Name)...)
		}
	}
	return effects, nil
}

// fetch has those sources looked at that have to bring something for resources that were put.
func (p *Plane) fetch(put []store.Resource) {
	look := func(model string) {
		if f := p.followerOf(model); f != nil {
			f.look()
		}
	}
	for i := range put {
		switch name := put[i].Name; put[i].Kind {
		case config.KindModel:
			look(name)
			p.untidy = true // it may have a source no more
		case config.KindEndpoint:
			p.view.needs(p.view.endpoints[name], time.Now(), func(model, version string) {
				if p.view.version(model, version).Name == "" {
					look(model)
				}
			})
		}
	}
}

// compare adds the conditions to a transaction, and holds them against what is there, so that a
// dry run tells, too.
func (p *Plane) compare(revisions map[store.Key]uint64, txn *store.Txn) error {
	for key, want := range revisions {
		r, _ := p.view.resource(key)
		if r.Revision != want {
			return &store.ConflictError{Key: key, Want: want, Present: r.Revision}
		}
		txn.Compare = append(txn.Compare, store.Compare{Key: key, Revision: want})
	}
	return nil
}

// commit makes a transaction durable and takes it over into the view. Callers hold mu.
func (p *Plane) commit(ctx context.Context, t store.Txn) error {
	p.step("commit")
	_, err := p.store.Txn(ctx, t)
	p.step("committed")
	if err != nil {
		return err
	}
	for i := range t.Put {
		key := t.Put[i].Key
		old, _ := p.view.resource(key)
		r, err := p.store.Get(ctx, key)
		if key.Kind == config.KindModel && !bytes.Equal(old.Spec, r.Spec) {
			p.configured = false
		}
		if err == nil {
			err = p.view.put(r)
		}
		if err != nil {
			return fmt.Errorf("cannot read %s back: %w", key, err)
		}
		if key.Kind == KindRun {
			p.drive(key.Name)
		}
	}
	for _, key := range t.Delete {
		p.view.remove(key)
		switch key.Kind {
		case KindRollout:
			delete(p.runs, key.Name)
		case KindRun:
			p.abandon(key.Name)
		case config.KindModel:
			p.configured = false
		}
	}
	return nil
}

// applyFile puts the resources of the settings file into the store, and takes out those that it
// has no more. What was changed by the API stays as it is. Callers hold mu.
func (p *Plane) applyFile(ctx context.Context, file *config.Config) error {
	c := Change{By: store.Author{Who: "settings", From: p.cfg.File}}
	there := make(map[store.Key]bool)
	for _, r := range file.Resources() {
		key := store.Key{Kind: r.Kind, Name: r.Name}
		there[key] = true
		if old, ok := p.view.resource(key); ok && old.Owner == OwnerAPI {
			p.log.Warn("the settings file has a resource that was taken over; that stays in force",
				"kind", key.Kind, "name", key.Name)
			continue
		}
		c.Put = append(c.Put, r)
	}
	for _, r := range p.view.all() {
		if r.Owner == OwnerFile && !there[r.Key] {
			c.Delete = append(c.Delete, r.Key)
		}
	}
	_, err := p.apply(ctx, c, OwnerFile)
	return err
}
