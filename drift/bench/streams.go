package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// source draws the next row of a stream into the one before.
type source func(r *rand.Rand, row []float64)

// change is a drift by its name: what a stream is afterwards.
type change struct {
	name string
	draw source
}

// kind is a sort of stream: how it is drawn while nothing is wrong, and what may change.
type kind struct {
	name        string
	columns     int
	categorical bool // numbers are codes of categories
	draw        source
	changes     []change
	share       int // of the settings' rows without drift, one in so many
}

// each draws all columns independently.
func each(draw func(r *rand.Rand) float64) source {
	return func(r *rand.Rand, row []float64) {
		for i := range row {
			row[i] = draw(r)
		}
	}
}

func normal(mean, deviation float64) source {
	return each(func(r *rand.Rand) float64 { return mean + deviation*r.NormFloat64() })
}

// student draws from Student's distribution with 3 degrees of freedom.
var student = each(func(r *rand.Rand) float64 {
	sum := 0.0
	for range 3 {
		x := r.NormFloat64()
		sum += x * x
	}
	return r.NormFloat64() / math.Sqrt(sum/3)
})

var cauchy = each(func(r *rand.Rand) float64 {
	return math.Tan(math.Pi * (r.Float64() - 0.5))
})

// tied draws zero in six of ten cases, else one of nine other values.
var tied = each(func(r *rand.Rand) float64 {
	if r.IntN(10) < 6 {
		return 0
	}
	return float64(r.IntN(5)+r.IntN(5)) / 10
})

// category draws one of 20 codes, the lower the more often, or with a probability the
// new code 20.
func category(unseen float64) source {
	return each(func(r *rand.Rand) float64 {
		if r.Float64() < unseen {
			return 20
		}
		return math.Floor(20 * math.Pow(r.Float64(), 2))
	})
}

// correlated draws standard normal columns with a correlation; after a flip the first
// has the opposite with the others.
func correlated(rho float64, flip bool) source {
	return func(r *rand.Rand, row []float64) {
		common := r.NormFloat64()
		for i := range row {
			row[i] = math.Sqrt(rho)*common + math.Sqrt(1-rho)*r.NormFloat64()
		}
		if flip {
			row[0] = -row[0]
		}
	}
}

// kinds are the streams that all detectors see.
var kinds = []kind{
	{name: "normal", columns: 1, draw: normal(0, 1), changes: []change{
		{"shift 0.25", normal(0.25, 1)}, {"shift 0.5", normal(0.5, 1)},
		{"shift 1", normal(1, 1)}, {"variance x2", normal(0, math.Sqrt2)}}, share: 1},
	{name: "categories", columns: 1, categorical: true, draw: category(0),
		changes: []change{{"new category, 10 %", category(0.1)}}, share: 10},
	{name: "pair", columns: 2, draw: correlated(0.8, false),
		changes: []change{{"correlation 0.8 to -0.8", correlated(0.8, true)}}, share: 40},
	{name: "t3", columns: 1, draw: student, share: 20},
	{name: "cauchy", columns: 1, draw: cauchy, share: 20},
	{name: "ties", columns: 1, draw: tied, share: 20},
}

// before is how many rows there are in front of a change.
const before = 2000

// references is how many references streams take turns with.
const references = 20

// table is rows of numbers, one after the other. Numbers have 32 bits, as most models
// take them.
type table struct {
	columns int
	values  []float32
}

func (t table) rows() int { return len(t.values) / t.columns }

// part returns n rows from one on.
func (t table) part(from, n int) table {
	return table{t.columns, t.values[from*t.columns : (from+n)*t.columns]}
}

// fill draws n rows.
func fill(columns, n int, draw source, r *rand.Rand) table {
	t := table{columns, make([]float32, 0, n*columns)}
	row := make([]float64, columns)
	for range n {
		draw(r, row)
		for _, x := range row {
			t.values = append(t.values, float32(x))
		}
	}
	return t
}

// data are the streams of a kind.
type data struct {
	kind       *kind
	references []table
	clean      table
	changed    [][]table // for each change the streams
}

// draw draws all streams. Seeds are fixed: they are the same in each run.
func (s settings) draw() (all []data) {
	for i := range kinds {
		k := &kinds[i]
		r := rand.New(rand.NewPCG(2026, uint64(i)))
		d := data{kind: k, clean: fill(k.columns, s.clean/k.share, k.draw, r)}
		for range references {
			d.references = append(d.references, fill(k.columns, s.reference, k.draw, r))
		}
		for _, c := range k.changes {
			var streams []table
			for range s.streams {
				one := fill(k.columns, before, k.draw, r)
				rest := fill(k.columns, s.after, c.draw, r)
				one.values = append(one.values, rest.values...)
				streams = append(streams, one)
			}
			d.changed = append(d.changed, streams)
		}
		all = append(all, d)
	}
	return all
}

// index tells Python what files there are.
type index struct {
	Before int         `json:"before"`
	After  int         `json:"after"`
	Slow   int         `json:"slow"` // streams and alarms for slow detectors
	Kinds  []indexKind `json:"kinds"`
}

type indexKind struct {
	Name       string        `json:"name"`
	Columns    int           `json:"columns"`
	References int           `json:"references"`
	Changes    []indexChange `json:"changes"`
}

type indexChange struct {
	Name string `json:"name"`
	File string `json:"file"`
}

// write writes the streams of all kinds, and the periodic one, which has no reference.
func (s settings) write(all []data) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("cannot make the folder for streams: %w", err)
	}
	out := index{Before: before, After: s.after, Slow: s.slow}
	for _, d := range all {
		k := indexKind{d.kind.name, d.kind.columns, len(d.references), []indexChange{}}
		if err := s.save(k.Name+"-clean", d.clean); err != nil {
			return err
		}
		if err := s.save(k.Name+"-references", d.references...); err != nil {
			return err
		}
		for i, c := range d.kind.changes {
			file := fmt.Sprintf("%s-%d", k.Name, i)
			if err := s.save(file, d.changed[i]...); err != nil {
				return err
			}
			k.Changes = append(k.Changes, indexChange{c.name, file})
		}
		out.Kinds = append(out.Kinds, k)
	}
	_, hours := s.hourly()
	out.Kinds = append(out.Kinds, indexKind{periodicName, 1, 0, []indexChange{}})
	if err := s.save(periodicName+"-clean", hours); err != nil {
		return err
	}
	text, err := json.Marshal(out)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "index.json"), text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write the index of streams: %w", err)
	}
	return nil
}

func (s settings) path(name string) string { return filepath.Join(s.dir, name+".f32") }

// save writes tables into one file.
func (s settings) save(name string, tables ...table) error {
	var b []byte
	for _, t := range tables {
		for _, x := range t.values {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
	}
	if err := os.WriteFile(s.path(name), b, 0o644); err != nil {
		return fmt.Errorf("cannot write a stream: %w", err)
	}
	return nil
}

// load reads a file of rows with so many columns.
func (s settings) load(name string, columns int) (table, error) {
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return table{}, fmt.Errorf("cannot read a stream: %w", err)
	}
	t := table{columns, make([]float32, len(b)/4)}
	for i := range t.values {
		t.values[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return t, nil
}
