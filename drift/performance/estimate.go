package performance

import (
	"fmt"
	"math"
	"sort"
)

// edges part confidences, closer where the answers of most models are.
var edges = [...]float64{.1, .2, .3, .4, .5, .55, .6, .65, .7, .75, .8, .85, .9, .95, .98, .99,
	.995, .999}

// Bins is how many bins confidences have.
const Bins = len(edges) + 1

// bin returns that of a confidence.
func bin(confidence float64) int {
	return sort.Search(len(edges), func(i int) bool { return edges[i] > confidence })
}

// Scores count how sure a model was of its answers: the probability that it gave to the
// class that it chose. Of one that gives the probability p of a class alone that is p or
// 1-p.
type Scores struct {
	Rows       [Bins]uint64  `json:"rows"`
	Confidence [Bins]float64 `json:"confidence"` // sums
}

// Add counts an answer. What is no probability is left out.
func (s *Scores) Add(confidence float64) {
	if confidence >= 0 && confidence <= 1 {
		b := bin(confidence)
		s.Rows[b]++
		s.Confidence[b] += confidence
	}
}

// Merge adds other scores.
func (s *Scores) Merge(o *Scores) {
	for i := range s.Rows {
		s.Rows[i] += o.Rows[i]
		s.Confidence[i] += o.Confidence[i]
	}
}

// total returns how many answers there are, and their mean confidence.
func (s *Scores) total() (rows, confidence float64) {
	for i, n := range s.Rows {
		rows += float64(n)
		confidence += s.Confidence[i]
	}
	return rows, confidence / rows
}

// Labelled are the scores of answers of which it is known whether they were right.
type Labelled struct {
	Scores
	Right [Bins]uint64 `json:"right"`
}

// Add counts an answer.
func (l *Labelled) Add(confidence float64, right bool) {
	l.Scores.Add(confidence)
	if right && confidence >= 0 && confidence <= 1 {
		l.Right[bin(confidence)]++
	}
}

// Merge adds other answers.
func (l *Labelled) Merge(o *Labelled) {
	l.Scores.Merge(&o.Scores)
	for i, n := range o.Right {
		l.Right[i] += n
	}
}

// Estimator knows from a reference how often answers of which a model is that sure are
// right.
type Estimator struct{ reference Labelled }

// NewEstimator returns an estimator that was taught by answers to rows that the model
// was not trained on: on those it is surer than it should be.
func NewEstimator(reference Labelled) (*Estimator, error) {
	rows, _ := reference.total()
	for i, n := range reference.Right {
		if n > reference.Rows[i] || reference.Confidence[i] > float64(reference.Rows[i]) {
			return nil, fmt.Errorf("%w: of %d answers %d were right", ErrReference,
				reference.Rows[i], n)
		}
	}
	if rows < minRows {
		return nil, fmt.Errorf("%w: it has %.0f answers with labels, it needs at least %d",
			ErrReference, rows, minRows)
	}
	return &Estimator{reference}, nil
}

// Estimate is the accuracy that a model probably has, without labels. It follows when
// rows become harder, but assumes that answers as sure as before are right as often: it
// cannot see when the same rows have got other labels. Estimator.Check tells, when
// labels come, whether that holds.
type Estimate struct {
	Rows     uint64  `json:"rows"`
	Accuracy float64 `json:"accuracy"` // of the rows that are known
	// Low and High are the limits within which the share of right answers is in 19 of 20
	// windows.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Confidence is the model's own mean, which is the accuracy of one that is calibrated.
	Confidence float64 `json:"confidence"`
	// Unknown is the share of rows with a confidence that the reference hardly has; all of
	// them may be right or wrong.
	Unknown float64 `json:"unknown"`
}

// minBin is how many rows of the reference a bin needs to be known.
const minBin = 10

// limits are so many standard errors away.
const limits = 1.959963984540054

// Estimate estimates the accuracy on live rows, unless none is known.
func (e *Estimator) Estimate(live *Scores) (Estimate, bool) {
	known, right, spread := e.right(live)
	if known == 0 {
		return Estimate{}, false
	}
	rows, confidence := live.total()
	r := Estimate{Rows: uint64(rows), Accuracy: right / known, Confidence: confidence,
		Unknown: 1 - known/rows}
	r.Low = max(right-spread, 0) / rows
	r.High = min(right+spread, known)/rows + r.Unknown
	return r, true
}

// right returns of how many rows the confidence is known, how many of these are probably
// right, and how far that may be off. Rows err on their own; the error of the
// reference's bins is that of all rows in them.
func (e *Estimator) right(live *Scores) (known, right, spread float64) {
	variance := 0.0
	for i, n := range live.Rows {
		reference := float64(e.reference.Rows[i])
		if reference < minBin {
			continue
		}
		w, a := float64(n), e.accuracy(i)
		known += w
		right += w * a
		variance += (w + w*w/(reference+1)) * a * (1 - a)
	}
	return known, right, limits * math.Sqrt(variance)
}

// accuracy returns that of the reference's answers in a bin.
func (e *Estimator) accuracy(bin int) float64 {
	return (float64(e.reference.Right[bin]) + 0.5) / (float64(e.reference.Rows[bin]) + 1)
}

// CalibrationError returns by how much the model's confidence misses its accuracy, on
// average over the rows of the reference, and what it would stay below in 19 of 20
// references if the model were calibrated: bins of n rows miss by sqrt(n a (1-a)) then.
// The estimate makes up for the miss; the mean confidence does not.
func (e *Estimator) CalibrationError() (miss, noise float64) {
	const mean = 2 / math.Pi // squared, of the absolute value of a standard normal one
	rows, _ := e.reference.total()
	variance := 0.0
	for i, n := range e.reference.Rows {
		a := e.accuracy(i)
		miss += math.Abs(float64(e.reference.Right[i]) - e.reference.Confidence[i])
		noise += math.Sqrt(mean * float64(n) * a * (1 - a))
		variance += (1 - mean) * float64(n) * a * (1 - a)
	}
	return miss / rows, (noise + quantile*math.Sqrt(variance)) / rows
}

// Check compares the estimate of live rows with their labels: by how much more of them
// were right, and within what that is in 19 of 20 windows. Where it is beyond, labels
// have drifted, and estimates are wrong. It returns false for rows none of which is known.
func (e *Estimator) Check(live *Labelled) (gap, noise float64, ok bool) {
	known, right, spread := e.right(&live.Scores)
	for i, n := range live.Right {
		if e.reference.Rows[i] >= minBin {
			gap += float64(n)
		}
	}
	return (gap - right) / known, spread / known, known > 0
}
