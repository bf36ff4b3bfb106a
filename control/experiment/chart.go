package experiment

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Chart draws series over time, for people who look at a run's artifacts. Its zero value
// is an empty frame.
type Chart struct {
	Title  string
	Y      string // what is shown, with its unit
	Series []Series
	Limits []Limit
}

// Limit is a line across a Chart, as for the evidence that rolls back.
type Limit struct {
	Name  string
	Value float64
}

// The measures of a chart, in pixels.
const (
	chartWidth, chartHeight = 860, 420
	plotLeft, plotTop       = 80, 50
	plotWidth, plotHeight   = 560, 300
	legendHeight            = 20 // of a line
	maxLegend               = plotHeight / legendHeight
)

// colours can be told apart by most people (Okabe and Ito, "Color Universal Design").
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// axis maps values to parts of a length.
type axis struct {
	low, high, step float64 // the step between marks is 1, 2 or 5 times a power of ten
}

// newAxis spans the values that are finite in about five steps.
func newAxis(values []float64) axis {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if finite(v) {
			low, high = min(low, v), max(high, v)
		}
	}
	if low > high {
		low, high = 0, 1
	}
	if low == high {
		margin := max(1, math.Abs(low)/2) // more than rounding can take away
		low, high = low-margin, high+margin
	}
	rough := (high - low) / 5
	step := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, times := range []float64{2, 2.5, 2} {
		if step < rough {
			step *= times
		}
	}
	return axis{math.Floor(low/step) * step, math.Ceil(high/step) * step, step}
}

// part says where a value lies, from 0 to 1.
func (a axis) part(v float64) float64 { return (v - a.low) / (a.high - a.low) }

func (a axis) marks() []float64 {
	var all []float64
	for i := range 8 {
		if v := math.Round(a.low/a.step+float64(i)) * a.step; v <= a.high+a.step/2 {
			all = append(all, v)
		}
	}
	return all
}

// finite says whether a value can be drawn: it is also none that makes sums overflow.
func finite(v float64) bool { return math.Abs(v) < 1e300 }

// unit returns the unit that a span of time is shown in.
func unit(span time.Duration) (string, time.Duration) {
	switch {
	case span > 72*time.Hour:
		return "days", 24 * time.Hour
	case span > 3*time.Hour:
		return "hours", time.Hour
	case span > 3*time.Minute:
		return "minutes", time.Minute
	}
	return "seconds", time.Second
}

// SVG draws the chart. A point that is not finite is a gap.
func (c Chart) SVG() []byte {
	var first, last time.Time
	for _, s := range c.Series {
		for _, p := range s.Points {
			if first.IsZero() || p.Time.Before(first) {
				first = p.Time
			}
			if p.Time.After(last) {
				last = p.Time
			}
		}
	}
	name, scale := unit(last.Sub(first))
	d := &drawing{since: first, scale: scale}
	xs, ys := []float64{0, 1}, []float64(nil)
	for _, s := range c.Series {
		for _, p := range s.Points {
			xs, ys = append(xs, d.elapsed(p)), append(ys, p.Value)
		}
	}
	for _, l := range c.Limits {
		ys = append(ys, l.Value)
	}
	d.x, d.y = newAxis(xs), newAxis(ys)
	d.frame(c.Title, c.Y, name+" since "+first.UTC().Format(time.DateTime)+" UTC")
	for i, s := range c.Series {
		style := fmt.Sprintf(`stroke="%s" stroke-width="2"`, colours[i%len(colours)])
		d.curve(s.Points, style)
		d.legend(s.Name, style)
	}
	for _, l := range c.Limits {
		if y := d.py(l.Value); finite(l.Value) {
			d.line(place{plotLeft, y}, place{plotLeft + plotWidth, y},
				`stroke="#b00020" stroke-dasharray="6 4"`)
			d.text(place{plotLeft + 6, y - 5}, `fill="#b00020"`, shorten(l.Name, 60))
		}
	}
	d.WriteString("</svg>\n")
	return d.Bytes()
}

// place is a point in pixels.
type place struct{ x, y float64 }

// drawing is an SVG in the making.
type drawing struct {
	bytes.Buffer
	x, y    axis
	since   time.Time
	scale   time.Duration // of 1 on the x axis
	legends int           // lines so far
}

func (d *drawing) elapsed(p Point) float64 {
	return p.Time.Sub(d.since).Seconds() / d.scale.Seconds()
}
func (d *drawing) px(v float64) float64 { return plotLeft + plotWidth*d.x.part(v) }
func (d *drawing) py(v float64) float64 { return plotTop + plotHeight*(1-d.y.part(v)) }

func (d *drawing) line(a, b place, style string) {
	fmt.Fprintf(d, `<polyline points="%.1f,%.1f %.1f,%.1f" %s/>`+"\n", a.x, a.y, b.x, b.y, style)
}

func (d *drawing) text(at place, style, text string) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" %s>`, at.x, at.y, style)
	_ = xml.EscapeText(d, []byte(text)) // a buffer takes everything
	d.WriteString("</text>\n")
}

// frame draws all but the curves.
func (d *drawing) frame(title, y, x string) {
	fmt.Fprintf(d, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" `+
		`font-family="sans-serif" font-size="13"><rect width="%[1]d" height="%[2]d" fill="white"/>`+
		"\n", chartWidth, chartHeight)
	const right, bottom = plotLeft + plotWidth, plotTop + plotHeight
	d.text(place{plotLeft, 22}, `font-size="16" font-weight="bold"`, shorten(title, 90))
	d.text(place{plotLeft, plotTop - 8}, "", shorten(y, 80))
	d.text(place{(plotLeft + right) / 2, bottom + 44}, `text-anchor="middle"`, x)
	for _, v := range d.y.marks() {
		d.line(place{plotLeft, d.py(v)}, place{right, d.py(v)}, `stroke="#ccc"`)
		d.text(place{plotLeft - 8, d.py(v) + 4}, `text-anchor="end"`, number(v))
	}
	for _, v := range d.x.marks() {
		d.line(place{d.px(v), bottom}, place{d.px(v), bottom + 5}, `stroke="black"`)
		d.text(place{d.px(v), bottom + 20}, `text-anchor="middle"`, number(v))
	}
	d.line(place{plotLeft, plotTop}, place{plotLeft, bottom}, `stroke="black"`)
	d.line(place{plotLeft, bottom}, place{right, bottom}, `stroke="black"`)
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// curve draws lines between neighbours, and a dot where a point has none.
func (d *drawing) curve(points []Point, style string) {
	d.WriteString(`<path d="`)
	gap := true
	for i, p := range points {
		if !finite(p.Value) {
			gap = true
			continue
		}
		format := "L%.1f,%.1f"
		if gap {
			format = "M%.1f,%.1f"
		}
		if gap && (i+1 == len(points) || !finite(points[i+1].Value)) {
			format += "m-2,0a2,2 0 1,0 4,0a2,2 0 1,0 -4,0" // a circle
		}
		fmt.Fprintf(d, format, d.px(d.elapsed(p)), d.py(p.Value))
		gap = false
	}
	fmt.Fprintf(d, `" fill="none" %s/>`+"\n", style)
}

// legend adds a line to the legend, if there is room for it.
func (d *drawing) legend(name, style string) {
	const left = plotLeft + plotWidth + 20
	if d.legends++; d.legends <= maxLegend {
		y := float64(plotTop + legendHeight*d.legends - legendHeight/2)
		d.line(place{left, y}, place{left + 24, y}, style)
		d.text(place{left + 32, y + 4}, "", shorten(name, 24))
	}
}

// shorten cuts a text to so many characters.
func shorten(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return text
}
