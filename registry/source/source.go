// Package source knows the places where people keep versions of models, and brings
// those versions into the store of artifacts.
//
// A [Source] tells which versions there are (Look), and fetches one (Pull): [MLflow],
// [Folder], [Git], [Blob] for object storage, [OCI] for registries of images, and
// [HTTPS] for a single file. A [Marker] can also be told what became of a version.
//
// All methods may be called concurrently. Nothing runs between calls: who wants to
// follow a source looks again. What a source says is not trusted. Paths stay below the
// version's folder, links are not followed out of it, digests are checked where the
// source knows them, and the store bounds sizes and numbers. A version is in the store
// whole or not at all.
package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
)

var (
	// ErrGone is wrapped when the source has no such model or version, or has it no more.
	ErrGone = errors.New("source: not there")
	// ErrPending is wrapped when a version is not complete yet; look again later.
	ErrPending = errors.New("source: not complete yet")
	// ErrChanged is wrapped when files of a version changed while they were fetched.
	ErrChanged = errors.New("source: changed meanwhile")
	// ErrNotONNX is wrapped for a model that has to be converted first.
	ErrNotONNX = errors.New("source: the model is not in ONNX")
	// ErrRefused is wrapped for what could lead out of a version's files, such as links,
	// and for places that the config does not allow.
	ErrRefused = errors.New("source: refused")
	// ErrCredentials is wrapped when a password or token cannot be read, is missing or is
	// not enough.
	ErrCredentials = errors.New("source: no credentials that are enough")
)

// Source is where versions of models come from.
type Source interface {
	// Look says what there is of the models of those names. Each has a Result. The
	// error is for what concerns all of them.
	Look(ctx context.Context, models []string) (map[string]Result, error)
	// Pull brings a version's files into the store and returns their digest.
	Pull(ctx context.Context, model, version string) (digest string, err error)
	// Close ends what the source holds.
	Close() error
}

// Marker is a source that can be written to.
type Marker interface {
	// SetAlias makes an alias point to a version, wherever it pointed before.
	SetAlias(ctx context.Context, model, version, alias string) error
	// Tag sets tags of a version. Others that it has stay.
	Tag(ctx context.Context, model, version string, tags map[string]string) error
}

// Result is what one look says of one model.
type Result struct {
	Listing Listing
	Err     error // wraps ErrGone where there is no such model
}

// Listing is what a source knows of a model.
type Listing struct {
	Versions []Version         // newest first
	Aliases  map[string]string // versions by alias; each is among Versions
}

// Version is one version of a model at its source.
type Version struct {
	Name    string
	Created time.Time // zero where the source does not know
	Aliases []string  // sorted
	Tags    map[string]string
	RunID   string // of the run that made it, in MLflow
	Status  string // empty, or why it cannot be fetched now
	Link    string // a page for people, where there is one
}

// list makes a Listing of versions, the newest first. Aliases that point to none of them
// are left out.
func list(versions []Version, aliases map[string]string) Listing {
	l := Listing{Versions: versions, Aliases: make(map[string]string, len(aliases))}
	for i := range l.Versions {
		v := &l.Versions[i]
		for alias, name := range aliases {
			if name == v.Name {
				l.Aliases[alias] = name
				v.Aliases = append(v.Aliases, alias)
			}
		}
		slices.Sort(v.Aliases)
	}
	return l
}

// order sorts versions, the newest first: by number where all are numbers, else by
// the time of their creation, and by name where that is the same or not known.
func order(versions []Version) {
	numbers := make(map[string]uint64, len(versions))
	for _, v := range versions {
		if n, err := strconv.ParseUint(v.Name, 10, 64); err == nil {
			numbers[v.Name] = n
		}
	}
	numbered := len(numbers) == len(versions)
	slices.SortFunc(versions, func(a, b Version) int {
		if numbered {
			return cmp.Or(cmp.Compare(numbers[b.Name], numbers[a.Name]),
				strings.Compare(b.Name, a.Name))
		}
		return cmp.Or(b.Created.Compare(a.Created), natural(b.Name, a.Name))
	})
}

// natural compares names with the numbers in them by size: v1.9 is before v1.10.
func natural(a, b string) int {
	last := strings.Compare(a, b) // decides between v1 and v01
	for a != "" && b != "" {
		m, n := digits(a), digits(b)
		x, y := strings.TrimLeft(a[:m], "0"), strings.TrimLeft(b[:n], "0")
		switch {
		case m > 0 && n > 0 && x != y:
			return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y))
		case m > 0 && n > 0:
			a, b = a[m:], b[n:]
		case a[0] != b[0]:
			return cmp.Compare(a[0], b[0])
		default:
			a, b = a[1:], b[1:]
		}
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), last)
}

// digits returns how many digits a text begins with.
func digits(text string) int {
	return len(text) - len(strings.TrimLeft(text, "0123456789"))
}

// file is a file of a version at its source.
type file struct {
	path   string // below the version's folder
	size   int64  // -1 where it is not known
	digest string // its SHA-256, empty where it is not known
}

// opener opens a version's file from an offset on, which is 0 for files without a digest.
type opener func(ctx context.Context, f file, offset int64) (io.ReadCloser, error)

// into is the store that takes a version in, and whether that may be of any kind.
type into struct {
	store *artifact.Store
	raw   bool
}

// ingest takes files into the store. Of a file whose digest is known nothing is fetched
// that the store has.
func ingest(
	ctx context.Context, to into, files []file, open opener,
) (digest string, err error) {
	if err := checkONNX(files); err != nil && !to.raw {
		return "", err
	}
	return to.store.Ingest(ctx, "the version", func(w *artifact.Writer) error {
		for _, f := range files {
			if err := take(ctx, w, f, open); err != nil {
				return err
			}
		}
		return nil
	})
}

func take(ctx context.Context, w *artifact.Writer, f file, open opener) error {
	if err := artifact.CheckPath(f.path); err != nil {
		return err // before it is used to ask for something
	}
	offset := int64(0)
	if f.digest != "" {
		if reused, err := w.Reuse(f.path, f.digest); reused || err != nil {
			return err
		}
		offset = w.Partial(f.digest)
	}
	body, err := open(ctx, f, offset)
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", f.path, err)
	}
	if offset > 0 {
		err = w.Rest(f.path, f.size, f.digest, body)
	} else {
		err = w.File(f.path, f.size, f.digest, body)
	}
	return errors.Join(err, body.Close())
}

// libraries names what writes files of other kinds than ONNX, by their extensions.
var libraries = map[string]string{
	".pkl": "scikit-learn or another library that pickles", ".pickle": "a library that pickles",
	".joblib": "scikit-learn", ".skops": "scikit-learn", ".pt": "PyTorch", ".pth": "PyTorch",
	".safetensors": "PyTorch or JAX", ".h5": "Keras", ".keras": "Keras", ".pb": "TensorFlow",
	".tflite": "TensorFlow Lite", ".xgb": "XGBoost", ".ubj": "XGBoost", ".bst": "XGBoost",
	".lgb": "LightGBM", ".cbm": "CatBoost", ".mlmodel": "Core ML", ".engine": "TensorRT",
	".plan": "TensorRT",
}

// checkONNX wants a file of ONNX among a version's files.
func checkONNX(files []file) error {
	library := ""
	for _, f := range files {
		extension := strings.ToLower(path.Ext(f.path))
		if extension == ".onnx" {
			return nil
		}
		library = cmp.Or(library, libraries[extension])
	}
	if library != "" {
		return fmt.Errorf("%w: it is one of %s", ErrNotONNX, library)
	}
	return fmt.Errorf("%w: none of its %d files has a name that ends in .onnx", ErrNotONNX,
		len(files))
}

// cannotPull says which version it was that could not be fetched.
func cannotPull(err *error, model, version string) {
	if *err != nil {
		*err = fmt.Errorf("cannot pull %s version %s: %w", model, version, *err)
	}
}
