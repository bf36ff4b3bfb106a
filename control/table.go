package control

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/syncer"
	"github.com/millrace-ml/millrace/gateway/route"
)

// built is an endpoint as it is to be in force, and what that follows from: resources that a
// commit replaces as a whole.
type built struct {
	endpoint *endpoint
	rollout  *record
	model    *item[config.Model, syncer.Status]
	rows     int // a second that monitors look at
	spec     route.Spec
}

// table returns the endpoints as they are to be in force. Those of which nothing has changed share
// all with what it returned before: nobody may write to them.
func (v *view) table() ([]route.Spec, route.Aliases) {
	aliases := v.aliases()
	specs := make([]route.Spec, 0, len(v.endpoints))
	next := make(map[string]built, len(v.endpoints))
	rows := v.monitoredRows()
	for _, e := range sorted(v.endpoints) {
		b, r, m := v.built[e.Name], v.rollouts[e.status.Rollout], v.models[modelOf(&e.spec)]
		if b.endpoint != e || b.rollout != r || b.model != m || b.rows != rows[e.Name] {
			b = built{e, r, m, rows[e.Name], v.build(e, r)}
			b.spec.Monitored = b.rows
		}
		next[e.Name] = b
		specs = append(specs, b.spec)
	}
	v.built = next
	return specs, aliases
}

// build makes an endpoint as it is to be in force with its rollout, which may be nil.
func (v *view) build(e *endpoint, r *record) route.Spec {
	s := e.spec.Spec()
	if p := v.promoted(e); p != nil {
		s.Arms[0].Version = p.Version
	}
	if r != nil {
		steer(&s, &r.status.State, e.spec.Canary)
	}
	return s
}

// equal says whether two tables are the same. Specs that share their arms are, since they have
// all in common.
func equal(a, b []route.Spec) bool {
	return slices.EqualFunc(a, b, func(a, b route.Spec) bool {
		return &a.Arms[0] == &b.Arms[0] || reflect.DeepEqual(a, b)
	})
}

// steer gives the canary of a rollout its share, as the arm and the shadow of that name. c is
// what the endpoint says now, which may be nothing any more. An endpoint that has just got another
// model is left alone: the rollout ends at the next look.
func steer(s *route.Spec, r *rollout.State, c *config.Canary) {
	if r.Phase == rollout.Pending || r.Phase == rollout.Done || s.Arms[0].Model != r.Model {
		return
	}
	s.Arms[0].Version = r.Stable.Version
	s.Arms = slices.DeleteFunc(s.Arms, func(a route.ArmSpec) bool {
		return a.Name == route.CanaryArm
	})
	left := route.FullWeight // by further arms, which keep what they have
	for _, a := range s.Arms[1:] {
		left -= a.Weight
	}
	weight := min(int(r.Weight()*route.FullWeight/100+0.5), left)
	s.Arms = slices.Insert(s.Arms, 1, route.ArmSpec{Name: route.CanaryArm, Model: r.Model,
		Version: r.Canary.Version, Weight: weight})
	s.Trial = r.ID
	if percent := r.Shadowing(); percent > 0 {
		k := route.ShadowSpec{Name: route.CanaryArm, Model: r.Model, Version: r.Canary.Version,
			Percent: percent}
		if c != nil {
			k.Absolute, k.Relative = c.Shadow.Absolute, c.Shadow.Relative
		}
		s.Shadows = append(slices.DeleteFunc(s.Shadows, func(o route.ShadowSpec) bool {
			return o.Name == route.CanaryArm
		}), k)
	}
}

// aliases are the names of versions in force, by model: those of the registry, and above them
// those of the settings.
func (v *view) aliases() route.Aliases {
	all := make(route.Aliases, len(v.models))
	for name, m := range v.models {
		if len(m.spec.Aliases)+len(m.status.Aliases) == 0 {
			continue
		}
		all[name] = maps.Clone(m.status.Aliases)
		if all[name] == nil {
			all[name] = make(map[string]string)
		}
		maps.Copy(all[name], m.spec.Aliases)
	}
	return all
}

// modelOf is the model that an endpoint's versions are of.
func modelOf(e *config.Endpoint) string {
	if e.Model != "" {
		return e.Model
	}
	return e.Name
}

// resolve returns the version that an endpoint's text names, empty where no version has the
// alias.
func (v *view) resolve(e *config.Endpoint, text string) string {
	return v.named(modelOf(e), text)
}

// named is resolve for a model.
func (v *view) named(model, text string) string {
	alias, ok := strings.CutPrefix(text, "@")
	if !ok {
		return text
	}
	m := v.models[model]
	if m == nil {
		return ""
	}
	if version, ok := m.spec.Aliases[alias]; ok {
		return version
	}
	return m.status.Aliases[alias]
}

// promoted returns the promotion that holds, nil where none does.
func (v *view) promoted(e *endpoint) *Promoted {
	p := e.status.Promoted
	if p == nil || p.Model != modelOf(&e.spec) ||
		!slices.Contains(p.Over, v.resolve(&e.spec, e.spec.Stable)) {
		return nil
	}
	return p
}

// stale says whether a promotion has lost its hold for good: the alias has moved, or the endpoint
// has changed. It does not come back when they do. An alias that is away for a while, or is yet
// to be moved to the version, says nothing.
func (v *view) stale(e *endpoint) bool {
	p := e.status.Promoted
	if p == nil || v.promoted(e) != nil {
		return false
	}
	now := v.resolve(&e.spec, e.spec.Stable)
	return p.Model != modelOf(&e.spec) || now != "" && (now != p.Version || !v.moving(p))
}

// over is the promotion of a version in the place of another one. Of one that still held, it
// stands above the same: the alias may yet go the way of both.
func (v *view) over(e *endpoint, version, former string) *Promoted {
	p := &Promoted{Model: modelOf(&e.spec), Version: version, Over: []string{former}}
	if before := v.promoted(e); before != nil {
		p.Over = append(p.Over, before.Over...)
	}
	p.Over = append(p.Over, v.resolve(&e.spec, e.spec.Stable))
	slices.Sort(p.Over)
	p.Over = slices.DeleteFunc(slices.Compact(p.Over), func(one string) bool {
		return one == version || one == ""
	})
	return p
}

// moving says whether an alias is yet to be moved to a promoted version.
func (v *view) moving(p *Promoted) bool {
	for _, r := range v.rollouts {
		if r.status.State.Model == p.Model && slices.ContainsFunc(r.status.Actions,
			func(a Action) bool {
				return a.Kind == ActionAlias && a.Version == p.Version && a.Done.IsZero()
			}) {
			return true
		}
	}
	return false
}

// stable returns the version that serves an endpoint now.
func (v *view) stable(e *endpoint) string {
	if p := v.promoted(e); p != nil {
		return p.Version
	}
	return v.resolve(&e.spec, e.spec.Stable)
}

// wanted lists the versions of each model that must stay: those in force, and those that
// endpoints and rollouts name.
func (v *view) wanted(now time.Time) map[string][]string {
	all := make(map[string][]string)
	add := func(model, version string) {
		if !slices.Contains(all[model], version) {
			all[model] = append(all[model], version)
		}
	}
	for name, m := range v.models {
		for _, version := range m.status.Aliases {
			add(name, version) // in force until others are published
		}
		for _, version := range m.spec.Aliases {
			add(name, version)
		}
	}
	for _, e := range v.endpoints {
		v.needs(e, now, add)
	}
	for model := range all {
		slices.Sort(all[model])
	}
	return all
}

// needs calls add with each version that an endpoint needs, but those behind aliases.
func (v *view) needs(e *endpoint, now time.Time, add func(model, version string)) {
	own := modelOf(&e.spec)
	fixed := func(model, version string) {
		if version != "" && version[0] != '@' {
			add(cmp.Or(model, own), version)
		}
	}
	fixed(own, v.stable(e))
	if f := e.status.Former; f != nil && now.Before(f.Until) {
		fixed(f.Model, f.Version)
	}
	if r := v.rollouts[e.status.Rollout]; r != nil {
		fixed(r.status.State.Model, r.status.State.Stable.Version)
		fixed(r.status.State.Model, r.status.State.Canary.Version)
	}
	if e.spec.Canary != nil {
		fixed(e.spec.Canary.Model, e.spec.Canary.Version)
	}
	for i := range e.spec.Arms {
		fixed(e.spec.Arms[i].Model, e.spec.Arms[i].Version)
	}
	for i := range e.spec.Shadows {
		fixed(e.spec.Shadows[i].Model, e.spec.Shadows[i].Version)
	}
}
