package control

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// scores has the plane say who scores the answers of endpoint e. Ticks come after it.
func (b *bench) scores() (now func() *route.Scorer) {
	var of *route.Scorer
	b.cfg.Scorers = func(all map[string]*route.Scorer) {
		if of = all["e"]; len(all) > 1 || len(all) == 1 && of == nil {
			b.t.Errorf("the scorers are %v", all)
		}
	}
	b.Plane.cfg.Scorers = b.cfg.Scorers
	return func() *route.Scorer {
		b.tickAll(b.now)
		return of
	}
}

// inputs are one row of zeros but for some features.
func (s *stream) inputs(of map[int]float32) []tensor.Tensor {
	row := make([]float32, s.features())
	for i, x := range of {
		row[i] = x
	}
	return []tensor.Tensor{floats([]int64{1, int64(len(row))}, row...)}
}

const scoring = `, "outliers": 0.01, "outlier_score": true`

// A monitor that scores does so for the version that it watches, with its own reference, as long
// as it is there; scores count for nothing.
func TestScores(t *testing.T) {
	b, s := watching(t, scoring)
	now := b.scores()
	f := func(version string) *route.Scorer {
		t.Helper()
		of := now()
		if of == nil || of.Model != "m" || of.Version != version {
			t.Fatalf("the scorer is %+v, want one of version %s", of, version)
		}
		if again := now(); again != of {
			t.Error("it is another at the next tick")
		}
		usual, outlier, ok := of.Score(s.inputs(nil), nil)
		if outlier || !ok {
			t.Errorf("the mean row has the score %v, %v, %v", usual, outlier, ok)
		}
		for i := range s.features() {
			x, outlier, ok := of.Score(s.inputs(map[int]float32{i: 50}), nil)
			if !outlier || !ok || x <= usual {
				t.Errorf("a strange row has the score %v, %v, %v", x, outlier, ok)
			}
		}
		return of
	}
	f("1")
	s.ticks(3, monitor.StateAlarm)
	if o := s.status().Last.Outliers; o == nil || o.Rows != s.status().Last.Total || o.Rows > 150 {
		t.Errorf("what was scored is counted: %+v", o)
	}
	b.aliases("2", "2")
	b.opened()
	f("2")
	b.restart()
	b.opened()
	f("2")
	b.remove("Monitor", "watch")
	if of := now(); of != nil {
		t.Errorf("without a monitor there is %+v", of)
	}
}

// Without the key nobody is told of a scorer.
func TestNoScores(t *testing.T) {
	b, s := watching(t, `, "outliers": 0.01`)
	now := b.scores()
	if s.ticks(3, monitor.StateAlarm); now() != nil {
		t.Error("there is a scorer")
	}
}

// Where a reference is learned there is no score until it is there; then its columns that are
// computed are part of a row, as is the case after a restart. To learn anew ends it.
func TestLearnedScores(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion"}`)
	s := newStream(b)
	b.put("Monitor", "watch", `{"endpoint": "e", "reference": {"learn": 2000}, "metrics": [
		{"name": "difference", "expression": "row['X.0'] - row['X.1']", "type": "stream"},
		{"name": "seen", "expression": "row['X.0']", "type": "histogram", "buckets": [0]}],
		"ignore": ["label", "probabilities.0", "probabilities.1", "probabilities.2",
		"probabilities.class"]`+scoring+`}`)
	now := b.scores()
	b.opened()
	if s.ticks(20, monitor.StateOK); now() != nil {
		t.Fatal("there is a scorer before there is a reference")
	}
	s.ticks(40, monitor.StateOK)
	f := func(what string) {
		t.Helper()
		of := now()
		if of == nil {
			t.Fatalf("%s: there is no scorer: %+v", what, s.status())
		}
		apart, _, ok := of.Score(s.inputs(map[int]float32{0: 2, 1: -2}), nil)
		together, _, _ := of.Score(s.inputs(map[int]float32{0: 2, 1: 2}), nil)
		if !ok || apart <= together {
			t.Errorf("%s: a great difference has the score %v, none %v", what, apart, together)
		}
	}
	f("learned")
	b.restart()
	b.opened()
	f("after a restart")
	if _, err := b.Monitor(t.Context(), "watch", MonitorReset, ana); err != nil {
		t.Fatal(err)
	}
	if b.opened(); now() != nil {
		t.Error("after a reset there is a scorer")
	}
	if n := b.log.count("panic"); n != 0 {
		t.Error(b.log.text.String())
	}
}

// Requests at a time are scored as they are alone, and take no memory.
func TestScoresConcurrently(t *testing.T) {
	b, s := watching(t, scoring)
	of := b.scores()()
	var requests [][]tensor.Tensor
	var want []string
	score := func(in []tensor.Tensor) string {
		x, outlier, ok := of.Score(in, nil)
		return fmt.Sprint(x, outlier, ok)
	}
	for i := range 100 {
		in := []tensor.Tensor{floats([]int64{1, int64(s.features())}, s.row()...)}
		if i%10 == 0 {
			in = s.inputs(map[int]float32{i / 10: 50})
		}
		requests, want = append(requests, in), append(want, score(in))
	}
	if n := len(slices.DeleteFunc(slices.Clone(want), func(text string) bool {
		return !strings.Contains(text, "true true")
	})); n < 10 || n > 20 {
		t.Errorf("%d of 100 rows are outliers: %v", n, want)
	}
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			for i := range 1000 {
				at := (i + 13*g) % len(requests)
				if got := score(requests[at]); got != want[at] {
					t.Errorf("row %d has %s, want %s", at, got, want[at])
					return
				}
			}
		})
	}
	wait.Wait()
	if n := testing.AllocsPerRun(1000, func() { of.Score(requests[0], nil) }); n != 0 {
		t.Errorf("a request takes memory %v times", n)
	}
}
