package monitor

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/distance"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// Reading is what a monitor has found in a tick.
type Reading struct {
	Time     time.Time `json:"time"`
	Rows     uint64    `json:"rows"`            // of this tick
	Total    uint64    `json:"total"`           // since the version began
	Learned  int       `json:"learned"`         // rows for a reference
	Learn    int       `json:"learn,omitempty"` // how many are needed; 0 when there is one
	Strand             // the one that is nearest to an alarm
	Strands  []Strand  `json:"strands"`          // of all kinds that are looked at
	Features []Feature `json:"features"`         // with the most evidence, the most first
	Examples []Example `json:"examples"`         // rows, where there is a suspicion
	Series   []Point   `json:"series,omitempty"` // of the evidence, the latest last
	// What becomes known of answers, where that is looked at.
	Performance *Performance `json:"performance,omitempty"`
	Outliers    *Outliers    `json:"outliers,omitempty"` // where they are looked for
	Segments    *Segments    `json:"segments,omitempty"` // where there are any
}

// Feature is what is known of a feature that stands out.
type Feature struct {
	Name     string  `json:"name"`
	Evidence float64 `json:"evidence"`
	Named    bool    `json:"named,omitempty"` // it has drifted
	Distances
	// The histograms, where there is a suspicion.
	Bins []Bin `json:"bins,omitempty"`
}

// Distances say for people how far apart two histograms are: that of the reference, and that of
// the rows since the evidence has grown where there is a suspicion, else of the tick's rows. They
// have no rate of false alarms, so that no alarm follows from them: see package distance.
type Distances struct {
	Compared uint64  `json:"compared,omitempty"`  // rows; without any there are no distances
	PSI      float64 `json:"psi,omitempty"`       // population stability index
	Noise    float64 `json:"psi_noise,omitempty"` // PSI exceeds it in one of 20 cases without drift
	JS       float64 `json:"jensen_shannon,omitempty"`
	// Of a feature of numbers: the Kolmogorov-Smirnov distance, and in the feature's own unit that
	// of Wasserstein.
	Numeric     bool    `json:"numeric,omitempty"`
	KS          float64 `json:"kolmogorov_smirnov,omitempty"`
	Wasserstein float64 `json:"wasserstein,omitempty"`
}

// Each calls f with each distance there is, by the name of its measure.
func (d *Distances) Each(f func(measure string, x float64)) {
	if d.Compared == 0 {
		return
	}
	f("psi", d.PSI)
	f("psi_noise", d.Noise)
	f("jensen_shannon", d.JS)
	if d.Numeric {
		f("kolmogorov_smirnov", d.KS)
		f("wasserstein", d.Wasserstein)
	}
}

// distances compares histograms of a layout. One without rows has none.
func distances(l *sketch.Layout, live, reference []uint64) (d Distances) {
	if sum(live) == 0 || sum(reference) == 0 {
		return d
	}
	d.Compared = uint64(sum(live))
	d.PSI, d.Noise = distance.PSI(live, reference)
	d.JS = distance.JensenShannon(live, reference)
	n := l.Regular()
	if l.IsNumeric() && sum(live[:n]) > 0 && sum(reference[:n]) > 0 {
		d.Numeric = true
		d.KS = distance.KS(live[:n], reference[:n])
		d.Wasserstein = distance.Wasserstein(live[:n], reference[:n], l.Edges())
	}
	return d
}

// Bin is a bin of a feature, and the share of the rows in it.
type Bin struct {
	Label  string  `json:"label"`
	Before float64 `json:"before"` // in the reference
	After  float64 `json:"after"`  // since the evidence has grown
}

// Example is a row: the values of the features that stand out, in their order.
type Example []string

// Point is the evidence after a tick.
type Point struct {
	Time     time.Time `json:"time"`
	Evidence float64   `json:"evidence"`
	Rows     uint64    `json:"rows"` // since the point before
}

// maxFeatures bounds the features that are told of, maxBins their bins: the rest is one.
const maxFeatures, maxBins = 5, 40

// features lists those with the most evidence; with histograms where there is a suspicion.
func (m *Monitor) features(r drift.Report) []Feature {
	order := make([]int, len(r.Streams))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(r.Streams[b].Evidence, r.Streams[a].Evidence)
	})
	suspected := r.Evidence >= m.cfg.Suspicion()
	var list []Feature
	for _, i := range order[:min(len(order), maxFeatures)] {
		s := &r.Streams[i]
		f := Feature{Name: s.Name, Evidence: s.Evidence, Named: s.Named}
		switch {
		case i >= len(m.profile.Features): // of all together
		case suspected && m.live != nil:
			m.compare(&f, i)
		default:
			of, slot := &m.profile.Features[i], m.profile.Season.Slot(m.at)
			f.Distances = distances(of.Layout(), m.window.Feature(i).Counts(), of.Counts[slot])
		}
		list = append(list, f)
	}
	return list
}

// compare fills in the histograms of a feature.
func (m *Monitor) compare(f *Feature, at int) {
	of := &m.profile.Features[at]
	before, after := of.Total(), make([]uint64, len(m.live[at]))
	for bin, n := range m.live[at] {
		after[bin] = uint64(n)
	}
	layout := of.Layout()
	if f.Distances = distances(layout, after, before); f.Compared == 0 {
		return
	}
	for bin := range before {
		if len(f.Bins) == maxBins {
			f.Bins = append(f.Bins, Bin{Label: "all others"})
		}
		if len(f.Bins) < maxBins {
			f.Bins = append(f.Bins, Bin{Label: layout.Label(bin)})
		}
		b := &f.Bins[len(f.Bins)-1]
		b.Before += float64(before[bin]) / sum(before)
		b.After += float64(after[bin]) / sum(after)
	}
}

func sum(counts []uint64) (all float64) {
	for _, n := range counts {
		all += float64(n)
	}
	return all
}

// samples are the values of some features in the rows that are kept as examples.
func (m *Monitor) samples(features []Feature) []Example {
	if !slices.ContainsFunc(features, func(f Feature) bool { return f.Bins != nil }) {
		return nil
	}
	var list []Example
	for _, row := range m.examples {
		var e Example
		texts := strings.Split(row, separator)
		for i := range features {
			at := slices.IndexFunc(m.profile.Features, func(f reference.Feature) bool {
				return f.Name == features[i].Name
			})
			text := ""
			if at >= 0 && at < len(texts) {
				text = texts[at]
			}
			e = append(e, text)
		}
		list = append(list, e)
	}
	return list
}

// series is the evidence over time, bounded: when there are too many points each second one goes,
// and of the later ones as many.
type series struct {
	points []Point
	stride uint64 // ticks of a point
	ticks  uint64 // since the last point
	rows   uint64 // since then
}

// maxPoints bounds a series.
const maxPoints = 60

func (s *series) add(p Point) {
	s.ticks++
	s.rows += p.Rows
	if s.ticks < max(s.stride, 1) {
		return
	}
	p.Rows, s.ticks, s.rows = s.rows, 0, 0
	// Readings refer to what was there before: it is never written to.
	s.points = append(s.points, p)
	if len(s.points) < maxPoints {
		return
	}
	thin := make([]Point, 0, maxPoints)
	for i := 1; i < len(s.points); i += 2 {
		one := s.points[i]
		one.Rows += s.points[i-1].Rows
		one.Evidence = max(one.Evidence, s.points[i-1].Evidence)
		thin = append(thin, one)
	}
	s.points, s.stride = thin, 2*max(s.stride, 1)
}

// keptSeries is the JSON form of a series.
type keptSeries struct {
	Points []Point `json:"points"`
	Stride uint64  `json:"stride"`
}

// MarshalJSON writes a series.
func (s series) MarshalJSON() ([]byte, error) {
	return json.Marshal(keptSeries{s.points, s.stride})
}

// UnmarshalJSON reads a series.
func (s *series) UnmarshalJSON(text []byte) error {
	var k keptSeries
	err := json.Unmarshal(text, &k)
	*s = series{points: k.Points[:min(len(k.Points), maxPoints-1)], stride: k.Stride}
	return err
}

// readProfile reads a reference that was learned.
func readProfile(text []byte) (*reference.Profile, error) {
	return reference.Read(bytes.NewReader(text))
}

// barWidth is the longest bar of a histogram, in characters.
const barWidth = 24

// Text draws the histograms of a feature for people, a line for each bin.
func (f *Feature) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: evidence %s", f.Name, Short(f.Evidence))
	if f.Named {
		b.WriteString(", it has drifted")
	}
	if f.Compared > 0 {
		fmt.Fprintf(&b, "; %d rows: PSI %s (noise up to %s), Jensen-Shannon %s", f.Compared,
			Short(f.PSI), Short(f.Noise), Short(f.JS))
	}
	if f.Numeric {
		fmt.Fprintf(&b, ", KS %s, Wasserstein %s", Short(f.KS), Short(f.Wasserstein))
	}
	b.WriteString("\n")
	most, width := 0.0, 0
	for _, bin := range f.Bins {
		most = max(most, bin.Before, bin.After)
		width = max(width, len([]rune(bin.Label)))
	}
	for _, bin := range f.Bins {
		if bin.Before == 0 && bin.After == 0 {
			continue
		}
		bar := func(share float64, mark string) string {
			n := int(math.Round(share / most * barWidth))
			return strings.Repeat(mark, n) + strings.Repeat(" ", barWidth-n)
		}
		fmt.Fprintf(&b, "  %-*s  %5.1f %% %s  %5.1f %% %s\n", width, bin.Label, 100*bin.Before,
			bar(bin.Before, "-"), 100*bin.After, strings.TrimRight(bar(bin.After, "#"), " "))
	}
	return b.String()
}
