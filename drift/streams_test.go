package drift

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// Two streams of the benchmark of unsupervised drift detectors by DFKI-NI, with a drift
// every 5,000 of 154,987 rows. They are made as SineClusters and WaveformDrift2 are there,
// of other random numbers.
const (
	driftEvery  = 5000
	streamRows  = 154_987
	knownDrifts = streamRows/driftEvery - 1

	streamPromise = 10_000 // rows between false alarms
)

// concepts draws the row at a place of a stream, by one of its concepts.
type concepts struct {
	features int
	count    int // of concepts
	draw     func(r *rand.Rand, concept, at int, row []sketch.Value)
}

// sineClusters has features that go through a sine and its cosine in 500 rows, in noise.
// What drifts is how they go together: each alone is distributed as before.
var sineClusters = concepts{4, 3, func(r *rand.Rand, concept, at int, row []sketch.Value) {
	sin, cos := math.Sincos(2 * math.Pi * float64(at%500) / 500)
	x := [...][4]float64{{sin, cos, sin, cos}, {-sin, cos, sin, cos},
		{-cos, -cos, sin, cos}}[concept]
	for i := range row {
		row[i] = sketch.Number(x[i] + 0.25*r.NormFloat64())
	}
}}

// waveform mixes two of three triangles, in noise (Breiman and others 1984).
var waveform = concepts{21, 4, func(r *rand.Rand, concept, _ int, row []sketch.Value) {
	tops := [...][2]float64{{6, 14}, {6, 10}, {14, 10}}[r.IntN(3)]
	u := r.Float64()
	for i := range row {
		h := [2]float64{}
		for k, top := range tops {
			h[k] = max(6-math.Abs(float64(i)-top), 0)
			h[k] = [...]float64{h[k], h[k] + 6, 6 - h[k], -h[k]}[concept]
		}
		row[i] = sketch.Number(u*h[0] + (1-u)*h[1] + r.NormFloat64())
	}
}}

// detections runs a monitor over a stream: it learns a reference from so many rows, and
// after each alarm another one.
func (c concepts) detections(t *testing.T, seed uint64, learn int, drifts bool) (found []int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 41))
	concept := r.IntN(c.count)
	row := make([]sketch.Value, c.features)
	var build *reference.Collector
	var w *Window
	var m *Monitor
	for at := range streamRows {
		if drifts && at%driftEvery == 0 {
			concept = (concept + 1 + r.IntN(c.count-1)) % c.count
		}
		c.draw(r, concept, at, row)
		if m == nil {
			if build == nil {
				build, _ = reference.NewCollector(names(c.features), reference.Options{})
			}
			_ = build.Add(noon.Add(time.Duration(at)*time.Second), row)
			if build.Rows() < uint64(learn) {
				continue
			}
			p, err := build.Build()
			if err != nil {
				t.Fatal(err)
			}
			w, build = mustWindow(t, p), nil
			if m, err = NewMonitor(p, Config{FalseAlarmEvery: streamPromise}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		w.Reset()
		_ = w.Add(row)
		report, err := m.Tick(w, noon)
		if err != nil {
			t.Fatal(err)
		}
		if report.Alarm {
			found, m = append(found, at), nil
		}
	}
	return found
}

// measures are those of the benchmark: the mean time between false alarms, which with
// fewer than two is more than the stream has, the mean time to a detection, the share of
// drifts that were missed, and mtfa/mtd (1-mdr).
type measures struct{ mtfa, mtd, mdr, mtr float64 }

func measure(found []int) measures {
	var times, falses []int
	drift := 0 // the last one that was not found
	for _, at := range found {
		if last := at / driftEvery * driftEvery; last > drift && last <= knownDrifts*driftEvery {
			drift = last
			times = append(times, at-last)
		} else {
			falses = append(falses, at)
		}
	}
	x := measures{mtfa: streamRows, mdr: 1 - float64(len(times))/knownDrifts}
	if n := len(falses); n > 1 {
		x.mtfa = float64(falses[n-1]-falses[0]) / float64(n-1)
	}
	for _, n := range times {
		x.mtd += float64(n) / float64(len(times))
	}
	x.mtr = x.mtfa / x.mtd * (1 - x.mdr)
	return x
}

// TestMeasures has the values that the benchmark's own function gives.
func TestMeasures(t *testing.T) {
	f := func(found []int, want measures) {
		t.Helper()
		if got := measure(found); math.Abs(got.mtfa-want.mtfa)+math.Abs(got.mtd-want.mtd)+
			math.Abs(got.mdr-want.mdr) > 1e-9 {
			t.Errorf("%v: %+v, want %+v", found, got, want)
		}
	}
	f([]int{100, 2100, 5010, 5020, 10030}, measures{mtfa: 2460, mtd: 20, mdr: 1 - 2.0/29})
	f(nil, measures{mtfa: streamRows, mdr: 1})
}

// TestStreams compares with the best of the benchmark's detectors: on SineClusters an
// mtr of 136 (mtfa 1,389, mtd 7.4, mdr .28), or of those that miss none 104 (12,727,
// 123); on WaveformDrift2 482 (6,143, 12.8, 0), and 1,342 (100,862, 75, 0) with two false
// alarms in all. A drift is missed here when a false alarm comes right before it.
func TestStreams(t *testing.T) {
	f := func(name string, c concepts, n int, want measures) {
		t.Helper()
		var got measures // means
		for seed := range n {
			x := measure(c.detections(t, uint64(seed), 1000, true))
			t.Logf("%s: %+v", name, x)
			got.mtfa += x.mtfa / float64(n)
			got.mtd += x.mtd / float64(n)
			got.mdr += x.mdr / float64(n)
			got.mtr += x.mtr / float64(n)
		}
		t.Logf("%s: mean %+v", name, got)
		if got.mtfa < want.mtfa || got.mtd > want.mtd || got.mdr > want.mdr || got.mtr < want.mtr {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	f("SineClusters", sineClusters, max(count(2), 1), measures{streamPromise, 40, .04, 1000})
	if !testing.Short() { // it takes long, and one stream tells little
		f("WaveformDrift2", waveform, 2, measures{streamPromise, 40, .04, 1342})
	}
}

// TestStreamsWithout has no drift in the periodic stream, and references that are of whole
// periods or not.
func TestStreamsWithout(t *testing.T) {
	f := func(learn int) {
		t.Helper()
		alarms := len(sineClusters.detections(t, 0, learn, false))
		t.Logf("reference of %d rows: %d alarms in %d rows", learn, alarms, streamRows)
		if alarms*streamPromise > streamRows {
			t.Errorf("reference of %d rows: %d alarms in %d rows, promised is one in %d", learn,
				alarms, streamRows, streamPromise)
		}
	}
	f(1000)
	f(1400)
}
