package monitor_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// signature is of a model with one input of some columns, and a score.
func signature(columns int) *tensor.Signature {
	return &tensor.Signature{MaxBatchSize: 1024,
		Inputs: []tensor.Spec{{Name: "x", Datatype: tensor.FP64,
			Shape: []int64{-1, int64(columns)}}},
		Outputs: []tensor.Spec{{Name: "score", Datatype: tensor.FP64, Shape: []int64{-1, 1}}}}
}

// source makes requests of standard normal rows.
type source struct {
	*rand.Rand
	columns int
	shift   float64 // of the first column, in deviations
	missing bool    // the first column is NaN
}

func newSource(seed uint64, columns int) *source {
	return &source{Rand: rand.New(rand.NewPCG(seed, 7)), columns: columns}
}

// request makes some rows and their scores.
func (s *source) request(rows int) (in, out []tensor.Tensor) {
	x := make([]byte, 0, 8*rows*s.columns)
	y := make([]byte, 0, 8*rows)
	for range rows {
		sum := 0.0
		for c := range s.columns {
			v := s.NormFloat64()
			if c == 0 {
				v += s.shift
			}
			sum += v
			if c == 0 && s.missing {
				v = math.NaN()
			}
			x = binary.LittleEndian.AppendUint64(x, math.Float64bits(v))
		}
		y = binary.LittleEndian.AppendUint64(y, math.Float64bits(sum))
	}
	return []tensor.Tensor{{Name: "x", Datatype: tensor.FP64,
			Shape: []int64{int64(rows), int64(s.columns)}, Data: x}},
		[]tensor.Tensor{{Name: "score", Datatype: tensor.FP64, Shape: []int64{int64(rows), 1},
			Data: y}}
}

// encode is a number as it lies in a tensor, and score the first that lies in one.
func encode(x float64) []byte {
	return binary.LittleEndian.AppendUint64(nil, math.Float64bits(x))
}

func score(data []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(data)) }

// at is a request that nothing becomes known of.
func at(now time.Time, in, out []tensor.Tensor) *monitor.Request {
	return &monitor.Request{Time: now, Inputs: in, Outputs: out}
}

// profile is a reference of such rows.
func (s *source) profile(t testing.TB, rows int) *reference.Profile {
	t.Helper()
	r := drift.NewRows(signature(s.columns))
	c, err := reference.NewCollector(r.Columns(), reference.Options{Outputs: []string{"score"}})
	if err != nil {
		t.Fatal(err)
	}
	in, out := s.request(rows)
	err = r.Each(in, out, func(row []sketch.Value) error { return c.Add(time.Time{}, row) })
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bench is a monitor and its status, with a clock of its own.
type bench struct {
	t      testing.TB
	cfg    monitor.Config
	m      *monitor.Monitor
	status monitor.Status
	now    time.Time
	states []monitor.State // one after the other
}

var subject = monitor.Subject{Endpoint: "e", Model: "m", Version: "1"}

func newBench(t testing.TB, cfg monitor.Config, columns int, p *reference.Profile) *bench {
	t.Helper()
	m, err := monitor.New(cfg, signature(columns), p)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, cfg: cfg, m: m, now: time.Unix(1e9, 0)}
	b.status = b.status.Begin(subject, cfg.Every, b.now, "")
	return b
}

// tick takes in a request, and what follows.
func (b *bench) tick(in, out []tensor.Tensor) {
	b.t.Helper()
	if _, err := b.m.Add(at(b.now, in, out)); err != nil {
		b.t.Fatal(err)
	}
	b.judge()
}

// judge has the monitor judge what came since the last tick.
func (b *bench) judge() {
	b.t.Helper()
	b.now = b.now.Add(time.Minute)
	r, err := b.m.Tick(b.now)
	if err != nil {
		b.t.Fatal(err)
	}
	var restart bool
	if b.status, restart = b.status.Next(b.cfg, r); restart {
		b.m.Restart()
	}
	if n := len(b.states); n == 0 || b.states[n-1] != b.status.State {
		b.states = append(b.states, b.status.State)
	}
}

// run ticks until a state, at most so many times, and returns how many there were.
func (b *bench) run(s *source, most int, until monitor.State) int {
	b.t.Helper()
	for n := range most {
		b.tick(s.request(100))
		if b.status.State == until {
			return n + 1
		}
	}
	return most
}

// Sound rows raise no alarm in some of the promised time, shifted ones do soon, once, with the
// feature and its histograms; when they are sound again the alarm ends by itself.
func TestAlarm(t *testing.T) {
	s := newSource(1, 5)
	b := newBench(t, monitor.Config{Every: 10_000, Tolerance: 0.1}, 5, s.profile(t, 20_000))
	if n := b.run(s, 1000, monitor.StateAlarm); n < 1000 {
		t.Fatalf("an alarm after %d ticks without drift: %s", n, b.status.Reason)
	}
	calm := b.m.Last().Features[0].Distances
	if calm.Compared != 100 || calm.PSI <= 0 || calm.KS > 0.25 || !calm.Numeric {
		t.Errorf("of a tick the distances are %+v", calm)
	}
	before := b.now
	s.shift = 1
	n := b.run(s, 50, monitor.StateAlarm)
	t.Logf("alarm after %d ticks of 100 rows: %s", n, b.status.Reason)
	if b.status.State != monitor.StateAlarm || b.status.Alarms != 1 {
		t.Fatalf("no alarm: %+v", b.status)
	}
	a := b.status.Record("watch")
	f := a.Reading.Features[0]
	if f.Name != "x.0" || !f.Named || len(f.Bins) == 0 || f.PSI < 0.5 {
		t.Errorf("the feature is %+v", f)
	}
	// Of normal values, shifted by a deviation: 1, 2 Phi(1/2) - 1 = 0.38, and 1.
	if f.PSI < 0.7 || f.PSI > 1.3 || math.Abs(f.KS-0.38) > 0.08 ||
		math.Abs(f.Wasserstein-1) > 0.15 || f.JS < 0.2 || f.JS > 0.5 {
		t.Errorf("the distances are %+v", f.Distances)
	}
	if a.Began.Before(before.Add(-time.Hour)) || a.Began.After(before.Add(10*time.Minute)) {
		t.Errorf("the drift began at %v, it is said at %v", before, a.Began)
	}
	if len(a.Reading.Examples) == 0 || len(a.Reading.Examples[0]) != len(a.Reading.Features) {
		t.Errorf("the examples are %v", a.Reading.Examples)
	}
	if text := f.Text(); strings.Count(text, "\n") < 5 || !strings.Contains(text, "###") {
		t.Errorf("the histogram is\n%s", text)
	}
	b.run(s, 500, monitor.StateResolved)
	if b.status.State != monitor.StateAlarm || b.status.Alarms != 1 {
		t.Fatalf("while the drift lasts there are %d alarms, %v", b.status.Alarms, b.states)
	}
	s.shift = 0
	n = b.run(s, 1000, monitor.StateResolved)
	t.Logf("resolved after %d ticks: %s; %v", n, b.status.Reason, b.states)
	if b.status.State != monitor.StateResolved {
		t.Fatal("the alarm does not end")
	}
	if a = a.Follow(&b.status, ""); !a.Resolved.Equal(b.now) || a.Resolution == "" {
		t.Errorf("the record is %+v", a)
	}
	if b.run(s, 1000, monitor.StateAlarm); b.status.Alarms != 1 {
		t.Errorf("%d alarms after one drift", b.status.Alarms)
	}
}

// A weak drift that lasts is seen late at times, and is few alarms all the same.
func TestWeakDrift(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, shift := range []float64{0.2, 0.3} {
		s := newSource(11, 5)
		b := newBench(t, monitor.Config{Every: 10_000, Tolerance: 0.1}, 5, s.profile(t, 20_000))
		s.shift = shift
		for range 2000 {
			b.tick(s.request(50))
		}
		t.Logf("shift %v: %d alarms, the next ends after %d quiet ticks", shift, b.status.Alarms,
			b.status.Quiet)
		if b.status.Alarms < 1 || b.status.Alarms > 3 {
			t.Errorf("%d alarms: %v", b.status.Alarms, b.states)
		}
	}
}

// A feature that becomes NaN, constant or infinite is one alarm.
func TestSpoiledFeature(t *testing.T) {
	f := func(what string, spoil func(*source)) {
		t.Helper()
		s := newSource(3, 5)
		b := newBench(t, monitor.Config{Every: 1000, Tolerance: 0.1}, 5, s.profile(t, 10_000))
		spoil(s)
		n := b.run(s, 20, monitor.StateAlarm)
		b.run(s, 200, monitor.StateResolved)
		if n > 3 || b.status.Alarms != 1 || !strings.Contains(b.status.Reason, "x.0") {
			t.Errorf("%s: %d alarms, the first after %d ticks: %s", what, b.status.Alarms, n,
				b.status.Reason)
		}
	}
	f("NaN", func(s *source) { s.missing = true })
	f("overflow", func(s *source) { s.shift = 1e300 })
	f("infinite", func(s *source) { s.shift = math.Inf(1) })
}

// A reference that is learned is as good as one that is given.
func TestLearn(t *testing.T) {
	s := newSource(4, 5)
	b := newBench(t, monitor.Config{Every: 10_000, Tolerance: 0.1, Learn: 5000,
		Ignored: []string{"x.4", "label"}}, 5, nil)
	for range 49 {
		b.tick(s.request(100))
	}
	if b.status.State != monitor.StateLearning ||
		!strings.Contains(b.status.Reason, "4900 of 5000") {
		t.Fatalf("the state is %s: %s", b.status.State, b.status.Reason)
	}
	b.tick(s.request(100))
	if n := b.run(s, 500, monitor.StateAlarm); n < 500 {
		t.Fatalf("an alarm after %d ticks: %s", n, b.status.Reason)
	}
	s.shift = 1
	if n := b.run(s, 50, monitor.StateAlarm); n == 50 {
		t.Error("no alarm")
	}
	if slices.ContainsFunc(b.status.Last.Features, func(f monitor.Feature) bool {
		return f.Name == "x.4"
	}) {
		t.Error("an ignored column is watched")
	}
}

// Rows without any number are no reference, and the text says what to do.
func TestLearnSpoiled(t *testing.T) {
	s := newSource(4, 2)
	s.missing = true
	m, err := monitor.New(monitor.Config{Every: 1000, Learn: 300}, signature(2), nil)
	if err != nil {
		t.Fatal(err)
	}
	in, out := s.request(300)
	if _, err := m.Add(at(time.Time{}, in, out)); err != nil {
		t.Fatal(err)
	}
	_, err = m.Tick(time.Time{})
	if !errors.Is(err, reference.ErrColumn) || !strings.Contains(err.Error(), `"x.0"`) {
		t.Errorf("the error is %v", err)
	}
}

// What a monitor has learned goes on in another process as if nothing had been.
func TestState(t *testing.T) {
	s := newSource(5, 5)
	p := s.profile(t, 10_000)
	for _, learn := range []int{0, 1000} {
		cfg := monitor.Config{Every: 1e6, Tolerance: 0.1, Learn: learn}
		if learn > 0 {
			p = nil
		}
		b := newBench(t, cfg, 5, p)
		b.run(s, 50, monitor.StateAlarm)
		s.shift = 0.3
		b.run(s, 3, monitor.StateAlarm)
		s.shift = 0
		text, err := json.Marshal(b.m)
		if err != nil {
			t.Fatal(err)
		}
		other := newBench(t, cfg, 5, p)
		if err := json.Unmarshal(text, other.m); err != nil {
			t.Fatal(err)
		}
		in, out := s.request(100)
		for _, one := range []*bench{b, other} {
			one.now = b.now
			if _, err := one.m.Add(at(one.now, in, out)); err != nil {
				t.Fatal(err)
			}
		}
		r, err := b.m.Tick(b.now)
		same, err2 := other.m.Tick(b.now)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		one, _ := json.Marshal(r)
		two, _ := json.Marshal(same)
		if string(one) != string(two) || r.Evidence == 0 {
			t.Errorf("learn %d: the readings are\n%s\n%s", learn, one, two)
		}
	}
	m, err := monitor.New(monitor.Config{Every: 100}, signature(5), newSource(9, 5).profile(t, 300))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"[]", `{"drift": {"reference": "other"}}`} {
		if err := m.UnmarshalJSON([]byte(text)); !errors.Is(err, monitor.ErrState) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A reference of other columns is refused by name.
func TestOtherColumns(t *testing.T) {
	_, err := monitor.New(monitor.Config{Every: 100}, signature(4), newSource(1, 5).profile(t, 300))
	if err == nil || !strings.Contains(err.Error(), "x.4") {
		t.Errorf("the error is %v", err)
	}
}

// A column that is computed of others is watched as they are, against a reference that has it.
func TestDerived(t *testing.T) {
	cfg := monitor.Config{Every: 10_000, Tolerance: 0.1, Learn: 5000,
		Ignored: []string{"x.0", "x.1", "label"}, Derived: []monitor.Derived{{
			Name: "sum", Watched: true, Of: func(row []sketch.Value) (float64, bool) {
				return row[0].Float() + row[1].Float(), true
			}}}}
	s := newSource(9, 2)
	b := newBench(t, cfg, 2, nil)
	for range 50 {
		b.tick(s.request(100))
	}
	if n := b.run(s, 300, monitor.StateAlarm); n < 300 {
		t.Fatalf("an alarm after %d ticks: %s", n, b.status.Reason)
	}
	s.shift = 1
	if n := b.run(s, 50, monitor.StateAlarm); n == 50 ||
		!strings.Contains(b.status.Reason, "sum") {
		t.Errorf("after %d ticks: %s", n, b.status.Reason)
	}
	if _, err := monitor.New(cfg, signature(2), s.profile(t, 300)); !errors.Is(err,
		reference.ErrColumn) || !strings.Contains(err.Error(), `no "sum"`) {
		t.Errorf("with a reference without the column: %v", err)
	}
	cfg.Derived[0].Name = "x.1"
	if _, err := monitor.New(cfg, signature(2), nil); !errors.Is(err, reference.ErrColumn) {
		t.Errorf("by the name of another column: %v", err)
	}
}

// What a person says.
func TestCommands(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := monitor.Status{State: monitor.StateOK}
	if _, err := s.Acknowledge("ana", now); !errors.Is(err, monitor.ErrNotNow) {
		t.Errorf("nothing is acknowledged: %v", err)
	}
	if _, err := s.Resolve("ana", now); !errors.Is(err, monitor.ErrNotNow) {
		t.Errorf("nothing is resolved: %v", err)
	}
	s.State, s.Alarms, s.Kinds = monitor.StateAlarm, 1, []monitor.Kind{monitor.KindDrift}
	record := s.Record("watch")
	s, err := s.Acknowledge("ana", now)
	if err != nil || s.State != monitor.StateAcknowledged {
		t.Fatal(s, err)
	}
	if record = record.Follow(&s, "ana"); record.By != "ana" || !record.Resolved.IsZero() {
		t.Errorf("the record is %+v", record)
	}
	if _, err := s.Acknowledge("bob", now); !errors.Is(err, monitor.ErrNotNow) {
		t.Errorf("acknowledged twice: %v", err)
	}
	s = s.Fail(now, "the disk is gone")
	if s.State != monitor.StateAcknowledged || s.Reason != "the disk is gone" {
		t.Errorf("a fault takes the alarm away: %+v", s)
	}
	s = s.Reset("bob", now.Add(time.Hour))
	if s.State != monitor.StateLearning || s.Alarms != 1 {
		t.Errorf("after a reset: %+v", s)
	}
	record = record.Follow(&s, "bob")
	if !record.Resolved.Equal(now.Add(time.Hour)) || record.Resolution != "reset by bob" {
		t.Errorf("the record is %+v", record)
	}
}

// The clock says only when something was: evidence does not come of it.
func TestClockJumps(t *testing.T) {
	s := newSource(6, 3)
	b := newBench(t, monitor.Config{Every: 10_000, Tolerance: 0.1}, 3, s.profile(t, 10_000))
	for n := range 200 {
		b.tick(s.request(50))
		b.now = b.now.Add(time.Duration(1-2*(n%2)) * 1000 * time.Hour)
	}
	if b.status.State != monitor.StateOK {
		t.Errorf("the state is %s: %s", b.status.State, b.status.Reason)
	}
}

// A thousand monitors of fifty features fit into 100 MB.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := newSource(8, 49)
	text := new(strings.Builder)
	if err := s.profile(t, 10_000).Write(text); err != nil {
		t.Fatal(err)
	}
	const monitors = 200
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	runtime.ReadMemStats(&before)
	all := make([]*monitor.Monitor, monitors)
	for i := range all {
		p, err := reference.Read(strings.NewReader(text.String()))
		if err != nil {
			t.Fatal(err)
		}
		b := newBench(t, monitor.Config{Every: 1000, Tolerance: 0.1}, 49, p)
		b.tick(s.request(20))
		b.tick(s.request(20))
		all[i] = b.m
	}
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	runtime.ReadMemStats(&after)
	each := (after.HeapAlloc - before.HeapAlloc) / monitors
	t.Logf("%d bytes a monitor of 50 features", each)
	if each > 100_000 {
		t.Error("that is too much for a thousand")
	}
	runtime.KeepAlive(all)
}

func BenchmarkAdd(b *testing.B) {
	s := newSource(8, 50)
	bench := newBench(b, monitor.Config{Every: 1000, Tolerance: 0.1}, 50, s.profile(b, 10_000))
	in, out := s.request(1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bench.m.Add(at(bench.now, in, out)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTick(b *testing.B) {
	s := newSource(8, 50)
	bench := newBench(b, monitor.Config{Every: 1000, Tolerance: 0.1}, 50, s.profile(b, 10_000))
	in, out := s.request(100)
	b.ReportAllocs()
	for b.Loop() {
		bench.tick(in, out)
	}
}
