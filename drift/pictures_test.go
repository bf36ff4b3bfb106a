package drift

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// side is that of images, which have three channels, the last dimension.
const side = 32

// edit changes the numbers of one row.
type edit func(r *rand.Rand, values []float64)

func unchanged(*rand.Rand, []float64) {}

// wideSource draws rows that sum up a tensor of this shape.
func wideSource(draw edit, change edit, row ...int64) source {
	n, err := tensor.Elements(row)
	if err != nil {
		panic(err)
	}
	return func(r *rand.Rand, into []sketch.Value) {
		values := make([]float64, n)
		draw(r, values)
		change(r, values)
		x := []tensor.Tensor{numbers(tensor.FP32, append([]int64{1}, row...), values)}
		_ = NewRows(one(tensor.FP32, row...)).Each(x, nil, func(row []sketch.Value) error {
			copy(into, row)
			return nil
		})
	}
}

// texture draws a smooth image: waves of different directions in each channel, of some
// brightness and contrast, that is lighter at the top.
func texture(r *rand.Rand, pixels []float64) {
	brightness, contrast := 0.4+0.2*r.Float64(), 0.05+0.05*r.Float64()
	for y := range side {
		for i := range 3 * side {
			pixels[3*side*y+i] = brightness + 0.1*(0.5-float64(y)/side)
		}
	}
	for channel := range 3 {
		for range 3 {
			across, down := 6*r.Float64()/side, 6*(r.Float64()-0.5)/side
			phase := 2 * math.Pi * r.Float64()
			var cos, sin [side]float64
			for x := range side {
				sin[x], cos[x] = math.Sincos(phase + 2*math.Pi*across*float64(x))
			}
			for y := range side {
				s, c := math.Sincos(2 * math.Pi * down * float64(y))
				for x := range side {
					pixels[3*(side*y+x)+channel] += contrast * (cos[x]*c - sin[x]*s)
				}
			}
		}
	}
	noise(0.01)(r, pixels)
}

// noise adds what is normally distributed.
func noise(deviation float64) edit {
	return func(r *rand.Rand, values []float64) {
		for i := range values {
			values[i] += deviation * r.NormFloat64()
		}
	}
}

func brighter(by float64) edit {
	return func(_ *rand.Rand, values []float64) {
		for i := range values {
			values[i] += by
		}
	}
}

// contrast stretches the distances from the mean.
func contrast(factor float64) edit {
	return func(_ *rand.Rand, values []float64) {
		mean := 0.0
		for _, x := range values {
			mean += x / float64(len(values))
		}
		for i, x := range values {
			values[i] = mean + factor*(x-mean)
		}
	}
}

// blur replaces each pixel by the mean of three beside each other.
func blur(_ *rand.Rand, values []float64) {
	sharp := slices.Clone(values)
	for i := 3; i+3 < len(values); i++ {
		values[i] = (sharp[i-3] + sharp[i] + sharp[i+3]) / 3
	}
}

// upsideDown turns the light around.
func upsideDown(_ *rand.Rand, values []float64) {
	const line = 3 * side
	for y := range side / 2 {
		for i := range line {
			a, b := y*line+i, (side-1-y)*line+i
			values[a], values[b] = values[b], values[a]
		}
	}
}

// drawing makes two colours of each channel.
func drawing(_ *rand.Rand, values []float64) {
	for i, x := range values {
		values[i] = 0.4 + 0.2*math.Round(x)
	}
}

// embedding draws a vector with eight directions that it varies in most.
func embedding(r *rand.Rand, values []float64) {
	directions := rand.New(rand.NewPCG(8, 8)) // always the same
	for range 8 {
		x := 0.3 * r.NormFloat64()
		for i := range values {
			values[i] += x * float64(1-2*int(directions.Uint32()&1))
		}
	}
	noise(0.53)(r, values) // one deviation in all
}

// along shifts a vector in a direction, by so many deviations an element.
func along(by float64) edit {
	direction := make([]float64, 2048)
	noise(by)(rand.New(rand.NewPCG(9, 9)), direction)
	return func(_ *rand.Rand, values []float64) {
		for i := range values {
			values[i] += direction[i]
		}
	}
}

const wideColumns = 4 + projections

// TestWideRunLength wants the mean time to a false alarm to be as long as promised, of images
// and of embeddings.
func TestWideRunLength(t *testing.T) {
	f := func(name string, draw edit, row ...int64) {
		t.Helper()
		s := stream{size: [2]int{5000, wideColumns}, before: wideSource(draw, unchanged, row...),
			rows: 5, horizon: 1500, shared: 4}
		s.after = s.before
		n := max(count(8), 2)
		mean, e := s.runs(t, n)
		t.Logf("%-10s %4.0f +- %2.0f ticks in %d streams, cut off at %d", name, mean, e, n,
			s.horizon)
		if mean < promise-3*e {
			t.Errorf("%s: false alarms every %.0f +- %.0f ticks, promised are %d", name, mean, e,
				promise)
		}
	}
	f("images", texture, side, side, 3)
	f("embeddings", embedding, 2048)
}

// TestWideDelay measures how many ticks of ten rows a change takes to be seen, with the
// tolerances 0 and 0.1, and by what: the table in docs/drift.md.
func TestWideDelay(t *testing.T) {
	f := func(name string, e *exhibition, change edit, most float64) {
		t.Helper()
		seen, by := e.delays(t, change)
		t.Logf("| %s | %.1f | %.1f | %s |", name, seen[0], seen[1], by)
		if seen[1] > most {
			t.Errorf("%s: seen after %.1f ticks, want %.1f", name, seen[1], most)
		}
	}
	images := exhibit(t, texture, side, side, 3)
	f("brightness +0.02", images, brighter(0.02), 30)
	f("brightness +0.05", images, brighter(0.05), 10)
	f("contrast x 0.9", images, contrast(0.9), 20)
	f("contrast x 1.25", images, contrast(1.25), 5)
	f("blur", images, blur, 5)
	f("noise 0.02", images, noise(0.02), 60)
	f("noise 0.05", images, noise(0.05), 5)
	f("drawing", images, drawing, 5)
	f("upside down", images, upsideDown, 20)
	f("a NaN", images, func(_ *rand.Rand, pixels []float64) { pixels[7] = math.NaN() }, 2)
	embeddings := exhibit(t, embedding, 2048)
	f("0.1 deviations", embeddings, along(0.1), 290)
	f("0.25 deviations", embeddings, along(0.25), 60)
	f("0.5 deviations", embeddings, along(0.5), 10)
}

// horizon is how many ticks a change has to be seen.
const horizon = 300

// exhibition is what changes are tried on: rows of one kind, and references of them.
type exhibition struct {
	draw     edit
	row      []int64
	profiles []*reference.Profile
}

func exhibit(t *testing.T, draw edit, row ...int64) *exhibition {
	t.Helper()
	e := &exhibition{draw: draw, row: row}
	for seed := range uint64(max(count(5), 1)) {
		e.profiles = append(e.profiles, profile(t, rand.New(rand.NewPCG(seed, 14)),
			[2]int{5000, wideColumns}, wideSource(draw, unchanged, row...)))
	}
	return e
}

// delays returns the mean ticks until an alarm, with the tolerances 0 and 0.1, and which
// column stands out then, as a rule.
func (e *exhibition) delays(t *testing.T, change edit) (mean [2]float64, by string) {
	t.Helper()
	const clean, rows = 20, 10
	before := wideSource(e.draw, unchanged, e.row...)
	after := wideSource(e.draw, change, e.row...)
	outstanding := make(map[string]int)
	for seed, p := range e.profiles {
		r := rand.New(rand.NewPCG(uint64(seed), 41))
		for i, tolerance := range []float64{0, 0.1} {
			m, err := NewMonitor(p, Config{promise, tolerance})
			if err != nil {
				t.Fatal(err)
			}
			for range clean {
				tickOf(t, m, rows, func(row []sketch.Value) { before(r, row) })
			}
			ticks := 0
			for report := (Report{}); !report.Alarm && ticks < horizon; ticks++ {
				report = tickOf(t, m, rows, func(row []sketch.Value) { after(r, row) })
				by = slices.MaxFunc(report.Streams, func(a, b Stream) int {
					return cmp.Compare(a.Evidence, b.Evidence)
				}).Name
			}
			outstanding[by]++
			mean[i] += float64(ticks) / float64(len(e.profiles))
		}
	}
	for name, n := range outstanding {
		if n > outstanding[by] {
			by = name
		}
	}
	if at := slices.Index(names(wideColumns), by); at >= 0 {
		by = NewRows(one(tensor.FP32, e.row...)).Columns()[at]
	}
	return mean, by
}

// tickOf draws the rows of one tick and has them judged.
func tickOf(t *testing.T, m *Monitor, rows int, draw func(row []sketch.Value)) Report {
	t.Helper()
	w, err := NewWindow(m.profile, names(wideColumns))
	if err != nil {
		t.Fatal(err)
	}
	row := make([]sketch.Value, wideColumns)
	for range rows {
		draw(row)
		if err := w.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	report, err := m.Tick(w, noon)
	if err != nil {
		t.Fatal(err)
	}
	return report
}
