package config

import (
	"cmp"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/pipeline"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// Trigger is what starts a pipeline elsewhere when something happens, and follows it to its end.
// It has one of airflow, kubeflow, gocd, github, gitea, gitlab, argo, jenkins, webhook and command.
type Trigger struct {
	// What commands and metrics call it.
	Name string `yaml:"name" check:"filled"`
	On   On     `yaml:"on"`
	// The endpoint that runs are about where neither monitor nor rollout say one.
	Endpoint string    `yaml:"endpoint"`
	Airflow  *Airflow  `yaml:"airflow"`
	Kubeflow *Kubeflow `yaml:"kubeflow"`
	GoCD     *GoCD     `yaml:"gocd"`
	GitHub   *Workflow `yaml:"github"`
	Gitea    *Workflow `yaml:"gitea"`
	GitLab   *GitLab   `yaml:"gitlab"`
	Argo     *Argo     `yaml:"argo"`
	Jenkins  *Jenkins  `yaml:"jenkins"`
	Webhook  *Receiver `yaml:"webhook"`
	Command  *Program  `yaml:"command"`
	Access   Access    `yaml:"access"`
	// Names of the parameters that are sent, for servers that refuse those that their job does not
	// declare. Empty sends all; millrace_run is always sent.
	Inputs []string `yaml:"inputs"`
	// More parameters of each run. They are no place for secrets: people see them elsewhere.
	Parameters map[string]string `yaml:"parameters"`
	// Nothing starts. `millrace trigger stop` does the same to a running server.
	Stopped bool `yaml:"stopped"`
	// Nothing starts, but the runs say what would.
	DryRun bool `yaml:"dry_run"`
	// Time from the end of one run to the start of the next. Left out it is 6h.
	Cooldown *time.Duration `yaml:"cooldown" min:"0s" max:"8760h"`
	// Runs at once. 0 is 1.
	MaxRuns int `yaml:"max_runs" min:"0" max:"100"`
	// Starts in any 24 hours. 0 is 4.
	DailyBudget int `yaml:"daily_budget" min:"0" max:"100"`
	// Runs in a row that fail, after which only a person starts more. 0 is 3.
	MaxFailures int `yaml:"max_failures" min:"0" max:"50"`
	// Time between looks at a run. 0 is 15s.
	Poll time.Duration `yaml:"poll" min:"0s" max:"24h"`
	// Time for a start to get through, all attempts together. 0 is 1h.
	StartTimeout time.Duration `yaml:"start_timeout" min:"0s" max:"720h"`
	// Time for a run, with what it waits there; after that it is cancelled. 0 is 24h.
	RunTimeout time.Duration `yaml:"run_timeout" min:"0s" max:"8760h"`
	// Time for a run to end that is cancelled. 0 is 10m.
	CancelTimeout time.Duration `yaml:"cancel_timeout" min:"0s" max:"720h"`
}

// On is what a trigger waits for: one of the keys. Without one only a person starts it.
type On struct {
	// Name of a monitor, whose alarms start runs.
	Alarm string `yaml:"alarm"`
	// Name of an endpoint, whose rollouts start runs when they do not succeed.
	Rollout string `yaml:"rollout"`
	// Five fields of cron, such as `0 3 * * *`, or `@every 24h`; in the server's time zone, or in
	// another one with `CRON_TZ=Europe/Berlin` before them. Of times that pass while the server
	// is down the last is made up for.
	Schedule string `yaml:"schedule"`
	// Labels of an alert that Alertmanager sends to /api/v1/hooks/alertmanager of the admin
	// address; it has to have all of them, such as `{alertname: Slow}`.
	Alert map[string]string `yaml:"alert"`
	Push  *OnPush           `yaml:"push"`
	Data  *OnData           `yaml:"data"`
}

// OnData is enough new samples of an endpoint's traffic.
type OnData struct {
	// The endpoint, which a tap with files takes samples of.
	Endpoint string `yaml:"endpoint" check:"filled"`
	// Requests that the tap has written since the trigger was last concerned. A crash loses the
	// count of the last minute.
	Rows int `yaml:"rows" min:"1" max:"1000000000000"`
}

// OnPush is a push to a Git repository, which its host sends to /api/v1/hooks/git/TRIGGER of the
// admin address. GitHub, GitLab and Gitea are understood.
type OnPush struct {
	// OWNER/NAME, as the host calls it.
	Repository string `yaml:"repository" check:"filled"`
	// Empty is any branch or tag.
	Branch string `yaml:"branch"`
	// Environment variable with the secret that the host signs with.
	SecretEnv string `yaml:"secret_env"`
	// File with that secret.
	SecretFile string `yaml:"secret_file"`
}

// Airflow is a DAG of Airflow. The server keeps the run's name, so that a start is never made
// twice.
type Airflow struct {
	// The server's address, with its prefix where it has one.
	URI string `yaml:"uri"`
	DAG string `yaml:"dag"`
	// The server's major version. 0 is 3.
	Version int `yaml:"version" enum:"0,2,3"`
}

// Kubeflow is a pipeline of Kubeflow Pipelines.
type Kubeflow struct {
	// The address of the API, with `/pipeline` at its end behind some front ends.
	URI string `yaml:"uri"`
	// The pipeline's ID; not with v1.
	PipelineID string `yaml:"pipeline_id"`
	// A version's ID. Empty is the newest.
	VersionID    string `yaml:"version_id"`
	ExperimentID string `yaml:"experiment_id"`
	// Namespace of the runs, where the server has several users.
	Namespace string `yaml:"namespace"`
	// Header that names the user where a proxy does not, such as kubeflow-userid.
	UserHeader string `yaml:"user_header"`
	// What that header says.
	User string `yaml:"user"`
	// The API v1beta1 of old servers.
	V1 bool `yaml:"v1"`
}

// GoCD is a pipeline of GoCD. It declares the environment variables that it gets, in capitals.
type GoCD struct {
	// The server's address; the API is below /go of it.
	URI      string `yaml:"uri"`
	Pipeline string `yaml:"pipeline"`
	// Whose credentials those of access are. Nobody else should be that user.
	User string `yaml:"user"`
}

// Workflow is a workflow of GitHub Actions or Gitea Actions.
type Workflow struct {
	// Gitea's address, or that of GitHub's API. Empty is https://api.github.com.
	URI string `yaml:"uri"`
	// OWNER/NAME.
	Repository string `yaml:"repository"`
	// The workflow's file, such as train.yml; it has workflow_dispatch.
	File string `yaml:"file"`
	// Branch or tag that it runs on.
	Ref string `yaml:"ref"`
	// Type of a repository_dispatch of GitHub, in place of file and ref.
	EventType string `yaml:"event_type"`
	// The workflow's run-name holds the input millrace_run, as in
	// `run-name: train ${{ inputs.millrace_run }}`. Then a start is never made twice.
	RunName bool `yaml:"run_name"`
}

// GitLab is the CI pipeline of a project of GitLab.
type GitLab struct {
	// The server's address.
	URI string `yaml:"uri"`
	// Its number, or GROUP/NAME.
	Project string `yaml:"project"`
	// Branch or tag that it runs on.
	Ref string `yaml:"ref"`
	// Environment variable with the pipeline trigger token, which starts runs. The token of access
	// follows them.
	TriggerTokenEnv string `yaml:"trigger_token_env"`
	// File with that token.
	TriggerTokenFile string `yaml:"trigger_token_file"`
}

// Argo is a template of Argo Workflows.
type Argo struct {
	// The server's address.
	URI       string `yaml:"uri"`
	Namespace string `yaml:"namespace"`
	// Name of a WorkflowTemplate.
	Template string `yaml:"template"`
	// The template is a ClusterWorkflowTemplate.
	Cluster bool `yaml:"cluster"`
	// Empty is that of the template.
	ServiceAccount string `yaml:"service_account"`
}

// Jenkins is a job of Jenkins with parameters, of which millrace_run is one.
type Jenkins struct {
	// The server's address.
	URI string `yaml:"uri"`
	// With its folders, as in team/train.
	Job string `yaml:"job"`
}

// Receiver is who gets a signed webhook by the rules of Standard Webhooks. A run of it has
// succeeded when it was taken.
type Receiver struct {
	// Where it is sent.
	URI string `yaml:"uri"`
	// Environment variable with the secret to sign with, `whsec_` and base64.
	SecretEnv string `yaml:"secret_env"`
	// File with that secret.
	SecretFile string `yaml:"secret_file"`
}

// Program is a command on the server's machine. It goes on when the server ends.
type Program struct {
	// Program and arguments, the first as an absolute path. There is no shell around it; parameters
	// come as environment variables such as MILLRACE_ENDPOINT.
	Argv []string `yaml:"argv"`
	// The folder that it runs in. A relative path starts at the settings file. Empty is a folder
	// of server.data.
	WorkDir string `yaml:"work_dir"`
}

// gitHubAPI is where GitHub itself is.
const gitHubAPI = "https://api.github.com"

// Spec says for the runs of a trigger how often and how patiently; the guarantee is the pipeline's.
func (t *Trigger) Spec() trigger.Spec {
	s := trigger.DefaultSpec()
	s.Trigger, s.Stopped, s.DryRun = t.Name, t.Stopped, t.DryRun
	if t.Cooldown != nil {
		s.Cooldown = *t.Cooldown
	}
	s.MaxRuns = cmp.Or(t.MaxRuns, s.MaxRuns)
	s.DailyBudget = cmp.Or(t.DailyBudget, s.DailyBudget)
	s.MaxFailures = cmp.Or(t.MaxFailures, s.MaxFailures)
	s.Poll = cmp.Or(t.Poll, s.Poll)
	s.StartTimeout = cmp.Or(t.StartTimeout, s.StartTimeout)
	s.RunTimeout = cmp.Or(t.RunTimeout, s.RunTimeout)
	s.CancelTimeout = cmp.Or(t.CancelTimeout, s.CancelTimeout)
	return s
}

// Pipeline is what a trigger starts. Commands have a folder for each run in dir.
func (t *Trigger) Pipeline(dir string) pipeline.Config {
	c := pipeline.Config{Inputs: t.Inputs}
	uri := ""
	switch {
	case t.Airflow != nil:
		uri = t.Airflow.URI
		c.Airflow = &pipeline.Airflow{DAG: t.Airflow.DAG, Version: t.Airflow.Version}
	case t.Kubeflow != nil:
		k := t.Kubeflow
		uri = k.URI
		c.Kubeflow = &pipeline.Kubeflow{PipelineID: k.PipelineID, VersionID: k.VersionID,
			ExperimentID: k.ExperimentID, Namespace: k.Namespace, UserHeader: k.UserHeader,
			User: k.User, V1: k.V1}
	case t.GoCD != nil:
		uri = t.GoCD.URI
		c.GoCD = &pipeline.GoCD{Pipeline: t.GoCD.Pipeline, User: t.GoCD.User}
	case t.GitHub != nil:
		uri, c.GitHub = cmp.Or(t.GitHub.URI, gitHubAPI), t.GitHub.pipeline()
	case t.Gitea != nil:
		uri, c.Gitea = t.Gitea.URI, t.Gitea.pipeline()
	case t.GitLab != nil:
		g := t.GitLab
		uri = g.URI
		c.GitLab = &pipeline.GitLab{Project: g.Project, Ref: g.Ref,
			TriggerTokenFile: g.TriggerTokenFile, TriggerTokenEnv: g.TriggerTokenEnv}
	case t.Argo != nil:
		a := t.Argo
		uri = a.URI
		c.Argo = &pipeline.Argo{Namespace: a.Namespace, Template: a.Template, Cluster: a.Cluster,
			ServiceAccount: a.ServiceAccount}
	case t.Jenkins != nil:
		uri, c.Jenkins = t.Jenkins.URI, &pipeline.Jenkins{Job: t.Jenkins.Job}
	case t.Webhook != nil:
		uri = t.Webhook.URI
		c.Webhook = &pipeline.Webhook{SecretFile: t.Webhook.SecretFile,
			SecretEnv: t.Webhook.SecretEnv}
	case t.Command != nil:
		c.Command = &pipeline.Command{Argv: t.Command.Argv, WorkDir: dir, StateDir: dir}
		// From the API a relative path is one of the process.
		if work, err := filepath.Abs(t.Command.WorkDir); err == nil && t.Command.WorkDir != "" {
			c.Command.WorkDir = work
		}
	}
	c.Server = t.Access.server(uri)
	return c
}

func (w *Workflow) pipeline() *pipeline.Workflow {
	return &pipeline.Workflow{Repository: w.Repository, File: w.File, Ref: w.Ref,
		EventType: w.EventType, RunName: w.RunName}
}

// server is how the server at an address is asked. Its own host may always be.
func (a *Access) server(uri string) fetch.Config {
	s := pipeline.DefaultServer()
	s.Origin, s.CAFile, s.Allow = uri, a.CAFile, a.Allow
	if u, err := url.Parse(uri); err == nil && u.Hostname() != "" {
		s.Allow = append([]string{u.Hostname()}, s.Allow...)
	}
	s.Username, s.PasswordFile, s.PasswordEnv = a.Username, a.PasswordFile, a.PasswordEnv
	s.TokenFile, s.TokenEnv = a.TokenFile, a.TokenEnv
	return s
}

// resolve makes the paths absolute.
func (a *Access) resolve(abs func(path *string)) {
	for _, path := range []*string{&a.PasswordFile, &a.TokenFile, &a.CAFile} {
		abs(path)
	}
}

// Endpoints lists the endpoints that a trigger names, the one that its runs are about first.
func (t *Trigger) Endpoints() []string {
	names := []string{t.Endpoint, t.On.Rollout}
	if t.On.Data != nil {
		names = append(names, t.On.Data.Endpoint)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

// resolve makes the paths absolute.
func (t *Trigger) resolve(abs func(path *string)) {
	t.Access.resolve(abs)
	if t.On.Push != nil {
		abs(&t.On.Push.SecretFile)
	}
	if t.GitLab != nil {
		abs(&t.GitLab.TriggerTokenFile)
	}
	if t.Webhook != nil {
		abs(&t.Webhook.SecretFile)
	}
	if t.Command != nil {
		abs(&t.Command.WorkDir)
	}
}

// Kind is the kind of the pipeline, by its key.
func (t *Trigger) Kind() string {
	kinds := t.kinds()
	if len(kinds) == 0 {
		return ""
	}
	return kinds[0]
}

// kinds lists the kinds that are set.
func (t *Trigger) kinds() []string {
	var kinds []string
	for _, k := range [...]struct {
		key string
		is  bool
	}{{"airflow", t.Airflow != nil}, {"kubeflow", t.Kubeflow != nil}, {"gocd", t.GoCD != nil},
		{"github", t.GitHub != nil}, {"gitea", t.Gitea != nil}, {"gitlab", t.GitLab != nil},
		{"argo", t.Argo != nil}, {"jenkins", t.Jenkins != nil}, {"webhook", t.Webhook != nil},
		{"command", t.Command != nil}} {
		if k.is {
			kinds = append(kinds, k.key)
		}
	}
	return kinds
}

// String says what a trigger waits for.
func (o *On) String() string {
	switch {
	case o.Alarm != "":
		return "alarm " + o.Alarm
	case o.Rollout != "":
		return "rollout " + o.Rollout
	case o.Schedule != "":
		return "schedule " + o.Schedule
	case len(o.Alert) > 0:
		return "alert " + cmp.Or(o.Alert["alertname"], "with labels")
	case o.Push != nil:
		return "push " + o.Push.Repository
	case o.Data != nil:
		return fmt.Sprintf("data %d rows of %s", o.Data.Rows, o.Data.Endpoint)
	}
	return "a person"
}

// triggers holds the triggers against what they name.
func (c *checker) triggers(all *Config) {
	names := make(map[string]string)
	for i := range all.Triggers {
		t := &all.Triggers[i]
		key := fmt.Sprintf("triggers[%d]", i)
		c.once(names, t.Name, key)
		for _, name := range t.Endpoints() {
			if !slices.ContainsFunc(all.Endpoints,
				func(e Endpoint) bool { return e.Name == name }) {
				c.fault(key, "is about %q, which no endpoint is called", name)
			}
		}
		if t.On.Alarm != "" && !slices.ContainsFunc(all.Monitors,
			func(m Monitor) bool { return m.Name == t.On.Alarm }) {
			c.fault(key+".on.alarm", "is %q, which no monitor is called", t.On.Alarm)
		}
		c.on(&t.On, key+".on")
		c.pipeline(t, key)
	}
}

// untapped wants the endpoint of each trigger that waits for data to have a tap that keeps files.
// Taps are no resources, so that only a settings file can be held against this.
func (c *Config) untapped() []Fault {
	var k checker
	for i := range c.Triggers {
		on := c.Triggers[i].On.Data
		if on != nil && !slices.ContainsFunc(c.Taps, func(t Tap) bool {
			return t.Keeps(on.Endpoint)
		}) {
			k.fault(fmt.Sprintf("triggers[%d].on.data.endpoint", i), "is %q, of which no tap "+
				"keeps files, so that nothing is counted; add to taps: {name: samples, "+
				"endpoints: [%s], files: {path: samples, format: parquet}}", on.Endpoint,
				on.Endpoint)
		}
	}
	return k.faults
}

// on wants a trigger to wait for one thing that can happen.
func (c *checker) on(o *On, key string) {
	count := 0
	for _, is := range [...]bool{o.Alarm != "", o.Rollout != "", o.Schedule != "",
		len(o.Alert) > 0, o.Push != nil, o.Data != nil} {
		if is {
			count++
		}
	}
	if count > 1 {
		c.fault(key, "has %d keys, must have one at most; make a trigger of each", count)
	}
	if o.Schedule != "" {
		s, err := cron.ParseStandard(o.Schedule)
		switch {
		case err != nil:
			c.fault(key+".schedule", "is %q, must be five fields of cron such as \"0 3 * * *\", "+
				"or @every 24h: %v", o.Schedule, err)
		case s.Next(time.Now()).IsZero():
			c.fault(key+".schedule", "is %q, which never comes", o.Schedule)
		}
	}
	if p := o.Push; p != nil && (p.SecretEnv == "") == (p.SecretFile == "") {
		c.fault(key+".push", "must have one of secret_env and secret_file, so that only the "+
			"repository's host can start runs")
	}
}

// pipeline holds a trigger against the rules of its pipeline's kind.
func (c *checker) pipeline(t *Trigger, key string) {
	kinds := t.kinds()
	if len(kinds) != 1 {
		c.fault(key, "has %d of airflow, kubeflow, gocd, github, gitea, gitlab, argo, jenkins, "+
			"webhook and command, must have one", len(kinds))
		return
	}
	if err := t.Pipeline("/").Validate(); err != nil {
		for line := range strings.Lines(err.Error()) {
			c.pipelineFault(key, kinds[0], strings.TrimSpace(line))
		}
	}
}

// pipelineFault gives a fault of a pipeline, which begins with its key, its place.
func (c *checker) pipelineFault(key, kind, line string) {
	name, text, _ := strings.Cut(line, ": ")
	switch {
	case slices.Contains(keysOf(reflect.TypeFor[Access]()), name):
		c.fault(key+".access."+name, "%s", text)
	case strings.ContainsAny(name, " ,"):
		c.fault(key+"."+kind, "%s", line)
	default:
		c.fault(key+"."+kind+"."+name, "%s", text)
	}
}
