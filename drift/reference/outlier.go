package reference

import (
	"errors"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// Threshold is a score that few rows of the reference exceed. Live rows that do are
// outliers; more of them than Above in Rows are drift.
type Threshold struct {
	Score float64 `json:"score"`
	Above uint64  `json:"above"`
	Rows  uint64  `json:"rows"`
}

// Share returns the share of rows above.
func (t Threshold) Share() float64 { return float64(t.Above) / float64(t.Rows) }

// levels are the shares of rows that thresholds are made for.
var levels = [...]float64{.1, .05, .02, .01, .005, .002, .001}

// minAbove is how many rows of the reference a threshold needs above it.
const minAbove = 10

// OutlierThreshold returns the threshold whose share of rows is nearest. There is none
// in a profile that was written by hand, or when all rows are alike.
func (p *Profile) OutlierThreshold(share float64) (t Threshold, ok bool) {
	best := math.Inf(1)
	for _, one := range p.Outliers {
		if d := math.Abs(math.Log(one.Share() / share)); d < best {
			best, t, ok = d, one, true
		}
	}
	return t, ok
}

// Scorer tells how unusual rows are. It is immutable.
type Scorer struct {
	surprises [][]float32 // of the bins of each feature, then of each projection
}

// NewScorer returns a scorer of rows that ought to be as in the profile.
func (p *Profile) NewScorer() *Scorer {
	all := p.streams()
	s := &Scorer{make([][]float32, len(all))}
	for i, f := range all {
		counts := f.Total()
		rows := float64(total(counts)) + float64(len(counts))/2
		s.surprises[i] = make([]float32, len(counts))
		for bin, n := range counts {
			q := (float64(n) + 0.5) / rows
			s.surprises[i][bin] = float32(1 / (float64(len(counts)*len(all)) * q))
		}
	}
	return s
}

// Score tells how unusual a row is, by the bins of its features and then of its
// projections: the mean over these of
//
//	1 / (B q(bin))
//
// where q is the reference's share of the bin among B. For rows like those of the
// reference it is 1 on average, as far as q is exact, whatever the dependence of
// features; one value far out is enough for a high one.
func (s *Scorer) Score(bins []int) float64 {
	sum := 0.0
	for i, bin := range bins {
		sum += float64(s.surprises[i][bin])
	}
	return sum
}

// streams returns the features, then the projections.
func (p *Profile) streams() (all []*Feature) {
	for i := range p.Features {
		all = append(all, &p.Features[i])
	}
	if p.Joint != nil {
		for i := range p.Joint.Projected {
			all = append(all, &p.Joint.Projected[i])
		}
	}
	return all
}

// outliers scores the rows that were kept and returns the thresholds, the least first.
// That the scores are of the rows by which the bins were made is made up for: among as
// many new rows about one is below and one above the range of each stream.
func (c *Collector) outliers(p *Profile) (found []Threshold) {
	all := p.streams()
	beyond := uint64(0)
	for _, f := range all {
		if len(f.Edges) > 2 {
			beyond += 2
		}
	}
	scores := c.scores(p)
	slices.Sort(scores)
	for _, level := range levels {
		score := scores[int((1-level)*float64(len(scores)-1))]
		end, _ := slices.BinarySearch(scores, math.Nextafter(score, math.Inf(1)))
		above := uint64(len(scores) - end)
		last := len(found) - 1
		if above >= minAbove && (last < 0 || found[last].Score < score) {
			found = append(found, Threshold{score, min(above+beyond, uint64(len(scores))),
				uint64(len(scores))})
		}
	}
	return found
}

func (c *Collector) scores(p *Profile) []float64 {
	var columns []*column
	byName := c.byName()
	for i := range p.Features {
		columns = append(columns, byName[p.Features[i].Name])
	}
	scorer := p.NewScorer()
	row, bins := make([]float64, len(columns)), make([]int, len(scorer.surprises))
	var projector *Projector
	if p.Joint != nil {
		projector = p.Joint.NewProjector()
	}
	scores := make([]float64, len(c.slots))
	for i := range scores {
		for k, col := range columns {
			v := col.value(i)
			row[k], bins[k] = v.Float(), p.Features[k].layout.Bin(v)
		}
		if projector != nil {
			for d, x := range projector.Project(row, bins) {
				bins[len(columns)+d] = p.Joint.Projected[d].layout.Bin(sketch.Number(x))
			}
		}
		scores[i] = scorer.Score(bins)
	}
	return scores
}

// check refuses a threshold that cannot be.
func (t Threshold) check() error {
	if !(t.Score >= 0) || math.IsInf(t.Score, 0) || t.Above == 0 || t.Above > t.Rows {
		return errors.New("a threshold for outliers is impossible")
	}
	return nil
}
