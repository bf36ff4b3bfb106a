package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/fetch"
	"github.com/millrace-ml/millrace/registry/mlflow"
)

// MLflowConfig says which registry of MLflow is meant.
type MLflowConfig struct {
	URI    string `yaml:"uri"` // with the server's --static-prefix, if it has one
	Access `yaml:",inline"`
	// Places that are read directly where the server does not hand files out itself, by
	// URLs that BlobConfig.URL takes, with a path: "s3://bucket/mlflow?region=eu-west-1".
	// MLflow is refused all others, since who registers a version chooses its place.
	Artifacts []string `yaml:"artifacts"`
}

// DefaultMLflowConfig has all but the URI.
func DefaultMLflowConfig() MLflowConfig { return MLflowConfig{Access: DefaultAccess()} }

// Validate lists all faults.
func (c MLflowConfig) Validate() error {
	faults := []error{c.config(c.URI).Validate()}
	if faults[0] == nil {
		faults = append(faults, mlflow.Config{URI: c.URI}.Validate())
	}
	for _, text := range c.Artifacts {
		if _, err := parsePlace(text); err != nil {
			faults = append(faults, fmt.Errorf("artifacts: %w", err))
		}
	}
	return errors.Join(faults...)
}

// MLflow is a registry of MLflow. Aliases are those of the registry, and stages in
// lower case where there is no alias of that name.
//
// A look at more than a few models lists the whole registry, and asks for the versions
// of those only that have changed. Tags of versions that are not the latest may then be
// those of the model's last change.
type MLflow struct {
	caller *fetch.Client
	client *mlflow.Client
	store  *artifact.Store
	uri    string
	places []place

	mu    sync.Mutex
	known map[string]known // by model; replaced as a whole. Guarded by mu.
}

// known is what was read of a model's versions. It is not changed any more.
type known struct {
	updated  int64 // the model's UpdatedMillis before the versions were read
	versions []mlflow.Version
}

// fewModels is how many models are asked for one by one: a call each for the model
// and its versions costs less than reading the pages of a large registry.
const fewModels = 20

// NewMLflow returns a source that asks nobody yet.
func NewMLflow(cfg MLflowConfig, store *artifact.Store) (*MLflow, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use MLflow: %w", err)
	}
	caller, err := fetch.New(cfg.config(cfg.URI))
	if err != nil {
		return nil, err
	}
	client, err := mlflow.New(mlflow.Config{URI: cfg.URI}, caller.Doer())
	if err != nil {
		return nil, err
	}
	m := &MLflow{caller: caller, client: client, store: store,
		uri: strings.TrimRight(cfg.URI, "/")}
	for _, text := range cfg.Artifacts {
		p, err := parsePlace(text)
		if err != nil {
			return nil, err
		}
		m.places = append(m.places, p)
	}
	return m, nil
}

// Close closes the connections.
func (m *MLflow) Close() error {
	m.caller.Close()
	return nil
}

// Look says what the registry has of the models.
func (m *MLflow) Look(ctx context.Context, models []string) (map[string]Result, error) {
	if len(models) > fewModels {
		return m.lookAll(ctx, models)
	}
	results := make(map[string]Result, len(models))
	for _, name := range models {
		model, err := m.client.GetModel(ctx, name)
		if err == nil {
			var versions []mlflow.Version
			if versions, err = m.versions(ctx, name); err == nil {
				results[name] = Result{Listing: m.listing(model, versions)}
				continue
			}
		}
		results[name] = Result{Err: fmt.Errorf("cannot look at %s: %w", name, classify(err))}
	}
	return results, nil
}

// lookAll goes through the pages of the registry.
func (m *MLflow) lookAll(ctx context.Context, models []string) (map[string]Result, error) {
	results := make(map[string]Result, len(models))
	for _, name := range models {
		results[name] = Result{Err: fmt.Errorf("cannot look at %s: %w", name, ErrGone)}
	}
	found := make(map[string]*mlflow.Model, len(models))
	for model, err := range m.client.Models(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("cannot list the models of MLflow: %w", classify(err))
		}
		if _, wanted := results[model.Name]; wanted {
			found[model.Name] = model
		}
		if len(found) == len(results) {
			break
		}
	}
	m.mu.Lock()
	last := m.known
	m.mu.Unlock()
	current, faults, err := m.renew(ctx, found, last)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.known = current
	m.mu.Unlock()
	for name, model := range found {
		if err := faults[name]; err != nil {
			results[name] = Result{Err: fmt.Errorf("cannot look at %s: %w", name, classify(err))}
			continue
		}
		results[name] = Result{Listing: m.listing(model, current[name].versions)}
	}
	return results, nil
}

// renew returns what is known of the models, of which last is what was known before. It
// reads the versions of those that have changed: model by model, or of the whole registry
// where that needs fewer calls. faults is what failed for a model.
func (m *MLflow) renew(
	ctx context.Context, models map[string]*mlflow.Model, last map[string]known,
) (current map[string]known, faults map[string]error, err error) {
	current = make(map[string]known, len(models))
	faults = make(map[string]error)
	read := make(map[string][]mlflow.Version)
	for name, model := range models {
		if stale(model, last[name]) {
			read[name] = nil
		} else {
			current[name] = last[name]
		}
	}
	if len(read) <= fewModels {
		for name := range read {
			read[name], faults[name] = m.versions(ctx, name)
		}
	} else {
		for v, err := range m.client.Versions(ctx, "") {
			if err != nil {
				return nil, nil, fmt.Errorf("cannot list the versions of MLflow: %w",
					classify(err))
			}
			if _, wanted := read[v.Name]; wanted {
				read[v.Name] = append(read[v.Name], *v)
			}
		}
	}
	for name, versions := range read {
		if faults[name] == nil {
			current[name] = known{models[name].UpdatedMillis, versions}
		}
	}
	return current, faults, nil
}

// stale says whether a model's versions have to be read again. MLflow notes a change of
// the model when a version is added, deleted or moved to a stage, but not for an alias.
func stale(model *mlflow.Model, k known) bool {
	if k.updated != model.UpdatedMillis {
		return true
	}
	for _, version := range model.Aliases {
		if !slices.ContainsFunc(k.versions, func(v mlflow.Version) bool {
			return v.Version == version
		}) {
			return true
		}
	}
	return slices.ContainsFunc(k.versions, func(v mlflow.Version) bool { return !ready(v) })
}

func ready(v mlflow.Version) bool { return v.Status == "READY" || v.Status == "" }

// versions reads all versions of a model.
func (m *MLflow) versions(ctx context.Context, name string) ([]mlflow.Version, error) {
	filter, err := mlflow.Equals("name", name)
	if err != nil {
		return nil, err
	}
	var versions []mlflow.Version
	for v, err := range m.client.Versions(ctx, filter) {
		if err != nil {
			return nil, err
		}
		versions = append(versions, *v)
	}
	return versions, nil
}

// listing says in our words what MLflow says of a model. The latest versions that come
// with the model are as new as the model.
func (m *MLflow) listing(model *mlflow.Model, versions []mlflow.Version) Listing {
	newest := make(map[string]mlflow.Version, len(model.Latest))
	for _, v := range model.Latest {
		newest[v.Version] = v
	}
	all := make([]Version, 0, len(versions))
	stages := make(map[string]mlflow.Version)
	for _, v := range versions {
		if latest, ok := newest[v.Version]; ok {
			v = latest
		}
		all = append(all, m.version(v))
		stage := strings.ToLower(v.Stage)
		if v.CreatedMillis >= stages[stage].CreatedMillis {
			stages[stage] = v
		}
	}
	aliases := make(map[string]string, len(model.Aliases))
	for stage, v := range stages {
		if stage != "" && stage != "none" && stage != "archived" {
			aliases[stage] = v.Version
		}
	}
	maps.Copy(aliases, model.Aliases)
	order(all)
	return list(all, aliases)
}

func (m *MLflow) version(v mlflow.Version) Version {
	out := Version{Name: v.Version, Created: time.UnixMilli(v.CreatedMillis), Tags: v.Tags,
		RunID: v.RunID, Link: m.uri + "/#/models/" + url.PathEscape(v.Name) + "/versions/" +
			url.PathEscape(v.Version)}
	if !ready(v) {
		out.Status = strings.TrimSuffix(v.Status+": "+v.StatusMessage, ": ")
	}
	return out
}

// SetAlias makes an alias point to a version.
func (m *MLflow) SetAlias(ctx context.Context, model, version, alias string) error {
	err := m.client.SetAlias(ctx, mlflow.Ref{Name: model, Version: version}, alias)
	if err != nil {
		return fmt.Errorf("cannot set the alias %s to %s version %s: %w", alias, model, version,
			classify(err))
	}
	return nil
}

// Tag sets tags of a version.
func (m *MLflow) Tag(
	ctx context.Context, model, version string, tags map[string]string,
) error {
	ref := mlflow.Ref{Name: model, Version: version}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if err := m.client.SetVersionTag(ctx, ref, key, tags[key]); err != nil {
			return fmt.Errorf("cannot tag %s version %s: %w", model, version, classify(err))
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = maps.Clone(m.known)
	delete(m.known, model) // its tags are old
	return nil
}

// Pull brings a version's files into the store. A version that has no flavor onnx is
// not fetched.
func (m *MLflow) Pull(ctx context.Context, model, version string) (string, error) {
	return m.pull(ctx, into{store: m.store}, model, version)
}

func (m *MLflow) pull(
	ctx context.Context, to into, model, version string,
) (digest string, err error) {
	defer cannotPull(&err, model, version)
	ref := mlflow.Ref{Name: model, Version: version}
	v, err := m.client.GetVersion(ctx, ref)
	if err != nil {
		return "", classify(err)
	}
	if !ready(*v) {
		return "", fmt.Errorf("%w: %s", ErrPending, m.version(*v).Status)
	}
	uri, err := m.client.DownloadURI(ctx, ref)
	if err != nil {
		return "", classify(err)
	}
	root, err := m.client.Resolve(ctx, uri)
	if err != nil {
		return "", classify(err)
	}
	listed, err := m.client.List(ctx, root)
	if errors.Is(err, mlflow.ErrDirect) {
		return m.pullDirect(ctx, to, root, err)
	}
	if err != nil {
		return "", classify(err)
	}
	files := make([]file, len(listed))
	for i, f := range listed {
		files[i] = file{path: f.Path, size: f.Size}
	}
	open := func(ctx context.Context, f file, _ int64) (io.ReadCloser, error) {
		body, err := m.client.Open(ctx, root, mlflow.File{Path: f.path, Size: f.size}, 0)
		return body, classify(err)
	}
	body, err := open(ctx, file{path: manifest, size: -1}, 0)
	if err != nil {
		return "", err
	}
	if err := checkFlavor(body); err != nil && !(to.raw && errors.Is(err, ErrNotONNX)) {
		return "", err
	}
	return ingest(ctx, to, files, open)
}

// The file by which MLflow knows a model, and its bound in bytes.
const (
	manifest    = "MLmodel"
	maxManifest = 1 << 20
)

// checkFlavor reads and closes a manifest, and wants a model that has the flavor onnx.
func checkFlavor(body io.ReadCloser) error {
	text, err := io.ReadAll(io.LimitReader(body, maxManifest))
	if err := errors.Join(err, body.Close()); err != nil {
		return err
	}
	flavors, err := mlflow.ParseFlavors(text)
	if err != nil {
		return err
	}
	if !flavors.ONNX() {
		return fmt.Errorf("%w: it is one of %s", ErrNotONNX, flavors.Library())
	}
	return nil
}

// Client returns the client of the registry's server, for what is no source: runs of
// experiments.
func (m *MLflow) Client() *mlflow.Client { return m.client }
