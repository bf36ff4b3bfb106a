package store

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
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

// lockTimeout bounds the wait for a process that is about to end.
const lockTimeout = 2 * time.Second

var (
	errDamaged = errors.New("it is damaged; restore a backup")
	errBlank   = errors.New("it is empty; restore a backup, or remove it to begin anew")
	errForeign = errors.New("it is no store of millrace; name another path")
	errInUse   = errors.New("another process uses it; stop that first")
)

// migrations bring a file from the schema of their index to the next. The first
// makes a store of an empty file. They run in one transaction.
var migrations = []func(tx *bbolt.Tx) error{initialise}

func initialise(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	id := make([]byte, 16)
	rand.Read(id)
	_, resources := tx.CreateBucket(bucketResources)
	_, log := tx.CreateBucket(bucketLog)
	return errors.Join(resources, log,
		meta.Put(keyID, seal(keyID, hex.AppendEncode(nil, id))), putState(tx, state{}))
}

func putState(tx *bbolt.Tx, s state) error {
	return tx.Bucket(bucketMeta).Put(keyState, seal(keyState, s.append(nil)))
}

func stateOf(tx *bbolt.Tx) (s state, err error) {
	b, err := unseal(keyState, tx.Bucket(bucketMeta).Get(keyState))
	if err != nil {
		return s, err
	}
	return s, s.decode(b)
}

// upgrade brings a file to the present schema.
func upgrade(tx *bbolt.Tx) error {
	schema := 0
	if tx.Bucket(bucketMeta) != nil {
		var err error
		if schema, err = schemaOf(tx); err != nil {
			return err
		}
	}
	for i, m := range migrations[schema:] {
		if err := m(tx); err != nil {
			return fmt.Errorf("cannot migrate it to schema %d: %w", schema+i+1, err)
		}
	}
	number := binary.BigEndian.AppendUint32(nil, uint32(len(migrations)))
	return tx.Bucket(bucketMeta).Put(keySchema, seal(keySchema, number))
}

// schemaOf returns the schema of a file that this code understands.
func schemaOf(tx *bbolt.Tx) (int, error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil || meta.Get(keySchema) == nil {
		return 0, errForeign
	}
	b, err := unseal(keySchema, meta.Get(keySchema))
	if err != nil || len(b) != 4 {
		return 0, errDamaged
	}
	schema := int(binary.BigEndian.Uint32(b))
	if schema > len(migrations) {
		return 0, fmt.Errorf("a newer millrace has written it (schema %d, and this one knows %d); "+
			"use that, or restore a backup from before", schema, len(migrations))
	}
	return schema, nil
}

// boltFile is a file that is open, and locked.
type boltFile struct {
	*bbolt.DB
	file *os.File
}

// openBolt opens a file that is there. Options must not be shared.
func openBolt(path string, o *bbolt.Options) (boltFile, error) {
	o.Timeout = lockTimeout
	o.FreelistType = bbolt.FreelistMapType
	// Free pages are looked for when the file is opened. They need not be written with
	// each transaction, which costs much where a reader holds on to old ones.
	o.NoFreelistSync = true
	var f boltFile
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		file, err := os.OpenFile(name, flag&^os.O_CREATE, mode)
		f.file = file
		return file, err
	}
	err := guarded(func() (err error) {
		f.DB, err = bbolt.Open(path, 0o600, o)
		return err
	})
	if err == nil {
		return f, nil
	}
	if f.file != nil {
		f.file.Close() // else a panic leaves it locked; bbolt may have closed it already
	}
	var system syscall.Errno
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return f, errInUse
	case !errors.As(err, &system) && !errors.Is(err, errDamaged):
		return f, fmt.Errorf("%w (%w)", errDamaged, err) // bbolt does not like what is in it
	}
	return f, err
}

// close gives the file back.
func (f boltFile) close() error { return guarded(f.DB.Close) }

// openChecked opens a file that others may read, too, but nobody may write, and
// reads all of it. Who opens a file to write has to have checked it first: bbolt
// looks for free pages in a goroutine of its own, whose panic about damage
// nobody could recover from.
func openChecked(path string) (boltFile, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return boltFile{}, err
	case !info.Mode().IsRegular():
		return boltFile{}, errForeign
	case info.Size() == 0:
		return boltFile{}, errBlank // bbolt would take it for a new one
	}
	f, err := openBolt(path, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return f, err
	}
	err = guarded(func() error {
		return f.View(func(tx *bbolt.Tx) error { return check(tx, f.file) })
	})
	if err != nil {
		return f, errors.Join(err, f.close())
	}
	return f, nil
}

// check reads everything in a file: each page that is in use, and each value.
func check(tx *bbolt.Tx, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < tx.Size() {
		return fmt.Errorf("%w (it was cut short: %d bytes of %d)", errDamaged, info.Size(),
			tx.Size())
	}
	if _, err := schemaOf(tx); err != nil {
		return err
	}
	for _, name := range [][]byte{bucketMeta, bucketResources, bucketLog} {
		b := tx.Bucket(name)
		if b == nil {
			return errDamaged
		}
		find := b.Cursor()
		err := b.ForEach(func(k, v []byte) error {
			// Branch pages, too: they have to lead to each key.
			if found, _ := find.Seek(k); !bytes.Equal(found, k) {
				return errDamaged
			}
			_, err := unseal(k, v)
			return err
		})
		if err != nil {
			return err
		}
	}
	_, err = identityOf(tx)
	return err
}

// openWritable opens a file that was checked, to be the only one who does.
func openWritable(path string, maxSize int) (boltFile, error) {
	for {
		f, err := openBolt(path, &bbolt.Options{
			// All that the file may become is mapped at once: a writer that had to map more of
			// it would wait for readers. It costs addresses, but no memory.
			InitialMmapSize: maxSize,
			MaxSize:         maxSize,
		})
		if err != nil {
			return f, err
		}
		// While this one waited for the lock, a restored file may have taken the path.
		locked, err := f.file.Stat()
		if err != nil {
			return f, errors.Join(err, f.close())
		}
		present, err := os.Stat(path)
		if err == nil && os.SameFile(locked, present) {
			return f, nil
		}
		if err := errors.Join(err, f.close()); err != nil {
			return f, err
		}
	}
}

// create makes the file in full under another name first: a crash amid bbolt's
// first writes would leave one that cannot be opened.
func create(path string) error {
	temp, err := tempBolt(path)
	if err != nil {
		return err
	}
	defer os.Remove(temp.file.Name())
	if err := errors.Join(temp.Update(upgrade), temp.close()); err != nil {
		return err
	}
	// Unlike a rename, a link leaves a file alone that another process has made since.
	if err := os.Link(temp.file.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(path)
}

// tempBolt makes an empty file of bbolt's beside a path. The caller removes it.
func tempBolt(path string) (boltFile, error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return boltFile{}, err
	}
	err = file.Close()
	if err == nil {
		var f boltFile
		if f, err = openBolt(file.Name(), &bbolt.Options{}); err == nil {
			return f, nil
		}
	}
	return boltFile{}, errors.Join(err, os.Remove(file.Name()))
}

// syncDir makes it durable that a file is in its folder.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

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
