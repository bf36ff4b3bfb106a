package store

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// FuzzDecode wants what decodes to encode to the same bytes, and what does not to
// be an error.
func FuzzDecode(f *testing.F) {
	at := time.Unix(1_800_000_000, 1).UTC()
	r := Resource{Revision: 3, Created: at, Updated: at.Add(1), Owner: "api",
		Spec: json.RawMessage(`{}`), Status: json.RawMessage(`1`)}
	value := appendResource(nil, &r)
	f.Add(value)
	change := record{at: at, kind: []byte("k"), name: []byte("n"), who: []byte("w"), new: value}
	f.Add(change.append(nil))
	f.Add(state{1, 2, 3, 4, 5}.append(nil))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		canonical := func(again []byte, decode func(b []byte) (any, error), want any) {
			t.Helper()
			got, err := decode(again)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, %v; want %+v", got, err, want)
			}
		}
		asResource := func(b []byte) (any, error) { return decodeResource(Key{}, b) }
		if r, err := decodeResource(Key{}, b); err == nil {
			canonical(appendResource(nil, &r), asResource, r)
		}
		asRecord := func(b []byte) (any, error) { return decodeRecord(b) }
		if r, err := decodeRecord(b); err == nil {
			canonical(r.append(nil), asRecord, r)
		}
		var s state
		if s.decode(b) == nil && !bytes.Equal(s.append(nil), b) {
			t.Errorf("%+v", s)
		}
		if got, err := unseal([]byte("k"), seal([]byte("k"), bytes.Clone(b))); err != nil ||
			!bytes.Equal(got, b) {
			t.Errorf("%x, %v", got, err)
		}
		if _, err := unseal([]byte("l"), seal([]byte("k"), bytes.Clone(b))); err == nil {
			t.Errorf("%x is taken for another key's", b)
		}
	})
}
