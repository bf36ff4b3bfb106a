package source

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"gocloud.dev/gcerrors"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/millrace-ml/millrace/registry/fetch"
	"github.com/millrace-ml/millrace/registry/mlflow"
)

// Access says how a server is asked over HTTP, and as whom.
type Access struct {
	// Networks, addresses and host names that may be reached though they are not public.
	Allow  []string `yaml:"allow"`
	CAFile string   `yaml:"ca_file"` // authorities to trust in place of the system's, in PEM

	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"` // read at each call, as all below
	PasswordEnv  string `yaml:"password_env"`  // name of an environment variable
	TokenFile    string `yaml:"token_file"`
	TokenEnv     string `yaml:"token_env"`

	Timeout time.Duration `yaml:"timeout"` // of one call, with all bytes of a file
}

// DefaultAccess asks public servers, as nobody.
func DefaultAccess() Access { return Access{Timeout: fetch.DefaultConfig().Timeout} }

// config is for a client that sends the credentials to one origin.
func (a Access) config(origin string) fetch.Config {
	cfg := fetch.DefaultConfig()
	cfg.Origin, cfg.Allow, cfg.CAFile, cfg.Timeout = origin, a.Allow, a.CAFile, a.Timeout
	cfg.Username, cfg.PasswordFile, cfg.PasswordEnv = a.Username, a.PasswordFile, a.PasswordEnv
	cfg.TokenFile, cfg.TokenEnv = a.TokenFile, a.TokenEnv
	return cfg
}

// classify adds to an error of another package what it means here, if it is known.
func classify(err error) error {
	status := 0
	if e, ok := errors.AsType[*fetch.Error](err); ok {
		status = e.Status
	} else if e, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		status = e.StatusCode
	}
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case is(ErrGone), is(ErrCredentials):
		return err
	case is(mlflow.ErrNotFound), is(errdef.ErrNotFound), status == http.StatusNotFound,
		status == http.StatusGone, gcerrors.Code(err) == gcerrors.NotFound:
		return fmt.Errorf("%w: %w", ErrGone, err)
	case is(auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("%w: set username and password_env or password_file: %w",
			ErrCredentials, err)
	case is(mlflow.ErrDenied), is(fetch.ErrCredentials), status == http.StatusUnauthorized,
		status == http.StatusForbidden, refusedByS3(err):
		return fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return err
}

// refusedByS3 finds the answers to wrong keys, which gcerrors does not know, too.
func refusedByS3(err error) bool {
	answer, ok := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err)
	return gcerrors.Code(err) == gcerrors.PermissionDenied ||
		ok && answer.HTTPStatusCode() == http.StatusForbidden
}

// secret reads a password or token. It is empty where neither a file nor the name of
// an environment variable is given.
func secret(file, env string) (string, error) {
	if file == "" && env == "" {
		return "", nil
	}
	text, err := fetch.Secret(file, env)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return text, err
}
