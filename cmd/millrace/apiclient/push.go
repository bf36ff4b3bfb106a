package apiclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/control/api"
)

// pushTries is how often in a row an upload is tried that gets no further.
const pushTries = 6

// Push is a version to upload. Its counters may be read while it is under way.
type Push struct {
	Model    string
	Manifest api.Manifest
	Bytes    int64        // of all files
	Hashed   atomic.Int64 // bytes whose sum is known
	Sent     atomic.Int64 // bytes that the server has

	local []string // paths of the files here
}

// NewPush finds the files of a version at a path: a file, or a folder with all below it. A file
// in ONNX is called model.onnx at the server. Links are refused: what they lead to may be
// anything.
func NewPush(model, path string) (*Push, error) {
	p := &Push{Model: model}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the version: %w", err)
	}
	if !info.IsDir() {
		name := filepath.Base(path)
		if strings.EqualFold(filepath.Ext(name), ".onnx") {
			name = "model.onnx"
		}
		p.add(path, name, info)
		return p, nil
	}
	err = filepath.WalkDir(path, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is no regular file; put the file itself there", at)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(path, at)
		if err == nil {
			p.add(at, filepath.ToSlash(name), info)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the version: %w", err)
	}
	if len(p.local) == 0 {
		return nil, fmt.Errorf("the folder %s has no files", path)
	}
	return p, nil
}

func (p *Push) add(local, name string, info fs.FileInfo) {
	p.local = append(p.local, local)
	p.Manifest.Files = append(p.Manifest.Files, api.File{Path: name, Size: info.Size()})
	p.Bytes += info.Size()
}

// Push uploads a version and returns its name. What the server has already, of a push that was
// cut off, is not sent again.
func (c *Client) Push(ctx context.Context, p *Push) (string, error) {
	if err := p.hash(ctx); err != nil {
		return "", err
	}
	best := int64(-1)
	for try := 1; ; try++ {
		version, err := c.pushOnce(ctx, p)
		if err == nil || ctx.Err() != nil || !worthRetrying(err) {
			return version, err
		}
		if sent := p.Sent.Load(); sent > best {
			best, try = sent, 1
		}
		if try >= pushTries {
			return "", fmt.Errorf("%w; what has come stays there: push again to go on", err)
		}
		timer := time.NewTimer(firstPause << try)
		select {
		case <-ctx.Done():
			timer.Stop()
			return "", ctx.Err()
		case <-timer.C:
		}
	}
}

// worthRetrying says whether an upload may go on after an error: when the connection broke,
// when the server has a moment of trouble, or another offset than we think.
func worthRetrying(err error) bool {
	var status *StatusError
	if !errors.As(err, &status) {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errChanged)
	}
	return status.Offset != nil || status.Status == http.StatusLocked ||
		status.Status >= http.StatusInternalServerError &&
			status.Status != http.StatusInsufficientStorage
}

// errChanged is returned when a file is another than the one whose sum was taken.
var errChanged = errors.New("apiclient: the file has changed meanwhile; push again")

// hash takes the sums of the files.
func (p *Push) hash(ctx context.Context) error {
	for i := range p.local {
		file, err := os.Open(p.local[i])
		if err != nil {
			return fmt.Errorf("cannot read the version: %w", err)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, counted{contextReader{ctx, file}, &p.Hashed})
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("cannot read the version: %w", err)
		}
		f := &p.Manifest.Files[i]
		if n != f.Size {
			return fmt.Errorf("%s: %w", p.local[i], errChanged)
		}
		f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	}
	return nil
}

// pushOnce goes on with an upload where the server is, up to its end.
func (c *Client) pushOnce(ctx context.Context, p *Push) (string, error) {
	text, err := json.Marshal(p.Manifest)
	if err != nil {
		return "", err
	}
	var u api.Upload
	begin := call{"POST", path("models", p.Model, "push"), nil,
		typed{"application/json", bytes.NewReader(text)}}
	if err := c.ask(ctx, begin, &u); err != nil {
		return "", err
	}
	if len(u.Files) != len(p.local) {
		return "", fmt.Errorf("the server knows %d files of this upload, not %d", len(u.Files),
			len(p.local))
	}
	sent := int64(0)
	for _, f := range u.Files {
		sent += f.Offset
	}
	p.Sent.Store(sent)
	for i, f := range u.Files {
		if f.Offset >= p.Manifest.Files[i].Size {
			continue
		}
		if err := c.pushFile(ctx, p, part{u.ID, i, f.Offset}); err != nil {
			return "", err
		}
	}
	var done api.Pushed
	commit := call{"POST", path("models", p.Model, "push", u.ID, "commit"), nil, typed{}}
	return done.Version, c.ask(ctx, commit, &done)
}

// part is what is left of a file.
type part struct {
	id     string // of the upload
	file   int    // its index
	offset int64
}

// pushFile sends what is left of a file.
func (c *Client) pushFile(ctx context.Context, p *Push, at part) error {
	file, err := os.Open(p.local[at.file])
	if err != nil {
		return fmt.Errorf("cannot read the version: %w", err)
	}
	defer file.Close()
	if _, err := file.Seek(at.offset, io.SeekStart); err != nil {
		return fmt.Errorf("cannot read the version: %w", err)
	}
	f := p.Manifest.Files[at.file]
	to := path(append([]string{"models", p.Model, "push", at.id}, strings.Split(f.Path, "/")...)...)
	rest := counted{io.LimitReader(file, f.Size-at.offset), &p.Sent}
	req, err := c.request(ctx, call{"PUT", to,
		url.Values{"offset": {strconv.FormatInt(at.offset, 10)}},
		typed{"application/octet-stream", rest}})
	if err != nil {
		return err
	}
	req.ContentLength = f.Size - at.offset
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// counted is a reader that counts.
type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// contextReader reads until ctx is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
