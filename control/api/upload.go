package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/registry/artifact"
)

// maxFiles bounds the files of an upload.
const maxFiles = 4096

// uploads keeps what is uploaded until it is whole. Each upload is a folder: its manifest, and
// its files by their numbers, so that no path of a client becomes one here.
type uploads struct {
	cfg Config

	mu   sync.Mutex
	open map[string]*upload // guarded by mu, and so is when they were touched
}

// upload is one of them. Its id is that of its content: who begins the same one again goes on.
type upload struct {
	id      string
	folder  string
	told    told
	bytes   int64 // of all files in the end
	touched time.Time

	mu   sync.Mutex // held by the one request that reads or writes files
	gone bool       // guarded by mu
}

// told is what a client has said of an upload.
type told struct {
	Model string `json:"model"`
	Manifest
}

// manifestFile is the file in an upload's folder that says what it is.
const manifestFile = "manifest.json"

// openUploads finds the uploads that an earlier process has left. Without any there is no
// folder yet.
func openUploads(cfg Config) (*uploads, error) {
	entries, err := os.ReadDir(cfg.UploadDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the folder of uploads: %w", err)
	}
	us := &uploads{cfg: cfg, open: make(map[string]*upload)}
	for _, e := range entries {
		folder := filepath.Join(cfg.UploadDir, e.Name())
		u, err := readUpload(folder)
		if err != nil { // it was cut off at its beginning or its end
			if err := os.RemoveAll(folder); err != nil {
				return nil, fmt.Errorf("cannot remove the rest of an upload: %w", err)
			}
			continue
		}
		us.open[u.id] = u
	}
	return us, nil
}

func readUpload(folder string) (*upload, error) {
	text, err := os.ReadFile(filepath.Join(folder, manifestFile))
	if err != nil {
		return nil, err
	}
	u := &upload{id: filepath.Base(folder), folder: folder, touched: time.Now()}
	if err := json.Unmarshal(text, &u.told); err != nil {
		return nil, err
	}
	for i, f := range u.told.Files {
		u.bytes += f.Size
		if _, err := os.Stat(u.file(i)); err != nil {
			return nil, err
		}
	}
	if id, err := u.told.id(); err != nil || id != u.id {
		return nil, errors.New("api: an upload in a folder of another")
	}
	return u, nil
}

func (t *told) id() (string, error) {
	text, err := json.Marshal(t)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), err
}

func (u *upload) file(i int) string { return filepath.Join(u.folder, strconv.Itoa(i)) }

// check says what is wrong with a manifest.
func (t *told) check(limit int64) error {
	if len(t.Files) == 0 || len(t.Files) > maxFiles {
		return bad("the upload has %d files, must have 1 to %d", len(t.Files), maxFiles)
	}
	var sum int64
	files, folders := make(map[string]bool), make(map[string]bool)
	for _, f := range t.Files {
		if err := artifact.CheckPath(f.Path); err != nil {
			return bad("%v", err)
		}
		if files[f.Path] {
			return bad("file %q is there twice", f.Path)
		}
		files[f.Path] = true
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			folders[dir] = true
		}
		if !artifact.ValidDigest(f.SHA256) {
			return bad("file %q has the sha256 %q, must be 64 lower-case hexadecimal digits",
				f.Path, f.SHA256)
		}
		if f.Size < 0 {
			return bad("file %q has %d bytes", f.Path, f.Size)
		}
		if sum += min(f.Size, limit+1); sum > limit {
			return &failure{status: http.StatusRequestEntityTooLarge,
				text: fmt.Sprintf("the upload is larger than %d bytes", limit)}
		}
	}
	for f := range files {
		if folders[f] {
			return bad("%q is a file and a folder", f)
		}
	}
	return nil
}

// begin makes room for an upload, or returns the one that is there.
func (us *uploads) begin(t told) (*upload, error) {
	if err := t.check(us.cfg.UploadBytes); err != nil {
		return nil, err
	}
	id, err := t.id()
	if err != nil {
		return nil, err
	}
	us.mu.Lock()
	defer us.mu.Unlock()
	us.expire(time.Now())
	if u := us.open[id]; u != nil {
		u.touched = time.Now()
		return u, nil
	}
	u := &upload{id: id, folder: filepath.Join(us.cfg.UploadDir, id), told: t, touched: time.Now()}
	for _, f := range t.Files {
		u.bytes += f.Size
	}
	bytes := u.bytes
	for _, other := range us.open {
		bytes += other.bytes
	}
	if len(us.open) >= us.cfg.MaxUploads || bytes > us.cfg.UploadBytes {
		return nil, &failure{status: http.StatusTooManyRequests, text: fmt.Sprintf(
			"%d uploads are under way and more may not be (%d of them, %d bytes); "+
				"those without a byte in %v are given up", len(us.open), us.cfg.MaxUploads,
			us.cfg.UploadBytes, us.cfg.UploadAge)}
	}
	if err := u.create(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot begin the upload: %w", err),
			os.RemoveAll(u.folder))
	}
	us.open[id] = u
	return u, nil
}

// create writes the manifest last: without it the folder is none of an upload.
func (u *upload) create() error {
	if err := os.MkdirAll(u.folder, 0o700); err != nil {
		return err
	}
	for i := range u.told.Files {
		if err := os.WriteFile(u.file(i), nil, 0o600); err != nil {
			return err
		}
	}
	text, err := json.Marshal(u.told)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(u.folder, manifestFile), text, 0o600)
}

// expire gives up what nobody goes on with. Callers hold mu.
func (us *uploads) expire(now time.Time) {
	for id, u := range us.open {
		if now.Sub(u.touched) < us.cfg.UploadAge || !u.mu.TryLock() {
			continue
		}
		u.gone = true
		delete(us.open, id)
		_ = os.RemoveAll(u.folder) // what stays is removed at the next start
		u.mu.Unlock()
	}
}

// errBusy is returned while another request has the upload.
var errBusy = &failure{status: http.StatusLocked,
	text: "another request writes this upload; try again in a moment"}

// acquire returns an upload to the one request that may use it until release.
func (us *uploads) acquire(model, id string) (u *upload, release func(), err error) {
	us.mu.Lock()
	u = us.open[id]
	if u != nil {
		u.touched = time.Now()
	}
	us.mu.Unlock()
	if u != nil && !u.mu.TryLock() {
		return nil, nil, errBusy
	}
	if u == nil || u.gone || u.told.Model != model {
		if u != nil {
			u.mu.Unlock()
		}
		return nil, nil, &failure{status: http.StatusNotFound,
			text: fmt.Sprintf("model %q has no upload %q; begin it again", model, id)}
	}
	return u, u.mu.Unlock, nil
}

// remove ends an upload that has become a version. Callers have acquired it.
func (us *uploads) remove(u *upload) {
	u.gone = true
	us.mu.Lock()
	defer us.mu.Unlock() // until the folder is gone: the next with this id makes it anew
	delete(us.open, u.id)
	_ = os.RemoveAll(u.folder) // what stays is removed at the next start
}

// received says how much of each file is there.
func (u *upload) received() (Upload, error) {
	all := Upload{ID: u.id}
	for i, f := range u.told.Files {
		info, err := os.Stat(u.file(i))
		if err != nil {
			return all, fmt.Errorf("cannot read the upload: %w", err)
		}
		all.Files = append(all.Files, Received{f.Path, info.Size()})
	}
	return all, nil
}

// write takes the bytes of a file from an offset on. What came before an error stays.
func (u *upload) write(name string, offset int64, body func(rest int64) io.Reader) (int64, error) {
	for i, f := range u.told.Files {
		if f.Path != name {
			continue
		}
		file, err := os.OpenFile(u.file(i), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return 0, fmt.Errorf("cannot open the upload: %w", err)
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return 0, fmt.Errorf("cannot open the upload: %w", err)
		}
		if at := info.Size(); offset != at {
			return at, &failure{status: http.StatusConflict, offset: &at,
				text: fmt.Sprintf("file %q goes on at %d, not at %d", name, at, offset)}
		}
		n, err := io.Copy(file, body(f.Size-offset))
		if err := errors.Join(err, file.Close()); err != nil {
			return offset + n, fmt.Errorf("cannot receive %q: %w", name, err)
		}
		return offset + n, nil
	}
	return 0, &failure{status: http.StatusNotFound,
		text: fmt.Sprintf("the upload has no file %q", name)}
}

// verify holds the files against their sizes and sums. One that is wrong begins anew.
func (u *upload) verify() error {
	for i, f := range u.told.Files {
		file, err := os.Open(u.file(i))
		if err != nil {
			return fmt.Errorf("cannot read the upload: %w", err)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, file)
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("cannot read the upload: %w", err)
		}
		switch {
		case n < f.Size:
			return &failure{status: http.StatusConflict, offset: &n,
				text: fmt.Sprintf("of file %q %d of %d bytes have come", f.Path, n, f.Size)}
		case n != f.Size || hex.EncodeToString(sum.Sum(nil)) != f.SHA256:
			if err := os.Truncate(u.file(i), 0); err != nil {
				return fmt.Errorf("cannot begin the upload anew: %w", err)
			}
			return &failure{status: http.StatusUnprocessableEntity, offset: new(int64),
				text: fmt.Sprintf("the bytes of file %q are not those of its sha256 %s; "+
					"send it again", f.Path, f.SHA256)}
		}
	}
	return nil
}

// files are what the control plane gets.
func (u *upload) files() []control.PushFile {
	files := make([]control.PushFile, len(u.told.Files))
	for i, f := range u.told.Files {
		files[i] = control.PushFile{Path: f.Path, Size: f.Size, SHA256: f.SHA256,
			Open: func() (io.ReadCloser, error) { return os.Open(u.file(i)) }}
	}
	return files
}
