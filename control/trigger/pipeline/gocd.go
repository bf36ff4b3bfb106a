package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

// GoCD is a pipeline of GoCD. It must declare the environment variables that it is to
// get, in capitals: MILLRACE_RUN, ENDPOINT and so on. See Config.Inputs.
type GoCD struct {
	Pipeline string
	User     string // whose token or password it is, as GoCD names it as approver
}

func (g *GoCD) validate() error {
	var f faults
	f.name("pipeline", g.Pipeline)
	f.filled("user", g.User)
	return errors.Join(f...)
}

func (g *GoCD) guarantee() trigger.Guarantee { return trigger.Finds }

func (g *GoCD) open(c Config) (runs, *conn, error) {
	server, err := dial(c.Server)
	if err != nil {
		return nil, nil, err
	}
	h := http.Header{"Accept": {"application/vnd.go.cd.v1+json"}}
	server.headers = func(context.Context) (http.Header, error) { return h, nil }
	return &gocd{*g, server, c, "/go/api/pipelines/" + url.PathEscape(g.Pipeline)}, server, nil
}

// gocd starts instances of one pipeline. A run's External is the instance's counter, or
// after and the counter that was the latest before it, as long as it has none.
type gocd struct {
	GoCD
	conn   *conn
	config Config
	path   string
}

const after = "after:"

// gocdInstance is one run of a pipeline.
type gocdInstance struct {
	Counter   int64 `json:"counter"`
	Scheduled int64 `json:"scheduled_date"` // milliseconds
	Cause     struct {
		Forced   bool   `json:"trigger_forced"`
		Approver string `json:"approver"`
	} `json:"build_cause"`
	Stages []struct {
		Name    string `json:"name"`
		Counter any    `json:"counter"` // a number or a text
		Status  string `json:"status"`
		Result  string `json:"result"`
	} `json:"stages"`
}

// find looks for an instance that our user has forced since the run began. Before a call
// that may have got through there is none: what is found then is an attempt of just before.
func (p *gocd) find(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	if !r.Uncertain {
		return trigger.Status{}, nil
	}
	list, err := p.history(ctx)
	since := r.Began.Add(-time.Minute).UnixMilli() // their clock may be behind
	found := p.first(list, func(one gocdInstance) bool { return one.Scheduled >= since })
	if err != nil || found.Counter == 0 {
		return trigger.Status{}, err
	}
	return p.status(found.Counter), nil
}

// Start schedules an instance. A conflict says that the pipeline is busy or paused.
func (p *gocd) Start(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	list, err := p.history(ctx)
	if err != nil {
		return trigger.Status{}, err
	}
	var latest int64
	for _, one := range list {
		latest = max(latest, one.Counter)
	}
	variables := []map[string]string{}
	inputs := p.config.inputs(r)
	for _, key := range slices.Sorted(maps.Keys(inputs)) {
		variables = append(variables, map[string]string{"name": strings.ToUpper(key),
			"value": inputs[key]})
	}
	a, err := p.conn.call(ctx, request{method: http.MethodPost, path: p.path + "/schedule",
		starts: true, body: map[string]any{"environment_variables": variables,
			"update_materials_before_scheduling": true}}, nil)
	if f, ok := errors.AsType[*trigger.Fault](err); ok && a.status == http.StatusConflict {
		return trigger.Status{}, &trigger.Fault{Text: f.Text} // it may be free later
	}
	if err == nil && a.status != http.StatusAccepted {
		err = &trigger.Fault{Kind: trigger.ErrUncertain, Text: fmt.Sprintf(
			"the answer has the status %d, not 202", a.status)}
	}
	return trigger.Status{State: trigger.Running, External: after + strconv.FormatInt(latest, 10),
		Link: p.conn.base + "/go/pipeline/activity/" + url.PathEscape(p.Pipeline)}, err
}

func (p *gocd) status(counter int64) trigger.Status {
	n := strconv.FormatInt(counter, 10)
	return trigger.Status{State: trigger.Running, External: n, Link: p.conn.base +
		"/go/pipelines/value_stream_map/" + url.PathEscape(p.Pipeline) + "/" + n}
}

// history returns the latest instances.
func (p *gocd) history(ctx context.Context) ([]gocdInstance, error) {
	var list struct {
		Pipelines []gocdInstance `json:"pipelines"`
	}
	_, err := p.conn.call(ctx, request{path: p.path + "/history?page_size=100"}, &list)
	return list.Pipelines, err
}

// first returns the earliest instance that our user has forced and that is wanted.
func (p *gocd) first(list []gocdInstance, wanted func(gocdInstance) bool) gocdInstance {
	var found gocdInstance
	for _, one := range list {
		if one.Cause.Forced && one.Cause.Approver == p.User && wanted(one) &&
			(found.Counter == 0 || one.Counter < found.Counter) {
			found = one
		}
	}
	return found
}

// Status looks at an instance, once it is there.
func (p *gocd) Status(ctx context.Context, external string) (trigger.Status, error) {
	var one gocdInstance
	if n, found := strings.CutPrefix(external, after); found {
		list, err := p.history(ctx)
		if err != nil {
			return trigger.Status{}, err
		}
		latest, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			return trigger.Status{}, &trigger.Fault{Kind: trigger.ErrGone, Text: "no counter: " + n}
		}
		one = p.first(list, func(one gocdInstance) bool { return one.Counter > latest })
		if one.Counter == 0 {
			return trigger.Status{State: trigger.Running, Detail: "it waits to be scheduled"}, nil
		}
	} else if _, err := p.conn.call(ctx, request{path: p.path + "/" + external}, &one); err != nil {
		return trigger.Status{}, err
	} else if err := same(strconv.FormatInt(one.Counter, 10), external, nil); err != nil {
		return trigger.Status{}, err
	}
	s := p.status(one.Counter)
	s.State, s.Detail = one.state()
	return s, nil
}

// state says how an instance does: it has failed with a stage, and succeeded with its
// last one.
func (g gocdInstance) state() (trigger.State, string) {
	for i, stage := range g.Stages {
		word := stage.Status
		if word == "" || word == "Unknown" {
			word = stage.Result
		}
		switch {
		case word == "Failed":
			return trigger.Failed, fmt.Sprintf("the stage %.200s has failed", stage.Name)
		case word == "Cancelled":
			return trigger.Cancelled, fmt.Sprintf("the stage %.200s was cancelled", stage.Name)
		case word == "Passed" && i == len(g.Stages)-1:
			return trigger.Succeeded, ""
		}
	}
	return trigger.Running, ""
}

// Cancel cancels the stage that is under way.
func (p *gocd) Cancel(ctx context.Context, external string) error {
	if strings.HasPrefix(external, after) {
		return &trigger.Fault{Text: "it cannot be cancelled before it is scheduled"}
	}
	var one gocdInstance
	if _, err := p.conn.call(ctx, request{path: p.path + "/" + external}, &one); err != nil {
		return err
	}
	for _, stage := range one.Stages {
		if stage.Status != "Building" && stage.Status != "Failing" {
			continue
		}
		h := http.Header{"Accept": {"application/vnd.go.cd.v2+json"}}
		h.Set("X-GoCD-Confirm", "true") // wanted of calls without a body
		_, err := p.conn.call(ctx, request{method: http.MethodPost, header: h,
			path: fmt.Sprintf("/go/api/stages/%s/%s/%s/%v/cancel", url.PathEscape(p.Pipeline),
				external, url.PathEscape(stage.Name), stage.Counter)}, nil)
		return err
	}
	return nil
}
