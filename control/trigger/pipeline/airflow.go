package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/millrace-ml/millrace/control/trigger"
)

// Airflow is a DAG of Airflow 3, or of Airflow 2. The server's password is Airflow 3's
// for a token, which is asked for when it is needed; with a token in its place that one
// is used. Airflow 2 takes the password itself.
type Airflow struct {
	DAG     string
	Version int // 3 or 2; 0 is 3
}

func (a *Airflow) validate() error {
	var f faults
	f.name("dag", a.DAG)
	if a.Version != 0 && a.Version != 2 && a.Version != 3 {
		f = append(f, fmt.Errorf("version: %d; 2 and 3 are allowed", a.Version))
	}
	return errors.Join(f...)
}

func (a *Airflow) guarantee() trigger.Guarantee { return trigger.Keeps }

func (a *Airflow) open(c Config) (runs, *conn, error) {
	p := &airflow{config: c, api: "/api/v2", version: 3}
	server := c.Server
	if a.Version == 2 {
		p.api, p.version = "/api/v1", 2
	} else if server.Username != "" {
		p.login = &login{user: server.Username, password: passwordOf(server)}
		server.Username, server.PasswordFile, server.PasswordEnv = "", "", ""
	}
	var err error
	if p.conn, err = dial(server, passwordOf(c.Server)); err != nil {
		return nil, nil, err
	}
	p.conn.user = c.Server.Username
	p.runs = p.api + "/dags/" + url.PathEscape(a.DAG) + "/dagRuns"
	p.ui = p.conn.base + "/dags/" + url.PathEscape(a.DAG)
	return p, p.conn, nil
}

// airflow starts runs of one DAG. A run's External is its dag_run_id, our Name.
type airflow struct {
	conn    *conn
	config  Config
	version int
	api     string
	runs    string // path of the DAG's runs
	ui      string
	login   *login // nil where none is needed
}

// login is a token that was got for a password.
type login struct {
	user     string
	password secret
	mu       sync.Mutex
	token    string // guarded by mu
}

// call makes a call; with a new token if that of before is not taken any more.
func (p *airflow) call(ctx context.Context, r request, out any) (answer, error) {
	if p.login == nil {
		return p.conn.call(ctx, r, out)
	}
	old, err := p.token(ctx, "")
	if err != nil {
		return answer{}, err
	}
	a, err := p.withToken(ctx, r, old, out)
	// A token that is no token at all, as after a change of the server's key, is 403.
	if a.status == http.StatusUnauthorized || a.status == http.StatusForbidden &&
		bytes.Contains(a.body, []byte("Invalid JWT token")) {
		fresh, err := p.token(ctx, old)
		if err != nil {
			return answer{}, err
		}
		return p.withToken(ctx, r, fresh, out)
	}
	return a, err
}

func (p *airflow) withToken(ctx context.Context, r request, token string, out any) (answer, error) {
	h := r.header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set("Authorization", "Bearer "+token)
	r.header = h
	a, err := p.conn.call(ctx, r, out)
	if f, ok := errors.AsType[*trigger.Fault](err); ok {
		f.Text = strings.ReplaceAll(f.Text, token, "...")
	}
	return a, err
}

// token returns a token other than the one that is not taken any more. The lock is held
// while the server is asked, since all would ask for the same.
func (p *airflow) token(ctx context.Context, refused string) (string, error) {
	l := p.login
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token != "" && l.token != refused {
		return l.token, nil
	}
	password, err := l.password.read()
	if err != nil {
		return "", err
	}
	var got struct {
		AccessToken string `json:"access_token"`
	}
	if _, err = p.conn.call(ctx, request{method: http.MethodPost, path: "/auth/token", repeat: true,
		body: map[string]string{"username": l.user, "password": password}}, &got); err != nil {
		return "", err
	}
	if got.AccessToken == "" {
		return "", &trigger.Fault{Text: "the server has given no token"}
	}
	l.token = got.AccessToken
	return l.token, nil
}

// maxNote bounds a run's note, in characters.
const maxNote = 1000

// Start creates a run. A conflict says that it is there.
func (p *airflow) Start(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	note := []rune(r.Reason)
	body := map[string]any{"dag_run_id": r.Name(), "conf": p.config.inputs(r),
		"note": string(note[:min(len(note), maxNote)])}
	if p.version == 3 {
		body["logical_date"] = nil // it has no default there
	}
	var run airflowRun
	a, err := p.call(ctx, request{method: http.MethodPost, path: p.runs, body: body, repeat: true,
		starts: true}, &run)
	if a.status != http.StatusConflict {
		if err == nil {
			err = same(run.ID, r.Name(), trigger.ErrUncertain)
		}
		if err != nil {
			return trigger.Status{}, err
		}
	}
	link := p.ui + "/runs/" + url.PathEscape(r.Name())
	if p.version == 2 {
		link = p.ui + "/grid?dag_run_id=" + url.QueryEscape(r.Name())
	}
	return trigger.Status{State: trigger.Running, External: r.Name(), Link: link}, nil
}

// airflowStates are ours for those of Airflow.
var airflowStates = map[string]trigger.State{"queued": trigger.Running, "running": trigger.Running,
	"success": trigger.Succeeded, "failed": trigger.Failed}

// airflowRun is a run of a DAG.
type airflowRun struct {
	ID    string `json:"dag_run_id"`
	State string `json:"state"`
}

// Status looks at a run, and reads the log of the task that failed.
func (p *airflow) Status(ctx context.Context, external string) (trigger.Status, error) {
	var run airflowRun
	path := p.runs + "/" + url.PathEscape(external)
	if _, err := p.call(ctx, request{path: path}, &run); err != nil {
		return trigger.Status{}, err
	}
	if err := same(run.ID, external, nil); err != nil {
		return trigger.Status{}, err
	}
	s := trigger.Status{State: airflowStates[run.State]}
	switch {
	case s.State == "":
		return s, unknown(run.State)
	case run.State == "queued":
		s.Detail = "it waits there; if it does so for long, the DAG may be paused"
	case s.State == trigger.Failed:
		s.Detail, s.Logs = p.failure(ctx, path)
	}
	return s, nil
}

// failure returns which task has failed, and the end of its log. What cannot be had is
// left out, since the run's state is known all the same.
func (p *airflow) failure(ctx context.Context, run string) (detail, logs string) {
	var tasks struct {
		List []struct {
			ID    string `json:"task_id"`
			State string `json:"state"`
			Try   int    `json:"try_number"`
		} `json:"task_instances"`
	}
	if _, err := p.call(ctx, request{path: run + "/taskInstances"}, &tasks); err != nil {
		return "a task has failed", ""
	}
	for _, t := range tasks.List {
		if t.State != "failed" {
			continue
		}
		var log struct {
			Content json.RawMessage `json:"content"`
		}
		path := fmt.Sprintf("%s/taskInstances/%s/logs/%d", run, url.PathEscape(t.ID), t.Try)
		_, err := p.call(ctx, request{path: path,
			header: http.Header{"Accept": {"application/json"}}}, &log)
		if err != nil {
			return fmt.Sprintf("the task %.200s has failed", t.ID), ""
		}
		return fmt.Sprintf("the task %.200s has failed", t.ID), airflowLog(log.Content)
	}
	return "no task has failed; the run was marked as failed", ""
}

// airflowLog makes lines of a log: Airflow 3 has a list of events, Airflow 2 a text.
func airflowLog(content json.RawMessage) string {
	var text string
	if json.Unmarshal(content, &text) == nil {
		return text
	}
	var events []struct {
		Time  string `json:"timestamp"`
		Level string `json:"level"`
		Event string `json:"event"`
		Error []struct {
			Type  string `json:"exc_type"`
			Value string `json:"exc_value"`
		} `json:"error_detail"`
	}
	if json.Unmarshal(content, &events) != nil {
		return ""
	}
	var b strings.Builder
	for _, e := range events {
		b.WriteString(strings.TrimSpace(e.Time + " " + e.Level + " " + e.Event))
		for _, x := range e.Error {
			b.WriteString(": " + x.Type + ": " + x.Value)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Cancel marks a run as failed, which ends its tasks.
func (p *airflow) Cancel(ctx context.Context, external string) error {
	_, err := p.call(ctx, request{method: http.MethodPatch, repeat: true,
		path: p.runs + "/" + url.PathEscape(external),
		body: map[string]string{"state": "failed"}}, nil)
	return err
}
