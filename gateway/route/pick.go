package route

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"math/rand/v2"

	"github.com/cespare/xxhash/v2"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// By says why an arm was picked.
type By uint8

// The reasons.
const (
	ByWeight By = iota // by chance
	ByRule
	BySticky
)

// Choice is what Pick has found. It has four fields of a word each: one more, and
// Go would return it through memory, with which picking takes twice as long.
type Choice struct {
	Arm        int     // index into Endpoint.Arms
	Propensity float64 // probability of the arm, in (0, 1]; 1 for a rule
	User       uint64  // hash of the sticky key that chose; 0 where none did
	Needs
}

// Needs says why an arm was picked, and what else the choice asks for: one thing
// at most.
type Needs struct {
	By          By
	NeedsKey    bool // nothing is chosen yet: call PickKey when the request is decoded
	NeedsCookie bool // the client has no cookie and is to get one: call NewCookie
}

// Headers is where a request's headers, or gRPC metadata, are found.
type Headers interface {
	// Header returns the first value of that name, in lower case; nil for none.
	Header(name string) []byte
}

// Pick chooses an arm: by the first rule that matches, else by the sticky key
// where the endpoint has one, else by chance.
func (e *Endpoint) Pick(h Headers) Choice {
	if len(e.rules) > 0 {
		if arm := e.byRule(h); arm >= 0 {
			return Choice{Arm: arm, Propensity: 1, Needs: Needs{By: ByRule}}
		}
	}
	s := e.Sticky
	switch {
	case s == nil:
		return e.choice(rand.IntN(FullWeight), ByWeight)
	case s.Input != "":
		return Choice{Needs: Needs{NeedsKey: true}}
	case s.Header != "":
		return e.PickKey(h.Header(s.Header))
	}
	key := cookieValue(h.Header("cookie"), s.Cookie)
	c := e.PickKey(key)
	c.NeedsCookie = len(key) == 0 && s.Set > 0
	return c
}

// byRule returns the arm of the first rule that matches, or -1.
func (e *Endpoint) byRule(h Headers) int {
	var value []byte
	for i := range e.rules {
		r := &e.rules[i]
		if i == 0 || r.header != e.rules[i-1].header {
			value = h.Header(r.header)
		}
		if value != nil && r.match(value) {
			return r.arm
		}
	}
	return -1
}

// PickKey chooses an arm by a sticky key; an empty key by chance.
func (e *Endpoint) PickKey(key []byte) Choice {
	if len(key) == 0 {
		return e.choice(rand.IntN(FullWeight), ByWeight)
	}
	user := hash(e.seed, key)
	c := e.choice(bucket(user), BySticky)
	c.User = user
	return c
}

// choice returns the arm that has a bucket. The arms behind the first have
// [0, w1), [w1, w1+w2), ...; the first has what is left. So a weight that rises
// takes its buckets from the arms behind it and from the first.
func (e *Endpoint) choice(bucket int, by By) Choice {
	for i := 1; i < len(e.Arms); i++ {
		w := e.Arms[i].Weight
		if bucket -= w; bucket < 0 {
			return Choice{Arm: i, Propensity: float64(w) / FullWeight, Needs: Needs{By: by}}
		}
	}
	return Choice{Propensity: float64(e.Arms[0].Weight) / FullWeight, Needs: Needs{By: by}}
}

// hash is XXH64 of a key. To change it moves users of every endpoint. Nearly all keys are
// shorter than what the library is made for: it takes 20 ns longer for them.
func hash(seed uint64, key []byte) uint64 {
	if len(key) < shortKey {
		return hashShort(seed, key)
	}
	var d xxhash.Digest
	d.ResetWithSeed(seed)
	_, _ = d.Write(key) // never fails
	return d.Sum64()
}

// Keys of fewer bytes than shortKey have no blocks, only what XXH64 does after them.
const shortKey = 32

// Factors of XXH64.
const (
	prime1 = 11400714785074694791
	prime2 = 14029467366897019727
	prime3 = 1609587929392839161
	prime4 = 9650029242287828579
	prime5 = 2870177450012600261
)

// hashShort is XXH64 of a short key.
func hashShort(seed uint64, key []byte) uint64 {
	h := seed + prime5 + uint64(len(key))
	for ; len(key) >= 8; key = key[8:] {
		word := bits.RotateLeft64(binary.LittleEndian.Uint64(key)*prime2, 31) * prime1
		h = bits.RotateLeft64(h^word, 27)*prime1 + prime4
	}
	if len(key) >= 4 {
		word := uint64(binary.LittleEndian.Uint32(key)) * prime1
		h = bits.RotateLeft64(h^word, 23)*prime2 + prime3
		key = key[4:]
	}
	for _, b := range key {
		h = bits.RotateLeft64(h^uint64(b)*prime5, 11) * prime1
	}
	h = (h ^ h>>33) * prime2
	h = (h ^ h>>29) * prime3
	return h ^ h>>32
}

// bucket returns the place of a hash in [0, FullWeight): the upper word of
// hash * FullWeight, whose shares are equal but for 2^-50. To change it moves users
// of every endpoint.
func bucket(hash uint64) int {
	hi, _ := bits.Mul64(hash, FullWeight)
	return int(hi)
}

// Key returns the sticky key of a decoded request: the first element of the
// named input, in its binary form and without the length that goes before
// BYTES; empty when it is not there. It is a part of the input's data.
func (e *Endpoint) Key(inputs []tensor.Tensor) []byte {
	if e.Sticky == nil || e.Sticky.Input == "" {
		return nil
	}
	for i := range inputs {
		t := &inputs[i]
		if t.Name != e.Sticky.Input {
			continue
		}
		if t.Datatype == tensor.Bytes {
			key, _, _ := tensor.NextElement(t.Data)
			return key
		}
		return t.Data[:min(t.Datatype.Size(), len(t.Data))]
	}
	return nil
}

// NewCookie appends a Set-Cookie header's value to dst and returns it with the
// choice for the key in it, a random one of 128 bits.
func (e *Endpoint) NewCookie(dst []byte) ([]byte, Choice) {
	var random [16]byte
	binary.LittleEndian.PutUint64(random[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(random[8:], rand.Uint64())
	dst = append(dst, e.Sticky.Cookie...)
	dst = append(dst, '=')
	from := len(dst)
	dst = hex.AppendEncode(dst, random[:])
	c := e.PickKey(dst[from:])
	return append(dst, e.cookie...), c
}

// cookieValue returns the value of the first cookie of that name in a Cookie
// header, without quotes around it; nil where there is none.
func cookieValue(header []byte, name string) []byte {
	for len(header) > 0 {
		var pair []byte
		pair, header, _ = bytes.Cut(header, []byte(";"))
		pair = bytes.TrimSpace(pair)
		if len(pair) <= len(name) || pair[len(name)] != '=' || string(pair[:len(name)]) != name {
			continue
		}
		value := pair[len(name)+1:]
		if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		return value
	}
	return nil
}
