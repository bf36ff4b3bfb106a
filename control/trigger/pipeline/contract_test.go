package pipeline

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

// Contract servers: each takes what the real one takes, refuses what it refuses, and
// answers in its words. What they know is from the vendors' sources and documents.

// job is a run at a contract server.
type job struct {
	id     int
	name   string
	params map[string]string
	state  string // in the server's words
}

// ci is a contract server: what it has run, and what it does wrong.
type ci struct {
	t   *testing.T
	url string

	mu     sync.Mutex
	jobs   []*job
	starts func(*http.Request) bool // says whether a call is one that starts a run
	// fault may answer in place of the server, and says whether it has.
	fault func(w http.ResponseWriter, r *http.Request) bool
	// lose cuts the connection once the server has done what a start asks for.
	lose bool
	hide bool // the run is not shown where one looks for it
}

func (s *ci) add(name string, params map[string]string, state string) *job {
	j := &job{id: 40 + len(s.jobs), name: name, params: params, state: state}
	s.jobs = append(s.jobs, j)
	return j
}

// get returns a job by its id or its name.
func (s *ci) get(key string) *job {
	for _, j := range s.jobs {
		if j.name == key || strconv.Itoa(j.id) == key {
			return j
		}
	}
	return nil
}

func (s *ci) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.jobs)
}

func (s *ci) set(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		j.state = state
	}
}

// change changes the server while nobody asks it.
func (s *ci) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// answer has f answer what it wants to.
func (s *ci) answer(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.change(func() { s.fault = f })
}

func (s *ci) ServeHTTP(w http.ResponseWriter, r *http.Request, next http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil && s.fault(w, r) {
		return
	}
	if s.lose && s.starts(r) {
		next.ServeHTTP(httptest.NewRecorder(), r)
		if len(s.jobs) > 0 { // else the server wants something before, such as a crumb
			panic(http.ErrAbortHandler)
		}
	}
	next.ServeHTTP(w, r)
}

// contract is a kind with its server.
type contract struct {
	kind   string
	config func(*Config)
	serve  func(*ci, *http.ServeMux)
	starts string // method and path of the call that starts
	// The server's words for a run that waits, succeeds, fails, was cancelled.
	waits, succeeds, fails, cancelled string
}

// password and token are what is secret in all tests.
const (
	password = "pa55word+/="
	token    = "t0ken-0123456789"
)

// begin starts a contract server and a pipeline of it.
func (c contract) begin(t *testing.T) (*ci, *Pipeline) {
	t.Helper()
	s := &ci{t: t}
	s.starts = func(r *http.Request) bool { return r.Method+" "+r.URL.Path == c.starts }
	mux := http.NewServeMux()
	c.serve(s, mux)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(w, r, mux)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	t.Setenv("CI_PASSWORD", password)
	t.Setenv("CI_TOKEN", token)
	cfg := Config{Server: DefaultServer()}
	cfg.Server.Origin, cfg.Server.Allow = server.URL, []string{"127.0.0.0/8"}
	cfg.Server.Backoff, cfg.Server.Attempts = time.Millisecond, 2
	c.config(&cfg)
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return s, p
}

// run is a run of an event that is to start.
func run(event string) trigger.Run {
	return trigger.Run{ID: trigger.ID("retrain", event), Trigger: "retrain", Attempts: 1,
		Began: time.Now(), Reason: "drift of amount", Context: trigger.Context{Endpoint: "fraud",
			Version: "3", Samples: "s3://captured/fraud", Extra: map[string]string{"epochs": "3"}}}
}

// say answers with JSON.
func say(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// Short names for what each line of the servers has.
type (
	object = map[string]any
	reply  = http.ResponseWriter
	ask    = *http.Request
)

// read reads a JSON body strictly; what does not belong in it is an error, as is what
// is missing.
func (s *ci) read(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// authorized wants the token or the password.
func authorized(w http.ResponseWriter, r *http.Request) bool {
	user, pass, _ := r.BasicAuth()
	if user == "bot" && pass == password || r.Header.Get("Authorization") == "Bearer "+token {
		return true
	}
	say(w, http.StatusUnauthorized, object{"message": "not authenticated"})
	return false
}

func withToken(c *Config) { c.Server.TokenEnv = "CI_TOKEN" }

func withPassword(c *Config) { c.Server.Username, c.Server.PasswordEnv = "bot", "CI_PASSWORD" }

// contracts are all kinds that ask a server.
var contracts = []contract{
	{"airflow3", func(c *Config) { withPassword(c); c.Airflow = &Airflow{DAG: "train fraud"} },
		serveAirflow3, "POST /api/v2/dags/train fraud/dagRuns", "queued", "success", "failed",
		"failed"},
	{"airflow2", func(c *Config) {
		withPassword(c)
		c.Airflow = &Airflow{DAG: "train", Version: 2}
	}, serveAirflow2, "POST /api/v1/dags/train/dagRuns", "running", "success", "failed", "failed"},
	{"kubeflow2", func(c *Config) { withToken(c); c.Kubeflow = &Kubeflow{PipelineID: "p1"} },
		serveKubeflow2, "POST /apis/v2beta1/runs", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED"},
	{"kubeflow1", func(c *Config) {
		withToken(c)
		c.Kubeflow = &Kubeflow{V1: true, VersionID: "v1", ExperimentID: "e1"}
	}, serveKubeflow1, "POST /apis/v1beta1/runs", "Running", "Succeeded", "Failed", "Failed"},
	{"gocd", func(c *Config) {
		withToken(c)
		c.GoCD = &GoCD{Pipeline: "train", User: "bot"}
		c.Inputs = []string{"endpoint"}
	}, serveGoCD, "POST /go/api/pipelines/train/schedule", "Building", "Passed", "Failed",
		"Cancelled"},
	{"github", func(c *Config) {
		withToken(c)
		c.GitHub = &Workflow{Repository: "ml/train", File: "train.yml", Ref: "main", RunName: true}
	}, serveGitHub, "POST /repos/ml/train/actions/workflows/train.yml/dispatches", "queued",
		"success", "failure", "cancelled"},
	{"dispatch", func(c *Config) {
		withToken(c)
		c.GitHub = &Workflow{Repository: "ml/train", EventType: "drift", RunName: true}
	}, serveGitHub, "POST /repos/ml/train/dispatches", "in_progress", "success", "timed_out",
		"cancelled"},
	{"gitea", func(c *Config) {
		withToken(c)
		c.Gitea = &Workflow{Repository: "ml/train", File: "train.yml", Ref: "main", RunName: true}
	}, serveGitea, "POST /api/v1/repos/ml/train/actions/workflows/train.yml/dispatches", "waiting",
		"success", "failure", "cancelled"},
	{"gitlab", func(c *Config) {
		withToken(c)
		c.GitLab = &GitLab{Project: "ml/train", Ref: "main", TriggerTokenEnv: "CI_PASSWORD"}
	}, serveGitLab, "POST /api/v4/projects/ml/train/trigger/pipeline", "pending", "success",
		"failed", "canceled"},
	{"argo", func(c *Config) { withToken(c); c.Argo = &Argo{Namespace: "ml", Template: "train"} },
		serveArgo, "POST /api/v1/workflows/ml/submit", "Pending", "Succeeded", "Error", "Failed"},
	{"jenkins", func(c *Config) { withPassword(c); c.Jenkins = &Jenkins{Job: "ml/train"} },
		serveJenkins, "POST /job/ml/job/train/buildWithParameters", "", "SUCCESS", "UNSTABLE",
		"ABORTED"},
}

// form reads a form.
func form(r *http.Request) url.Values {
	text, _ := io.ReadAll(r.Body)
	v, _ := url.ParseQuery(string(text))
	return v
}

// has says whether all of what a run tells has come.
func (s *ci) has(params map[string]string, keys ...string) {
	s.t.Helper()
	want := run("e").Parameters()
	for _, key := range keys {
		if params[key] != want[key] {
			s.t.Errorf("the parameter %s is %q, not %q", key, params[key], want[key])
		}
	}
	if !strings.HasPrefix(params[trigger.RunKey], "millrace-retrain-") {
		s.t.Errorf("no name in %v", params)
	}
}

// all are the parameters of run.
var all = []string{"endpoint", "version", "reason", "samples", "epochs"}
