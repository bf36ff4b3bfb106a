package experiment

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// points makes a series of a value every ten seconds.
func points(name string, values ...float64) Series {
	s := Series{Name: name}
	for i, v := range values {
		at := time.Date(2026, 11, 25, 21, 0, 10*i, 0, time.UTC)
		s.Points = append(s.Points, Point{Time: at, Step: int64(i), Value: v})
	}
	return s
}

// numbers are those of places and sizes.
var numbers = regexp.MustCompile(` (?:points|d|x|y|width|height)="([^"m]*)`)

// TestChart draws what may come, and wants well-formed SVG within its bounds.
func TestChart(t *testing.T) {
	f := func(c Chart, lines int, texts ...string) {
		t.Helper()
		svg := string(c.SVG())
		dec := xml.NewDecoder(strings.NewReader(svg))
		var err error
		for err == nil {
			_, err = dec.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("not XML: %v\n%s", err, svg)
		}
		for _, m := range numbers.FindAllStringSubmatch(svg, -1) {
			for _, n := range strings.FieldsFunc(m[1],
				func(r rune) bool { return strings.ContainsRune(" ,ML", r) }) {
				if v, err := strconv.ParseFloat(n, 64); err != nil || !(v >= 0 && v <= chartWidth) {
					t.Errorf("%s is out of the chart\n%s", m[0], svg)
				}
			}
		}
		if got := strings.Count(svg, "M"); got != lines {
			t.Errorf("%d lines without a gap, want %d\n%s", got, lines, svg)
		}
		for _, text := range texts {
			if !strings.Contains(svg, ">"+text+"</text>") {
				t.Errorf("there is no text %q\n%s", text, svg)
			}
		}
	}
	nan, inf := math.NaN(), math.Inf(1)
	limits := []Limit{{"roll back", 4.6}}
	f(Chart{}, 0, "0", "1", "0.2", "seconds since 0001-01-01 00:00:00 UTC")
	f(Chart{Title: "a < b & c", Y: "ln E", Series: []Series{points("errors", 0, 1, 5)},
		Limits: limits}, 1, "a &lt; b &amp; c", "ln E", "errors", "roll back", "0", "5", "20",
		"seconds since 2026-11-25 21:00:00 UTC")
	f(Chart{Series: []Series{points("one", 3)}}, 1, "one", "2", "4")
	f(Chart{Series: []Series{points("none"), points("nan", nan, nan), points("inf", inf, -inf)}}, 0)
	f(Chart{Series: []Series{points("gaps", nan, 1, 2, inf, 3, nan, nan, 4, 5)}}, 3)
	f(Chart{Series: []Series{points("same", 7, 7, 7)}, Limits: []Limit{{"never", inf}}}, 1, "same")
	f(Chart{Series: []Series{points("large", -9e299, 9e299, math.MaxFloat64)}}, 1)
	f(Chart{Series: []Series{points("small", 1e-300, 2e-300), points("\x00\xff", 0)}}, 2)
	f(Chart{Series: []Series{points("close", 1e6, 1e6+1)}}, 1, "1e+06")
	f(Chart{Series: []Series{points("long", make([]float64, 90000)...)}}, 1, "10", "15")
	many := Chart{Title: strings.Repeat("ü", 1000)}
	for i := range 40 {
		many.Series = append(many.Series, points(fmt.Sprint("series ", i), float64(i)))
	}
	f(many, 40, "series 0", "series 14")
}
