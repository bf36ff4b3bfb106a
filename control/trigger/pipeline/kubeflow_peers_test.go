//go:build peers

package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/gateway/clients/venv"
)

// kubeflowServer is a contract server that is made of the models of the real client. It
// takes only the calls that the client would make itself.
type kubeflowServer struct {
	t   *testing.T
	url string
}

// startKubeflow starts a server of a pipeline's API, by the client that belongs to it.
func startKubeflow(t *testing.T, k Kubeflow) *kubeflowServer {
	t.Helper()
	api := "v2beta1"
	if k.V1 {
		api = "v1beta1"
	}
	data := filepath.Join("testdata", "kubeflow")
	python := venv.Python(t, filepath.Join(data, api+".txt"))
	cmd := exec.Command(python, filepath.Join(data, "server.py"), api, token, k.UserHeader,
		k.User)
	cmd.Env, cmd.Stderr = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1"), os.Stderr
	in, err := cmd.StdinPipe() // the server ends with it, and so with us
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	port := 0
	if _, err := fmt.Fscan(out, &port); err != nil {
		t.Fatal("the server tells no port: ", err)
	}
	return &kubeflowServer{t, fmt.Sprintf("http://127.0.0.1:%d", port)}
}

// ask asks the server what only tests ask.
func (s *kubeflowServer) ask(path string, out any) {
	s.t.Helper()
	resp, err := http.Get(s.url + "/test/" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("%s: status %d, %v", path, resp.StatusCode, err)
	}
}

// parameters are those of all runs.
func (s *kubeflowServer) parameters() (p []map[string]string) {
	s.t.Helper()
	s.ask("runs", &p)
	return p
}

// set sets the state of all runs.
func (s *kubeflowServer) set(state string) {
	s.t.Helper()
	var p []map[string]string
	s.ask("set/"+state, &p)
}

// open is a pipeline of the server.
func (s *kubeflowServer) open(k Kubeflow) *Pipeline {
	s.t.Helper()
	s.t.Setenv("CI_TOKEN", token)
	c := Config{Server: DefaultServer(), Kubeflow: &k}
	c.Server.Origin, c.Server.Allow = s.url, []string{"127.0.0.0/8"}
	c.Server.Backoff, c.Server.Attempts = time.Millisecond, 2
	withToken(&c)
	p, err := Open(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.Close)
	return p
}

// TestKubeflowModels follows runs to all ends at servers that are made of the real client's
// models, in each of its two lines, which refuse what the models do not know.
func TestKubeflowModels(t *testing.T) {
	f := func(name, kind string, k Kubeflow) {
		t.Run(name, func(t *testing.T) {
			s := startKubeflow(t, k)
			s.follow(s.open(k), contractOf(t, kind))
		})
	}
	f("v2beta1", "kubeflow2", Kubeflow{PipelineID: "p1"})
	f("v2beta1 in full", "kubeflow2", Kubeflow{PipelineID: "p1", VersionID: "v1",
		ExperimentID: "e1", Namespace: "ml", UserHeader: "kubeflow-userid", User: "bot"})
	f("v1beta1", "kubeflow1", Kubeflow{V1: true, VersionID: "v1", ExperimentID: "e1"})
}

// follow starts a run twice, and follows it to the ends that a contract names.
func (s *kubeflowServer) follow(p *Pipeline, c contract) {
	t := s.t
	r := run("e")
	first, err := p.Start(t.Context(), r)
	if err != nil || first.External != "run-0" || first.State != trigger.Running {
		t.Fatalf("%+v, %v", first, err)
	}
	(&ci{t: t}).has(s.parameters()[0], all...)
	r.Calls = 2
	again, err := p.Start(t.Context(), r)
	if err != nil || p.Guarantee != trigger.Finds || again.External != first.External ||
		len(s.parameters()) != 1 {
		t.Fatalf("started again: %+v, %v, %v", again, err, s.parameters())
	}
	r.Attempts, r.Calls = 2, 1
	other, err := p.Start(t.Context(), r)
	if err != nil || other.External != "run-1" {
		t.Fatalf("another attempt: %+v, %v", other, err)
	}
	id := first.External
	status(t, p, &id, trigger.Running) // as it begins
	s.set(c.waits)
	status(t, p, &id, trigger.Running)
	s.set(c.succeeds)
	status(t, p, &id, trigger.Succeeded)
	s.set(c.fails)
	if bad := status(t, p, &id, trigger.Failed); bad.Detail != "no rows" {
		t.Errorf("a failure says %+v", bad)
	}
	s.set(c.waits)
	if err := p.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	status(t, p, &id, trigger.Running) // it is ending
	status(t, p, &other.External, trigger.Running)
	s.set(c.cancelled)
	got, err := p.Status(t.Context(), trigger.Run{External: id})
	if err != nil || !got.State.Done() || got.State == trigger.Succeeded {
		t.Errorf("cancelled: %+v, %v", got, err)
	}
	_, err = p.Status(t.Context(), trigger.Run{External: "run-9"})
	if !errors.Is(err, trigger.ErrGone) || !strings.Contains(err.Error(), "Run run-9 not found") {
		t.Errorf("no such run: %v", err)
	}
	s.known(p, id)
}

// known sets each state that the client knows. All but its ends are Running to us.
func (s *kubeflowServer) known(p *Pipeline, id string) {
	s.t.Helper()
	ends := map[string]trigger.State{"SUCCEEDED": trigger.Succeeded,
		"SKIPPED": trigger.Succeeded, "FAILED": trigger.Failed, "CANCELED": trigger.Cancelled}
	var states []string
	s.ask("states", &states)
	for _, state := range states {
		s.set(state)
		want, ok := ends[state]
		if !ok {
			want = trigger.Running
		}
		got, err := p.Status(s.t.Context(), trigger.Run{External: id})
		if err != nil || got.State != want {
			s.t.Errorf("%s: %+v, %v", state, got, err)
		}
	}
}
