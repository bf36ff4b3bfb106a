package monitor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/drift/performance"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// Outliers is what is known of rows that hardly any of the reference are like.
type Outliers struct {
	Strand
	Score float64 `json:"score"` // above which a row is one: see reference.Scorer
	Rows  uint64  `json:"rows"`  // since the version began
	Above uint64  `json:"above"` // of these
	// The share of the last hundred rows or so, of the reference, and up to which it is no harm.
	// Recent is Limit before the first.
	Recent   float64 `json:"recent"`
	Expected float64 `json:"expected"`
	Limit    float64 `json:"limit"`
	// The rows since the evidence has grown, with a loss of 1 for an outlier.
	Since performance.Losses `json:"since"`
	// The last ones: of each the values that are the rarest in the reference, as NAME=VALUE.
	Examples []Example `json:"examples,omitempty"`
}

// outlying looks for outliers.
type outlying struct {
	threshold reference.Threshold
	harm      *harm
	fresh     []Example // of this tick
	last      Outliers
}

func newOutlying(c *Config, p *reference.Profile) (*outlying, error) {
	t, err := threshold(c, p)
	if err != nil {
		return nil, err
	}
	h, err := newHarm(KindOutliers, performance.Losses{Rows: t.Rows, Sum: float64(t.Above)}, c)
	if err != nil {
		return nil, fmt.Errorf("cannot look for outliers: %w", err)
	}
	return &outlying{threshold: t, harm: h, last: Outliers{Score: t.Score}}, nil
}

// threshold is the score above which a row is an outlier.
func threshold(c *Config, p *reference.Profile) (reference.Threshold, error) {
	t, ok := p.OutlierThreshold(c.Outliers)
	if !ok {
		return t, fmt.Errorf("%w: it does not say which rows are outliers, as it was written "+
			"by hand or has too few rows that differ; take `outliers` away from the monitor, or "+
			"build it of 10000 rows", performance.ErrReference)
	}
	return t, nil
}

// add counts a row with its score, and says whether it is an outlier.
func (o *outlying) add(at time.Time, score float64) (is bool, err error) {
	loss := 0.0
	if is = score > o.threshold.Score; is {
		loss = 1
		o.last.Above++
	}
	o.last.Rows++
	return is, o.harm.add(at, loss)
}

// tick judges the rows since the last one.
func (o *outlying) tick(c *Config) (*Outliers, error) {
	h, err := o.harm.tick(c)
	if o.fresh != nil {
		o.last.Examples, o.fresh = o.fresh, nil
	}
	r := o.last
	r.Strand, r.Recent, r.Expected, r.Limit = o.harm.strand, h.Recent, h.Expected, h.Limit
	r.Since = o.harm.since
	o.last = r
	return &r, err
}

// keptOutliers is the JSON form of what was learned.
type keptOutliers struct {
	Harm json.RawMessage `json:"harm"`
	Last Outliers        `json:"last"`
}

// MarshalJSON writes what was learned.
func (o *outlying) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(o.harm.detector)
	if err != nil {
		return nil, err
	}
	return json.Marshal(keptOutliers{text, o.last})
}

// restore takes over what was learned.
func (o *outlying) restore(text []byte) error {
	var k keptOutliers
	if err := json.Unmarshal(text, &k); err != nil {
		return err
	}
	if err := o.harm.detector.UnmarshalJSON(k.Harm); err != nil {
		return err
	}
	o.last, o.harm.strand, o.harm.since = k.Last, k.Last.Strand, k.Last.Since
	o.last.Score, o.harm.strand.Kind = o.threshold.Score, KindOutliers
	return nil
}

// score looks whether a row with a score is an outlier.
func (m *Monitor) score(at time.Time, row []sketch.Value, score float64) error {
	is, err := m.outlying.add(at, score)
	if is && len(m.outlying.fresh) < maxExamples {
		m.outlying.fresh = append(m.outlying.fresh, m.rarest(row))
	}
	return err
}

// rarest lists the values of a row that are the rarest in the reference.
func (m *Monitor) rarest(row []sketch.Value) Example {
	shares := make([]float64, len(m.places))
	order := make([]int, len(m.places))
	for i, at := range m.places {
		f := &m.profile.Features[i]
		counts := f.Total()
		order[i] = i
		// Bins have unlike shares: a value is rare in a small one.
		shares[i] = float64(counts[f.Layout().Bin(row[at])]) * float64(len(counts)) / sum(counts)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(shares[a], shares[b]) })
	var e Example
	for _, i := range order[:min(len(order), maxFeatures)] {
		text := row[m.places[i]].AppendText(nil)
		e = append(e, m.profile.Features[i].Name+"="+string(text[:min(len(text), maxCell)]))
	}
	return e
}
