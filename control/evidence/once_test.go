package evidence

import (
	"encoding/json"
	"testing"
)

func TestOnce(t *testing.T) {
	const users = 10_000
	o := NewOnce(users)
	lost := 0
	for user := range uint64(users) {
		if !o.First(user << 40) { // hashes may be alike in what is not mixed
			lost++
		}
	}
	if lost > users*15/1000 {
		t.Errorf("%d of %d users were taken for known", lost, users)
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var restored Once
	if err := json.Unmarshal(text, &restored); err != nil {
		t.Fatal(err)
	}
	for user := range uint64(users) {
		if o.First(user<<40) || restored.First(user<<40) {
			t.Fatalf("user %d counted twice", user)
		}
	}
	if (&Once{}).First(1) {
		t.Error("a filter without memory lets users through")
	}
	if n := len(NewOnce(-1).Bits); n != 64 {
		t.Errorf("the smallest filter has %d bytes", n)
	}
	for user := range uint64(100 * users) {
		o.First(user)
	}
	for user := range uint64(users) {
		if o.First(1<<40 + user) {
			t.Fatal("a full filter let a user through")
		}
	}
}

func BenchmarkOnce(b *testing.B) {
	b.ReportAllocs()
	o := NewOnce(1_000_000)
	for user := uint64(0); b.Loop(); user++ {
		o.First(user)
	}
}
