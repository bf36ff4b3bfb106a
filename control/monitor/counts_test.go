package monitor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// sorting is the signature of a model of rows with a region that answers with probabilities.
var sorting = &tensor.Signature{MaxBatchSize: 1024, Inputs: regional.Inputs,
	Outputs: classes.Outputs}

// sorted makes a request of some rows, of which those of one region are shifted, and its answer.
func sorted(r *rand.Rand, rows int, shift float64) (in, out []tensor.Tensor) {
	var p []byte
	for range rows {
		sure := 0.5 + r.Float64()/2
		p = append(append(p, encode(1-sure)...), encode(sure)...)
	}
	return regions(r, rows, "west", shift), []tensor.Tensor{{Name: "p", Datatype: tensor.FP64,
		Shape: []int64{int64(rows), 2}, Data: p}}
}

// sortedProfile is a reference of such rows.
func sortedProfile(t testing.TB, r *rand.Rand, season reference.Season) *reference.Profile {
	t.Helper()
	rows := drift.NewRows(sorting)
	c, err := reference.NewCollector(rows.Columns(), reference.Options{Segment: "region",
		Season: season, Outputs: monitor.Outputs(sorting)})
	if err != nil {
		t.Fatal(err)
	}
	for hour := range 48 {
		in, out := sorted(r, 1000, 0)
		at := time.Unix(1e9, 0).Add(time.Duration(hour) * time.Hour)
		err := rows.Each(in, out, func(row []sketch.Value) error { return c.Add(at, row) })
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := c.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// everything is a monitor that looks at all there is.
func everything(segment string, expected *float64) monitor.Config {
	return monitor.Config{Every: 2000, Tolerance: 0.1, Segment: segment, Outliers: 0.01,
		Loss: &monitor.Loss{Output: "p.class", Probabilities: "p", Rows: 300, Expected: expected}}
}

func sortingMonitor(t testing.TB, cfg monitor.Config, p *reference.Profile) *monitor.Monitor {
	t.Helper()
	m, err := monitor.New(cfg, sorting, p)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// carried returns counts as they come out of their JSON form.
func carried(t testing.TB, m *monitor.Monitor) *monitor.Counts {
	t.Helper()
	c, err := m.Take()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	c = monitor.Counts{}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

// replicas are monitors of which the first judges, and one that sees what all of them do.
type replicas struct {
	*testing.T
	*rand.Rand
	now time.Time
	one *monitor.Monitor
	all []*monitor.Monitor
}

// request is dealt to one of the replicas; later it becomes known how right its answers were.
func (r *replicas) request(shift, wrong float64) {
	in, out := sorted(r.Rand, 1+r.IntN(40), shift)
	r.now = r.now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
	id := []byte(r.now.String() + fmt.Sprint(r.Uint64()))
	q := monitor.Request{ID: id, Time: r.now, Inputs: in, Outputs: out}
	var labels []any
	for range in[0].Shape[0] {
		class := 1
		if r.Float64() < wrong {
			class = 0
		}
		labels = append(labels, class)
	}
	if r.IntN(10) == 0 {
		labels = append(labels, "too many")
	}
	text, err := json.Marshal(labels)
	if err != nil {
		r.Fatal(err)
	}
	for _, m := range []*monitor.Monitor{r.one, r.all[r.IntN(len(r.all))]} {
		if _, err := m.Add(&q); err != nil {
			r.Fatal(err)
		}
		if len(labels) > 20 {
			continue // never known
		}
		m.Label(r.now, id, text)
	}
}

// merge brings what all but the first have counted to it, in any order.
func (r *replicas) merge() {
	for _, i := range r.Perm(len(r.all) - 1) {
		if err := r.all[0].AddCounts(carried(r.T, r.all[i+1]), r.now); err != nil {
			r.Fatal(err)
		}
	}
}

// want wants a reading to be as another, but for the examples of rows. The sums of confidences
// depend on the order in which they are added, in their last digits.
func (r *replicas) want(got, want monitor.Reading) {
	r.Helper()
	strip := func(x monitor.Reading) (monitor.Reading, monitor.Estimate) {
		var e monitor.Estimate
		p, o := *x.Performance, *x.Outliers
		if p.Estimate != nil {
			e = *p.Estimate
		}
		p.Estimate, o.Examples, x.Examples = nil, nil, nil
		x.Performance, x.Outliers = &p, &o
		return x, e
	}
	a, e := strip(got)
	b, f := strip(want)
	if !reflect.DeepEqual(a, b) {
		r.Fatalf("at %s the replicas read\n%+v\none process\n%+v", r.now, a, b)
	}
	if e.Rows != f.Rows || math.Abs(e.Accuracy-f.Accuracy) > 1e-9 || math.Abs(e.Gap-f.Gap) > 1e-9 {
		r.Fatalf("at %s the replicas estimate\n%+v\none process\n%+v", r.now, e, f)
	}
}

// Requests that are dealt at random to replicas, of which one adds what the others have counted,
// give the readings of one process: with sound rows and with others, over alarms and beyond.
func TestReplicasReadAsOne(t *testing.T) {
	expected := 0.1
	f := func(of int, segment string, season reference.Season, expected *float64) {
		t.Helper()
		rng := rand.New(rand.NewPCG(uint64(of), 3))
		p := sortedProfile(t, rng, season)
		cfg := everything(segment, expected)
		r := &replicas{T: t, Rand: rng, now: time.Unix(1e9, 0).UTC(),
			one: sortingMonitor(t, cfg, p)}
		for range of {
			r.all = append(r.all, sortingMonitor(t, cfg, p))
		}
		kinds := make(map[monitor.Kind]int)
		for tick := range 300 {
			shift, wrong := 0.0, 0.1
			if tick >= 150 {
				wrong = 0.5
			}
			if tick >= 200 {
				shift, wrong = 3, 0.1
			}
			for range rng.IntN(8) {
				r.request(shift, wrong)
			}
			r.merge()
			r.now = r.now.Add(time.Minute)
			got, err := r.all[0].Tick(r.now)
			want, other := r.one.Tick(r.now)
			if err != nil || other != nil {
				t.Fatal(err, other)
			}
			r.want(got, want)
			if want.Evidence >= cfg.Every {
				kinds[want.Kind]++
				r.all[0].Restart()
				r.one.Restart()
			}
		}
		last := r.one.Last()
		t.Logf("%d rows, %d losses, alarms %v", last.Total, last.Performance.Known, kinds)
		if len(kinds) < 2 || last.Performance.Unknown == 0 || last.Performance.Estimate == nil {
			t.Errorf("not all was tried: %+v", last.Strands)
		}
	}
	f(2, "", reference.NoSeason, &expected)
	f(4, "region", reference.NoSeason, nil)
	f(7, "region", reference.HourOfDay, &expected)
}

// Counts that were damaged, or that nobody can have made, are refused and change nothing.
func TestCountsRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	p := sortedProfile(t, rng, reference.NoSeason)
	expected := 0.1
	now := time.Unix(1e9, 0).UTC()
	for _, segment := range []string{"", "region"} {
		cfg := everything(segment, &expected)
		m := sortingMonitor(t, cfg, p)
		r := &replicas{T: t, Rand: rng, now: now, one: sortingMonitor(t, cfg, p),
			all: []*monitor.Monitor{sortingMonitor(t, cfg, p)}}
		for range 10 {
			r.request(0, 0.1)
		}
		good := carried(t, r.one)
		f := func(want error, change func(*monitor.Counts)) {
			t.Helper()
			c := *good
			answers := *good.Answers
			c.Answers, c.Window = &answers, append([]byte(nil), good.Window...)
			change(&c)
			if err := m.AddCounts(&c, now); !errors.Is(err, want) {
				t.Errorf("the error is %v, want %v", err, want)
			}
		}
		bad := monitor.ErrCounts
		f(monitor.ErrState, func(c *monitor.Counts) { c.Reference = "other" })
		f(bad, func(c *monitor.Counts) { c.Rows++ })
		f(bad, func(c *monitor.Counts) { c.Rows, c.Outliers.Rows = 1<<63, 1<<63 })
		f(bad, func(c *monitor.Counts) { c.Rows, c.Outliers.Rows = c.Rows+1, c.Rows+1 })
		f(bad, func(c *monitor.Counts) { c.Window = nil })
		f(bad, func(c *monitor.Counts) { c.Window = c.Window[1:] })
		f(bad, func(c *monitor.Counts) { c.Window = append(c.Window, 0) })
		f(bad, func(c *monitor.Counts) { c.Window = c.Window[:len(c.Window)-1] })
		f(bad, func(c *monitor.Counts) { c.Outliers.Sum = -1 })
		f(bad, func(c *monitor.Counts) { c.Outliers.Sum = math.NaN() })
		f(bad, func(c *monitor.Counts) { c.Outliers.Rows = 0 })
		f(bad, func(c *monitor.Counts) { c.Answers = nil })
		f(bad, func(c *monitor.Counts) { c.Answers.Unknown = 1 << 50 })
		f(bad, func(c *monitor.Counts) { c.Answers.Losses.Sum = math.Inf(1) })
		f(bad, func(c *monitor.Counts) { c.Answers.Losses.Rows = 1 << 41 })
		f(bad, func(c *monitor.Counts) { c.Answers.Scores.Confidence[3] = -1 })
		f(bad, func(c *monitor.Counts) { c.Answers.Labelled.Rows[3] = 1 << 41 })
		f(bad, func(c *monitor.Counts) { c.Answers.Labelled.Right[18]++ })
		now = r.now
		for range 300 { // most bytes are counts, of which each row has as many
			f(bad, func(c *monitor.Counts) { c.Window[2] ^= 1 << rng.IntN(8) })
		}
		if x, err := m.Tick(now); err != nil || x.Total+x.Ticks+x.Outliers.Rows+x.Outliers.Ticks+
			x.Performance.Known+x.Performance.Unknown+x.Performance.Ticks != 0 {
			t.Errorf("something was counted: %+v, %v", x, err)
		}
		m = sortingMonitor(t, cfg, p)
		if err := m.AddCounts(good, now); err != nil {
			t.Error(err)
		}
		x, err := m.Tick(now)
		other, fault := r.all[0].Tick(now)
		if err != nil || fault != nil {
			t.Fatal(err, fault)
		}
		if r.want(x, other); x.Total == 0 || x.Performance.Known == 0 {
			t.Errorf("the counts are %+v", x)
		}
	}
}

// Nothing in counts makes a monitor fail or panic, now or at its next tick.
func FuzzAddCounts(f *testing.F) {
	expected := 0.1
	source := newSource(61, 3)
	p := source.profile(f, 5000)
	cfg := monitor.Config{Every: 1000, Tolerance: 0.1, Outliers: 0.01,
		Loss: &monitor.Loss{Output: "score", Expected: &expected, Rows: 1000}}
	sender, err := monitor.New(cfg, signature(3), p)
	if err != nil {
		f.Fatal(err)
	}
	for range 3 {
		in, out := source.request(20)
		if _, err := sender.Add(at(time.Unix(1e9, 0), in, out)); err != nil {
			f.Fatal(err)
		}
		text, err := json.Marshal(carried(f, sender))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	m, err := monitor.New(cfg, signature(3), p)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var c monitor.Counts
		if json.Unmarshal(text, &c) != nil {
			return
		}
		c.Reference = carried(t, sender).Reference
		now := time.Unix(1e9, 0)
		before := m.Counting(now)
		err := m.AddCounts(&c, now)
		if err != nil && !errors.Is(err, monitor.ErrCounts) {
			t.Errorf("the error is %v", err)
		}
		if after := m.Counting(now); err != nil && !reflect.DeepEqual(after, before) {
			t.Errorf("%+v is after an error %+v", before, after)
		}
		if r, err := m.Tick(now); err != nil || math.IsNaN(r.Evidence) {
			t.Errorf("%+v, %v", r, err)
		}
		m.Restart()
	})
}

// What a tick of a replica costs it and its judge: 50 features, 1000 rows.
func BenchmarkCounts(b *testing.B) {
	source := newSource(62, 50)
	m, err := monitor.New(monitor.Config{Every: 1000}, signature(50), source.profile(b, 5000))
	if err != nil {
		b.Fatal(err)
	}
	in, out := source.request(1000)
	now := time.Unix(1e9, 0)
	if _, err := m.Add(at(now, in, out)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := m.Take()
		if err != nil {
			b.Fatal(err)
		}
		text, err := json.Marshal(c)
		if err != nil {
			b.Fatal(err)
		}
		c = monitor.Counts{}
		if err := json.Unmarshal(text, &c); err != nil {
			b.Fatal(err)
		}
		if err := m.AddCounts(&c, now); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(text)))
	}
}
