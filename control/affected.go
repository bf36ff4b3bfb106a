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
	a.gatherTriggers(put)
	a.gatherMonitors(put, endpoint)
	a.next.Models = append(a.next.Models, put.Models...)
	for name, m := range a.view.models {
		if !a.is(config.KindModel, name) &&
			(named[name] || a.is(config.KindSource, m.spec.Source)) {
			a.next.Models = append(a.next.Models, m.spec)
		}
	}
}

// gatherMonitors adds the monitors that are put, those of changed endpoints and those that triggers
// wait for, and the endpoints that monitors and triggers name.
func (a *affected) gatherMonitors(put *config.Config, endpoint func(*config.Endpoint)) {
	a.next.Monitors = append(a.next.Monitors, put.Monitors...)
	for name, m := range a.view.monitors {
		if !a.is(config.KindMonitor, name) &&
			(a.is(config.KindEndpoint, m.spec.Endpoint) || a.awaited(name)) {
			a.next.Monitors = append(a.next.Monitors, m.spec)
		}
	}
	there := make(map[string]bool)
	for i := range a.next.Endpoints {
		there[a.next.Endpoints[i].Name] = true
	}
	names := make([]string, 0, len(a.next.Monitors)+len(a.next.Triggers))
	for i := range a.next.Monitors {
		names = append(names, a.next.Monitors[i].Endpoint)
	}
	for i := range a.next.Triggers {
		names = append(names, a.next.Triggers[i].Endpoints()...)
	}
	for _, name := range names {
		if e := a.view.endpoints[name]; e != nil && !there[name] &&
			!a.is(config.KindEndpoint, name) {
			there[name] = true
			endpoint(&e.spec)
		}
	}
}

// gatherTriggers adds the triggers that are put and those of changed monitors and endpoints.
func (a *affected) gatherTriggers(put *config.Config) {
	a.next.Triggers = append(a.next.Triggers, put.Triggers...)
	for name, t := range a.view.triggers {
		if !a.is(config.KindTrigger, name) && (a.is(config.KindMonitor, t.spec.On.Alarm) ||
			slices.ContainsFunc(t.spec.Endpoints(),
				func(e string) bool { return a.is(config.KindEndpoint, e) })) {
			a.next.Triggers = append(a.next.Triggers, t.spec)
		}
	}
}

// awaited says whether a trigger that was gathered waits for a monitor's alarms.
func (a *affected) awaited(monitor string) bool {
	return slices.ContainsFunc(a.next.Triggers,
		func(t config.Trigger) bool { return t.On.Alarm == monitor })
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
