// Package control is the control plane: it keeps what people want and makes it so.
//
// A [Plane] has the resources in a store, brings versions of models from their sources, tries
// new versions on live traffic in rollouts, and publishes the endpoints that follow. Everything
// that it decides is in the store before it is done, so that it can be killed at any instant:
// what it finds there when it starts again is what it goes on from.
//
//   - [Plane.Apply] changes resources; the settings file goes the same way.
//   - control/config says what a resource may be, control/store keeps it.
//   - control/syncer fetches and loads versions, control/rollout decides about them.
//   - [Gateway] is the data plane, which goes on with what was published last when all of this
//     stands still.
//
// All methods may be called concurrently. One lock guards the decoded resources; it is held
// while a change is written and put in force, and never while a source, a hook or a registry is
// asked.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/experiment"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/syncer"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/route/trial"
	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/runtime/model"
)

// Files and folders below the data folder.
const (
	storeFile   = "control.db"
	artifactDir = "artifacts"
	ModelDir    = "models" // of versions that came from sources
	outboxDir   = "experiments"
	convertDir  = "convert" // of converters, for files in between
	gitDir      = "git"     // of repositories of Git, as far as they were fetched
)

// Gateway is the data plane as the control plane sees it.
type Gateway interface {
	// Publish puts endpoints in force, and keeps them for a start without a control plane.
	Publish(specs []route.Spec, aliases route.Aliases) error
	// Configure takes over the settings of models.
	Configure(models []config.Model) error
	// Observe returns what was counted of a rollout since the process began, and the rewards
	// since the call before. Without a rollout it is about the arms alone.
	Observe(endpoint, rollout string) Observed
}

// Observed is what the gateway has counted of a rollout.
type Observed struct {
	Counts  trial.Counts
	Rewards []trial.Reward
	Shadow  rollout.ShadowCounts
	// Examples returns copies that were answered otherwise, the worst first, as a list in JSON
	// of some kilobytes. It is nil where there are no copies, and good until the next Publish.
	Examples func() json.RawMessage
	// Arms returns what was counted of the endpoint's arms, rollout or not; nothing where there is
	// no such endpoint. It is nil where no arms are counted.
	Arms func() []ArmCount
}

// Config says where a Plane keeps what it knows.
type Config struct {
	Data string // folder
	File string // the settings file, for people
	Log  *slog.Logger
	// Admin is where the admin port listens, for links in alarms; empty for none.
	Admin string
	// Written returns how many samples of an endpoint's requests were written to files since the
	// process began; nil: none ever are.
	Written func(endpoint string) int
	// Scorers takes over who scores the answers of endpoints, by their names, in the place of all
	// those before; it does not change the map. nil: none are scored.
	Scorers func(map[string]*route.Scorer)

	manual bool              // a test looks and acts in the place of the loops
	step   func(what string) // a test wants to know what is about to be done, or just was
}

// Plane is the control plane. Close it after use.
type Plane struct {
	cfg     Config
	log     *slog.Logger
	gateway Gateway
	models  *model.Repository

	mu         sync.Mutex
	file       *config.Config  // Guarded by mu, as all below.
	store      *store.Bolt     // nil until there is something to keep, or somebody looks for it
	artifacts  *artifact.Store // nil as long as store is
	down       error           // why nothing runs; nil
	syncer     *syncer.Syncer
	view       view
	published  published
	configured bool                       // the gateway has the settings of models as they are
	behind     bool                       // what is published is not what follows from view
	untidy     bool                       // models may have left that are still here
	faults     map[string]time.Time       // when it was last said that something cannot be done
	runs       map[string]*run            // of rollouts under way, by name
	tests      map[string]*tested         // under way, by name
	followers  map[string]*follow         // of sources, by name
	ended      map[string]<-chan struct{} // closed when the last follower has ended, by source
	syncing    map[string]bool            // models that a source is asked for
	notices    map[address]*notices
	outboxes   map[string]*experiment.Outbox // by folder
	drivers    map[string]*driver            // of runs of triggers that have not ended, by ID
	pipelines  map[string]*opened            // by trigger
	ends       map[ending]float64            // of runs, since the process began
	tended     time.Time                     // when the triggers were looked at
	fresh      map[string]*fresh             // of triggers that wait for data, by name
	watches    map[string]*watch             // of monitors, by name
	opening    bool                          // of watches, in the background
	scorers    map[string]*route.Scorer      // that the gateway has, by endpoint

	watching atomic.Pointer[map[string][]*watch] // by endpoint

	syncs  sync.RWMutex    // read while models are synced, and held alone while some are removed
	ctx    context.Context // of all that runs in the background
	cancel context.CancelFunc
	wait   sync.WaitGroup
}

// published is what the gateway was given last, nothing at first.
type published struct {
	specs   []route.Spec
	aliases route.Aliases
}

// Open starts the control plane of a server with the settings of its file, which may be nil when
// they have faults: then what was in force last is. A server without sources and endpoints
// keeps nothing on disk until something is applied or the store is asked for.
func Open(cfg Config, gw Gateway, models *model.Repository, file *config.Config) (*Plane, error) {
	p := &Plane{cfg: cfg, log: cfg.Log, gateway: gw, models: models, view: newView(), file: file,
		faults: make(map[string]time.Time), runs: make(map[string]*run),
		tests:     make(map[string]*tested),
		followers: make(map[string]*follow), ended: make(map[string]<-chan struct{}),
		syncing: make(map[string]bool), notices: make(map[address]*notices),
		outboxes: make(map[string]*experiment.Outbox), watches: make(map[string]*watch),
		drivers: make(map[string]*driver), pipelines: make(map[string]*opened),
		ends: make(map[ending]float64), fresh: make(map[string]*fresh)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.start(p.ctx); err != nil {
		p.cancel()
		return nil, err
	}
	return p, nil
}

// start puts the settings file in force, without a store where there is none and nothing to keep.
// Callers hold mu.
func (p *Plane) start(ctx context.Context) error {
	_, err := os.Stat(filepath.Join(p.cfg.Data, storeFile))
	switch {
	case !errors.Is(err, fs.ErrNotExist) || p.down != nil:
		return p.ensure(ctx)
	case p.file == nil:
		return fmt.Errorf("%w: there are no settings without faults, and none were in force before",
			ErrDown)
	case len(p.file.Sources)+len(p.file.Endpoints)+len(p.file.Triggers) > 0:
		return p.ensure(ctx)
	}
	p.view, p.configured = newView(), false
	for _, r := range p.file.Resources() {
		if err := p.view.put(store.Resource{Key: store.Key{Kind: r.Kind, Name: r.Name},
			Spec: r.Spec, Owner: OwnerFile}); err != nil {
			return err
		}
	}
	return p.publish()
}

// Down returns a control plane that does not run, and says why to everybody.
func Down(cfg Config, why error) *Plane {
	p := &Plane{cfg: cfg, log: cfg.Log, view: newView(), down: why}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// ensure opens the store where it is not open yet, and puts the file's resources into it.
// Callers hold mu.
func (p *Plane) ensure(ctx context.Context) error {
	switch {
	case p.down != nil:
		return fmt.Errorf("%w: %w", ErrDown, p.down)
	case p.ctx.Err() != nil:
		return fmt.Errorf("%w: the server ends", ErrDown)
	case p.store != nil:
		return nil
	}
	err := p.open()
	if err == nil {
		err = p.load(ctx)
	}
	if err != nil {
		p.closeStores()
		return fmt.Errorf("%w: %w", ErrDown, err)
	}
	p.complain("files that were pushed in part stay", p.freePushed())
	p.untidy = true
	p.follow()
	p.driveAll()
	if !p.cfg.manual {
		p.spawn(p.watch)
		p.spawn(p.act)
		p.spawn(p.monitor)
		p.spawn(p.alert)
	}
	return nil
}

// load reads the store, takes over the settings file, and puts in force what follows. Where the
// file does not go with what others have applied since, that alone is in force.
func (p *Plane) load(ctx context.Context) error {
	p.view, p.configured = newView(), false
	list, _, err := p.store.List(ctx, "")
	for i := 0; err == nil && i < len(list); i++ {
		err = p.view.put(list[i])
	}
	if err == nil && p.file != nil {
		if err = p.applyFile(ctx, p.file); err != nil && len(list) > 0 {
			p.log.Error("the settings file cannot be taken over; what was in force stays",
				"file", p.cfg.File, "error", err)
			err = nil
		}
	}
	if err == nil {
		err = p.publish()
	}
	return err
}

// spawn runs something in the background, which Close waits for. Callers hold mu.
func (p *Plane) spawn(f func()) {
	if p.ctx.Err() == nil {
		p.wait.Go(f)
	}
}

// step tells a test where the plane is, so that it can see what a process that is killed there
// leaves.
func (p *Plane) step(what string) {
	if p.cfg.step != nil {
		p.cfg.step(what)
	}
}

func (p *Plane) open() error {
	if err := os.MkdirAll(filepath.Join(p.cfg.Data, ModelDir), 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of server.data: %w", err)
	}
	cfg := store.DefaultConfig()
	cfg.Path = filepath.Join(p.cfg.Data, storeFile)
	var err error
	if p.store, err = store.Open(cfg); err != nil {
		return err
	}
	kept := artifact.DefaultConfig()
	kept.Dir, kept.Logger = filepath.Join(p.cfg.Data, artifactDir), p.log
	if p.artifacts, err = artifact.Open(kept); err != nil {
		return err
	}
	p.syncer = syncer.New(syncer.Config{Dir: filepath.Join(p.cfg.Data, ModelDir),
		Store: p.artifacts, Models: p.models, Log: p.log, Prove: p.prove})
	return nil
}

func (p *Plane) closeStores() {
	if p.artifacts != nil {
		_ = p.artifacts.Close()
	}
	if p.store != nil {
		_ = p.store.Close()
	}
	p.store, p.artifacts = nil, nil
}

// Reload takes over the settings file after it has changed.
func (p *Plane) Reload(ctx context.Context, file *config.Config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.file = file
	if p.store == nil {
		return p.start(ctx)
	}
	return p.applyFile(ctx, file)
}

// Store returns the store, for reading; ErrDown where there is none.
func (p *Plane) Store() (store.Store, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ensure(p.ctx); err != nil {
		return nil, err
	}
	return p.store, nil
}

// publish puts in force what follows from the view, if it is not. Callers hold mu.
func (p *Plane) publish() error {
	var faults []error
	if !p.configured {
		err := p.gateway.Configure(p.view.settings())
		p.configured, faults = err == nil, append(faults, err)
	}
	specs, aliases := p.view.table()
	if p.published.aliases == nil || !equal(specs, p.published.specs) ||
		!maps.EqualFunc(aliases, p.published.aliases, maps.Equal) {
		p.noteTests()
		p.step("publish")
		if err := p.gateway.Publish(specs, aliases); err != nil {
			faults = append(faults, err)
		} else {
			p.published = published{specs, aliases}
		}
		p.step("published")
	}
	return errors.Join(faults...)
}

// changed puts in force what has changed, or has it tried again, and follows other sources.
// Callers hold mu.
func (p *Plane) changed() {
	err := p.publish()
	p.behind = err != nil
	p.complain("what was decided cannot be put in force yet; what was before is", err)
	p.follow()
	p.closePipelines()
}

// complaintInterval is how often it is said that the same thing still cannot be done.
const complaintInterval = time.Minute

// complain logs an error of something that is tried again and again; nil is that it was done.
// Callers hold mu.
func (p *Plane) complain(what string, err error, about ...any) {
	if err == nil && len(p.faults) == 0 {
		return
	}
	id := what + fmt.Sprint(about...)
	if err == nil {
		delete(p.faults, id)
		return
	}
	if p.ctx.Err() != nil {
		return // whoever closes the plane knows
	}
	if now := time.Now(); now.Sub(p.faults[id]) >= complaintInterval {
		p.faults[id] = now
		p.log.Error(what, append(slices.Clip(about), "error", err)...)
	}
}

// watchInterval is how often rollouts are looked at: what is hard evidence is to act within a
// second.
const watchInterval = 200 * time.Millisecond

// watch moves the rollouts on until the plane closes.
func (p *Plane) watch() { p.each(watchInterval, p.look) }

// each does something again and again until the plane closes.
func (p *Plane) each(interval time.Duration, f func(now time.Time)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-ticker.C:
			f(time.Now())
		}
	}
}

// Close stops everything; what is published stays in force. Rollouts go on at the next start.
func (p *Plane) Close() error {
	p.mu.Lock()
	p.cancel() // nothing is spawned any more
	p.mu.Unlock()
	p.wait.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.saveRuns()
	p.saveTests(time.Now())
	p.saveRows()
	for name := range p.pipelines {
		p.closePipeline(name)
	}
	p.saveMonitors(time.Now())
	p.closeNotices()
	var faults []error
	for _, box := range p.outboxes {
		faults = append(faults, box.Close())
	}
	if p.artifacts != nil {
		faults = append(faults, p.artifacts.Close())
	}
	if p.store != nil {
		faults = append(faults, p.store.Close())
	}
	return errors.Join(faults...)
}
