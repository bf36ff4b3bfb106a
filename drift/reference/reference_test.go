package reference

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/drift/sketch"
)

var noon = time.Date(2026, 1, 4, 12, 0, 0, 0, time.UTC) // a Sunday

// collect builds a profile of rows that draw makes.
func collect(o Options, names []string, n int, draw func(i int, row []sketch.Value)) (*Profile,
	error) {
	c, err := NewCollector(names, o)
	if err != nil {
		return nil, err
	}
	row := make([]sketch.Value, len(names))
	for i := range n {
		draw(i, row)
		if err := c.Add(noon.Add(time.Duration(i)*time.Minute), row); err != nil {
			return nil, err
		}
	}
	return c.Build()
}

func must(p *Profile, err error) func(t testing.TB) *Profile {
	return func(t testing.TB) *Profile {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
}

// TestEdges counts values by the edges that are made of them.
func TestEdges(t *testing.T) {
	f := func(name string, n int, value func(i int) float64, want string) {
		t.Helper()
		var values []float64
		for i := range n {
			values = append(values, value(i))
		}
		slices.Sort(values)
		l, err := sketch.Numeric(makeEdges(values))
		if err != nil {
			t.Fatal(err)
		}
		s := sketch.New(l)
		for _, v := range values {
			s.Add(sketch.Number(v))
		}
		if got := fmt.Sprint(s.Counts()[1 : l.Regular()-1]); got != want {
			t.Errorf("%s: the bins have %s, want %s", name, got, want)
		}
	}
	f("different", 1000, func(i int) float64 { return float64(i) },
		"[5 15 30 50 100 100 100 100 100 100 100 100 50 30 15 5]")
	f("constant", 300, func(int) float64 { return 3 }, "[300]")
	f("zeros", 300, func(int) float64 { return 0 }, "[300]")
	f("two", 400, func(i int) float64 { return float64(i % 2) }, "[200 200]")
	f("mostly zero", 1000, func(i int) float64 { return max(0, float64(i-600)) },
		"[601 99 100 100 50 30 15 5]")
	f("dice", 600, func(i int) float64 { return float64(i % 6) }, "[100 100 100 100 100 100]")
	f("neighbours", 400, func(i int) float64 { return math.Nextafter(1, float64(2*(i%2))) },
		"[200 200]")
	f("huge", 400, func(i int) float64 { return math.Copysign(math.MaxFloat64, float64(i%2)-0.5) },
		"[200 200]")
	f("tiny", 400, func(i int) float64 { return float64(i%2) * math.SmallestNonzeroFloat64 },
		"[200 200]")
}

// TestRounding has a model that takes float32 where the training data were float64:
// nothing may fall into another bin.
func TestRounding(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	values := make([]float64, 5000)
	for i := range values {
		values[i] = float64(r.IntN(1000)) / 10
	}
	p := must(collect(Options{}, []string{"x"}, len(values), func(i int, row []sketch.Value) {
		row[0] = sketch.Number(values[i])
	}))(t)
	s := sketch.New(p.Features[0].Layout())
	for _, x := range values {
		s.Add(sketch.Number(float64(float32(x))))
	}
	if !slices.Equal(s.Counts(), p.Features[0].Counts[0]) {
		t.Errorf("got  %v\nwant %v", s.Counts(), p.Features[0].Counts[0])
	}
}

// mixedCSV has 300 rows of all kinds of columns.
func mixedCSV() string {
	var b strings.Builder
	b.WriteString("\ufeffage,country,code,flag,const,label\n")
	for i := range 300 {
		age := fmt.Sprint(i % 50)
		if i%10 == 0 {
			age = []string{"", "NaN", "inf"}[i/10%3]
		}
		fmt.Fprintf(&b, "%s,%s,%02d,%v,7,%d\n", age, []string{"at", "de", "NA"}[i%3], i%4,
			[]string{"True", "False"}[i%2], i)
	}
	return b.String()
}

func TestCSV(t *testing.T) {
	p := must(FromCSV(strings.NewReader(mixedCSV()), Options{Categorical: []string{"code"},
		Outputs: []string{"flag"}, Ignored: []string{"label"}}))(t)
	f := func(i int, name, want string) {
		t.Helper()
		feature := &p.Features[i]
		var labels []string
		for bin, n := range feature.Total() {
			if n > 0 {
				labels = append(labels, fmt.Sprintf("%s: %d", feature.Layout().Label(bin), n))
			}
		}
		got := strings.Join(labels, ", ")
		if feature.Name != name || !strings.HasSuffix(got, want) {
			t.Errorf("%s has %s, want %s", feature.Name, got, want)
		}
	}
	f(0, "age", "above 49: 10, missing: 10, not a number: 10")
	f(1, "country", "at: 100, de: 100, missing: 100")
	f(2, "code", "00: 75, 01: 75, 02: 75, 03: 75")
	f(3, "flag", "false: 150, true: 150")
	f(4, "const", "6.99999 to 7.00001: 300")
	if len(p.Features) != 5 || !p.Features[3].Output || p.Rows != 300 {
		t.Errorf("got %d features of %d rows", len(p.Features), p.Rows)
	}
	if notes := strings.Join(p.Notes, "\n"); !strings.Contains(notes, `"const" is constant`) ||
		!strings.Contains(notes, "300 rows") {
		t.Errorf("notes are %q", p.Notes)
	}
}

// TestParquet reads a file of pandas; testdata/make.py has made it and printed the
// counts.
func TestParquet(t *testing.T) {
	data, err := os.ReadFile("testdata/rows.parquet")
	if err != nil {
		t.Fatal(err)
	}
	p := must(FromParquet(bytes.NewReader(data), int64(len(data)),
		Options{TimeColumn: "at", Outputs: []string{"score"}}))(t)
	var names []string
	for i := range p.Features {
		names = append(names, p.Features[i].Name)
	}
	want := []string{"amount", "visits", "country", "age", "known", "score"}
	if !slices.Equal(names, want) {
		t.Fatalf("features are %v, want %v", names, want)
	}
	f := func(i int, v sketch.Value, want uint64) {
		t.Helper()
		feature := &p.Features[i]
		if got := feature.Total()[feature.Layout().Bin(v)]; got != want {
			t.Errorf("%s has %d of that value, want %d", feature.Name, got, want)
		}
	}
	f(2, sketch.Text([]byte("at")), 249)
	f(2, sketch.Text([]byte("de")), 130)
	f(2, sketch.Text([]byte("fr")), 96)
	f(2, sketch.Missing(), 5)
	f(4, sketch.Boolean(true), 340)
	f(3, sketch.Missing(), 48)
	f(1, sketch.Integer(3), 109)

	_, err = FromParquet(bytes.NewReader(data), int64(len(data)),
		Options{TimeColumn: "at", Season: HourOfDay})
	if !errors.Is(err, ErrRows) || !strings.Contains(err.Error(), "hour 0 has 20") {
		t.Errorf("20 rows an hour: %v", err)
	}
	for _, size := range []int{0, 4, 100, len(data) / 2, len(data) - 1} {
		if _, err := FromParquet(bytes.NewReader(data[:size]), int64(size), Options{}); err == nil {
			t.Errorf("%d of %d bytes are taken", size, len(data))
		}
	}
}

// TestDamagedParquet turns over single bytes, which must not panic.
func TestDamagedParquet(t *testing.T) {
	data, err := os.ReadFile("testdata/rows.parquet")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		bad := slices.Clone(data)
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		_, _ = FromParquet(bytes.NewReader(bad), int64(len(bad)), Options{TimeColumn: "at"})
	}
}

func TestErrors(t *testing.T) {
	rows := func(header, row string, n int) string {
		return header + "\n" + strings.Repeat(row+"\n", n)
	}
	f := func(csv string, o Options, want error, text string) {
		t.Helper()
		_, err := FromCSV(strings.NewReader(csv), o)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %v with %q", err, want, text)
		}
	}
	f("", Options{}, ErrRows, "it is empty")
	f("a,b\n", Options{}, ErrRows, "0, a reference needs at least 200")
	f(rows("a,b", "1,2", 5), Options{}, ErrRows, "5, a reference needs at least 200")
	f(rows("a,b", "NaN,2", 300), Options{}, ErrColumn, `"a" has no numbers`)
	f(rows("a,b", ",2", 300), Options{}, ErrColumn, `"a" has no numbers`)
	f(rows("a,b", "1,2", 300), Options{Categorical: []string{"c"}}, ErrColumn, `no "c" among`)
	f(rows("a,b", ",2", 300), Options{Categorical: []string{"a"}}, ErrColumn, `"a" has no values`)
	f(rows("a,a", "1,2", 300), Options{}, ErrColumn, `"a" is there twice`)
	f(rows("a,b", "1,2,3", 300), Options{}, ErrFile, "wrong number of fields")
	f(rows("a,b", `1,"2`, 300), Options{}, ErrFile, `"`)
	f(rows("a,b", "1,2", 300), Options{Season: HourOfDay}, ErrColumn, "which column has the time")
	f(rows("a,b", "1,2", 300), Options{TimeColumn: "t"}, ErrColumn, `no "t" among`)
	f(rows("a,t", "1,yesterday", 300), Options{TimeColumn: "t"}, ErrColumn, "row 1")
	f(rows("a,t", "1,2026-01-01 10:00:00", 300), Options{TimeColumn: "t", Season: HourOfDay},
		ErrRows, "hour 0 has 0")
	if _, err := NewCollector([]string{"a"}, Options{Season: "yearly"}); err == nil {
		t.Error("a season of a year is taken")
	}
	c, err := NewCollector([]string{"a"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Add(noon, make([]sketch.Value, 2)); !errors.Is(err, ErrColumn) {
		t.Errorf("a row of two: %v", err)
	}
}

func TestMatch(t *testing.T) {
	p := must(FromCSV(strings.NewReader(mixedCSV()), Options{Ignored: []string{"label"}}))(t)
	places, err := p.Match([]string{"more", "const", "flag", "code", "country", "age"})
	if want := []int{5, 4, 3, 2, 1}; err != nil || !slices.Equal(places, want) {
		t.Errorf("got %v, %v, want %v", places, err, want)
	}
	_, err = p.Match([]string{"age", "x"})
	if !errors.Is(err, ErrColumn) || !strings.Contains(err.Error(), "country, code, flag, const") {
		t.Errorf("got %v", err)
	}
}

func TestSeason(t *testing.T) {
	f := func(s Season, at time.Time, want int) {
		t.Helper()
		if got := s.Slot(at); got != want {
			t.Errorf("%q at %v is slot %d, want %d", s, at, got, want)
		}
	}
	f(NoSeason, noon, 0)
	f(HourOfDay, noon, 12)
	f(HourOfWeek, noon, 12)
	f(HourOfWeek, noon.AddDate(0, 0, 6).Add(11*time.Hour+59*time.Minute), 167)
	f(HourOfDay, time.Date(2026, 1, 4, 1, 0, 0, 0, time.FixedZone("", 2*3600)), 23)
	p := must(collect(Options{Season: HourOfDay}, []string{"hour"}, 24*60*10,
		func(i int, row []sketch.Value) { row[0] = sketch.Integer(int64((i/60 + 12) % 24)) }))(t)
	feature := &p.Features[0]
	for hour, counts := range feature.Counts {
		if n := counts[feature.Layout().Bin(sketch.Integer(int64(hour)))]; n != 600 {
			t.Errorf("hour %d has %d rows of its own, want 600", hour, n)
		}
	}
}

// TestReservoir keeps 1,000 of 50,000 rows that ascend: the sample must reach over all.
func TestReservoir(t *testing.T) {
	p := must(collect(Options{MaxRows: 1000}, []string{"i"}, 50_000,
		func(i int, row []sketch.Value) { row[0] = sketch.Integer(int64(i)) }))(t)
	edges := p.Features[0].Edges
	middle := edges[slices.IndexFunc(edges, func(e float64) bool { return e >= 25_000 })]
	if edges[0] > 500 || edges[len(edges)-1] < 49_500 || middle > 32_000 || p.Rows != 50_000 {
		t.Errorf("%d rows have the edges %v", p.Rows, edges)
	}
}

// TestDesignEffect has rows of which each is like the one before with a chance of a
// half, for which the effect is (1 + 1/2) / (1 - 1/2), and rows that are independent.
func TestDesignEffect(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	draw := func(i int, row []sketch.Value) {
		if i == 0 || r.IntN(2) == 0 {
			row[0] = sketch.Number(r.NormFloat64())
			row[1] = sketch.Text([]byte{byte('a' + r.IntN(4))})
		}
		row[2] = sketch.Number(r.NormFloat64())
	}
	p := must(collect(Options{}, []string{"x", "y", "z"}, 50_000, draw))(t)
	f := func(i int, least, most float64) {
		t.Helper()
		if e := p.Features[i].DesignEffect; e < least || e > most {
			t.Errorf("column %d has a design effect of %v, want %v to %v", i, e, least, most)
		}
	}
	f(0, 2.5, 3.5)
	f(1, 2.5, 3.5)
	f(2, 0, 0)
	if notes := strings.Join(p.Notes, "\n"); !strings.Contains(notes, `"x" is alike`) {
		t.Errorf("notes are %q", p.Notes)
	}
	p = must(collect(Options{MaxRows: 40_000}, []string{"x", "y", "z"}, 50_000, draw))(t)
	f(0, 0, 0) // A sample is not in order.
}

// TestJoint has two features that differ by little, among others.
func TestJoint(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprint("x", i))
	}
	p := must(collect(Options{}, names, 4000, func(_ int, row []sketch.Value) {
		for i := range row {
			row[i] = sketch.Number(math.Exp(r.NormFloat64()))
		}
		row[7] = sketch.Number(math.Log(row[3].Float()) + 0.2*r.NormFloat64())
	}))(t)
	j := p.Joint
	if len(j.Directions) != 8 {
		t.Fatalf("there are %d directions", len(j.Directions))
	}
	least := j.Directions[3]
	for i, w := range least {
		if i == 3 || i == 7 {
			if math.Abs(math.Abs(float64(w))-math.Sqrt2/2) > 0.02 || least[3]*least[7] > 0 {
				t.Errorf("the direction of least variance is %v", least)
			}
		} else if math.Abs(float64(w)) > 0.1 {
			t.Errorf("the direction of least variance is %v", least)
		}
	}
	// On the scale of normal scores the projection of a row that obeys is small.
	row, bins := make([]float64, 12), make([]int, 12)
	for i := range row {
		row[i] = 1
	}
	row[3] = math.E
	for i := range row {
		bins[i] = p.Features[i].Layout().Bin(sketch.Number(row[i]))
	}
	if x := j.NewProjector().Project(row, bins)[3]; math.Abs(x) > 0.1 {
		t.Errorf("a row as expected is at %v", x)
	}
	total := uint64(0)
	for _, n := range j.Projected[3].Counts[0] {
		total += n
	}
	if total != 2000 {
		t.Errorf("the projection's reference has %d rows, want half of 4000", total)
	}
}

// TestFlatDirections has features that are the same but for rounding: that is no
// direction, or float32 would be drift.
func TestFlatDirections(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	p := must(collect(Options{}, []string{"celsius", "fahrenheit"}, 2000,
		func(_ int, row []sketch.Value) {
			x := 20 + 5*r.NormFloat64()
			row[0], row[1] = sketch.Number(x), sketch.Number(float64(float32(32+1.8*x)))
		}))(t)
	if n := len(p.Joint.Directions); n != 2 { // the greatest component, and the sum
		t.Errorf("there are %d directions: %v", n, p.Joint.Directions)
	}
}

// TestManyFeatures has more features than are taken for an eigenvalue problem.
func TestManyFeatures(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	names := make([]string, 200)
	for i := range names {
		names[i] = fmt.Sprint("pixel", i)
	}
	p := must(collect(Options{}, names, 4000, func(_ int, row []sketch.Value) {
		z := r.NormFloat64()
		for i := range row {
			row[i] = sketch.Number(z + r.NormFloat64())
		}
	}))(t)
	if len(p.Joint.Directions) != 8 || len(p.Joint.Directions[0]) != 200 {
		t.Errorf("%d directions", len(p.Joint.Directions))
	}
}

func TestWriteRead(t *testing.T) {
	p := must(FromCSV(strings.NewReader(mixedCSV()), Options{}))(t)
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	back := must(Read(&b))(t)
	if !reflect.DeepEqual(p, back) {
		t.Errorf("got %+v, want %+v", back, p)
	}
	one, _ := p.Fingerprint()
	two, _ := back.Fingerprint()
	back.Features[0].Counts[0][1]++
	three, _ := back.Fingerprint()
	if one != two || one == three {
		t.Errorf("fingerprints are %s, %s, %s", one, two, three)
	}
	f := func(old, new string) {
		t.Helper()
		if !strings.Contains(text, old) {
			t.Fatalf("the profile lacks %s", old)
		}
		if _, err := Read(strings.NewReader(strings.Replace(text, old, new, 1))); !errors.Is(err,
			ErrProfile) {
			t.Errorf("%s: %v", new, err)
		}
	}
	f(`{"version":1`, `{"version":2`)
	f(`{"version":1`, `{"versions":1`)
	f(`"features"`, `"joints"`)
	f(`"name":"age"`, `"name":"country"`)
	f(`"edges":[`, `"edges":[1e9,`)
	f(`"counts":[[0,`, `"counts":[[0,0,`)
	f(`"counts":[[0,`, `"counts":[[-1,`)
	f(`"counts":[[0,`, `"counts":[[1e17,`)
	f(`"counts":[[`, `"counts":[[1],[`)
	f(`"rows"`, `"season":"hour_of_day","rows"`)
	f(text, `[]`)
	f(text, ``)
}

// pair builds a profile of two features that go together.
func pair() (*Profile, error) {
	r := rand.New(rand.NewPCG(1, 1))
	return collect(Options{}, []string{"x", "y"}, 500, func(_ int, row []sketch.Value) {
		x := r.NormFloat64()
		row[0], row[1] = sketch.Number(x), sketch.Number(x+r.NormFloat64())
	})
}

// TestJointIsRead changes the joint part of a profile.
func TestJointIsRead(t *testing.T) {
	p := must(pair())(t)
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if back := must(Read(&b))(t); !reflect.DeepEqual(p, back) {
		t.Errorf("got %+v, want %+v", back.Joint, p.Joint)
	}
	f := func(old, new string) {
		t.Helper()
		at := strings.Index(text, `"joint"`)
		bad := text[:at] + strings.Replace(text[at:], old, new, 1)
		if _, err := Read(strings.NewReader(bad)); bad == text || !errors.Is(err, ErrProfile) {
			t.Errorf("%s: %v", new, err)
		}
	}
	f(`"features":[0,1]`, `"features":[0,2]`)
	f(`"features":[0,1]`, `"features":[0,-1]`)
	f(`"features":[0,1]`, `"features":[0]`)
	f(`"directions":[`, `"directions":[[1,0],`)
	f(`"directions":[[`, `"directions":[[1,`)
	f(`"edges":[`, `"edges":[1e9,`)
	f(`"counts":[[`, `"counts":[[0,`)
}

func FuzzRead(f *testing.F) {
	for _, p := range []*Profile{must(pair())(f),
		must(FromCSV(strings.NewReader(mixedCSV()), Options{}))(f)} {
		var b bytes.Buffer
		if err := p.Write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte(`{"version":1,"features":[{"name":"a","categories":[],"counts":[[200]]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		for i := range p.Features {
			p.Features[i].Layout().Bin(sketch.Number(1))
		}
		if p.Joint != nil {
			p.Joint.NewProjector().Project(make([]float64, len(p.Features)),
				make([]int, len(p.Features)))
		}
	})
}

func FuzzCSV(f *testing.F) {
	f.Add(mixedCSV())
	f.Add("a\n" + strings.Repeat("1e400\n", 200))
	f.Add("a,b\n" + strings.Repeat("1,x\n", 200))
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = FromCSV(strings.NewReader(text), Options{})
	})
}
