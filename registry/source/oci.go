package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// OCIConfig says which registry of images is meant.
type OCIConfig struct {
	// Host and folder of repositories, "ghcr.io/team/models": a model's repository has
	// the model's name there.
	Reference string `yaml:"reference"`
	PlainHTTP bool   `yaml:"plain_http"` // instead of HTTPS
	Access    `yaml:",inline"`
	Versions  int `yaml:"versions"` // of a model that are told, the newest
}

// DefaultOCIConfig has all but the reference.
func DefaultOCIConfig() OCIConfig { return OCIConfig{Access: DefaultAccess(), Versions: 20} }

// Validate lists all faults.
func (c OCIConfig) Validate() error {
	var faults []error
	ref, err := registry.ParseReference(c.Reference)
	if err != nil || ref.Reference != "" {
		faults = append(faults, fmt.Errorf("reference: %.80q has to be like ghcr.io/team/models, "+
			"without a tag", c.Reference))
	} else {
		faults = append(faults, c.config(c.scheme()+"://"+ref.Host()).Validate())
	}
	if c.Versions < 1 || c.Versions > 1000 {
		faults = append(faults, fmt.Errorf("versions: %d; 1 to 1000 are allowed", c.Versions))
	}
	return errors.Join(faults...)
}

func (c OCIConfig) scheme() string {
	if c.PlainHTTP {
		return "http"
	}
	return "https"
}

// OCI is a registry of images that has models as artifacts, as oras pushes them: a layer
// is a file, and its title the file's name. A version is a tag. The tag latest is an
// alias; where no other tag is the same, that version has the first 12 digits of its
// digest for a name.
type OCI struct {
	cfg    OCIConfig
	store  *artifact.Store
	caller *fetch.Client
	client *auth.Client

	mu      sync.Mutex
	created map[string]time.Time // of manifests by digest. Guarded by mu.
}

// Bounds of what a registry says.
const (
	maxManifestBytes = 4 << 20 // as most registries have it
	maxTagPages      = 100
	maxCreated       = 100_000 // manifests whose time is kept
)

// latest is the tag that is an alias.
const latest = "latest"

// unpack is the annotation of a layer that oras has made of a folder.
const unpack = "io.deis.oras.content.unpack"

// NewOCI returns a source that asks nobody yet.
func NewOCI(cfg OCIConfig, store *artifact.Store) (*OCI, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the registry: %w", err)
	}
	ref, err := registry.ParseReference(cfg.Reference)
	if err != nil {
		return nil, err
	}
	// The credentials may have to go to another server, which gives a token for them.
	anonymous := Access{Allow: cfg.Allow, CAFile: cfg.CAFile, Timeout: cfg.Timeout}
	caller, err := fetch.New(anonymous.config(cfg.scheme() + "://" + ref.Host()))
	if err != nil {
		return nil, err
	}
	o := &OCI{cfg: cfg, store: store, caller: caller, created: make(map[string]time.Time)}
	o.client = &auth.Client{
		Client: &http.Client{Transport: roundTripper{caller.Doer()}},
		Cache:  auth.NewCache(),
		Credential: func(_ context.Context, host string) (auth.Credential, error) {
			if host != ref.Host() {
				return auth.EmptyCredential, nil
			}
			return o.credential()
		},
		BlockedRealmPrefixes: []netip.Prefix{}, // the caller checks what it dials
	}
	return o, nil
}

// roundTripper lets an http.Client ask through a fetch.Client.
type roundTripper struct{ doer fetch.Doer }

// RoundTrip carries out a request.
func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	return r.doer.Do(req)
}

func (o *OCI) credential() (auth.Credential, error) {
	password, err := secret(o.cfg.PasswordFile, o.cfg.PasswordEnv)
	if err != nil {
		return auth.EmptyCredential, err
	}
	token, err := secret(o.cfg.TokenFile, o.cfg.TokenEnv)
	return auth.Credential{Username: o.cfg.Username, Password: password, AccessToken: token}, err
}

// Close closes the connections.
func (o *OCI) Close() error {
	o.caller.Close()
	return nil
}

func (o *OCI) repository(model string) (*remote.Repository, error) {
	r, err := remote.NewRepository(o.cfg.Reference + "/" + model)
	if err != nil || r.Reference.Reference != "" {
		return nil, fmt.Errorf("%w: %.80q cannot be the name of a repository", ErrRefused, model)
	}
	r.Client, r.PlainHTTP, r.TagListMaxPages = o.client, o.cfg.PlainHTTP, maxTagPages
	return r, nil
}

// Look says which tags the models have.
func (o *OCI) Look(ctx context.Context, models []string) (map[string]Result, error) {
	results := make(map[string]Result, len(models))
	for _, model := range models {
		var r Result
		if r.Listing, r.Err = o.look(ctx, model); r.Err != nil {
			r.Err = fmt.Errorf("cannot look at %s: %w", model, classify(r.Err))
		}
		results[model] = r
	}
	return results, ctx.Err()
}

func (o *OCI) look(ctx context.Context, model string) (Listing, error) {
	repository, err := o.repository(model)
	if err != nil {
		return Listing{}, err
	}
	var tags []string
	err = repository.Tags(ctx, "", func(page []string) error {
		tags = append(tags, page...)
		return nil
	})
	if err != nil {
		return Listing{}, err
	}
	tags = slices.DeleteFunc(tags, func(tag string) bool {
		return strings.HasPrefix(tag, "sha256-") // signatures and the like of another version
	})
	slices.SortFunc(tags, func(a, b string) int { return natural(b, a) })
	var versions []Version
	digests := make(map[string]string) // the first tag of each
	aliased := ""
	for _, tag := range tags {
		if len(versions) >= o.cfg.Versions && tag != latest {
			continue
		}
		v, err := o.version(ctx, repository, tag)
		if err != nil {
			return Listing{}, fmt.Errorf("cannot resolve the tag %s: %w", tag, err)
		}
		digest := v.Tags["digest"]
		if tag == latest {
			aliased = digest
			continue
		}
		versions = append(versions, v)
		if digests[digest] == "" {
			digests[digest] = tag
		}
	}
	aliases := make(map[string]string)
	if aliased != "" && digests[aliased] == "" {
		v, err := o.version(ctx, repository, aliased)
		if err != nil {
			return Listing{}, err
		}
		v.Name = shortName(aliased)
		versions, digests[aliased] = append(versions, v), v.Name
	}
	if aliased != "" {
		aliases[latest] = digests[aliased]
	}
	if len(versions) == 0 {
		return Listing{}, ErrGone
	}
	order(versions)
	return list(versions, aliases), nil
}

// shortName is the name of a version without a tag.
func shortName(digest string) string {
	_, digits, _ := strings.Cut(digest, ":")
	return digits[:min(shortDigest, len(digits))]
}

// version looks a tag or digest up.
func (o *OCI) version(
	ctx context.Context, r *remote.Repository, reference string,
) (Version, error) {
	desc, err := r.Resolve(ctx, reference)
	if err != nil {
		return Version{}, err
	}
	digest := desc.Digest.String()
	v := Version{Name: reference, Tags: map[string]string{"digest": digest}}
	o.mu.Lock()
	created, known := o.created[digest]
	o.mu.Unlock()
	if v.Created = created; known {
		return v, nil
	}
	text, err := fetchManifest(ctx, r, desc)
	if err != nil {
		return Version{}, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return Version{}, fmt.Errorf("the manifest is not JSON: %w", err)
	}
	v.Created, _ = time.Parse(time.RFC3339, m.Annotations[ocispec.AnnotationCreated])
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.created) >= maxCreated {
		clear(o.created)
	}
	o.created[digest] = v.Created
	return v, nil
}

// fetchManifest reads a manifest and holds it against its digest.
func fetchManifest(
	ctx context.Context, r *remote.Repository, desc ocispec.Descriptor,
) ([]byte, error) {
	if desc.Size > maxManifestBytes {
		return nil, fmt.Errorf("%w: the manifest has %d bytes, %d at most", artifact.ErrTooLarge,
			desc.Size, maxManifestBytes)
	}
	return content.FetchAll(ctx, r.Manifests(), desc)
}

// Pull brings the layers of a tag into the store. It goes on where an earlier attempt
// has broken off.
func (o *OCI) Pull(ctx context.Context, model, version string) (digest string, err error) {
	defer cannotPull(&err, model, version)
	repository, err := o.repository(model)
	if err != nil {
		return "", err
	}
	desc, err := o.resolve(ctx, repository, version)
	if err != nil {
		return "", classify(err)
	}
	text, err := fetchManifest(ctx, repository, desc)
	if err != nil {
		return "", classify(err)
	}
	files, err := parseManifest(text)
	if err != nil {
		return "", err
	}
	return ingest(ctx, into{store: o.store}, files,
		func(ctx context.Context, f file, offset int64) (io.ReadCloser, error) {
			return o.layer(ctx, repository, f, offset)
		})
}

// resolve finds a version's manifest: that of the tag, or of latest for a version whose
// name is of its digest.
func (o *OCI) resolve(
	ctx context.Context, r *remote.Repository, version string,
) (ocispec.Descriptor, error) {
	if _, err := r.ParseReference(version); err != nil || strings.Contains(version, ":") {
		return ocispec.Descriptor{}, fmt.Errorf("%w: it is no tag", ErrGone)
	}
	desc, err := r.Resolve(ctx, version)
	if errors.Is(err, errdef.ErrNotFound) && len(version) == shortDigest {
		newest, fault := r.Resolve(ctx, latest)
		if fault == nil && shortName(newest.Digest.String()) == version {
			return newest, nil
		}
	}
	return desc, err
}

// parseManifest lists the layers that are files.
func parseManifest(text []byte) ([]file, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("the manifest is not JSON: %w", err)
	}
	var files []file
	for _, layer := range m.Layers {
		title := layer.Annotations[ocispec.AnnotationTitle]
		digest, isSHA256 := strings.CutPrefix(layer.Digest.String(), "sha256:")
		switch {
		case title == "":
			continue
		case layer.Annotations[unpack] == "true":
			return nil, fmt.Errorf("%w: %q is a folder in one layer; push its files one by one",
				ErrRefused, title)
		case !isSHA256 || !artifact.ValidDigest(digest):
			return nil, fmt.Errorf("%w: %q has the digest %.80q, not one of SHA-256", ErrRefused,
				title, layer.Digest)
		case layer.Size < 0:
			return nil, fmt.Errorf("%w: %q has %d bytes", ErrRefused, title, layer.Size)
		}
		files = append(files, file{title, layer.Size, digest})
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: no layer has the annotation %s, which is a file's name",
			ErrNotONNX, ocispec.AnnotationTitle)
	}
	return files, nil
}

// layer opens a layer from an offset on.
func (o *OCI) layer(
	ctx context.Context, r *remote.Repository, f file, offset int64,
) (io.ReadCloser, error) {
	ctx = auth.AppendRepositoryScope(ctx, r.Reference, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf(
		"%s://%s/v2/%s/blobs/sha256:%s", o.cfg.scheme(), r.Reference.Host(),
		r.Reference.Repository, f.digest), nil)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		return resp.Body, nil
	case http.StatusOK: // a server that knows no ranges sends all
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			return nil, errors.Join(err, resp.Body.Close())
		}
		return resp.Body, nil
	case http.StatusNotFound:
		err = ErrGone
	}
	return nil, errors.Join(err, fmt.Errorf("the registry answers %s", resp.Status),
		resp.Body.Close())
}
