package source

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // the scheme azblob
	_ "gocloud.dev/blob/gcsblob"   // the scheme gs
	_ "gocloud.dev/blob/s3blob"    // the scheme s3

	"github.com/millrace-ml/millrace/registry/mlflow"
)

// place is a folder of this machine or in an object storage.
type place struct {
	scheme string
	bucket string     // or container; empty for folders
	path   string     // without slashes at its ends, but for folders absolute
	query  url.Values // options of the storage
}

// parsePlace reads the URL of a place.
func parsePlace(text string) (place, error) {
	u, err := url.Parse(text)
	if err != nil {
		return place{}, errors.New("it is not a URL")
	}
	p := place{u.Scheme, u.Host, strings.Trim(path.Clean("/"+u.Path), "/"), u.Query()}
	switch {
	case u.User != nil:
		return place{}, fmt.Errorf("%s: credentials belong into the environment of the storage's "+
			"SDK", u.Redacted())
	case p.scheme == "file" && (p.bucket != "" || u.Path == "" || len(p.query) > 0):
		return place{}, fmt.Errorf("%q has to be like file:///folder", u.Redacted())
	case p.scheme == "file":
		p.path = "/" + p.path
	case !slices.Contains([]string{"s3", "gs", "azblob"}, p.scheme):
		return place{}, fmt.Errorf("the scheme is %.20q; s3, gs, azblob and file are allowed",
			p.scheme)
	case p.bucket == "":
		return place{}, fmt.Errorf("%q has to begin with %s://BUCKET", u.Redacted(), p.scheme)
	}
	return p, nil
}

// open opens the place as a tree.
func (p place) open(ctx context.Context) (tree, error) {
	if p.scheme == "file" {
		return openDisk(p.path)
	}
	u := url.URL{Scheme: p.scheme, Host: p.bucket, RawQuery: p.query.Encode()}
	opened, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, fmt.Errorf("cannot open %s://%s: %w", p.scheme, p.bucket, err)
	}
	if p.path != "" {
		opened = blob.PrefixedBucket(opened, p.path+"/")
	}
	return &bucket{opened}, nil
}

// below returns where another place lies below this one, "." for this one itself.
func (p place) below(other place) (string, bool) {
	account := p.query.Get("storage_account")
	if p.scheme != other.scheme || p.bucket != other.bucket ||
		account != other.query.Get("storage_account") {
		return "", false
	}
	at, within := strings.Trim(p.path, "/"), strings.Trim(other.path, "/")
	if at == "" || at == within {
		return path.Clean("./" + strings.TrimPrefix(within, at)), true
	}
	if dir, ok := strings.CutPrefix(within, at+"/"); ok {
		return dir, true
	}
	return "", false
}

// azureHosts are those of Azure's storage accounts. No other host is believed, since it
// would be sent our credentials.
var azureHosts = []string{".blob.core.windows.net", ".dfs.core.windows.net"}

// parseArtifacts reads where MLflow says that files lie. Options that it may give are
// left out: an endpoint would be sent our credentials.
func parseArtifacts(root string) (place, error) {
	unknown := fmt.Errorf("%w: the artifacts lie at %q", ErrRefused, root)
	scheme, rest, ok := strings.Cut(root, "://")
	if !ok && strings.HasPrefix(root, "/") {
		scheme, rest = "file", root
	}
	if strings.ContainsAny(rest, "?#%\\") && scheme != "file" || slices.Contains(
		strings.Split(rest, "/"), "..") {
		return place{}, unknown
	}
	host, below, _ := strings.Cut(rest, "/")
	p := place{scheme: scheme, bucket: host, path: strings.Trim(path.Clean("/"+below), "/")}
	switch scheme {
	case "s3", "gs":
		return p, nil
	case "file":
		decoded, err := url.PathUnescape(below)
		if err != nil || host != "" || slices.Contains(strings.Split(decoded, "/"), "..") {
			return place{}, unknown
		}
		p.path = path.Clean("/" + decoded)
		return p, nil
	case "wasb", "wasbs", "abfs", "abfss":
		container, host, _ := strings.Cut(host, "@")
		for _, suffix := range azureHosts {
			account, ok := strings.CutSuffix(host, suffix)
			if ok && account != "" && !strings.Contains(account, ".") {
				p.scheme, p.bucket = "azblob", container
				p.query = url.Values{"storage_account": {account}}
				return p, nil
			}
		}
	}
	return place{}, unknown
}

// pullDirect fetches files that the MLflow server does not hand out, if they lie in one
// of the places that the config allows. cause is MLflow's error.
func (m *MLflow) pullDirect(
	ctx context.Context, to into, root string, cause error,
) (string, error) {
	at, err := parseArtifacts(root)
	if err != nil {
		return "", errors.Join(err, cause)
	}
	for _, p := range m.places {
		if dir, ok := p.below(at); ok {
			t, err := p.open(ctx)
			if err != nil {
				return "", err
			}
			digest, err := pullMLflow(ctx, to, t, dir)
			return digest, errors.Join(err, t.Close())
		}
	}
	return "", fmt.Errorf("%w: name the place in artifacts to allow it: %w", ErrRefused, cause)
}

func pullMLflow(ctx context.Context, to into, t tree, dir string) (string, error) {
	listed, err := t.list(ctx, dir)
	if err != nil {
		return "", err
	}
	for _, o := range listed {
		if o.path == manifest {
			body, err := t.open(ctx, dir, o)
			if err != nil {
				return "", err
			}
			if err := checkFlavor(body); err != nil && !(to.raw && errors.Is(err, ErrNotONNX)) {
				return "", err
			}
			return pullTree(ctx, to, t, dir)
		}
	}
	return "", fmt.Errorf("%w: there is no %s: %w", ErrGone, manifest, mlflow.ErrNotFound)
}
