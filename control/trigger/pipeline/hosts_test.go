package pipeline

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

// showActions is a run of GitHub or Gitea.
func showActions(s *ci, j *job) object {
	status, conclusion := "completed", j.state
	if slices.Contains([]string{"queued", "waiting", "in_progress", "dancing"}, j.state) {
		status, conclusion = j.state, ""
	}
	v := object{"id": j.id, "display_title": "train " + j.name, "status": status, "conclusion": nil,
		"html_url": fmt.Sprintf("%s/ml/train/actions/runs/%d", s.url, j.id)}
	if conclusion != "" {
		v["conclusion"] = conclusion
	}
	return v
}

// listActions lists runs, the newest first, with one of somebody else's.
func listActions(s *ci, w reply) {
	runs := []object{{"id": 3, "display_title": "train by hand", "status": "completed"}}
	for _, j := range s.jobs {
		if !s.hide {
			runs = append(runs, showActions(s, j))
		}
	}
	slices.Reverse(runs)
	say(w, 200, object{"total_count": len(runs), "workflow_runs": runs})
}

func followActions(s *ci, m *http.ServeMux, repo string) {
	m.HandleFunc("GET "+repo+"/actions/runs/{id}", func(w reply, r ask) {
		if j := s.get(r.PathValue("id")); j != nil {
			say(w, 200, showActions(s, j))
			return
		}
		say(w, 404, object{"message": "Not Found", "status": "404"})
	})
	m.HandleFunc("GET "+repo+"/actions/runs/{id}/jobs", func(w reply, _ ask) {
		say(w, 200, object{"jobs": []object{{"id": 1, "name": "load", "conclusion": "success"},
			{"id": 2, "name": "fit", "conclusion": "failure"}}})
	})
	m.HandleFunc("GET "+repo+"/actions/jobs/2/logs", func(w reply, r ask) {
		http.Redirect(w, r, s.url+"/blob", http.StatusFound)
	})
	m.HandleFunc("GET /blob", func(w reply, _ ask) {
		_, _ = fmt.Fprint(w, "ValueError: no rows")
	})
	m.HandleFunc("POST "+repo+"/actions/runs/{id}/cancel", func(w reply, r ask) {
		s.get(r.PathValue("id")).state = "cancelled"
		say(w, 202, object{})
	})
}

func serveGitHub(s *ci, m *http.ServeMux) {
	const repo = "/repos/ml/train"
	m.HandleFunc("POST "+repo+"/actions/workflows/train.yml/dispatches", func(w reply, r ask) {
		var body struct {
			Ref     string            `json:"ref"`
			Inputs  map[string]string `json:"inputs"`
			Details bool              `json:"return_run_details"`
		}
		if err := s.read(r, &body); err != nil || body.Ref != "main" || len(body.Inputs) > 25 ||
			r.Header.Get("X-GitHub-Api-Version") != "2022-11-28" {
			say(w, 422, object{"message": fmt.Sprint("Unexpected inputs: ", err), "status": "422"})
			return
		}
		s.has(body.Inputs, all...)
		j := s.add(body.Inputs[trigger.RunKey], body.Inputs, "queued")
		say(w, 200, object{"workflow_run_id": j.id, "run_url": "", "html_url": s.url + "/runs"})
	})
	m.HandleFunc("POST "+repo+"/dispatches", func(w reply, r ask) {
		var body struct {
			Event   string         `json:"event_type"`
			Payload map[string]any `json:"client_payload"`
		}
		if err := s.read(r, &body); err != nil || body.Event != "drift" || len(body.Payload) > 10 {
			say(w, 422, object{"message": fmt.Sprint(err)})
			return
		}
		params := map[string]string{}
		for key, value := range body.Payload {
			params[key] = fmt.Sprint(value)
		}
		s.has(params, "endpoint", "version", "reason", "samples")
		s.add(params[trigger.RunKey], params, "queued")
		w.WriteHeader(http.StatusNoContent)
	})
	m.HandleFunc("GET "+repo+"/actions/workflows/train.yml/runs", func(w reply, r ask) {
		if r.URL.Query().Get("event") != "workflow_dispatch" {
			say(w, 422, object{})
			return
		}
		listActions(s, w)
	})
	m.HandleFunc("GET "+repo+"/actions/runs", func(w reply, _ ask) {
		listActions(s, w)
	})
	followActions(s, m, repo)
}

func serveGitea(s *ci, m *http.ServeMux) {
	const repo = "/api/v1/repos/ml/train"
	m.HandleFunc("POST "+repo+"/actions/workflows/train.yml/dispatches", func(w reply, r ask) {
		var body struct {
			Ref    string            `json:"ref"`
			Inputs map[string]string `json:"inputs"`
		}
		if err := s.read(r, &body); err != nil || body.Ref != "main" {
			say(w, 422, object{"message": fmt.Sprint(err)})
			return
		}
		s.has(body.Inputs, all...)
		j := s.add(body.Inputs[trigger.RunKey], body.Inputs, "waiting")
		if r.URL.Query().Get("return_run_details") != "true" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		say(w, 200, object{"workflow_run_id": j.id})
	})
	m.HandleFunc("GET "+repo+"/actions/runs", func(w reply, _ ask) {
		listActions(s, w)
	})
	followActions(s, m, repo)
}

func serveGitLab(s *ci, m *http.ServeMux) {
	const project = "/api/v4/projects/ml%2Ftrain"
	show := func(j *job) object {
		return object{"id": j.id, "status": j.state,
			"web_url":    fmt.Sprint(s.url, "/-/pipelines/", j.id),
			"created_at": time.Now().Format(time.RFC3339)}
	}
	m.HandleFunc("POST "+project+"/trigger/pipeline", func(w reply, r ask) {
		f := form(r)
		if f.Get("token") != password || f.Get("ref") != "main" {
			say(w, 404, object{"message": "404 Not Found"})
			return
		}
		params := map[string]string{}
		for key := range f {
			if name, found := strings.CutPrefix(key, "variables["); found {
				params[strings.TrimSuffix(name, "]")] = f.Get(key)
			}
		}
		s.has(params, all...)
		say(w, 201, show(s.add(params[trigger.RunKey], params, "created")))
	})
	m.HandleFunc("GET "+project+"/pipelines", func(w reply, r ask) {
		list := []object{{"id": 3, "status": "success", "created_at": "2020-01-01T00:00:00Z"}}
		for _, j := range s.jobs {
			if !s.hide {
				list = append(list, show(j))
			}
		}
		if authorized(w, r) {
			say(w, 200, list)
		}
	})
	m.HandleFunc("GET "+project+"/pipelines/{id}/variables", func(w reply, r ask) {
		list := []object{}
		for key, value := range s.get(r.PathValue("id")).params {
			list = append(list, object{"key": key, "value": value, "variable_type": "env_var"})
		}
		say(w, 200, list)
	})
	m.HandleFunc("GET "+project+"/pipelines/{id}", func(w reply, r ask) {
		if j := s.get(r.PathValue("id")); j != nil {
			say(w, 200, show(j))
			return
		}
		say(w, 404, object{"message": "404 Not found"})
	})
	m.HandleFunc("POST "+project+"/pipelines/{id}/cancel", func(w reply, r ask) {
		j := s.get(r.PathValue("id"))
		j.state = "canceled"
		say(w, 200, show(j))
	})
}

// showJenkins is a build, which goes on while it has no state.
func showJenkins(j *job) object {
	parameters := []object{}
	for key, value := range j.params {
		parameters = append(parameters, object{"name": key, "value": value})
	}
	var result any
	if j.state != "" {
		result = j.state
	}
	return object{"id": j.id, "number": j.id, "building": j.state == "", "result": result,
		"actions": []object{{}, {"parameters": parameters}}}
}

func serveJenkins(s *ci, m *http.ServeMux) {
	const path = "/job/ml/job/train"
	guarded := func(f http.HandlerFunc) http.HandlerFunc {
		return func(w reply, r ask) {
			if c, err := r.Cookie("JSESSIONID"); err != nil || c.Value != "s1" ||
				r.Header.Get("Jenkins-Crumb") != "c1" {
				w.WriteHeader(http.StatusForbidden)
				_, _ = fmt.Fprint(w, "<html><body>No valid crumb was included in the request")
				return
			}
			if authorized(w, r) {
				f(w, r)
			}
		}
	}
	m.HandleFunc("GET /crumbIssuer/api/json", func(w reply, _ ask) {
		http.SetCookie(w, &http.Cookie{Name: "JSESSIONID", Value: "s1", HttpOnly: true})
		say(w, 200, object{"crumb": "c1", "crumbRequestField": "Jenkins-Crumb"})
	})
	m.HandleFunc("POST "+path+"/buildWithParameters", guarded(func(w reply, r ask) {
		params := map[string]string{}
		for key, values := range form(r) {
			params[key] = values[0]
		}
		s.has(params, all...)
		j := s.add(params[trigger.RunKey], params, "")
		w.Header().Set("Location", fmt.Sprintf("%s/queue/item/%d/", s.url, j.id))
		w.WriteHeader(http.StatusCreated)
	}))
	m.HandleFunc("GET /queue/api/json", func(w reply, _ ask) {
		say(w, 200, object{"items": []object{}})
	})
	m.HandleFunc("GET "+path+"/api/json", func(w reply, _ ask) {
		list := []object{}
		for _, j := range s.jobs {
			if !s.hide {
				list = append(list, showJenkins(j))
			}
		}
		say(w, 200, object{"builds": list})
	})
	m.HandleFunc("GET /queue/item/{id}/api/json", func(w reply, r ask) {
		if j := s.get(r.PathValue("id")); j != nil {
			say(w, 200, object{"why": nil, "executable": object{"number": j.id}})
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	m.HandleFunc("GET "+path+"/{n}/api/json", func(w reply, r ask) {
		if j := s.get(r.PathValue("n")); j != nil {
			say(w, 200, showJenkins(j))
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	m.HandleFunc("GET "+path+"/{n}/consoleText", func(w reply, _ ask) {
		_, _ = fmt.Fprint(w, "ValueError: no rows")
	})
	m.HandleFunc("POST "+path+"/{n}/stop", guarded(func(w reply, r ask) {
		s.get(r.PathValue("n")).state = "ABORTED"
		http.Redirect(w, r, path+"/"+strconv.Itoa(s.get(r.PathValue("n")).id)+"/", http.StatusFound)
	}))
}
