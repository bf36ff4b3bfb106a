package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// HTTPSConfig says which file is meant.
type HTTPSConfig struct {
	URL    string `yaml:"url"`    // of a model in ONNX
	SHA256 string `yaml:"sha256"` // of the file
	File   string `yaml:"file"`   // its name in the version, if not that in the URL
	Access `yaml:",inline"`
}

// DefaultHTTPSConfig has all but the URL and the digest.
func DefaultHTTPSConfig() HTTPSConfig { return HTTPSConfig{Access: DefaultAccess()} }

// Validate lists all faults.
func (c HTTPSConfig) Validate() error {
	faults := []error{c.config(c.URL).Validate()}
	if !artifact.ValidDigest(c.SHA256) {
		faults = append(faults, errors.New("sha256: has to be the file's SHA-256 sum, "+
			"64 hexadecimal digits in lower case"))
	}
	if name := c.name(); artifact.CheckPath(name) != nil || path.Ext(name) != ".onnx" {
		faults = append(faults,
			fmt.Errorf("file: %.80q; has to be a file's name that ends in .onnx", name))
	}
	return errors.Join(faults...)
}

// name is the file's name in the version.
func (c HTTPSConfig) name() string {
	if c.File != "" {
		return c.File
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return ""
	}
	return path.Base(u.Path)
}

// HTTPS is one file of one version, whose name is the first 12 digits of the file's
// SHA-256 sum. It is there for any model that is asked for.
type HTTPS struct {
	cfg    HTTPSConfig
	client *fetch.Client
	store  *artifact.Store
}

// NewHTTPS returns a source that asks nobody yet.
func NewHTTPS(cfg HTTPSConfig, store *artifact.Store) (*HTTPS, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the file: %w", err)
	}
	client, err := fetch.New(cfg.config(cfg.URL))
	if err != nil {
		return nil, err
	}
	return &HTTPS{cfg, client, store}, nil
}

// Close closes the connections.
func (h *HTTPS) Close() error {
	h.client.Close()
	return nil
}

func (h *HTTPS) version() string { return h.cfg.SHA256[:shortDigest] }

// shortDigest is how many digits of a digest or commit name a version.
const shortDigest = 12

// Look says that there is the one version, unless the server says that it has no such
// file. It is as old as the server says.
func (h *HTTPS) Look(ctx context.Context, models []string) (map[string]Result, error) {
	v := Version{Name: h.version()}
	resp, err := h.client.Do(ctx, fetch.Request{Method: http.MethodHead, URL: h.cfg.URL})
	switch e, ok := errors.AsType[*fetch.Error](err); {
	case err == nil:
		v.Created, _ = time.Parse(http.TimeFormat, resp.Header.Get("Last-Modified"))
	case ok && (e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusForbidden):
		err = nil // a URL that is signed for GET
	}
	results := make(map[string]Result, len(models))
	for _, model := range models {
		if err != nil {
			results[model] = Result{Err: fmt.Errorf("cannot look at %s: %w", model, classify(err))}
		} else {
			results[model] = Result{Listing: list([]Version{v}, nil)}
		}
	}
	return results, nil
}

// Pull fetches the file. It goes on where an earlier attempt has broken off, if the
// server can do that.
func (h *HTTPS) Pull(ctx context.Context, model, version string) (digest string, err error) {
	defer cannotPull(&err, model, version)
	if version != h.version() {
		return "", fmt.Errorf("%w: the only version is %s", ErrGone, h.version())
	}
	f := file{path: h.cfg.name(), size: -1, digest: h.cfg.SHA256}
	return ingest(ctx, into{store: h.store}, []file{f}, h.open)
}

func (h *HTTPS) open(ctx context.Context, _ file, offset int64) (io.ReadCloser, error) {
	resp, err := h.client.Do(ctx, fetch.Request{URL: h.cfg.URL, Offset: offset})
	if err != nil {
		return nil, classify(err)
	}
	// A server that knows no ranges sends all.
	if _, err := io.CopyN(io.Discard, resp.Body, offset-resp.Offset); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp.Body, nil
}
