package cache_test

import (
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/cache"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

func newCache(t testing.TB, cfg cache.Config) *cache.Cache {
	t.Helper()
	c, err := cache.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// numbers returns a tensor of n numbers, the first of which is v.
func numbers(v uint64, n int) []tensor.Tensor {
	data := make([]byte, 8*n)
	binary.LittleEndian.PutUint64(data, v)
	return []tensor.Tensor{{Name: "x", Datatype: tensor.Uint64, Shape: []int64{1, int64(n)},
		Data: data}}
}

// first returns the first number of the first tensor.
func first(list []tensor.Tensor) uint64 { return binary.LittleEndian.Uint64(list[0].Data) }

// result is what Look gives.
type result string

const (
	hit    result = "hit"
	leads  result = "lead"
	shares result = "share"
	alone  result = "alone"
)

func resultOf(outputs []tensor.Tensor, f *cache.Flight, lead bool) result {
	switch {
	case outputs != nil && f == nil && !lead:
		return hit
	case outputs == nil && f != nil && lead:
		return leads
	case outputs == nil && f != nil:
		return shares
	case outputs == nil && !lead:
		return alone
	}
	return "nonsense"
}

// at is a cache at some time.
type at struct {
	*cache.Cache
	now int64
}

// ask looks a request up and, if it leads, lands with outputs.
func (a at) ask(version string, inputs, outputs []tensor.Tensor) result {
	got, f, lead := a.Look(a.now, version, inputs)
	if lead {
		f.Land(a.now, outputs, nil)
	}
	return resultOf(got, f, lead)
}

func ask(c *cache.Cache, version string, inputs, outputs []tensor.Tensor) result {
	return at{c, 0}.ask(version, inputs, outputs)
}

func TestConfig(t *testing.T) {
	f := func(cfg cache.Config, faults ...string) {
		t.Helper()
		c, err := cache.New(cfg)
		if len(faults) == 0 {
			if err != nil || c.Config() != cfg {
				t.Errorf("%+v: %v", cfg, err)
			}
			return
		}
		for _, want := range faults {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: error %v does not tell of %q", cfg, err, want)
			}
		}
	}
	f(cache.Config{MaxBytes: 64 << 10})
	f(cache.Config{MaxBytes: 1 << 40, TTL: time.Hour, AdmitAfter: 1})
	f(cache.Config{MaxBytes: 1 << 20, AdmitAfter: 2})
	f(cache.Config{}, "MaxBytes is 0, must be at least 65536")
	f(cache.Config{MaxBytes: -1, TTL: -1, AdmitAfter: 3}, "MaxBytes", "TTL", "AdmitAfter is 3")
	f(cache.Config{MaxBytes: 1 << 20, AdmitAfter: -1}, "AdmitAfter is -1")
}

// Requests are equal only where version, datatypes, shapes, bytes and what is
// left out are.
func TestEqual(t *testing.T) {
	one := func(d tensor.Datatype, data string, shape ...int64) tensor.Tensor {
		return tensor.Tensor{Name: "x", Datatype: d, Shape: shape, Data: []byte(data)}
	}
	none := tensor.Tensor{}
	x := one(tensor.Uint8, "abcd", 2, 2)
	f := func(want result, version string, inputs ...tensor.Tensor) {
		t.Helper()
		c := newCache(t, cache.Config{MaxBytes: 1 << 20})
		ask(c, "v1", []tensor.Tensor{x, none, x}, numbers(1, 1))
		if got := ask(c, version, inputs, numbers(2, 1)); got != want {
			t.Errorf("%s %v: %s, want %s", version, inputs, got, want)
		}
	}
	f(hit, "v1", x, none, x)
	f(hit, "v1", x, one(tensor.Invalid, "left over", 9), x)
	f(leads, "v2", x, none, x)
	f(leads, "v1", x, x, none)
	f(leads, "v1", none, x, x)
	f(leads, "v1", x, x)
	f(leads, "v1", x, none, x, none)
	f(leads, "v1")
	f(leads, "v1", one(tensor.Uint8, "abce", 2, 2), none, x)
	f(leads, "v1", one(tensor.Int8, "abcd", 2, 2), none, x)
	f(leads, "v1", one(tensor.Uint8, "abcd", 4), none, x)
	f(leads, "v1", one(tensor.Uint8, "abcd", 4, 1), none, x)
	f(leads, "v1", one(tensor.Uint8, "abcd", 1, 2, 2), none, x)
	f(leads, "v1", one(tensor.Uint8, "abc", 2, 2), none, x)
	f(leads, "v1", one(tensor.Bytes, "", 0), none, x)
}

// What is kept is a copy, and stays as it is when its entry has gone.
func TestCopies(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 1 << 20})
	in := numbers(7, 2)
	out := append(numbers(8, 1), tensor.Tensor{}, tensor.Tensor{Name: "p",
		Datatype: tensor.Bytes, Shape: []int64{2, 3}, Data: []byte("\x01\x00\x00\x00ab"),
		ClassNames: []string{"a", "b", "c"}})
	ask(c, "v", in, out)
	in[0].Data[0], in[0].Shape[0] = 9, 9
	out[0].Data[0], out[0].Shape[0], out[2].Data[4], out[2].Shape[1] = 9, 9, 'z', 9
	got, _, _ := c.Look(0, "v", numbers(7, 2))
	c.PurgeAll()
	if len(got) != 3 || first(got) != 8 || !slices.Equal(got[0].Shape, []int64{1, 1}) {
		t.Fatalf("outputs are %v", got)
	}
	if got[1].Datatype != tensor.Invalid {
		t.Errorf("the output that is left out is %v", got[1])
	}
	if p := got[2]; p.Name != "p" || p.Datatype != tensor.Bytes || p.Data[4] != 'a' ||
		len(p.Data) != 6 || cap(p.Data) != 6 || !slices.Equal(p.Shape, []int64{2, 3}) ||
		!slices.Equal(p.ClassNames, []string{"a", "b", "c"}) {
		t.Errorf("the last output is %v", p)
	}
	if r := ask(c, "v", numbers(7, 2), nil); r != leads {
		t.Errorf("after PurgeAll: %s", r)
	}
	if r := ask(c, "v", numbers(7, 2), nil); r != hit {
		t.Errorf("an answer without outputs: %s", r)
	}
}

func TestTTL(t *testing.T) {
	f := func(ttl time.Duration, after int64, want result, expired uint64) {
		t.Helper()
		c := newCache(t, cache.Config{MaxBytes: 1 << 20, TTL: ttl})
		at{c, 1000}.ask("v", numbers(1, 1), numbers(2, 1))
		before := c.Stats().Bytes
		if got := (at{c, 1000 + after}).ask("v", numbers(1, 1), numbers(3, 1)); got != want {
			t.Errorf("TTL %v, after %d ns: %s, want %s", ttl, after, got, want)
		}
		if s := c.Stats(); s.Expired != expired || s.Entries != 1 || s.Bytes != before {
			t.Errorf("TTL %v, after %d ns: %+v", ttl, after, s)
		}
	}
	f(time.Second, 0, hit, 0)
	f(time.Second, 1e9-1, hit, 0)
	f(time.Second, 1e9, leads, 1)
	f(0, 1e18, hit, 0)
}

// What was not used for longest goes first.
func TestOrderOfUse(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 64 << 10})
	const n = 1000 // numbers: about 8 KiB each, so that seven have room
	for v := range uint64(7) {
		ask(c, "v", numbers(v, n), numbers(v, 1))
	}
	if s := c.Stats(); s.Entries != 7 || s.Evictions != 0 {
		t.Fatalf("%+v", s)
	}
	ask(c, "v", numbers(0, n), nil)
	ask(c, "v", numbers(7, n), numbers(7, 1))
	for v, want := range []result{0: hit, 2: hit, 7: hit} {
		if want == "" {
			continue
		}
		if got := ask(c, "v", numbers(uint64(v), n), nil); got != want {
			t.Errorf("%d: %s, want %s", v, got, want)
		}
	}
	if _, f, lead := c.Look(0, "v", numbers(1, n)); !lead {
		t.Error("1 was not evicted")
	} else {
		f.Land(0, nil, errors.New("no run"))
	}
}

// A request or an answer that would take most of a shard is not kept.
func TestTooLarge(t *testing.T) {
	f := func(in, out int, results ...result) {
		t.Helper()
		c := newCache(t, cache.Config{MaxBytes: 64 << 10})
		for _, want := range results {
			if got := ask(c, "v", numbers(1, in), numbers(2, out)); got != want {
				t.Errorf("%d and %d numbers: %s, want %s", in, out, got, want)
			}
		}
	}
	f(1800, 1, leads, hit)
	f(1, 1800, leads, hit)
	f(2048, 1, alone, alone)
	f(1, 2048, leads, leads)
	f(1024, 1024, leads, leads)
}

// With AdmitAfter 2 a request is kept when it misses for the second time.
func TestAdmitAfter(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 1 << 20, AdmitAfter: 2})
	for i, want := range []result{alone, leads, hit} {
		if got := ask(c, "v", numbers(1, 1), numbers(2, 1)); got != want {
			t.Errorf("look %d: %s, want %s", i, got, want)
		}
	}
	for v := range uint64(100_000) {
		if got := ask(c, "v", numbers(2+v, 1), nil); got != alone {
			t.Fatalf("a request that is new: %s", got)
		}
	}
	if s := c.Stats(); s.Entries != 1 || s.Evictions != 0 || s.Rejected != 0 {
		t.Errorf("%+v", s)
	}
	if got := ask(c, "v", numbers(1, 1), nil); got != hit {
		t.Errorf("the flood pushed out what was kept: %s", got)
	}
}

// heap returns the bytes in use of the Go heap.
func heap() int64 {
	runtime.GC()
	runtime.GC() // sweeps what the first has found
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A flood of requests that do not repeat takes the memory that was allowed, and
// the bytes that are told are those of the heap.
func TestFlood(t *testing.T) {
	const most = 16 << 20
	f := func(n, in, out int) {
		t.Helper()
		before := heap()
		c := newCache(t, cache.Config{MaxBytes: most})
		for v := range uint64(n) {
			ask(c, "v", numbers(v, in), numbers(v, out))
			if v%1000 == 0 && c.Stats().Bytes > most {
				t.Fatalf("%+v", c.Stats())
			}
		}
		s, grown := c.Stats(), heap()-before
		t.Logf("%d and %d numbers: %+v, heap %d", in, out, s, grown)
		if s.Bytes > most || s.Bytes < most*8/10 || s.Evictions == 0 {
			t.Errorf("%d and %d numbers: %+v", in, out, s)
		}
		if grown > most*11/10 || grown < most*6/10 {
			t.Errorf("%d and %d numbers: the heap has grown by %d bytes, %d are allowed", in, out,
				grown, most)
		}
		runtime.KeepAlive(c)
	}
	f(100_000, 1, 1)
	f(50_000, 64, 1)
	f(10_000, 600, 1000)
	f(300, 30_000, 10)
}

func TestPurge(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 64 << 20})
	for v := range uint64(100) {
		ask(c, "old", numbers(v, 1), numbers(v, 1))
		ask(c, "new", numbers(v, 1), numbers(v, 1))
	}
	f := func(want ...string) {
		t.Helper()
		got := c.Versions()
		slices.Sort(got)
		if !slices.Equal(got, want) || c.Stats().Entries != 100*len(want) {
			t.Errorf("versions %v, want %v; %+v", got, want, c.Stats())
		}
	}
	f("new", "old")
	c.Purge("other")
	f("new", "old")
	c.Purge("old")
	f("new")
	if got := ask(c, "new", numbers(5, 1), nil); got != hit {
		t.Errorf("the other version's answer: %s", got)
	}
	c.PurgeAll()
	f()
	if s := c.Stats(); s.Bytes != 0 || s.Evictions != 0 {
		t.Errorf("%+v", s)
	}
}

func TestStats(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 64 << 10})
	ask(c, "v", numbers(1, 1), numbers(2, 1))         // stored
	ask(c, "v", numbers(1, 1), nil)                   // hit
	ask(c, "v", numbers(1, 1), nil)                   // hit
	ask(c, "v", numbers(1, 9000), nil)                // too large
	ask(c, "v", numbers(2, 1), numbers(2, 9000))      // too large an answer
	_, f, _ := c.Look(0, "v", numbers(3, 1))          // lead
	ask(c, "v", numbers(3, 1), nil)                   // shared
	f.Land(0, numbers(4, 1), errors.New("no answer")) // not kept
	got := c.Stats()
	bytes := got.Bytes
	want := cache.Stats{Hits: 2, Shared: 1, Misses: 4, Stored: 1, Rejected: 2, Entries: 1,
		Bytes: bytes}
	if got != want || bytes < 100 || bytes > 1000 {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A hit allocates nothing, and a miss of a request that is not admitted neither.
func TestNoAllocations(t *testing.T) {
	f := func(name string, once func()) {
		t.Helper()
		if n := testing.AllocsPerRun(1000, once); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	c := newCache(t, cache.Config{MaxBytes: 64 << 20, TTL: time.Hour})
	in := append(numbers(1, 64), numbers(2, 1)...)
	ask(c, "v", in, numbers(2, 1))
	f("hit", func() {
		if ask(c, "v", in, nil) != hit {
			t.Error("no hit")
		}
	})
	wary := newCache(t, cache.Config{MaxBytes: 64 << 20, AdmitAfter: 2})
	v := uint64(0)
	f("first miss", func() {
		v++
		binary.LittleEndian.PutUint64(in[0].Data, v)
		if ask(wary, "v", in, nil) != alone {
			t.Error("not new")
		}
	})
}
