package control

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route"
)

// line says what a change does: action, kind/name each.
func line(effects []Effect) string {
	var words []string
	for _, e := range effects {
		words = append(words, e.Action+" "+e.Kind+"/"+e.Name)
	}
	return strings.Join(words, ", ")
}

// fixed is an endpoint of a version of m.
func fixed(version string) string { return `{"model": "m", "stable": "` + version + `"}` }

func TestApply(t *testing.T) {
	b := open(t)
	f := func(c Change, want string, fault error) {
		t.Helper()
		before := b.gw.published
		effects, err := b.Apply(t.Context(), c)
		if got := line(effects); err == nil && got != want || !errors.Is(err, fault) {
			t.Errorf("%q, %v; want %q, %v", got, err, want, fault)
		}
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
		if (err != nil || c.DryRun) && b.gw.published != before {
			t.Error("something was published")
		}
	}
	key := store.Key{Kind: "Endpoint", Name: "e"}
	dry := texts("Endpoint", "e", fixed("1"))
	dry.DryRun = true
	f(dry, "created Endpoint/e", nil)
	if _, ok := b.view.resource(key); ok {
		t.Error("a dry run has done something")
	}
	f(texts("Endpoint", "e", fixed("1"), "Model", "m", `{}`), "created Model/m, created Endpoint/e",
		nil)
	b.serves("stable=1")
	f(texts("Endpoint", "e", fixed("1")), "unchanged Endpoint/e", nil)
	f(texts("Endpoint", "e", `{"stable": "1", "model": "m"}`), "unchanged Endpoint/e", nil)
	f(texts("Endpoint", "e", fixed("2"), "Model", "m", `{}`),
		"unchanged Model/m, changed Endpoint/e", nil)
	b.serves("stable=2")
	stale := texts("Endpoint", "e", fixed("3"))
	stale.Revisions = map[store.Key]uint64{key: 1}
	f(stale, "conflict", store.ErrConflict)
	stale.DryRun = true
	f(stale, "conflict", store.ErrConflict)
	stale.Revisions[key] = b.view.endpoints["e"].Revision
	f(stale, "changed Endpoint/e", nil)
	stale.DryRun = false
	f(stale, "changed Endpoint/e", nil)
	b.serves("stable=3")
	fresh := texts("Endpoint", "e", fixed("4"))
	fresh.Revisions = map[store.Key]uint64{key: 0}
	f(fresh, "conflict", store.ErrConflict)
	f(texts("Endpoint", "e", `{"stabel": "3"}`), "stabel", config.ErrInvalid)
	f(texts("Endpoint", "e", `{"stable": "@champion"}`),
		`endpoint e: stable: model "e" has no alias`, config.ErrInvalid)
	f(texts("Model", "k", `{"source": "nowhere"}`), "model k: source", config.ErrInvalid)
	f(texts("Rollout", "e/1", `{}`), "must be one of Source, Model, Endpoint", config.ErrInvalid)
	f(texts("Endpoint", "e", fixed("1"), "Endpoint", "two", `{"stable": 1, "canary": {}}`),
		"endpoint two", config.ErrInvalid)
	b.serves("stable=3") // all or nothing
	f(Change{By: ana, Delete: []store.Key{key, key}}, "not found", store.ErrNotFound)
	f(Change{Delete: []store.Key{{Kind: "Rollout", Name: "e/1"}}}, "not found", store.ErrNotFound)
	f(Change{By: ana, Delete: []store.Key{key}}, "deleted Endpoint/e", nil)
	b.serves("")
	f(Change{By: ana, Delete: []store.Key{key}}, "not found", store.ErrNotFound)
}

// TestApplyBreaksOthers changes what resources that are not in the change depend on.
func TestApplyBreaksOthers(t *testing.T) {
	b := open(t)
	b.put("Source", "inbox", `{"push": true}`, "Model", "synced", `{"source": "inbox"}`,
		"Model", "m", `{"aliases": {"a": "1", "b": "2", "c": "3"}}`,
		"Endpoint", "stable", `{"model": "m", "stable": "@a"}`,
		"Endpoint", "watches", `{"model": "synced", "stable": "1", "canary": {"watch": "@x"}}`,
		"Endpoint", "arm",
		`{"model": "synced", "arms": [{"name": "k", "model": "m", "version": "@b"}]}`,
		"Endpoint", "shadow", `{"model": "synced", "shadows": [{"model": "m", "version": "@c"}]}`)
	f := func(c Change, want string) {
		t.Helper()
		_, err := b.Apply(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	f(texts("Model", "m", `{"aliases": {"b": "2", "c": "3"}}`), "endpoint stable: stable")
	f(texts("Model", "m", `{"aliases": {"a": "2", "c": "3"}}`), "endpoint arm: arms[0].version")
	f(texts("Model", "m", `{"aliases": {"a": "2", "b": "3"}}`),
		"endpoint shadow: shadows[0].version")
	f(texts("Model", "synced", `{}`), "endpoint watches: canary.watch")
	f(Change{Delete: []store.Key{{Kind: "Model", Name: "m"}}}, "endpoint stable: stable")
	f(Change{Delete: []store.Key{{Kind: "Source", Name: "inbox"}}}, "model synced: source")
	all := Change{By: ana, Delete: []store.Key{{Kind: "Model", Name: "m"},
		{Kind: "Endpoint", Name: "stable"}, {Kind: "Endpoint", Name: "arm"},
		{Kind: "Endpoint", Name: "shadow"}}}
	if _, err := b.Apply(t.Context(), all); err != nil {
		t.Error(err)
	}
}

func TestOwners(t *testing.T) {
	b := open(t)
	reload := func(text, wants string) {
		t.Helper()
		file := parse(t, text)
		if err := b.Reload(t.Context(), &file); err != nil {
			t.Fatal(err)
		}
		b.serves(wants)
	}
	const model = "models: [{name: m, aliases: {champion: 1}}]\n"
	reload(model+"endpoints: [{name: e, model: m, stable: '1'}, {name: f, model: m}]", "stable=1")
	_, err := b.Apply(t.Context(), texts("Endpoint", "e", fixed("2")))
	if !errors.Is(err, ErrOwned) || !strings.Contains(err.Error(), "millrace.yaml") {
		t.Errorf("the API changes what the file has: %v", err)
	}
	_, err = b.Apply(t.Context(), Change{Delete: texts("Endpoint", "e", "").keys()})
	if !errors.Is(err, ErrOwned) {
		t.Errorf("the API deletes what the file has: %v", err)
	}
	take := texts("Endpoint", "e", fixed("2"))
	take.TakeOver = true
	if effects, err := b.Apply(t.Context(), take); line(effects) != "changed Endpoint/e" {
		t.Errorf("it is taken over: %s, %v", line(effects), err)
	}
	reload(model+"endpoints: [{name: e, model: m, stable: '3'}]", "stable=2")
	if n := b.log.count("was taken over"); n != 1 {
		t.Errorf("that the file has it, too, is said %d times", n)
	}
	if b.gw.spec("f").Name != "" {
		t.Error("what the file has no more is there")
	}
	b.put("Endpoint", "g", fixed("1"))
	reload("models: []", "stable=2")
	if b.gw.spec("g").Name == "" {
		t.Error("what the API has made has left with the file")
	}
	if _, ok := b.view.resource(store.Key{Kind: "Model", Name: "m"}); ok {
		t.Error("model m is still there")
	}
	b.remove("Endpoint", "e") // what the API has it may delete
	reload("endpoints: [{name: e, model: m, stable: '4'}]", "stable=4")
}

// TestFileDoesNotFit restarts with a file that does not go with what the API has made of the one
// before: the server must not be without its endpoints.
func TestFileDoesNotFit(t *testing.T) {
	b := open(t)
	file := parse(t, "models: [{name: m, aliases: {champion: 1}}]")
	if err := b.Reload(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	b.put("Endpoint", "e", fixed("@champion"))
	without := config.Default()
	if err := b.Reload(t.Context(), &without); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("an alias that is needed has left: %v", err)
	}
	b.serves("stable=1")
	b.restart()
	b.serves("stable=1")
	if n := b.log.count("the settings file cannot be taken over"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// TestOperators has two people change the same endpoint at the same time, each from what they
// have read.
func TestOperators(t *testing.T) {
	b := open(t)
	b.put("Endpoint", "e", fixed("1"))
	const each = 20
	var wait sync.WaitGroup
	key := store.Key{Kind: "Endpoint", Name: "e"}
	for _, version := range []string{"2", "3"} {
		wait.Go(func() {
			for done := 0; done < each; {
				kept, err := b.Store()
				if err != nil {
					t.Error(err)
					return
				}
				r, err := kept.Get(t.Context(), key)
				if err != nil {
					t.Error(err)
					return
				}
				c := texts("Endpoint", "e", `{"model": "m", "stable": "`+version+`", "priority": `+
					string(rune('1'+done%9))+`}`)
				c.Revisions = map[store.Key]uint64{key: r.Revision}
				switch _, err := b.Apply(t.Context(), c); {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	changes, err := b.store.Audit(t.Context(), store.Query{Kind: "Endpoint", Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for i := range changes[:len(changes)-1] {
		if changes[i].Old.Revision != changes[i+1].Revision {
			t.Fatalf("change %d is of %d, and %d was before", changes[i].Revision,
				changes[i].Old.Revision, changes[i+1].Revision)
		}
	}
}

func TestRestart(t *testing.T) {
	b := open(t)
	b.put("Source", "inbox", `{"push": true}`, "Model", "k", `{"source": "inbox"}`)
	b.aliases("1", "2")
	b.endpoint("")
	b.look(0)
	b.look(0)
	view, specs, aliases := b.view, b.gw.specs, b.gw.aliases
	b.restart()
	b.view.built, view.built = nil, nil
	if !reflect.DeepEqual(b.view, view) {
		t.Errorf("the view is\n%+v, was\n%+v", b.view, view)
	}
	if !reflect.DeepEqual(b.gw.specs, specs) || !reflect.DeepEqual(b.gw.aliases, aliases) {
		t.Errorf("in force are\n%+v, were\n%+v", b.gw.specs, specs)
	}
	if len(b.gw.models) != 2 {
		t.Errorf("settings of models are %+v", b.gw.models)
	}
}

// TestNothingToKeep has a server without sources and endpoints leave nothing on disk.
func TestNothingToKeep(t *testing.T) {
	b := open(t)
	file := parse(t, "models: [{name: m, aliases: {champion: 2}}]")
	if err := b.Reload(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	if got := b.gw.aliases["m"]["champion"]; got != "2" {
		t.Errorf("champion is %q", got)
	}
	if entries, err := os.ReadDir(b.cfg.Data); len(entries) > 0 || err != nil {
		t.Errorf("on disk are %v, %v", entries, err)
	}
	b.put("Endpoint", "e", fixed("@champion"))
	b.serves("stable=2")
	if _, err := os.Stat(filepath.Join(b.cfg.Data, storeFile)); err != nil {
		t.Error(err)
	}
}

// TestDown has a plane that could not open its store say so to everybody.
func TestDown(t *testing.T) {
	cfg := Config{Data: t.TempDir(), Log: open(t).cfg.Log}
	path := filepath.Join(cfg.Data, storeFile)
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &fakeGateway{t: t}
	_, err := Open(cfg, g, loaded, new(config.Config))
	if !errors.Is(err, ErrDown) || g.published != 0 {
		t.Fatalf("a store that is garbage opens: %v", err)
	}
	p := Down(cfg, err)
	_, faults := p.Apply(t.Context(), texts("Endpoint", "e", "{}"))
	_, command := p.Command(t.Context(), "e", "pause", ana)
	_, push := p.Push(t.Context(), Push{Model: "m"})
	_, kept := p.Store()
	file := config.Default()
	for what, err := range map[string]error{"apply": faults, "command": command, "push": push,
		"store": kept, "sync": p.Sync(t.Context(), "s"), "reload": p.Reload(t.Context(), &file),
		"backup": p.Backup(t.Context(), nil)} {
		if !errors.Is(err, ErrDown) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestClosed has calls come while the plane closes.
func TestClosed(t *testing.T) {
	b := open(t)
	b.put("Endpoint", "e", fixed("1"))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := b.Apply(t.Context(), texts("Endpoint", "e", fixed("2")))
	if !errors.Is(err, ErrDown) {
		t.Errorf("a closed plane applies: %v", err)
	}
	if _, err := b.Command(context.Background(), "e", "start", ana); !errors.Is(err, ErrDown) {
		t.Errorf("a closed plane takes a command: %v", err)
	}
	b.serves("stable=1")
	b.start(config.Default())
}

func TestTable(t *testing.T) {
	f := func(spec, want string) {
		t.Helper()
		b := open(t)
		b.put("Source", "inbox", `{"push": true}`,
			"Model", "m", `{"source": "inbox", "aliases": {"champion": "1", "challenger": "2"}}`,
			"Endpoint", "e", spec)
		b.serves(want)
	}
	f(`{"model": "m", "stable": "3"}`, "stable=3")
	f(`{"model": "m"}`, "stable=")
	f(`{"model": "m", "stable": "@champion"}`, "stable=1")
	f(`{"model": "m", "stable": "@unknown"}`, "stable=@unknown")
	f(`{"model": "m", "stable": "1", "canary": {"version": "@challenger", "weight": 2.5}}`,
		"stable=1 canary=2:250")
	f(`{"model": "m", "stable": "1", "canary": {"watch": "@challenger"}}`, "stable=1")
	f(`{"model": "m", "stable": "1", "canary": {"watch": "@challenger"},
		"rules": [{"header": "x", "exact": "y", "arm": "canary"}]}`, "stable=1 canary=2:0")
	f(`{"model": "m", "stable": "1", "shadows": [{"version": "@challenger", "percent": 7}]}`,
		"stable=1 ~2:7")
}

// TestAliases has those of the settings stand above those of the registry.
func TestAliases(t *testing.T) {
	v := newView()
	for _, r := range []store.Resource{
		{Key: store.Key{Kind: "Model", Name: "m"}, Spec: []byte(`{"aliases": {"a": "1"}}`),
			Status: []byte(`{"aliases": {"a": "2", "b": "3"}}`)},
		{Key: store.Key{Kind: "Model", Name: "n"}, Spec: []byte(`{}`)},
		{Key: store.Key{Kind: "Later", Name: "x"}, Spec: []byte(`{"unknown": true}`)},
	} {
		if err := v.put(r); err != nil {
			t.Fatal(err)
		}
	}
	want := route.Aliases{"m": {"a": "1", "b": "3"}}
	if got := v.aliases(); !reflect.DeepEqual(got, want) {
		t.Errorf("aliases are %v, want %v", got, want)
	}
	bad := store.Resource{Key: store.Key{Kind: "Model", Name: "m"}, Spec: []byte(`{"a": 1}`)}
	if err := v.put(bad); err == nil {
		t.Error("a spec that cannot be read is taken")
	}
}
