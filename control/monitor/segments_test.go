package monitor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// regional is the signature of a model of rows with a region.
var regional = &tensor.Signature{MaxBatchSize: 1024, Inputs: []tensor.Spec{
	{Name: "region", Datatype: tensor.Bytes, Shape: []int64{-1, 1}},
	{Name: "x", Datatype: tensor.FP64, Shape: []int64{-1, 3}}}}

// regions makes rows of four regions, of which each next is half as frequent, with one column of
// one of them shifted.
func regions(r *rand.Rand, rows int, shifted string, shift float64) []tensor.Tensor {
	names := [...]string{"north", "south", "east", "west"}
	var texts, numbers []byte
	for range rows {
		at := min(int(r.ExpFloat64()/0.7), len(names)-1)
		texts = tensor.AppendElement(texts, []byte(names[at]))
		for c := range 3 {
			x := float64(at) + r.NormFloat64()
			if c == 1 && names[at] == shifted {
				x += shift
			}
			numbers = append(numbers, encode(x)...)
		}
	}
	n := int64(rows)
	return []tensor.Tensor{
		{Name: "region", Datatype: tensor.Bytes, Shape: []int64{n, 1}, Data: texts},
		{Name: "x", Datatype: tensor.FP64, Shape: []int64{n, 3}, Data: numbers}}
}

// regionsProfile is a reference of such rows, with their regions or without.
func regionsProfile(t *testing.T, r *rand.Rand, segment string) *reference.Profile {
	t.Helper()
	rows := drift.NewRows(regional)
	c, err := reference.NewCollector(rows.Columns(), reference.Options{Segment: segment})
	if err != nil {
		t.Fatal(err)
	}
	err = rows.Each(regions(r, 20_000, "", 0), nil, func(row []sketch.Value) error {
		return c.Add(time.Time{}, row)
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func regionsBench(t *testing.T, cfg monitor.Config, p *reference.Profile) *bench {
	t.Helper()
	m, err := monitor.New(cfg, regional, p)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, cfg: cfg, m: m, now: time.Unix(1e9, 0)}
	b.status = b.status.Begin(subject, cfg.Every, b.now, "")
	return b
}

// Rows of all segments as in the reference are no alarm; those of a small one that have drifted are
// an alarm that names it, and the outliers and all rows are looked at as ever.
func TestSegments(t *testing.T) {
	r := rand.New(rand.NewPCG(41, 7))
	p := regionsProfile(t, r, "region")
	cfg := monitor.Config{Every: 10_000, Tolerance: 0.1, Segment: "region", Outliers: 0.01}
	b := regionsBench(t, cfg, p)
	for n := range 400 {
		if b.tick(regions(r, 100, "", 0), nil); b.status.State == monitor.StateAlarm {
			t.Fatalf("an alarm after %d ticks: %s", n, b.status.Reason)
		}
	}
	if o := b.status.Last.Outliers; o.Rows != 40_000 || o.Above == 0 ||
		o.Above > 800 || b.status.Last.Total != 40_000 {
		t.Errorf("the outliers are %+v", o)
	}
	n := 0
	for ; n < 100 && b.status.State != monitor.StateAlarm; n++ {
		b.tick(regions(r, 100, "west", 0.9), nil)
	}
	a := b.status.Record("watch")
	t.Logf("alarm of kind %s after %d ticks: %s", a.Kind, n, a.Reason)
	if a.Kind != monitor.KindSegment || !strings.Contains(a.Reason, "region=west (x.1)") {
		t.Errorf("%+v", b.status.Last.Strands)
	}
	if s := a.Reading.Segments; s.List[0].Value != "west" || !s.List[0].Named || len(s.List) < 4 {
		t.Errorf("the segments are %+v", s)
	}
	for n = 0; n < 2000 && b.status.State != monitor.StateResolved; n++ {
		b.tick(regions(r, 100, "", 0), nil)
	}
	if b.status.State != monitor.StateResolved || b.status.Alarms != 1 {
		t.Errorf("after %d ticks: %s, %v", n, b.status.Reason, b.states)
	}
}

// All values that have no segment are told as such.
func TestOtherSegment(t *testing.T) {
	if text := (&monitor.Segment{}).Text("region"); text != "another region" {
		t.Error(text)
	}
}

// Segments of a reference that is learned, over a restart.
func TestSegmentsState(t *testing.T) {
	r := rand.New(rand.NewPCG(42, 7))
	cfg := monitor.Config{Every: 1e6, Tolerance: 0.1, Segment: "region", Learn: 10_000}
	b := regionsBench(t, cfg, nil)
	for range 105 {
		b.tick(regions(r, 100, "", 0), nil)
	}
	b.tick(regions(r, 100, "west", 1), nil)
	text, err := json.Marshal(b.m)
	if err != nil {
		t.Fatal(err)
	}
	other := regionsBench(t, cfg, nil)
	if err := json.Unmarshal(text, other.m); err != nil {
		t.Fatal(err)
	}
	in := regions(r, 100, "west", 1)
	b.tick(in, nil)
	other.now, other.status = b.now, b.status
	if _, err := other.m.Add(&monitor.Request{Time: b.now, Inputs: in}); err != nil {
		t.Fatal(err)
	}
	found, err := other.m.Tick(b.now)
	if err != nil {
		t.Fatal(err)
	}
	one, two := fmt.Sprint(b.status.Last.Segments.List), fmt.Sprint(found.Segments.List)
	if one != two || found.Segments.Evidence == 0 || found.Segments.Ticks < 2 {
		t.Errorf("the segments are\n%s\n%s", one, two)
	}
}

// A reference without segments, or with others, is refused by name.
func TestSegmentsFaults(t *testing.T) {
	r := rand.New(rand.NewPCG(43, 7))
	cfg := monitor.Config{Every: 1000, Segment: "region"}
	_, err := monitor.New(cfg, regional, regionsProfile(t, r, ""))
	if !errors.Is(err, drift.ErrNoSegments) || !strings.Contains(err.Error(), `by "region"`) {
		t.Errorf("the error is %v", err)
	}
	cfg = monitor.Config{Every: 1000, Segment: "country", Learn: 1000}
	if _, err = monitor.New(cfg, regional, nil); err == nil ||
		!strings.Contains(err.Error(), "country") {
		t.Errorf("the error is %v", err)
	}
}
