package control

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/control/experiment"
	"github.com/millrace-ml/millrace/control/rollout"
)

// experimentOf is a rollout that is over, as a run of MLflow. source is the run that made the
// canary, empty where none is known.
func experimentOf(status *RolloutStatus, source string) experiment.Record {
	s := &status.State
	r := experiment.Record{
		ID:   s.ID + "/" + s.Began.UTC().Format("20060102T150405.000"),
		Name: s.ID + " " + string(s.Verdict), Status: experiment.Finished,
		Start: s.Began, End: s.Ended,
		Params: map[string]string{
			"endpoint": s.Endpoint, "model": s.Model, "stable": s.Stable.Version,
			"canary": s.Canary.Version, "strategy": string(s.Spec.Strategy),
			"confidence": strconv.FormatFloat(s.Spec.Confidence, 'g', -1, 64),
			"steps":      strings.Trim(fmt.Sprint(s.Spec.Steps), "[]"),
		},
		Tags: map[string]string{
			"mlflow.note.content": s.Sentence(), "millrace.verdict": string(s.Verdict),
			"millrace.reason": s.Reason, "millrace.guard": s.Guard, "millrace.rollout": s.ID,
			"millrace.stable_digest": s.Stable.Digest,
			"millrace.canary_digest": s.Canary.Digest,
			"millrace.model_version": fmt.Sprintf("models:/%s/%s", s.Model, s.Canary.Version),
		},
	}
	if source != "" {
		r.Tags["millrace.source_run"] = source
	}
	if s.Verdict == rollout.Errored {
		r.Status = experiment.Failed
	}
	for i, g := range s.Spec.Guards {
		text, _ := json.Marshal(g)
		r.Params["guard."+strconv.Itoa(i)] = cut(string(text), 500)
	}
	r.Series = series(s)
	evidence, _ := json.MarshalIndent(s, "", "  ")
	r.Artifacts = append(charts(s, r.Series),
		experiment.Artifact{Path: "rollout.json", Content: evidence})
	if len(status.Examples) > 0 {
		r.Artifacts = append(r.Artifacts, experiment.Artifact{Path: "shadow-examples.json",
			Content: status.Examples})
	}
	return r
}

// series are the metrics of a rollout over time.
func series(s *rollout.State) []experiment.Series {
	metrics := map[string]func(*rollout.Point) float64{
		"weight":          func(p *rollout.Point) float64 { return p.Weight },
		"canary_requests": func(p *rollout.Point) float64 { return float64(p.Canary.Requests) },
		"stable_requests": func(p *rollout.Point) float64 { return float64(p.Stable.Requests) },
		"canary_errors":   func(p *rollout.Point) float64 { return float64(p.Canary.Errors) },
		"stable_errors":   func(p *rollout.Point) float64 { return float64(p.Stable.Errors) },
	}
	names := []string{"weight", "canary_requests", "stable_requests", "canary_errors",
		"stable_errors"}
	for i, g := range s.Spec.Guards {
		for what, of := range map[string]func(*rollout.Mark) float64{
			"canary": func(m *rollout.Mark) float64 { return m.Canary },
			"stable": func(m *rollout.Mark) float64 { return m.Stable },
			"harm":   func(m *rollout.Mark) float64 { return m.Harm },
			"sound":  func(m *rollout.Mark) float64 { return m.Sound },
		} {
			metrics[metricName(g)+"."+what] = func(p *rollout.Point) float64 {
				if i < len(p.Guards) {
					return of(&p.Guards[i])
				}
				return math.NaN()
			}
		}
		for _, what := range []string{"canary", "stable", "harm", "sound"} {
			names = append(names, metricName(g)+"."+what)
		}
	}
	all := make([]experiment.Series, 0, len(names))
	for _, name := range names {
		one := experiment.Series{Name: name}
		for i := range s.Evidence {
			p := &s.Evidence[i]
			one.Points = append(one.Points, experiment.Point{Time: p.Time,
				Step: int64(p.Canary.Requests), Value: metrics[name](p)})
		}
		all = append(all, one)
	}
	return all
}

// metricName is a guard's name in the letters that MLflow takes.
func metricName(g rollout.GuardSpec) string { return ofMLflow(g.Name()) }

// ofMLflow is a name in the letters that MLflow takes.
func ofMLflow(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`"'{}[]()=~<>*,;:!|\`, r) {
			return -1
		}
		if r == ' ' {
			return '_'
		}
		return r
	}, cut(name, 100))
}

// charts draw the weights, and for each guard what it compares and its evidence.
func charts(s *rollout.State, all []experiment.Series) []experiment.Artifact {
	by := make(map[string]experiment.Series)
	for _, one := range all {
		by[one.Name] = one
	}
	draw := func(path string, c experiment.Chart, names ...string) experiment.Artifact {
		c.Title = s.ID + ": " + c.Title
		for _, name := range names {
			c.Series = append(c.Series, by[name])
		}
		return experiment.Artifact{Path: path, Content: c.SVG()}
	}
	enough := experiment.Limit{Name: "enough", Value: math.Log(
		float64(len(s.Spec.Guards)) / (1 - s.Spec.Confidence))}
	list := []experiment.Artifact{
		draw("weight.svg", experiment.Chart{Title: "weight of the canary", Y: "percent"}, "weight")}
	for _, g := range s.Spec.Guards {
		name := metricName(g)
		list = append(list,
			draw(name+".svg", experiment.Chart{Title: g.Name(), Y: g.Metric},
				name+".canary", name+".stable"),
			draw(name+"-evidence.svg", experiment.Chart{Title: "evidence of " + g.Name(), Y: "ln E",
				Limits: []experiment.Limit{enough}}, name+".harm", name+".sound"))
	}
	return list
}
