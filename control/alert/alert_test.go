package alert_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/alert"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// server is as Alertmanager's API v2 is: postableAlerts in, and an empty 200 out.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string    // Guarded by mu.
	asked  http.Header // of the last call. Guarded by mu.
}

func serve(t *testing.T, statuses ...int) *server {
	t.Helper()
	s := new(server)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		text, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.Path != "/am/api/v2/alerts" ||
			r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s with %v", r.Method, r.URL, r.Header)
		}
		s.bodies, s.asked = append(s.bodies, string(text)), r.Header
		w.WriteHeader(statuses[min(len(s.bodies), len(statuses))-1])
	}))
	t.Cleanup(s.Close)
	return s
}

// calls is how many there were.
func (s *server) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.bodies)
}

// member is how a server at an address is asked, with its route prefix.
func member(address string) fetch.Config {
	cfg := fetch.DefaultConfig()
	cfg.Origin, cfg.Allow = address+"/am/", []string{"127.0.0.1"}
	return cfg
}

// client returns one of a cluster, and its log.
func client(t *testing.T, members ...fetch.Config) (*alert.Client, *strings.Builder) {
	t.Helper()
	log := new(strings.Builder)
	c, err := alert.New(members, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, log
}

var one = alert.Alert{Labels: map[string]string{"alertname": "MillraceDrift"},
	Annotations: map[string]string{"summary": "age left the reference"},
	StartsAt:    time.Unix(1e9, 0).UTC(), EndsAt: time.Unix(1e9+300, 0).UTC(),
	GeneratorURL: "http://h:8002/api/v1/monitors/m"}

func TestPost(t *testing.T) {
	s := serve(t, 200)
	c, _ := client(t, member(s.URL))
	if err := c.Post(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	const want = `[{"labels":{"alertname":"MillraceDrift"},` +
		`"annotations":{"summary":"age left the reference"},` +
		`"startsAt":"2001-09-09T01:46:40Z","endsAt":"2001-09-09T01:51:40Z",` +
		`"generatorURL":"http://h:8002/api/v1/monitors/m"}]`
	if s.calls() != 1 || s.bodies[0] != want || !json.Valid([]byte(want)) {
		t.Errorf("it gets %s", s.bodies)
	}
}

// What may go better is tried again, what is refused is not.
func TestFaults(t *testing.T) {
	f := func(calls int, want error, statuses ...int) {
		t.Helper()
		s := serve(t, statuses...)
		c, _ := client(t, member(s.URL))
		if err := c.Post(t.Context(), one); s.calls() != calls || !errors.Is(err, want) {
			t.Errorf("%v: %d calls, %v", statuses, s.calls(), err)
		}
	}
	f(2, nil, 503, 200)
	f(1, fetch.ErrStatus, 500)
	f(2, fetch.ErrStatus, 503)
	f(1, fetch.ErrStatus, 400)
	cannot := func(members []fetch.Config, want string) {
		t.Helper()
		_, err := alert.New(members, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	cannot(nil, "no address")
	cannot([]fetch.Config{member("alertmanager")}, "uri:")
	there := member("http://127.0.0.1")
	there.CAFile = "/nowhere.pem"
	cannot([]fetch.Config{member("http://127.0.0.1"), there}, "nowhere.pem")
}

// Each member of a cluster gets each alert, and one of them is enough.
func TestCluster(t *testing.T) {
	f := func(first, second int, ok bool, logged string) {
		t.Helper()
		a, b := serve(t, first), serve(t, second)
		c, log := client(t, member(a.URL), member(b.URL))
		for range 2 {
			if err := c.Post(t.Context(), one); ok != (err == nil) {
				t.Errorf("%d and %d: %v", first, second, err)
			}
		}
		if a.calls() != 2 || b.calls() != 2 ||
			strings.Count(log.String(), "takes no alerts") != strings.Count(logged, "no") {
			t.Errorf("%d and %d: %d and %d calls, and the log is %s", first, second, a.calls(),
				b.calls(), log)
		}
	}
	f(200, 200, true, "")
	f(200, 400, true, "no")
	f(400, 200, true, "no")
	f(400, 500, false, "")

	a, b := serve(t, 200), serve(t, 400, 200)
	c, log := client(t, member(a.URL), member(b.URL))
	for range 3 {
		if err := c.Post(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(log.String(), "takes alerts again") != 1 {
		t.Errorf("the log of one that comes back is %s", log)
	}
}

// Each member gets the name and the password; a secret is in no error and no log.
func TestAccess(t *testing.T) {
	const password = "hunter2 and more"
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	as := func(cfg fetch.Config) fetch.Config {
		cfg.Username, cfg.PasswordFile = "millrace", file
		return cfg
	}
	a, b := serve(t, 200), serve(t, 401)
	c, log := client(t, as(member(a.URL)), as(member(b.URL)))
	if err := c.Post(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*server{a, b} {
		r := http.Request{Header: s.asked}
		if name, pass, _ := r.BasicAuth(); name != "millrace" || pass != password {
			t.Errorf("it is asked as %q with %q", name, pass)
		}
	}
	c, _ = client(t, as(member(b.URL)))
	err := c.Post(t.Context(), one)
	if err == nil || !strings.Contains(err.Error(), "401") ||
		strings.Contains(err.Error()+log.String(), "hunter2") {
		t.Errorf("the error is %v, and the log %s", err, log)
	}
	t.Setenv("ALERT_TEST_TOKEN", "a bearer's token")
	token := member(a.URL)
	token.TokenEnv = "ALERT_TEST_TOKEN"
	c, _ = client(t, token)
	if err := c.Post(t.Context(), one); err != nil ||
		a.asked.Get("Authorization") != "Bearer a bearer's token" {
		t.Errorf("the bearer is %q, %v", a.asked.Get("Authorization"), err)
	}
}
