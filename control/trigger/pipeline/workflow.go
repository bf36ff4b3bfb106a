package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

// Workflow is a workflow of GitHub Actions or of Gitea Actions. The address is that of
// the API at GitHub, and that of the server at Gitea.
type Workflow struct {
	Repository string // owner/name
	File       string // of the workflow, or its number; started by a workflow_dispatch
	Ref        string // branch or tag
	EventType  string // of a repository_dispatch of GitHub, in place of File and Ref
	// RunName says that the workflow's run-name has the input millrace_run, such as
	// "train ${{ inputs.millrace_run }}"; client_payload.millrace_run at a
	// repository_dispatch. Then runs can be found by it.
	RunName bool
}

func (w *Workflow) validate(dispatches bool) error {
	var f faults
	f.repository("repository", w.Repository)
	switch {
	case w.EventType == "":
		f.name("file", w.File)
		f.filled("ref", w.Ref)
	case !dispatches:
		f = append(f, errors.New("event_type: only GitHub has it; set file and ref"))
	case w.File != "" || w.Ref != "":
		f = append(f, errors.New("event_type: leave out file and ref, or event_type"))
	case !w.RunName:
		f = append(f, errors.New("run_name: is needed, as a repository_dispatch has no id: put "+
			"client_payload.millrace_run into the workflow's run-name, and set run_name"))
	}
	return errors.Join(f...)
}

func (w *Workflow) guarantee() trigger.Guarantee {
	if w.RunName {
		return trigger.Finds
	}
	return trigger.Blind
}

// github is a Workflow of GitHub.
type github Workflow

func (w *github) validate() error { return (*Workflow)(w).validate(true) }

func (w *github) guarantee() trigger.Guarantee { return (*Workflow)(w).guarantee() }

func (w *github) open(c Config) (runs, *conn, error) {
	h := http.Header{"Accept": {"application/vnd.github+json"}}
	h.Set("X-GitHub-Api-Version", "2022-11-28")
	return openWorkflow(Workflow(*w), c, h, "")
}

// gitea is a Workflow of Gitea.
type gitea Workflow

func (w *gitea) validate() error { return (*Workflow)(w).validate(false) }

func (w *gitea) guarantee() trigger.Guarantee { return (*Workflow)(w).guarantee() }

func (w *gitea) open(c Config) (runs, *conn, error) {
	return openWorkflow(Workflow(*w), c, http.Header{"Accept": {"application/json"}}, "/api/v1")
}

func openWorkflow(w Workflow, c Config, h http.Header, prefix string,
) (runs, *conn, error) {
	server, err := dial(c.Server)
	if err != nil {
		return nil, nil, err
	}
	server.headers = func(context.Context) (http.Header, error) { return h, nil }
	return &workflow{Workflow: w, conn: server, config: c, gitea: prefix != "",
		repo: prefix + "/repos/" + w.Repository}, server, nil
}

// workflow starts runs of one workflow. A run's External is the server's run id, or
// byTitle and our Name as long as that is not known.
type workflow struct {
	Workflow
	conn   *conn
	config Config
	gitea  bool
	repo   string
}

const byTitle = "title:"

// actionsRun is a run.
type actionsRun struct {
	ID         int64  `json:"id"`
	Title      string `json:"display_title"`
	Status     string `json:"status"`
	Conclusion string `json:"conclusion"`
	URL        string `json:"html_url"`
}

// Start dispatches a run.
func (p *workflow) Start(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	if p.EventType != "" {
		return p.dispatchEvent(ctx, r)
	}
	return p.dispatch(ctx, r)
}

// find looks for a run whose title has the name.
func (p *workflow) find(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	if !p.RunName {
		return trigger.Status{}, nil
	}
	run, err := p.titled(ctx, r.Name(), r.Began.Add(-tardy))
	if err != nil || run.ID == 0 {
		return trigger.Status{}, err
	}
	return started(run.ID, run.URL), nil
}

func started(id int64, link string) trigger.Status {
	return trigger.Status{State: trigger.Running, External: strconv.FormatInt(id, 10), Link: link}
}

// titled looks for a run by its title among the latest, from a time on if that is known.
func (p *workflow) titled(ctx context.Context, name string, since time.Time) (actionsRun, error) {
	query := url.Values{"event": {"workflow_dispatch"}, "per_page": {"100"}}
	path := "/actions/workflows/" + url.PathEscape(p.File) + "/runs?"
	if p.EventType != "" {
		path = "/actions/runs?"
		query.Set("event", "repository_dispatch")
	}
	if p.gitea { // it has no runs of one workflow, and other names
		path = "/actions/runs?"
		query = url.Values{"event": {"workflow_dispatch"}, "limit": {"50"}}
	} else if !since.IsZero() {
		query.Set("created", ">="+since.UTC().Format(time.RFC3339))
	}
	var list struct {
		Runs []actionsRun `json:"workflow_runs"`
	}
	_, err := p.conn.call(ctx, request{path: p.repo + path + query.Encode()}, &list)
	for _, run := range list.Runs {
		if mentions(run.Title, name) {
			return run, err
		}
	}
	return actionsRun{}, err
}

// dispatch starts the workflow, and asks for the run's id, which old servers do not tell.
func (p *workflow) dispatch(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	req := request{method: http.MethodPost, starts: true,
		path: p.repo + "/actions/workflows/" + url.PathEscape(p.File) + "/dispatches"}
	body := map[string]any{"ref": p.Ref, "inputs": p.config.inputs(r)}
	if p.gitea {
		req.path += "?return_run_details=true"
	} else {
		body["return_run_details"] = true
	}
	req.body = body
	var got struct {
		ID  int64  `json:"workflow_run_id"`
		URL string `json:"html_url"`
	}
	a, err := p.conn.call(ctx, req, &got)
	if a.status == http.StatusUnprocessableEntity &&
		strings.Contains(string(a.body), "return_run_details") {
		delete(body, "return_run_details")
		_, err = p.conn.call(ctx, req, &got)
	}
	if err != nil {
		return trigger.Status{}, err
	}
	if got.ID == 0 {
		return trigger.Status{State: trigger.Running, External: byTitle + r.Name()}, nil
	}
	return started(got.ID, got.URL), nil
}

// dispatchEvent sends a repository_dispatch. Its payload may have ten fields, so a
// person's own parameters are in one of them.
func (p *workflow) dispatchEvent(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	payload := make(map[string]any)
	extra := make(map[string]string)
	for key, value := range p.config.inputs(r) {
		if _, own := r.Context.Extra[key]; own {
			extra[key] = value
		} else {
			payload[key] = value
		}
	}
	if len(extra) > 0 {
		payload["extra"] = extra
	}
	body := map[string]any{"event_type": p.EventType, "client_payload": payload}
	_, err := p.conn.call(ctx, request{method: http.MethodPost, path: p.repo + "/dispatches",
		starts: true, body: body}, nil)
	return trigger.Status{State: trigger.Running, External: byTitle + r.Name()}, err
}

// conclusions are ours for a run's status, or its conclusion once it is completed.
var conclusions = map[string]trigger.State{"requested": trigger.Running,
	"queued": trigger.Running, "pending": trigger.Running, "waiting": trigger.Running,
	"blocked": trigger.Running, "in_progress": trigger.Running, "running": trigger.Running,
	"success": trigger.Succeeded, "neutral": trigger.Succeeded, "failure": trigger.Failed,
	"timed_out": trigger.Failed, "action_required": trigger.Failed, "stale": trigger.Failed,
	"startup_failure": trigger.Failed, "skipped": trigger.Failed, "cancelled": trigger.Cancelled}

// Status looks at a run, and reads the log of the job that failed.
func (p *workflow) Status(ctx context.Context, external string) (trigger.Status, error) {
	var run actionsRun
	var err error
	if name, found := strings.CutPrefix(external, byTitle); found {
		if run, err = p.titled(ctx, name, time.Time{}); err == nil && run.ID == 0 {
			err = &trigger.Fault{Kind: trigger.ErrGone, Text: "no run has the title " + name +
				"; put the input millrace_run into the workflow's run-name"}
		}
	} else {
		_, err = p.conn.call(ctx, request{path: p.repo + "/actions/runs/" + external}, &run)
		if err == nil {
			err = same(strconv.FormatInt(run.ID, 10), external, nil)
		}
	}
	if err != nil {
		return trigger.Status{}, err
	}
	word := run.Status
	if word == "completed" {
		word = run.Conclusion
	}
	s := started(run.ID, run.URL)
	if s.State = conclusions[word]; s.State == "" {
		return trigger.Status{}, unknown(word)
	}
	if s.State == trigger.Failed {
		s.Detail, s.Logs = p.failure(ctx, s.External)
		if s.Detail == "" {
			s.Detail = "its conclusion is " + word
		}
	}
	return s, nil
}

// failure returns which job has failed, and its log. What cannot be had is left out.
func (p *workflow) failure(ctx context.Context, id string) (detail, logs string) {
	var list struct {
		Jobs []struct {
			ID         int64  `json:"id"`
			Name       string `json:"name"`
			Conclusion string `json:"conclusion"`
		} `json:"jobs"`
	}
	_, err := p.conn.call(ctx, request{path: p.repo + "/actions/runs/" + id + "/jobs"}, &list)
	if err != nil {
		return "", ""
	}
	for _, job := range list.Jobs {
		if conclusions[job.Conclusion] == trigger.Failed {
			detail = fmt.Sprintf("the job %.200s has failed", job.Name)
			a, err := p.conn.call(ctx,
				request{path: fmt.Sprintf("%s/actions/jobs/%d/logs", p.repo, job.ID)}, nil)
			if err != nil {
				return detail, ""
			}
			return detail, string(a.body)
		}
	}
	return "", ""
}

// Cancel cancels a run whose id is known.
func (p *workflow) Cancel(ctx context.Context, external string) error {
	if strings.HasPrefix(external, byTitle) {
		return &trigger.Fault{Text: "it cannot be cancelled before it was found"}
	}
	_, err := p.conn.call(ctx, request{method: http.MethodPost,
		path: p.repo + "/actions/runs/" + external + "/cancel"}, nil)
	return err
}
