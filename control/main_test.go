package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/route/trial"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// loaded has the versions 1 to 4 of model m, of which 5 has other inputs and 6 does not load, and
// version 1 of model n. All tests that need no others share it.
var loaded *model.Repository

// TestMain lets the test binary be the child that tries models.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "trial" {
		os.Exit(model.TrialMain(os.Stdin, os.Stdout))
	}
	dir, err := os.MkdirTemp("", "millrace-control-")
	status := 1
	if err == nil {
		err = writeModels(dir)
	}
	if err == nil {
		loaded, err = openModels(dir, "")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		status = m.Run()
		_ = loaded.Close(context.Background())
	}
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

func writeModels(dir string) error {
	var faults []error
	put := func(path string, content []byte) {
		path = filepath.Join(dir, path, "model.onnx")
		faults = append(faults, os.MkdirAll(filepath.Dir(path), 0o755),
			os.WriteFile(path, content, 0o644))
	}
	for n := byte(1); n <= 4; n++ {
		put("m/"+strconv.Itoa(int(n)), onnx("wine", n))
	}
	put("m/5", onnx("simple_string", 5))
	put("m/6", []byte("no model"))
	put("n/1", onnx("wine", 9))
	return errors.Join(faults...)
}

// onnx is the file of a sample model, with a number that tells it from others of its kind.
func onnx(name string, n byte) []byte {
	content, err := os.ReadFile("../configs/models/" + name + "/1/model.onnx")
	if err != nil {
		panic(err)
	}
	return append(content, 5<<3, n) // ModelProto.model_version; the last that is given holds
}

// openModels opens a repository of the models of a folder, and of those that are synced.
func openModels(dir, synced string) (*model.Repository, error) {
	found, err := ort.FindLibrary("")
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	rt, err := ort.Open(ort.Config{Library: found.Path, Logger: log, Level: slog.LevelError})
	if err != nil {
		return nil, err
	}
	all := true
	return model.Open(context.Background(), model.Options{Runtime: rt, Repositories: []string{dir},
		Synced: synced, Mode: model.ModeNone, Trial: model.DefaultTrialConfig(),
		Defaults: model.DefaultDefaults(), Logger: log,
		Models: map[string]model.Settings{"m": {All: &all}}})
}

// gateway is a data plane that serves nobody. It wants what is published to follow from what is
// stored.
type fakeGateway struct {
	t *testing.T

	mu        sync.Mutex
	plane     *Plane // nil until it is open. Guarded by mu, as all below.
	specs     []route.Spec
	aliases   route.Aliases
	models    []config.Model
	down      error // what Publish returns
	published int
	counted   map[string]Observed // by rollout
	arms      map[string]ArmCount // by endpoint, arm and version
	asked     map[string]int      // how often, by rollout
}

func (g *fakeGateway) Publish(specs []route.Spec, aliases route.Aliases) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down != nil {
		return g.down
	}
	if _, err := route.New(specs, aliases); err != nil {
		g.t.Errorf("what is published has faults: %v", err)
	}
	if g.plane != nil && g.plane.store != nil {
		want, with := stored(g.t, g.plane.store).table()
		if !reflect.DeepEqual(specs, want) || !reflect.DeepEqual(aliases, with) {
			g.t.Errorf("published is\n%+v %v\nstored\n%+v %v", specs, aliases, want, with)
		}
	}
	g.specs, g.aliases, g.published = specs, aliases, g.published+1
	return nil
}

// stored is what a store says.
func stored(t testing.TB, s store.Reader) *view {
	t.Helper()
	v := newView()
	list, _, err := s.List(context.Background(), "")
	for i := 0; err == nil && i < len(list); i++ {
		err = v.put(list[i])
	}
	if err != nil {
		t.Error(err)
	}
	return &v
}

func (g *fakeGateway) Configure(models []config.Model) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.models = models
	return nil
}

// Observe hands out each reward once.
func (g *fakeGateway) Observe(endpoint, rollout string) Observed {
	g.mu.Lock()
	defer g.mu.Unlock()
	if rollout == "" {
		return Observed{Arms: func() []ArmCount { return g.armCounts(endpoint) }}
	}
	g.asked[rollout]++
	o := g.counted[rollout]
	o.Counts = o.Counts.Clone()
	kept := g.counted[rollout]
	kept.Rewards = nil
	g.counted[rollout] = kept
	return o
}

// spec returns the endpoint that is in force.
func (g *fakeGateway) spec(name string) route.Spec {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.specs {
		if s.Name == name {
			return s
		}
	}
	return route.Spec{}
}

// bench is a plane whose loops the test stands for, with a clock of its own.
type bench struct {
	*Plane
	t   *testing.T
	cfg Config
	gw  *fakeGateway
	now time.Time
	log *lines
}

// lines gathers what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// open starts a plane without a settings file's resources, in a folder of its own.
func open(t *testing.T) *bench {
	t.Helper()
	// Commands have the real clock. What rollouts here take, minutes, is over by then.
	b := &bench{t: t, now: time.Now().Add(-30 * time.Minute), log: new(lines),
		cfg: Config{Data: t.TempDir(), File: "millrace.yaml", manual: true}}
	b.cfg.Log = slog.New(slog.NewTextHandler(b.log, nil))
	b.start(config.Default())
	t.Cleanup(func() { b.close() })
	return b
}

// start opens the plane, with another gateway as after a restart.
func (b *bench) start(file config.Config) {
	b.t.Helper()
	b.gw = &fakeGateway{t: b.t, counted: make(map[string]Observed), asked: make(map[string]int)}
	p, err := Open(b.cfg, b.gw, loaded, &file)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Plane = p
	b.gw.check(p)
}

// check has what is published held against the plane's store from now on.
func (g *fakeGateway) check(p *Plane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.plane = p
}

// eventually waits for something that is done in the background.
func (b *bench) eventually(what string, f func() bool) {
	b.t.Helper()
	over := time.NewTimer(20 * time.Second)
	defer over.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !f() {
		select {
		case <-again.C:
		case <-over.C:
			b.t.Fatalf("it does not become so: %s\n%s", what, b.log.text.String())
		}
	}
}

func (b *bench) close() {
	b.t.Helper()
	if err := b.Plane.Close(); err != nil {
		b.t.Error(err)
	}
}

// restart ends the plane and starts it again with what is stored alone.
func (b *bench) restart() {
	b.t.Helper()
	b.close()
	b.start(config.Default())
}

// parse reads a settings file.
func parse(t testing.TB, text string) config.Config {
	t.Helper()
	c, err := config.Parse("millrace.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ana makes changes.
var ana = store.Author{Who: "ana", From: "test"}

// texts makes a change of resources: a kind, a name and a spec each.
func texts(all ...string) Change {
	c := Change{By: ana}
	for one := range slices.Chunk(all, 3) {
		c.Put = append(c.Put, config.Resource{Kind: one[0], Name: one[1], Spec: []byte(one[2])})
	}
	return c
}

// put applies resources, which has to succeed.
func (b *bench) put(all ...string) {
	b.t.Helper()
	if _, err := b.Apply(b.t.Context(), texts(all...)); err != nil {
		b.t.Fatal(err)
	}
}

// remove deletes a resource.
func (b *bench) remove(kind, name string) {
	b.t.Helper()
	c := Change{Delete: []store.Key{{Kind: kind, Name: name}}, By: ana}
	if _, err := b.Apply(b.t.Context(), c); err != nil {
		b.t.Fatal(err)
	}
}

// aliases moves the aliases of model m in the settings.
func (b *bench) aliases(champion, challenger string) {
	b.t.Helper()
	b.put("Model", "m", fmt.Sprintf(`{"aliases": {"champion": %q, "challenger": %q}}`, champion,
		challenger))
}

// endpoint is one whose champion is held against the challenger, with more keys of its canary.
func (b *bench) endpoint(more string) {
	b.t.Helper()
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion", "canary": {"watch": "@challenger",
		"steps": [10, 50], "guards": [{"metric": "errors"}]`+more+`}}`)
}

// look looks after some time.
func (b *bench) look(after time.Duration) {
	b.now = b.now.Add(after)
	b.Plane.look(b.now)
}

// act does what waits to be done, whose pauses are over.
func (b *bench) act() {
	b.actAll(nil)
	b.recordTests(b.now)
}

// traffic counts requests at the weight in force, of which so many failed at the canary.
func (b *bench) traffic(n, errors uint64) {
	s := b.gw.spec("e")
	i := s.Canary()
	if i < 1 {
		return
	}
	rho := float64(s.Arms[i].Weight) / route.FullWeight
	canary := uint64(math.Round(float64(n) * rho))
	b.gw.mu.Lock()
	defer b.gw.mu.Unlock()
	o := b.gw.counted[s.Trial]
	o.Counts.Merge(trial.Counts{Cells: []trial.Cell{{Rho: rho, Canary: arm(canary, errors),
		Stable: arm(n-canary, 0)}}})
	b.gw.counted[s.Trial] = o
}

func arm(n, errors uint64) trial.Arm {
	a := trial.Arm{Requests: n, Picked: n, Errors: min(errors, n)}
	a.Latency = make([]uint64, 100)
	a.Latency[90] = n - a.Errors
	return a
}

// pass sends traffic until the rollout is over, or has not gone on for long.
func (b *bench) pass(errors uint64) {
	b.t.Helper()
	for range 60 {
		if b.status("e").Rollout == "" {
			return
		}
		b.traffic(3000, errors)
		b.look(10 * time.Second)
	}
	b.t.Fatalf("the rollout is not over: %s", b.state().Reason)
}

// until looks until the rollout is in a phase.
func (b *bench) until(phase rollout.Phase) {
	b.t.Helper()
	for range 60 {
		if b.state().Phase == phase {
			return
		}
		b.traffic(3000, 0)
		b.look(10 * time.Second)
	}
	b.t.Fatalf("the rollout is not %s: %s", phase, b.state().Reason)
}

// status is the stored status of an endpoint.
func (b *bench) status(name string) EndpointStatus {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := stored(b.t, b.store).endpoints[name]; e != nil {
		return e.status
	}
	return EndpointStatus{}
}

// record is the stored record of the latest rollout of endpoint e.
func (b *bench) record() RolloutStatus {
	b.t.Helper()
	n := b.status("e").Rollouts
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := stored(b.t, b.store).rollouts["e/"+strconv.Itoa(n)]; r != nil {
		return r.status
	}
	return RolloutStatus{}
}

func (b *bench) state() rollout.State {
	b.t.Helper()
	return b.record().State
}

// serves wants endpoint e to be in force so: its arms as name=version:weight, its shadows behind
// them, and aliases resolved.
func (b *bench) serves(want string) {
	b.t.Helper()
	s := b.gw.spec("e")
	words := make([]string, 0, len(s.Arms)+len(s.Shadows))
	version := func(model, text string) string {
		if alias, ok := strings.CutPrefix(text, "@"); ok && b.gw.aliases[model][alias] != "" {
			return b.gw.aliases[model][alias]
		}
		return text
	}
	for i, a := range s.Arms {
		word := a.Name + "=" + version(a.Model, a.Version)
		if i > 0 {
			word += ":" + strconv.Itoa(a.Weight)
		}
		words = append(words, word)
	}
	for _, k := range s.Shadows {
		words = append(words,
			fmt.Sprintf("%s~%s:%v", k.Name, version(k.Model, k.Version), k.Percent))
	}
	if got := strings.Join(words, " "); got != want {
		b.t.Errorf("in force is %q, want %q", got, want)
	}
}

// says gives a command and wants a text in the answer, or in the error.
func (b *bench) says(command, want string) {
	b.t.Helper()
	text, err := b.Command(b.t.Context(), "e", command, ana)
	if err != nil {
		text = err.Error()
	}
	if !strings.Contains(text, want) {
		b.t.Errorf("%s says %q, want %q", command, text, want)
	}
}

// actions lists those of all rollouts that are stored: kind version, and what became of it.
func (b *bench) actions() string {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var words []string
	rollouts := stored(b.t, b.store).rollouts
	for _, name := range slices.Sorted(maps.Keys(rollouts)) {
		for _, a := range rollouts[name].status.Actions {
			word := name + " " + a.Kind + strings.TrimRight(" "+a.Alias, " ") +
				strings.TrimRight("="+a.Version, "=")
			switch {
			case a.Done.IsZero():
				word += " waits"
			case a.Error != "":
				word += " not done"
			}
			words = append(words, word)
		}
	}
	return strings.Join(words, ", ")
}

// keys are those of the resources that a change puts.
func (c Change) keys() []store.Key {
	var all []store.Key
	for _, r := range c.Put {
		all = append(all, store.Key{Kind: r.Kind, Name: r.Name})
	}
	return all
}

// fail makes the store one that cannot be written, until the returned function is called.
func (b *bench) fail() func() {
	b.t.Helper()
	if err := b.store.Close(); err != nil {
		b.t.Fatal(err)
	}
	return func() {
		cfg := store.DefaultConfig()
		cfg.Path = filepath.Join(b.cfg.Data, storeFile)
		kept, err := store.Open(cfg)
		if err != nil {
			b.t.Fatal(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.store = kept
	}
}
