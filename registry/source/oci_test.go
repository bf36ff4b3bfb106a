//go:build peers

package source_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/source"
)

// registryConfig is that of a registry with a user me, whose password is secret.
const registryConfig = `{version: 0.1, log: {level: warn}, http: {net: unix, addr: %q},
storage: {filesystem: {rootdirectory: %q}}, auth: {htpasswd: {realm: test, path: %q}}}`

// htpasswd is the user me with the password secret.
const htpasswd = "me:$2a$04$SHJ1oQTmhw.YeGhF9C6uvOK8xY5bO1TBGuixEm0OU/QO4jn9UwQxO\n"

// TestOCI reads a real registry: tags, latest, a big layer over a connection that breaks
// so often that the first attempt fails, and layers that are no files.
func TestOCI(t *testing.T) {
	registry := distribution.Build(t)
	dir, at := t.TempDir(), socket(t)
	write(t, htpasswd, dir, "htpasswd")
	write(t, fmt.Sprintf(registryConfig, at, filepath.Join(dir, "data"),
		filepath.Join(dir, "htpasswd")), dir, "config.yml")
	c, address := serve(t, at, registry, "serve", filepath.Join(dir, "config.yml"))
	t.Setenv("OCI_PASSWORD", "secret")
	open := func(env string) (*source.OCI, *artifact.Store) {
		return openOCI(t, address, env)
	}
	s, store := open("OCI_PASSWORD")
	p := pusher{t, address + "/team/models/iris"}
	p.push("v1.9", map[string]string{"model.onnx": "one", "data/größe": "weights"})
	p.push("v1.10", map[string]string{"model.onnx": "two"})
	p.push("latest", map[string]string{"model.onnx": "two"})
	p.push("sha256-abc.sig", map[string]string{"model.onnx": "a signature"})
	l := listing(t, s, "iris")
	if got := names(l); !slices.Equal(got, []string{"v1.10", "v1.9"}) ||
		l.Aliases["latest"] != "v1.10" {
		t.Errorf("the versions are %v with %v", got, l.Aliases)
	}
	if got := pull(t, s, store, "v1.9"); len(got) != 2 || got["model.onnx"] != "one" ||
		got["data/größe"] != "weights" {
		t.Errorf("version v1.9 is %v", got)
	}

	big := bigFile()
	p.push("latest", map[string]string{"model.onnx": string(big)})
	l = listing(t, s, "iris")
	newest := l.Aliases["latest"]
	if len(newest) != 12 || len(l.Versions) != 3 {
		t.Errorf("the versions are %v with %v", names(l), l.Aliases)
	}
	c.cuts.Store(5) // as many as there are attempts of one call
	c.sent.Store(0)
	if _, err := s.Pull(t.Context(), "iris", newest); err == nil {
		t.Fatal("a layer in parts made a version")
	}
	if got := pull(t, s, store, newest); got["model.onnx"] != string(big) {
		t.Errorf("the big file has %d bytes", len(got["model.onnx"]))
	}
	if sent := c.sent.Load(); sent > int64(len(big))*5/4 {
		t.Errorf("%d bytes were sent for a file of %d", sent, len(big))
	}

	damage(t, filepath.Join(dir, "data"), "weights")
	other, store := open("OCI_PASSWORD")
	pullFails(t, other, store)("iris", "v1.9", artifact.ErrMismatch, "data/größe")
	hostileOCI(t, other, store, p)

	f := func(env string, text string) {
		t.Helper()
		s, _ := open(env)
		results, err := s.Look(t.Context(), []string{"iris"})
		if fault := results["iris"].Err; err != nil || !errors.Is(fault, source.ErrCredentials) ||
			!strings.Contains(fmt.Sprint(fault), text) {
			t.Errorf("with %q Look returns %v, %v", env, results, err)
		}
	}
	f("", "password_env")
	f("NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE")
	t.Setenv("OCI_PASSWORD", "wrong")
	f("OCI_PASSWORD", "401")
}

// openOCI returns a source of a registry, asked as me if env names the password.
func openOCI(t *testing.T, address, env string) (*source.OCI, *artifact.Store) {
	t.Helper()
	cfg := source.DefaultOCIConfig()
	cfg.Access = loopback()
	cfg.Reference, cfg.PlainHTTP = address+"/team/models", true
	if env != "" {
		cfg.Username, cfg.PasswordEnv = "me", env
	}
	store := newStore(t)
	s, err := source.NewOCI(cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, store
}

// hostileOCI pushes and asks for what is no model.
func hostileOCI(t *testing.T, s *source.OCI, store *artifact.Store, p pusher) {
	f := pullFails(t, s, store)
	p.push("out", map[string]string{"../model.onnx": "x.onnx", "a.onnx": "fine"})
	p.push("pickled", map[string]string{"model.pkl": "x"})
	p.push("image", map[string]string{"": "a layer of an image"})
	f("iris", "out", artifact.ErrInvalid, "../model.onnx")
	f("iris", "pickled", source.ErrNotONNX, "scikit-learn")
	f("iris", "image", source.ErrNotONNX, "no layer has the annotation")
	f("iris", "v3", source.ErrGone, "cannot pull iris version v3")
	f("iris", "000000000000", source.ErrGone, "cannot pull")
	f("iris", "a:b", source.ErrGone, "no tag")
	f("nobody", "v1", source.ErrGone, "nobody")
	f("Upper", "v1", source.ErrRefused, "name of a repository")
	results, err := s.Look(t.Context(), []string{"nobody"})
	if err != nil || !errors.Is(results["nobody"].Err, source.ErrGone) {
		t.Errorf("Look returns %v, %v", results, err)
	}
}

// damage changes the file that holds a text, without changing its size.
func damage(t *testing.T, dir, text string) {
	t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	found, err := filepath.Glob(filepath.Join(dir, "docker/registry/v2/blobs/sha256", sum[:2], sum,
		"data"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the file is one of %v, %v", found, err)
	}
	if err := os.WriteFile(found[0], []byte(strings.ToUpper(text)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// pusher pushes artifacts as oras does.
type pusher struct {
	t          *testing.T
	repository string
}

func (p pusher) push(tag string, files map[string]string) {
	p.t.Helper()
	ctx := p.t.Context()
	r, err := remote.NewRepository(p.repository)
	if err != nil {
		p.t.Fatal(err)
	}
	r.PlainHTTP, r.Client = true, basic{}
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.test", Config: ocispec.DescriptorEmptyJSON}
	manifest.SchemaVersion = 2
	push := func(d ocispec.Descriptor, data []byte) {
		p.t.Helper()
		if err := r.Push(ctx, d, strings.NewReader(string(data))); err != nil {
			p.t.Fatal(err)
		}
	}
	push(ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data)
	for name, text := range files {
		layer := content.NewDescriptorFromBytes("application/octet-stream", []byte(text))
		push(layer, []byte(text))
		if name != "" {
			layer.Annotations = map[string]string{ocispec.AnnotationTitle: name}
		}
		manifest.Layers = append(manifest.Layers, layer)
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		p.t.Fatal(err)
	}
	d := content.NewDescriptorFromBytes(manifest.MediaType, text)
	if err := r.PushReference(ctx, d, strings.NewReader(string(text)), tag); err != nil {
		p.t.Fatal(err)
	}
}

// basic asks as me.
type basic struct{}

// Do carries out a request.
func (basic) Do(r *http.Request) (*http.Response, error) {
	r.SetBasicAuth("me", "secret")
	return http.DefaultClient.Do(r)
}

// TestOCIToken asks a registry that wants a token, which another path of the server gives
// for a password, as public registries do.
func TestOCIToken(t *testing.T) {
	registry := distribution.Build(t)
	dir, at := t.TempDir(), socket(t)
	config, _, _ := strings.Cut(registryConfig, ", auth")
	write(t, fmt.Sprintf(config+"}", at, filepath.Join(dir, "data")), dir, "config.yml")
	c, address := serve(t, at, registry, "serve", filepath.Join(dir, "config.yml"))
	pusher{t, address + "/team/models/iris"}.push("v1", map[string]string{"model.onnx": "one"})
	server := c.Handler
	c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/token" && user == "me" && password == "secret":
			_, _ = fmt.Fprintf(w, `{"token":%q}`, r.URL.Query().Get("scope"))
		case r.Header.Get("Authorization") == "Bearer repository:team/models/iris:pull":
			server.ServeHTTP(w, r)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+address+
				`/token",service="x",scope="repository:team/models/iris:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	t.Setenv("OCI_PASSWORD", "secret")
	s, store := openOCI(t, address, "OCI_PASSWORD")
	if got := names(listing(t, s, "iris")); !slices.Equal(got, []string{"v1"}) {
		t.Errorf("the versions are %v", got)
	}
	if got := pull(t, s, store, "v1"); got["model.onnx"] != "one" {
		t.Errorf("version v1 is %v", got)
	}
	t.Setenv("OCI_PASSWORD", "wrong")
	s, store = openOCI(t, address, "OCI_PASSWORD")
	pullFails(t, s, store)("iris", "v1", source.ErrCredentials, "401")
}
