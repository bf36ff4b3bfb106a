package performance

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// model is a simulated classifier of two classes: rows are drawn around 0, and the
// probability of the second class is logistic.
type model struct {
	mean, deviation float64 // of rows
	sure            float64 // how many times too sure of it the model is; 1 is calibrated
	flipped         float64 // share of rows whose label is another than the model learned
}

func (m model) answers(r *rand.Rand, n int) (l Labelled) {
	for range n {
		x := m.mean + m.deviation*r.NormFloat64()
		truth := r.Float64() < 1/(1+math.Exp(-x))
		truth = truth != (r.Float64() < m.flipped)
		p := 1 / (1 + math.Exp(-m.sure*x))
		l.Add(max(p, 1-p), truth == (p >= .5))
	}
	return l
}

// TestEstimate wants the true share of right answers to be within the limits in 19 of
// 20 windows, and the check with labels to hold as often, unless labels have drifted.
func TestEstimate(t *testing.T) {
	f := func(name string, before, after model, holds bool) {
		t.Helper()
		n := count(400)
		inside, checked := 0, 0
		var accuracy, estimated, confidence, unknown float64 // means
		for run := range n {
			r := rand.New(rand.NewPCG(uint64(run), 8))
			e, err := NewEstimator(before.answers(r, 2000))
			if err != nil {
				t.Fatal(err)
			}
			live := after.answers(r, 1000)
			got, ok := e.Estimate(&live.Scores)
			gap, noise, known := e.Check(&live)
			if !ok || !known {
				t.Fatal("nothing is known")
			}
			right := 0.0
			for _, x := range live.Right {
				right += float64(x) / 1000
			}
			if right >= got.Low && right <= got.High {
				inside++
			}
			if math.Abs(gap) <= noise {
				checked++
			}
			accuracy += right / float64(n)
			estimated += got.Accuracy / float64(n)
			confidence += got.Confidence / float64(n)
			unknown += got.Unknown / float64(n)
		}
		share, check := float64(inside)/float64(n), float64(checked)/float64(n)
		t.Logf("%-28s accuracy %.3f, estimate %.3f, confidence %.3f, inside %.3f, check %.3f",
			name, accuracy, estimated, confidence, share, check)
		e := 3 * math.Sqrt(.95*.05/float64(n))
		if holds && (share < .95-e || check < .95-e || math.Abs(accuracy-estimated) > .01+unknown) {
			t.Errorf("%s: accuracy %.3f, estimate %.3f, in %.3f of the limits, check %.3f", name,
				accuracy, estimated, share, check)
		}
		if !holds && check > .05+e {
			t.Errorf("%s: the check of wrong estimates passes in %.3f", name, check)
		}
	}
	f("nothing changes", model{0, 2, 1, 0}, model{0, 2, 1, 0}, true)
	f("rows become harder", model{0, 2, 1, 0}, model{0, .7, 1, 0}, true)
	f("rows become easier", model{0, 1, 1, 0}, model{1, 2, 1, 0}, true)
	f("too sure, harder", model{0, 2, 3, 0}, model{0, .7, 3, 0}, true)
	f("labels drift", model{0, 2, 1, 0}, model{0, 2, 1, .2}, false)
}

// TestCalibration wants the error of a calibrated model to be within its noise in 19 of
// 20 references.
func TestCalibration(t *testing.T) {
	f := func(m model, least, most float64) {
		t.Helper()
		within, n := 0, count(400)
		for run := range n {
			e, err := NewEstimator(m.answers(rand.New(rand.NewPCG(uint64(run), 9)), 2000))
			if err != nil {
				t.Fatal(err)
			}
			if miss, noise := e.CalibrationError(); miss <= noise {
				within++
			}
		}
		t.Logf("%+v: within in %d of %d", m, within, n)
		if share := float64(within) / float64(n); share < least || share > most {
			t.Errorf("%+v: the error is within its noise in %.3f of the references", m, share)
		}
	}
	e := 3 * math.Sqrt(.95*.05/float64(count(400)))
	f(model{0, 2, 1, 0}, .95-e, .99)
	f(model{0, 2, 2, 0}, 0, 0)
}

func TestEstimateFaults(t *testing.T) {
	f := func(l Labelled) {
		t.Helper()
		if _, err := NewEstimator(l); !errors.Is(err, ErrReference) {
			t.Errorf("the error is %v", err)
		}
	}
	f(Labelled{})
	few := model{0, 2, 1, 0}.answers(rand.New(rand.NewPCG(1, 1)), 199)
	f(few)
	few.Right[3] = 1000
	f(few)
	var l Labelled
	for range 300 {
		l.Add(.97, true)
		l.Add(math.NaN(), true)
		l.Add(2, true)
	}
	e, err := NewEstimator(l)
	if err != nil {
		t.Fatal(err)
	}
	var live Labelled
	if got, ok := e.Estimate(&live.Scores); ok || got != (Estimate{}) {
		t.Errorf("without rows there is the estimate %+v", got)
	}
	if _, _, ok := e.Check(&live); ok {
		t.Error("without rows there is a check")
	}
	for range 50 {
		live.Add(.97, true)
		live.Add(.6, false)
	}
	got, ok := e.Estimate(&live.Scores)
	if !ok || got.Unknown != .5 || got.Low > .5 || got.High < .99 || got.Accuracy < .99 {
		t.Errorf("with half of the rows unknown there is %+v", got)
	}
	text, err := json.Marshal(live)
	if err != nil {
		t.Fatal(err)
	}
	var read, twice Labelled
	if err := json.Unmarshal(text, &read); err != nil || read != live {
		t.Errorf("%s is read as %+v, %v", text, read, err)
	}
	twice.Merge(&live)
	twice.Merge(&read)
	if twice.Rows[0] != 0 || twice.Right[bin(.97)] != 100 || twice.Rows[bin(.6)] != 100 {
		t.Errorf("twice the rows are %+v", twice)
	}
}

func BenchmarkHarm(b *testing.B) {
	b.ReportAllocs()
	var l Losses
	for range b.N {
		_ = l.Add(.5)
	}
}

func BenchmarkScores(b *testing.B) {
	b.ReportAllocs()
	var s Labelled
	for i := range b.N {
		s.Add(float64(i%1000)/1000, true)
	}
}
