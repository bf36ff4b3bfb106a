// Package apitest serves the control API in tests: over a real store on disk, with stand-ins
// for what rollouts, sources and uploads lead to elsewhere.
package apitest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/incoming"
	"github.com/millrace-ml/millrace/registry/mlflow"
)

// Plane is a control plane that keeps resources and writes down what else it is told.
type Plane struct {
	API  *api.API
	Bolt *store.Bolt
	URL  string // of the server
	Dir  string // of the store and the uploads

	mu     sync.Mutex
	down   bool
	told   []string
	pushed map[string]string // content by MODEL/VERSION/PATH
}

// Serve starts a server of the API. It ends with the test.
func Serve(t *testing.T, change func(*api.Config)) *Plane {
	t.Helper()
	p := &Plane{Dir: t.TempDir(), pushed: make(map[string]string)}
	cfg := store.DefaultConfig()
	cfg.Path = filepath.Join(p.Dir, "control.db")
	var err error
	if p.Bolt, err = store.Open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Bolt.Close() })
	ac := api.DefaultConfig()
	ac.UploadDir = filepath.Join(p.Dir, "uploads")
	if change != nil {
		change(&ac)
	}
	a, err := api.New(ac, api.Deps{Resources: p, Rollouts: p, Sources: p, Uploads: p,
		Monitors: p, Triggers: p, Hooks: p,
		Backup: p.Bolt.Backup, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p.API = a
	server := httptest.NewUnstartedServer(a)
	server.Config.ReadTimeout = time.Minute // as the admin port has it
	server.Start()
	t.Cleanup(func() { a.Close(); server.Close() })
	p.URL = server.URL
	return p
}

// SetDown takes the store away, or gives it back.
func (p *Plane) SetDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// Told returns what rollouts, sources and uploads were told.
func (p *Plane) Told() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told
}

// Pushed returns the content of a pushed file, MODEL/VERSION/PATH.
func (p *Plane) Pushed(file string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pushed[file]
}

// Store returns the store.
func (p *Plane) Store() (store.Store, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, fmt.Errorf("%w: a test has taken it away", control.ErrDown)
	}
	return p.Bolt, nil
}

// Apply changes resources.
func (p *Plane) Apply(ctx context.Context, c control.Change) ([]control.Effect, error) {
	if _, err := p.Store(); err != nil {
		return nil, err
	}
	next, there, err := p.next(ctx, c)
	if err != nil {
		return nil, err
	}
	txn := store.Txn{By: c.By}
	for key, revision := range c.Revisions {
		txn.Compare = append(txn.Compare, store.Compare{Key: key, Revision: revision})
		if c.DryRun && there[key].Revision != revision {
			return nil, &store.ConflictError{Key: key, Want: revision, Present: there[key].Revision}
		}
	}
	put := make(map[store.Key]bool)
	for _, r := range c.Put {
		put[store.Key{Kind: r.Kind, Name: r.Name}] = true
	}
	var effects []control.Effect
	for _, r := range next.Resources() {
		key := store.Key{Kind: r.Kind, Name: r.Name}
		old, was := there[key]
		e := control.Effect{Key: key, Action: "created", Old: old.Spec, New: r.Spec}
		switch {
		case !put[key]:
			continue
		case was && old.Owner == control.OwnerFile && !c.TakeOver:
			return nil, fmt.Errorf("%w: %s", control.ErrOwned, key)
		case was && bytes.Equal(old.Spec, r.Spec):
			e.Action, e.Revision = "unchanged", old.Revision
		case was:
			e.Action = "changed"
		}
		effects = append(effects, e)
		if e.Action != "unchanged" {
			txn.Put = append(txn.Put, store.Resource{Key: key, Owner: control.OwnerAPI,
				Spec: r.Spec, Status: old.Status})
		}
	}
	for _, key := range c.Delete {
		effects = append(effects, control.Effect{Key: key, Action: "deleted", Old: there[key].Spec})
	}
	txn.Delete = c.Delete
	if c.DryRun {
		return effects, nil
	}
	if _, err := p.Bolt.Txn(ctx, txn); err != nil {
		return nil, err
	}
	for i := range effects {
		r, _ := p.Bolt.Get(ctx, effects[i].Key)
		effects[i].Revision = r.Revision
	}
	return effects, nil
}

// next returns the settings after a change, and the resources before it.
func (p *Plane) next(ctx context.Context, c control.Change) (config.Config,
	map[store.Key]store.Resource, error) {
	next, there := config.Default(), make(map[store.Key]store.Resource)
	list, _, err := p.Bolt.List(ctx, "")
	if err != nil {
		return next, nil, err
	}
	for _, r := range list {
		there[r.Key] = r
		if r.Kind == control.KindRollout || r.Kind == control.KindRun {
			continue
		}
		if err := next.Add(config.Resource{Kind: r.Kind, Name: r.Name, Spec: r.Spec}); err != nil {
			return next, nil, err
		}
	}
	for _, key := range c.Delete {
		if !next.Remove(key.Kind, key.Name) {
			return next, nil, fmt.Errorf("%w: %s", store.ErrNotFound, key)
		}
	}
	for _, r := range c.Put {
		if err := next.Add(r); err != nil {
			return next, nil, err
		}
	}
	return next, there, next.Named(next.Validate())
}

func (p *Plane) tell(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, fmt.Sprintf(format, args...))
}

// Command writes the command down. An endpoint that is called done has nothing to do.
func (p *Plane) Command(_ context.Context, endpoint, command string, by store.Author) (string,
	error) {
	if endpoint == "done" {
		return "", fmt.Errorf("cannot %s: %w; it is done", command, rollout.ErrNotNow)
	}
	p.tell("%s %s by %s", command, endpoint, by.Who)
	return "the rollout of " + endpoint + " is told to " + command, nil
}

// errBroken is what a source that is called broken says.
var errBroken = errors.New("apitest: the source answers HTML")

// Sync writes down that a source was looked at.
func (p *Plane) Sync(_ context.Context, source string) error {
	if source == "broken" {
		return errBroken
	}
	p.tell("sync %s", source)
	return nil
}

// Webhook writes down what a source has sent. What is forged is refused.
func (p *Plane) Webhook(_ context.Context, source string, h http.Header, body []byte) error {
	if string(body) == "forged" {
		return mlflow.ErrWebhook
	}
	p.tell("webhook %s %s %s", source, h.Get("X-Event"), body)
	return nil
}

// Push keeps the files.
func (p *Plane) Push(_ context.Context, push control.Push) (string, error) {
	version := cmp.Or(push.Version, "1")
	for _, f := range push.Files {
		r, err := f.Open()
		if err != nil {
			return "", err
		}
		text, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return "", err
		}
		p.mu.Lock()
		p.pushed[push.Model+"/"+version+"/"+f.Path] = string(text)
		p.mu.Unlock()
	}
	p.tell("push %s %s %v by %s", push.Model, version, push.Aliases, push.By.Who)
	return version, nil
}

// Trigger writes the command down. A trigger that is called busy has nothing to start.
func (p *Plane) Trigger(_ context.Context, name, command string, s control.Start) (string, error) {
	if name == "busy" {
		return "", fmt.Errorf("cannot %s: %w; a run has not ended", command, control.ErrNotNow)
	}
	p.tell("%s %s %s%v by %s", command, name, s.ID, s.Parameters, s.By.Who)
	return name + " is told to " + command, nil
}

// Monitor writes the command down. A monitor that is called done has no alarm.
func (p *Plane) Monitor(_ context.Context, name, command string, by store.Author) (string, error) {
	if name == "done" {
		return "", fmt.Errorf("cannot %s: %w; it is done", command, monitor.ErrNotNow)
	}
	p.tell("%s %s by %s", command, name, by.Who)
	return name + " is told to " + command, nil
}

// AddWindow writes the window down. A monitor that is called done has other settings.
func (p *Plane) AddWindow(name string, w *control.ReplicaWindow) error {
	if name == "done" {
		return fmt.Errorf("%w: it is done", control.ErrOtherMonitor)
	}
	p.tell("%s counts %d rows of %s, number %d", name, w.Rows, w.Replica, w.Sequence)
	return nil
}

// Run writes the command down. A run that is called done has ended.
func (p *Plane) Run(_ context.Context, id, command string, by store.Author) (string, error) {
	if id == "done" {
		return "", fmt.Errorf("cannot %s: %w; it is done", command, trigger.ErrNotNow)
	}
	p.tell("%s %s by %s", command, id, by.Who)
	return id + " is told to " + command, nil
}

// AlertHook writes down what came. What is forged is refused, and what is late meets a fault.
func (p *Plane) AlertHook(_ context.Context, _ http.Header, body []byte) (string, error) {
	switch string(body) {
	case "forged":
		return "", incoming.ErrNotAuthentic
	case "odd":
		return "", incoming.ErrMalformed
	case "late":
		return "", errBroken
	}
	p.tell("alert %s", body)
	return "it is taken", nil
}

// PushHook writes down what came for a trigger.
func (p *Plane) PushHook(ctx context.Context, name string, h http.Header, body []byte) (string,
	error) {
	if name == "none" {
		return "", store.ErrNotFound
	}
	p.tell("push for %s", name)
	return p.AlertHook(ctx, h, body)
}
