package feedback

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// TestMerge has two replicas see rewards that a third one sees all of.
func TestMerge(t *testing.T) {
	a, b, both := open(t, fresh(t)), open(t, fresh(t)), open(t, fresh(t))
	now := time.Now()
	r := rand.New(rand.NewPCG(1, 2))
	arms := []Arm{{"m", "1"}, {"m", "2"}, {"m", "3"}}
	var early Counts // of a
	for i := range 100 {
		arm := arms[r.IntN(2)]
		// Within one span of finest, so that all have the same buckets.
		d := Decision{Endpoint: "e", Model: arm.Model, Version: arm.Version}
		reward := float64(r.IntN(5)) / 4
		for _, l := range []*Ledger{both, []*Ledger{a, b}[i%2]} {
			l.Decide(i, fmt.Append(nil, i), &d, now.UnixNano())
			_, result, err := l.Give(Given{ID: fmt.Sprint(i), Reward: &reward})
			if result != Accepted {
				t.Fatal(result, err)
			}
		}
		if i == 50 {
			early = a.Counts()
		}
	}
	want := both.Counts().Evidence("e", arms, time.Hour, now.Add(time.Hour))
	if want[0].N < 20 || want[1].N < 20 || want[2].N != 0 || want[0].N+want[1].N > 51 {
		t.Fatalf("evidence %v", want)
	}
	f := func(name string, c Counts) {
		t.Helper()
		text, err := json.Marshal(c)
		var back Counts
		if err != nil || json.Unmarshal(text, &back) != nil || !reflect.DeepEqual(c, back) {
			t.Errorf("%s: does not survive JSON: %s", name, text)
		}
		for i, got := range back.Evidence("e", arms, time.Hour, now.Add(time.Hour)) {
			if math.Abs(got.N-want[i].N)+math.Abs(got.Reward-want[i].Reward) > 1e-9 {
				t.Errorf("%s: %v, want %v", name, got, want[i])
			}
		}
	}
	f("a and b", Merge(a.Counts(), b.Counts()))
	f("b and a", Merge(b.Counts(), a.Counts()))
	f("an earlier a", Merge(early, b.Counts(), a.Counts()))
	f("an earlier a last", Merge(Merge(a.Counts(), b.Counts()), early, b.Counts()))
	if len(Merge()) != 0 {
		t.Error("nothing merged is something")
	}
	if other := both.Counts().Evidence("other", arms, 0, now); other[0].N != 0 {
		t.Errorf("another endpoint has evidence %v", other)
	}
}

// TestEvidenceDiscounts compares with the sum over all rewards, each of its age.
func TestEvidenceDiscounts(t *testing.T) {
	const end, rewards = 1_800_000_000, 20_000
	r := rand.New(rand.NewPCG(1, 2))
	var s Series
	seen := make([]int64, 0, rewards)
	for i := range int64(rewards) { // sixteen months of them, a bit out of order
		at := end - 2000*(rewards-i) - r.Int64N(3600)
		s.add(at, 0.5)
		s.coarsen(at)
		seen = append(seen, at)
	}
	s.coarsen(end)
	if !s.valid() || len(s.Buckets) > 250 {
		t.Fatalf("valid is %v; %d buckets", s.valid(), len(s.Buckets))
	}
	c := Counts{"a": {Series: []Series{s}}}
	f := func(halfLife time.Duration, within float64) {
		t.Helper()
		want := 0.0
		for _, at := range seen {
			if halfLife == 0 {
				want++
			} else {
				want += math.Exp2(-float64(end-at) / halfLife.Seconds())
			}
		}
		got := c.Evidence("", []Arm{{}}, halfLife, time.Unix(end, 0))[0]
		if math.Abs(got.N/want-1) > within || math.Abs(got.Reward/got.N-0.5) > 1e-12 {
			t.Errorf("half-life %v: %+v, want %v rewards", halfLife, got, want)
		}
	}
	f(0, 0)
	f(6*time.Hour, 0.02)
	f(24*time.Hour, 0.01)
	f(30*24*time.Hour, 0.01)
	f(1000*24*time.Hour, 0.01)
}

func TestEvidenceOfFuture(t *testing.T) {
	s := Series{Buckets: []Bucket{{Start: 1600, Seconds: 16, N: 2, Reward: 1}}}
	c := Counts{"a": {Series: []Series{s}}}
	if got := c.Evidence("", []Arm{{}}, time.Second, time.Unix(0, 0))[0]; got.N != 2 {
		t.Errorf("%+v; what seems to come from the future is worth no more than the present", got)
	}
}

// TestSeriesKeepsAll adds at random times while the clock jumps: nothing gets
// lost and buckets never overlap.
func TestSeriesKeepsAll(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var s Series
		for i := range int64(300) {
			s.add(r.Int64N(1<<(1+r.IntN(30))), 1)
			s.coarsen(r.Int64N(1 << (1 + r.IntN(30))))
			sum := int64(0)
			for _, b := range s.Buckets {
				sum += b.N
			}
			if sum != i+1 || !s.valid() {
				t.Fatalf("%d rewards of %d: %+v", sum, i+1, s.Buckets)
			}
		}
	}
}
