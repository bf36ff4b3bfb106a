package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// Jenkins is a job with parameters. It must declare millrace_run, by which a run is
// found; Jenkins leaves out those that are not declared. The password may be an API
// token, which needs no crumbs.
type Jenkins struct {
	Job string // with its folders, as in team/train
}

func (j *Jenkins) validate() error {
	var f faults
	for part := range strings.SplitSeq(j.Job, "/") {
		f.name("job", part)
	}
	return errors.Join(f...)
}

func (j *Jenkins) guarantee() trigger.Guarantee { return trigger.Finds }

func (j *Jenkins) open(c Config) (runs, *conn, error) {
	server, err := dial(c.Server)
	p := &jenkins{conn: server, config: c}
	for part := range strings.SplitSeq(j.Job, "/") {
		p.job += "/job/" + url.PathEscape(part)
	}
	return p, server, err
}

// jenkins starts builds of one job. A run's External is build/NUMBER, or
// queue/NUMBER/NAME as long as it has no build.
type jenkins struct {
	conn   *conn
	config Config
	job    string // its path
}

// item is a build, or one that waits.
type item struct {
	ID      int64 `json:"id"`     // in the queue
	Number  int64 `json:"number"` // of a build
	Actions []struct {
		Parameters []struct {
			Name  string `json:"name"`
			Value any    `json:"value"`
		} `json:"parameters"`
	} `json:"actions"`
}

func (i item) has(name string) bool {
	for _, a := range i.Actions {
		for _, p := range a.Parameters {
			if p.Name == trigger.RunKey && p.Value == name {
				return true
			}
		}
	}
	return false
}

func (p *jenkins) queued(id, name string) trigger.Status {
	return trigger.Status{State: trigger.Running, External: "queue/" + id + "/" + name,
		Link: p.conn.base + p.job + "/"}
}

func (p *jenkins) built(number int64) trigger.Status {
	n := fmt.Sprint(number)
	return trigger.Status{State: trigger.Running, External: "build/" + n,
		Link: p.conn.base + p.job + "/" + n + "/"}
}

// Start queues a build.
func (p *jenkins) Start(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	form := url.Values{}
	for key, value := range p.config.inputs(r) {
		form.Set(key, value)
	}
	a, err := p.post(ctx, request{path: p.job + "/buildWithParameters", starts: true, body: form})
	if err != nil {
		return trigger.Status{}, err
	}
	found := queueItem.FindStringSubmatch(a.header.Get("Location"))
	if found == nil {
		return trigger.Status{}, &trigger.Fault{Kind: trigger.ErrUncertain,
			Text: "the answer does not say where in the queue it is"}
	}
	return p.queued(found[1], r.Name()), nil
}

var queueItem = regexp.MustCompile(`/queue/item/(\d+)/?$`)

func (p *jenkins) find(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	return p.named(ctx, r.Name())
}

// named looks for a run in the queue and among the latest builds.
func (p *jenkins) named(ctx context.Context, name string) (trigger.Status, error) {
	const actions = "actions[parameters[name,value]]"
	var queue struct{ Items []item }
	_, err := p.conn.call(ctx, request{path: "/queue/api/json?tree=" +
		url.QueryEscape("items[id,"+actions+"]")}, &queue)
	if err != nil {
		return trigger.Status{}, err
	}
	for _, i := range queue.Items {
		if i.has(name) {
			return p.queued(fmt.Sprint(i.ID), name), nil
		}
	}
	// What has left the queue in between is among the builds.
	var job struct{ Builds []item }
	_, err = p.conn.call(ctx, request{path: p.job + "/api/json?tree=" +
		url.QueryEscape("builds[number,"+actions+"]{0,100}")}, &job)
	for _, b := range job.Builds {
		if b.has(name) {
			return p.built(b.Number), err
		}
	}
	return trigger.Status{}, err
}

// post makes a call that changes something, with a crumb if the server wants one.
func (p *jenkins) post(ctx context.Context, r request) (answer, error) {
	r.method = http.MethodPost
	a, err := p.conn.call(ctx, r, nil)
	if a.status != http.StatusForbidden || !bytes.Contains(bytes.ToLower(a.body), []byte("crumb")) {
		return a, err
	}
	var crumb struct{ Crumb, CrumbRequestField string }
	c, err := p.conn.call(ctx, request{path: "/crumbIssuer/api/json"}, &crumb)
	if err != nil {
		return answer{}, err
	}
	// A crumb is good for the session only that it was given to.
	r.header = http.Header{}
	r.header.Set(crumb.CrumbRequestField, crumb.Crumb)
	for _, cookie := range (&http.Response{Header: c.header}).Cookies() {
		r.header.Add("Cookie", cookie.Name+"="+cookie.Value)
	}
	return p.conn.call(ctx, r, nil)
}

// results are ours for those of a build. An unstable one has failing tests.
var results = map[string]trigger.State{"SUCCESS": trigger.Succeeded, "UNSTABLE": trigger.Failed,
	"FAILURE": trigger.Failed, "NOT_BUILT": trigger.Failed, "ABORTED": trigger.Cancelled}

// Status looks at a build, or at where it waits.
func (p *jenkins) Status(ctx context.Context, external string) (trigger.Status, error) {
	place, number, _ := strings.Cut(external, "/")
	if place == "queue" {
		return p.waiting(ctx, number)
	}
	var build struct {
		Number   int64  `json:"number"`
		Building bool   `json:"building"`
		Result   string `json:"result"`
	}
	path := p.job + "/" + url.PathEscape(number)
	if _, err := p.conn.call(ctx, request{path: path + "/api/json"}, &build); err != nil {
		return trigger.Status{}, err
	}
	if err := same(fmt.Sprint(build.Number), number, nil); err != nil {
		return trigger.Status{}, err
	}
	s := p.built(build.Number)
	if build.Building || build.Result == "" {
		return s, nil
	}
	if s.State = results[build.Result]; s.State == "" {
		return trigger.Status{}, unknown(build.Result)
	}
	if s.State == trigger.Failed {
		s.Detail = "its result is " + build.Result
		if a, err := p.conn.call(ctx, request{path: path + "/consoleText"}, nil); err == nil {
			s.Logs = string(a.body)
		}
	}
	return s, nil
}

// waiting looks at what is in the queue, or has left it for a build.
func (p *jenkins) waiting(ctx context.Context, place string) (trigger.Status, error) {
	id, name, _ := strings.Cut(place, "/")
	var got struct {
		Why        string `json:"why"`
		Cancelled  bool   `json:"cancelled"`
		Executable struct {
			Number int64 `json:"number"`
		} `json:"executable"`
	}
	path := "/queue/item/" + url.PathEscape(id) + "/api/json"
	_, err := p.conn.call(ctx, request{path: path}, &got)
	switch {
	case errors.Is(err, trigger.ErrGone): // it is forgotten minutes after the build began
		s, findErr := p.named(ctx, name)
		if findErr == nil && s.External == "" {
			findErr = err
		}
		return s, findErr
	case err != nil:
		return trigger.Status{}, err
	case got.Cancelled:
		return trigger.Status{State: trigger.Cancelled,
			Detail: "it was taken out of the queue"}, nil
	case got.Executable.Number > 0:
		return p.built(got.Executable.Number), nil
	}
	return trigger.Status{State: trigger.Running, Detail: got.Why}, nil
}

// Cancel stops a build, or takes it out of the queue. Jenkins answers with a redirect
// to a page for people.
func (p *jenkins) Cancel(ctx context.Context, external string) error {
	place, number, _ := strings.Cut(external, "/")
	path := p.job + "/" + url.PathEscape(number) + "/stop"
	if place == "queue" {
		id, _, _ := strings.Cut(number, "/")
		path = "/queue/cancelItem?id=" + url.QueryEscape(id)
	}
	_, err := p.post(ctx, request{path: path})
	if f, ok := errors.AsType[*trigger.Fault](err); ok &&
		strings.Contains(f.Text, fetch.ErrRedirect.Error()) {
		return nil
	}
	return err
}
