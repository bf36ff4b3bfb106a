package feedback

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// store is the file. One goroutine writes; nobody reads once it is loaded, so
// no reader ever pins old pages.
type store struct{ db *bbolt.DB }

// The buckets of the file, and the keys in meta.
var (
	bucketMeta   = []byte("meta")
	bucketGiven  = []byte("given")  // row -> nothing, in the order of time
	bucketSeries = []byte("series") // quoted names -> Series as JSON

	keyFormat   = []byte("format")
	keyReplica  = []byte("replica")
	keyRevision = []byte("revision") // 8 bytes, big endian
)

// format is the value of keyFormat in files that this code understands.
const format = "millrace feedback 1"

// lockTimeout bounds the wait for a process that is about to end.
const lockTimeout = 2 * time.Second

// errDamaged is returned when the file is no database any more.
var errDamaged = errors.New("it is damaged; restore it, or move it away to begin anew")

var (
	errBlank   = errors.New("it is empty; restore it, or remove it to begin anew")
	errForeign = errors.New("it is not a feedback file; name another path")
	errInUse   = errors.New("another process uses it")
)

// row is an id that has had feedback.
type row struct {
	at int64 // Unix nanoseconds
	id id
}

const rowBytes = 8 + len(id{})

func (r row) bytes() []byte {
	b := make([]byte, 0, rowBytes)
	return append(binary.BigEndian.AppendUint64(b, uint64(r.at)), r.id[:]...)
}

func rowOf(b []byte) row {
	return row{int64(binary.BigEndian.Uint64(b)), id(b[8:rowBytes])}
}

// openStore opens or makes the file and returns what it says.
func openStore(path string) (*store, kept, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = create(path)
	case err == nil && !info.Mode().IsRegular():
		err = errForeign
	case err == nil && info.Size() == 0:
		err = errBlank // bbolt would take it for a new one, and the counts would be gone unseen
	}
	if err != nil {
		return nil, kept{}, err
	}
	s := &store{}
	if s.db, err = openFile(path); err != nil {
		return nil, kept{}, err
	}
	var k kept
	err = guarded(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			k, err = load(tx)
			return err
		})
	})
	if err != nil {
		return nil, kept{}, errors.Join(err, s.close())
	}
	return s, k, nil
}

// create makes the file in full under another name first: a crash amid bbolt's
// first writes would leave one that cannot be opened.
func create(path string) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	temp := file.Name()
	defer os.Remove(temp)
	if err := file.Close(); err != nil {
		return err
	}
	db, err := openFile(temp)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Update(initialise), db.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link leaves a file alone that another process has made since.
	if err := os.Link(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func initialise(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	replica := make([]byte, 16)
	rand.Read(replica)
	_, given := tx.CreateBucket(bucketGiven)
	_, series := tx.CreateBucket(bucketSeries)
	return errors.Join(given, series,
		meta.Put(keyReplica, []byte(hex.EncodeToString(replica))),
		meta.Put(keyRevision, make([]byte, 8)),
		meta.Put(keyFormat, []byte(format)))
}

func openFile(path string) (*bbolt.DB, error) {
	var db *bbolt.DB
	err := guarded(func() (err error) {
		// Not NoFreelistSync: Open would look for free pages in a goroutine of its own, where
		// nobody can recover from the panic about damaged ones.
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      lockTimeout,
			FreelistType: bbolt.FreelistMapType,
		})
		return err
	})
	var system syscall.Errno
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, errInUse
	case err != nil && !errors.As(err, &system) && !errors.Is(err, errDamaged):
		return nil, fmt.Errorf("%w (%w)", errDamaged, err) // bbolt does not like what is in it
	}
	return db, err
}

// load reads all. It touches every page that is in use.
func load(tx *bbolt.Tx) (kept, error) {
	k := kept{given: make(map[id]int64), series: make(map[key]*Series)}
	meta, given, series := tx.Bucket(bucketMeta), tx.Bucket(bucketGiven), tx.Bucket(bucketSeries)
	if meta == nil || string(meta.Get(keyFormat)) != format {
		return k, errForeign
	}
	k.replica = string(meta.Get(keyReplica))
	revision := meta.Get(keyRevision)
	if given == nil || series == nil || k.replica == "" || len(revision) != 8 {
		return k, errDamaged
	}
	k.revision = binary.BigEndian.Uint64(revision)
	err := given.ForEach(func(b, _ []byte) error {
		if len(b) != rowBytes {
			return errDamaged
		}
		r := rowOf(b)
		k.given[r.id] = r.at
		return nil
	})
	if err != nil {
		return k, err
	}
	err = series.ForEach(func(_, b []byte) error {
		var s Series
		if json.Unmarshal(b, &s) != nil || !s.valid() {
			return errDamaged
		}
		k.series[s.key()] = &s
		return nil
	})
	return k, err
}

// write makes a change durable, and notes in it what was forgotten.
func (s *store) write(ch *change) error {
	return guarded(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			if err := ch.writeGiven(tx.Bucket(bucketGiven)); err != nil {
				return err
			}
			if err := ch.writeSeries(tx.Bucket(bucketSeries)); err != nil {
				return err
			}
			revision := binary.BigEndian.AppendUint64(nil, ch.revision)
			return tx.Bucket(bucketMeta).Put(keyRevision, revision)
		})
	})
}

// writeGiven adds the new ids and forgets old ones: more of them than are added,
// so that there are soon not too many, but not so many that the write gets slow.
func (ch *change) writeGiven(b *bbolt.Bucket) error {
	b.FillPercent = 0.9 // rows come nearly in order
	for id := range ch.given {
		if err := b.Put(row{ch.at, id}.bytes(), nil); err != nil {
			return err
		}
	}
	ch.forgot = ch.forgot[:0]
	c := b.Cursor()
	for len(ch.forgot) < 2*len(ch.given)+maxBatch {
		k, _ := c.First()
		if k == nil {
			break
		}
		r := rowOf(k)
		if r.at > ch.expired && len(ch.forgot) >= ch.excess {
			break
		}
		if err := c.Delete(); err != nil {
			return err
		}
		ch.forgot = append(ch.forgot, r)
	}
	return nil
}

func (ch *change) writeSeries(b *bbolt.Bucket) error {
	for name, s := range ch.series {
		k := fmt.Appendf(nil, "%q %q %q", name.endpoint, name.model, name.version)
		if s == nil {
			if err := b.Delete(k); err != nil {
				return err
			}
			continue
		}
		v, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if err := b.Put(k, v); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) close() error { return guarded(s.db.Close) }

// guarded calls f. bbolt answers damaged pages with a panic, and a file that
// was cut short with a fault of memory; both become errDamaged.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w (%v)", errDamaged, r)
		}
	}()
	return f()
}
