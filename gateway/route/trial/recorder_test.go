package trial

import (
	"math"
	"reflect"
	"slices"
	"sync"
	"testing"
)

func TestBucket(t *testing.T) {
	f := func(x float64) {
		t.Helper()
		want, _ := slices.BinarySearch(Bounds, x)
		if got := bucket(x); got != min(want, len(Bounds)-1) {
			t.Errorf("%v s are in bucket %d, want %d", x, got, want)
		}
	}
	if first, last := Bounds[0], Bounds[len(Bounds)-1]; first != 10e-6 || last < 100 || last > 110 {
		t.Errorf("the bounds go from %v to %v s", first, last)
	}
	for _, b := range Bounds {
		f(b)
		f(math.Nextafter(b, 0))
		f(math.Nextafter(b, math.Inf(1)))
	}
	for x := 1e-9; x < 1e4; x *= 1.0007 {
		f(x)
	}
	f(0)
	f(-1)
	f(math.Inf(1))
	f(math.MaxFloat64)
}

func TestCells(t *testing.T) {
	r := NewRecorder(0)
	for _, rho := range []float64{0, -0.1, 1.1, math.NaN(), math.Inf(1)} {
		if r.Cell(rho) != nil {
			t.Errorf("there is a cell for %v", rho)
		}
	}
	for i := range maxCells {
		if r.Cell(1-float64(i)/maxCells) == nil {
			t.Errorf("there are %d cells only", i)
		}
	}
	half := r.Cell(0.5)
	if half == nil || half != r.Cell(0.5) || r.Cell(0.3) != nil {
		t.Error("a cell is made twice, or one too many")
	}
	half.Picked(true, 0)
	half.Picked(false, 0)
	cells := r.Counts().Cells
	if len(cells) != maxCells || !slices.IsSortedFunc(cells, func(a, b Cell) int {
		return int(math.Copysign(1, a.Rho-b.Rho))
	}) {
		t.Errorf("the cells are %v", cells)
	}
	i := slices.IndexFunc(cells, func(c Cell) bool { return c.Rho == 0.5 })
	if cells[i].Canary.Picked != 1 || cells[i].Stable.Picked != 1 {
		t.Errorf("the cell is %+v", cells[i])
	}
}

func TestFinished(t *testing.T) {
	r := NewRecorder(100)
	c := r.Cell(0.25)
	// want are requests, errors, answers, and those that are not finite.
	f := func(user uint64, end End, want [4]uint64) {
		t.Helper()
		c.Finished(true, user, end, Bounds[8])
		a := r.Counts().Cells[0].Canary
		if got := [...]uint64{a.Requests, a.Errors, sum(a.Latency), a.NonFinite}; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		if n := len(a.Latency); n != 0 && (n != 9 || a.Latency[8] != want[2]) {
			t.Errorf("the answers are in buckets %v", a.Latency)
		}
	}
	f(0, Refused, [...]uint64{1, 0, 0, 0})
	f(0, Failed, [...]uint64{2, 1, 0, 0})
	f(0, Failed, [...]uint64{3, 2, 0, 0})
	f(0, Answered, [...]uint64{4, 2, 1, 0})
	f(0, NonFinite, [...]uint64{5, 2, 2, 1})
	f(7, Refused, [...]uint64{6, 2, 2, 1})
	f(7, Failed, [...]uint64{7, 3, 2, 1})
	f(7, Failed, [...]uint64{8, 3, 2, 1})
	f(7, Answered, [...]uint64{9, 3, 3, 1})
	f(7, NonFinite, [...]uint64{10, 3, 3, 2})
	f(7, NonFinite, [...]uint64{11, 3, 3, 2})
	f(8, NonFinite, [...]uint64{12, 3, 4, 3})
	r.Cell(0.5).Finished(false, 7, Failed, 1) // he has moved, and counts in no other arm
	if got := r.Counts().Cells[1].Stable; got.Requests != 1 || got.Errors != 0 {
		t.Errorf("a user who has moved to the other arm counts again: %+v", got)
	}
}

func TestRow(t *testing.T) {
	r := NewRecorder(0)
	f := func(want uint64, ends ...End) {
		t.Helper()
		for _, e := range ends {
			r.Canary(e)
		}
		if got := r.Counts().Row; got != want {
			t.Errorf("after %v the longest row is %d, want %d", ends, got, want)
		}
	}
	f(0, Answered, Refused)
	f(2, Failed, Failed)
	f(2, Answered, Failed)
	f(2, NonFinite, Failed, Refused, Failed)
	f(3, Refused, Failed)
	f(3, Answered, Failed)
	r.FellBack()
	if n := r.Counts().Fallbacks; n != 1 {
		t.Errorf("%d fallbacks", n)
	}
}

func TestRewards(t *testing.T) {
	r := NewRecorder(0)
	c := r.Cell(0.25)
	c.Source(true).Reward(0.5)
	c.Source(false).Reward(1)
	list, lost := r.Rewards()
	if want := []Reward{{0.25, true, 0.5}, {0.25, false, 1}}; !slices.Equal(list, want) ||
		lost != 0 {
		t.Errorf("the rewards are %v and %d lost", list, lost)
	}
	for i := range maxRewards + 2 {
		c.Source(true).Reward(float64(i))
	}
	list, lost = r.Rewards()
	if len(list) != maxRewards || list[maxRewards-1].Value != maxRewards-1 || lost != 2 {
		t.Errorf("%d rewards, %d lost", len(list), lost)
	}
	if list, lost = r.Rewards(); len(list) != 0 || lost != 2 {
		t.Errorf("%d rewards are told twice, %d lost", len(list), lost)
	}
}

// TestRecorderConcurrently counts on some goroutines while another reads.
func TestRecorderConcurrently(t *testing.T) {
	const goroutines, each = 4, 5000
	r := NewRecorder(each)
	var wait sync.WaitGroup
	for g := range goroutines {
		wait.Go(func() {
			for i := range each {
				c := r.Cell(float64(1+i%3) / 4)
				c.Picked(i%2 == 0, 0)
				c.Finished(i%2 == 0, uint64(g%2*(i+1)), Answered, 1e-3)
				c.Source(i%2 == 0).Reward(1)
			}
		})
	}
	for range 50 {
		for _, k := range r.Counts().Cells {
			if k.Canary.Requests > k.Canary.Picked || k.Canary.Latency != nil &&
				sum(k.Canary.Latency) > k.Canary.Requests {
				t.Errorf("more is over than began: %+v", k.Canary)
			}
		}
	}
	wait.Wait()
	a, b := r.Counts().Arms()
	rewards, lost := r.Rewards()
	if a.Picked+b.Picked != goroutines*each || a.Requests+b.Requests != goroutines*each ||
		len(rewards)+int(lost) != goroutines*each {
		t.Errorf("of %d requests are counted %+v, %+v", goroutines*each, a, b)
	}
	// Half of the goroutines brings nobody, the others the same users.
	if n := sum(a.Latency) + sum(b.Latency); n > 3*each || n < 3*each*99/100 {
		t.Errorf("%d answers are counted, want %d", n, 3*each)
	}
}

func sum(list []uint64) (total uint64) {
	for _, n := range list {
		total += n
	}
	return total
}

func TestCounts(t *testing.T) {
	one := Counts{Cells: []Cell{{Rho: 0.5, Canary: Arm{Requests: 1, Latency: []uint64{1}}}},
		Row: 3, Fallbacks: 1}
	two := Counts{Cells: []Cell{{Rho: 0.1, Stable: Arm{Errors: 2}},
		{Rho: 0.5, Canary: Arm{Requests: 2, Latency: []uint64{1, 5}}, Stable: Arm{Picked: 4}}},
		Row: 2, Fallbacks: 1}
	total := one.Clone()
	total.Merge(two)
	want := Counts{Cells: []Cell{{Rho: 0.1, Stable: Arm{Errors: 2}},
		{Rho: 0.5, Canary: Arm{Requests: 3, Latency: []uint64{2, 5}}, Stable: Arm{Picked: 4}}},
		Row: 3, Fallbacks: 2}
	if !reflect.DeepEqual(total, want) {
		t.Errorf("got %+v, want %+v", total, want)
	}
	if one.Cells[0].Canary.Latency[0] != 1 || len(one.Cells) != 1 {
		t.Errorf("a clone shares %+v", one)
	}
	canary, stable := want.Arms()
	if canary.Requests != 3 || stable.Errors != 2 || stable.Picked != 4 {
		t.Errorf("the arms are %+v and %+v", canary, stable)
	}
}

func TestAllocations(t *testing.T) {
	c := NewRecorder(1000).Cell(0.5)
	user := uint64(0)
	n := testing.AllocsPerRun(100, func() {
		user++
		c.Picked(true, user)
		c.Finished(true, user, NonFinite, 1e-3)
		c.Finished(false, user, Failed, 1e-3)
		c.recorder.Canary(Failed)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkCount counts an answered request from its choice to its end; known is
// one of users who stick to their arm, most of whom have been there before.
func BenchmarkCount(b *testing.B) {
	f := func(name string, user func(i uint64) uint64) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			c := NewRecorder(1 << 20).Cell(0.1)
			for i := uint64(0); b.Loop(); i++ {
				u := user(i)
				c.Picked(i&7 == 0, u)
				c.Finished(i&7 == 0, u, Answered, 1e-3)
			}
		})
	}
	f("nobody", func(uint64) uint64 { return 0 })
	f("known", func(i uint64) uint64 { return mix(i % 50_000) })
	f("new", mix)
}
