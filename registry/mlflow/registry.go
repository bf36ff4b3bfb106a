package mlflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strconv"
	"strings"
)

// Ref names a version of a registered model.
type Ref struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Version is a version of a registered model.
type Version struct {
	Ref
	CreatedMillis int64    `json:"creation_timestamp"` // Unix milliseconds
	UpdatedMillis int64    `json:"last_updated_timestamp"`
	Stage         string   `json:"current_stage"` // None, Staging, Production or Archived
	Description   string   `json:"description"`
	Source        string   `json:"source"` // as registered; DownloadURI says where the files lie
	RunID         string   `json:"run_id"`
	Status        string   `json:"status"` // READY, PENDING_REGISTRATION or FAILED_REGISTRATION
	StatusMessage string   `json:"status_message"`
	Tags          Tags     `json:"tags"`
	Aliases       []string `json:"aliases"` // known of VersionByAlias and GetVersion only
}

// Model is a registered model.
type Model struct {
	Name          string    `json:"name"`
	CreatedMillis int64     `json:"creation_timestamp"` // Unix milliseconds
	UpdatedMillis int64     `json:"last_updated_timestamp"`
	Description   string    `json:"description"`
	Latest        []Version `json:"latest_versions"` // the latest of each stage
	Tags          Tags      `json:"tags"`
	Aliases       Aliases   `json:"aliases"`
}

// Tags are tags by their keys.
type Tags map[string]string

// UnmarshalJSON reads MLflow's list of keys and values.
func (t *Tags) UnmarshalJSON(text []byte) error {
	var list []entry
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*t = make(Tags, len(list))
	for _, e := range list {
		(*t)[e.Key] = e.Value
	}
	return nil
}

// MarshalJSON writes MLflow's list of keys and values.
func (t Tags) MarshalJSON() ([]byte, error) { return json.Marshal(entries(t)) }

// Aliases are versions by the aliases that point to them.
type Aliases map[string]string

// UnmarshalJSON reads MLflow's list of aliases and versions.
func (a *Aliases) UnmarshalJSON(text []byte) error {
	var list []struct{ Alias, Version string }
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*a = make(Aliases, len(list))
	for _, e := range list {
		(*a)[e.Alias] = e.Version
	}
	return nil
}

// Equals makes the clause "key = 'value'" of a filter, for instance of the key
// name or tags.team. MLflow knows no escapes: what cannot be quoted is ErrURI.
func Equals(key, value string) (string, error) {
	quote := "'"
	if strings.Contains(value, quote) {
		quote = `"`
	}
	if strings.Contains(value, quote) || strings.HasSuffix(value, `\`) {
		return "", fmt.Errorf("%w: MLflow cannot search for %s = %q, which has both kinds of "+
			"quotes or ends in a backslash", ErrURI, key, value)
	}
	return key + " = " + quote + value + quote, nil
}

// Sizes of pages, below the 1,000 that MLflow allows for models: one holds the
// descriptions and tags of all, and with a model also those of its latest versions.
const (
	modelsPerPage   = 500
	versionsPerPage = 1000
)

// Models lists the registered models that match a filter of MLflow, "" for all, by
// name. Pages are fetched as they are needed: a model that is added meanwhile may
// make another appear twice, one that is deleted may hide another. An error ends
// the list.
func (c *Client) Models(ctx context.Context, filter string) iter.Seq2[*Model, error] {
	return pages(func(token string) ([]Model, string, error) {
		var out struct {
			Models []Model `json:"registered_models"`
			Next   string  `json:"next_page_token"`
		}
		query := search(filter, token, modelsPerPage)
		query.Set("order_by", "name ASC")
		err := c.call(ctx, "GET mlflow/registered-models/search", query, &out)
		return out.Models, out.Next, err
	})
}

// Versions lists the versions that match a filter of MLflow, "" for those of all
// models, oldest first. Aliases are not among what it tells: see Models. An error
// ends the list.
func (c *Client) Versions(ctx context.Context, filter string) iter.Seq2[*Version, error] {
	return pages(func(token string) ([]Version, string, error) {
		var out struct {
			Versions []Version `json:"model_versions"`
			Next     string    `json:"next_page_token"`
		}
		query := search(filter, token, versionsPerPage)
		query.Set("order_by", "creation_timestamp ASC")
		err := c.call(ctx, "GET mlflow/model-versions/search", query, &out)
		return out.Versions, out.Next, err
	})
}

func search(filter, token string, size int) url.Values {
	query := url.Values{"max_results": {strconv.Itoa(size)}}
	if filter != "" {
		query.Set("filter", filter)
	}
	if token != "" {
		query.Set("page_token", token)
	}
	return query
}

// GetModel returns a registered model, with its aliases.
func (c *Client) GetModel(ctx context.Context, name string) (*Model, error) {
	const op = "GET mlflow/registered-models/get"
	var out struct {
		Model *Model `json:"registered_model"`
	}
	if err := c.call(ctx, op, url.Values{"name": {name}}, &out); err != nil {
		return nil, err
	}
	if out.Model == nil || out.Model.Name != name {
		return nil, lacks(op, "the model "+strconv.Quote(name))
	}
	return out.Model, nil
}

// lacks is the error for an answer that is JSON, but not what was asked for.
func lacks(op, what string) error {
	return &Error{Op: op, Status: 200, Message: "the answer lacks " + what, Err: ErrForeign}
}

// GetVersion returns a version.
func (c *Client) GetVersion(ctx context.Context, ref Ref) (*Version, error) {
	const op = "GET mlflow/model-versions/get"
	var out struct {
		Version *Version `json:"model_version"`
	}
	if err := c.call(ctx, op, ref.query(), &out); err != nil {
		return nil, err
	}
	if out.Version == nil || out.Version.Name != ref.Name {
		return nil, lacks(op, "the version")
	}
	return out.Version, nil
}

func (r Ref) query() url.Values { return url.Values{"name": {r.Name}, "version": {r.Version}} }

// VersionByAlias returns the version that an alias points to.
func (c *Client) VersionByAlias(ctx context.Context, name, alias string) (*Version, error) {
	const op = "GET mlflow/registered-models/alias"
	var out struct {
		Version *Version `json:"model_version"`
	}
	err := c.call(ctx, op, url.Values{"name": {name}, "alias": {alias}}, &out)
	var fault *Error
	if errors.As(err, &fault) && fault.Code == "INVALID_PARAMETER_VALUE" {
		fault.Err = ErrNotFound // MLflow's code for an alias that is not there
	}
	if err != nil {
		return nil, err
	}
	if out.Version == nil || out.Version.Name != name {
		return nil, lacks(op, "the version")
	}
	return out.Version, nil
}

// LatestVersions returns the latest version of each of the stages, of all stages
// when none is named.
func (c *Client) LatestVersions(
	ctx context.Context, name string, stages ...string,
) ([]Version, error) {
	var out struct {
		Versions []Version `json:"model_versions"`
	}
	in := struct {
		Name   string   `json:"name"`
		Stages []string `json:"stages,omitempty"`
	}{name, stages}
	err := c.call(ctx, "POST mlflow/registered-models/get-latest-versions", in, &out)
	return out.Versions, err
}

// DownloadURI returns where the files of a version lie.
func (c *Client) DownloadURI(ctx context.Context, ref Ref) (string, error) {
	const op = "GET mlflow/model-versions/get-download-uri"
	var out struct {
		URI string `json:"artifact_uri"`
	}
	if err := c.call(ctx, op, ref.query(), &out); err != nil {
		return "", err
	}
	if out.URI == "" {
		return "", lacks(op, "the artifact_uri")
	}
	return out.URI, nil
}

// fields are the members of a request's JSON object.
type fields map[string]any

// SetAlias makes an alias point to a version, wherever it pointed before.
func (c *Client) SetAlias(ctx context.Context, ref Ref, alias string) error {
	return c.call(ctx, "POST mlflow/registered-models/alias",
		fields{"name": ref.Name, "version": ref.Version, "alias": alias}, nil)
}

// DeleteAlias deletes an alias of a model. It is no error that there is none.
func (c *Client) DeleteAlias(ctx context.Context, name, alias string) error {
	return c.call(ctx, "DELETE mlflow/registered-models/alias",
		fields{"name": name, "alias": alias}, nil)
}

// SetStage moves a version to a stage: None, Staging, Production or Archived. With
// archive, those that were in that stage go to Archived.
func (c *Client) SetStage(ctx context.Context, ref Ref, stage string, archive bool) error {
	return c.call(ctx, "POST mlflow/model-versions/transition-stage", fields{"name": ref.Name,
		"version": ref.Version, "stage": stage, "archive_existing_versions": archive}, nil)
}

// SetVersionTag sets a tag of a version.
func (c *Client) SetVersionTag(ctx context.Context, ref Ref, key, value string) error {
	return c.call(ctx, "POST mlflow/model-versions/set-tag", fields{"name": ref.Name,
		"version": ref.Version, "key": key, "value": value}, nil)
}

// DeleteVersionTag deletes a tag of a version.
func (c *Client) DeleteVersionTag(ctx context.Context, ref Ref, key string) error {
	return c.call(ctx, "DELETE mlflow/model-versions/delete-tag",
		fields{"name": ref.Name, "version": ref.Version, "key": key}, nil)
}

// SetModelTag sets a tag of a registered model.
func (c *Client) SetModelTag(ctx context.Context, name, key, value string) error {
	return c.call(ctx, "POST mlflow/registered-models/set-tag",
		fields{"name": name, "key": key, "value": value}, nil)
}

// DeleteModelTag deletes a tag of a registered model.
func (c *Client) DeleteModelTag(ctx context.Context, name, key string) error {
	return c.call(ctx, "DELETE mlflow/registered-models/delete-tag",
		fields{"name": name, "key": key}, nil)
}
