package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/millrace-ml/millrace/control/trigger"
)

// Kubeflow is a pipeline of Kubeflow Pipelines. The server's address has "/pipeline" at
// its end behind some front ends and not behind others.
type Kubeflow struct {
	PipelineID   string // for v2beta1
	VersionID    string // empty is the newest, for v2beta1 only
	ExperimentID string
	Namespace    string // where the server has several users
	// The header that names the user where a proxy does not, such as kubeflow-userid, and
	// its value. Both or none.
	UserHeader, User string
	V1               bool // the API v1beta1 of old servers
}

func (k *Kubeflow) validate() error {
	var f faults
	if k.V1 {
		f.name("version_id", k.VersionID)
		f.name("experiment_id", k.ExperimentID)
	} else {
		f.name("pipeline_id", k.PipelineID)
	}
	if (k.UserHeader == "") != (k.User == "") {
		f = append(f, errors.New("user_header: goes together with user"))
	}
	return errors.Join(f...)
}

func (k *Kubeflow) guarantee() trigger.Guarantee { return trigger.Finds }

func (k *Kubeflow) open(c Config) (runs, *conn, error) {
	server, err := dial(c.Server)
	if err != nil {
		return nil, nil, err
	}
	if k.User != "" {
		h := http.Header{}
		h.Set(k.UserHeader, k.User)
		server.headers = func(context.Context) (http.Header, error) { return h, nil }
	}
	p := &kubeflow{conn: server, config: c, Kubeflow: *k, runs: "/apis/v2beta1/runs"}
	if k.V1 {
		p.runs = "/apis/v1beta1/runs"
	}
	return p, server, nil
}

// kubeflow starts runs of one pipeline. A run's External is the server's run id.
type kubeflow struct {
	Kubeflow
	conn   *conn
	config Config
	runs   string
}

// kubeflowRun is a run of either API.
type kubeflowRun struct {
	RunID string `json:"run_id"` // v2beta1
	ID    string `json:"id"`     // v1beta1
	// How it is called.
	DisplayName string `json:"display_name"` // v2beta1
	Name        string `json:"name"`         // v1beta1
	State       string `json:"state"`        // v2beta1
	Status      string `json:"status"`       // v1beta1
	Error       any    `json:"error"`        // an object, or a text in v1beta1
}

// call makes a call. A server that misses the user's name says so by status 500.
func (p *kubeflow) call(ctx context.Context, r request, out any) error {
	a, err := p.conn.call(ctx, r, out)
	f, ok := errors.AsType[*trigger.Fault](err)
	if ok && a.status == http.StatusInternalServerError &&
		bytes.Contains(a.body, []byte("Unauthenticated")) {
		return &trigger.Fault{Kind: trigger.ErrRefused, Text: f.Text}
	}
	return err
}

// Start creates a run.
func (p *kubeflow) Start(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	body := p.create(r)
	var got struct {
		kubeflowRun
		Run kubeflowRun `json:"run"` // v1beta1
	}
	err := p.call(ctx, request{method: http.MethodPost, path: p.runs, body: body, starts: true},
		&got)
	return p.found(got.RunID + got.Run.ID), err
}

// found is a run that is there; its id is empty if there is none.
func (p *kubeflow) found(id string) trigger.Status {
	return trigger.Status{State: trigger.Running, External: id,
		Link: p.conn.base + "/#/runs/details/" + url.PathEscape(id)}
}

// find looks for a run of the name.
func (p *kubeflow) find(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	operation := "operation"
	if p.V1 {
		operation = "op"
	}
	filter, err := json.Marshal(map[string]any{"predicates": []map[string]string{
		{operation: "EQUALS", "key": "name", "string_value": r.Name()}}})
	if err != nil {
		return trigger.Status{}, &trigger.Fault{Kind: trigger.ErrRefused, Text: err.Error()}
	}
	query := url.Values{"filter": {string(filter)}, "page_size": {"10"}}
	if p.V1 {
		query.Set("resource_reference_key.type", "EXPERIMENT")
		query.Set("resource_reference_key.id", p.ExperimentID)
	} else {
		if p.Namespace != "" {
			query.Set("namespace", p.Namespace)
		}
		if p.ExperimentID != "" {
			query.Set("experiment_id", p.ExperimentID)
		}
	}
	var list struct {
		Runs []kubeflowRun `json:"runs"`
	}
	if err := p.call(ctx, request{path: p.runs + "?" + query.Encode()}, &list); err != nil {
		return trigger.Status{}, err
	}
	for _, run := range list.Runs {
		if run.DisplayName+run.Name == r.Name() { // the server may have left the filter out
			return p.found(run.RunID + run.ID), nil
		}
	}
	return trigger.Status{}, nil
}

// create is the body that creates a run.
func (p *kubeflow) create(r trigger.Run) map[string]any {
	inputs := p.config.inputs(r)
	if !p.V1 {
		version := map[string]string{"pipeline_id": p.PipelineID}
		if p.VersionID != "" {
			version["pipeline_version_id"] = p.VersionID
		}
		body := map[string]any{"display_name": r.Name(), "description": r.Reason,
			"pipeline_version_reference": version,
			"runtime_config":             map[string]any{"parameters": inputs}}
		if p.ExperimentID != "" {
			body["experiment_id"] = p.ExperimentID
		}
		return body
	}
	parameters := []map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(inputs)) {
		parameters = append(parameters, map[string]string{"name": key, "value": inputs[key]})
	}
	reference := func(kind, id, relationship string) map[string]any {
		return map[string]any{"key": map[string]string{"type": kind, "id": id},
			"relationship": relationship}
	}
	return map[string]any{"name": r.Name(),
		"pipeline_spec": map[string]any{"parameters": parameters},
		"resource_references": []any{reference("EXPERIMENT", p.ExperimentID, "OWNER"),
			reference("PIPELINE_VERSION", p.VersionID, "CREATOR")}}
}

// kubeflowStates are ours for those of both APIs. v1beta1 has those of Argo, and an
// empty one in the beginning.
var kubeflowStates = map[string]trigger.State{
	"RUNTIME_STATE_UNSPECIFIED": trigger.Running, "PENDING": trigger.Running,
	"RUNNING": trigger.Running, "CANCELING": trigger.Running, "PAUSED": trigger.Running,
	"SUCCEEDED": trigger.Succeeded, "SKIPPED": trigger.Succeeded, "FAILED": trigger.Failed,
	"CANCELED": trigger.Cancelled,
	"":         trigger.Running, "Pending": trigger.Running, "Running": trigger.Running,
	"Terminating": trigger.Running, "Succeeded": trigger.Succeeded, "Skipped": trigger.Succeeded,
	"Failed": trigger.Failed, "Error": trigger.Failed, "Terminated": trigger.Cancelled,
}

// Status looks at a run.
func (p *kubeflow) Status(ctx context.Context, external string) (trigger.Status, error) {
	var got struct {
		kubeflowRun
		Run kubeflowRun `json:"run"` // v1beta1
	}
	err := p.call(ctx, request{path: p.runs + "/" + url.PathEscape(external)}, &got)
	if err != nil {
		return trigger.Status{}, err
	}
	run, word := got.kubeflowRun, got.State
	if p.V1 {
		run, word = got.Run, got.Run.Status
	}
	if err := same(run.RunID+run.ID, external, nil); err != nil {
		return trigger.Status{}, err
	}
	state, ok := kubeflowStates[word]
	if !ok {
		return trigger.Status{}, unknown(word)
	}
	s := trigger.Status{State: state}
	if run.Error != nil {
		s.Detail = fmt.Sprint(run.Error)
		if object, ok := run.Error.(map[string]any); ok && object["message"] != nil {
			s.Detail = fmt.Sprint(object["message"])
		}
	}
	return s, nil
}

// Cancel terminates a run.
func (p *kubeflow) Cancel(ctx context.Context, external string) error {
	verb := ":terminate"
	if p.V1 {
		verb = "/terminate"
	}
	return p.call(ctx, request{method: http.MethodPost, repeat: true,
		path: p.runs + "/" + url.PathEscape(external) + verb}, nil)
}
