package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// Replicas of a server watch as one: a monitor with a judge sends at each tick what it has counted
// to the monitor of the same name of another server, which judges it with what it has counted
// itself. Counts are numbered, and those of which it is not known whether they were taken are sent
// again as they were, until they are too old: so the judge counts each once.

var (
	// ErrWindow is wrapped for counts of a replica that cannot be.
	ErrWindow = errors.New("control: impossible counts of a replica")
	// ErrOtherMonitor is wrapped for counts of another version, or by other rules.
	ErrOtherMonitor = errors.New("control: counts of another monitor")
	// ErrNotOpen is wrapped while a monitor cannot take counts yet.
	ErrNotOpen = errors.New("control: the monitor is not ready")
)

// ReplicaWindow is what a replica has counted for the judge.
type ReplicaWindow struct {
	Replica  string `json:"replica"`  // another one whenever the numbers begin anew
	Sequence uint64 `json:"sequence"` // from 1 on; one that comes again is the same
	Model    string `json:"model"`
	Version  string `json:"version"`
	Rules    string `json:"rules"`             // digest of what the monitor is to find
	Skipped  uint64 `json:"skipped,omitempty"` // requests of other versions
	monitor.Counts
}

// newReplica names a watch of this process, whose windows are numbered from 1 on.
func newReplica() string {
	host, err := os.Hostname()
	if err != nil {
		host = "millrace"
	}
	return cut(host, maxReplicaID/2) + "-" + strings.ToLower(rand.Text()[:8])
}

// rules is a digest of the settings that replicas have to have in common.
func (w *watch) rules() string {
	streams := slices.DeleteFunc(slices.Clone(w.spec.Metrics), func(m config.Metric) bool {
		return m.Type != config.TypeStream
	})
	sum := sha256.Sum256(encode(struct {
		Config  monitor.Config
		Streams []config.Metric
	}{w.cfg, streams}))
	return hex.EncodeToString(sum[:8])
}

// sending is how far the counts of a watch are with their judge.
type sending struct {
	replica  string         // who sends them
	began    time.Time      // since when window was counted
	taken    time.Time      // when something was taken from the monitor last
	skipped  uint64         // of the watch, at that time
	sequence uint64         // of the last window
	window   *ReplicaWindow // the judge may not have it; nil when it has
	busy     bool           // it is being sent

	sent    time.Time // when the judge has taken one last
	fault   string    // of the last try
	results [3]uint64 // windows by result
}

// The results of sending a window.
const (
	windowSent    = iota
	windowRefused // the judge has other rules, or another version
	windowDropped // it was not reached for too long
)

var windowResults = [...]string{"sent", "refused", "dropped"}

// Counts are not kept for longer than some ticks, nor much longer than an hour: they are judged as
// if they had come now, also where the hour matters.
const longestTicks, longestWait = 60, time.Hour

// next returns what is to be sent now; nil while something is being sent. Callers hold w.mu.
func (w *watch) next(now time.Time) (*ReplicaWindow, error) {
	s := &w.sending
	if s.busy {
		return nil, nil
	}
	longest := min(longestTicks*w.spec.Tick, max(longestWait, 2*w.spec.Tick))
	if s.window != nil && now.Sub(s.began) > longest {
		s.window = nil
		s.results[windowDropped]++
	}
	if s.window == nil {
		c, err := w.monitor.Take()
		if err != nil {
			return nil, err
		}
		s.sequence++
		if s.replica == "" {
			s.replica = newReplica()
		}
		s.window = &ReplicaWindow{Replica: s.replica, Sequence: s.sequence, Model: w.subject.Model,
			Version: w.subject.Version, Rules: w.rules(), Skipped: w.skipped - s.skipped, Counts: c}
		if s.began = s.taken; s.began.IsZero() {
			s.began = now
		}
		s.taken, s.skipped = now, w.skipped
	}
	s.busy = true
	return s.window, nil
}

// count is a tick of a monitor that another server judges.
func (p *Plane) count(w *watch, now time.Time) {
	w.mu.Lock()
	if w.monitor == nil {
		w.mu.Unlock()
		return
	}
	w.measures.tick()
	w.last = w.monitor.Counting(now)
	window, err := w.next(now)
	r, fault := w.last, w.sending.fault
	s := aside{skipped: w.skipped, about: w.about, sent: w.sending.sent}
	w.mu.Unlock()
	s.why = "counts for the judge at " + judgeHost(w.spec.Judge)
	if err != nil {
		fault = err.Error()
	}
	if fault != "" {
		s.why += "; " + fault
	}
	if _, over := p.judge(w, r, s, now); over || window == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spawn(func() { p.deliver(w, window) })
}

// deliver sends a window, and notes how that went.
func (p *Plane) deliver(w *watch, window *ReplicaWindow) {
	refused, err := sendWindow(p.ctx, w.spec.Judge, w.name, window)
	w.mu.Lock()
	w.sending.done(refused, err)
	w.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.complain("what a monitor has counted is not taken by its judge", err, "monitor", w.name,
		"judge", judgeHost(w.spec.Judge))
}

// judgeHost is the host and the port of a judge, for people.
func judgeHost(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return u.Host
}

// done notes how it went to send the window.
func (s *sending) done(refused bool, err error) {
	s.busy, s.fault = false, ""
	switch {
	case err == nil:
		s.window, s.sent = nil, time.Now()
		s.results[windowSent]++
	case refused:
		s.window, s.fault = nil, "it has refused some: "+cut(err.Error(), maxFault)
		s.results[windowRefused]++
	default:
		s.fault = "it cannot be told: " + cut(err.Error(), maxFault)
	}
}

// maxFault bounds what is kept of an error, in characters; sendTimeout a window's way to the judge.
const maxFault, sendTimeout = 500, 10 * time.Second

// sendWindow sends a window once. One that was refused is of no use to send again.
func sendWindow(
	ctx context.Context, judge, name string, window *ReplicaWindow,
) (refused bool, _ error) {
	body, err := json.Marshal(window)
	if err != nil {
		return true, fmt.Errorf("cannot write counts: %w", err)
	}
	cfg := fetch.DefaultConfig()
	cfg.Origin, cfg.Allow, cfg.Attempts = judge, hostOf(judge), 1
	cfg.Timeout, cfg.IdleTimeout, cfg.MaxRedirects = sendTimeout, sendTimeout, 0
	client, err := fetch.New(cfg)
	if err != nil {
		return false, err
	}
	defer client.Close()
	address := strings.TrimSuffix(judge, "/") + "/api/v1/monitors/" + url.PathEscape(name) +
		"/windows"
	err = client.JSON(ctx, fetch.Request{Method: http.MethodPost, URL: address, Body: body,
		Header: http.Header{"Content-Type": {"application/json"}}}, nil)
	var fault *fetch.Error
	if !errors.As(err, &fault) {
		return false, err
	}
	var said struct{ Error string }
	if json.Unmarshal(fault.Body, &said) == nil && said.Error != "" {
		err = errors.New(said.Error)
	}
	return slices.Contains([]int{http.StatusBadRequest, http.StatusConflict,
		http.StatusRequestEntityTooLarge}, fault.Status), err
}

// A judge remembers so many replicas, each for as long as it may send the same counts again, and
// shows some of them. The ID of one has a bound, in bytes.
const maxReplicas, shownReplicas, maxReplicaID = 1000, 20, 200

// AddWindow adds what a replica has counted to the rows that a monitor judges at its next tick,
// once: counts that come again are only acknowledged.
func (p *Plane) AddWindow(name string, r *ReplicaWindow) error {
	p.mu.Lock()
	m, w := p.view.monitors[name], p.watches[name]
	p.mu.Unlock()
	switch {
	case m == nil:
		return fmt.Errorf("%w: monitor %q", store.ErrNotFound, name)
	case m.spec.Judge != "":
		return fmt.Errorf("%w: monitor %q of this server has a judge itself", ErrOtherMonitor, name)
	case w == nil:
		return fmt.Errorf("%w: monitor %q has nothing to watch yet", ErrNotOpen, name)
	}
	if r.Replica == "" || len(r.Replica) > maxReplicaID || r.Sequence == 0 {
		return fmt.Errorf("%w: replica %q with sequence %d", ErrWindow, cut(r.Replica,
			maxReplicaID), r.Sequence)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addWindow(r, time.Now())
}

// addWindow adds what a replica has counted. Callers hold w.mu.
func (w *watch) addWindow(r *ReplicaWindow, now time.Time) error {
	if known := w.heard[r.Replica]; known != nil && r.Sequence <= known.Sequence {
		known.Heard = now
		return nil
	}
	if w.monitor == nil {
		return fmt.Errorf("%w: monitor %q has no reference yet; see its reason", ErrNotOpen, w.name)
	}
	if r.Model != w.subject.Model || r.Version != w.subject.Version {
		return fmt.Errorf("%w: they are of version %s of model %s, and version %s of model %s "+
			"serves here", ErrOtherMonitor, cut(r.Version, maxReplicaID),
			cut(r.Model, maxReplicaID), w.subject.Version, w.subject.Model)
	}
	if r.Rules != w.rules() {
		return fmt.Errorf("%w: monitor %q has other settings here; give all replicas the same but "+
			"for judge and who is told of alarms", ErrOtherMonitor, w.name)
	}
	if err := w.monitor.AddCounts(&r.Counts, now); err != nil {
		return err
	}
	w.note(r, now)
	return nil
}

// note remembers what a replica has sent.
func (w *watch) note(r *ReplicaWindow, now time.Time) {
	if w.heard[r.Replica] == nil {
		if len(w.heard) >= maxReplicas {
			all := w.replicas()
			delete(w.heard, all[len(all)-1].ID)
		}
		w.remember([]monitor.Replica{{ID: r.Replica}})
	}
	known := w.heard[r.Replica]
	known.Sequence, known.Heard = r.Sequence, now
	known.Rows += r.Rows
	w.skipped += min(r.Skipped, maxSkipped)
	w.taken += r.Rows
}

// remember takes over what is known of replicas. Callers hold w.mu.
func (w *watch) remember(all []monitor.Replica) {
	if w.heard == nil {
		w.heard = make(map[string]*monitor.Replica)
	}
	for _, r := range all {
		w.heard[r.ID] = &r
	}
}

// maxSkipped bounds what a replica may say that it has left out.
const maxSkipped = 1 << 40

// replicas lists those that are remembered, the one that was heard last the first. Callers hold
// w.mu.
func (w *watch) replicas() []monitor.Replica {
	var all []monitor.Replica
	for _, r := range w.heard {
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b monitor.Replica) int {
		return cmp.Or(b.Heard.Compare(a.Heard), strings.Compare(a.ID, b.ID))
	})
	return all
}

// forgetReplicas forgets those that were not heard for longer than they send the same counts
// again, and notes what the tick has judged. Callers hold w.mu.
func (w *watch) forgetReplicas(now time.Time) {
	longest := max(2*longestTicks*w.spec.Tick, longestWait)
	for id, r := range w.heard {
		if now.Sub(r.Heard) > longest {
			delete(w.heard, id)
		}
	}
	w.judged = w.replicas()
}

// lately is in how many ticks a replica is heard that is there.
const lately = 5

// heardLately is how many replicas were heard in the last ticks. Callers hold w.mu.
func (w *watch) heardLately(now time.Time) (n int) {
	for _, r := range w.heard {
		if now.Sub(r.Heard) <= lately*w.spec.Tick {
			n++
		}
	}
	return n
}

// collectReplicas gives what is known of counts that were sent, or taken. Callers hold w.mu.
func (w *watch) collectReplicas(send sender) {
	if w.spec.Judge == "" {
		send(metricMonitorReplicas, float64(w.heardLately(time.Now())), w.name)
		send(metricMonitorReplicaRows, float64(w.taken), w.name)
		return
	}
	for i, n := range w.sending.results {
		send(metricMonitorWindows, float64(n), w.name, windowResults[i])
	}
}
