package pipeline

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

// GitLab is the pipeline of a project. The server's token follows and cancels it, and
// has to be allowed to read a pipeline's variables; a token of its own starts it.
type GitLab struct {
	Project string // its number, or group/name
	Ref     string // branch or tag
	// The pipeline trigger token.
	TriggerTokenFile, TriggerTokenEnv string
}

func (g *GitLab) token() secret { return secret{g.TriggerTokenFile, g.TriggerTokenEnv} }

func (g *GitLab) validate() error {
	var f faults
	f.filled("project", g.Project)
	f.filled("ref", g.Ref)
	f = append(f, g.token().validate("trigger_token", true))
	return errors.Join(f...)
}

func (g *GitLab) guarantee() trigger.Guarantee { return trigger.Finds }

func (g *GitLab) open(c Config) (runs, *conn, error) {
	server, err := dial(c.Server, g.token())
	return &gitlab{*g, server, c, "/api/v4/projects/" + url.PathEscape(g.Project)}, server, err
}

// gitlab starts pipelines of one project. A run's External is the pipeline's number.
type gitlab struct {
	GitLab
	conn    *conn
	config  Config
	project string
}

// gitlabPipeline is a pipeline.
type gitlabPipeline struct {
	ID      int64     `json:"id"`
	Status  string    `json:"status"`
	URL     string    `json:"web_url"`
	Created time.Time `json:"created_at"`
}

// Start starts a pipeline.
func (p *gitlab) Start(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	token, err := p.token().read()
	if err != nil {
		return trigger.Status{}, err
	}
	form := url.Values{"token": {token}, "ref": {p.Ref}}
	for key, value := range p.config.inputs(r) {
		form.Set("variables["+key+"]", value)
	}
	var got gitlabPipeline
	if _, err = p.conn.call(ctx, request{method: http.MethodPost, starts: true, body: form,
		path: p.project + "/trigger/pipeline"}, &got); err != nil || got.ID == 0 {
		return trigger.Status{}, err
	}
	return started(got.ID, got.URL), nil
}

// searched is how many pipelines are looked at in a search.
const searched = 20

// find looks for a pipeline with the name among its variables.
func (p *gitlab) find(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	var list []gitlabPipeline
	query := url.Values{"source": {"trigger"}, "order_by": {"id"}, "sort": {"desc"},
		"per_page": {strconv.Itoa(searched)}}
	if _, err := p.conn.call(ctx, request{path: p.project + "/pipelines?" + query.Encode()},
		&list); err != nil {
		return trigger.Status{}, err
	}
	for _, one := range list[:min(len(list), searched)] {
		if one.Created.Before(r.Began.Add(-tardy)) {
			continue
		}
		var variables []struct{ Key, Value string }
		if _, err := p.conn.call(ctx, request{path: p.one(strconv.FormatInt(one.ID, 10)) +
			"/variables"}, &variables); err != nil {
			return trigger.Status{}, err
		}
		for _, v := range variables {
			if v.Key == trigger.RunKey && v.Value == r.Name() {
				return started(one.ID, one.URL), nil
			}
		}
	}
	return trigger.Status{}, nil
}

func (p *gitlab) one(id string) string { return p.project + "/pipelines/" + url.PathEscape(id) }

// gitlabStates are ours for those of a pipeline. One that waits for a person is not done.
var gitlabStates = map[string]trigger.State{"created": trigger.Running,
	"waiting_for_resource": trigger.Running, "preparing": trigger.Running,
	"pending": trigger.Running, "running": trigger.Running, "manual": trigger.Running,
	"scheduled": trigger.Running, "canceling": trigger.Running, "success": trigger.Succeeded,
	"failed": trigger.Failed, "skipped": trigger.Failed, "canceled": trigger.Cancelled}

// Status looks at a pipeline.
func (p *gitlab) Status(ctx context.Context, external string) (trigger.Status, error) {
	var got gitlabPipeline
	if _, err := p.conn.call(ctx, request{path: p.one(external)}, &got); err != nil {
		return trigger.Status{}, err
	}
	if err := same(strconv.FormatInt(got.ID, 10), external, nil); err != nil {
		return trigger.Status{}, err
	}
	s := started(got.ID, got.URL)
	if s.State = gitlabStates[got.Status]; s.State == "" {
		return trigger.Status{}, unknown(got.Status)
	}
	if s.State == trigger.Failed || got.Status == "manual" {
		s.Detail = "the pipeline is " + got.Status
	}
	return s, nil
}

// Cancel cancels a pipeline.
func (p *gitlab) Cancel(ctx context.Context, external string) error {
	_, err := p.conn.call(ctx, request{method: http.MethodPost, repeat: true,
		path: p.one(external) + "/cancel"}, nil)
	return err
}
