//go:build peers

package delivery_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/millrace-ml/millrace/cmd/millrace/processtest"
	"github.com/millrace-ml/millrace/gateway/clients/peer"
)

var giteaProgram = peer.Program{Module: "code.gitea.io/gitea@v1.26.0",
	Package: "code.gitea.io/gitea", Tags: "sqlite,sqlite_unlock_notify"}

const giteaSettings = `
RUN_MODE = prod
[server]
PROTOCOL = http+unix
HTTP_ADDR = %[1]s/socket
ROOT_URL = %[2]s/
STATIC_ROOT_PATH = %[3]s
DISABLE_SSH = true
OFFLINE_MODE = true
[database]
DB_TYPE = sqlite3
[security]
INSTALL_LOCK = true
[webhook]
ALLOWED_HOST_LIST = loopback
[cron]
ENABLED = false
[actions]
ENABLED = true
[indexer]
ISSUE_INDEXER_TYPE = db
[log]
LEVEL = Warn
[log.console]
STDERR = true
`

const (
	giteaUser     = "ml"
	giteaPassword = "a password of Gitea"
	pushSecret    = "a secret of webhooks"
)

// gitea is a real Gitea behind a proxy that can keep dispatches of workflows from it.
type gitea struct {
	*httptest.Server
	t      *testing.T
	env    []string
	token  string
	bare   http.Handler // Gitea itself
	shut   atomic.Bool
	caught chan string // path of a dispatch that does not come back
}

// startGitea starts it, with a user and an access token.
func startGitea(t *testing.T) *gitea {
	t.Helper()
	program := giteaProgram.Build(t)
	g := &gitea{t: t, caught: make(chan string, 2)}
	dir, err := os.MkdirTemp("", "gitea") // the path of a socket must not be long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	g.bare = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "gitea", r.In.Host
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "socket"))
			}},
	}
	config := writeFile(t, "app.ini", giteaSettings, dir, g.URL, giteaProgram.Sources(t))
	// Gitea writes git's settings, so that these have to be a file of its own.
	g.env = append(os.Environ(), "HOME="+dir, "GITEA_WORK_DIR="+dir,
		"GIT_CONFIG_GLOBAL="+filepath.Join(dir, "gitconfig"), "GIT_TERMINAL_PROMPT=0",
		"GITEA_I_AM_BEING_UNSAFE_RUNNING_AS_ROOT=true")
	g.run(dir, program, "--config", config, "migrate")
	g.run(dir, program, "--config", config, "admin", "user", "create", "--admin", "--username",
		giteaUser, "--password", giteaPassword, "--email", "ml@example.com",
		"--must-change-password=false")
	said := strings.Fields(g.run(dir, program, "--config", config, "admin", "user",
		"generate-access-token", "--username", giteaUser, "--scopes", "all", "--raw"))
	g.token = said[len(said)-1]

	cmd := exec.Command(program, "--config", config, "web")
	cmd.Env, cmd.Dir = g.env, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	processtest.Start(t, cmd)
	until(t, "Gitea serves", peerTime, func() bool {
		_, err := os.Stat(filepath.Join(dir, "socket"))
		return err == nil && call{url: g.URL + "/api/v1/version"}.read(t, nil) == http.StatusOK
	})
	return g
}

// run runs a program in a folder, and returns what it says.
func (g *gitea) run(dir string, args ...string) string {
	g.t.Helper()
	cmd := exec.CommandContext(g.t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, g.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// ServeHTTP passes requests on. While it is shut, no dispatch comes back: that of lost-call.yml
// does not reach Gitea, all others do.
func (g *gitea) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.shut.Load() || path.Base(r.URL.Path) != "dispatches" {
		g.bare.ServeHTTP(w, r)
		return
	}
	if strings.Contains(r.URL.Path, "/lost-call.yml/") {
		_, _ = io.Copy(io.Discard, r.Body) // so that it is seen when the caller leaves
	} else {
		answer := httptest.NewRecorder()
		g.bare.ServeHTTP(answer, r)
		if answer.Code >= 300 {
			g.t.Errorf("%s is answered with %d %s", r.URL, answer.Code, answer.Body)
		}
	}
	g.caught <- r.URL.Path
	<-r.Context().Done()
}

// api calls Gitea's API.
func (g *gitea) api(path string, body, out any) {
	g.t.Helper()
	c := call{g.URL + "/api/v1" + path, http.Header{"Authorization": {"token " + g.token}}, body}
	if status := c.read(g.t, out); status >= 300 {
		g.t.Fatalf("%s is answered with %d", path, status)
	}
}

// A workflow with the inputs that millrace sends, whose title has the run's name.
const giteaWorkflow = `
on:
  workflow_dispatch:
    inputs:
      millrace_run: {required: true, type: string}
      commit: {required: true, type: string}
run-name: train ${{ inputs.millrace_run }}
jobs:
  fit:
    runs-on: any
    steps: [{run: "true"}]
`

// repository makes ml/train, and returns a folder with two workflows to be pushed there.
func (g *gitea) repository() string {
	g.t.Helper()
	g.api("/user/repos", map[string]any{"name": "train", "default_branch": "main"}, nil)
	dir := g.t.TempDir()
	g.run(dir, "git", "init", "-q", "-b", "main")
	workflows := filepath.Join(dir, ".gitea", "workflows")
	err := os.MkdirAll(workflows, 0o755)
	for _, name := range []string{"lost-call.yml", "lost-answer.yml"} {
		if err == nil {
			err = os.WriteFile(filepath.Join(workflows, name), []byte(giteaWorkflow), 0o644)
		}
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return dir
}

// push commits all that there is, and returns the commit.
func (g *gitea) push(dir string) string {
	g.t.Helper()
	git := func(args ...string) string {
		g.t.Helper()
		return g.run(dir, append([]string{"git", "-c", "user.name=ann", "-c",
			"user.email=ann@example.com"}, args...)...)
	}
	git("add", ".")
	git("commit", "-q", "-m", "train")
	git("push", "-q", strings.Replace(g.URL, "://", "://"+giteaUser+":"+g.token+"@", 1)+
		"/ml/train.git", "main")
	return strings.TrimSpace(git("rev-parse", "HEAD"))
}

// hook has pushes told to a trigger of millrace.
func (g *gitea) hook(relay *relay, trigger string) {
	g.t.Helper()
	g.api("/repos/ml/train/hooks", map[string]any{"type": "gitea", "active": true,
		"events": []string{"push"}, "config": map[string]string{"content_type": "json",
			"url": relay.URL + "/api/v1/hooks/git/" + trigger, "secret": pushSecret}}, nil)
}

// titles returns the titles of all runs, by their ids.
func (g *gitea) titles() map[string]string {
	g.t.Helper()
	var list struct {
		Runs []struct {
			ID    int64
			Title string `json:"display_title"`
		} `json:"workflow_runs"`
	}
	g.api("/repos/ml/train/actions/runs", nil, &list)
	all := make(map[string]string)
	for _, r := range list.Runs {
		all[fmt.Sprint(r.ID)] = r.Title
	}
	return all
}
