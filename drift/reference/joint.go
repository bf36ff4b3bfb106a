package reference

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// The sizes of a joint reference.
const (
	maxJoint     = 1024    // features
	maxDimension = 64      // more are first mixed at random into that many
	chunk        = 100     // rows that follow each other, see joint
	maxScores    = 4 << 20 // numbers that directions are computed from
	components   = 3       // with the greatest variance, and as many with the least
	sums         = 2       // of all features, see signed
	// flat is the variance from which on a direction is one: below it rounding, of
	// which float32 does more than the training data saw, would be taken for drift.
	flat = 1e-4
)

// Joint is the reference of how numeric inputs go together: what they are on a few
// directions, each watched as a feature of its own. Directions are principal
// components of the features' normal scores, those with the greatest variance and
// those with the least. The latter are what the features keep to, such as the
// difference of two that are correlated; when the correlation changes, the variance
// there changes most. And sums with signs see when features that had nothing in
// common do: the fewer features there are the sooner, and two of many late.
type Joint struct {
	Features   []int       `json:"features"`   // places among those of the profile
	Directions [][]float32 `json:"directions"` // for each, the weights of the features
	Projected  []Feature   `json:"projected"`  // for each direction

	inputs []input // for each feature
	lines  []line  // of all bins of all of these
}

// input is what the scores of one feature's values need, side by side for speed.
type input struct {
	place int32 // among the features of the profile
	first int32 // of its lines
	edges []float64
}

// joint builds the reference of several features. Directions come from one half of
// the rows and the counts from the other, as a direction of least variance has a
// bit more in data that did not choose it. It is nil when there is nothing to see. The
// rows of the other half are returned as well.
func (c *Collector) joint(p *Profile, columns, features []int) (*Joint, projected) {
	slots, _ := p.Season.slots()
	// Each slot needs its rows in one half.
	if n := len(features); n < 2 || n > maxJoint || len(c.slots) < 2*max(MinRows*slots, 10*n) {
		return nil, projected{}
	}
	j := &Joint{Features: features}
	j.attach(p.Features)
	values := make([]sketch.Value, len(features))
	row := make([]float64, len(features))
	read := func(i int) []float64 {
		for k, col := range columns {
			values[k] = c.columns[col].value(i)
			row[k] = j.score(k, p.Features[features[k]].layout.Bin(values[k]), values[k].Float())
		}
		return row
	}
	// Halves take turns by chunks, so that most rows keep their neighbours.
	var first []float64
	rest := projected{Collector: Collector{options: c.options, ordered: c.ordered}}
	for i, slot := range c.slots {
		if i/chunk%2 == 1 {
			rest.slots = append(rest.slots, slot)
			rest.places = append(rest.places, i)
		} else if len(first) < maxScores {
			first = append(first, read(i)...)
		}
	}
	scores := mat.NewDense(len(first)/len(features), len(features), first)
	j.Directions = append(principal(scores), signed(scores)...)
	rest.columns = make([]column, len(j.Directions))
	out := make([]float64, len(j.Directions))
	for i, place := range rest.places {
		for d, x := range j.project(read(place), out) {
			rest.columns[d].set(i, sketch.Number(x))
		}
	}
	for d := range rest.columns {
		f := Feature{Name: fmt.Sprintf("joint %d", d), Edges: makeEdges(rest.columns[d].finite())}
		if f.makeLayout() != nil {
			return nil, projected{}
		}
		rest.count(&f, &rest.columns[d], nil)
		if f.least() < MinRows {
			return nil, projected{}
		}
		j.Projected = append(j.Projected, f)
	}
	if j.Projected == nil {
		return nil, projected{}
	}
	return j, rest
}

// projected collects what rows are on the directions, a column for each.
type projected struct {
	Collector
	places []int // of the rows among those of the collector of features
}

// least returns how many rows the slot with the fewest has.
func (f *Feature) least() uint64 {
	n := total(f.Counts[0])
	for _, counts := range f.Counts {
		n = min(n, total(counts))
	}
	return n
}

func total(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// principal returns the directions of rows: those with the greatest variance first,
// then those with the least.
func principal(rows *mat.Dense) [][]float32 {
	_, n := rows.Dims()
	mix := mix(n)
	if mix != nil {
		var mixed mat.Dense
		mixed.Mul(rows, mix)
		rows = &mixed
	}
	var covariance mat.SymDense
	stat.CovarianceMatrix(&covariance, rows, nil)
	var eigen mat.EigenSym
	if !eigen.Factorize(&covariance, true) {
		return nil
	}
	var vectors mat.Dense
	eigen.VectorsTo(&vectors)
	variances := eigen.Values(nil) // ascending
	var found [][]float32
	for i := len(variances) - 1; i >= 0; i-- {
		if i >= len(variances)-components && variances[i] >= flat {
			found = append(found, direction(vectors.ColView(i), mix))
		}
	}
	least := 0
	for i, v := range variances[:max(len(variances)-components, 0)] {
		if v >= flat && least < components {
			least++
			found = append(found, direction(vectors.ColView(i), mix))
		}
	}
	return found
}

// signed returns the sums: one of plus only, and one of alternating signs.
func signed(rows *mat.Dense) (found [][]float32) {
	_, n := rows.Dims()
	for sum := range sums {
		weights := make([]float32, n)
		v := mat.NewVecDense(n, nil)
		for i := range weights {
			w := (1 - 2*float64(sum*i%2)) / math.Sqrt(float64(n))
			weights[i] = float32(w)
			v.SetVec(i, w)
		}
		var projected mat.VecDense
		projected.MulVec(rows, v)
		if stat.Variance(projected.RawVector().Data, nil) >= flat {
			found = append(found, weights)
		}
	}
	return found
}

// mix returns the random signs that mix many features into fewer, nil when there
// are few. With 64 columns distances change by about an eighth.
func mix(features int) *mat.Dense {
	if features <= maxDimension {
		return nil
	}
	r := rand.New(rand.NewPCG(1, uint64(features)))
	m := mat.NewDense(features, maxDimension, nil)
	for i := range features {
		for k := range maxDimension {
			m.Set(i, k, float64(2*r.IntN(2)-1)/math.Sqrt(float64(features)))
		}
	}
	return m
}

// direction expresses an eigenvector in features, its greatest weight positive.
func direction(v mat.Vector, mix *mat.Dense) []float32 {
	if mix != nil {
		var full mat.VecDense
		full.MulVec(mix, v)
		v = &full
	}
	greatest := 0.0
	for i := range v.Len() {
		if math.Abs(v.AtVec(i)) > math.Abs(greatest) {
			greatest = v.AtVec(i)
		}
	}
	d := make([]float32, v.Len())
	for i := range d {
		d[i] = float32(math.Copysign(1, greatest) * v.AtVec(i))
	}
	return d
}

// line is how a value's score is interpolated in one bin: at + slope (x - lower edge).
type line struct{ at, slope float32 }

// attach makes ready to score values of features: with the normal score of what
// share of the reference lies below each edge, and straight lines between. What is
// missing or no number scores 0.
func (j *Joint) attach(features []Feature) {
	bins := 0
	for _, at := range j.Features {
		bins += features[at].layout.Bins()
	}
	j.inputs, j.lines = make([]input, len(j.Features)), make([]line, bins)
	rest := j.lines
	for k, at := range j.Features {
		f := &features[at]
		j.inputs[k] = input{int32(at), int32(bins - len(rest)), f.Edges}
		lines := rest[:f.layout.Bins()]
		rest = rest[len(lines):]
		counts := f.Total()[:f.layout.Regular()]
		sum, below := float64(total(counts))+1, 0.5
		last := 0.0
		for i, e := range f.Edges {
			below += float64(counts[i])
			score := distuv.UnitNormal.Quantile(below / sum)
			if i == 0 {
				lines[0].at = float32(score)
			} else {
				slope := min((score-last)/(e-f.Edges[i-1]), math.MaxFloat32)
				lines[i] = line{float32(last), float32(slope)}
			}
			last = score
		}
		lines[len(f.Edges)].at = float32(last)
	}
}

// score returns a value's normal score.
func (j *Joint) score(k, bin int, x float64) float64 {
	in := &j.inputs[k]
	l := j.lines[int(in.first)+bin]
	if l.slope == 0 {
		return float64(l.at)
	}
	return float64(l.at) + float64(l.slope)*(x-in.edges[bin-1])
}

// project goes through the scores with four directions at a time: one addition would have
// to wait for the other of the same direction.
func (j *Joint) project(scores, out []float64) []float64 {
	n := len(scores)
	d := 0
	for ; d+4 <= len(j.Directions); d += 4 {
		of := j.Directions[d : d+4]
		w0, w1, w2, w3 := of[0][:n], of[1][:n], of[2][:n], of[3][:n]
		var s0, s1, s2, s3 float64 // an array would lie in memory
		for k, x := range scores {
			s0 += float64(w0[k]) * x
			s1 += float64(w1[k]) * x
			s2 += float64(w2[k]) * x
			s3 += float64(w3[k]) * x
		}
		copy(out[d:], []float64{s0, s1, s2, s3})
	}
	for ; d < len(j.Directions); d++ {
		sum := 0.0
		for k, w := range j.Directions[d][:n] {
			sum += float64(w) * scores[k]
		}
		out[d] = sum
	}
	return out
}

// Projector projects rows. It belongs to one goroutine at a time.
type Projector struct {
	joint  *Joint
	scores []float64
	out    []float64
}

// NewProjector returns a projector with memory of its own.
func (j *Joint) NewProjector() *Projector {
	return &Projector{j, make([]float64, len(j.Features)), make([]float64, len(j.Directions))}
}

// Project returns what a row is on each direction, valid until the next call. The
// row has the values of all features of the profile as numbers, and their bins.
func (p *Projector) Project(row []float64, bins []int) []float64 {
	for k := range p.scores {
		at := p.joint.inputs[k].place
		p.scores[k] = p.joint.score(k, bins[at], row[at])
	}
	return p.joint.project(p.scores, p.out)
}

// prepare checks a joint reference that was read.
func (j *Joint) prepare(features []Feature, slots int) error {
	if len(j.Features) > maxJoint || len(j.Directions) != len(j.Projected) ||
		len(j.Directions) > 2*components+sums {
		return errors.New("its sizes do not fit")
	}
	for _, at := range j.Features {
		if at < 0 || at >= len(features) || features[at].Edges == nil {
			return fmt.Errorf("there is no numeric feature %d", at)
		}
	}
	for i, weights := range j.Directions {
		if len(weights) != len(j.Features) {
			return fmt.Errorf("direction %d has %d weights, not %d", i, len(weights),
				len(j.Features))
		}
		j.Directions[i] = slices.Clone(weights)
		if err := j.Projected[i].prepare(slots); err != nil {
			return fmt.Errorf("direction %d: %w", i, err)
		}
	}
	j.attach(features)
	return nil
}
