package artifact

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// Writer takes the files of one version. It is valid only while the function
// runs that Ingest has given it to.
type Writer struct {
	s       *Store
	ctx     context.Context
	files   Manifest
	names   names
	failed  map[string]error // paths whose last attempt has failed
	held    []string         // digests of blobs that must stay until the version is there
	claimed map[string]bool  // digests of partial files that are this writer's
	dirs    map[string]bool  // folders that got names which have to last
	broken  bool             // the disk did not take what was written
	buffer  []byte
}

// bufferSize is how much is read at once, in bytes.
const bufferSize = 256 << 10

// Ingest makes a version of the files that f gives to the writer, and returns
// its digest. The version is there, on disk, when Ingest returns no error, and
// otherwise not at all. name is for people: it stands in errors.
//
// After an error, files that are complete and files in part whose digest is
// known stay for Config.KeepPartial, so that the next attempt is shorter; after
// one that the disk has caused, they do not. A version that is not pinned soon
// may leave again.
func (s *Store) Ingest(ctx context.Context, name string, f func(*Writer) error) (string, error) {
	if err := s.enter(); err != nil {
		return "", err
	}
	defer s.wait.Done()
	w := &Writer{
		s: s, ctx: ctx,
		failed:  make(map[string]error),
		claimed: make(map[string]bool),
		dirs:    make(map[string]bool),
		buffer:  make([]byte, bufferSize),
	}
	defer w.release()
	err := f(w)
	for _, fault := range w.failed {
		err = cmp.Or(err, fault)
	}
	var digest string
	if err = cmp.Or(err, ctx.Err()); err == nil {
		digest, err = w.commit()
	}
	if err != nil {
		return "", fmt.Errorf("cannot ingest %s: %w", name, err)
	}
	return digest, nil
}

// File takes a file from its first byte on. size is -1 and digest empty where
// they are not known. Of a file that the store already has nothing is read.
func (w *Writer) File(path string, size int64, digest string, r io.Reader) error {
	return w.take(File{path, size, digest}, 0, r)
}

// Rest takes the bytes of a file that follow those that Partial has counted.
func (w *Writer) Rest(path string, size int64, digest string, r io.Reader) error {
	return w.take(File{path, size, digest}, w.Partial(digest), r)
}

// Partial returns how many bytes of the file with that digest were received
// before: Rest goes on there. It is 0 when there are none, or another writer is
// receiving that file.
func (w *Writer) Partial(digest string) int64 {
	if !ValidDigest(digest) || !w.claim(digest) {
		return 0
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.partials[digest].size
}

// Reuse takes a file that the store already has, and says whether it has it.
func (w *Writer) Reuse(path, digest string) (bool, error) {
	if err := w.check(File{path, -1, digest}); err != nil {
		return false, err
	}
	return w.reuse(File{path, -1, digest})
}

// claim makes the partial file of a digest this writer's, unless it is another's.
func (w *Writer) claim(digest string) bool {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.claimed[digest] {
		return true
	}
	p := w.s.partials[digest]
	if p == nil {
		p = &partial{}
		w.s.partials[digest] = p
	}
	if p.claimed {
		return false
	}
	p.claimed = true
	w.claimed[digest] = true
	return true
}

// check says why a file cannot be part of the version.
func (w *Writer) check(f File) error {
	if err := w.names.check(f.Path); err != nil {
		return err
	}
	switch {
	case f.SHA256 != "" && !ValidDigest(f.SHA256):
		return fmt.Errorf("%w: %q has the digest %.80q; want 64 lower-case hexadecimal digits",
			ErrInvalid, f.Path, f.SHA256)
	case f.Size < -1:
		return fmt.Errorf("%w: %q has %d bytes", ErrInvalid, f.Path, f.Size)
	case f.Size > w.s.cfg.MaxFileBytes:
		return fmt.Errorf("%w: %q has %d bytes, %d at most (max_file_bytes)", ErrTooLarge,
			f.Path, f.Size, w.s.cfg.MaxFileBytes)
	case len(w.files) >= w.s.cfg.MaxFiles:
		return fmt.Errorf("%w: more than %d files (max_files)", ErrTooLarge, w.s.cfg.MaxFiles)
	}
	return nil
}

// take receives a file of which offset bytes are there.
func (w *Writer) take(f File, offset int64, r io.Reader) error {
	err := w.check(f)
	if err != nil {
		w.failed[f.Path] = err
		return err
	}
	reused, err := w.reuse(f)
	if err == nil && !reused {
		err = w.receive(f, offset, r)
	}
	if err != nil {
		w.failed[f.Path] = err
		return err
	}
	delete(w.failed, f.Path)
	return nil
}

// reuse takes the file if the store has its content.
func (w *Writer) reuse(f File) (bool, error) {
	w.s.mu.Lock()
	b := w.s.blobs[f.SHA256]
	ok := b != nil && !b.damaged
	if ok {
		b.holds++
		w.held = append(w.held, f.SHA256)
	}
	w.s.mu.Unlock()
	switch {
	case !ok:
		return false, nil
	case f.Size >= 0 && f.Size != b.size:
		return false, fmt.Errorf("%w: %q is to have %d bytes, but its digest is that of %d bytes",
			ErrMismatch, f.Path, f.Size, b.size)
	}
	w.add(File{f.Path, b.size, f.SHA256})
	return true, nil
}

// add makes a file that is a blob, and held, part of the version.
func (w *Writer) add(f File) {
	w.names.add(f.Path)
	w.files = append(w.files, f)
	w.dirs[path.Dir(blobPath(f.SHA256))] = true
}

// incoming is a file being received. Its room in the store is reserved.
type incoming struct {
	file     File
	disk     *os.File
	name     string // below the store's folder
	partial  bool   // it is the partial file of its digest
	reserved int64  // bytes that count as used
	written  int64
	hash     hash.Hash
}

// receive reads a file to disk, verifies it and makes it a blob.
func (w *Writer) receive(f File, offset int64, r io.Reader) error {
	in, err := w.begin(f, offset)
	if err != nil {
		return fmt.Errorf("cannot store %q: %w", f.Path, err)
	}
	keep := false
	if err = w.copy(in, r); err == nil {
		err = in.verify()
	} else {
		keep = in.partial && !w.broken
	}
	if err == nil {
		err = w.settle(in)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot store %q: %w", f.Path, err), w.drop(in, keep))
	}
	w.add(in.file)
	return nil
}

// begin opens the file that is received into, and hashes what it holds already.
func (w *Writer) begin(f File, offset int64) (in *incoming, err error) {
	in = &incoming{file: f, hash: sha256.New(), reserved: offset, written: offset}
	if in.partial = f.SHA256 != "" && w.claim(f.SHA256); in.partial {
		in.name = partialPath(f.SHA256)
		in.disk, err = w.s.root.OpenFile(in.name, os.O_RDWR|os.O_CREATE, fileMode)
	} else {
		in.disk, in.name, err = w.s.createTemp()
	}
	if err != nil {
		return nil, err
	}
	if in.partial {
		err = w.restart(in)
	}
	if err == nil && f.Size > in.written {
		err = w.s.reserve(in, f.Size-in.written)
	}
	if err != nil {
		return nil, errors.Join(err, w.drop(in, in.partial))
	}
	return in, nil
}

// restart cuts the partial file to what is to stay of it, and reads that.
func (w *Writer) restart(in *incoming) error {
	w.s.mu.Lock()
	p := w.s.partials[in.file.SHA256]
	w.s.used -= p.size - in.written
	p.size = in.written
	w.s.mu.Unlock()
	if err := in.disk.Truncate(in.written); err != nil {
		return err
	}
	_, err := io.CopyBuffer(in.hash, in.disk, w.buffer)
	return err
}

// copy reads until the end of the file, or one byte further than is promised.
func (w *Writer) copy(in *incoming, r io.Reader) error {
	limit := w.s.cfg.MaxFileBytes
	if in.file.Size >= 0 {
		limit = in.file.Size
	}
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(w.buffer)
		if in.written+int64(n) > limit {
			return in.tooLong(limit)
		}
		if n > 0 {
			if err := w.write(in, w.buffer[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && in.written < in.file.Size:
			return fmt.Errorf("%w: it ends after %d of %d bytes: %w", ErrMismatch, in.written,
				in.file.Size, io.ErrUnexpectedEOF)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

func (in *incoming) tooLong(limit int64) error {
	if in.file.Size >= 0 {
		return fmt.Errorf("%w: it has more than the %d bytes that were promised", ErrMismatch,
			limit)
	}
	return fmt.Errorf("%w: it has more than %d bytes (max_file_bytes)", ErrTooLarge, limit)
}

func (w *Writer) write(in *incoming, data []byte) error {
	if more := in.written + int64(len(data)) - in.reserved; more > 0 {
		if err := w.s.reserve(in, more); err != nil {
			return err
		}
	}
	if _, err := in.disk.Write(data); err != nil {
		w.broken = true
		return err
	}
	in.hash.Write(data)
	in.written += int64(len(data))
	return nil
}

// verify holds what was received against the promised digest.
func (in *incoming) verify() error {
	got := hex.EncodeToString(in.hash.Sum(nil))
	if in.file.SHA256 != "" && in.file.SHA256 != got {
		return fmt.Errorf("%w: its %d bytes have the digest %s, not %s", ErrMismatch, in.written,
			got, in.file.SHA256)
	}
	in.file.SHA256, in.file.Size = got, in.written
	return nil
}

// settle makes what was received a blob that is held.
func (w *Writer) settle(in *incoming) error {
	err := in.disk.Chmod(blobMode)
	if err == nil {
		err = errors.Join(in.disk.Sync(), in.disk.Close())
	}
	target := blobPath(in.file.SHA256)
	if err == nil {
		err = w.s.root.MkdirAll(path.Dir(target), dirMode)
	}
	if err != nil {
		w.broken = true
		return err
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	b := w.s.blobs[in.file.SHA256]
	if b == nil || b.damaged {
		err = w.s.root.Rename(in.name, target)
	} else {
		// A blob that is there stays: making a link fails while its source is replaced.
		err = w.s.root.Remove(in.name)
	}
	if err != nil {
		w.broken = true
		return err
	}
	if b == nil {
		b = &blob{}
		w.s.blobs[in.file.SHA256] = b
	}
	w.s.used += in.written - in.reserved - b.size // b.size: of the file it has replaced
	b.size, b.changed, b.damaged = in.written, time.Now(), false
	b.holds++
	w.held = append(w.held, in.file.SHA256)
	if in.partial {
		delete(w.s.partials, in.file.SHA256)
		delete(w.claimed, in.file.SHA256)
	}
	return nil
}

// drop ends the reception of a file that failed. keep leaves what was received
// to the next attempt.
func (w *Writer) drop(in *incoming, keep bool) error {
	keep = keep && in.written > 0
	in.disk.Close() // what stays is verified when all of it is there
	var err error
	if !keep {
		err = w.s.root.Remove(in.name)
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	stays := int64(0)
	if keep {
		stays = in.written
	}
	w.s.used -= in.reserved - stays
	if in.partial {
		p := w.s.partials[in.file.SHA256]
		p.size, p.changed = stays, time.Now()
	}
	return err
}

// commit writes the manifest of the files, all of which are blobs.
func (w *Writer) commit() (string, error) {
	if len(w.files) == 0 {
		return "", fmt.Errorf("%w: it has no files", ErrInvalid)
	}
	slices.SortFunc(w.files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	w.dirs[blobsDir] = true
	for dir := range w.dirs {
		if err := w.s.syncDir(dir); err != nil {
			w.broken = true
			return "", err
		}
	}
	text := w.files.Encode()
	digest := sum(text)
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.versions[digest] == nil {
		if err := w.s.replace(manifestPath(digest), text); err != nil {
			w.broken = true
			return "", err
		}
		w.s.addVersion(digest, w.files, time.Time{})
	}
	w.s.touch(digest) // the disk by itself tells times that are milliseconds apart only
	return digest, nil
}

// release gives up what the writer holds.
func (w *Writer) release() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	for _, digest := range w.held {
		b := w.s.blobs[digest]
		if b.holds--; w.broken && b.refs == 0 && b.holds == 0 {
			w.s.removeBlob(digest)
		}
	}
	for digest := range w.claimed {
		p := w.s.partials[digest]
		if p.claimed = false; p.size == 0 {
			delete(w.s.partials, digest)
		}
	}
}
