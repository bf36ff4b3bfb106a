package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/store"
)

// court is the way to a judge, which can be cut.
type court struct {
	*httptest.Server
	mu     sync.Mutex
	judge  *bench
	away   bool            // nobody answers
	lost   bool            // the judge takes what comes, and nobody learns of that
	bodies []ReplicaWindow // that came, also in vain
}

// judged is a judge, and a replica that counts the same kind of rows for it.
func judged(t *testing.T) (c *court, judge, replica *stream) {
	t.Helper()
	j, js := watching(t, "")
	c = &court{judge: j}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion"}`)
	rs := newStream(b)
	rs.b = b
	var spec map[string]any
	if err := json.Unmarshal(j.view.monitors["watch"].Spec, &spec); err != nil {
		t.Fatal(err)
	}
	spec["judge"] = c.URL + "/"
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	b.put("Monitor", "watch", string(text))
	b.punctual()
	j.punctual()
	return c, js, rs
}

// punctual has the monitor open, and due at once.
func (b *bench) punctual() {
	b.t.Helper()
	b.opened()
	b.watches["watch"].due = b.now
}

func (c *court) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var window ReplicaWindow
	if err := json.NewDecoder(r.Body).Decode(&window); err != nil ||
		r.URL.Path != "/api/v1/monitors/watch/windows" || r.Method != http.MethodPost {
		c.judge.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	c.bodies = append(c.bodies, window)
	if c.away {
		panic(http.ErrAbortHandler)
	}
	err := c.judge.AddWindow("watch", &window)
	if c.lost {
		panic(http.ErrAbortHandler)
	}
	switch {
	case errors.Is(err, ErrOtherMonitor), errors.Is(err, monitor.ErrState):
		w.WriteHeader(http.StatusConflict)
	case errors.Is(err, ErrNotOpen):
		w.WriteHeader(http.StatusServiceUnavailable)
	case err != nil:
		c.judge.t.Errorf("the judge says %v", err)
	}
	said := map[string]string{}
	if err != nil {
		said["error"] = err.Error()
	}
	_ = json.NewEncoder(w).Encode(said)
}

// set says how the way is from now on.
func (c *court) set(away, lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away, c.lost = away, lost
}

// count sends some rows to a replica, which ticks, and waits until it has tried to send them.
func (s *stream) count(rows int) {
	s.b.t.Helper()
	if rows > 0 {
		s.send("1", rows)
	}
	s.b.now = s.b.now.Add(time.Minute + time.Second)
	s.b.tickAll(s.b.now)
	s.b.eventually("it was tried to send counts", func() bool {
		w := s.b.watches["watch"]
		w.mu.Lock()
		defer w.mu.Unlock()
		return !w.sending.busy
	})
}

// results is how many windows were sent, refused and dropped.
func (s *stream) results() [3]uint64 {
	w := s.b.watches["watch"]
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sending.results
}

// Rows that reach a replica alone are drift at the judge, which raises the one alarm.
func TestReplicaIsJudged(t *testing.T) {
	c, judge, replica := judged(t)
	for range 50 {
		replica.count(50)
		judge.ticks(1, monitor.StateAlarm)
	}
	if st := judge.status(); st.State != monitor.StateOK || st.Last.Total != 5000 ||
		len(st.Replicas) != 1 || st.Replicas[0].Rows != 2500 || st.Replicas[0].Sequence != 50 {
		t.Fatalf("of sound rows: %+v", st.Status)
	}
	replica.shift = 2
	n := 0
	for ; n < 20 && judge.status().State != monitor.StateAlarm; n++ {
		replica.send("2", 5) // of a canary
		replica.count(50)
		judge.ticks(1, monitor.StateAlarm)
	}
	st := judge.status()
	t.Logf("alarm after %d ticks: %s", n, st.Reason)
	if st.State != monitor.StateAlarm || len(judge.b.alarms()) != 1 || st.Skipped != uint64(n) {
		t.Errorf("the judge is %s: %s; %d left out", st.State, st.Reason, st.Skipped)
	}
	st = replica.status()
	if st.State != monitor.StateCounting || len(replica.b.alarms()) != 0 || st.Sent.IsZero() ||
		st.Reason != "counts for the judge at "+c.Listener.Addr().String() ||
		st.Last.Total != uint64(50*(n+50)) {
		t.Errorf("the replica is %+v", st.Status)
	}
	if _, err := replica.b.Monitor(t.Context(), "watch", MonitorResolve, ana); err == nil {
		t.Error("the replica has an alarm to end")
	}
	here, there := gathered(t, judge.b.Plane), gathered(t, replica.b.Plane)
	f := func(all map[string]string, name, want string) {
		t.Helper()
		if got := all["millrace_monitor_"+name]; got != want {
			t.Errorf("%s is %q, not %s, in %v", name, got, want, all)
		}
	}
	f(here, "replicas watch", "1")
	f(here, "replica_rows_total watch", fmt.Sprint(50*(n+50)))
	f(there, "windows_total watch sent", fmt.Sprint(n+50))
	f(there, "windows_total watch dropped", "0")
	f(there, "state e watch counting", "1") // by the names of the labels
	f(there, "evidence watch", "")
}

// What may have been taken is sent again as it was, and counted once; then come the rows of the
// ticks meanwhile.
func TestReplicaRepeats(t *testing.T) {
	c, judge, replica := judged(t)
	replica.count(10)
	c.set(true, false)
	replica.count(20)
	replica.count(30)
	if text := replica.status().Reason; !strings.Contains(text, "it cannot be told") {
		t.Errorf("the reason is %s", text)
	}
	c.set(false, true)
	replica.count(40)
	replica.count(50)
	c.set(false, false)
	replica.count(60)
	replica.count(0)
	replica.count(0)
	first := c.bodies[1]
	for i, b := range c.bodies[1:6] {
		if !reflect.DeepEqual(b, first) || b.Rows != 20 || b.Sequence != 2 {
			t.Errorf("try %d is number %d of %d rows", i, b.Sequence, b.Rows)
		}
	}
	if b := c.bodies[6]; b.Sequence != 3 || b.Rows != 180 {
		t.Errorf("then comes number %d of %d rows", b.Sequence, b.Rows)
	}
	judge.tick()
	if st := judge.status(); st.Last.Rows != 210 || replica.results() != [3]uint64{4, 0, 0} {
		t.Errorf("%d rows are judged, %v", st.Last.Rows, replica.results())
	}
	if text := replica.status().Reason; strings.Contains(text, "told") {
		t.Errorf("the reason is %s", text)
	}
}

// Counts of another version are refused, and those that nobody takes for long are dropped: both
// are lost, and what comes later is judged.
func TestReplicaLosesCounts(t *testing.T) {
	c, judge, replica := judged(t)
	judge.b.aliases("2", "2")
	judge.b.punctual()
	replica.count(10)
	replica.count(0)
	if text := replica.status().Reason; !strings.Contains(text, "version 1 of model m") ||
		!strings.Contains(text, "version 2 of model m serves here") {
		t.Errorf("the reason is %s", text)
	}
	if got := replica.results(); got != [3]uint64{0, 2, 0} {
		t.Errorf("the windows are %v", got)
	}
	judge.b.aliases("1", "2")
	judge.b.punctual()
	c.set(true, false)
	for range longestTicks + 5 {
		replica.count(1)
	}
	if got := replica.results(); got[windowDropped] < 2 || got[windowDropped] > 4 {
		t.Errorf("the windows are %v", got)
	}
	c.set(false, false)
	replica.count(7)
	replica.count(5)
	judge.tick()
	if n := judge.status().Last.Rows; n < 12 || n > 20 {
		t.Errorf("%d rows are judged", n)
	}
}

// A judge that has ended and starts again knows what is in what it has learned.
func TestJudgeRemembers(t *testing.T) {
	c, judge, replica := judged(t)
	replica.count(10)
	judge.ticks(1, monitor.StateAlarm)
	c.set(false, true)
	replica.count(20)
	judge.ticks(1, monitor.StateAlarm)
	c.mu.Lock()
	judge.b.restart()
	judge.b.punctual()
	c.mu.Unlock()
	c.set(false, false)
	replica.count(0)
	judge.ticks(1, monitor.StateAlarm)
	if st := judge.status(); st.Last.Total != 3*50+30 || st.Replicas[0].Rows != 30 {
		t.Errorf("the status is %+v", st.Status)
	}
	replica.b.restart()
	replica.b.punctual()
	replica.count(40)
	judge.ticks(1, monitor.StateAlarm)
	if st := judge.status(); st.Last.Total != 4*50+70 || len(st.Replicas) != 2 {
		t.Errorf("after a restart of the replica: %+v", st.Status)
	}
}

// What cannot be is refused, and the memory for replicas has a bound.
func TestAddWindowFaults(t *testing.T) {
	c, judge, replica := judged(t)
	replica.count(10)
	f := func(want error, name string, change func(*ReplicaWindow)) {
		t.Helper()
		r := c.bodies[0]
		r.Sequence++
		change(&r)
		if err := judge.b.AddWindow(name, &r); !errors.Is(err, want) {
			t.Errorf("the error is %v, want %v", err, want)
		}
	}
	f(store.ErrNotFound, "other", func(*ReplicaWindow) {})
	f(ErrWindow, "watch", func(r *ReplicaWindow) { r.Replica = "" })
	f(ErrWindow, "watch", func(r *ReplicaWindow) { r.Replica = strings.Repeat("a", 201) })
	f(ErrWindow, "watch", func(r *ReplicaWindow) { r.Sequence = 0 })
	f(ErrOtherMonitor, "watch", func(r *ReplicaWindow) { r.Version = "2" })
	f(ErrOtherMonitor, "watch", func(r *ReplicaWindow) { r.Rules = "other" })
	f(monitor.ErrState, "watch", func(r *ReplicaWindow) { r.Reference = "other" })
	f(monitor.ErrCounts, "watch", func(r *ReplicaWindow) { r.Rows++ })
	r := c.bodies[0]
	if err := replica.b.AddWindow("watch", &r); !errors.Is(err, ErrOtherMonitor) {
		t.Errorf("a replica judges: %v", err)
	}
	for i := range maxReplicas + 5 {
		f(nil, "watch", func(r *ReplicaWindow) { r.Replica = fmt.Sprint("many-", i) })
	}
	judge.b.now = time.Now()
	judge.tick()
	if w := judge.b.watches["watch"]; len(w.heard) != maxReplicas ||
		len(judge.status().Replicas) != shownReplicas {
		t.Errorf("%d replicas are remembered, %d shown", len(w.heard),
			len(judge.status().Replicas))
	}
	judge.b.now = judge.b.now.Add(3 * time.Hour)
	judge.tick()
	if w := judge.b.watches["watch"]; len(w.heard) != 0 {
		t.Errorf("after hours %d replicas are remembered", len(w.heard))
	}
}
