package source_test

import (
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/registry/source"
)

// validator is a config of a source.
type validator interface{ Validate() error }

// TestConfigs reads settings of each kind over the default ones, and finds all faults.
func TestConfigs(t *testing.T) {
	f := func(cfg validator, text string, want ...string) {
		t.Helper()
		decoder := yaml.NewDecoder(strings.NewReader(text))
		decoder.KnownFields(true)
		if err := decoder.Decode(cfg); err != nil {
			t.Fatal(err)
		}
		err := cfg.Validate()
		if (err == nil) != (len(want) == 0) {
			t.Errorf("%T of %q: %v", cfg, text, err)
		}
		for _, fault := range want {
			if !strings.Contains(fmt.Sprint(err), fault) {
				t.Errorf("%T of %q: %v; want %q", cfg, text, err, fault)
			}
		}
	}
	digest := strings.Repeat("0", 64)
	ml, folder, blob := source.DefaultMLflowConfig, source.DefaultFolderConfig,
		source.DefaultBlobConfig
	git, oci, https := source.DefaultGitConfig, source.DefaultOCIConfig, source.DefaultHTTPSConfig
	f(of(ml()), "{uri: 'https://mlflow:5000/x', allow: [mlflow], token_env: T, timeout: 1m}")
	f(of(ml()), "{uri: 'http://h', artifacts: ['s3://b?region=x', 'file:///mlflow']}")
	f(of(ml()), "{uri: h, artifacts: ['http://x'], username: me}", "uri", "artifacts", "username")
	f(of(ml()), "{uri: 'http://h?x=y'}", "no query")
	f(of(folder()), "{path: /models}")
	f(of(folder()), "{path: models}", "absolute")
	f(of(git()), "{url: 'https://host/a.git', dir: /work, token_file: /token}")
	f(of(git()), "{url: 'ssh://git@host/a.git', ref: release/1.0, path: models/x, dir: /work}")
	f(of(git()), "{url: 'file:///a', dir: /work, allow_file: true}")
	f(of(git()), "{url: 'file:///a', dir: x}", "allow_file", "dir")
	f(of(git()), "{url: 'git@host:a', dir: /w}", "https://host")
	f(of(git()), "{url: 'ext::sh -c x', dir: /w}", "https://host")
	f(of(git()), "{url: 'ssh://-oProxyCommand=x/a', dir: /w}", "not a host")
	f(of(git()), "{url: 'https://me:secret@h/a', dir: /w}", "credentials")
	f(of(git()), "{url: 'https://h/a', dir: /w, ref: '--upload-pack=x'}", "ref")
	f(of(git()), "{url: 'https://h/a', dir: /w, ref: 'a..b', path: ../x}", "ref", "path")
	f(of(git()), "{url: 'https://h/a', dir: /w, versions: 0, timeout: 0s}", "versions", "timeout")
	f(of(git()), "{url: 'https://h/a', dir: /w, token_env: A, token_file: /b}", "both are set")
	f(of(blob()), "{url: 's3://b?region=x&endpoint=http://h:9000', prefix: models/}")
	f(of(blob()), "{url: 'gs://b'}")
	f(of(blob()), "{url: 'file:///x'}", "folder is a source of its own")
	f(of(blob()), "{url: 's3://b/models', prefix: ../x}", "into prefix", "prefix:")
	f(of(oci()), "{reference: ghcr.io/team/models, username: me, password_env: P}")
	f(of(oci()), "{reference: 'ghcr.io/team/models:v1', versions: 0}", "without a tag", "versions")
	f(of(oci()), "{reference: 'https://ghcr.io/a'}", "reference")
	f(of(https()), "{url: 'https://host/iris.onnx', sha256: '"+digest+"'}")
	f(of(https()), "{url: 'https://host/x?id=5', sha256: '"+digest+"', file: iris.onnx}")
	f(of(https()), "{url: 'https://host/x', sha256: ABC}", "sha256", "file")
	f(of(https()), "{url: 'https://h/x', sha256: '"+digest+"', file: ../x.onnx}", "file")
}

// of returns where a value lies.
func of[T any](v T) *T { return &v }
