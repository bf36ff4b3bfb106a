package control

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/control/store"
)

// A backup is a ZIP archive of files of the data folder, under the names that they have there: the
// store and what monitors have learned. One of an older version is the store alone.

// restoreDir is the folder, in that of the data, where a backup is unpacked.
const restoreDir = "restore"

// Backup writes a copy of the store as it is at one moment, and of what the monitors have kept by
// then.
func (p *Plane) Backup(ctx context.Context, w io.Writer) error {
	p.mu.Lock()
	err := p.ensure(ctx)
	kept, names := p.store, slices.Sorted(maps.Keys(p.view.monitors))
	p.mu.Unlock()
	if err != nil {
		return err
	}
	z := zip.NewWriter(w)
	entry, err := packed(z, storeFile)
	if err == nil {
		err = kept.Backup(ctx, entry)
	}
	for _, name := range names {
		if err == nil {
			err = p.packLearned(z, name)
		}
	}
	if err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	return nil
}

// packed begins a file in a backup.
func packed(z *zip.Writer, name string) (io.Writer, error) {
	w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Now()})
	if err != nil {
		return nil, fmt.Errorf("cannot write the backup: %w", err)
	}
	return w, nil
}

// packLearned adds what a monitor has learned to a backup, if it has.
func (p *Plane) packLearned(z *zip.Writer, name string) error {
	text, err := os.ReadFile(p.monitorFile(name)) // whole: it is replaced in one step
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot add what the monitor %s has learned to the backup: %w", name, err)
	}
	w, err := packed(z, monitorDir+"/"+name+".json")
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

// Restore puts a backup in the place of what the control plane has in a folder of data that no
// process uses, or that is not there. Everything is unpacked and checked first. The store is
// replaced in one step, and then what monitors have learned: where it is broken off in between,
// those that it concerns begin anew.
func Restore(backup, data string, by store.Author) error {
	fail := func(err error) error {
		return fmt.Errorf("cannot restore %s from %s: %w", data, backup, err)
	}
	archive, err := zip.OpenReader(backup)
	switch {
	case err == nil:
		defer archive.Close()
	case !errors.Is(err, zip.ErrFormat):
		return fail(err)
	}
	if err := os.MkdirAll(data, 0o755); err != nil {
		return fail(err)
	}
	if archive == nil { // of an older version
		return store.Restore(backup, filepath.Join(data, storeFile), by)
	}
	work := filepath.Join(data, restoreDir)
	defer os.RemoveAll(work)
	if err := unpack(&archive.Reader, work); err != nil {
		return fail(err)
	}
	err = store.Restore(filepath.Join(work, storeFile), filepath.Join(data, storeFile), by)
	if err != nil {
		return fail(err)
	}
	learned := filepath.Join(data, monitorDir)
	err = os.Rename(learned, filepath.Join(work, monitorDir+".old"))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(filepath.Join(work, monitorDir), learned)
	}
	if err != nil {
		return fail(fmt.Errorf("what monitors have learned is left out: %w", err))
	}
	return nil
}

// unpack writes the files of a backup into a folder, in the place of what an earlier Restore that
// was broken off has left there.
func unpack(archive *zip.Reader, work string) error {
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(work, monitorDir), 0o755); err != nil {
		return err
	}
	for _, f := range archive.File {
		learned := path.Dir(f.Name) == monitorDir && path.Ext(f.Name) == ".json"
		if f.Name != storeFile && (!learned || !filepath.IsLocal(f.Name)) {
			return fmt.Errorf("%q is in it, which this version does not know; restore it with the "+
				"version that has made it", f.Name)
		}
		if err := unpackFile(f, filepath.Join(work, f.Name)); err != nil {
			return fmt.Errorf("cannot unpack %s: %w", f.Name, err)
		}
	}
	return nil
}

// unpackFile writes a file of a backup; its checksum has to be right.
func unpackFile(f *zip.File, path string) error {
	from, err := f.Open()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Sync(), to.Close())
}
