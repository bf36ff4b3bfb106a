package monitor

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/drift/performance"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// Estimate is the share of right answers that is likely by how sure the model is of them. No alarm
// follows from it: see [performance.Estimate].
type Estimate struct {
	performance.Estimate
	// By how much more of the answers were right than was estimated, and within what that is in 19
	// of 20 cases; both are 0 before there are labels enough.
	Gap   float64 `json:"gap"`
	Noise float64 `json:"noise"`
}

// Trusted says whether labels agree, as far as there are any.
func (e *Estimate) Trusted() bool { return e.Gap >= -e.Noise && e.Gap <= e.Noise }

// estimateRows is how many answers an estimate is of, and how many labels it is held against.
const estimateRows = 1000

// estimating estimates how many answers are right. The first labels teach it how much the model's
// probabilities are worth.
type estimating struct {
	places    []int // of the probabilities in a row
	rows      int   // that teach it
	taught    performance.Labelled
	estimator *performance.Estimator // nil before it is taught
	live      performance.Scores     // of the next estimate
	labelled  performance.Labelled   // of the next check
	last      *Estimate              // nil before the first
}

func newEstimating(loss *Loss, inputs int, outputs []string) (*estimating, error) {
	e := &estimating{rows: loss.Rows}
	name := loss.Probabilities
	// Without a class they are sums of an output that is wide or of variable size.
	several := slices.Contains(outputs, name+".class")
	for i, column := range outputs {
		if column == name ||
			several && strings.HasPrefix(column, name+".") && column != name+".class" {
			e.places = append(e.places, inputs+i)
		}
	}
	if e.places == nil {
		return nil, noAnswers("probabilities", name, outputs)
	}
	return e, nil
}

// confidence is the probability of the class that was chosen.
func (e *estimating) confidence(row []sketch.Value) float64 {
	p := row[e.places[0]].Float()
	if len(e.places) == 1 { // of one of two classes
		return max(p, 1-p)
	}
	for _, at := range e.places[1:] {
		p = max(p, row[at].Float())
	}
	return p
}

// label takes in whether an answer was right.
func (e *estimating) label(confidence float64, right bool) {
	if e.estimator == nil {
		e.taught.Add(confidence, right)
	} else {
		e.labelled.Add(confidence, right)
	}
}

// tick makes an estimate once there are answers enough, and holds it against labels once there are
// enough of these.
func (e *estimating) tick() error {
	if e.estimator == nil {
		if total(&e.taught.Scores) < e.rows {
			return nil
		}
		if err := e.teach(); err != nil {
			return err
		}
	}
	if total(&e.live) >= estimateRows {
		if found, ok := e.estimator.Estimate(&e.live); ok {
			next := Estimate{Estimate: found}
			if e.last != nil {
				next.Gap, next.Noise = e.last.Gap, e.last.Noise
			}
			e.last = &next
		}
		e.live = performance.Scores{}
	}
	if total(&e.labelled.Scores) >= estimateRows && e.last != nil {
		if gap, noise, ok := e.estimator.Check(&e.labelled); ok {
			next := *e.last
			next.Gap, next.Noise = gap, noise
			e.last = &next
		}
		e.labelled = performance.Labelled{}
	}
	return nil
}

func (e *estimating) teach() (err error) {
	e.estimator, err = performance.NewEstimator(e.taught)
	e.live = performance.Scores{}
	return err
}

func total(s *performance.Scores) (rows int) {
	for _, n := range s.Rows {
		rows += int(n)
	}
	return rows
}

// keptEstimate is the JSON form of what was learned.
type keptEstimate struct {
	Taught performance.Labelled `json:"taught"`
	Last   *Estimate            `json:"last,omitempty"`
}

// MarshalJSON writes what was learned.
func (e *estimating) MarshalJSON() ([]byte, error) {
	return json.Marshal(keptEstimate{e.taught, e.last})
}

// restore takes over what was learned.
func (e *estimating) restore(text []byte) error {
	var k keptEstimate
	if err := json.Unmarshal(text, &k); err != nil {
		return err
	}
	e.taught, e.last = k.Taught, k.Last
	if total(&e.taught.Scores) < e.rows {
		return nil
	}
	return e.teach()
}
