package feedback

import (
	"encoding/binary"
	"encoding/json"
	"slices"

	"go.etcd.io/bbolt"
)

// Decisions that have no feedback yet are in memory only while a ledger is open.
// Close puts them into the file and Open takes them out of it, so that a new
// version of the server knows what the one before has answered.
var (
	bucketWaiting = []byte("waiting")   // number -> records, the oldest first
	keyDecisions  = []byte("decisions") // in bucketWaiting: what records refer to, as JSON
)

// record is a decision in the file: its hash, its time and the index of what was
// decided, big endian.
const (
	recordBytes     = 8 + 8 + 4
	recordsPerValue = 1 << 10
)

// waiting returns the decisions that are not too old at a time, the oldest first.
func (p *pending) waiting(now int64) []way {
	p.settleAll()
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.put % len(p.ring)
	all := slices.Concat(p.ring[next:], p.ring[:next])
	return slices.DeleteFunc(all, func(w way) bool {
		return w.decision == nil || now-w.at >= p.ttl
	})
}

// restore puts decisions into a ring that nobody uses yet, the oldest first.
func (p *pending) restore(ways []way) {
	for _, w := range ways[max(0, len(ways)-len(p.ring)):] {
		p.ring[p.put%len(p.ring)] = w
		p.put++
	}
}

// saveWaiting puts decisions into the file, in place of those of another time.
func (s *store) saveWaiting(ways []way) error {
	return guarded(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			if tx.Bucket(bucketWaiting) != nil {
				if err := tx.DeleteBucket(bucketWaiting); err != nil {
					return err
				}
			}
			b, err := tx.CreateBucket(bucketWaiting)
			if err != nil {
				return err
			}
			return writeWaiting(b, ways)
		})
	})
}

func writeWaiting(b *bbolt.Bucket, ways []way) error {
	var decisions []*Decision
	index := make(map[*Decision]uint32)
	number := uint64(0)
	for chunk := range slices.Chunk(ways, recordsPerValue) {
		value := make([]byte, 0, len(chunk)*recordBytes)
		for _, w := range chunk {
			i, ok := index[w.decision]
			if !ok {
				i = uint32(len(decisions))
				index[w.decision] = i
				decisions = append(decisions, w.decision)
			}
			value = binary.BigEndian.AppendUint64(value, uint64(w.tag))
			value = binary.BigEndian.AppendUint64(value, uint64(w.at))
			value = binary.BigEndian.AppendUint32(value, i)
		}
		if err := b.Put(binary.BigEndian.AppendUint64(nil, number), value); err != nil {
			return err
		}
		number++
	}
	text, err := json.Marshal(decisions)
	if err != nil {
		return err
	}
	return b.Put(keyDecisions, text)
}

// loadWaiting returns the decisions in the file, the oldest first.
func (s *store) loadWaiting() (ways []way, err error) {
	err = guarded(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			ways, err = readWaiting(tx.Bucket(bucketWaiting))
			return err
		})
	})
	return ways, err
}

func readWaiting(b *bbolt.Bucket) ([]way, error) {
	if b == nil {
		return nil, nil
	}
	var decisions []*Decision
	if err := json.Unmarshal(b.Get(keyDecisions), &decisions); err != nil {
		return nil, errDamaged
	}
	var ways []way
	err := b.ForEach(func(k, value []byte) error {
		if string(k) == string(keyDecisions) {
			return nil
		}
		for record := range slices.Chunk(value, recordBytes) {
			if len(record) < recordBytes {
				return errDamaged
			}
			i := binary.BigEndian.Uint32(record[16:])
			if int64(i) >= int64(len(decisions)) || decisions[i] == nil {
				return errDamaged
			}
			ways = append(ways, way{tag: hash(binary.BigEndian.Uint64(record)),
				at: int64(binary.BigEndian.Uint64(record[8:])), decision: decisions[i]})
		}
		return nil
	})
	return ways, err
}
