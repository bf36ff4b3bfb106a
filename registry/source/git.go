package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
)

var (
	// ErrNoGit is wrapped when there is no git command.
	ErrNoGit = errors.New("source: the command git is not there; install it")
	// ErrLFS is wrapped when a repository has a pointer of Git LFS in a file's place.
	ErrLFS = errors.New("source: the file lies in Git LFS, which is not read; " +
		"commit the file itself, or use another kind of source")
)

// GitConfig says which repository is meant.
type GitConfig struct {
	URL  string `yaml:"url"`  // https://, http://, ssh:// or, if allowed, file://
	Ref  string `yaml:"ref"`  // a branch or tag; the default branch where it is empty
	Path string `yaml:"path"` // the folder in the repository whose folders are models
	Dir  string `yaml:"dir"`  // folder on this machine for what was fetched

	CAFile    string `yaml:"ca_file"`    // authorities to trust in place of the system's, in PEM
	Username  string `yaml:"username"`   // goes with the token; most hosts take any
	TokenFile string `yaml:"token_file"` // read at each call, as below
	TokenEnv  string `yaml:"token_env"`  // name of an environment variable
	AllowFile bool   `yaml:"allow_file"` // repositories on this machine may be read

	Versions int           `yaml:"versions"` // of a model that are told, the newest
	Timeout  time.Duration `yaml:"timeout"`  // of one git command
}

// DefaultGitConfig has all but the URL and the folder.
func DefaultGitConfig() GitConfig {
	return GitConfig{Username: "x-access-token", Versions: 100, Timeout: 30 * time.Minute}
}

// refName is what the name of a branch or tag may be, so that it is no option and no
// pattern.
var refName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+@/-]*$`)

// Validate lists all faults.
func (c GitConfig) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		u = &url.URL{}
	}
	check(slices.Contains(strings.Split(c.protocols(), ":"), u.Scheme) && u.Path != "",
		"url: has to be like https://host/repository.git; allowed are %s "+
			"(file needs allow_file)", strings.ReplaceAll(c.protocols(), ":", ", "))
	_, password := u.User.Password()
	check(!password && (u.User == nil || u.Scheme == "ssh"),
		"url: put credentials into username and token_file or token_env")
	check(u.Scheme != "ssh" || !strings.HasPrefix(u.Hostname(), "-"), "url: not a host")
	check(c.Ref == "" || refName.MatchString(c.Ref) && !strings.Contains(c.Ref, ".."),
		"ref: %.80q is not the name of a branch or tag", c.Ref)
	if folder := strings.Trim(c.Path, "/"); folder != "" {
		check(artifact.CheckPath(folder) == nil, "path: %.80q is not a folder of a repository",
			c.Path)
	}
	check(filepath.IsAbs(c.Dir), "dir: %q; has to be absolute", c.Dir)
	check(c.TokenFile == "" || c.TokenEnv == "", "token_file, token_env: both are set")
	check(c.TokenFile+c.TokenEnv == "" || c.Username != "", "username: goes with the token")
	check(c.Versions >= 1 && c.Versions <= 1000, "versions: %d; 1 to 1000 are allowed", c.Versions)
	check(c.Timeout > 0, "timeout: %v; must be positive", c.Timeout)
	return errors.Join(faults...)
}

// protocols are those that git may use, as GIT_ALLOW_PROTOCOL lists them.
func (c GitConfig) protocols() string {
	if c.AllowFile {
		return "https:http:ssh:file"
	}
	return "https:http:ssh"
}

// Git is a repository. A version is a commit that has changed the model's folder, named
// by the first 12 digits; the aliases of a version are the branch, and the tags where the
// folder is the same. What git fetches is the history without files, and later the files
// of those versions that are pulled. Files whose names begin with a dot are passed over.
//
// git itself chooses which addresses it dials: they are not held against a list.
type Git struct {
	cfg    GitConfig
	store  *artifact.Store
	mirror string // the repository on this machine

	mu       sync.Mutex         // held while the mirror is brought up to date
	refs     string             // the branch and the tags of which listings are. Guarded by mu.
	branch   string             // its name. Guarded by mu.
	listings map[string]Listing // by model. Guarded by mu.
}

// head is the ref in the mirror that is the branch or tag of the config.
const head = "refs/millrace/head"

// NewGit returns a source that asks nobody yet.
func NewGit(cfg GitConfig, store *artifact.Store) (*Git, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the repository: %w", err)
	}
	return &Git{cfg: cfg, store: store, mirror: mirrorPath(cfg)}, nil
}

// Close does nothing: the mirror stays for the next time.
func (g *Git) Close() error { return nil }

// Look fetches what is new, and says which commits have changed the models.
func (g *Git) Look(ctx context.Context, models []string) (map[string]Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.sync(ctx); err != nil {
		return nil, fmt.Errorf("cannot look at %s: %w", g.cfg.URL, err)
	}
	results := make(map[string]Result, len(models))
	for _, model := range models {
		l, known := g.listings[model]
		if !known {
			var err error
			if l, err = g.look(ctx, model); err != nil {
				results[model] = Result{Err: fmt.Errorf("cannot look at %s: %w", model, err)}
				continue
			}
			g.listings[model] = l
		}
		results[model] = Result{Listing: l}
	}
	return results, ctx.Err()
}

// look reads a model's commits from the mirror.
func (g *Git) look(ctx context.Context, model string) (Listing, error) {
	folder, err := g.folder(model)
	if err != nil {
		return Listing{}, err
	}
	out, err := g.run(ctx, nil, "log", "--format=%H %ct", "-n", strconv.Itoa(g.cfg.Versions),
		head, "--", folder)
	if err != nil {
		return Listing{}, err
	}
	var versions []Version
	var revisions []string
	for line := range strings.Lines(out) {
		commit, created, _ := strings.Cut(strings.TrimSpace(line), " ")
		seconds, err := strconv.ParseInt(created, 10, 64)
		if err != nil || len(commit) < shortDigest {
			return Listing{}, fmt.Errorf("git log says %.80q", line)
		}
		revisions = append(revisions, commit)
		versions = append(versions, Version{Name: commit[:shortDigest],
			Created: time.Unix(seconds, 0), Tags: map[string]string{"commit": commit}})
	}
	tags := g.tags()
	for _, tag := range tags {
		revisions = append(revisions, "refs/tags/"+tag)
	}
	trees, err := g.trees(ctx, revisions, folder)
	if err != nil {
		return Listing{}, err
	}
	return gitListing(versions, trees, append([]string{g.branch}, tags...))
}

// gitListing makes a listing of a model's commits, the newest first, and what its folder
// is in each of them and then in each tag; empty where it is not there. names are those
// of the branch and the tags.
func gitListing(versions []Version, trees, names []string) (Listing, error) {
	if len(versions) == 0 || trees[0] == "" {
		return Listing{}, ErrGone
	}
	byTree := make(map[string]string)
	var present []Version
	for i, v := range versions {
		if tree := trees[i]; tree != "" {
			present = append(present, v)
			if byTree[tree] == "" {
				byTree[tree] = v.Name // the newest of those that are the same
			}
		}
	}
	aliases := map[string]string{names[0]: versions[0].Name}
	for i, tag := range names[1:] {
		if version := byTree[trees[len(versions)+i]]; version != "" && tag != names[0] {
			aliases[tag] = version
		}
	}
	return list(present, aliases), nil
}

// trees returns the object that a folder is in each revision, empty where it is not there
// or is no folder.
func (g *Git) trees(ctx context.Context, revisions []string, folder string) ([]string, error) {
	var in strings.Builder
	for _, r := range revisions {
		in.WriteString(r + ":" + folder + "\n")
	}
	out, err := g.run(ctx, strings.NewReader(in.String()), "cat-file",
		"--batch-check=%(objecttype) %(objectname)")
	if err != nil {
		return nil, err
	}
	trees := make([]string, 0, len(revisions))
	for line := range strings.Lines(out) {
		tree, _ := strings.CutPrefix(strings.TrimSpace(line), "tree ")
		if !gitObject.MatchString(tree) {
			tree = ""
		}
		trees = append(trees, tree)
	}
	if len(trees) != len(revisions) {
		return nil, fmt.Errorf("git says %d lines for %d revisions", len(trees), len(revisions))
	}
	return trees, nil
}

var (
	gitObject  = regexp.MustCompile(`^[0-9a-f]{40,64}$`)
	gitVersion = regexp.MustCompile(fmt.Sprintf(`^[0-9a-f]{%d}$`, shortDigest))
)

// folder is where a model lies in the repository.
func (g *Git) folder(model string) (string, error) {
	if err := artifact.CheckPath(model); err != nil {
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return strings.TrimPrefix(strings.Trim(g.cfg.Path, "/")+"/"+model, "/"), nil
}

// Pull brings the files of a commit into the store.
func (g *Git) Pull(ctx context.Context, model, version string) (digest string, err error) {
	defer cannotPull(&err, model, version)
	folder, err := g.folder(model)
	if err != nil {
		return "", err
	}
	if !gitVersion.MatchString(version) {
		return "", fmt.Errorf("%w: it has to be the first %d digits of a commit", ErrGone,
			shortDigest)
	}
	if err := g.fetched(ctx); err != nil {
		return "", err
	}
	out, err := g.run(ctx, nil, "log", "--format=%H", "-n", "1", version, "--", folder)
	if err != nil || !strings.HasPrefix(out, version) {
		return "", errors.Join(fmt.Errorf("%w: no such commit has changed %s", ErrGone, folder),
			err)
	}
	listed, err := g.run(ctx, nil, "ls-tree", "-r", "-z", strings.TrimSpace(out)+":"+folder)
	if err != nil {
		return "", fmt.Errorf("%w: the commit has removed %s: %w", ErrGone, folder, err)
	}
	files, objects, err := parseTree(listed)
	if err != nil {
		return "", err
	}
	return ingest(ctx, into{store: g.store}, files,
		func(ctx context.Context, f file, _ int64) (io.ReadCloser, error) {
			return g.cat(ctx, objects[f.path])
		})
}

// fetched makes sure that there is a mirror.
func (g *Git) fetched(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listings != nil {
		return nil
	}
	return g.sync(ctx)
}

// parseTree reads what git ls-tree says of a version's files. Their sizes are not known
// before they are fetched.
func parseTree(listed string) (files []file, objects map[string]string, err error) {
	objects = make(map[string]string)
	for entry := range strings.SplitSeq(strings.TrimSuffix(listed, "\x00"), "\x00") {
		about, name, _ := strings.Cut(entry, "\t")
		fields := strings.Fields(about)
		switch {
		case len(fields) != 3:
			return nil, nil, fmt.Errorf("git ls-tree says %.80q", entry)
		case hidden(name):
			continue
		case fields[0] != "100644" && fields[0] != "100755" && fields[0] != "100664":
			return nil, nil, fmt.Errorf("%w: %q is a link or a submodule", ErrRefused, name)
		}
		files = append(files, file{path: name, size: -1})
		objects[name] = fields[2]
	}
	return files, objects, nil
}

// pointer is how a pointer of Git LFS begins.
var pointer = []byte("version https://git-lfs.github.com/spec/")

// cat opens an object, which git fetches if it is not in the mirror.
func (g *Git) cat(ctx context.Context, object string) (io.ReadCloser, error) {
	p, err := g.start(ctx, nil, "cat-file", "blob", object)
	if err != nil {
		return nil, err
	}
	start, err := p.out.Peek(len(pointer))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, p.Close())
	}
	if bytes.Equal(start, pointer) {
		_, err := io.Copy(io.Discard, p)
		return nil, errors.Join(ErrLFS, err, p.Close())
	}
	return p, nil
}
