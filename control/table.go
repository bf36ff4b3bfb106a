package control

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/gateway/route"
)

// CanaryArm is the name of the arm and of the shadow that a rollout puts into an endpoint.
const CanaryArm = "canary"

// table returns the endpoints as they are to be in force.
func (v *view) table() ([]route.Spec, route.Aliases) {
	aliases := v.aliases()
	var specs []route.Spec
	for _, e := range sorted(v.endpoints) {
		s := e.spec.Spec()
		if p := e.status.Promoted; p != nil && v.resolve(&e.spec, e.spec.Stable) == p.Over {
			s.Arms[0].Version = p.Version
		}
		if r := v.rollouts[e.status.Rollout]; r != nil {
			steer(&s, &r.status.State, e.spec.Canary)
		}
		specs = append(specs, s)
	}
	return specs, aliases
}

// steer gives the canary of a rollout its share. c is what the endpoint says now, which may be
// nothing any more.
func steer(s *route.Spec, r *rollout.State, c *config.Canary) {
	if r.Phase == rollout.Pending || r.Phase == rollout.Done {
		return
	}
	s.Arms[0].Version = r.Stable.Version
	weight := int(r.Weight()*route.FullWeight/100 + 0.5)
	arm := route.ArmSpec{Name: CanaryArm, Model: r.Model, Version: r.Canary.Version,
		Weight: weight}
	i := slices.IndexFunc(s.Arms, func(a route.ArmSpec) bool { return a.Name == CanaryArm })
	if i >= 0 {
		s.Arms[i] = arm
	} else {
		s.Arms = slices.Insert(s.Arms, 1, arm)
	}
	s.Trial = r.ID
	if percent := r.Shadowing(); percent > 0 {
		k := route.ShadowSpec{Name: CanaryArm, Model: r.Model, Version: r.Canary.Version,
			Percent: percent}
		if c != nil {
			k.Absolute, k.Relative = c.Shadow.Absolute, c.Shadow.Relative
		}
		s.Shadows = append(s.Shadows, k)
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
	alias, ok := strings.CutPrefix(text, "@")
	if !ok {
		return text
	}
	m := v.models[modelOf(e)]
	if m == nil {
		return ""
	}
	if version, ok := m.spec.Aliases[alias]; ok {
		return version
	}
	return m.status.Aliases[alias]
}

// stable returns the version that serves an endpoint now.
func (v *view) stable(e *item[config.Endpoint, EndpointStatus]) string {
	version := v.resolve(&e.spec, e.spec.Stable)
	if p := e.status.Promoted; p != nil && version == p.Over {
		return p.Version
	}
	return version
}

// wanted lists the versions of each model that must stay: those in force, and those that
// endpoints and rollouts name.
func (v *view) wanted(now time.Time) map[string][]string {
	all := make(map[string][]string)
	add := func(model, version string) {
		if version != "" && version[0] != '@' && !slices.Contains(all[model], version) {
			all[model] = append(all[model], version)
		}
	}
	for name, m := range v.models {
		for _, version := range m.status.Aliases {
			add(name, version) // in force until others are published
		}
	}
	for _, e := range v.endpoints {
		model := modelOf(&e.spec)
		add(model, v.stable(e))
		if f := e.status.Former; f != nil && now.Before(f.Until) {
			add(model, f.Version)
		}
		if r := v.rollouts[e.status.Rollout]; r != nil {
			add(r.status.State.Model, r.status.State.Stable.Version)
			add(r.status.State.Model, r.status.State.Canary.Version)
		}
		spec := e.spec.Spec()
		for _, a := range spec.Arms {
			add(a.Model, a.Version)
		}
		for _, k := range spec.Shadows {
			add(k.Model, k.Version)
		}
	}
	for model := range all {
		slices.Sort(all[model])
	}
	return all
}
