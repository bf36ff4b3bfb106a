// Package experiment leaves in MLflow what rollouts, tests and alarms have found, as
// runs that people compare.
//
// A [Record] is what is known of one of them so far. An [Outbox] keeps records on disk
// and makes each a run of MLflow, once, whenever that can be reached. A [Chart] draws
// series for the artifacts of a record.
//
// All methods of an Outbox may be called concurrently, but Run only once at a time. Its
// folder belongs to one process. Nothing here decides anything or reads what a run says.
package experiment

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/millrace-ml/millrace/registry/mlflow"
)

// Status says how far a record's subject is.
type Status string

// A record may be added again and again while it is Running. Finished and Failed say
// that nothing more will come.
const (
	Running  Status = "running"
	Finished Status = "finished"
	Failed   Status = "failed"
)

// TagID is the tag by which a record's run is found again.
const TagID = "millrace.id"

// Record is all that is known of a rollout, a test or an alarm. A later version of it
// has the same points of each series, and perhaps more; MLflow keeps the first value of
// a param.
type Record struct {
	ID         string            `json:"id"`         // unique among all records
	Experiment string            `json:"experiment"` // name
	Name       string            `json:"name"`       // of the run
	Status     Status            `json:"status"`
	Start      time.Time         `json:"start"`
	End        time.Time         `json:"end,omitzero"`
	Params     map[string]string `json:"params,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"` // mlflow.note.content is the description
	Series     []Series          `json:"series,omitempty"`
	Artifacts  []Artifact        `json:"artifacts,omitempty"`
}

// Series is a metric over time.
type Series struct {
	Name   string  `json:"name"`
	Points []Point `json:"points"`
}

// Point is one value of a series. It may be NaN or infinite.
type Point struct {
	Time  time.Time
	Step  int64
	Value float64
}

// jsonPoint is a Point in JSON, which has no NaN. Its value is a text.
type jsonPoint struct {
	Time  time.Time `json:"time"`
	Step  int64     `json:"step"`
	Value string    `json:"value"`
}

// MarshalJSON writes a Point, with its value as a text: "0.25", "NaN" or "+Inf".
func (p Point) MarshalJSON() ([]byte, error) {
	return json.Marshal(jsonPoint{p.Time, p.Step, strconv.FormatFloat(p.Value, 'g', -1, 64)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Point) UnmarshalJSON(text []byte) error {
	var j jsonPoint
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	value, err := strconv.ParseFloat(j.Value, 64)
	*p = Point{j.Time, j.Step, value}
	return err
}

// Artifact is a file of a run.
type Artifact struct {
	Path    string `json:"path"` // with slashes, as in "evidence/errors.svg"
	Content []byte `json:"content"`
}

// Validate lists all faults.
func (r Record) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(r.ID != "" && utf8.ValidString(r.ID), "id: is missing, or not in UTF-8")
	if _, err := mlflow.Equals("tags.`"+TagID+"`", r.ID); err != nil {
		faults = append(faults, fmt.Errorf("id: %w", err))
	}
	check(r.Experiment != "", "experiment: is missing")
	check(!r.Start.IsZero(), "start: is missing")
	switch r.Status {
	case Running:
	case Finished, Failed:
		check(!r.End.Before(r.Start), "end: %v; must not be before the start, %v", r.End, r.Start)
	default:
		check(false, "status: %.40q; running, finished and failed are allowed", r.Status)
	}
	seen := make(map[string]bool)
	for _, s := range r.Series {
		check(s.Name != "" && !seen[s.Name], "series: the name %.40q is empty, or there twice",
			s.Name)
		seen[s.Name] = true
	}
	clear(seen)
	for _, a := range r.Artifacts {
		check(fs.ValidPath(a.Path) && a.Path != "." && !seen[a.Path],
			`artifacts: the path %.40q is not like "evidence/errors.svg", or there twice`, a.Path)
		seen[a.Path] = true
	}
	return errors.Join(faults...)
}

// done says whether nothing more will come.
func (r Record) done() bool { return r.Status != Running }

// progress is what MLflow has of a record.
type progress struct {
	Asked  time.Time         `json:"asked,omitzero"` // when MLflow was last asked to begin a run
	RunID  string            `json:"run_id,omitempty"`
	Root   string            `json:"root,omitempty"`   // of the run's artifacts
	Points map[string]int    `json:"points,omitempty"` // of each series that are sent
	Params []string          `json:"params,omitempty"` // keys
	Files  map[string]string `json:"files,omitempty"`  // SHA-256 by path
}

// clone returns a copy that shares nothing with p.
func (p progress) clone() progress {
	p.Points, p.Params, p.Files = maps.Clone(p.Points), slices.Clone(p.Params), maps.Clone(p.Files)
	return p
}

// batchSize is how many points are sent at once: MLflow's limit for one call, so that a
// call that is repeated after a crash repeats no more than that.
const batchSize = 1000

// batch returns the next points that MLflow has not, and p with them counted.
func (r Record) batch(p progress) ([]mlflow.Metric, progress) {
	var points []mlflow.Metric
	p = p.clone()
	if p.Points == nil {
		p.Points = make(map[string]int)
	}
	for _, s := range r.Series {
		first := min(p.Points[s.Name], len(s.Points))
		more := s.Points[first:min(len(s.Points), first+batchSize-len(points))]
		for _, at := range more {
			points = append(points, mlflow.Metric{Key: s.Name, Value: at.Value, Time: at.Time,
				Step: at.Step})
		}
		p.Points[s.Name] = max(p.Points[s.Name], first+len(more))
	}
	return points, p
}

// params returns those that MLflow has not, and p with them.
func (r Record) params(p progress) (map[string]string, progress) {
	p = p.clone()
	rest := maps.Clone(r.Params)
	for _, key := range p.Params {
		delete(rest, key)
	}
	p.Params = append(p.Params, slices.Sorted(maps.Keys(rest))...)
	return rest, p
}
