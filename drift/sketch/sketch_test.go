package sketch

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func numeric(t testing.TB, edges ...float64) *Layout {
	t.Helper()
	l, err := Numeric(edges)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func categorical(t testing.TB, categories ...string) *Layout {
	t.Helper()
	l, err := Categorical(categories)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNumericBins(t *testing.T) {
	l := numeric(t, -1, 0, 2.5, 10)
	f := func(v Value, want string) {
		t.Helper()
		if got := l.Label(l.Bin(v)); got != want {
			t.Errorf("%v is in %q, want %q", v, got, want)
		}
	}
	f(Number(math.Inf(-1)), "below -1")
	f(Number(-1.0001), "below -1")
	f(Number(-1), "-1 to 0")
	f(Number(-math.SmallestNonzeroFloat64), "-1 to 0")
	f(Number(math.Copysign(0, -1)), "0 to 2.5")
	f(Number(0), "0 to 2.5")
	f(Integer(2), "0 to 2.5")
	f(Boolean(true), "0 to 2.5")
	f(Number(2.5), "2.5 to 10")
	f(Number(10), "2.5 to 10")
	f(Number(10.0001), "above 10")
	f(Integer(math.MaxInt64), "above 10")
	f(Number(math.Inf(1)), "above 10")
	f(Missing(), "missing")
	f(Value{}, "missing")
	f(Number(math.NaN()), "not a number")
	f(Text([]byte("7")), "not a number")
	if got := l.Exceptions(); !slices.Equal(got, []int{0, 4, 5, 6}) || l.Bins() != 7 {
		t.Errorf("exceptions are %v of %d bins", got, l.Bins())
	}
	if l.Label(-1) != "no bin" || l.Label(7) != "no bin" {
		t.Error("there is a bin beyond")
	}
}

// TestBisection compares with a search from one end, for all numbers of edges: those that
// are spread evenly, unevenly, over all floats, and over the least of them.
func TestBisection(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	f := func(draw func() float64) {
		t.Helper()
		for n := 2; n <= MaxEdges; n++ {
			edges := make([]float64, n)
			for i := range edges {
				edges[i] = draw()
			}
			slices.Sort(edges)
			if edges = slices.Compact(edges); len(edges) > 1 {
				compareBins(t, r, edges)
			}
		}
	}
	f(r.NormFloat64)
	f(func() float64 { return float64(r.IntN(100)) - 50 })
	f(func() float64 { return math.Ldexp(r.NormFloat64(), r.IntN(20)) })
	f(func() float64 { return math.Ldexp(r.Float64()-0.5, 1024) })
	f(func() float64 { return math.Ldexp(r.NormFloat64(), r.IntN(2000)-1000) })
	f(func() float64 { return 1e15 + float64(r.IntN(20)) })
	f(func() float64 { return float64(r.IntN(9)-4) * math.SmallestNonzeroFloat64 })
	f(func() float64 { return math.Float64frombits(uint64(r.IntN(2)) << 63 >> r.IntN(60)) })
}

func compareBins(t *testing.T, r *rand.Rand, edges []float64) {
	t.Helper()
	l, n := numeric(t, edges...), len(edges)
	all := []float64{0, math.Copysign(0, -1), -1e9, 1e9, r.NormFloat64(), 1000 * r.NormFloat64(),
		math.MaxFloat64, -math.MaxFloat64, math.Inf(1), math.Inf(-1)}
	for _, e := range edges {
		all = append(all, e, math.Nextafter(e, math.Inf(1)), math.Nextafter(e, math.Inf(-1)),
			e+r.NormFloat64()*(edges[1]-edges[0]))
	}
	for _, x := range all {
		want := 0
		for want < n && (edges[want] <= x && (want < n-1 || edges[want] < x)) {
			want++
		}
		if got := l.Bin(Number(x)); got != want {
			t.Fatalf("%v is in bin %d of %v, want %d", x, got, edges, want)
		}
	}
}

func TestCategoricalBins(t *testing.T) {
	l := categorical(t, "red", "7", "true", "0", "1.5", "", "-2")
	f := func(v Value, want string) {
		t.Helper()
		if got := l.Label(l.Bin(v)); got != want {
			t.Errorf("%v is in %q, want %q", v, got, want)
		}
	}
	f(Text([]byte("red")), "red")
	f(Text([]byte("Red")), "other")
	f(Text(nil), "")
	f(Text([]byte("7")), "7")
	f(Integer(7), "7")
	f(Number(7), "7")
	f(Number(7.5), "other")
	f(Number(1.5), "1.5")
	f(Integer(-2), "-2")
	f(Boolean(true), "true")
	f(Boolean(false), "0")
	f(Integer(1), "other")
	f(Number(1e300), "other")
	f(Number(math.Inf(1)), "other")
	f(Number(math.NaN()), "missing")
	f(Missing(), "missing")
}

func TestImpossibleLayouts(t *testing.T) {
	f := func(_ *Layout, err error) {
		t.Helper()
		if !errors.Is(err, ErrLayout) {
			t.Errorf("got %v", err)
		}
	}
	f(Numeric(nil))
	f(Numeric([]float64{1}))
	f(Numeric([]float64{1, 1}))
	f(Numeric([]float64{2, 1}))
	f(Numeric([]float64{1, math.NaN()}))
	f(Numeric([]float64{1, math.Inf(1)}))
	f(Numeric(make([]float64, MaxEdges+1)))
	f(Categorical(nil))
	f(Categorical([]string{"a", "a"}))
	f(Categorical(make([]string, MaxCategories+1)))
}

func TestMoments(t *testing.T) {
	s := New(numeric(t, 0, 4))
	if !math.IsNaN(s.Mean()) || !math.IsNaN(s.StdDev()) {
		t.Error("an empty sketch has moments")
	}
	for _, x := range []float64{1, 2, 3, 10} {
		s.Add(Number(x))
	}
	s.Add(Missing())
	s.Add(Number(math.NaN()))
	if math.Abs(s.Mean()-4) > 1e-12 || math.Abs(s.StdDev()-math.Sqrt(12.5)) > 1e-12 {
		t.Errorf("mean %v, deviation %v", s.Mean(), s.StdDev())
	}
	for _, x := range []float64{math.Inf(1), math.Inf(-1), math.MaxFloat64, -math.MaxFloat64} {
		s.Add(Number(x))
	}
	if math.Abs(s.Mean()-3) > 1e-9 || !(s.StdDev() < 2000) {
		t.Errorf("with huge values mean %v, deviation %v", s.Mean(), s.StdDev())
	}
	if c := New(categorical(t, "1")); c.Add(Integer(1)) != 0 || !math.IsNaN(c.Mean()) {
		t.Error("categories have a mean")
	}
}

// stream puts values of all kinds into a sketch.
func stream(s *Sketch, r *rand.Rand, n int) {
	for range n {
		switch r.IntN(6) {
		case 0:
			s.Add(Missing())
		case 1:
			s.Add(Text([]byte(strconv.Itoa(r.IntN(30)))))
		case 2:
			s.Add(Integer(int64(r.IntN(5))))
		case 3:
			s.Add(Boolean(r.IntN(2) == 0))
		default:
			s.Add(Number(3 * r.NormFloat64()))
		}
	}
}

// TestMerge gives two replicas every second value each.
func TestMerge(t *testing.T) {
	for _, l := range []*Layout{numeric(t, -2, -1, 0, 1, 2), categorical(t, "0", "1", "2")} {
		one, parts := New(l), []*Sketch{New(l), New(l)}
		stream(one, rand.New(rand.NewPCG(1, 1)), 10_000)
		r := rand.New(rand.NewPCG(1, 1))
		for i := range 10_000 {
			stream(parts[i%2], r, 1)
		}
		if err := parts[0].Merge(parts[1]); err != nil {
			t.Fatal(err)
		}
		merged := parts[0]
		if !slices.Equal(one.Counts(), merged.Counts()) || one.Total() != 10_000 ||
			one.Distinct() != merged.Distinct() {
			t.Errorf("one counts %v, %v different; two %v, %v", one.Counts(), one.Distinct(),
				merged.Counts(), merged.Distinct())
		}
		if l.IsNumeric() && (math.Abs(one.Mean()-merged.Mean()) > 1e-9 ||
			math.Abs(one.StdDev()-merged.StdDev()) > 1e-9) {
			t.Errorf("one has mean %v and deviation %v, two %v and %v", one.Mean(), one.StdDev(),
				merged.Mean(), merged.StdDev())
		}
		if err := merged.Merge(New(numeric(t, 0, 1))); !errors.Is(err, ErrMismatch) {
			t.Errorf("another layout: %v", err)
		}
		merged.Reset()
		if merged.Total() != 0 || merged.Distinct() != 0 || len(merged.Others()) != 0 {
			t.Error("Reset leaves something")
		}
	}
}

func TestOthers(t *testing.T) {
	l := categorical(t, "a")
	s, o := New(l), New(l)
	for range 3 {
		s.Add(Text([]byte("crypto")))
	}
	s.Add(Integer(-4))
	o.Add(Text([]byte("crypto")))
	o.Add(Text(bytes.Repeat([]byte("x"), 100)))
	if err := s.Merge(o); err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"crypto": 4, "-4": 1, string(bytes.Repeat([]byte("x"), 64)): 1}
	if !maps.Equal(s.Others(), want) {
		t.Errorf("others are %v", s.Others())
	}
	for i := range 1000 {
		s.Add(Integer(int64(i)))
	}
	if len(s.Others()) != maxNames || s.Counts()[1] != 1006 {
		t.Errorf("%d names of %d others", len(s.Others()), s.Counts()[1])
	}
}

// TestDistinct allows four standard errors.
func TestDistinct(t *testing.T) {
	for _, n := range []int{1, 10, 1000, 5000, 20_000, 300_000} {
		s := New(categorical(t, "a"))
		for i := range 2 * n {
			s.Add(Integer(int64(i % n)))
		}
		if got := s.Distinct(); math.Abs(got/float64(n)-1) > 4*0.023 {
			t.Errorf("%d different values are taken for %.0f", n, got)
		}
	}
}

func TestBinary(t *testing.T) {
	for _, l := range []*Layout{numeric(t, -2, -1, 0, 1, 2), categorical(t, "0", "1", "2")} {
		s := New(l)
		stream(s, rand.New(rand.NewPCG(1, 1)), 1000)
		data, err := s.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(l, data)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := back.AppendBinary(nil)
		if !bytes.Equal(data, again) || !slices.Equal(s.Counts(), back.Counts()) {
			t.Errorf("%v comes back as %v", s, back)
		}
		for n := range data {
			if _, err := Decode(l, data[:n]); !errors.Is(err, ErrData) {
				t.Fatalf("%d of %d bytes: %v", n, len(data), err)
			}
		}
		if _, err := Decode(l, append(data, 0)); !errors.Is(err, ErrData) {
			t.Errorf("a byte too many: %v", err)
		}
		if _, err := Decode(numeric(t, 3, 4), data); !errors.Is(err, ErrMismatch) {
			t.Errorf("another layout: %v", err)
		}
	}
}

// TestBinaryStays holds the binary form as it was first written.
func TestBinaryStays(t *testing.T) {
	f := func(l *Layout, want string, values ...Value) {
		t.Helper()
		s := New(l)
		for _, v := range values {
			s.Add(v)
		}
		data, err := s.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", data[:min(len(data), 60)]); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f(numeric(t, 0, 2), "01d965d77eef238c56000201010000000000000021400000000000105040"+
		"0000", Number(1), Number(1.5), Number(9), Missing())
	f(categorical(t, "a", "b"), "01d251ed177ae8054e0001010100000000000000000000000000"+
		"00000001036e65770101"+strings.Repeat("00", 24),
		Text([]byte("b")), Text([]byte("new")), Missing())
}

func FuzzDecode(f *testing.F) {
	layouts := []*Layout{numeric(f, -2, -1, 0, 1, 2), categorical(f, "0", "1", "2")}
	for i, l := range layouts {
		s := New(l)
		stream(s, rand.New(rand.NewPCG(1, 1)), 100)
		data, _ := s.AppendBinary(nil)
		f.Add(i == 0, data)
	}
	f.Fuzz(func(t *testing.T, first bool, data []byte) {
		l := layouts[1]
		if first {
			l = layouts[0]
		}
		s, err := Decode(l, data)
		if err != nil {
			return
		}
		again, err := s.AppendBinary(nil)
		if err != nil || !bytes.Equal(data, again) {
			t.Errorf("%x comes back as %x, %v", data, again, err)
		}
		if err := s.Merge(s); err != nil || math.IsInf(s.Mean(), 0) || s.StdDev() < 0 {
			t.Errorf("%x has mean %v, deviation %v, %v", data, s.Mean(), s.StdDev(), err)
		}
	})
}

func TestAddDoesNotAllocate(t *testing.T) {
	word, unknown := []byte("word"), []byte("unknown")
	f := func(l *Layout, v Value) {
		t.Helper()
		s := New(l)
		s.Add(v)
		if n := testing.AllocsPerRun(100, func() { s.Add(v) }); n != 0 {
			t.Errorf("%v allocates %v times", v, n)
		}
	}
	for _, l := range []*Layout{numeric(t, 0, 1, 2), categorical(t, "word", "1")} {
		f(l, Number(1))
		f(l, Number(1.25))
		f(l, Number(math.NaN()))
		f(l, Integer(1))
		f(l, Integer(5))
		f(l, Boolean(true))
		f(l, Text(word))
		f(l, Text(unknown))
		f(l, Missing())
	}
}
