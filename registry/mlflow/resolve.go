package mlflow

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// maxHops bounds URIs that lead to other URIs, which may lead back.
const maxHops = 5

// Resolve returns where the files of a model lie. It takes
//
//	models:/NAME/VERSION     also with a stage, or "latest"
//	models:/NAME@ALIAS
//	models:/m-ID             a logged model of MLflow 3
//	runs:/RUN/PATH           in MLflow 3, also a model that the run logged as PATH
//
// and leaves other URIs as they are. What it returns is for List and Open; they say
// if it is not the server that has the files.
func (c *Client) Resolve(ctx context.Context, uri string) (string, error) {
	from := uri
	for range maxHops {
		var err error
		before := uri
		switch {
		case strings.HasPrefix(uri, "models:"):
			uri, err = c.resolveModel(ctx, strings.TrimPrefix(uri, "models:"))
		case strings.HasPrefix(uri, "runs:"):
			uri, err = c.resolveRun(ctx, strings.TrimPrefix(uri, "runs:"))
		default:
			return uri, nil
		}
		if err != nil {
			return "", fmt.Errorf("cannot resolve %s: %w", before, err)
		}
	}
	return "", fmt.Errorf("%w: %s leads from one URI to the next, %d times", ErrURI, from, maxHops)
}

// resolveModel resolves what follows "models:". The name of a model has no slash,
// but may have an @.
func (c *Client) resolveModel(ctx context.Context, rest string) (string, error) {
	rest = strings.Trim(rest, "/")
	name, version, ok := strings.Cut(rest, "/")
	switch {
	case strings.Contains(version, "/") || ok && version == "":
	case ok && isNumber(version):
		return c.DownloadURI(ctx, Ref{name, version})
	case ok:
		return c.resolveStage(ctx, name, version)
	case strings.LastIndexByte(rest, '@') > 0:
		at := strings.LastIndexByte(rest, '@')
		v, err := c.VersionByAlias(ctx, rest[:at], rest[at+1:])
		if err != nil {
			return "", err
		}
		return c.DownloadURI(ctx, v.Ref)
	case strings.HasPrefix(rest, "m-"):
		return c.loggedModel(ctx, rest)
	}
	return "", fmt.Errorf("%w: it has to be models:/NAME/VERSION, models:/NAME@ALIAS or "+
		"models:/m-ID", ErrURI)
}

func isNumber(text string) bool {
	_, err := strconv.ParseUint(text, 10, 64)
	return err == nil
}

// resolveStage finds the newest version of a stage, or of all for "latest".
func (c *Client) resolveStage(ctx context.Context, name, stage string) (string, error) {
	var stages []string
	if !strings.EqualFold(stage, "latest") {
		stages = []string{stage}
	}
	list, err := c.LatestVersions(ctx, name, stages...)
	if err != nil {
		return "", err
	}
	newest, number := Ref{}, uint64(0)
	for _, v := range list {
		if n, err := strconv.ParseUint(v.Version, 10, 64); err == nil && n > number {
			newest, number = v.Ref, n
		}
	}
	if number == 0 {
		return "", fmt.Errorf("%w: the model %q has no version in the stage %q", ErrNotFound, name,
			stage)
	}
	return c.DownloadURI(ctx, newest)
}

// logged is a logged model of MLflow 3.
type logged struct {
	Info struct {
		ArtifactURI string `json:"artifact_uri"`
		Status      string `json:"status"`
	} `json:"info"`
}

// ready is the status of a logged model whose files are all there.
const ready = "LOGGED_MODEL_READY"

func (c *Client) loggedModel(ctx context.Context, id string) (string, error) {
	op := "GET mlflow/logged-models/" + url.PathEscape(id)
	var out struct {
		Model logged `json:"model"`
	}
	if err := c.call(ctx, op, url.Values{}, &out); err != nil {
		return "", err
	}
	if out.Model.Info.ArtifactURI == "" {
		return "", lacks(op, "the artifact_uri")
	}
	if s := out.Model.Info.Status; s != ready {
		return "", fmt.Errorf("%w: the logged model %s has the status %s", ErrNotFound, id, s)
	}
	return out.Model.Info.ArtifactURI, nil
}

// resolveRun resolves what follows "runs:". In MLflow 3 the models of a run lie
// beside its artifacts and are looked up by the name that they were logged with.
func (c *Client) resolveRun(ctx context.Context, rest string) (string, error) {
	id, name, _ := strings.Cut(strings.Trim(rest, "/"), "/")
	if id == "" || name == "" || path.Clean("/"+name) != "/"+name {
		return "", fmt.Errorf("%w: it has to be runs:/RUN/PATH", ErrURI)
	}
	run, err := c.GetRun(ctx, id)
	if err != nil {
		return "", err
	}
	var out struct {
		Files []struct{} `json:"files"`
	}
	query := url.Values{"run_id": {id}, "path": {name}}
	if err := c.call(ctx, "GET mlflow/artifacts/list", query, &out); err != nil {
		return "", err
	}
	if len(out.Files) > 0 {
		return strings.TrimRight(run.ArtifactURI, "/") + "/" + name, nil
	}
	return c.loggedByRun(ctx, run, name)
}

// loggedByRun finds the newest model that a run logged under a name.
func (c *Client) loggedByRun(ctx context.Context, run *Run, name string) (string, error) {
	byRun, err := Equals("source_run_id", run.ID)
	if err != nil {
		return "", err
	}
	byName, err := Equals("name", name)
	if err != nil {
		return "", err
	}
	var out struct {
		Models []logged `json:"models"`
	}
	in := fields{"experiment_ids": []string{run.ExperimentID}, "filter": byRun + " AND " + byName,
		"order_by": []fields{{"field_name": "creation_timestamp", "ascending": false}}}
	err = c.call(ctx, "POST mlflow/logged-models/search", in, &out)
	var fault *Error
	if err != nil && (!errors.As(err, &fault) || fault.Status != http.StatusNotFound) {
		return "", err // else it is MLflow 2, which has no logged models
	}
	for _, m := range out.Models {
		if m.Info.Status == ready && m.Info.ArtifactURI != "" {
			return m.Info.ArtifactURI, nil
		}
	}
	return "", fmt.Errorf("%w: the run has no artifacts and no model %q", ErrNotFound, name)
}
