package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/millrace-ml/millrace/registry/artifact"
)

// BlobConfig says which bucket is meant. Credentials are those that the SDKs of the
// storages find, for instance in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
type BlobConfig struct {
	// The bucket with its options: "s3://bucket?region=eu-west-1", for other servers of
	// S3 "s3://bucket?region=x&endpoint=https://host:9000&use_path_style=true",
	// "gs://bucket", "azblob://container?storage_account=name".
	URL    string `yaml:"url"`
	Prefix string `yaml:"prefix"` // MODEL/VERSION/files lie below it
}

// DefaultBlobConfig has all but the URL.
func DefaultBlobConfig() BlobConfig { return BlobConfig{} }

// Validate lists all faults.
func (c BlobConfig) Validate() error {
	var faults []error
	switch p, err := parsePlace(c.URL); {
	case err != nil:
		faults = append(faults, fmt.Errorf("url: %w", err))
	case p.scheme == "file":
		faults = append(faults, errors.New("url: a folder is a source of its own kind"))
	case p.path != "":
		faults = append(faults, errors.New("url: put the path into prefix"))
	}
	if prefix := strings.Trim(c.Prefix, "/"); prefix != "" {
		if err := artifact.CheckPath(prefix); err != nil {
			faults = append(faults, fmt.Errorf("prefix: %w", err))
		}
	}
	return errors.Join(faults...)
}

// Blob is a bucket of S3, Google Cloud Storage or Azure, or of a server that speaks
// S3's protocol. A version is pending until two looks have seen the same files.
type Blob struct{ shelf }

// NewBlob returns a source. It asks for no files yet, but the storage's SDK may look for
// credentials.
func NewBlob(ctx context.Context, cfg BlobConfig, store *artifact.Store) (*Blob, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the bucket: %w", err)
	}
	p, err := parsePlace(cfg.URL)
	if err != nil {
		return nil, err
	}
	p.path = strings.Trim(cfg.Prefix, "/")
	t, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	return &Blob{newShelf(t, store)}, nil
}

// bucket is a tree in an object storage.
type bucket struct{ blob *blob.Bucket }

func (b *bucket) Close() error { return b.blob.Close() }

func (b *bucket) list(ctx context.Context, dir string) ([]object, error) {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	var objects []object
	for all := b.blob.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := all.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, fmt.Errorf("cannot list %s: %w", dir, classify(err))
		case strings.HasSuffix(o.Key, "/"):
			continue // stands for a folder
		case len(objects) == maxObjects:
			return nil, fmt.Errorf("%w: %s has more than %d files", artifact.ErrTooLarge, dir,
				maxObjects)
		}
		objects = append(objects, object{path: strings.TrimPrefix(o.Key, prefix), size: o.Size,
			modified: o.ModTime})
	}
}

func (b *bucket) open(ctx context.Context, dir string, o object) (io.ReadCloser, error) {
	return &download{ctx: ctx, bucket: b.blob, key: strings.TrimPrefix(dir+"/"+o.path, "./"),
		size: o.size, left: maxReopens}, nil
}

// Bounds of one download: how often it goes on after it broke off, the first pause
// before that, which doubles, and how long nothing may come.
const (
	maxReopens  = 5
	reopenPause = 200 * time.Millisecond
	idleTime    = 60 * time.Second
)

// errIdle is the cause of an end when nothing came for too long.
var errIdle = fmt.Errorf("nothing came for %v", idleTime)

// download reads an object, and goes on where the connection broke off.
type download struct {
	ctx    context.Context
	bucket *blob.Bucket
	key    string
	size   int64
	at     int64        // of the next byte
	left   int          // how often it may go on
	first  time.Time    // when the object had changed last at the first opening
	body   *blob.Reader // nil where it is to be opened
	cancel context.CancelCauseFunc
}

// Read reads on, if need be after a pause.
func (d *download) Read(p []byte) (int, error) {
	for {
		n, err := d.read(p)
		d.at += int64(n)
		switch {
		case n > 0 || err == nil:
			return n, nil // an error will come again
		case errors.Is(err, io.EOF) && d.at >= d.size:
			return 0, io.EOF
		case errors.Is(err, ErrChanged) || d.left == 0 || d.ctx.Err() != nil:
			return 0, fmt.Errorf("it broke off after %d of %d bytes: %w", d.at, d.size, err)
		}
		_ = d.Close() // it is broken
		select {
		case <-time.After(reopenPause << (maxReopens - d.left)):
		case <-d.ctx.Done():
		}
		d.left--
	}
}

// read reads from the body, which it opens where there is none.
func (d *download) read(p []byte) (n int, err error) {
	if d.body == nil {
		err = d.open()
	}
	if err == nil {
		idle := time.AfterFunc(idleTime, func() { d.cancel(errIdle) })
		n, err = d.body.Read(p)
		idle.Stop()
	}
	return n, err
}

// open opens the object where the last body has ended.
func (d *download) open() error {
	ctx, cancel := context.WithCancelCause(d.ctx)
	idle := time.AfterFunc(idleTime, func() { cancel(errIdle) })
	body, err := d.bucket.NewRangeReader(ctx, d.key, d.at, -1, nil)
	idle.Stop()
	if err != nil {
		cancel(nil)
		if gcerrors.Code(err) == gcerrors.NotFound {
			return fmt.Errorf("%w: %w", ErrChanged, err)
		}
		return err
	}
	if d.first.IsZero() {
		d.first = body.ModTime()
	}
	if body.Size() != d.size || !body.ModTime().Equal(d.first) {
		cancel(nil)
		return errors.Join(ErrChanged, body.Close())
	}
	d.body, d.cancel = body, cancel
	return nil
}

// Close ends the download.
func (d *download) Close() error {
	if d.body == nil {
		return nil
	}
	err := d.body.Close()
	d.cancel(nil)
	d.body = nil
	return err
}
