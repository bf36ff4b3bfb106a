package reference

import (
	"math"
	"strconv"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// column keeps the values of one column until the profile is built: as numbers
// until the first text comes, then as texts.
type column struct {
	name    string
	numbers []float64
	texts   []string // nil for numbers
	missing []bool
}

// set stores a value in a row that may be the next new one.
func (c *column) set(row int, v sketch.Value) {
	if row == len(c.missing) {
		c.missing = append(c.missing, false)
		if c.texts != nil {
			c.texts = append(c.texts, "")
		} else {
			c.numbers = append(c.numbers, 0)
		}
	}
	c.missing[row] = v.IsMissing()
	if c.texts == nil {
		if v.IsMissing() || v.IsNumber() {
			c.numbers[row] = v.Float()
			return
		}
		c.toTexts()
	}
	var b [64]byte
	c.texts[row] = string(v.AppendText(b[:0]))
}

func (c *column) toTexts() {
	var b [64]byte
	c.texts = make([]string, len(c.numbers), cap(c.numbers))
	for i, x := range c.numbers {
		if !c.missing[i] {
			c.texts[i] = string(sketch.Number(x).AppendText(b[:0]))
		}
	}
	c.numbers = nil
}

// value returns what was set in a row.
func (c *column) value(row int) sketch.Value {
	switch {
	case c.missing[row]:
		return sketch.Missing()
	case c.texts != nil:
		return sketch.Text([]byte(c.texts[row]))
	}
	return sketch.Number(c.numbers[row])
}

// cell reads a field of a CSV file.
func cell(s string) sketch.Value {
	switch s {
	case "", "NA", "N/A", "null", "NULL", "None":
		return sketch.Missing()
	case "true", "True", "TRUE":
		return sketch.Boolean(true)
	case "false", "False", "FALSE":
		return sketch.Boolean(false)
	}
	if x, err := strconv.ParseFloat(s, 64); err == nil || math.IsInf(x, 0) {
		return sketch.Number(x)
	}
	return sketch.Text([]byte(s))
}
