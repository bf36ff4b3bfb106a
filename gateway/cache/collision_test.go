package cache

import (
	"slices"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func text(s string) []tensor.Tensor {
	return []tensor.Tensor{{Datatype: tensor.Uint8, Shape: []int64{int64(len(s))}, Data: []byte(s)}}
}

// Requests whose hashes are the same get their own answers or none.
func TestCollision(t *testing.T) {
	c, err := New(Config{MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	c.hash = func(string, []tensor.Tensor) key { return key{} }
	f := func(version, in, want string) {
		t.Helper()
		outputs, flight, _ := c.Look(0, version, text(in))
		got := ""
		switch {
		case outputs != nil:
			got = string(outputs[0].Data)
		case flight != nil:
			got = "flight"
		}
		if got != want {
			t.Errorf("%s %s: %q, want %q", version, in, got, want)
		}
	}
	_, flight, lead := c.Look(0, "v", text("a"))
	if !lead {
		t.Fatal("the first request does not lead")
	}
	f("v", "a", "flight")
	f("v", "b", "")
	f("w", "a", "")
	flight.Land(0, text("answer"), nil)
	f("v", "a", "answer")
	f("v", "b", "")
	f("w", "a", "")
	if s := c.Stats(); s.Hits != 1 || s.Shared != 1 || s.Misses != 5 || s.Entries != 1 {
		t.Errorf("%+v", s)
	}
}

// Either half of the hash depends on all that makes requests differ, and on the
// process.
func TestHash(t *testing.T) {
	h := newHasher()
	x, y := text("x")[0], text("y")[0]
	cube := x
	cube.Shape = []int64{1, 1, 1}
	signed := x
	signed.Datatype = tensor.Int8
	var none tensor.Tensor
	seen := [2]map[uint64]int{{}, {}}
	add := func(i int, k key) {
		for half := range k {
			if other, ok := seen[half][k[half]]; ok {
				t.Errorf("half %d of %d is that of %d", half, i, other)
			}
			seen[half][k[half]] = i
		}
	}
	requests := [][]tensor.Tensor{{}, {x}, {y}, {cube}, {signed}, {none}, {x, none}, {none, x},
		{x, y}, {y, x}, {x, x}, {x, x, x}, {none, none}}
	for i, r := range requests {
		k := h.sum("v", r)
		add(i, k)
		add(i+100, h.sum("w", r))
		add(i+200, newHasher().sum("v", r))
		if again := h.sum("v", slices.Clone(r)); again != k {
			t.Errorf("%d has two hashes", i)
		}
	}
}
