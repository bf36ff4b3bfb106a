// Package plot draws curves with the characters of a terminal.
//
// It writes text and nothing else: no colours, no moving of the cursor. Its
// functions are pure and may be called concurrently.
package plot

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Series is one curve. NaN stands where there is no value.
type Series struct {
	Mark rune // that its points are drawn with
	Name string
	Ys   []float64 // parallel to Chart.Xs
}

// Chart is curves over the same places.
type Chart struct {
	Xs     []string // labels below the places
	XName  string
	YName  string
	Series []Series
	Height int // lines; 0 for defaultHeight
}

const (
	defaultHeight = 12
	gap           = 2 // columns between places at least

	// shared marks a cell in which points of several series lie.
	shared = '*'
)

// Draw writes the chart: values from 0 at the bottom to the highest at the top.
func (c *Chart) Draw(w io.Writer) error {
	height := c.Height
	if height <= 0 {
		height = defaultHeight
	}
	top := c.top()
	width := gap + 1
	for _, x := range c.Xs {
		width = max(width, len([]rune(x))+gap)
	}
	cells := c.cells(top, height, width)
	labels := make([]string, height)
	labels[0], labels[height/2] = Number(top), Number(top*(1-float64(height/2)/float64(height-1)))
	margin := 1
	for _, l := range append(labels, "0") {
		margin = max(margin, len(l))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%*s\n", margin, c.YName)
	for i, row := range cells {
		label := labels[i]
		if i == height-1 {
			label = "0"
		}
		fmt.Fprintf(&b, "%*s |%s\n", margin, label, strings.TrimRight(string(row), " "))
	}
	fmt.Fprintf(&b, "%*s +%s\n", margin, "", strings.Repeat("-", width*len(c.Xs)))
	var line strings.Builder
	for _, x := range c.Xs {
		fmt.Fprintf(&line, "%*s", width, x)
	}
	axis := strings.TrimRight(line.String()+"  "+c.XName, " ")
	fmt.Fprintf(&b, "%*s  %s\n", margin, "", axis)
	for _, s := range c.Series {
		fmt.Fprintf(&b, "%*s  %c  %s\n", margin, "", s.Mark, s.Name)
	}
	if slices.ContainsFunc(cells,
		func(row []rune) bool { return slices.Contains(row, shared) }) {
		fmt.Fprintf(&b, "%*s  %c  several of them\n", margin, "", shared)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// top returns the highest value, 1 when there is none above 0.
func (c *Chart) top() float64 {
	top := 0.0
	for _, s := range c.Series {
		for _, y := range s.Ys {
			if finite(y) {
				top = max(top, y)
			}
		}
	}
	if top == 0 {
		return 1
	}
	return top
}

func finite(y float64) bool { return !math.IsNaN(y) && !math.IsInf(y, 0) }

// cells places the points, the first row at the top.
func (c *Chart) cells(top float64, height, width int) [][]rune {
	cells := make([][]rune, height)
	for i := range cells {
		cells[i] = []rune(strings.Repeat(" ", width*len(c.Xs)))
	}
	for _, s := range c.Series {
		for x, y := range s.Ys[:min(len(s.Ys), len(c.Xs))] {
			if !finite(y) {
				continue
			}
			row := int(math.Round((1 - max(y, 0)/top) * float64(height-1)))
			cell := &cells[row][(x+1)*width-1]
			if *cell == ' ' {
				*cell = s.Mark
			} else {
				*cell = shared
			}
		}
	}
	return cells
}

// Number writes a value for people: at least two digits, with commas between
// thousands.
func Number(v float64) string {
	switch {
	case !finite(v):
		return "-"
	case v < 0:
		return "-" + Number(-v)
	case v < 10:
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	case v < 100:
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.1f", v), "0"), ".")
	}
	digits := fmt.Sprintf("%.0f", v)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}
