package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/syncer"
	"github.com/millrace-ml/millrace/control/trigger"
)

// view is the resources of the store, decoded. It is what everything is decided by; only commit
// changes it, after the store.
type view struct {
	sources   map[string]*item[config.Source, SourceStatus]
	models    map[string]*item[config.Model, syncer.Status]
	endpoints map[string]*endpoint
	rollouts  map[string]*record
	tests     map[string]*testRecord
	monitors  map[string]*monitored
	alarms    map[string]*item[struct{}, monitor.Alarm]
	triggers  map[string]*item[config.Trigger, TriggerStatus]
	starts    map[string]*item[struct{}, trigger.Run] // of pipelines, by the run's ID
	pushed    map[string]*item[struct{}, pushed]      // by the name at the source

	built map[string]built // of endpoints, what table has returned last
}

// item is a resource with its spec and status decoded.
type item[S, T any] struct {
	store.Resource
	spec   S
	status T
}

// endpoint is an endpoint as the store has it. A commit puts another in its place.
type endpoint = item[config.Endpoint, EndpointStatus]

// record is what is kept of a rollout.
type record = item[struct{}, RolloutStatus]

// with returns the resource with another status.
func (it *item[S, T]) with(status T) store.Resource {
	r := it.Resource
	r.Status = encode(status)
	return r
}

// encode writes a status.
func encode(status any) json.RawMessage {
	text, _ := json.Marshal(status) // of types of ours, which can be written
	return text
}

// SourceStatus is what the control plane knows of a source.
type SourceStatus struct {
	Error string `json:"error,omitempty"` // of the last look
}

func newView() view {
	return view{
		sources:   make(map[string]*item[config.Source, SourceStatus]),
		models:    make(map[string]*item[config.Model, syncer.Status]),
		endpoints: make(map[string]*endpoint),
		rollouts:  make(map[string]*record),
		tests:     make(map[string]*testRecord),
		monitors:  make(map[string]*monitored),
		alarms:    make(map[string]*item[struct{}, monitor.Alarm]),
		triggers:  make(map[string]*item[config.Trigger, TriggerStatus]),
		starts:    make(map[string]*item[struct{}, trigger.Run]),
		pushed:    make(map[string]*item[struct{}, pushed]),
	}
}

// put takes over a resource as the store has it.
func (v *view) put(r store.Resource) error {
	switch r.Kind {
	case config.KindSource:
		return into(v.sources, r, func(s *config.Source) { s.Name = r.Name })
	case config.KindModel:
		return into(v.models, r, func(m *config.Model) { m.Name = r.Name })
	case config.KindEndpoint:
		return into(v.endpoints, r, func(e *config.Endpoint) { e.Name = r.Name })
	case KindRollout:
		return into(v.rollouts, r, func(*struct{}) {})
	case KindTest:
		return into(v.tests, r, func(*struct{}) {})
	case config.KindMonitor:
		return into(v.monitors, r, func(m *config.Monitor) { m.Name = r.Name })
	case KindAlarm:
		return into(v.alarms, r, func(*struct{}) {})
	case KindPushed:
		return into(v.pushed, r, func(*struct{}) {})
	case config.KindTrigger:
		return into(v.triggers, r, func(t *config.Trigger) { t.Name = r.Name })
	case KindRun:
		return into(v.starts, r, func(*struct{}) {})
	}
	return nil // of a later version of this program
}

// into decodes a resource. A spec that is as it was is not decoded again.
func into[S, T any](m map[string]*item[S, T], r store.Resource, name func(*S)) error {
	it := &item[S, T]{Resource: r}
	if old := m[r.Name]; old != nil && bytes.Equal(old.Spec, r.Spec) {
		it.spec = old.spec
	} else if len(r.Spec) > 0 {
		spec, err := config.Decode[S](r.Spec)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", r.Key, err)
		}
		it.spec = spec
	}
	name(&it.spec)
	if len(r.Status) > 0 {
		if err := json.Unmarshal(r.Status, &it.status); err != nil {
			return fmt.Errorf("cannot read the status of %s: %w", r.Key, err)
		}
	}
	m[r.Name] = it
	return nil
}

func (v *view) remove(k store.Key) {
	switch k.Kind {
	case config.KindSource:
		delete(v.sources, k.Name)
	case config.KindModel:
		delete(v.models, k.Name)
	case config.KindEndpoint:
		delete(v.endpoints, k.Name)
	case KindRollout:
		delete(v.rollouts, k.Name)
	case KindTest:
		delete(v.tests, k.Name)
	case config.KindMonitor:
		delete(v.monitors, k.Name)
	case KindAlarm:
		delete(v.alarms, k.Name)
	case KindPushed:
		delete(v.pushed, k.Name)
	case config.KindTrigger:
		delete(v.triggers, k.Name)
	case KindRun:
		delete(v.starts, k.Name)
	}
}

// resource returns a resource as the store has it.
func (v *view) resource(k store.Key) (r store.Resource, ok bool) {
	switch k.Kind {
	case config.KindSource:
		return found(v.sources, k.Name)
	case config.KindModel:
		return found(v.models, k.Name)
	case config.KindEndpoint:
		return found(v.endpoints, k.Name)
	case KindRollout:
		return found(v.rollouts, k.Name)
	case KindTest:
		return found(v.tests, k.Name)
	case config.KindMonitor:
		return found(v.monitors, k.Name)
	case KindAlarm:
		return found(v.alarms, k.Name)
	case KindPushed:
		return found(v.pushed, k.Name)
	case config.KindTrigger:
		return found(v.triggers, k.Name)
	case KindRun:
		return found(v.starts, k.Name)
	}
	return r, false
}

func found[S, T any](m map[string]*item[S, T], name string) (store.Resource, bool) {
	it := m[name]
	if it == nil {
		return store.Resource{}, false
	}
	return it.Resource, true
}

// all lists the resources that people write, by kind and name.
func (v *view) all() []store.Resource {
	return slices.Concat(resources(v.sources), resources(v.models), resources(v.endpoints),
		resources(v.monitors), resources(v.triggers))
}

func resources[S, T any](m map[string]*item[S, T]) []store.Resource {
	var list []store.Resource
	for _, it := range sorted(m) {
		list = append(list, it.Resource)
	}
	return list
}

func sorted[S, T any](m map[string]*item[S, T]) []*item[S, T] {
	return slices.SortedFunc(maps.Values(m), func(a, b *item[S, T]) int {
		return strings.Compare(a.Name, b.Name)
	})
}

// settings returns the models as settings.
func (v *view) settings() []config.Model {
	all := make([]config.Model, 0, len(v.models))
	for _, m := range sorted(v.models) {
		all = append(all, m.spec)
	}
	return all
}

// version returns what is known of a model's version at its source, nothing where it has none.
func (v *view) version(model, version string) syncer.Version {
	if m := v.models[model]; m != nil {
		for i := range m.status.Versions {
			if m.status.Versions[i].Name == version {
				return m.status.Versions[i]
			}
		}
	}
	return syncer.Version{}
}
