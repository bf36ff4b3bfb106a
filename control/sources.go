package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
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
	origin source.Source      // that the spec names
	source source.Source      // origin, or what converts its models
	fault  error              // why there is no source; nil
	asked  chan chan<- error  // for a look at once, by who wants to know how it went
	news   chan struct{}      // has room for one: something has changed
	cancel context.CancelFunc // ends the loop
	done   chan struct{}      // closed when it has ended
}

// close ends the loop and the source.
func (f *follow) close() error {
	f.cancel()
	<-f.done
	if f.origin == nil {
		return nil
	}
	return f.origin.Close()
}

// follow starts and ends the loops of sources as the view has them. Callers hold mu; loops that
// end do so in the background, since they may wait for mu.
func (p *Plane) follow() {
	for name, f := range p.followers {
		if s := p.view.sources[name]; s == nil || !reflect.DeepEqual(s.spec, f.spec) {
			delete(p.followers, name)
			p.wait.Go(func() {
				if err := f.close(); err != nil {
					p.log.Warn("a source was not closed", "source", name, "error", err)
				}
			})
		}
	}
	for name, s := range p.view.sources {
		if p.followers[name] != nil || p.ctx.Err() != nil {
			continue
		}
		f := &follow{name: name, spec: s.spec, asked: make(chan chan<- error),
			news: make(chan struct{}, 1), done: make(chan struct{})}
		f.origin, f.fault = p.openSource(&s.spec)
		if f.source = f.origin; f.fault == nil && s.spec.Convert != nil {
			f.source, f.fault = p.converter(f)
		}
		ctx, cancel := context.WithCancel(p.ctx)
		f.cancel = cancel
		p.followers[name] = f
		p.wait.Go(func() {
			defer close(f.done)
			p.followSource(ctx, f)
		})
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
		if u, err := url.Parse(text); err == nil && u.Hostname() != "" {
			access.Allow = append([]string{u.Hostname()}, access.Allow...)
		}
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
func (p *Plane) converter(f *follow) (source.Source, error) {
	raw, ok := f.origin.(syncer.Raw)
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
	if f.fault != nil {
		return p.noteSource(f.name, f.fault)
	}
	p.mu.Lock()
	wanted := p.view.wanted(time.Now())
	var models []syncer.Model
	for _, m := range sorted(p.view.models) {
		if m.spec.Source != f.name {
			continue
		}
		at, latest := m.spec.Registered, 0
		if at == "" {
			at = m.Name
		}
		if m.spec.Version.Latest != nil {
			latest = *m.spec.Version.Latest
		}
		models = append(models, syncer.Model{Name: m.Name, At: at, Latest: latest,
			Wanted: append(wanted[m.Name], m.spec.Version.Specific...), Status: m.status})
	}
	p.mu.Unlock()
	if len(models) == 0 {
		return nil
	}
	statuses := p.syncer.Sync(ctx, f.source, models)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return p.takeStatuses(f, statuses)
}

// takeStatuses stores what has changed and puts it in force.
func (p *Plane) takeStatuses(f *follow, statuses map[string]syncer.Status) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	txn := store.Txn{By: store.Author{Who: "sync", From: f.name}}
	var faults []error
	for name, status := range statuses {
		m := p.view.models[name]
		if m == nil {
			continue // it was deleted meanwhile
		}
		if status.Error != "" {
			faults = append(faults, errors.New(status.Error))
		}
		before := m.status
		before.Looked, status.Looked = time.Time{}, time.Time{}
		if reflect.DeepEqual(before, status) {
			continue
		}
		r := m.Resource
		r.Status = encode(status)
		txn.Put = append(txn.Put, r)
	}
	var fault error
	if len(faults) > 0 {
		fault = faults[0] // a source that is down fails for each model alike
	}
	p.noteFault(&txn, f.name, fault)
	if len(txn.Put) == 0 {
		return fault
	}
	if err := p.commit(p.ctx, txn); err != nil {
		return fmt.Errorf("cannot keep what source %q has: %w", f.name, err)
	}
	p.changed()
	return fault
}

// noteSource keeps why a source cannot be asked.
func (p *Plane) noteSource(name string, fault error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	txn := store.Txn{By: store.Author{Who: "sync", From: name}}
	p.noteFault(&txn, name, fault)
	if len(txn.Put) == 0 {
		return fault
	}
	return errors.Join(fault, p.commit(p.ctx, txn))
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
	r := s.Resource
	r.Status = encode(SourceStatus{Error: text})
	txn.Put = append(txn.Put, r)
}

// encode writes a status.
func encode(status any) json.RawMessage {
	text, _ := json.Marshal(status) // of types of ours, which can be written
	return text
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
