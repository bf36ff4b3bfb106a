package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/syncer"
	"github.com/millrace-ml/millrace/registry/mlflow"
)

// onDisk has the plane load what it brings: a repository that follows its folder of models.
func (b *bench) onDisk() {
	b.t.Helper()
	b.close()
	models, err := openModels(b.t.TempDir(), filepath.Join(b.cfg.Data, ModelDir))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := models.Close(ctx); err != nil {
			b.t.Error(err)
		}
	})
	b.gw = &fakeGateway{t: b.t, counted: make(map[string]Observed), asked: make(map[string]int)}
	file := config.Default()
	if b.Plane, err = Open(b.cfg, b.gw, models, &file); err != nil {
		b.t.Fatal(err)
	}
	b.gw.check(b.Plane)
}

// versions is how far those of model m have come, by name, and its aliases.
func (b *bench) versions() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.view.models["m"]
	if m == nil {
		return ""
	}
	var words []string
	for _, v := range m.status.Versions {
		words = append(words, v.Name+":"+string(v.State))
	}
	return strings.Join(words, " ") + fmt.Sprint(" ", m.status.Aliases)
}

// folders lists the versions in the folder of models.
func (b *bench) folders() string {
	paths, err := filepath.Glob(filepath.Join(b.cfg.Data, ModelDir, "*", "[0-9]*"))
	if err != nil {
		b.t.Error(err)
	}
	for i := range paths {
		paths[i], _ = filepath.Rel(filepath.Join(b.cfg.Data, ModelDir), paths[i])
	}
	return strings.Join(paths, " ")
}

// TestDelivery takes versions from pushes to traffic, with all parts but the gateway real, and the
// model out again.
func TestDelivery(t *testing.T) {
	b := open(t)
	b.onDisk()
	if err := b.deliver(); err != nil {
		t.Fatal(err)
	}
	b.serves("stable=2")
	if got, want := b.versions(), "2:Ready 1:Ready map[challenger:2 champion:2]"; got != want {
		t.Errorf("versions are %s, want %s", got, want)
	}
	if got := b.models.Versions("m"); len(got) != 2 {
		t.Errorf("loaded are %v", got)
	}
	b.tidy()
	b.put("Endpoint", "e", `{"model": "m", "stable": "2"}`)
	b.remove("Model", "m")
	b.tidy()
	if got := b.folders(); got != "m/1 m/2" || b.untidy { // an endpoint still names it
		t.Errorf("in the folder are %s", got)
	}
	b.remove("Endpoint", "e")
	b.tidy()
	if got := b.folders(); got != "" || len(b.models.Versions("m")) > 0 {
		t.Errorf("in the folder are %s, loaded are %v", got, b.models.Versions("m"))
	}
}

// TestSyncWritesNews stores what has changed at a source, and nothing where nothing has.
func TestSyncWritesNews(t *testing.T) {
	b := open(t)
	b.put("Source", "inbox", `{"push": true, "poll": "24h"}`, "Model", "m", `{"source": "inbox"}`)
	if err := b.push("1"); err != nil { // no alias: a map that is empty is one that is not there
		t.Fatal(err)
	}
	revision := func() uint64 {
		t.Helper()
		stats, err := b.store.Stats()
		if err != nil {
			t.Fatal(err)
		}
		return stats.Revision
	}
	before := revision()
	for range 3 {
		if err := b.Sync(t.Context(), "inbox"); err != nil {
			t.Fatal(err)
		}
	}
	if after := revision(); after != before {
		t.Errorf("looks without news make %d changes", after-before)
	}
	if err := b.Sync(t.Context(), "nobody"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a source that is not there is looked at: %v", err)
	}
}

// TestFixedVersion has an endpoint name a version that is not there yet: it is fetched at once.
func TestFixedVersion(t *testing.T) {
	b := open(t)
	b.put("Source", "inbox", `{"push": true, "poll": "24h"}`, "Model", "m", `{"source": "inbox"}`)
	for _, version := range []string{"1", "2", "3"} {
		if err := b.push(version); err != nil {
			t.Fatal(err)
		}
	}
	b.put("Endpoint", "e", fixed("1"))
	ready := func(version string) {
		t.Helper()
		b.eventually("version "+version+" is there", func() bool {
			return strings.Contains(b.versions(), version+":Ready")
		})
	}
	ready("1")
	b.put("Model", "m", `{"source": "inbox", "aliases": {"old": "2"}}`)
	ready("2")
}

// TestSourceChanges gives a source another place while its models serve, one that is not there
// at first.
func TestSourceChanges(t *testing.T) {
	b := open(t)
	dirs := t.TempDir()
	place := func(name, version string) string {
		dir := filepath.Join(dirs, name)
		path := filepath.Join(dir, "m", version, "model.onnx")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, onnx("wine", version[0]-'0'), 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	source := func(dir string) string { return fmt.Sprintf(`{"folder": {"path": %q}}`, dir) }
	b.put("Source", "s", source(place("a", "1")), "Model", "m", `{"source": "s"}`)
	ready := func(version string) {
		t.Helper()
		b.eventually("version "+version+" is ready", func() bool {
			_ = b.Sync(t.Context(), "s") // it waits for a second look that finds the same
			return strings.Contains(b.versions(), version+":Ready")
		})
	}
	ready("1")
	b.put("Source", "s", source(filepath.Join(dirs, "nowhere")))
	fault := func() string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.view.sources["s"].status.Error
	}
	b.eventually("the source cannot be opened", func() bool { return fault() != "" })
	if !strings.Contains(b.versions(), "1:Ready") {
		t.Errorf("what is known has gone: %s", b.versions())
	}
	if err := b.Sync(t.Context(), "s"); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("it is looked at with %v", err)
	}
	if n := b.log.count("a source cannot be asked"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	place("nowhere", "4") // a disk that was not there when the server started
	ready("4")
	b.put("Source", "t", source(place("b", "2")), "Model", "m", `{"source": "t"}`)
	b.remove("Source", "s")
	b.put("Source", "s", source(place("c", "3")), "Model", "m", `{"source": "s"}`)
	ready("3")
	b.eventually("the source has no fault", func() bool { return fault() == "" })
	if n := b.log.count("level=ERROR"); n != 0 {
		t.Errorf("errors are logged:\n%s", b.log.text.String())
	}
}

// TestSourceAway keeps actions for a source that cannot be opened.
func TestSourceAway(t *testing.T) {
	b := open(t)
	b.put("Source", "s", `{"folder": {"path": "/nowhere"}}`,
		"Model", "m", `{"source": "s", "aliases": {"champion": "1", "challenger": "2"}}`)
	b.endpoint(`, "then": {"alias": "champion"}`)
	b.look(0)
	b.pass(0)
	retries := b.actAll(nil)
	const want = "e/1 tags=2 waits, e/1 experiment, e/1 alias champion=2 waits"
	if got := b.actions(); got != want {
		t.Errorf("actions are %q, want %q", got, want)
	}
	if r := b.record(); !strings.Contains(r.Actions[0].Error, `source "s" is not open`) {
		t.Errorf("it failed with %q", r.Actions[0].Error)
	}
	again := b.actAll(retries)
	if len(again) != 2 || again["e/1/0"] != retries["e/1/0"] {
		t.Errorf("at once it is tried again: %v, was %v", again, retries)
	}
	b.put("Source", "s", `{"push": true}`)
	b.eventually("the source is open", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.followers["s"].origin != nil
	})
	b.act() // it has no such versions, which is the end of it
	if got := b.actions(); strings.Contains(got, "waits") {
		t.Errorf("actions are %q", got)
	}
}

func TestWebhook(t *testing.T) {
	b := open(t)
	b.put("Source", "inbox", `{"push": true}`, "Source", "registry", `{"mlflow":
		{"uri": "http://127.0.0.1:1", "webhook_secret_env": "TEST_WEBHOOK"}}`)
	f := func(name string, want error) {
		t.Helper()
		if err := b.Webhook(t.Context(), name, http.Header{}, []byte(`{}`)); !errors.Is(err, want) {
			t.Errorf("%s takes a webhook with %v, want %v", name, err, want)
		}
	}
	f("nobody", store.ErrNotFound)
	f("inbox", store.ErrNotFound)
	f("registry", mlflow.ErrWebhook) // there is no secret
	t.Setenv("TEST_WEBHOOK", "secret")
	f("registry", mlflow.ErrWebhook)
}

// TestShrink lets the oldest pushed versions go, but those that aliases name.
func TestShrink(t *testing.T) {
	s := pushed{Aliases: map[string]string{"first": "1"}}
	for range maxPushed + 3 {
		s.Versions = append(s.Versions, pushedVersion{Name: s.next()})
	}
	var names []string
	for _, v := range s.shrink() {
		names = append(names, v.Name)
	}
	if got := strings.Join(names, " "); got != "2 3 4" || len(s.Versions) != maxPushed ||
		s.find("1") != 0 || s.next() != "104" {
		t.Errorf("gone are %s, %d are left, next is %s", got, len(s.Versions), s.next())
	}
}

// TestStatusesOfOthers leaves models alone that have another source by now.
func TestStatusesOfOthers(t *testing.T) {
	b := open(t)
	b.put("Source", "a", `{"push": true}`, "Source", "b", `{"push": true}`,
		"Model", "m", `{"source": "b"}`)
	late := map[string]syncer.Status{"m": {Aliases: map[string]string{"champion": "9"}}, "gone": {}}
	if err := b.takeStatuses(&follow{name: "a"}, late, nil); err != nil {
		t.Error(err)
	}
	if got := b.view.models["m"].status.Aliases["champion"]; got != "" {
		t.Errorf("champion is %s", got)
	}
}
