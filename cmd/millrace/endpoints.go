package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/gateway"
	answers "github.com/millrace-ml/millrace/gateway/cache"
	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/shadow"
	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/model"
)

// endpoints is what endpoints need beside the models. It is the data plane as the control plane
// sees it.
type endpoints struct {
	cfg      *config.Config // of the start
	core     *gateway.Core
	models   *model.Repository
	log      *slog.Logger
	ledger   *feedback.Ledger // nil before the first endpoint
	sinks    []*tap.Sink
	seen     *tap.Sink // of monitors
	written  written
	monitors *monitors
	stop     chan struct{} // closed to end follow and configure
	wait     sync.WaitGroup

	settings chan []config.Model // the latest that wait to be taken over
	tables   chan published      // the latest that wait to be kept
	kept     bool                // the first ones are
	faults   string              // of the last table: what it names that cannot serve
}

// Files in the data folder.
const (
	tableFile  = "endpoints.json" // the endpoints last in force
	ledgerFile = "feedback.db"
	uploadDir  = "uploads" // of versions that are being pushed
)

// openEndpoints starts the taps.
func openEndpoints(s *server) (*endpoints, error) {
	e := &endpoints{cfg: &s.cfg, core: s.core, models: s.models, log: s.log,
		stop: make(chan struct{}), settings: make(chan []config.Model, 1),
		tables: make(chan published, 1)}
	if err := s.core.SetCaches(cacheConfigs(s.cfg.Models)); err != nil {
		return nil, err
	}
	taps, err := e.openTaps(s.cfg.Taps)
	if err != nil {
		return nil, err
	}
	e.monitors = new(monitors)
	s.core.SetTaps(append(taps, e.openMonitors()))
	e.wait.Go(e.follow)
	e.wait.Go(e.configure)
	e.wait.Go(e.keep)
	return e, nil
}

// Publish puts endpoints in force, and keeps them on disk.
func (e *endpoints) Publish(specs []route.Spec, aliases route.Aliases) error {
	table, err := route.Update(e.core.Table(), specs, aliases)
	if err != nil {
		return err
	}
	if len(specs) > 0 && e.ledger == nil {
		if err := e.openLedger(e.cfg.Server.Feedback); err != nil {
			return err
		}
	}
	e.core.SetTable(table)
	e.reweigh(time.Now())
	e.check()
	if t := (published{specs, aliases}); e.kept {
		latest(e.tables, t)
	} else {
		e.kept = true
		e.save(t)
	}
	return nil
}

// published is what was put in force.
type published struct {
	specs   []route.Spec
	aliases route.Aliases
}

// latest puts a value into a channel with room for one, in the place of an older one. There is
// one caller at a time.
func latest[T any](to chan T, value T) {
	select {
	case <-to:
	default:
	}
	to <- value
}

// keep saves what was published, the latest only, until tables is closed. It is for a start
// without the control plane, whose store has it first: only the start of the server waits for it.
func (e *endpoints) keep() {
	for t := range e.tables {
		e.save(t)
		select { // of many changes not each is worth it
		case <-time.After(keepInterval):
		case <-e.stop:
		}
	}
}

func (e *endpoints) save(t published) {
	path := filepath.Join(e.cfg.Server.Data, tableFile)
	if _, err := os.Stat(path); len(t.specs) == 0 && errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err := route.Save(path, t.specs, t.aliases); err != nil {
		e.log.Error("cannot keep the endpoints for a restart; they serve", "error", err)
	}
}

// keepInterval is the least time between two saves of the endpoints.
const keepInterval = time.Second

// check says what endpoints name that cannot serve, when that has changed.
func (e *endpoints) check() {
	faults := ""
	if err := e.core.CheckTable(); err != nil {
		faults = err.Error()
	}
	if faults != "" && faults != e.faults {
		e.log.Warn("some of what endpoints name cannot serve; in its place the stable version does",
			"error", faults)
	}
	e.faults = faults
}

// publishKept puts the endpoints in force that were so last.
func (e *endpoints) publishKept() error {
	specs, aliases, err := route.Load(filepath.Join(e.cfg.Server.Data, tableFile))
	if err != nil {
		return err
	}
	return e.Publish(specs, aliases)
}

// Configure has the settings of models taken over soon: loading them again may take long.
func (e *endpoints) Configure(models []config.Model) error {
	if err := e.core.SetCaches(cacheConfigs(models)); err != nil {
		return err
	}
	latest(e.settings, models)
	return nil
}

// configure takes over the settings of models until stop is closed.
func (e *endpoints) configure() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-e.stop:
			return
		case models := <-e.settings:
			e.models.Configure(ctx, modelSettings(models))
		}
	}
}

// Observe returns what was counted of a rollout of an endpoint, and of its arms.
func (e *endpoints) Observe(endpoint, rollout string) control.Observed {
	o := control.Observed{Arms: func() []control.ArmCount { return e.armCounts(endpoint) }}
	if rollout == "" {
		return o // the rewards of one that is under way are for whoever asks for it
	}
	if t, ok := e.core.Trial(endpoint); ok && t.ID == rollout {
		o.Counts, o.Rewards = t.Counts, t.Rewards
	}
	if s, ok := e.core.ShadowReport(endpoint, route.CanaryArm); ok {
		o.Shadow.Compared, o.Shadow.Disagreed = s.Compared, s.Compared-s.Agreed
		o.Shadow.Failed = s.Failed
		o.Examples = func() json.RawMessage {
			return exampleText(e.core.ShadowExamples(endpoint, route.CanaryArm))
		}
	}
	return o
}

func (e *endpoints) armCounts(endpoint string) []control.ArmCount {
	var all []control.ArmCount
	for _, c := range e.core.ArmCounts(endpoint) {
		all = append(all, control.ArmCount{Name: c.Name, Version: c.Version, Weight: c.Weight,
			Requests: c.Requests, Rewards: uint64(c.Rewards.N), Reward: c.Rewards.Reward})
	}
	return all
}

// maxExampleText bounds the examples that are kept of a rollout, in bytes.
const maxExampleText = 32 << 10

// exampleText writes as many of a shadow's examples as there is room for.
func exampleText(worst []shadow.Example) json.RawMessage {
	for n := len(worst); n > 0; n-- {
		text, err := json.Marshal(worst[:n])
		if err == nil && len(text) <= maxExampleText {
			return text
		}
	}
	return nil
}

func (e *endpoints) openLedger(c config.Feedback) error {
	if err := os.MkdirAll(e.cfg.Server.Data, 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of server.data: %w", err)
	}
	cfg := feedback.Config{Path: filepath.Join(e.cfg.Server.Data, ledgerFile), TTL: c.Window,
		Capacity: c.Requests}
	ledger, err := feedback.Open(cfg)
	if err != nil {
		return err
	}
	e.ledger = ledger
	e.core.SetLedger(ledger)
	return nil
}

// follow lets rewards move the weights of bandits until stop is closed.
func (e *endpoints) follow() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	due := make(map[string]time.Time)
	for {
		select {
		case <-e.stop:
			return
		case now := <-ticker.C:
			for _, at := range e.core.Table().Endpoints() {
				if b := at.Bandit; b != nil && now.Sub(due[at.Name]) >= b.Interval {
					due[at.Name] = now
					e.weigh(at, now)
				}
			}
		}
	}
}

// reweigh gives all bandits the weights that follow from the rewards so far.
func (e *endpoints) reweigh(now time.Time) {
	for _, at := range e.core.Table().Endpoints() {
		if at.Bandit != nil {
			e.weigh(at, now)
		}
	}
}

func (e *endpoints) weigh(at *route.Endpoint, now time.Time) {
	evidence := e.core.Evidence(at, now)
	rewards := 0.0
	for _, k := range evidence {
		rewards += k.N
	}
	if rewards == 0 {
		return // the weights of the settings are where it begins
	}
	rng := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	e.core.SetWeights(at.Name, at.Bandit.Weights(evidence, rng))
}

// close writes what waits to be written. No request may be under way.
func (e *endpoints) close(ctx context.Context) error {
	close(e.stop)
	close(e.tables)
	e.wait.Wait()
	e.core.Close(ctx)
	var faults []error
	for _, s := range append(e.sinks, e.seen) {
		faults = append(faults, s.Close(ctx))
	}
	if e.ledger != nil {
		faults = append(faults, e.ledger.Close())
	}
	return errors.Join(faults...)
}

// cacheConfigs is the part of the settings that keeps answers.
func cacheConfigs(models []config.Model) map[string]answers.Config {
	all := make(map[string]answers.Config)
	for i := range models {
		if k := models[i].Cache; k != nil {
			all[models[i].Name] = answers.Config{MaxBytes: int64(k.MaxBytes), TTL: k.TTL}
		}
	}
	return all
}

// openTaps starts the sinks of the taps.
func (e *endpoints) openTaps(taps []config.Tap) ([]gateway.Tap, error) {
	var list []gateway.Tap
	for i := range taps {
		t := &taps[i]
		w, flush, err := e.writer(t)
		if err != nil {
			return nil, fmt.Errorf("cannot open tap %q: %w", t.Name, err)
		}
		cfg := tap.SinkConfig{Queue: t.Queue, Flush: flush, Redact: t.Redact}
		sink := tap.NewSink(cfg, w, e.log.With("tap", t.Name))
		e.sinks = append(e.sinks, sink)
		percent := 100.0
		if t.Percent != nil {
			percent = *t.Percent
		}
		list = append(list, gateway.Tap{Name: t.Name, Sink: sink, Endpoints: t.Endpoints,
			Percent: percent})
	}
	return list, nil
}

// writer is what a tap writes to, and how often that is made safe.
func (e *endpoints) writer(t *config.Tap) (tap.Writer, time.Duration, error) {
	if k := t.CloudEvents; k != nil {
		w, err := tap.NewEvents(tap.EventsConfig{URL: k.URL, Timeout: k.Timeout,
			Source: k.Source, Namespace: k.Namespace})
		return w, 0, err
	}
	f := t.Files
	cfg := tap.FilesConfig{Path: f.Path, Format: f.Format, RotateBytes: int64(f.RotateBytes),
		RotateAge: f.RotateAge, KeepBytes: int64(f.KeepBytes), KeepAge: f.KeepAge}
	files, err := tap.NewFiles(cfg, e.log.With("tap", t.Name))
	w := &counting{Writer: files, tap: t.Name, to: &e.written}
	flush := f.Flush
	if flush == 0 {
		flush = tap.DefaultFlush(f.Format)
	}
	return w, flush, err
}
