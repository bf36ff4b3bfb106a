// Package pipeline has the kinds of pipelines that triggers start: jobs of Airflow,
// Kubeflow, GoCD, GitHub, GitLab, Gitea, Argo Workflows and Jenkins, signed webhooks and
// local commands.
//
// [Open] makes a [Pipeline] of a [Config], which is a trigger.Pipeline: all its methods
// may be called concurrently. Nothing runs between the calls, and nothing is kept but
// what a local command leaves in its folder.
//
// What happens when a start is made twice, as after a crash:
//
//	airflow, argo       the server keeps the name: 409 means that it has started
//	webhook             the receiver leaves out a webhook-id that it has had
//	command             a folder of the run's name is made first; if it is there already,
//	                    the command has started
//	kubeflow            runs are searched for one with the name
//	github, gitea       runs are searched for a title with the name, if the workflow puts
//	                    it there (run_name); else nobody can tell
//	gitlab              the latest pipelines are searched for one with the name among its
//	                    variables
//	jenkins             queue and latest builds are searched for one with the name among
//	                    its parameters
//	gocd                history is searched for a run that our user has forced since the
//	                    attempt began; so nobody else should be that user
//
// Calls go through package fetch: addresses are checked, credentials go to the server's
// own origin only, a server that fails all the time is left alone for a while. Secrets
// are read from a file or the environment at each call, and taken out of all texts that
// are returned.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// Config is one pipeline. Exactly one of the kinds is set.
type Config struct {
	// Server says where the server is and who we are there. Its Origin is the address
	// below which the API lies, with a prefix where there is one.
	Server fetch.Config
	// Inputs names the parameters that are sent, for servers that refuse those that
	// their job does not declare. Empty sends all. The run's name is always sent.
	Inputs []string

	Airflow  *Airflow
	Kubeflow *Kubeflow
	GoCD     *GoCD
	GitHub   *Workflow
	Gitea    *Workflow
	GitLab   *GitLab
	Argo     *Argo
	Jenkins  *Jenkins
	Webhook  *Webhook
	Command  *Command
}

// DefaultServer has all but the address.
func DefaultServer() fetch.Config {
	cfg := fetch.DefaultConfig()
	cfg.MaxBytes = 4 << 20 // a list of runs, or a log
	cfg.Timeout = 30 * time.Second
	cfg.IdleTimeout = 20 * time.Second
	cfg.Attempts = 3
	cfg.MaxBackoff = 5 * time.Second
	return cfg
}

// kind is what a kind's settings have in common.
type kind interface {
	validate() error
	guarantee() trigger.Guarantee
	// open returns the pipeline and what it makes its calls by; nil if it makes none.
	open(c Config) (runs, *conn, error)
}

// runs are those of a kind. Its methods are those of a trigger.Pipeline.
type runs interface {
	Start(ctx context.Context, r trigger.Run) (trigger.Status, error)
	Status(ctx context.Context, external string) (trigger.Status, error)
	Cancel(ctx context.Context, external string) error
}

// finder has the runs of a server that does not keep names: Start would make another one.
type finder interface {
	// find looks for a run by its name. The Status has no External if it is not there.
	find(ctx context.Context, r trigger.Run) (trigger.Status, error)
}

// kind returns the one that is set. Its error says that there is none, or that there
// are several.
func (c Config) kind() (kind, error) {
	var found []kind
	for _, k := range []kind{c.Airflow, c.Kubeflow, c.GoCD, (*github)(c.GitHub),
		(*gitea)(c.Gitea), c.GitLab, c.Argo, c.Jenkins, c.Webhook, c.Command} {
		if !reflect.ValueOf(k).IsNil() {
			found = append(found, k)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d kinds are set; one of airflow, kubeflow, gocd, github, gitea, "+
			"gitlab, argo, jenkins, webhook and command must be", len(found))
	}
	return found[0], nil
}

// Validate lists all faults.
func (c Config) Validate() error {
	k, err := c.kind()
	if err != nil {
		return err
	}
	faults := []error{k.validate()}
	if _, local := k.(*Command); !local {
		faults = append(faults, c.Server.Validate())
	}
	return errors.Join(faults...)
}

// Pipeline is a pipeline that is ready to start runs. Close it after use.
type Pipeline struct {
	// Guarantee belongs into the trigger's Spec.
	Guarantee trigger.Guarantee
	kind      runs
	conn      *conn // nil for local commands
}

// Open returns a pipeline. It asks nobody yet.
func Open(c Config) (*Pipeline, error) {
	err := c.Validate()
	if err != nil {
		return nil, fmt.Errorf("pipeline: %w", err)
	}
	k, err := c.kind()
	if err != nil {
		return nil, fmt.Errorf("pipeline: %w", err)
	}
	p := &Pipeline{Guarantee: k.guarantee()}
	if p.kind, p.conn, err = k.open(c); err != nil {
		return nil, fmt.Errorf("pipeline: %w", err)
	}
	return p, nil
}

// Close closes the connections that wait for more calls. Runs go on.
func (p *Pipeline) Close() {
	if p.conn != nil {
		p.conn.close()
	}
}

// Start starts a run, or finds that it has started before.
func (p *Pipeline) Start(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	s, err := p.find(ctx, r)
	if err != nil || s.External != "" {
		return p.scrub(s), err
	}
	s, err = p.kind.Start(ctx, r)
	if err == nil && s.External == "" {
		err = &trigger.Fault{Kind: trigger.ErrUncertain, Text: "the server's answer has no id"}
	}
	return p.scrub(s), err
}

// Status looks at a run, and for one that has no External.
func (p *Pipeline) Status(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	if r.External != "" {
		s, err := p.kind.Status(ctx, r.External)
		return p.scrub(s), err
	}
	s, err := p.find(ctx, r)
	if err == nil && s.External == "" {
		err = &trigger.Fault{Kind: trigger.ErrGone, Text: "no run is called " + r.Name()}
	}
	return p.scrub(s), err
}

// find looks for a run by its name where the kind can.
func (p *Pipeline) find(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	if f, ok := p.kind.(finder); ok {
		return f.find(ctx, r)
	}
	return trigger.Status{}, nil
}

// Cancel asks to end a run.
func (p *Pipeline) Cancel(ctx context.Context, external string) error {
	return p.kind.Cancel(ctx, external)
}

// scrub takes secrets out of what a server writes.
func (p *Pipeline) scrub(s trigger.Status) trigger.Status {
	if p.conn != nil {
		for _, text := range []*string{&s.External, &s.Link, &s.Logs, &s.Detail} {
			*text = p.conn.scrub(*text)
		}
	}
	return s
}

// inputs returns the parameters that are sent.
func (c Config) inputs(r trigger.Run) map[string]string {
	all := r.Parameters()
	if len(c.Inputs) == 0 {
		return all
	}
	some := map[string]string{trigger.RunKey: all[trigger.RunKey]}
	for _, key := range c.Inputs {
		if value, ok := all[key]; ok {
			some[key] = value
		}
	}
	return some
}

// faults gathers what is wrong with a kind's settings.
type faults []error

// name wants a name that can stand in a path.
func (f *faults) name(key, value string) {
	switch {
	case value == "":
		*f = append(*f, fmt.Errorf("%s: is missing", key))
	case value == "." || value == ".." || strings.ContainsAny(value, "/?#\\\n"):
		*f = append(*f, fmt.Errorf("%s: %.80q cannot be a name", key, value))
	}
}

// filled wants a value.
func (f *faults) filled(key, value string) {
	if value == "" {
		*f = append(*f, fmt.Errorf("%s: is missing", key))
	}
}

var repository = regexp.MustCompile(`^[A-Za-z0-9_.-]*[A-Za-z0-9_-]/[A-Za-z0-9_.-]*[A-Za-z0-9_-]$`)

// repository wants "owner/name".
func (f *faults) repository(key, value string) {
	if !repository.MatchString(value) {
		*f = append(*f, fmt.Errorf("%s: %.80q; owner/name is wanted", key, value))
	}
}

// unknown says that a server's word for a state is not one that we know.
func unknown(state string) error {
	return &trigger.Fault{Text: fmt.Sprintf("the server says that the run is %.40q, which is "+
		"no state that is known", state)}
}

// same wants the run to come that was asked for; its error is a Fault of a kind.
func same(got, want string, kind error) error {
	if got == want {
		return nil
	}
	return &trigger.Fault{Kind: kind,
		Text: fmt.Sprintf("the server answers with the run %.80q, not %q", got, want)}
}

// isNot says that a character is none of a run's Name.
func isNot(c rune) bool {
	return c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z')
}

// mentions says whether a text has a run's name as a whole word. The name of a later
// attempt begins with that of the first.
func mentions(text, name string) bool {
	return slices.Contains(strings.FieldsFunc(text, isNot), name)
}

// tardy is how far a server's clock may be from ours when runs are searched by time.
const tardy = time.Hour
