package source_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/source"
)

// repository is a git repository with a folder of work.
type repository struct {
	t   testing.TB
	dir string
}

// git runs git in the repository, and returns what it says.
func (r repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "user.name=test",
		"-c", "user.email=test@example.com", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit commits all that has changed, and returns the version that this is.
func (r repository) commit(message string) string {
	r.t.Helper()
	r.git("add", "--all", ".")
	r.git("commit", "--quiet", "--message", message)
	return r.git("rev-parse", "HEAD")[:12]
}

// newRepository has two versions of the model iris, the first with the tag v1.0, below
// the folder models.
func newRepository(t testing.TB) (r repository, first, second string) {
	t.Helper()
	r = repository{t, t.TempDir()}
	r.git("init", "--quiet", "--initial-branch=main")
	r.git("config", "uploadpack.allowFilter", "true")
	write(t, "one", r.dir, "models", "iris", "model.onnx")
	write(t, "weights", r.dir, "models", "iris", "data", "größe 1")
	write(t, "*.onnx export-ignore", r.dir, "models", "iris", ".gitattributes")
	first = r.commit("one")
	r.git("tag", "--annotate", "--message", "good", "v1.0")
	write(t, "two", r.dir, "models", "iris", "model.onnx")
	second = r.commit("two")
	write(t, "other", r.dir, "models", "other", "model.onnx")
	r.commit("another model")
	r.git("tag", "v2.0")
	return r, first, second
}

// openGit returns a source of a repository.
func openGit(t testing.TB, change func(*source.GitConfig)) (*source.Git, *artifact.Store) {
	t.Helper()
	cfg := source.DefaultGitConfig()
	cfg.Path, cfg.Dir = "models", t.TempDir()
	change(&cfg)
	store := newStore(t)
	s, err := source.NewGit(cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, store
}

// TestGit follows a repository on this machine.
func TestGit(t *testing.T) {
	r, first, second := newRepository(t)
	s, store := openGit(t, func(c *source.GitConfig) { c.URL, c.AllowFile = "file://"+r.dir, true })
	l := listing(t, s, "iris")
	if got := names(l); !slices.Equal(got, []string{second, first}) || l.Aliases["v1.0"] != first ||
		l.Aliases["v2.0"] != second || l.Aliases["main"] != second || len(l.Aliases) != 3 {
		t.Errorf("the versions are %v with %v, want %s and %s", got, l.Aliases, second, first)
	}
	if got := pull(t, s, store, first); len(got) != 2 || got["model.onnx"] != "one" ||
		got["data/größe 1"] != "weights" {
		t.Errorf("version %s is %v", first, got)
	}
	write(t, "three", r.dir, "models", "iris", "model.onnx")
	third := r.commit("three")
	r.git("tag", "--force", "v2.0", first)
	r.git("tag", "--delete", "v1.0")
	l = listing(t, s, "iris")
	if got := names(l); !slices.Equal(got, []string{third, second, first}) ||
		l.Aliases["v2.0"] != first || l.Aliases["main"] != third || len(l.Aliases) != 2 {
		t.Errorf("after a commit the versions are %v with %v", got, l.Aliases)
	}
	if got := pull(t, s, store, third); got["model.onnx"] != "three" {
		t.Errorf("version %s is %v", third, got)
	}
	f := pullFails(t, s, store)
	f("iris", "000000000000", source.ErrGone, "no such commit")
	f("iris", "main", source.ErrGone, "12 digits")
	f("iris", "--output=/tmp", source.ErrGone, "12 digits")
	f("nobody", first, source.ErrGone, "no such commit")
	f("../x", first, source.ErrRefused, "..")

	r.git("rm", "-r", "--quiet", "models/iris")
	r.commit("gone")
	results, err := s.Look(t.Context(), []string{"iris", "nobody", "other"})
	if err != nil || !errors.Is(results["iris"].Err, source.ErrGone) ||
		!errors.Is(results["nobody"].Err, source.ErrGone) || results["other"].Err != nil {
		t.Errorf("Look returns %v, %v", results, err)
	}
	if got := pull(t, s, store, second); got["model.onnx"] != "two" {
		t.Errorf("version %s is %v", second, got)
	}
}

// TestGitMirror opens mirrors again: one in which a git was killed, and one in which too
// much has gathered.
func TestGitMirror(t *testing.T) {
	r, first, second := newRepository(t)
	dir := t.TempDir()
	f := func(before func(mirror string)) {
		t.Helper()
		s, store := openGit(t, func(c *source.GitConfig) {
			c.URL, c.AllowFile, c.Dir = "file://"+r.dir, true, dir
		})
		mirrors, err := filepath.Glob(filepath.Join(dir, "*", "objects", "pack"))
		if err != nil {
			t.Fatal(err)
		}
		for _, packs := range mirrors {
			before(filepath.Dir(filepath.Dir(packs)))
		}
		// A version that was seen before can be pulled at once.
		if got := pull(t, s, store, first); got["model.onnx"] != "one" {
			t.Errorf("version %s is %v", first, got)
		}
		if got := names(listing(t, s, "iris")); !slices.Equal(got, []string{second, first}) {
			t.Errorf("the versions are %v", got)
		}
	}
	f(nil)
	f(func(mirror string) {
		for _, name := range []string{"config.lock", "refs/millrace/head.lock", "HEAD.lock"} {
			write(t, "", mirror, name)
		}
		r.git("tag", "--force", "v2.0", first)
	})
	var old string
	f(func(mirror string) {
		for i := range 501 {
			old = filepath.Join(mirror, "objects", "pack", fmt.Sprintf("pack-%d.idx", i))
			write(t, "no pack", old)
		}
	})
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mirror was not made anew: %v", err)
	}
}

// TestGitHTTP asks git's own server over HTTP, which wants a token.
func TestGitHTTP(t *testing.T) {
	r, first, second := newRepository(t)
	backend := filepath.Join(r.git("--exec-path"), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Skipf("this git has no server: %v", err)
	}
	var denied atomic.Int64
	handler := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + r.dir,
		"GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=" + os.DevNull}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, token, _ := req.BasicAuth()
		if user != "x-access-token" || token != "secret" {
			denied.Add(1)
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, req)
	}))
	defer server.Close()
	t.Setenv("GIT_TOKEN", "secret")
	var mirrors string
	open := func(env string) (*source.Git, *artifact.Store) {
		return openGit(t, func(c *source.GitConfig) {
			c.URL, c.Ref, c.TokenEnv, mirrors = server.URL+"/.git", "main", env, c.Dir
		})
	}
	s, store := open("GIT_TOKEN")
	l := listing(t, s, "iris")
	if got := names(l); !slices.Equal(got, []string{second, first}) || l.Aliases["main"] != second {
		t.Errorf("the versions are %v with %v", got, l.Aliases)
	}
	if n := blobs(t, mirrors); n != 0 {
		t.Errorf("a look has fetched %d files", n)
	}
	if got := pull(t, s, store, first); len(got) != 2 || got["model.onnx"] != "one" {
		t.Errorf("version %s is %v", first, got)
	}
	if n := blobs(t, mirrors); n != 2 || denied.Load() != 0 {
		t.Errorf("the mirror has %d files, %d calls had no token", n, denied.Load())
	}
	s, store = open("")
	if _, err := s.Look(t.Context(), []string{"iris"}); err == nil || denied.Load() == 0 {
		t.Errorf("without a token Look returns %v", err)
	}
	if _, err := s.Pull(t.Context(), "iris", first); err == nil || len(store.List()) != 0 {
		t.Errorf("without a token Pull returns %v", err)
	}
	s, _ = open("NO_SUCH_VARIABLE")
	if _, err := s.Look(t.Context(), []string{"iris"}); !errors.Is(err, source.ErrCredentials) {
		t.Errorf("with an empty token Look returns %v", err)
	}
}

// blobs counts the files that are in the one mirror below a folder.
func blobs(t testing.TB, dir string) int {
	t.Helper()
	mirrors, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(mirrors) != 1 {
		t.Fatalf("the mirrors are %v, %v", mirrors, err)
	}
	out := repository{t, mirrors[0]}.git("cat-file", "--batch-all-objects", "--unordered",
		"--batch-check=%(objecttype)")
	return strings.Count(out, "blob")
}

// TestGitHostile has links, submodules, pointers and hooks.
func TestGitHostile(t *testing.T) {
	r, _, _ := newRepository(t)
	in := func(parts ...string) string {
		return filepath.Join(append([]string{r.dir, "models", "iris"}, parts...)...)
	}
	f := func(prepare func() error, want error, text string) {
		t.Helper()
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		version := r.commit("hostile")
		s, store := openGit(t, func(c *source.GitConfig) {
			c.URL, c.AllowFile = "file://"+r.dir, true
		})
		pullFails(t, s, store)("iris", version, want, text)
		r.git("reset", "--quiet", "--hard", "HEAD~1")
		r.git("clean", "--quiet", "-ffdx")
	}
	f(func() error { return os.Symlink("/etc/passwd", in("passwd.onnx")) },
		source.ErrRefused, `"passwd.onnx" is a link or a submodule`)
	f(func() error {
		r.git("submodule", "--quiet", "add", "file://"+r.dir, "models/iris/sub")
		return nil
	}, source.ErrRefused, `"sub" is a link or a submodule`)
	f(func() error {
		write(t, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
			in("model.onnx"))
		return nil
	}, source.ErrLFS, "Git LFS")
	f(func() error { return os.Rename(in("model.onnx"), in("model.pt")) },
		source.ErrNotONNX, "PyTorch")

	f(func() error {
		write(t, strings.Repeat("a model\n", maxFileBytes/8+1), in("model.onnx"))
		return nil
	}, artifact.ErrTooLarge, "max_file_bytes")

	s, _ := openGit(t, func(c *source.GitConfig) {
		c.URL, c.Ref, c.AllowFile = "file://"+r.dir, "nothing", true
	})
	if _, err := s.Look(t.Context(), []string{"iris"}); !errors.Is(err, source.ErrGone) ||
		!strings.Contains(err.Error(), "nothing") {
		t.Errorf("a branch that is not there: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := s.Look(t.Context(), []string{"iris"}); !errors.Is(err, source.ErrNoGit) {
		t.Errorf("without git: %v", err)
	}
}
