package mlflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// entry is a param or a tag as MLflow sends and takes it.
type entry struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// entries lists a map's entries, by key.
func entries(m map[string]string) []entry {
	list := make([]entry, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, entry{key, m[key]})
	}
	return list
}

// Experiment returns the id of the experiment of that name, which is made if there
// is none. One that was deleted but still has the name is an error.
func (c *Client) Experiment(ctx context.Context, name string) (string, error) {
	id, err := c.findExperiment(ctx, name)
	if !errors.Is(err, ErrNotFound) {
		return id, err
	}
	const op = "POST mlflow/experiments/create"
	var out struct {
		ID string `json:"experiment_id"`
	}
	err = c.call(ctx, op, fields{"name": name}, &out)
	switch {
	case errors.Is(err, ErrExists): // someone else was faster
		return c.findExperiment(ctx, name)
	case err == nil && out.ID == "":
		return "", lacks(op, "the experiment_id")
	}
	return out.ID, err
}

func (c *Client) findExperiment(ctx context.Context, name string) (string, error) {
	const op = "GET mlflow/experiments/get-by-name"
	var out struct {
		Experiment struct {
			ID    string `json:"experiment_id"`
			Stage string `json:"lifecycle_stage"`
		} `json:"experiment"`
	}
	if err := c.call(ctx, op, url.Values{"experiment_name": {name}}, &out); err != nil {
		return "", err
	}
	switch e := out.Experiment; {
	case e.ID == "":
		return "", lacks(op, "the experiment_id")
	case e.Stage == "deleted":
		return "", fmt.Errorf("mlflow: the experiment %q is deleted; restore it, remove it for "+
			"good, or use another name", name)
	}
	return out.Experiment.ID, nil
}

// Run is a run of an experiment.
type Run struct {
	ID           string
	ExperimentID string
	Status       string // RUNNING, SCHEDULED, FINISHED, FAILED or KILLED
	ArtifactURI  string // for List, Open and Upload
	Tags         Tags
}

// answer is a run as MLflow sends it.
type answer struct {
	Info struct {
		ID           string `json:"run_id"`
		ExperimentID string `json:"experiment_id"`
		Status       string `json:"status"`
		ArtifactURI  string `json:"artifact_uri"`
	} `json:"info"`
	Data struct {
		Tags Tags `json:"tags"`
	} `json:"data"`
}

func (a *answer) run() *Run {
	return &Run{ID: a.Info.ID, ExperimentID: a.Info.ExperimentID, Status: a.Info.Status,
		ArtifactURI: a.Info.ArtifactURI, Tags: a.Data.Tags}
}

// NewRun says what a run begins with.
type NewRun struct {
	ExperimentID string
	Name         string
	Start        time.Time
	Tags         Tags
}

// CreateRun begins a run. MLflow makes another one each time: who may have asked
// before looks with FindRun for a tag that he gave it.
func (c *Client) CreateRun(ctx context.Context, n NewRun) (*Run, error) {
	const op = "POST mlflow/runs/create"
	if err := check(entries(n.Tags), maxTagValue); err != nil {
		return nil, err
	}
	var out struct {
		Run answer `json:"run"`
	}
	in := fields{"experiment_id": n.ExperimentID, "run_name": n.Name,
		"start_time": n.Start.UnixMilli(), "tags": n.Tags}
	if err := c.call(ctx, op, in, &out); err != nil {
		return nil, err
	}
	if out.Run.Info.ID == "" {
		return nil, lacks(op, "the run_id")
	}
	return out.Run.run(), nil
}

// FindRun returns the newest run of an experiment that has a tag of that value. Its
// error is ErrNotFound when there is none.
func (c *Client) FindRun(ctx context.Context, experimentID, key, value string) (*Run, error) {
	const op = "POST mlflow/runs/search"
	filter, err := Equals("tags.`"+key+"`", value)
	if err != nil {
		return nil, err
	}
	var out struct {
		Runs []answer `json:"runs"`
	}
	in := fields{"experiment_ids": []string{experimentID}, "filter": filter, "max_results": 1,
		"order_by": []string{"start_time DESC"}}
	if err := c.call(ctx, op, in, &out); err != nil {
		return nil, err
	}
	if len(out.Runs) == 0 {
		return nil, fmt.Errorf("%w: no run of the experiment %s has the tag %s = %q", ErrNotFound,
			experimentID, key, value)
	}
	return out.Runs[0].run(), nil
}

// GetRun returns a run.
func (c *Client) GetRun(ctx context.Context, id string) (*Run, error) {
	const op = "GET mlflow/runs/get"
	var out struct {
		Run answer `json:"run"`
	}
	if err := c.call(ctx, op, url.Values{"run_id": {id}}, &out); err != nil {
		return nil, err
	}
	if out.Run.Info.ID == "" {
		return nil, lacks(op, "the run_id")
	}
	return out.Run.run(), nil
}

// EndRun ends a run with the status FINISHED, FAILED or KILLED.
func (c *Client) EndRun(ctx context.Context, id, status string, end time.Time) error {
	return c.call(ctx, "POST mlflow/runs/update", fields{"run_id": id, "status": status,
		"end_time": end.UnixMilli()}, nil)
}

// Metric is one point of a series.
type Metric struct {
	Key   string
	Value float64 // may be NaN or infinite
	Time  time.Time
	Step  int64
}

// MarshalJSON writes a metric as MLflow takes it.
func (m Metric) MarshalJSON() ([]byte, error) {
	var value any = m.Value
	switch { // as protobuf writes them in JSON
	case math.IsNaN(m.Value):
		value = "NaN"
	case math.IsInf(m.Value, 1):
		value = "Infinity"
	case math.IsInf(m.Value, -1):
		value = "-Infinity"
	}
	return json.Marshal(struct {
		Key       string `json:"key"`
		Value     any    `json:"value"`
		Timestamp int64  `json:"timestamp"`
		Step      int64  `json:"step"`
	}{m.Key, value, m.Time.UnixMilli(), m.Step})
}

// Batch is what is logged to a run. A param cannot be changed later.
type Batch struct {
	Metrics []Metric
	Params  map[string]string
	Tags    Tags
}

// The limits of MLflow for one call and, in characters, for keys and values. A call
// may have 1,000,000 bytes; the names of its members and the id need few of them.
const (
	maxItems      = 1000 // metrics, and entries of all kinds together
	maxEntries    = 100  // params, and tags
	maxBatch      = 990_000
	maxKey        = 250
	maxParamValue = 6000
	maxTagValue   = 8000
)

// LogBatch logs metrics, params and tags in as many calls as MLflow's limits need.
// What is too long for MLflow is ErrLimit, before anything is sent. After another
// error some calls may have been made; making all of them again does no harm but
// that metrics may appear twice in their history.
func (c *Client) LogBatch(ctx context.Context, runID string, b Batch) error {
	calls, err := b.split()
	if err != nil {
		return err
	}
	for _, call := range calls {
		call.RunID = runID
		if err := c.call(ctx, "POST mlflow/runs/log-batch", call, nil); err != nil {
			return err
		}
	}
	return nil
}

// logBatch is the body of one call.
type logBatch struct {
	RunID   string            `json:"run_id"`
	Metrics []json.RawMessage `json:"metrics,omitempty"`
	Params  []json.RawMessage `json:"params,omitempty"`
	Tags    []json.RawMessage `json:"tags,omitempty"`
	size    int               // bytes
}

func (l *logBatch) full(next int) bool {
	return len(l.Metrics)+len(l.Params)+len(l.Tags) >= maxItems || l.size+next > maxBatch
}

// split fills calls up to the limits, params and tags first.
func (b Batch) split() ([]*logBatch, error) {
	params, tags := entries(b.Params), entries(b.Tags)
	err := errors.Join(check(params, maxParamValue), check(tags, maxTagValue))
	for _, m := range b.Metrics {
		err = errors.Join(err, check([]entry{{Key: m.Key}}, 0))
	}
	if err != nil {
		return nil, err
	}
	var calls []*logBatch
	now := &logBatch{}
	put := func(v any, most int, kind func(*logBatch) *[]json.RawMessage) error {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		size := len(text) + len(",")
		if now.full(size) || len(*kind(now)) >= most {
			calls, now = append(calls, now), &logBatch{}
		}
		list := kind(now)
		*list, now.size = append(*list, text), now.size+size
		return nil
	}
	for _, e := range params {
		err = errors.Join(err, put(e, maxEntries,
			func(l *logBatch) *[]json.RawMessage { return &l.Params }))
	}
	for _, e := range tags {
		err = errors.Join(err, put(e, maxEntries,
			func(l *logBatch) *[]json.RawMessage { return &l.Tags }))
	}
	for _, m := range b.Metrics {
		err = errors.Join(err, put(m, maxItems,
			func(l *logBatch) *[]json.RawMessage { return &l.Metrics }))
	}
	if now.size > 0 {
		calls = append(calls, now)
	}
	return calls, err
}

// check holds keys and values against the limits.
func check(list []entry, maxValue int) error {
	for _, e := range list {
		switch n, v := utf8.RuneCountInString(e.Key), utf8.RuneCountInString(e.Value); {
		case n == 0 || strings.TrimSpace(e.Key) == "":
			return errors.New("mlflow: a metric, param or tag has no key")
		case n > maxKey:
			return fmt.Errorf("%w: the key %q has %d characters, %d at most", ErrLimit,
				cut(e.Key), n, maxKey)
		case v > maxValue:
			return fmt.Errorf("%w: the value of %q has %d characters, %d at most", ErrLimit,
				e.Key, v, maxValue)
		}
	}
	return nil
}
