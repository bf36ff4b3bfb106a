package store

import (
	"encoding/binary"
	"hash/crc32"
	"time"
)

// The file has three buckets. All numbers in it are big endian; a text is its
// length as a varint and its bytes. Each value ends with the CRC-32C of its key
// and itself, so that a page that rots on the disk is noticed.
var (
	bucketMeta      = []byte("meta")
	bucketResources = []byte("resources") // kind, a zero byte, name -> resource
	bucketLog       = []byte("log")       // revision -> change

	keySchema = []byte("schema") // number of the layout
	keyID     = []byte("id")     // of the store, made at random
	keyState  = []byte("state")  // state
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(k, v []byte) uint32 {
	return crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v)
}

// seal ends a value.
func seal(k, v []byte) []byte { return binary.BigEndian.AppendUint32(v, checksum(k, v)) }

// unseal returns what was sealed: a part of v.
func unseal(k, v []byte) ([]byte, error) {
	n := len(v) - 4
	if n < 0 || binary.BigEndian.Uint32(v[n:]) != checksum(k, v[:n]) {
		return nil, errDamaged
	}
	return v[:n:n], nil
}

// state is what the store knows of itself.
type state struct {
	revision  uint64 // of the last change
	compacted uint64 // changes up to this one are not given to those who watch
	logCount  uint64
	logBytes  uint64 // of the values in the log
	bytes     uint64 // of the resources
}

func (s state) append(b []byte) []byte {
	for _, n := range [...]uint64{s.revision, s.compacted, s.logCount, s.logBytes, s.bytes} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func (s *state) decode(b []byte) error {
	d := decoder{b: b}
	for _, n := range [...]*uint64{&s.revision, &s.compacted, &s.logCount, &s.logBytes, &s.bytes} {
		*n = d.uint64()
	}
	return d.err()
}

// rowKey is the key of a resource. Neither part has a zero byte.
func (k Key) rowKey() []byte {
	b := make([]byte, 0, len(k.Kind)+1+len(k.Name))
	return append(append(append(b, k.Kind...), 0), k.Name...)
}

func logKey(revision uint64) []byte { return binary.BigEndian.AppendUint64(nil, revision) }

func appendText[T string | ~[]byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// appendResource encodes all but the key. It is never empty.
func appendResource(b []byte, r *Resource) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Revision)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Created.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Updated.UnixNano()))
	b = appendText(b, r.Owner)
	b = appendText(b, r.Spec)
	return appendText(b, r.Status)
}

// decodeResource keeps b: it becomes the resource's.
func decodeResource(k Key, b []byte) (Resource, error) {
	d := decoder{b: b}
	r := Resource{Key: k, Revision: d.uint64(), Created: d.time(), Updated: d.time()}
	r.Owner, r.Spec, r.Status = string(d.text()), d.text(), d.text()
	return r, d.err()
}

// record is a change as it lies in the log. Its parts belong to the transaction
// that read them.
type record struct {
	at                    time.Time
	kind, name, who, from []byte
	old, new              []byte // resources; nil where there is none
}

func (r *record) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.at.UnixNano()))
	for _, text := range [...][]byte{r.kind, r.name, r.who, r.from, r.old, r.new} {
		b = appendText(b, text)
	}
	return b
}

func decodeRecord(b []byte) (record, error) {
	d := decoder{b: b}
	r := record{at: d.time(), kind: d.text(), name: d.text(), who: d.text(), from: d.text(),
		old: d.text(), new: d.text()}
	return r, d.err()
}

// decoder takes a value apart.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uint64() uint64 {
	if len(d.b) < 8 {
		d.bad = true
		return 0
	}
	n := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return n
}

func (d *decoder) time() time.Time { return time.Unix(0, int64(d.uint64())).UTC() }

// text returns nil for an empty one.
func (d *decoder) text() []byte {
	size, n := binary.Uvarint(d.b)
	if n <= 0 || size > uint64(len(d.b)-n) {
		d.bad = true
		return nil
	}
	end := n + int(size)
	text := d.b[n:end:end]
	d.b = d.b[end:]
	if size == 0 {
		return nil
	}
	return text
}

// err says whether the value was whole.
func (d *decoder) err() error {
	if d.bad || len(d.b) > 0 {
		return errDamaged
	}
	return nil
}
