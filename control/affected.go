package control

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
)

// with returns the resources that a change puts as they are kept, or what would be wrong with the
// settings after it.
func (v *view) with(c Change) ([]config.Resource, error) {
	a := affected{view: v, changed: make(map[store.Key]bool), next: config.Default()}
	for _, key := range c.Delete {
		if _, there := v.resource(key); !there || !written(key.Kind) || a.changed[key] {
			return nil, fmt.Errorf("%w: %s", store.ErrNotFound, key)
		}
		a.changed[key] = true
	}
	var put config.Config
	for _, r := range c.Put {
		if err := put.Add(r); err != nil {
			return nil, fmt.Errorf("%s %s: %w", strings.ToLower(r.Kind), r.Name, err)
		}
		a.changed[store.Key{Kind: r.Kind, Name: r.Name}] = true
	}
	a.gather(&put)
	return put.Resources(), a.next.Named(a.next.Validate())
}

// written says whether people write resources of a kind.
func written(kind string) bool { return slices.Contains(config.Kinds(), kind) }

// affected is as much of the settings after a change as that can break: what it puts, the models
// of its sources, the endpoints that name its models, and what those refer to. To check all of
// a thousand endpoints each time would take the processor from requests.
type affected struct {
	view    *view
	changed map[store.Key]bool
	next    config.Config
}

func (a *affected) gather(put *config.Config) {
	a.next.Sources = append(a.next.Sources, put.Sources...)
	for name, s := range a.view.sources {
		if !a.is(config.KindSource, name) {
			a.next.Sources = append(a.next.Sources, s.spec)
		}
	}
	named := make(map[string]bool) // models that endpoints of next name
	endpoint := func(e *config.Endpoint) {
		a.next.Endpoints = append(a.next.Endpoints, *e)
		for _, name := range modelsOf(e) {
			named[name] = true
		}
	}
	for i := range put.Endpoints {
		endpoint(&put.Endpoints[i])
	}
	for name, e := range a.view.endpoints {
		if !a.is(config.KindEndpoint, name) && slices.ContainsFunc(modelsOf(&e.spec),
			func(model string) bool { return a.is(config.KindModel, model) }) {
			endpoint(&e.spec)
		}
	}
	a.next.Models = append(a.next.Models, put.Models...)
	for name, m := range a.view.models {
		if !a.is(config.KindModel, name) &&
			(named[name] || a.is(config.KindSource, m.spec.Source)) {
			a.next.Models = append(a.next.Models, m.spec)
		}
	}
}

// is says whether a resource is put or deleted.
func (a *affected) is(kind, name string) bool {
	return a.changed[store.Key{Kind: kind, Name: name}]
}

// modelsOf lists the models that an endpoint names.
func modelsOf(e *config.Endpoint) []string {
	all := []string{modelOf(e)}
	if e.Canary != nil {
		all = append(all, cmp.Or(e.Canary.Model, all[0]))
	}
	for i := range e.Arms {
		all = append(all, cmp.Or(e.Arms[i].Model, all[0]))
	}
	for i := range e.Shadows {
		all = append(all, cmp.Or(e.Shadows[i].Model, all[0]))
	}
	return all
}
