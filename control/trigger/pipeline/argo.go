package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/millrace-ml/millrace/control/trigger"
)

// Argo is a template of Argo Workflows.
type Argo struct {
	Namespace string
	Template  string // name of a WorkflowTemplate
	// Cluster says that it is a ClusterWorkflowTemplate.
	Cluster        bool
	ServiceAccount string // empty is the template's
}

func (a *Argo) validate() error {
	var f faults
	f.name("namespace", a.Namespace)
	f.name("template", a.Template)
	return errors.Join(f...)
}

func (a *Argo) guarantee() trigger.Guarantee { return trigger.Keeps }

func (a *Argo) open(c Config) (runs, *conn, error) {
	server, err := dial(c.Server)
	return &argo{*a, server, c}, server, err
}

// argo submits workflows. A run's External is the workflow's name, our Name.
type argo struct {
	Argo
	conn   *conn
	config Config
}

func (p *argo) path(name string) string {
	return "/api/v1/workflows/" + url.PathEscape(p.Namespace) + "/" + url.PathEscape(name)
}

// Start submits a workflow. A conflict says that it is there.
func (p *argo) Start(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	inputs := p.config.inputs(r)
	parameters := []string{}
	for _, key := range slices.Sorted(maps.Keys(inputs)) {
		parameters = append(parameters, key+"="+inputs[key])
	}
	options := map[string]any{"name": r.Name(), "parameters": parameters,
		"labels": "millrace/run=" + r.Name()}
	if p.ServiceAccount != "" {
		options["serviceAccount"] = p.ServiceAccount
	}
	resource := "WorkflowTemplate"
	if p.Cluster {
		resource = "ClusterWorkflowTemplate"
	}
	var flow argoWorkflow
	a, err := p.conn.call(ctx, request{method: http.MethodPost, path: p.path("submit"),
		repeat: true, starts: true, body: map[string]any{"namespace": p.Namespace,
			"resourceKind": resource, "resourceName": p.Template, "submitOptions": options}}, &flow)
	if a.status != http.StatusConflict {
		if err == nil {
			err = same(flow.Metadata.Name, r.Name(), trigger.ErrUncertain)
		}
		if err != nil {
			return trigger.Status{}, err
		}
	}
	return trigger.Status{State: trigger.Running, External: r.Name(), Link: fmt.Sprintf(
		"%s/workflows/%s/%s", p.conn.base, url.PathEscape(p.Namespace), r.Name())}, nil
}

// argoStates are ours for the phases of a workflow.
var argoStates = map[string]trigger.State{"": trigger.Running, "Pending": trigger.Running,
	"Running": trigger.Running, "Succeeded": trigger.Succeeded, "Failed": trigger.Failed,
	"Error": trigger.Failed}

// argoWorkflow is a workflow.
type argoWorkflow struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Status struct {
		Phase   string `json:"phase"`
		Message string `json:"message"`
	} `json:"status"`
}

// Status looks at a workflow.
func (p *argo) Status(ctx context.Context, external string) (trigger.Status, error) {
	var got argoWorkflow
	if _, err := p.conn.call(ctx, request{path: p.path(external)}, &got); err != nil {
		return trigger.Status{}, err
	}
	if err := same(got.Metadata.Name, external, nil); err != nil {
		return trigger.Status{}, err
	}
	state, ok := argoStates[got.Status.Phase]
	if !ok {
		return trigger.Status{}, unknown(got.Status.Phase)
	}
	return trigger.Status{State: state, Detail: got.Status.Message}, nil
}

// Cancel terminates a workflow.
func (p *argo) Cancel(ctx context.Context, external string) error {
	_, err := p.conn.call(ctx, request{method: http.MethodPut,
		path: p.path(external) + "/terminate",
		body: map[string]string{"name": external, "namespace": p.Namespace}}, nil)
	return err
}
