package syncer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/source"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// TestMain lets the test binary be the child that tries models, the process that is
// killed, and a converter.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "trial":
		os.Exit(model.TrialMain(os.Stdin, os.Stdout))
	case len(os.Args) == 6 && os.Args[1] == "convert":
		os.Exit(convert(os.Args[2], os.Args[3], os.Args[4], os.Args[5]))
	case os.Getenv(envKill) != "":
		syncForever(os.Getenv(envKill))
	}
	os.Exit(m.Run())
}

// shelf is a source in a folder, MODEL/VERSION/files, with a file MODEL/aliases that has
// a line "alias version" each. Versions of names that are numbers are ordered by them.
type shelf struct {
	dir   string
	store *artifact.Store

	mu    sync.Mutex
	down  error                  // what a look returns. Guarded by mu, as all below.
	gate  map[string]chan string // a pull of these versions waits, and sends its name
	pulls map[string]int         // by model and version
	most  int                    // pulls at a time
	now   int
}

func newShelf(t testing.TB, store *artifact.Store) *shelf {
	return &shelf{dir: t.TempDir(), store: store, gate: make(map[string]chan string),
		pulls: make(map[string]int)}
}

func (s *shelf) Close() error { return nil }

func (s *shelf) Look(_ context.Context, models []string) (map[string]source.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	results := make(map[string]source.Result)
	for _, name := range models {
		l, err := s.list(name)
		results[name] = source.Result{Listing: l, Err: err}
	}
	return results, nil
}

func (s *shelf) list(name string) (source.Listing, error) {
	l := source.Listing{Aliases: make(map[string]string)}
	entries, err := os.ReadDir(filepath.Join(s.dir, name))
	if err != nil {
		return l, fmt.Errorf("%w: %s", source.ErrGone, name)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		v := source.Version{Name: e.Name(), RunID: "run-" + e.Name(),
			Tags: map[string]string{"millrace.run": "trained-" + e.Name()}}
		path := filepath.Join(s.dir, name, e.Name())
		if text, err := os.ReadFile(filepath.Join(path, "status")); err == nil {
			v.Status = string(text)
		}
		if info, err := os.Stat(path); err == nil {
			v.Created = info.ModTime()
		}
		l.Versions = append(l.Versions, v)
	}
	slices.SortFunc(l.Versions, func(a, b source.Version) int {
		return strings.Compare(fmt.Sprintf("%8s", b.Name), fmt.Sprintf("%8s", a.Name))
	})
	text, _ := os.ReadFile(filepath.Join(s.dir, name, "aliases"))
	for line := range strings.Lines(string(text)) {
		alias, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		l.Aliases[alias] = version
	}
	return l, nil
}

// atOnce is the most pulls that there were at a time.
func (s *shelf) atOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

func (s *shelf) Pull(ctx context.Context, name, version string) (string, error) {
	if _, err := os.Stat(filepath.Join(s.dir, name, version, "model.pkl")); err == nil {
		return "", fmt.Errorf("%w: it is one of sklearn", source.ErrNotONNX)
	}
	return s.PullAny(ctx, name, version)
}

func (s *shelf) PullAny(ctx context.Context, name, version string) (string, error) {
	s.mu.Lock()
	gate := s.gate[version]
	s.pulls[name+"/"+version]++
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.now--; s.mu.Unlock() }()
	if gate != nil {
		select {
		case gate <- version:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	root, err := os.OpenRoot(filepath.Join(s.dir, name, version))
	if err != nil {
		return "", fmt.Errorf("%w: %s version %s", source.ErrGone, name, version)
	}
	defer root.Close()
	return s.store.Ingest(ctx, name, func(w *artifact.Writer) error {
		return fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			f, err := root.Open(path)
			if err != nil {
				return err
			}
			return errors.Join(w.File(path, -1, "", f), f.Close())
		})
	})
}

// pulled is how often a version was pulled.
func (s *shelf) pulled(version string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pulls[version]
}

// set makes a version of that content at the source. Its time is other than before.
func (s *shelf) set(t testing.TB, name, version string, files map[string][]byte) {
	t.Helper()
	dir := filepath.Join(s.dir, name, version)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for path, content := range files {
		write(t, filepath.Join(dir, path), content)
	}
	digest := fmt.Sprint(files)
	made := time.Unix(1_700_000_000+int64(len(digest)), int64(len(s.pulls))*1e6)
	if err := os.Chtimes(dir, made, made); err != nil {
		t.Fatal(err)
	}
}

func (s *shelf) aliases(t testing.TB, name string, lines ...string) {
	t.Helper()
	write(t, filepath.Join(s.dir, name, "aliases"), []byte(strings.Join(lines, "\n")))
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, content, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// sample reads a sample model.
func sample(t testing.TB, name string) map[string][]byte {
	t.Helper()
	content, err := os.ReadFile("../../configs/models/" + name + "/1/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"model.onnx": content}
}

func openStore(t testing.TB, dir string) *artifact.Store {
	t.Helper()
	cfg := artifact.DefaultConfig()
	cfg.Dir = dir
	store, err := artifact.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// openModels opens a repository of a folder until the test ends.
func openModels(t testing.TB, dir string, mode model.Mode) *model.Repository {
	t.Helper()
	found, err := ort.FindLibrary("")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	rt, err := ort.Open(ort.Config{Library: found.Path, Logger: log, Level: slog.LevelError})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := model.Open(t.Context(), model.Options{Runtime: rt, Repositories: []string{dir},
		Mode: mode, Trial: model.DefaultTrialConfig(), Defaults: model.DefaultDefaults(),
		Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// bench is a Syncer with all that it needs, and one model.
type bench struct {
	*Syncer
	t      *testing.T
	src    *shelf
	models *model.Repository
	model  Model
}

func newBench(t *testing.T, mode model.Mode) *bench {
	t.Helper()
	dir := t.TempDir()
	store := openStore(t, filepath.Join(dir, "store"))
	models := openModels(t, filepath.Join(dir, "models"), mode)
	return &bench{t: t, src: newShelf(t, store), models: models,
		model: Model{Name: "m", At: "m"}, Syncer: New(Config{Dir: filepath.Join(dir, "models"),
			Store: store, Models: models, Log: slog.New(slog.DiscardHandler)})}
}

// sync looks once and returns a line on the model: its versions with their states, its
// aliases in force, and what is served.
func (b *bench) sync(src source.Source) string {
	b.t.Helper()
	b.model.Status = b.Sync(b.t.Context(), src, []Model{b.model})[b.model.Name]
	return b.line()
}

func (b *bench) line() string {
	var words []string
	for _, v := range b.model.Status.Versions {
		words = append(words, v.Name+":"+string(v.State))
	}
	for _, alias := range slices.Sorted(maps.Keys(b.model.Status.Aliases)) {
		words = append(words, "@"+alias+"="+b.model.Status.Aliases[alias])
	}
	return strings.Join(append(words, fmt.Sprint(b.models.Versions(b.model.Name))), " ")
}

// looks wants that line of one look.
func (b *bench) looks(want string) {
	b.t.Helper()
	if got := b.sync(b.src); got != want {
		b.t.Errorf("%s, want %s; %+v", got, want, b.model.Status)
	}
}

// reason wants that text in the reason of a version.
func (b *bench) reason(version, want string) {
	b.t.Helper()
	for _, v := range b.model.Status.Versions {
		if v.Name == version && strings.Contains(v.Reason, want) && (want != "" || v.Reason == "") {
			return
		}
	}
	b.t.Errorf("version %s has not the reason %q: %+v", version, want, b.model.Status)
}

// stored is what the store has pinned, and what lies in the folder of models.
func (b *bench) stored() string {
	var words []string
	for _, v := range b.cfg.Store.List() {
		words = append(words, v.Pins...)
	}
	slices.Sort(words)
	for _, pattern := range []string{"*/*", ".temp/*"} {
		paths, _ := filepath.Glob(filepath.Join(b.cfg.Dir, pattern))
		for _, p := range paths {
			rel, _ := filepath.Rel(b.cfg.Dir, p)
			words = append(words, rel)
		}
	}
	return strings.Join(words, " ")
}
