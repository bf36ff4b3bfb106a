package monitor_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift/performance"
)

// spoil makes some rows of a request far off, each in another column.
func (b *bench) spoil(s *source, rows, far int) {
	b.t.Helper()
	in, out := s.request(rows)
	for i := range far {
		copy(in[0].Data[8*(i*s.columns+s.IntN(s.columns)):], encode(50))
	}
	b.tick(in, out)
}

// Rows as in the reference have as many outliers as it has, which is no alarm; a few rows in a
// hundred that are far off are one, with their values, and it ends when there are none any more.
func TestOutliers(t *testing.T) {
	s := newSource(31, 30)
	cfg := monitor.Config{Every: 10_000, Tolerance: 0.1, Outliers: 0.01}
	b := newBench(t, cfg, 30, s.profile(t, 20_000))
	if n := b.run(s, 500, monitor.StateAlarm); n < 500 {
		t.Fatalf("an alarm after %d ticks: %s", n, b.status.Reason)
	}
	o := b.status.Last.Outliers
	share := float64(o.Above) / float64(o.Rows)
	if o.Rows != 50_000 || share < 0.007 || share > 0.013 || len(o.Examples) == 0 {
		t.Errorf("a share of %v: %+v", share, o)
	}
	n := 0
	for ; n < 100 && b.status.State != monitor.StateAlarm; n++ {
		b.spoil(s, 100, 5)
	}
	a := b.status.Record("watch")
	t.Logf("alarm of kind %s after %d ticks: %s", a.Kind, n, a.Reason)
	if n == 100 || a.Kind != monitor.KindOutliers {
		t.Fatalf("no alarm of outliers: %+v", b.status.Last.Strands)
	}
	for range 5 {
		b.spoil(s, 100, 5)
	}
	if e := b.status.Last.Outliers.Examples; len(e) != 3 || !strings.HasSuffix(e[0][0], "=50") {
		t.Errorf("the examples are %v", e)
	}
	if n = b.run(s, 2000, monitor.StateResolved); b.status.State != monitor.StateResolved {
		t.Errorf("it is not over after %d ticks: %v", n, b.status.Last.Strands)
	}
	if b.status.Alarms != 1 {
		t.Errorf("%d alarms: %v", b.status.Alarms, b.states)
	}
}

// An alarm of outliers alone has its kind and says the shares.
func TestOutliersReason(t *testing.T) {
	c := monitor.Config{Every: 100}
	strand := monitor.Strand{Kind: monitor.KindOutliers, Evidence: 200}
	s, restart := monitor.Status{State: monitor.StateOK}.Next(c, monitor.Reading{Strand: strand,
		Strands: []monitor.Strand{{Kind: monitor.KindDrift}, strand},
		Outliers: &monitor.Outliers{Strand: strand, Expected: 0.01, Limit: 0.02,
			Since: performance.Losses{Rows: 100, Sum: 5}}})
	want := "a share of 0.05, in the reference 0.01, and up to 0.02"
	if !restart || s.Record("w").Kind != monitor.KindOutliers || !strings.Contains(s.Reason, want) {
		t.Errorf("the status is %+v", s)
	}
}

// What was learned of outliers goes on in another process; a reference that knows none is refused.
func TestOutliersState(t *testing.T) {
	s := newSource(32, 3)
	p := s.profile(t, 5000)
	cfg := monitor.Config{Every: 1e6, Tolerance: 0.1, Outliers: 0.01}
	b := newBench(t, cfg, 3, p)
	for range 5 {
		b.spoil(s, 100, 2)
	}
	text, err := json.Marshal(b.m)
	if err != nil {
		t.Fatal(err)
	}
	other := newBench(t, cfg, 3, p)
	if err := json.Unmarshal(text, other.m); err != nil {
		t.Fatal(err)
	}
	other.now, other.status = b.now, b.status
	in, out := s.request(100)
	b.tick(in, out)
	other.tick(in, out)
	one, two := b.status.Last.Outliers, other.status.Last.Outliers
	if one.Strand != two.Strand || one.Above != two.Above || one.Recent != two.Recent ||
		one.Evidence == 0 {
		t.Errorf("they are %+v and %+v", one, two)
	}
	p.Outliers = nil
	_, err = monitor.New(cfg, signature(3), p)
	if !errors.Is(err, performance.ErrReference) ||
		!strings.Contains(err.Error(), "take `outliers`") {
		t.Errorf("the error is %v", err)
	}
}
