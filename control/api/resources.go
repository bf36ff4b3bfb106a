package api

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
)

// Kind returns the kind of resource for its plural in paths, "" for none.
func Kind(plural string) string {
	switch plural {
	case "rollouts":
		return control.KindRollout
	case "tests":
		return control.KindTest
	case "alarms":
		return control.KindAlarm
	case "runs":
		return control.KindRun
	}
	return sections[plural]
}

// list answers the resources of a kind.
func (a *API) list(plural string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		a.answerList(w, r, listing{kind: Kind(plural), endpoint: query.Get("endpoint"),
			trigger: query.Get("trigger")})
	}
}

// rolloutsOf answers the rollouts of an endpoint.
func (a *API) rolloutsOf(w http.ResponseWriter, r *http.Request) {
	limit, err := number(r, "limit")
	var s store.Store
	if err == nil {
		s, err = a.deps.Resources.Store()
	}
	if err == nil {
		_, err = s.Get(r.Context(), store.Key{Kind: config.KindEndpoint, Name: r.PathValue("name")})
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	a.answerList(w, r, listing{kind: control.KindRollout, endpoint: r.PathValue("name"),
		limit: limit})
}

// listing says which resources are listed.
type listing struct {
	kind     string
	endpoint string // of rollouts and tests; "" for all
	trigger  string // of runs; "" for all
	limit    uint64 // only the last; 0 for all
}

func (a *API) answerList(w http.ResponseWriter, r *http.Request, l listing) {
	s, err := a.deps.Resources.Store()
	if err != nil {
		a.fail(w, err)
		return
	}
	items, revision, err := s.List(r.Context(), l.kind)
	if err != nil {
		a.fail(w, err)
		return
	}
	if l.endpoint != "" {
		items = slices.DeleteFunc(items, func(r store.Resource) bool {
			of, _ := rolloutOf(r.Name)
			return of != l.endpoint
		})
	}
	if slices.Contains([]string{control.KindRollout, control.KindTest, control.KindAlarm}, l.kind) {
		slices.SortStableFunc(items, func(a, b store.Resource) int {
			ofA, nA := rolloutOf(a.Name)
			ofB, nB := rolloutOf(b.Name)
			return cmp.Or(strings.Compare(ofA, ofB), cmp.Compare(nA, nB))
		})
	}
	if l.kind == control.KindRun {
		items = ofTrigger(items, l.trigger)
	}
	if n := uint64(len(items)); l.limit > 0 && n > l.limit {
		items = items[n-l.limit:]
	}
	if items == nil {
		items = []store.Resource{}
	}
	answer(w, http.StatusOK, List{revision, items})
}

// rolloutOf splits the name of a rollout, ENDPOINT/NUMBER.
func rolloutOf(name string) (endpoint string, number int) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", 0
	}
	number, _ = strconv.Atoi(name[i+1:])
	return name[:i], number
}

// get answers one resource.
func (a *API) get(plural string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, err := a.deps.Resources.Store()
		var found store.Resource
		if err == nil {
			key := store.Key{Kind: Kind(plural), Name: r.PathValue("name")}
			found, err = s.Get(r.Context(), key)
		}
		if err != nil {
			a.fail(w, err)
			return
		}
		w.Header().Set("ETag", etag(found.Revision))
		answer(w, http.StatusOK, found)
	}
}

func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }

// put makes or changes one resource. The body is its spec, or all of it.
func (a *API) put(plural string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		key := store.Key{Kind: Kind(plural), Name: r.PathValue("name")}
		it, err := single(w, r, key)
		if err != nil {
			a.fail(w, err)
			return
		}
		c, err := change(r, []item{it})
		if err != nil {
			a.fail(w, err)
			return
		}
		a.one(w, r, c)
	}
}

// single reads the resource of a PUT.
func single(w http.ResponseWriter, r *http.Request, key store.Key) (item, error) {
	none := item{}
	docs, err := documents(w, r)
	if err != nil {
		return none, err
	}
	if len(docs) != 1 {
		return none, bad("the body has %d documents, must be one: the spec of %s", len(docs), key)
	}
	fields, ok := docs[0].(map[string]any)
	if !ok {
		return none, bad("the body is no mapping, must be the spec of %s", key)
	}
	_, whole := fields["spec"]
	if !whole {
		fields = map[string]any{"spec": fields}
	}
	for name, want := range map[string]string{"kind": key.Kind, "name": key.Name} {
		if v, there := fields[name]; there && text(v) != want {
			return none, bad("the %s in the body is %q, in the path %q", name, text(v), want)
		}
		fields[name] = want
	}
	it, err := written(fields)
	if err != nil {
		return none, bad("the body %v", err)
	}
	return it, nil
}

// delete removes one resource.
func (a *API) delete(plural string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := change(r, nil)
		if err != nil {
			a.fail(w, err)
			return
		}
		c.Delete = []store.Key{{Kind: Kind(plural), Name: r.PathValue("name")}}
		a.one(w, r, c)
	}
}

// one makes a change of one resource, whose revision may stand in the header.
func (a *API) one(w http.ResponseWriter, r *http.Request, c control.Change) {
	key := slices.Concat(c.Delete, keysOf(c.Put))[0]
	if tag := r.Header.Get("If-Match"); tag != "" && tag != "*" {
		revision, err := strconv.ParseUint(strings.Trim(tag, `"`), 10, 64)
		if err != nil {
			a.fail(w, bad("If-Match is %q, must be a revision such as %s", tag, etag(7)))
			return
		}
		c.Revisions = map[store.Key]uint64{key: revision}
	}
	if r.Header.Get("If-None-Match") == "*" {
		c.Revisions = map[store.Key]uint64{key: 0}
	}
	effects, err := a.deps.Resources.Apply(r.Context(), c)
	if err != nil {
		a.fail(w, err)
		return
	}
	status := http.StatusOK
	if effects[0].Action == "created" && !c.DryRun {
		status = http.StatusCreated
	}
	if revision := effects[0].Revision; revision > 0 {
		w.Header().Set("ETag", etag(revision))
	}
	answer(w, status, Effect{Effect: effects[0]})
}

func keysOf(resources []config.Resource) []store.Key {
	keys := make([]store.Key, len(resources))
	for i, r := range resources {
		keys[i] = store.Key{Kind: r.Kind, Name: r.Name}
	}
	return keys
}

// change makes a change of what a request says.
func change(r *http.Request, items []item) (control.Change, error) {
	c := control.Change{By: author(r), Revisions: make(map[store.Key]uint64)}
	for _, it := range items {
		c.Put = append(c.Put, it.Resource)
		if it.revision != nil {
			c.Revisions[store.Key{Kind: it.Kind, Name: it.Name}] = *it.revision
		}
	}
	var err error
	if c.DryRun, err = flag(r, "dry_run"); err != nil {
		return c, err
	}
	c.TakeOver, err = flag(r, "take_over")
	return c, err
}

// flag reads a yes or no of the query.
func flag(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, bad("%s is %q, must be true or false", name, text)
	}
	return b, nil
}

// number reads a number of the query, 0 where it is not there.
func number(r *http.Request, name string) (uint64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, bad("%s is %q, must be a number", name, text)
	}
	return n, nil
}

// author says who makes a request.
func author(r *http.Request) store.Author {
	by := store.Author{Who: cmp.Or(r.Header.Get(UserHeader), "anonymous"), From: r.RemoteAddr}
	if by.From == "" || by.From == "@" {
		by.From = "unix socket"
	}
	return by
}

// apply changes all resources of a body, or none.
func (a *API) apply(w http.ResponseWriter, r *http.Request) { a.applyAll(w, r, false) }

// diff says what apply would change.
func (a *API) diff(w http.ResponseWriter, r *http.Request) { a.applyAll(w, r, true) }

func (a *API) applyAll(w http.ResponseWriter, r *http.Request, diff bool) {
	docs, err := documents(w, r)
	var items []item
	if err == nil {
		items, err = resources(docs)
	}
	var c control.Change
	if err == nil {
		c, err = change(r, items)
	}
	var effects []control.Effect
	if err == nil {
		c.DryRun = c.DryRun || diff
		effects, err = a.deps.Resources.Apply(r.Context(), c)
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	all := Effects{DryRun: c.DryRun, Effects: make([]Effect, len(effects))}
	for i, e := range effects {
		all.Effects[i] = Effect{Effect: e}
		if diff {
			all.Effects[i].Diff = Diff(e.Key, e.Old, e.New)
		}
	}
	answer(w, http.StatusOK, all)
}

// Diff is the unified diff of the YAML of a resource's spec, "" where nothing differs.
func Diff(key store.Key, before, after json.RawMessage) string {
	name := strings.ToLower(key.Kind) + " " + key.Name
	return unified(name, linesOf(before), linesOf(after))
}

// linesOf returns the lines of a spec in YAML.
func linesOf(spec json.RawMessage) []string {
	if len(spec) == 0 {
		return nil
	}
	text, err := YAML(spec)
	if err != nil {
		text = spec // so that it is shown at least
	}
	return slices.Collect(strings.Lines(string(text)))
}
