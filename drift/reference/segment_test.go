package reference

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// TestSegments counts rows by the values of a column.
func TestSegments(t *testing.T) {
	draw := func(i int, row []sketch.Value) {
		row[0] = sketch.Integer(int64([...]int{7, 7, 7, 8, 8, 9}[i%6]))
		if i%60 == 0 {
			row[0] = sketch.Missing()
		}
		row[1] = sketch.Number(float64(i))
		row[2] = sketch.Number(float64(i * i % 1009))
	}
	names := []string{"shop", "a", "b"}
	f := func(want string, n int, o Options) {
		t.Helper()
		o.Segment = "shop"
		p, err := collect(o, names, n, draw)
		if err != nil {
			t.Fatal(err)
		}
		text := new(bytes.Buffer)
		if err := p.Write(text); err != nil {
			t.Fatal(err)
		}
		if p, err = Read(text); err != nil {
			t.Fatal(err)
		}
		var got []string
		left := p.Features[1].Total()
		for i := range p.Segments.List {
			s := &p.Segments.List[i]
			got = append(got, fmt.Sprintf("%s:%d", s.Value, s.Rows))
			if s.Profile() == nil {
				got[i] += "-"
				continue
			}
			for bin, n := range s.Profile().Features[1].Total() {
				left[bin] -= n
			}
			if s.Profile().Joint != nil {
				got[i] += "+"
			}
		}
		if all := strings.Join(got, " "); all != want {
			t.Errorf("%d rows: the segments are %s, want %s", n, all, want)
		}
		if p.Segments.List[len(got)-1].Profile() != nil && total(left) != 0 {
			t.Errorf("segments and the whole differ by %v", left)
		}
		for value, want := range map[string]sketch.Value{"7": sketch.Integer(7),
			"": sketch.Missing()} {
			if at := p.Segments.Place(want); p.Segments.List[at].Value != value {
				t.Errorf("%q is in segment %d", value, at)
			}
		}
	}
	f("7:1450+ 8:1000+ 9:500+ :50-", 3000, Options{})
	f("7:1450+ :1550+", 3000, Options{MaxSegments: 1})
	f("7:290 8:200 :110-", 600, Options{})
	g := func(want error, n int, o Options) {
		t.Helper()
		if _, err := collect(o, names, n, draw); err == nil || !errors.Is(err, want) {
			t.Errorf("%+v: the error is %v, want %v", o, err, want)
		}
	}
	g(ErrRows, 300, Options{Segment: "shop"})
	g(ErrColumn, 3000, Options{Segment: "city"})
	if _, err := collect(Options{Segment: "shop", MaxSegments: 99}, names, 3000, draw); err == nil {
		t.Error("there may be 99 segments")
	}
}

// TestSegmentsOfFiles refuses segments that do not fit their profile.
func TestSegmentsOfFiles(t *testing.T) {
	p, err := collect(Options{Segment: "s"}, []string{"s", "a"}, 2000,
		func(i int, row []sketch.Value) {
			row[0], row[1] = sketch.Integer(int64(i%2)), sketch.Number(float64(i))
		})
	if err != nil {
		t.Fatal(err)
	}
	f := func(name string, change func(s *Segments)) {
		t.Helper()
		broken := *p
		s := Segments{Column: "s", List: slices.Clone(p.Segments.List)}
		change(&s)
		broken.Segments = &s
		text := new(bytes.Buffer)
		if err := broken.Write(text); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(text); !errors.Is(err, ErrProfile) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	f("none", func(s *Segments) { s.List = nil })
	f("no others", func(s *Segments) { s.List = s.List[:2] })
	f("twice", func(s *Segments) { s.List[0].Value = s.List[1].Value })
	f("no counts", func(s *Segments) { s.List[0].Counts = nil })
	f("few counts", func(s *Segments) { s.List[0].Counts = s.List[0].Counts[:1] })
	f("few bins", func(s *Segments) {
		s.List[0].Counts = []Part{{Counts: [][]uint64{{1000}}}, s.List[0].Counts[1]}
	})
}
