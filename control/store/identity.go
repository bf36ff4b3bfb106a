package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// identity is what a small file beside the store says: which store it is, and a
// revision that was acknowledged. It tells that a store is gone, or has lost
// acknowledged changes: bbolt goes on with the transaction before where the
// page of the last is damaged. It is written behind each transaction and not
// synced, so that it costs little: after a power failure it may say less than
// was acknowledged, but never more.
type identity struct {
	id       string
	revision uint64
}

func identityOf(tx *bbolt.Tx) (identity, error) {
	id, err := unseal(keyID, tx.Bucket(bucketMeta).Get(keyID))
	if err != nil {
		return identity{}, err
	}
	s, err := stateOf(tx)
	return identity{string(id), s.revision}, err
}

// identityPath is where the identity of a store lies.
func identityPath(path string) string { return path + ".id" }

// The revision comes last and has always the same width, so that it can be written
// over.
const identityFormat = "millrace store %32s at revision %20d\n"

func (i identity) text() []byte { return fmt.Appendf(nil, identityFormat, i.id, i.revision) }

// readIdentity returns the identity that lies beside a store. The error may be
// fs.ErrNotExist.
func readIdentity(path string) (identity, error) {
	text, err := os.ReadFile(identityPath(path))
	if err != nil {
		return identity{}, err
	}
	var i identity
	_, err = fmt.Sscanf(string(text), identityFormat, &i.id, &i.revision)
	if err != nil || string(i.text()) != string(text) {
		return i, fmt.Errorf("%s is damaged; remove it if the store beside it is the right one",
			filepath.Base(identityPath(path)))
	}
	return i, nil
}

// verify holds a store against the identity beside it, which may not be there.
func (i identity) verify(path string) error {
	told, err := readIdentity(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case told.id != i.id:
		return fmt.Errorf("it is another store than the one that was here (%s, by %s); restore a "+
			"backup", told.id, filepath.Base(identityPath(path)))
	case told.revision > i.revision:
		return fmt.Errorf("it ends at revision %d, but revision %d was acknowledged (%s); "+
			"restore a backup", i.revision, told.revision, filepath.Base(identityPath(path)))
	}
	return nil
}

// replace puts the identity beside a store, in one step.
func (i identity) replace(path string) error {
	name := identityPath(path)
	file, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(i.text())
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), name); err != nil {
		return err
	}
	return syncDir(name)
}

// identityFile is the file, to note revisions in.
type identityFile struct {
	*os.File
	identity
	err error // of the last note
}

// openIdentity opens the file beside a store, or makes it.
func openIdentity(path string, i identity) (*identityFile, error) {
	file, err := os.OpenFile(identityPath(path), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := i.replace(path); err != nil {
			return nil, err
		}
		file, err = os.OpenFile(identityPath(path), os.O_WRONLY, 0)
	}
	if err != nil {
		return nil, err
	}
	f := &identityFile{File: file, identity: i}
	f.note(i.revision)
	return f, nil
}

// note says that a revision is acknowledged. Where it fails the file says less
// than it could, which harms nothing; close returns the error.
func (f *identityFile) note(revision uint64) {
	f.revision = revision
	_, f.err = f.WriteAt(f.text(), 0)
}

// close makes the last revision durable.
func (f *identityFile) close() error { return errors.Join(f.err, f.Sync(), f.Close()) }
