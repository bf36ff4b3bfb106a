package route

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Table is all endpoints. It is immutable.
type Table struct {
	endpoints map[string]*Endpoint
	aliases   map[string]map[string][]byte // by model and alias: a version
}

// Endpoint is one endpoint of a Table. It is immutable.
type Endpoint struct {
	Spec    // with every default filled in, and header names in lower case
	Arms    []Arm
	Shadows []Shadow

	written Spec // as its owner wrote it
	rules   []rule
	seed    uint64 // of the hash that sticky keys go through
	cookie  string // what follows the value of a cookie that the server sets
}

// Arm is a version that an endpoint may pick.
type Arm struct {
	Name    string
	Model   []byte // names, as model.Repository.Acquire takes them
	Version []byte // an alias is resolved; empty is the latest that is ready
	Weight  int    // of FullWeight
}

// Shadow is a version that gets copies of an endpoint's requests.
type Shadow struct {
	ShadowSpec        // with every default filled in
	Model      []byte // names, as model.Repository.Acquire takes them
	Version    []byte // an alias is resolved; empty is the latest that is ready
}

// New builds a table. The error lists every fault, one a line, each beginning
// with `endpoints[i].key: `.
func New(specs []Spec, aliases Aliases) (*Table, error) { return Update(nil, specs, aliases) }

// Update is New for a table that comes after another one, which may be nil: what is as
// it was there is taken over as it is, weights that were moved since included.
func Update(before *Table, specs []Spec, aliases Aliases) (*Table, error) {
	if before == nil {
		before = new(Table)
	}
	t := &Table{
		endpoints: make(map[string]*Endpoint, len(specs)),
		aliases:   make(map[string]map[string][]byte, len(aliases)),
	}
	for model, versions := range aliases {
		t.aliases[model] = before.aliases[model]
		if !sameAliases(t.aliases[model], versions) {
			t.aliases[model] = resolved(versions)
		}
	}
	var faults []error
	names := make(map[string]string, len(specs))
	for i := range specs {
		s := &specs[i]
		_, twice := names[s.Name]
		old := before.endpoints[s.Name]
		if old != nil && !twice && reflect.DeepEqual(old.written, *s) && old.resolvesBy(t) {
			names[s.Name] = "another endpoint"
			t.endpoints[s.Name] = old
			continue
		}
		b := builder{at: fmt.Sprintf("endpoints[%d]", i), aliases: t.aliases}
		b.name("name", s.Name)
		b.once("name", s.Name, b.at, names)
		t.endpoints[s.Name] = b.endpoint(*s)
		faults = append(faults, b.faults...)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return t, nil
}

func resolved(versions map[string]string) map[string][]byte {
	all := make(map[string][]byte, len(versions))
	for alias, version := range versions {
		all[alias] = []byte(version)
	}
	return all
}

func sameAliases(before map[string][]byte, now map[string]string) bool {
	if len(before) != len(now) {
		return false
	}
	for alias, version := range now {
		if old, ok := before[alias]; !ok || string(old) != version {
			return false
		}
	}
	return true
}

// resolvesBy says whether the aliases of a table name the versions that the endpoint has.
func (e *Endpoint) resolvesBy(t *Table) bool {
	b := builder{aliases: t.aliases}
	same := func(model, version string, has []byte) bool {
		_, now := b.version("", model, version)
		return string(now) == string(has)
	}
	for i, a := range e.written.Arms {
		if !same(a.Model, a.Version, e.Arms[i].Version) {
			return false
		}
	}
	for i, k := range e.written.Shadows {
		if !same(k.Model, k.Version, e.Shadows[i].Version) {
			return false
		}
	}
	return true
}

// Endpoint returns the endpoint of that name, or nil. t may be nil.
func (t *Table) Endpoint(name []byte) *Endpoint {
	if t == nil {
		return nil
	}
	return t.endpoints[string(name)]
}

// Endpoints lists all, in the order of their names. t may be nil.
func (t *Table) Endpoints() []*Endpoint {
	if t == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(t.endpoints), func(a, b *Endpoint) int {
		return strings.Compare(a.Name, b.Name)
	})
}

// Version returns the version that an explicit wish names: "@x" or an alias is
// resolved, all else is a version. t may be nil. Nobody may write to the result.
func (t *Table) Version(model string, wish []byte) []byte {
	if t == nil || len(wish) == 0 {
		return wish
	}
	alias := wish
	if alias[0] == '@' {
		alias = alias[1:]
	}
	if version, ok := t.aliases[model][string(alias)]; ok {
		return version
	}
	return wish
}

// WithWeights returns a table in which an endpoint's arms have these weights:
// one for each arm, FullWeight in sum. Where the endpoint is no more it returns
// t, which may be nil.
func (t *Table) WithWeights(endpoint string, weights []int) *Table {
	old := t.Endpoint([]byte(endpoint))
	if old == nil {
		return t
	}
	e := *old
	e.Arms, e.Spec.Arms = slices.Clone(e.Arms), slices.Clone(e.Spec.Arms)
	for i, w := range weights {
		e.Arms[i].Weight, e.Spec.Arms[i].Weight = w, w
	}
	changed := *t
	changed.endpoints = maps.Clone(t.endpoints)
	changed.endpoints[endpoint] = &e
	return &changed
}
