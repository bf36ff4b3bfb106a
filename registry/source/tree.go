package source

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
)

// tree is a place of files in folders.
type tree interface {
	// list returns the files below a folder, at most maxObjects, and none where there is
	// no such folder.
	list(ctx context.Context, dir string) ([]object, error)
	// open opens a file below a folder. The reader or open returns an error that wraps
	// ErrChanged if it is not the listed one any more.
	open(ctx context.Context, dir string, o object) (io.ReadCloser, error)
	io.Closer
}

// object is a file in a tree.
type object struct {
	path     string // below the folder that was listed
	size     int64  // bytes
	modified time.Time
	fault    string // why it cannot be taken; empty for most
}

// maxObjects bounds the files of one model.
const maxObjects = 100_000

// mark changes when files of a version do.
type mark [sha256.Size]byte

func markOf(objects []object) mark {
	h := sha256.New()
	for _, o := range objects {
		_, _ = fmt.Fprintf(h, "%q %d %d\n", o.path, o.size, o.modified.UnixNano())
	}
	return mark(h.Sum(nil))
}

// shelf finds versions in a tree: MODEL/VERSION/files. Names that begin with a dot are
// passed over, since programs that copy files use them meanwhile. A version whose files
// are not those of the look before is pending, since they may still be written.
type shelf struct {
	tree  tree
	store *artifact.Store

	mu   sync.Mutex
	seen map[string]map[string]mark // by model and version. Guarded by mu.
}

func newShelf(t tree, store *artifact.Store) shelf {
	return shelf{tree: t, store: store, seen: make(map[string]map[string]mark)}
}

// Close closes what holds the files.
func (s *shelf) Close() error { return s.tree.Close() }

// Look says which folders of versions the models have. A version is as old as its
// newest file.
func (s *shelf) Look(ctx context.Context, models []string) (map[string]Result, error) {
	results := make(map[string]Result, len(models))
	for _, model := range models {
		var r Result
		if r.Listing, r.Err = s.look(ctx, model); r.Err != nil {
			r.Err = fmt.Errorf("cannot look at %s: %w", model, r.Err)
		}
		results[model] = r
	}
	return results, ctx.Err()
}

func (s *shelf) look(ctx context.Context, model string) (Listing, error) {
	if err := artifact.CheckPath(model); err != nil {
		return Listing{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	objects, err := s.tree.list(ctx, model)
	if err != nil {
		return Listing{}, err
	}
	folders := group(objects)
	if len(folders) == 0 {
		return Listing{}, ErrGone
	}
	var versions []Version
	for name, objects := range folders {
		v := Version{Name: name, Status: fault(objects)}
		for _, o := range objects {
			if o.modified.After(v.Created) {
				v.Created = o.modified
			}
		}
		if !s.settled(model, name, markOf(objects)) && v.Status == "" {
			v.Status = "its files have come or changed since the last look"
		}
		versions = append(versions, v)
	}
	order(versions)
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.seen[model] {
		if folders[name] == nil {
			delete(s.seen[model], name)
		}
	}
	return list(versions, nil), nil
}

// settled notes a version's mark and says whether it is the one noted before.
func (s *shelf) settled(model, version string, now mark) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	versions := s.seen[model]
	if versions == nil {
		versions = make(map[string]mark)
		s.seen[model] = versions
	}
	before, ok := versions[version]
	versions[version] = now
	return ok && before == now
}

// group sorts a model's files into those of its versions, with paths below these.
func group(objects []object) map[string][]object {
	folders := make(map[string][]object)
	for _, o := range objects {
		version, rest, below := strings.Cut(o.path, "/")
		if hidden(o.path) || !below && o.fault == "" || artifact.CheckPath(version) != nil {
			continue
		}
		o.path = rest
		folders[version] = append(folders[version], o)
	}
	return folders
}

// hidden says whether a name in the path begins with a dot.
func hidden(path string) bool {
	for name := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(name, ".") && name != "." && name != ".." {
			return true
		}
	}
	return false
}

func fault(objects []object) string {
	for _, o := range objects {
		switch {
		case o.fault != "" && o.path == "":
			return "the version " + o.fault
		case o.fault != "":
			return fmt.Sprintf("%q %s", o.path, o.fault)
		}
	}
	return ""
}

// Pull brings a version's files into the store. One that is not settled yet is
// ErrPending.
func (s *shelf) Pull(ctx context.Context, model, version string) (string, error) {
	return s.pull(ctx, into{store: s.store}, model, version)
}

func (s *shelf) pull(
	ctx context.Context, to into, model, version string,
) (digest string, err error) {
	defer cannotPull(&err, model, version)
	if err := artifact.CheckPath(model); err != nil {
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	objects, err := s.tree.list(ctx, model)
	if err != nil {
		return "", err
	}
	objects = group(objects)[version]
	if len(objects) == 0 {
		return "", ErrGone
	}
	if text := fault(objects); text != "" {
		return "", fmt.Errorf("%w: %s", ErrRefused, text)
	}
	if !s.settled(model, version, markOf(objects)) {
		return "", fmt.Errorf("%w: its files have come or changed since the last look", ErrPending)
	}
	return pullTree(ctx, to, s.tree, model+"/"+version)
}

// pullTree takes the files below a folder of a tree.
func pullTree(
	ctx context.Context, to into, t tree, dir string,
) (digest string, err error) {
	listed, err := listVisible(ctx, t, dir)
	if err != nil {
		return "", err
	}
	if len(listed) == 0 {
		return "", fmt.Errorf("%w: it has no files", ErrGone)
	}
	if text := fault(listed); text != "" {
		return "", fmt.Errorf("%w: %s", ErrRefused, text)
	}
	files := make([]file, len(listed))
	objects := make(map[string]object, len(listed))
	for i, o := range listed {
		files[i] = file{path: o.path, size: o.size}
		objects[o.path] = o
	}
	open := func(ctx context.Context, f file, _ int64) (io.ReadCloser, error) {
		return t.open(ctx, dir, objects[f.path])
	}
	digest, err = ingest(ctx, to, files, open)
	again, fault := listVisible(ctx, t, dir)
	switch {
	case fault == nil && markOf(again) != markOf(listed) && err != nil:
		return "", fmt.Errorf("%w: %w", ErrChanged, err)
	case fault == nil && markOf(again) != markOf(listed):
		return "", ErrChanged
	case err == nil:
		err = fault
	}
	return digest, err
}

func listVisible(ctx context.Context, t tree, dir string) ([]object, error) {
	all, err := t.list(ctx, dir)
	visible := all[:0]
	for _, o := range all {
		if !hidden(o.path) {
			visible = append(visible, o)
		}
	}
	return visible, err
}
