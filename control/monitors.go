package control

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/runtime/model"
)

// monitored is a monitor as the store has it.
type monitored = item[config.Monitor, MonitorStatus]

// MonitorStatus is what the control plane knows of a monitor.
type MonitorStatus struct {
	monitor.Status
	// Key tells the rules and the version that the status is about: with others it begins anew.
	Key    string `json:"key"`
	Resets int    `json:"resets,omitempty"` // by people
}

// watch is a monitor at work, ahead of its status. Without a mutex of its own are what the loop
// of the ticks has alone.
type watch struct {
	name    string
	spec    config.Monitor // with all defaults
	raw     []byte         // the spec as it is kept
	resets  int
	key     string
	subject monitor.Subject
	cfg     monitor.Config

	due   time.Time // of the next tick
	saved time.Time // when the status was last stored
	kept  time.Time // when what was learned was last written

	open  bool      // or being opened. Guarded by Plane.mu.
	again time.Time // when to open it again after a fault. Guarded by Plane.mu.
	// Of the endpoint's answers; nil where there is none yet. Guarded by Plane.mu.
	scorer *route.Scorer

	mu      sync.Mutex
	monitor *monitor.Monitor // nil until it is open. Guarded by mu, as all below.
	about   string           // the reference, for people
	skipped uint64           // rows of other versions
	last    monitor.Reading  // for metrics
	sending sending          // where another server judges

	heard  map[string]*monitor.Replica // by ID; whose counts are judged here
	judged []monitor.Replica           // as they were at the last tick
	taken  uint64                      // rows of them

	measures *measures // nil where there are none, or they are not compiled yet
}

// Sample is a request to an endpoint that was answered.
type Sample struct {
	Endpoint, Model, Version string // that has answered
	monitor.Request
}

// Sampled lets the monitors of an endpoint see a request. It keeps nothing of it, and waits for
// ticks alone. Rows of other versions than the stable one are counted and left out.
func (p *Plane) Sampled(s *Sample) {
	all := p.watching.Load()
	if all == nil {
		return
	}
	for _, w := range (*all)[s.Endpoint] {
		w.mu.Lock()
		if w.subject.Model != s.Model || w.subject.Version != s.Version {
			w.skipped++
		} else if w.monitor != nil {
			if _, err := w.monitor.Add(&s.Request); err != nil {
				w.skipped++
			}
		}
		w.mu.Unlock()
	}
}

// Feedback is what became known of a request after its answer.
type Feedback struct {
	ID                       []byte
	Endpoint, Model, Version string // that has answered
	Time                     time.Time
	Reward                   *float64 // from 0 to 1; nil for none
	Label                    []byte   // a JSON value; empty for none
}

// Learned lets the monitors of an endpoint see feedback, after the request that it is of.
func (p *Plane) Learned(f *Feedback) {
	all := p.watching.Load()
	if all == nil {
		return
	}
	for _, w := range (*all)[f.Endpoint] {
		w.mu.Lock()
		if m := w.monitor; m != nil && w.subject.Model == f.Model &&
			w.subject.Version == f.Version {
			if len(f.Label) > 0 {
				m.Label(f.Time, f.ID, f.Label)
			}
			if f.Reward != nil {
				m.Reward(f.Time, *f.Reward)
			}
		}
		w.mu.Unlock()
	}
}

// monitorInterval is how often it is looked whether a tick is due.
const monitorInterval = 100 * time.Millisecond

// reopenInterval is how long a monitor that cannot be opened is left alone.
const reopenInterval = 10 * time.Second

// monitor has the monitors tick until the plane closes.
func (p *Plane) monitor() { p.each(monitorInterval, p.tickAll) }

// tickAll starts and ends monitors as the settings say, and has those tick that are due.
func (p *Plane) tickAll(now time.Time) {
	p.mu.Lock()
	var due []*watch
	if p.store != nil {
		p.arrange(now)
		p.arrangeScores()
		for _, w := range p.watches {
			if w.open && w.isDue(now) {
				due = append(due, w)
			}
		}
	}
	p.mu.Unlock()
	for _, w := range due {
		p.tick(w, now)
	}
}

// isDue says whether it is time for a tick, also when the clock has gone back. The first is at
// random, so that not all monitors tick at once.
func (w *watch) isDue(now time.Time) bool {
	late := now.Sub(w.due)
	if w.due.IsZero() || late < -2*w.spec.Tick {
		w.due = now.Add(w.spec.Tick/2 + rand.N(w.spec.Tick))
		return false
	}
	if late < 0 {
		return false
	}
	if w.due = w.due.Add(w.spec.Tick); w.due.Before(now) {
		w.due = now.Add(w.spec.Tick) // ticks that were missed are one
	}
	return true
}

// arrange makes the watches those of the view's monitors. Callers hold mu.
func (p *Plane) arrange(now time.Time) {
	changed := false
	for name := range p.watches {
		if p.view.monitors[name] == nil {
			delete(p.watches, name)
			p.forget(name)
			changed = true
		}
	}
	var closed []*watch
	for name, m := range p.view.monitors {
		subject, err := p.subject(m)
		if err != nil {
			p.cannotWatch(m, err, now)
			continue
		}
		w := p.watches[name]
		if w == nil || w.subject != subject || w.resets != m.status.Resets ||
			!bytes.Equal(w.raw, m.Spec) {
			w = newWatch(m, subject)
			p.watches[name], changed = w, true
		}
		if m.status.Key != w.key {
			why := "the settings of the monitor have changed"
			if m.status.Subject != subject {
				why = fmt.Sprintf("version %s of model %s serves now, with a reference of its own",
					subject.Version, subject.Model)
			}
			next := m.status
			next.Key, next.Status = w.key, m.status.Begin(subject, w.cfg.Every, now, why)
			if err := p.settle(m, next, monitorAuthor, now); err != nil {
				p.complain("a monitor cannot begin", err, "monitor", name)
				continue
			}
			p.forget(name)
		}
		if !w.open && !now.Before(w.again) {
			closed = append(closed, w)
		}
	}
	if changed {
		p.publishWatches()
	}
	if len(closed) > 0 && !p.opening && p.ctx.Err() == nil {
		p.opening = true
		p.spawn(func() { p.openWatches(closed) })
	}
}

// publishWatches lets Sampled know of the watches. Callers hold mu.
func (p *Plane) publishWatches() {
	all := make(map[string][]*watch)
	for _, w := range p.watches {
		all[w.subject.Endpoint] = append(all[w.subject.Endpoint], w)
	}
	p.watching.Store(&all)
}

func newWatch(m *monitored, subject monitor.Subject) *watch {
	spec := m.spec.WithDefaults()
	sum := sha256.New()
	for _, text := range []string{string(m.Spec), subject.Endpoint, subject.Model,
		subject.Version, strconv.Itoa(m.status.Resets)} {
		fmt.Fprintf(sum, "%d %s", len(text), text)
	}
	return &watch{name: m.Name, spec: spec, raw: m.Spec, resets: m.status.Resets,
		key: hex.EncodeToString(sum.Sum(nil)[:8]), subject: subject, cfg: promise(&spec)}
}

// promise is what a monitor with all defaults looks for and promises.
func promise(spec *config.Monitor) monitor.Config {
	c := monitor.Config{Tolerance: *spec.Tolerance, Learn: spec.Reference.Learn,
		Ignored: spec.Ignore, Categorical: spec.Categorical, Outliers: spec.Outliers,
		Segment: spec.Segment, Every: spec.EvidenceOfAlarm()}
	if p := spec.Performance; p != nil {
		c.Loss = &monitor.Loss{Output: p.Output, Scale: p.Scale, Expected: p.ReferenceError,
			Rows: p.ReferenceRows, Probabilities: p.Probabilities}
	}
	return c
}

// subject is what a monitor is to watch now: the version that serves its endpoint.
func (p *Plane) subject(m *monitored) (monitor.Subject, error) {
	s := monitor.Subject{Endpoint: m.spec.Endpoint}
	e := p.view.endpoints[s.Endpoint]
	if e == nil {
		return s, fmt.Errorf("there is no endpoint %q", s.Endpoint)
	}
	s.Model = modelOf(&e.spec)
	s.Version = p.view.stable(e)
	if s.Version != "" {
		return s, nil
	}
	if e.spec.Stable == "" {
		if v, err := p.models.Acquire([]byte(s.Model), nil); err == nil {
			defer v.Release()
			s.Version = v.Version()
			return s, nil
		}
	}
	return s, fmt.Errorf("%w: no version of model %q serves the endpoint yet (stable is %q)",
		model.ErrNotReady, s.Model, cmp.Or(e.spec.Stable, "the latest"))
}

// monitorAuthor is who makes the changes that monitors decide.
var monitorAuthor = store.Author{Who: "monitor", From: store.Self}

// tick has a monitor judge the rows since its last tick, and stores what that changes.
func (p *Plane) tick(w *watch, now time.Time) {
	if w.spec.Judge != "" {
		p.count(w, now)
		return
	}
	w.mu.Lock()
	if w.monitor == nil {
		w.mu.Unlock()
		return
	}
	w.measures.tick()
	r, err := w.monitor.Tick(now)
	if err != nil {
		w.monitor = nil // to learn anew
	}
	w.last = r
	w.forgetReplicas(now)
	s := aside{skipped: w.skipped, about: w.about, err: err,
		replicas: w.judged[:min(len(w.judged), shownReplicas)]}
	w.mu.Unlock()
	restart, over := p.judge(w, r, s, now)
	if over {
		return
	}
	if restart {
		w.mu.Lock()
		w.monitor.Restart()
		w.mu.Unlock()
		w.kept = time.Time{}
	}
	if since := now.Sub(w.kept); since < 0 || since >= keepMonitorInterval {
		w.kept = now
		p.keepLearned(w)
	}
}

// aside is what a tick leaves beside its reading.
type aside struct {
	skipped  uint64
	about    string
	err      error
	replicas []monitor.Replica
	// Where another server judges: when it was told last, and why the state is what it is.
	sent time.Time
	why  string
}

// judge says whether the evidence is to begin anew, once it is stored what it was enough for, or
// whether the watch is over.
func (p *Plane) judge(w *watch, r monitor.Reading, s aside, now time.Time) (restart, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.view.monitors[w.name]
	if m == nil || p.watches[w.name] != w {
		return false, true
	}
	next := m.status
	switch {
	case s.err != nil:
		w.open, w.again = false, now.Add(reopenInterval)
		next.Status = next.Fail(now, s.err.Error())
	case w.spec.Judge != "":
		next.Status = next.Count(r, s.why)
	default:
		next.Status, restart = next.Next(w.cfg, r)
	}
	next.Skipped, next.Reference = s.skipped, s.about
	next.Sent, next.Replicas = s.sent, s.replicas
	since := now.Sub(w.saved)
	if next.State == m.status.State && since >= 0 && since < p.saveInterval() {
		return restart, s.err != nil
	}
	w.saved = now
	err := p.settle(m, next, monitorAuthor, now)
	p.complain("what a monitor has found cannot be stored; it is tried again", err, "monitor",
		w.name)
	if err == nil && p.behind {
		p.changed()
	}
	return restart && err == nil, s.err != nil
}

// saveInterval is how often the status of a monitor is stored that stays as it is: no more than
// one a second of all.
func (p *Plane) saveInterval() time.Duration {
	return max(10*time.Second, time.Duration(len(p.watches))*time.Second)
}

// saveMonitors keeps what the monitors have learned, as when the plane closes. Callers hold mu;
// nothing ticks any more.
func (p *Plane) saveMonitors(now time.Time) {
	for _, w := range p.watches {
		m := p.view.monitors[w.name]
		if !w.open || m == nil || p.store == nil {
			continue
		}
		next := m.status
		w.mu.Lock()
		next.Last, next.Skipped, next.Sent = w.last, w.skipped, w.sending.sent
		w.mu.Unlock()
		if err := p.keepMonitor(m, next.Status, now); err != nil {
			p.log.Warn("the status of a monitor is not stored", "monitor", w.name, "error", err)
		}
		p.keepLearned(w)
	}
}

// keepMonitor stores a status of the same rules and version.
func (p *Plane) keepMonitor(m *monitored, status monitor.Status, now time.Time) error {
	next := m.status
	next.Status = status
	return p.settle(m, next, monitorAuthor, now)
}

// Commands of monitors.
const (
	MonitorAcknowledge = "ack"     // a person has seen the alarm
	MonitorResolve     = "resolve" // the alarm is over; the evidence begins anew
	MonitorReset       = "reset"   // all that was learned is forgotten
)

// Monitor does what a person says to a monitor, and returns a sentence that says where that
// leaves it.
func (p *Plane) Monitor(
	ctx context.Context, name, command string, by store.Author,
) (string, error) {
	w, sentence, err := p.commandMonitor(ctx, name, command, by)
	if err != nil || w == nil || command != MonitorResolve {
		return sentence, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.monitor != nil {
		w.monitor.Restart()
	}
	return sentence, nil
}

func (p *Plane) commandMonitor(
	ctx context.Context, name, command string, by store.Author,
) (*watch, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ensure(ctx); err != nil {
		return nil, "", err
	}
	m := p.view.monitors[name]
	if m == nil {
		return nil, "", fmt.Errorf("%w: monitor %q", store.ErrNotFound, name)
	}
	next, now := m.status, time.Now()
	var err error
	switch command {
	case MonitorAcknowledge:
		next.Status, err = next.Acknowledge(by.Who, now)
	case MonitorResolve:
		next.Status, err = next.Resolve(by.Who, now)
	case MonitorReset:
		next.Status = next.Reset(by.Who, now)
		next.Resets++
	default:
		err = fmt.Errorf("%w: monitors know no %q", ErrNotNow, command)
	}
	if err == nil {
		err = p.settle(m, next, by, now)
	}
	if err != nil {
		return nil, "", err
	}
	return p.watches[name], fmt.Sprintf("monitor %s: %s", name, next.Sentence()), nil
}

// monitoredRows is how many rows a second monitors look at, by endpoint.
func (v *view) monitoredRows() map[string]int {
	rows := make(map[string]int)
	for _, m := range v.monitors {
		rows[m.spec.Endpoint] = max(rows[m.spec.Endpoint], m.spec.WithDefaults().RowsPerSecond)
	}
	return rows
}
