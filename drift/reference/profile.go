package reference

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/millrace-ml/millrace/drift/sketch"
)

var (
	// ErrRows is returned for data with too few rows to be a reference.
	ErrRows = errors.New("reference: too few rows")
	// ErrColumn is returned for a column that cannot be used, or that is not there.
	ErrColumn = errors.New("reference: unusable column")
	// ErrProfile is returned for a file that is not a profile.
	ErrProfile = errors.New("reference: not a profile")
)

// MinRows is how many rows each slot of a reference has at least. A reference is
// off by 1/sqrt(rows) deviations, which detectors must ignore: 10,000 rows hide
// hardly more than nothing, 200 a shift of a fifth of a deviation.
const MinRows = 200

// profileVersion is the version of the JSON form.
const profileVersion = 1

// Profile is a reference.
type Profile struct {
	Version  int         `json:"version"`
	Rows     uint64      `json:"rows"`
	Season   Season      `json:"season,omitempty"`
	Features []Feature   `json:"features"`
	Joint    *Joint      `json:"joint,omitempty"`
	Segments *Segments   `json:"segments,omitempty"`
	Outliers []Threshold `json:"outliers,omitempty"` // ascending
	Losses   *Losses     `json:"losses,omitempty"`   // of the answers, where labels were there
	// Notes tell people what the reference is not good for.
	Notes []string `json:"notes,omitempty"`
}

// Feature is the reference of one input or output: of a numeric one with the Edges
// of a layout, of a categorical one with its Categories.
type Feature struct {
	Name       string    `json:"name"`
	Output     bool      `json:"output,omitempty"`
	Edges      []float64 `json:"edges,omitempty"`
	Categories []string  `json:"categories,omitempty"`
	// Counts are those of the layout's bins, for each slot of the season.
	Counts [][]uint64 `json:"counts"`
	// DesignEffect is how many times as much as independent rows the rows vary together
	// that follow each other; 0 is 1.
	DesignEffect float64 `json:"design_effect,omitempty"`

	layout *sketch.Layout
}

// Layout returns the bins of a feature of a profile that was built or read.
func (f *Feature) Layout() *sketch.Layout { return f.layout }

// Total returns the counts of all slots together.
func (f *Feature) Total() []uint64 {
	total := make([]uint64, f.layout.Bins())
	for _, counts := range f.Counts {
		for i, n := range counts {
			total[i] += n
		}
	}
	return total
}

// makeLayout builds the layout from the exported fields.
func (f *Feature) makeLayout() (err error) {
	if f.Categories != nil && f.Edges != nil {
		return errors.New("it has both edges and categories")
	}
	if f.Categories != nil {
		f.layout, err = sketch.Categorical(f.Categories)
	} else {
		f.layout, err = sketch.Numeric(f.Edges)
	}
	if err == nil {
		f.Edges = f.layout.Edges() // one copy is enough
	}
	return err
}

// Read reads a profile that Write wrote.
func Read(r io.Reader) (*Profile, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	p := new(Profile)
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	if p.Version != profileVersion {
		return nil, fmt.Errorf("%w of version %d, as is known here", ErrProfile, profileVersion)
	}
	if err := p.prepare(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	return p, nil
}

// Write writes the profile as JSON.
func (p *Profile) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	if err := e.Encode(p); err != nil {
		return fmt.Errorf("cannot write the reference: %w", err)
	}
	return nil
}

// Fingerprint tells profiles apart, so that evidence is never carried over to
// another reference.
func (p *Profile) Fingerprint() (string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("cannot take the fingerprint of a reference: %w", err)
	}
	return fmt.Sprintf("%016x", xxhash.Sum64(text)), nil
}

// prepare checks a profile and builds what its JSON form does not hold.
func (p *Profile) prepare() error {
	slots, err := p.Season.slots()
	if err != nil {
		return err
	}
	if len(p.Features) == 0 {
		return errors.New("it has no features")
	}
	p.Features = slices.Clone(p.Features) // Reading JSON leaves up to twice the memory.
	names := make(map[string]bool)
	for i := range p.Features {
		f := &p.Features[i]
		if names[f.Name] {
			return fmt.Errorf("the feature %q is there twice", f.Name)
		}
		names[f.Name] = true
		if err := f.prepare(slots); err != nil {
			return fmt.Errorf("feature %q: %w", f.Name, err)
		}
	}
	if p.Joint != nil {
		if err := p.Joint.prepare(p.Features, slots); err != nil {
			return fmt.Errorf("joint: %w", err)
		}
	}
	if p.Segments != nil {
		if err := p.Segments.prepare(p, slots); err != nil {
			return fmt.Errorf("segments: %w", err)
		}
	}
	for _, t := range p.Outliers {
		if err := t.check(); err != nil {
			return err
		}
	}
	if p.Losses != nil {
		return p.Losses.check()
	}
	return nil
}

func (f *Feature) prepare(slots int) error {
	if err := f.makeLayout(); err != nil {
		return err
	}
	return f.check(slots)
}

// check holds the counts against the layout.
func (f *Feature) check(slots int) error {
	if !(f.DesignEffect >= 0) {
		return fmt.Errorf("a design effect of %v is impossible", f.DesignEffect)
	}
	if len(f.Counts) != slots {
		return fmt.Errorf("it has counts of %d slots, not of %d", len(f.Counts), slots)
	}
	f.Counts = slices.Clone(f.Counts) // as reading JSON leaves room for more slots
	for slot, counts := range f.Counts {
		if len(counts) != f.layout.Bins() {
			return fmt.Errorf("it has counts of %d bins, not of %d", len(counts), f.layout.Bins())
		}
		rows := uint64(0)
		for _, n := range counts {
			if n > 1<<40 {
				return fmt.Errorf("a count of %d is impossible", n)
			}
			rows += n
		}
		f.Counts[slot] = slices.Clone(counts)
		if rows < MinRows {
			return tooFew(rows, slot, slots)
		}
	}
	return nil
}

func tooFew(rows uint64, slot, slots int) error {
	where := ""
	if slots > 1 {
		where = fmt.Sprintf("hour %d has ", slot)
	}
	return fmt.Errorf("%w: %s%d, a reference needs at least %d (better 10000) of those "+
		"that the model was trained on; a few examples of inputs are none", ErrRows, where, rows,
		MinRows)
}

// Match checks that live rows with these names of inputs and outputs can be
// compared with the profile, and returns for each of its features the place in a
// row. Columns that it does not know are left alone.
func (p *Profile) Match(names []string) ([]int, error) {
	places := make([]int, len(p.Features))
	var absent []string
	for i := range p.Features {
		if places[i] = slices.Index(names, p.Features[i].Name); places[i] < 0 {
			absent = append(absent, p.Features[i].Name)
		}
	}
	if absent != nil {
		return nil, fmt.Errorf("%w: the reference has %s, the model only %s: build it from the "+
			"model's own columns", ErrColumn, strings.Join(absent, ", "), strings.Join(names, ", "))
	}
	return places, nil
}
