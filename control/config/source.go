package config

import (
	"fmt"
	"net/url"
	"slices"
	"time"
)

// Source is where versions of models come from. It has one of mlflow, folder, git, blob, oci,
// https and push.
type Source struct {
	// What models say as their source.
	Name string `yaml:"name" check:"filled"`
	// How often the source is asked for news. 0 is 30s.
	Poll   time.Duration `yaml:"poll" min:"0s" max:"24h"`
	MLflow *MLflow       `yaml:"mlflow"`
	Folder *Folder       `yaml:"folder"`
	Git    *Git          `yaml:"git"`
	Blob   *Blob         `yaml:"blob"`
	OCI    *OCI          `yaml:"oci"`
	HTTPS  *HTTPS        `yaml:"https"`
	// Versions come by `millrace push` and the API alone.
	Push    bool     `yaml:"push"`
	Access  Access   `yaml:"access"`
	Convert *Convert `yaml:"convert"`
}

// MLflow is a model registry of MLflow 2 or 3.
type MLflow struct {
	// The server's address, with its static prefix where it has one.
	URI string `yaml:"uri" check:"filled"`
	// Environment variable with the secret of the registry's webhooks, which are taken at
	// /api/v1/sources/NAME/webhook of the admin address. Empty takes none.
	WebhookSecretEnv string `yaml:"webhook_secret_env"`
	// Places that are read directly where the server does not hand files out itself, such as
	// s3://bucket/mlflow?region=eu-west-1. All others are refused.
	Artifacts []string `yaml:"artifacts"`
	// The MLflow experiment that rollouts and tests are logged under. Empty is `millrace`.
	Experiment string `yaml:"experiment"`
}

// Folder has models as MODEL/VERSION/files.
type Folder struct {
	// A relative path starts at the settings file.
	Path string `yaml:"path" check:"filled"`
}

// Git is a repository in which each model is a folder; the commits that changed it are its
// versions.
type Git struct {
	// https, ssh, or file with an absolute path.
	URL string `yaml:"url" check:"filled"`
	// Branch or tag. Empty is the repository's default branch.
	Ref string `yaml:"ref"`
	// Folder of the models in the repository. Empty is its root.
	Path string `yaml:"path"`
}

// Blob is object storage, with models as PREFIX/MODEL/VERSION/files.
type Blob struct {
	// s3://BUCKET?region=R&endpoint=E, gs://BUCKET or azblob://CONTAINER?storage_account=A.
	// Credentials are those of the storage's own tools.
	URL string `yaml:"url" check:"filled"`
	// What stands before the model's name.
	Prefix string `yaml:"prefix"`
}

// OCI is a registry of OCI artifacts; a model's tags are its versions.
type OCI struct {
	// HOST/PATH; the model's name follows.
	Repository string `yaml:"repository" check:"filled"`
	// Speak HTTP without TLS.
	PlainHTTP bool `yaml:"plain_http"`
}

// HTTPS is one file of one version.
type HTTPS struct {
	// The file; http is taken on loopback only.
	URL string `yaml:"url" check:"filled"`
	// The SHA-256 sum of the file.
	SHA256 string `yaml:"sha256" check:"filled"`
}

// Access says as whom a source is asked, and where it may lead. Secrets stand in environment
// variables or files, never in the settings.
type Access struct {
	// Goes with the password.
	Username string `yaml:"username"`
	// Environment variable with the password.
	PasswordEnv string `yaml:"password_env"`
	// File with the password.
	PasswordFile string `yaml:"password_file"`
	// Environment variable with a token, which is sent as a bearer.
	TokenEnv string `yaml:"token_env"`
	// File with the token.
	TokenFile string `yaml:"token_file"`
	// PEM file of the authorities to trust in place of the system's.
	CAFile string `yaml:"ca_file"`
	// Networks, addresses and hosts that the source may lead to though they are not public.
	// The source's own host may always be asked.
	Allow []string `yaml:"allow"`
}

// Convert makes ONNX of models of other kinds, in a child process with bounds.
type Convert struct {
	// Program and arguments; the folder of the model and that of the result follow.
	Command []string `yaml:"command"`
	// Time for one model. 0 is 5m.
	Timeout time.Duration `yaml:"timeout" min:"0s" max:"24h"`
	// Memory for one model. 0 is 4GiB.
	Memory Size `yaml:"memory" min:"0B" max:"16TiB"`
}

// PollInterval is how often the source is asked.
func (s *Source) PollInterval() time.Duration {
	if s.Poll > 0 {
		return s.Poll
	}
	return 30 * time.Second
}

// sources holds the sources against each other, and models against them.
func (c *checker) sources(all *Config) {
	names := make(map[string]string)
	for i := range all.Sources {
		s := &all.Sources[i]
		key := fmt.Sprintf("sources[%d]", i)
		c.once(names, s.Name, key)
		c.source(s, key)
	}
	for i := range all.Models {
		m := &all.Models[i]
		key := fmt.Sprintf("models[%d]", i)
		if _, ok := names[m.Source]; m.Source != "" && !ok {
			c.fault(key+".source", "is %q, which no source is called", m.Source)
		}
		if m.Source == "" && m.Registered != "" {
			c.fault(key+".registered", "is a name at a source; name that in source")
		}
	}
}

func (c *checker) source(s *Source, key string) {
	count := 0
	for _, is := range [...]bool{s.MLflow != nil, s.Folder != nil, s.Git != nil, s.Blob != nil,
		s.OCI != nil, s.HTTPS != nil, s.Push} {
		if is {
			count++
		}
	}
	if count != 1 {
		c.fault(key, "has %d of mlflow, folder, git, blob, oci, https and push, must have one",
			count)
	}
	if s.MLflow != nil {
		c.url(key+".mlflow.uri", s.MLflow.URI, "http", "https")
	}
	if s.Git != nil {
		c.url(key+".git.url", s.Git.URL, "https", "http", "ssh", "file")
	}
	if s.Blob != nil {
		c.url(key+".blob.url", s.Blob.URL, "s3", "gs", "azblob")
	}
	if s.HTTPS != nil {
		c.url(key+".https.url", s.HTTPS.URL, "https", "http")
	}
	if s.Convert != nil && len(s.Convert.Command) == 0 {
		c.fault(key+".convert.command", "is empty, must be a program and its arguments")
	}
}

// url wants an address with one of the schemes.
func (c *checker) url(key, text string, schemes ...string) {
	u, err := url.Parse(text)
	if text != "" && (err != nil || !slices.Contains(schemes, u.Scheme) || u.Opaque != "") {
		c.fault(key, "is %q, must be a URL that begins with one of %q", text, schemes)
	}
}
