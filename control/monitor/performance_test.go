package monitor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
)

// labelled has a monitor see a request of some rows, and its scores as labels, each of which is
// moved with a probability.
func (b *bench) labelled(s *source, rows int, wrong float64) {
	b.t.Helper()
	for i := range rows {
		in, out := s.request(1)
		id := fmt.Appendf(nil, "%d-%d", b.now.UnixNano(), i)
		q := &monitor.Request{ID: id, Time: b.now, Inputs: in, Outputs: out}
		if _, err := b.m.Add(q); err != nil {
			b.t.Fatal(err)
		}
		truth := score(out[0].Data)
		if s.Float64() < wrong {
			truth++
		}
		b.m.Label(b.now, id, fmt.Appendf(nil, "%v", truth))
	}
	b.judge()
}

// errors of which five in a hundred were there in the reference.
func losses(output string, scale float64) *monitor.Loss {
	expected := 0.05
	return &monitor.Loss{Output: output, Scale: scale, Expected: &expected, Rows: 10_000}
}

// Answers that are wrong as often as in the reference are no alarm; those that are wrong more often
// are one, of its kind, and it ends when they are right again.
func TestPerformanceAlarm(t *testing.T) {
	for _, scale := range []float64{0, 1} {
		s := newSource(21, 3)
		cfg := monitor.Config{Every: 10_000, Tolerance: 0.1, Loss: losses("score", scale)}
		b := newBench(t, cfg, 3, s.profile(t, 20_000))
		for n := range 500 {
			if b.labelled(s, 20, 0.05); b.status.State == monitor.StateAlarm {
				t.Fatalf("an alarm after %d ticks: %s", n, b.status.Reason)
			}
		}
		n := 0
		for ; n < 100 && b.status.State != monitor.StateAlarm; n++ {
			b.labelled(s, 20, 0.2)
		}
		t.Logf("alarm after %d ticks of 20 labels: %s", n, b.status.Reason)
		if b.status.State != monitor.StateAlarm || !strings.Contains(b.status.Reason, "worse") {
			t.Fatalf("no alarm: %s: %s", b.status.State, b.status.Reason)
		}
		a := b.status.Record("watch")
		if a.Kind != monitor.KindPerformance || a.Began.IsZero() ||
			a.Reading.Performance.Known == 0 {
			t.Errorf("the record is %+v", a)
		}
		for range 100 {
			b.labelled(s, 20, 0.2)
		}
		if b.status.Alarms != 1 || b.status.State != monitor.StateAlarm {
			t.Errorf("while it lasts there are %d alarms: %v", b.status.Alarms, b.states)
		}
		for n = 0; n < 1000 && b.status.State != monitor.StateResolved; n++ {
			b.labelled(s, 20, 0.05)
		}
		t.Logf("resolved after %d ticks: %s", n, b.status.Reason)
		if b.status.State != monitor.StateResolved {
			t.Error("the alarm does not end")
		}
	}
}

// Without labels an alarm is not over, however many rows come: its reason says so once, also after
// a restart, as long as none come.
func TestLabelsStop(t *testing.T) {
	s := newSource(27, 3)
	p := s.profile(t, 20_000)
	cfg := monitor.Config{Every: 10_000, Tolerance: 0.1, Loss: losses("score", 0)}
	b := newBench(t, cfg, 3, p)
	for n := 0; n < 100 && b.status.State != monitor.StateAlarm; n++ {
		b.labelled(s, 20, 0.3)
	}
	at := b.now
	says := func(want int) {
		t.Helper()
		const text = "; no labels since 2001-09-09T"
		if b.status.State != monitor.StateAlarm || strings.Count(b.status.Reason, text) != want ||
			!strings.HasPrefix(b.status.Reason, "answers are worse") {
			t.Errorf("%v after the last label it is %s: %s", b.now.Sub(at), b.status.State,
				b.status.Reason)
		}
	}
	quiet := func(ticks, rows int) {
		t.Helper()
		for range ticks {
			b.tick(s.request(rows))
		}
	}
	quiet(59, 10)
	for range 100 {
		b.judge() // nobody calls
	}
	says(0)
	quiet(1, 10)
	says(1)
	text, err := json.Marshal(b.m)
	if err == nil {
		b.m = newBench(t, cfg, 3, p).m
		err = json.Unmarshal(text, b.m)
	}
	if err != nil {
		t.Fatal(err)
	}
	quiet(1000, 1)
	says(1)
	b.labelled(s, 20, 0.05)
	says(0)
	quiet(100, 1)
	says(1)
	for n := 0; n < 1000 && b.status.State != monitor.StateResolved; n++ {
		b.labelled(s, 20, 0.05)
	}
	if b.status.State != monitor.StateResolved || b.status.Alarms != 1 {
		t.Errorf("with sound answers it is %s: %s", b.status.State, b.status.Reason)
	}
}

// answered is an answer of some rows, which are 1, 2 and so on, and the scale of its errors.
type answered struct {
	scale float64
	rows  int
}

// What labels are compared with, and what is no loss.
func TestLabels(t *testing.T) {
	s := newSource(22, 2)
	p := s.profile(t, 1000)
	type counts struct{ known, unknown uint64 }
	f := func(a answered, label string, want counts, loss float64) {
		t.Helper()
		b := newBench(t, monitor.Config{Every: 1000, Loss: losses("score", a.scale)}, 2, p)
		in, out := s.request(a.rows)
		for i := range a.rows {
			copy(out[0].Data[8*i:], encode(float64(i+1)))
		}
		q := &monitor.Request{ID: []byte("a"), Inputs: in, Outputs: out}
		if _, err := b.m.Add(q); err != nil {
			t.Fatal(err)
		}
		b.m.Label(b.now, []byte("a"), []byte(label))
		r, err := b.m.Tick(b.now)
		if err != nil {
			t.Fatal(err)
		}
		got := r.Performance
		if (counts{got.Known, got.Unknown}) != want {
			t.Errorf("%s: %d known, %d unknown, want %v", label, got.Known, got.Unknown, want)
		}
		if want.known == 0 {
			return
		}
		// One tick moves the recent mean a hundredth of the way from the limit.
		moved := -math.Expm1(-float64(want.known) / 100)
		if recent := got.Limit + moved*(loss-got.Limit); math.Abs(got.Recent-recent) > 1e-9 {
			t.Errorf("%s: the mean loss is %v, want %v", label, got.Recent, recent)
		}
	}
	f(answered{0, 1}, `1`, counts{1, 0}, 0)
	f(answered{0, 1}, `1.0`, counts{1, 0}, 0)
	f(answered{0, 1}, `"1"`, counts{1, 0}, 0)
	f(answered{0, 1}, `"cat"`, counts{1, 0}, 1)
	f(answered{0, 1}, `2`, counts{1, 0}, 1)
	f(answered{0, 1}, `true`, counts{1, 0}, 1)
	f(answered{0, 1}, `[1]`, counts{1, 0}, 0)
	f(answered{0, 2}, `[1, 3]`, counts{2, 0}, 0.5)
	f(answered{0, 2}, `1`, counts{0, 1}, 0)
	f(answered{0, 2}, `[1]`, counts{0, 1}, 0)
	f(answered{0, 1}, `[1, 2]`, counts{0, 2}, 0)
	f(answered{0, 1}, `{"a": 1}`, counts{0, 1}, 0)
	f(answered{0, 1}, `1e999`, counts{0, 1}, 0)
	f(answered{0, 1}, `"`, counts{0, 1}, 0)
	f(answered{4, 1}, `2`, counts{1, 0}, 0.25)
	f(answered{4, 1}, `-100`, counts{1, 0}, 1)
	f(answered{4, 1}, `"cat"`, counts{0, 1}, 0)
}

// The latest answers are remembered, each until its label has come.
func TestForgottenAnswers(t *testing.T) {
	const remembered = 65_536
	s := newSource(23, 1)
	b := newBench(t, monitor.Config{Every: 1000, Loss: losses("score", 0)}, 1, s.profile(t, 1000))
	in, out := s.request(1)
	label := []byte(`1`)
	for i := range remembered + 10 {
		q := &monitor.Request{ID: fmt.Append(nil, i), Inputs: in, Outputs: out}
		if _, err := b.m.Add(q); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"0", "9", "10", "10", "65545", "never"} {
		b.m.Label(b.now, []byte(id), label)
	}
	r, err := b.m.Tick(b.now)
	if err != nil || r.Performance.Known != 2 || r.Performance.Unknown != 4 {
		t.Errorf("%+v, %v", r.Performance, err)
	}
}

// Rewards need no answers, and the first ones may be the reference; what was learned goes on in
// another process.
func TestRewards(t *testing.T) {
	s := newSource(24, 2)
	p := s.profile(t, 1000)
	cfg := monitor.Config{Every: 1000, Tolerance: 0.1, Loss: &monitor.Loss{Rows: 500}}
	b := newBench(t, cfg, 2, p)
	rewards := func(mean float64) {
		for range 50 {
			b.m.Reward(b.now, mean)
		}
		text, err := json.Marshal(b.m)
		if err != nil {
			t.Fatal(err)
		}
		// The rewards since the last tick are lost, as in a crash, and come again.
		b.m = newBench(t, cfg, 2, p).m
		if err := json.Unmarshal(text, b.m); err != nil {
			t.Fatal(err)
		}
		if b.status.Last.Performance != nil && b.status.Last.Performance.Learn == 0 {
			for range 50 {
				b.m.Reward(b.now, mean)
			}
		}
		b.tick(s.request(10))
	}
	for range 9 {
		rewards(0.8)
	}
	if r := b.status.Last.Performance; r.Learned != 450 || r.Learn != 500 ||
		b.status.Last.Ticks == 0 {
		t.Fatalf("while it is learned: %+v", r)
	}
	for range 100 {
		rewards(0.8)
	}
	if r := b.status.Last.Performance; r.Learn != 0 || math.Abs(r.Expected-0.2) > 1e-9 ||
		b.status.Alarms != 0 {
		t.Fatalf("with the same rewards: %+v, %s", r, b.status.Reason)
	}
	for range 20 {
		rewards(0.4)
	}
	if b.status.Alarms != 1 || b.status.Kinds[0] != monitor.KindPerformance {
		t.Errorf("the status is %+v", b.status)
	}
}

// An alarm that comes on top of another is told with it, and both must be over.
func TestTwoKinds(t *testing.T) {
	s := newSource(25, 3)
	b := newBench(t, monitor.Config{Every: 1000, Tolerance: 0.1, Loss: losses("score", 0)}, 3,
		s.profile(t, 10_000))
	s.shift = 2
	for range 10 {
		b.labelled(s, 20, 0)
	}
	s.shift = 0
	for range 50 {
		b.labelled(s, 20, 0.5)
	}
	if b.status.Alarms != 1 || len(b.status.Kinds) != 2 || b.status.Kinds[0] != monitor.KindDrift ||
		!strings.Contains(b.status.Reason, "later answers are worse") {
		t.Errorf("the status is %+v", b.status)
	}
}

// What cannot be compared is refused by name, and a state of other losses is another reference's.
func TestPerformanceFaults(t *testing.T) {
	p := newSource(1, 2).profile(t, 300)
	cfg := monitor.Config{Every: 100, Loss: losses("class", 0)}
	_, err := monitor.New(cfg, signature(2), p)
	want := `called "class", as performance.output says; there are: score`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v", err)
	}
	cfg.Loss = losses("score", 0)
	b := newBench(t, cfg, 2, p)
	text, err := json.Marshal(b.m)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(old, with string) string { return strings.Replace(string(text), old, with, 1) }
	for _, text := range []string{spoil(`"learned":{"rows":10000`, `"learned":{"rows":20000`),
		spoil(`"harm":{`, `"harm":{"x":[`)} {
		if err := b.m.UnmarshalJSON([]byte(text)); !errors.Is(err, monitor.ErrState) {
			t.Errorf("%.60s: %v", text, err)
		}
	}
	if _, err := b.m.Tick(time.Time{}); err != nil {
		t.Error(err)
	}
}

// The promise is for all kinds of evidence together: with K of them that each may be wrong once in
// K A ticks, no more than n/A of many streams have an alarm within n ticks.
func TestPromiseOfKinds(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const streams, ticks, every, kinds = 400, 50, 200, 3
	s := newSource(26, 3)
	p := s.profile(t, 20_000)
	cfg := monitor.Config{Every: every * kinds, Outliers: 0.01, Loss: losses("score", 0)}
	alarms := 0
	for range streams {
		b := newBench(t, cfg, 3, p)
		for range ticks {
			b.labelled(s, 20, 0.05)
		}
		alarms += min(b.status.Alarms, 1)
	}
	bound := float64(streams*ticks) / every
	t.Logf("%d of %d streams have an alarm, %v may", alarms, streams, bound)
	if float64(alarms) > bound+3*math.Sqrt(bound) {
		t.Errorf("%d alarms, %v are promised at most", alarms, bound)
	}
}
