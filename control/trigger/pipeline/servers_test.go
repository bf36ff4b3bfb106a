package pipeline

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

func serveAirflow3(s *ci, m *http.ServeMux) {
	m.HandleFunc("POST /auth/token", func(w reply, r ask) {
		var body struct{ Username, Password string }
		if s.read(r, &body) != nil || body.Username != "bot" || body.Password != password {
			say(w, 401, object{"detail": "Invalid credentials"})
			return
		}
		say(w, 201, object{"access_token": token})
	})
	inside := func(f http.HandlerFunc) http.HandlerFunc {
		return func(w reply, r ask) {
			if r.Header.Get("Authorization") != "Bearer "+token {
				say(w, 401, object{"detail": "Not authenticated"})
				return
			}
			f(w, r)
		}
	}
	const runs = "/api/v2/dags/train%20fraud/dagRuns"
	m.HandleFunc("POST "+runs, inside(func(w reply, r ask) {
		var body map[string]json.RawMessage
		_ = json.NewDecoder(r.Body).Decode(&body)
		if string(body["logical_date"]) != "null" {
			say(w, 422, object{"detail": []object{{"type": "missing",
				"loc": []string{"body", "logical_date"}}}})
			return
		}
		for key := range body {
			if !slices.Contains([]string{"dag_run_id", "logical_date", "conf", "note"}, key) {
				say(w, 422, object{"detail": "extra_forbidden"})
				return
			}
		}
		s.startAirflow(w, body)
	}))
	s.followAirflow(m, runs, inside)
}

func serveAirflow2(s *ci, m *http.ServeMux) {
	inside := func(f http.HandlerFunc) http.HandlerFunc {
		return func(w reply, r ask) {
			if user, pass, _ := r.BasicAuth(); user != "bot" || pass != password {
				say(w, 401, object{"title": "Unauthorized", "status": 401})
				return
			}
			f(w, r)
		}
	}
	const runs = "/api/v1/dags/train/dagRuns"
	m.HandleFunc("POST "+runs, inside(func(w reply, r ask) {
		var body map[string]json.RawMessage
		_ = json.NewDecoder(r.Body).Decode(&body)
		s.startAirflow(w, body)
	}))
	s.followAirflow(m, runs, inside)
}

func (s *ci) startAirflow(w reply, body map[string]json.RawMessage) {
	var name string
	var conf map[string]string
	_ = json.Unmarshal(body["dag_run_id"], &name)
	_ = json.Unmarshal(body["conf"], &conf)
	if s.get(name) != nil {
		say(w, 409, object{"detail": object{"reason": "Unique constraint violation"}})
		return
	}
	s.has(conf, all...)
	s.add(name, conf, "queued")
	say(w, 200, object{"dag_run_id": name, "state": "queued", "logical_date": nil})
}

func (s *ci) followAirflow(m *http.ServeMux, runs string,
	inside func(http.HandlerFunc) http.HandlerFunc) {
	m.HandleFunc(runs+"/{id}", inside(func(w reply, r ask) {
		j := s.get(r.PathValue("id"))
		if j == nil {
			say(w, 404, object{"detail": "The DagRun was not found"})
			return
		}
		if r.Method == http.MethodPatch {
			var body struct{ State string }
			if s.read(r, &body) != nil || body.State != "failed" {
				say(w, 422, object{"detail": "state"})
				return
			}
			j.state = body.State
		}
		say(w, 200, object{"dag_run_id": j.name, "state": j.state})
	}))
	m.HandleFunc("GET "+runs+"/{id}/taskInstances", inside(func(w reply, _ ask) {
		say(w, 200, object{"task_instances": []object{{"task_id": "load", "state": "success",
			"try_number": 1}, {"task_id": "fit", "state": "failed", "try_number": 2}}})
	}))
	m.HandleFunc("GET "+runs+"/{id}/taskInstances/fit/logs/2", inside(
		func(w reply, _ ask) {
			if strings.HasPrefix(runs, "/api/v1") {
				say(w, 200, object{"content": "ValueError: no rows", "continuation_token": nil})
				return
			}
			say(w, 200, object{"content": []object{{"timestamp": "2026-11-25T22:00:00Z",
				"event": "Task failed with exception", "level": "error", "error_detail": []object{
					{"exc_type": "ValueError", "exc_value": "no rows"}}}}})
		}))
}

func serveKubeflow2(s *ci, m *http.ServeMux) {
	show := func(j *job) object {
		return object{"run_id": strconv.Itoa(j.id), "display_name": j.name, "state": j.state,
			"storage_state": "AVAILABLE", "finished_at": "1970-01-01T00:00:00Z"}
	}
	m.HandleFunc("POST /apis/v2beta1/runs", func(w reply, r ask) {
		var body struct {
			DisplayName string `json:"display_name"`
			Description string `json:"description"`
			Experiment  string `json:"experiment_id"`
			Reference   struct {
				Pipeline string `json:"pipeline_id"`
				Version  string `json:"pipeline_version_id"`
			} `json:"pipeline_version_reference"`
			Config struct {
				Parameters map[string]string `json:"parameters"`
			} `json:"runtime_config"`
		}
		if err := s.read(r, &body); err != nil || body.Reference.Pipeline != "p1" {
			say(w, 400, object{"error": fmt.Sprint(err), "code": 3})
			return
		}
		s.has(body.Config.Parameters, all...)
		say(w, 200, show(s.add(body.DisplayName, body.Config.Parameters, "PENDING")))
	})
	m.HandleFunc("GET /apis/v2beta1/runs", func(w reply, r ask) {
		s.listKubeflow(w, r, "operation", show)
	})
	m.HandleFunc("GET /apis/v2beta1/runs/{id}", func(w reply, r ask) {
		if j := s.get(r.PathValue("id")); j != nil {
			v := show(j)
			if j.state == "FAILED" {
				v["error"] = object{"code": 13, "message": "no rows"}
			}
			say(w, 200, v)
			return
		}
		say(w, 404, object{"error": "Run not found", "code": 5})
	})
	m.HandleFunc("POST /apis/v2beta1/runs/{verb}", func(w reply, r ask) {
		id, _ := strings.CutSuffix(r.PathValue("verb"), ":terminate")
		s.get(id).state = "CANCELED"
		say(w, 200, object{})
	})
}

// listKubeflow lists runs by a filter of one predicate.
func (s *ci) listKubeflow(w reply, r ask, operation string,
	show func(*job) object) {
	var filter struct{ Predicates []map[string]string }
	err := json.Unmarshal([]byte(r.URL.Query().Get("filter")), &filter)
	if err != nil || len(filter.Predicates) != 1 || filter.Predicates[0][operation] != "EQUALS" ||
		filter.Predicates[0]["key"] != "name" {
		say(w, 400, object{"error": "filter", "code": 3})
		return
	}
	var runs []object
	for _, j := range s.jobs {
		if !s.hide && j.name == filter.Predicates[0]["string_value"] {
			runs = append(runs, show(j))
		}
	}
	if runs == nil {
		say(w, 200, object{})
		return
	}
	say(w, 200, object{"runs": runs, "total_size": len(runs)})
}

func serveKubeflow1(s *ci, m *http.ServeMux) {
	show := func(j *job) object {
		v := object{"id": strconv.Itoa(j.id), "name": j.name, "status": j.state}
		if j.state == "Failed" {
			v["error"] = "no rows"
		}
		return v
	}
	m.HandleFunc("POST /apis/v1beta1/runs", func(w reply, r ask) {
		var body struct {
			Name string `json:"name"`
			Spec struct {
				Parameters []struct{ Name, Value string } `json:"parameters"`
			} `json:"pipeline_spec"`
			References []struct {
				Key          struct{ Type, ID string } `json:"key"`
				Relationship string                    `json:"relationship"`
			} `json:"resource_references"`
		}
		if err := s.read(r, &body); err != nil || len(body.References) != 2 ||
			body.References[0].Key.ID != "e1" || body.References[1].Key.ID != "v1" {
			say(w, 400, object{"error": fmt.Sprint(err)})
			return
		}
		params := map[string]string{}
		for _, p := range body.Spec.Parameters {
			params[p.Name] = p.Value
		}
		s.has(params, all...)
		say(w, 200, object{"run": show(s.add(body.Name, params, "")), "pipeline_runtime": object{}})
	})
	m.HandleFunc("GET /apis/v1beta1/runs", func(w reply, r ask) {
		if r.URL.Query().Get("resource_reference_key.id") != "e1" {
			say(w, 400, object{"error": "resource_reference_key"})
			return
		}
		s.listKubeflow(w, r, "op", show)
	})
	m.HandleFunc("GET /apis/v1beta1/runs/{id}", func(w reply, r ask) {
		if j := s.get(r.PathValue("id")); j != nil {
			say(w, 200, object{"run": show(j), "pipeline_runtime": object{}})
			return
		}
		say(w, 404, object{"error": "Run not found"})
	})
	m.HandleFunc("POST /apis/v1beta1/runs/{id}/terminate", func(w reply, r ask) {
		s.get(r.PathValue("id")).state = "Failed"
		say(w, 200, object{})
	})
}

// showGoCD is an instance that the bot has forced.
func showGoCD(j *job) object {
	stages := []object{{"name": "load", "counter": "1", "status": "Passed", "result": "Passed"},
		{"name": "fit", "counter": "1", "status": j.state, "result": "Unknown"}}
	return object{"name": "train", "counter": j.id, "stages": stages,
		"scheduled_date": time.Now().UnixMilli(),
		"build_cause":    object{"trigger_forced": true, "approver": "bot"}}
}

func serveGoCD(s *ci, m *http.ServeMux) {
	inside := func(version string, f http.HandlerFunc) http.HandlerFunc {
		return func(w reply, r ask) {
			if r.Header.Get("Accept") != "application/vnd.go.cd."+version+"+json" {
				say(w, 406, object{"message": "not available in this format"})
				return
			}
			if authorized(w, r) {
				f(w, r)
			}
		}
	}
	// What others have started is not ours.
	old := object{"name": "train", "counter": 7, "scheduled_date": 1, "stages": []object{},
		"build_cause": object{"trigger_forced": true, "approver": "bot"}}
	other := object{"name": "train", "counter": 39, "scheduled_date": time.Now().UnixMilli(),
		"build_cause": object{"trigger_forced": true, "approver": "ann"}, "stages": []object{}}
	m.HandleFunc("POST /go/api/pipelines/train/schedule", inside("v1", func(w reply, r ask) {
		var body struct {
			Variables []struct{ Name, Value string } `json:"environment_variables"`
			Update    bool                           `json:"update_materials_before_scheduling"`
		}
		kind := r.Header.Get("Content-Type")
		if err := s.read(r, &body); err != nil || kind != "application/json" {
			say(w, 400, object{"message": "Missing required header 'X-GoCD-Confirm'"})
			return
		}
		params := map[string]string{}
		for _, v := range body.Variables {
			params[strings.ToLower(v.Name)] = v.Value
			if v.Name != "MILLRACE_RUN" && v.Name != "ENDPOINT" {
				say(w, 422, object{"message": "Variable '" + v.Name + "' has not been configured"})
				return
			}
		}
		s.has(params, "endpoint")
		for _, j := range s.jobs {
			if j.state == "Building" {
				say(w, 409, object{"message": "Stage [fit] is still in progress"})
				return
			}
		}
		s.add(params[trigger.RunKey], params, "Building")
		say(w, 202, object{"message": "Request to schedule pipeline train accepted"})
	}))
	m.HandleFunc("GET /go/api/pipelines/train/history", inside("v1", func(w reply, r ask) {
		list := []object{}
		for _, j := range slices.Backward(s.jobs) {
			if !s.hide {
				list = append(list, showGoCD(j))
			}
		}
		say(w, 200, object{"pipelines": append(list, other, old)})
	}))
	m.HandleFunc("GET /go/api/pipelines/train/{n}", inside("v1", func(w reply, r ask) {
		if j := s.get(r.PathValue("n")); j != nil {
			say(w, 200, showGoCD(j))
			return
		}
		say(w, 404, object{"message": "Either the resource was not found, or not authorized"})
	}))
	m.HandleFunc("POST /go/api/stages/train/{n}/fit/1/cancel", inside("v2", func(w reply, r ask) {
		if r.Header.Get("X-GoCD-Confirm") != "true" {
			say(w, 400, object{"message": "Missing required header 'X-GoCD-Confirm'"})
			return
		}
		s.get(r.PathValue("n")).state = "Cancelled"
		say(w, 200, object{"message": "Stage cancelled successfully."})
	}))
}

func serveArgo(s *ci, m *http.ServeMux) {
	show := func(j *job) object {
		message := ""
		if j.state == "Error" {
			message = "no rows"
		}
		return object{"metadata": object{"name": j.name, "namespace": "ml"},
			"status": object{"phase": j.state, "message": message}}
	}
	m.HandleFunc("POST /api/v1/workflows/ml/submit", func(w reply, r ask) {
		var body struct {
			Namespace, ResourceKind, ResourceName string
			SubmitOptions                         struct {
				Name, Labels, ServiceAccount string
				Parameters                   []string
			}
		}
		if err := s.read(r, &body); err != nil || body.ResourceKind != "WorkflowTemplate" ||
			body.ResourceName != "train" {
			say(w, 400, object{"code": 3, "message": fmt.Sprint(err)})
			return
		}
		name := body.SubmitOptions.Name
		if s.get(name) != nil {
			say(w, 409, object{"code": 6, "message": "workflows.argoproj.io already exists"})
			return
		}
		params := map[string]string{}
		for _, p := range body.SubmitOptions.Parameters {
			key, value, _ := strings.Cut(p, "=")
			params[key] = value
		}
		s.has(params, all...)
		say(w, 200, show(s.add(name, params, "")))
	})
	m.HandleFunc("GET /api/v1/workflows/ml/{name}", func(w reply, r ask) {
		if j := s.get(r.PathValue("name")); j != nil {
			say(w, 200, show(j))
			return
		}
		say(w, 404, object{"code": 5, "message": "workflows.argoproj.io not found"})
	})
	m.HandleFunc("PUT /api/v1/workflows/ml/{name}/terminate", func(w reply, r ask) {
		j := s.get(r.PathValue("name"))
		j.state = "Failed"
		say(w, 200, show(j))
	})
}
