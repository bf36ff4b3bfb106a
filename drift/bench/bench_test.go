package main

import (
	"encoding/json"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tiny are settings that take a second, with the others' figures made up.
func tiny(t *testing.T) settings {
	t.Helper()
	dir := t.TempDir()
	s := settings{dir: dir, document: filepath.Join(dir, "drift.md"), reuse: true, streams: 8,
		clean: 40_000, reference: 500, horizon: 40, after: 300, days: 4,
		logger: slog.New(slog.DiscardHandler)}
	figures := map[string][]figure{
		"river": {
			{Detector: "slow", Kind: "normal", Clean: rate{40_000, 20},
				Delays: map[string][]float64{"shift 0.25": {300, 300}, "shift 0.5": {300, 20},
					"shift 1": {10, 20}}},
			{Detector: "slow", Kind: periodicName, Clean: rate{2880, 11}},
		},
		"mmd": {{Detector: "pairs", Kind: "pair", Reference: 400, Clean: rate{1000, 5},
			Delays: map[string][]float64{"correlation 0.8 to -0.8": {7, 9}}}},
	}
	for _, e := range environments {
		for _, job := range e.jobs {
			text, err := json.Marshal(figures[job])
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, job+".json"), text, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// TestRun renews all tables of the real document, with streams in place of those that
// Python draws.
func TestRun(t *testing.T) {
	s := tiny(t)
	text, err := os.ReadFile("../../docs/drift.md")
	if err == nil {
		err = os.WriteFile(s.document, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for _, m := range benchmarks {
		turning := fill(m.columns, driftEvery, normal(0, 1), r)
		turning.values = append(turning.values, fill(m.columns, 600, normal(3, 1), r).values...)
		if err := s.save(m.file, turning); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.write(s.draw()); err != nil {
		t.Fatal(err)
	}
	if err := s.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	renewed, err := os.ReadFile(s.document)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| 50 features, correlation 0.5 | 500 | 1 | 8 | 20 |",
		"| slow | none | 2,000 ± 447 | unseen in 300 rows (100 %) | > 160 ± 99 (50 % unseen) | " +
			"15.0 ± 3.5 | no stream came so far |",
		"| pairs | 400 | 200 ± 89 | 8.0 ± 0.7 |",
		"| WaveformDrift2 | ours, learns 500 rows, promises 1,000 |",
		"| rises and falls with the hour | slow | 2,880 | 11 |",
		"Measured on 20",
	} {
		if !strings.Contains(string(renewed), want) {
			t.Errorf("the document lacks %q:\n%s", want, renewed)
		}
	}
	if n := strings.Count(string(renewed), "| ours"); n < 6 {
		t.Errorf("the document has %d lines of ours:\n%s", n, renewed)
	}
	if err := os.WriteFile(s.document, []byte("no tables"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.only = "periodic"
	if err := s.run(t.Context()); err == nil || !strings.Contains(err.Error(), "lacks the lines") {
		t.Errorf("a document without tables: %v", err)
	}
}

// TestScore holds the metrics against alarms by hand: the first after each change is a
// detection, the rest are false, among them that before any change.
func TestScore(t *testing.T) {
	f := func(want string, found ...int) {
		t.Helper()
		if got := score(4*driftEvery, found); got != want {
			t.Errorf("alarms at %v: %s, want %s", found, got, want)
		}
	}
	f("32 | 4,750 | 50.0 | 0.67 | 3", 1000, 5050, 5750)
	f("undefined | 0 false | 20.0 | 0 | 3", 5010, 10_020, 15_030)
	f("undefined | 1 false | 10.0 | 0.67 | 2", 15_010, 15_020)
}

// TestThreshold takes paths whose alarms can be counted by hand.
func TestThreshold(t *testing.T) {
	var paths []path
	for i := range 10 {
		var p path
		for tick := 1; tick <= 100; tick++ {
			p.add(tick, float64(min(tick, 10*(i+1))))
		}
		paths = append(paths, p)
	}
	f := func(at, rows, count float64) {
		t.Helper()
		if got := alarms(paths, at); got != (rate{rows, count}) {
			t.Errorf("at %v: %+v, want %v rows and %v alarms", at, got, rows, count)
		}
	}
	f(10, 100, 10)
	f(11, 9*11+100, 9)
	f(100, 1000, 1)
	f(101, 1000, 0)
	if got := threshold(paths, 1000); math.Abs(got-90) > 10 {
		t.Errorf("an alarm in 1000 ticks comes at %v", got)
	}
}
