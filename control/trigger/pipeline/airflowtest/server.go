// Package airflowtest starts a real Airflow 3 for tests.
package airflowtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Patience bounds a start, or a task, on a busy machine.
const Patience = 3 * time.Minute

// User and Password are of the only user, who may do all.
const (
	User     = "bot"
	Password = "pa55word+/="
)

// Server is a running Airflow.
type Server struct {
	URL  string
	Home string // folder that tasks know as AIRFLOW_HOME

	bin string
	env []string
}

// Run is a run of a DAG.
type Run struct {
	ID    string `json:"dag_run_id"`
	State string `json:"state"`
}

// Start starts the Airflow of a virtual environment, with a new database and the DAGs of a
// folder. The test ends it.
func Start(t *testing.T, python, dags string) *Server {
	t.Helper()
	dags, err := filepath.Abs(dags)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	s := &Server{URL: "http://" + address, Home: t.TempDir(), bin: filepath.Dir(python)}
	passwords := filepath.Join(s.Home, "passwords.json")
	text := fmt.Appendf(nil, `{%q: %q}`, User, Password)
	if err := os.WriteFile(passwords, text, 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	core := "AIRFLOW__CORE__"
	s.env = append(os.Environ(), "PATH="+s.bin+":"+os.Getenv("PATH"), "AIRFLOW_HOME="+s.Home,
		core+"DAGS_FOLDER="+dags, core+"LOAD_EXAMPLES=False", core+"EXECUTOR=LocalExecutor",
		core+"PARALLELISM=1", core+"SIMPLE_AUTH_MANAGER_USERS="+User+":admin",
		core+"SIMPLE_AUTH_MANAGER_PASSWORDS_FILE="+passwords, core+"FERNET_KEY="+
			strings.Repeat("A", 43)+"=", core+"EXECUTION_API_SERVER_URL="+s.URL+"/execution/",
		"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=sqlite:///"+filepath.Join(s.Home, "airflow.db"),
		"AIRFLOW__API__HOST=127.0.0.1", "AIRFLOW__API__PORT="+port, "AIRFLOW__API__WORKERS=1",
		"AIRFLOW__API__BASE_URL="+s.URL, "AIRFLOW__API__SECRET_KEY=x", "PYTHONDONTWRITEBYTECODE=1",
		"AIRFLOW__API_AUTH__JWT_SECRET="+strings.Repeat("s", 64))
	for _, args := range [][]string{{"db", "migrate"}, {"dags", "reserialize"}} {
		cmd := exec.Command(filepath.Join(s.bin, "airflow"), args...)
		cmd.Env = s.env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("airflow %v: %v\n%s", args, err, out)
		}
	}
	s.serve(t, "api-server")
	s.ready(t, "/api/v2/version", "version")
	s.ready(t, "/execution/health", "") // the first call takes long
	s.serve(t, "scheduler", "--skip-serve-logs")
	s.ready(t, "/api/v2/monitor/health", `"scheduler":{"status":"healthy"`)
	return s
}

// serve runs one of Airflow's servers, in a process group of its own.
func (s *Server) serve(t *testing.T, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(s.Home, args[0]+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(s.bin, "airflow"), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // its status says nothing after a signal
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("airflow %s said:\n%s", args[0], text[max(0, len(text)-4000):])
		}
	})
}

// ready waits until a page says something.
func (s *Server) ready(t *testing.T, path, want string) {
	t.Helper()
	Until(t, s.URL+path, func() bool {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var text json.RawMessage
		return resp.StatusCode == 200 && (want == "" ||
			json.NewDecoder(resp.Body).Decode(&text) == nil && strings.Contains(string(text), want))
	})
}

// Until waits for a condition as long as Airflow may need.
func Until(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(Patience)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, Patience)
		}
	}
}

// Runs returns all runs of a DAG.
func (s *Server) Runs(t *testing.T, dag string) []Run {
	t.Helper()
	login, err := json.Marshal(map[string]string{"username": User, "password": Password})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.URL+"/auth/token", "application/json", bytes.NewReader(login))
	var token struct {
		Text string `json:"access_token"`
	}
	read(t, resp, err, &token)
	req, err := http.NewRequest(http.MethodGet, s.URL+"/api/v2/dags/"+dag+"/dagRuns", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Text)
	resp, err = http.DefaultClient.Do(req)
	var list struct {
		Runs []Run `json:"dag_runs"`
	}
	read(t, resp, err, &list)
	return list.Runs
}

// read reads an answer, which has to be a good one.
func read(t *testing.T, resp *http.Response, err error, out any) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(out)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s is answered with %s, %v", resp.Request.URL, resp.Status, err)
	}
}
