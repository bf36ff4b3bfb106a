package control

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/syncer"
	"github.com/millrace-ml/millrace/registry/mlflow"
	"github.com/millrace-ml/millrace/registry/source"
)

// follow is a source that is asked for news again and again.
type follow struct {
	name   string
	spec   config.Source
	origin source.Source      // that the spec names; nil until it is open. Guarded by Plane.mu.
	source source.Source      // origin, or what converts its models. The loop's own.
	sender sync.WaitGroup     // of records to a registry. The loop's own.
	asked  chan chan<- error  // for a look at once, by who wants to know how it went
	news   chan struct{}      // has room for one: something has changed
	cancel context.CancelFunc // ends the loop
	done   chan struct{}      // closed when it has ended
}

// follow starts and ends the loops of sources as the view has them. It does not wait for them:
// they may wait for mu, which callers hold.
func (p *Plane) follow() {
	if p.ctx.Err() != nil {
		return
	}
	for name, f := range p.followers {
		if s := p.view.sources[name]; s == nil || !reflect.DeepEqual(s.spec, f.spec) {
			f.cancel()
			delete(p.followers, name)
		}
	}
	for name, s := range p.view.sources {
		if p.followers[name] != nil {
			continue
		}
		f := &follow{name: name, spec: s.spec, asked: make(chan chan<- error),
			news: make(chan struct{}, 1), done: make(chan struct{})}
		ctx, cancel := context.WithCancel(p.ctx)
		f.cancel = cancel
		before := p.ended[name]
		p.followers[name], p.ended[name] = f, f.done
		p.spawn(func() {
			defer close(f.done)
			if before != nil {
				<-before // both have the same folders
			}
			p.followSource(ctx, f)
		})
	}
}

// openFollowed makes the source of a loop, which may take a while.
func (p *Plane) openFollowed(ctx context.Context, f *follow) error {
	origin, err := p.openSource(&f.spec)
	if err != nil {
		return err
	}
	f.source = origin
	if f.spec.Convert != nil {
		if f.source, err = p.converter(f, origin); err != nil {
			f.source = nil
			return errors.Join(err, origin.Close())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f.origin = origin
	if to, ok := origin.(*source.MLflow); ok {
		f.sender.Go(func() { p.sendRecords(ctx, f, to) })
	}
	return nil
}

// sendRecords sends what waits in the outbox of a registry of MLflow until ctx is done.
func (p *Plane) sendRecords(ctx context.Context, f *follow, to *source.MLflow) {
	p.mu.Lock()
	box, err := p.openOutbox(outboxOf(f.name))
	p.complain("the outbox of a source cannot be opened", err, "source", f.name)
	p.mu.Unlock()
	if err == nil {
		box.Run(ctx, to.Client())
	}
}

// openSource makes the source of a spec.
func (p *Plane) openSource(s *config.Source) (source.Source, error) {
	access := source.DefaultAccess()
	a := s.Access
	access.Allow, access.CAFile = a.Allow, a.CAFile
	access.Username, access.PasswordFile, access.PasswordEnv = a.Username, a.PasswordFile,
		a.PasswordEnv
	access.TokenFile, access.TokenEnv = a.TokenFile, a.TokenEnv
	own := func(text string) source.Access { // the source's own host may be asked
		access.Allow = append(hostOf(text), access.Allow...)
		return access
	}
	switch {
	case s.MLflow != nil:
		return source.NewMLflow(source.MLflowConfig{URI: s.MLflow.URI, Access: own(s.MLflow.URI),
			Artifacts: s.MLflow.Artifacts}, p.artifacts)
	case s.Folder != nil:
		return source.NewFolder(source.FolderConfig{Path: s.Folder.Path}, p.artifacts)
	case s.Blob != nil:
		return source.NewBlob(p.ctx, source.BlobConfig{URL: s.Blob.URL, Prefix: s.Blob.Prefix},
			p.artifacts)
	case s.HTTPS != nil:
		return source.NewHTTPS(source.HTTPSConfig{URL: s.HTTPS.URL, SHA256: s.HTTPS.SHA256,
			Access: own(s.HTTPS.URL)}, p.artifacts)
	case s.Git != nil:
		cfg := source.DefaultGitConfig()
		cfg.URL, cfg.Ref, cfg.Path = s.Git.URL, s.Git.Ref, s.Git.Path
		cfg.Dir = filepath.Join(p.cfg.Data, gitDir, s.Name)
		cfg.CAFile, cfg.Username, cfg.TokenFile = a.CAFile, a.Username, a.TokenFile
		cfg.TokenEnv, cfg.AllowFile = a.TokenEnv, true // who writes sources may read files
		return source.NewGit(cfg, p.artifacts)
	case s.OCI != nil:
		cfg := source.DefaultOCIConfig()
		cfg.Reference, cfg.PlainHTTP = s.OCI.Repository, s.OCI.PlainHTTP
		cfg.Access = own("https://" + s.OCI.Repository)
		return source.NewOCI(cfg, p.artifacts)
	case s.Push:
		return &inbox{p}, nil
	}
	return nil, fmt.Errorf("source %q has no kind that can be opened", s.Name)
}

// look makes the source be looked at soon.
func (f *follow) look() {
	select {
	case f.news <- struct{}{}:
	default: // it will be
	}
}

// converter is the source of what a converter makes of an origin's models.
func (p *Plane) converter(f *follow, origin source.Source) (source.Source, error) {
	raw, ok := origin.(syncer.Raw)
	if !ok {
		return nil, fmt.Errorf("source %q has nothing to convert: only MLflow says what library "+
			"a model is of", f.name)
	}
	c := f.spec.Convert
	cfg := syncer.DefaultConverterConfig()
	cfg.Command, cfg.Dir = c.Command, filepath.Join(p.cfg.Data, convertDir, f.name)
	if c.Timeout > 0 {
		cfg.Timeout = c.Timeout
	}
	if c.Memory > 0 {
		cfg.Memory = int64(c.Memory)
	}
	return syncer.NewConverter(cfg, raw, p.artifacts)
}

// followSource looks at a source at once, each poll, and when it is asked to.
func (p *Plane) followSource(ctx context.Context, f *follow) {
	defer func() {
		f.sender.Wait()
		if f.origin == nil {
			return
		}
		if err := f.origin.Close(); err != nil {
			p.log.Warn("a source was not closed", "source", f.name, "error", err)
		}
	}()
	poll := f.spec.PollInterval()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var answer chan<- error
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-f.news:
		case answer = <-f.asked:
		}
		err := p.syncSource(ctx, f)
		if answer != nil {
			answer <- err // has room
		}
		timer.Reset(poll)
	}
}

// syncSource looks at a source once and takes over what it finds.
func (p *Plane) syncSource(ctx context.Context, f *follow) error {
	if f.source == nil {
		if err := p.openFollowed(ctx, f); err != nil {
			return p.takeStatuses(f, nil, err)
		}
	}
	p.syncs.RLock() // no model is removed meanwhile
	defer p.syncs.RUnlock()
	models := p.toSync(f)
	if len(models) == 0 {
		return nil
	}
	statuses := p.syncer.Sync(ctx, f.source, models)
	p.synced(f, models)
	if ctx.Err() != nil {
		return fmt.Errorf("%w: source %q has just changed; ask again", store.ErrConflict, f.name)
	}
	return p.takeStatuses(f, statuses, nil)
}

// toSync lists what is wanted of the models of a source. Those that another source is still asked
// for come when that is over.
func (p *Plane) toSync(f *follow) []syncer.Model {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := p.view.wanted(time.Now())
	var models []syncer.Model
	for _, m := range sorted(p.view.models) {
		if m.spec.Source != f.name || p.syncing[m.Name] {
			continue
		}
		latest := 0
		if m.spec.Version.Latest != nil {
			latest = *m.spec.Version.Latest
		}
		p.syncing[m.Name] = true
		models = append(models, syncer.Model{Name: m.Name, At: registered(&m.spec), Latest: latest,
			Wanted: append(wanted[m.Name], m.spec.Version.Specific...), Status: m.status})
	}
	return models
}

// registered is a model's name at its source.
func registered(m *config.Model) string { return cmp.Or(m.Registered, m.Name) }

// synced ends what toSync began. Where a model has another source now, that is asked.
func (p *Plane) synced(f *follow, models []syncer.Model) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range models {
		delete(p.syncing, m.Name)
		if now := p.followerOf(m.Name); now != nil && now != f {
			now.look()
		}
	}
}

// followerOf returns who follows the source of a model, nil where nobody does. Callers hold mu.
func (p *Plane) followerOf(model string) *follow {
	m := p.view.models[model]
	if m == nil {
		return nil
	}
	return p.followers[m.spec.Source]
}

// takeStatuses stores what has changed and puts it in force. fault is why there is nothing to be
// taken.
func (p *Plane) takeStatuses(f *follow, statuses map[string]syncer.Status, fault error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	txn := store.Txn{By: store.Author{Who: "sync", From: f.name}}
	for _, name := range slices.Sorted(maps.Keys(statuses)) {
		m, status := p.view.models[name], statuses[name]
		if m == nil || m.spec.Source != f.name {
			continue // it has left meanwhile
		}
		if status.Error != "" && fault == nil {
			fault = errors.New(status.Error) // a source that is down fails for each model alike
		}
		before := m.status
		before.Looked, status.Looked = time.Time{}, time.Time{}
		if r := m.with(status); !bytes.Equal(encode(before), r.Status) {
			txn.Put = append(txn.Put, r)
		}
	}
	p.noteFault(&txn, f.name, fault)
	if len(txn.Put) == 0 {
		return fault
	}
	err := p.commit(p.ctx, txn)
	p.complain("what a source has cannot be kept; it is asked again", err, "source", f.name)
	if err != nil {
		return fmt.Errorf("cannot keep what source %q has: %w", f.name, err)
	}
	p.changed()
	return fault
}

// noteFault adds a change of the status of a source to a transaction, if it is one.
func (p *Plane) noteFault(txn *store.Txn, name string, fault error) {
	s := p.view.sources[name]
	if s == nil {
		return
	}
	text := ""
	if fault != nil {
		text = fault.Error()
	}
	if text == s.status.Error {
		return
	}
	if text != "" {
		p.log.Warn("a source cannot be asked; what is known stays", "source", name, "error", text)
	} else {
		p.log.Info("a source answers again", "source", name)
	}
	txn.Put = append(txn.Put, s.with(SourceStatus{Error: text}))
}

// Sync looks at a source now and returns when that is over.
func (p *Plane) Sync(ctx context.Context, name string) error {
	p.mu.Lock()
	err := p.ensure(ctx)
	f := p.followers[name]
	p.mu.Unlock()
	switch {
	case err != nil:
		return err
	case f == nil:
		return fmt.Errorf("%w: source %q", store.ErrNotFound, name)
	}
	answer := make(chan error, 1)
	select {
	case f.asked <- answer:
	case <-f.done:
		return fmt.Errorf("%w: source %q has just changed; ask again", store.ErrConflict, name)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Webhook takes news from a registry of MLflow: it looks at the source at once, since what a
// webhook says may be late or out of order.
func (p *Plane) Webhook(_ context.Context, name string, h http.Header, body []byte) error {
	p.mu.Lock()
	f := p.followers[name]
	p.mu.Unlock()
	if f == nil || f.spec.MLflow == nil || f.spec.MLflow.WebhookSecretEnv == "" {
		return fmt.Errorf("%w: source %q takes no webhooks; see webhook_secret_env",
			store.ErrNotFound, name)
	}
	secret := os.Getenv(f.spec.MLflow.WebhookSecretEnv)
	if secret == "" {
		return fmt.Errorf("%w: the environment variable %s has no secret", mlflow.ErrWebhook,
			f.spec.MLflow.WebhookSecretEnv)
	}
	if err := mlflow.VerifyWebhook(secret, h, body, time.Now()); err != nil {
		return err
	}
	f.look()
	return nil
}
