package incoming

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/notify"
	"github.com/millrace-ml/millrace/control/trigger"
)

var t0 = time.Date(2026, 11, 25, 22, 0, 0, 0, time.UTC)

// firing is the webhook of Alertmanager's documents, with one alert that fires.
const firing = `{"version":"4","groupKey":"{}:{alertname=\"Drift\"}","truncatedAlerts":0,` +
	`"status":"firing","receiver":"gateway","notification_reason":"first notification",` +
	`"groupLabels":{"alertname":"Drift"},"commonLabels":{},"commonAnnotations":{},` +
	`"routeLabels":{},` +
	`"externalURL":"http://am:9093","alerts":[{"status":"firing","labels":{"alertname":"Drift",` +
	`"model":"churn"},"annotations":{"summary":"amount drifts"},` +
	`"startsAt":"2026-08-22T10:00:00Z","endsAt":"0001-01-01T00:00:00Z",` +
	`"generatorURL":"http://prom/graph","fingerprint":"0123456789abcdef"},` +
	`{"status":"resolved","labels":{"alertname":"Drift","model":"other"},"annotations":{},` +
	`"startsAt":"2026-08-22T09:00:00Z","endsAt":"2026-08-22T10:00:00Z","fingerprint":"00"}]}`

func TestAlerts(t *testing.T) {
	f := func(body string, n int, fault error) {
		t.Helper()
		got, err := Alerts([]byte(body))
		if len(got) != n || !errors.Is(err, fault) || fault == nil && err != nil {
			t.Errorf("%.200s: %d alerts, %v; want %d, %v", body, len(got), err, n, fault)
		}
	}
	f(firing, 1, nil)
	f(strings.ReplaceAll(firing, `"notification_reason":"first notification",`, ""), 1, nil)
	f(strings.Replace(firing, "first notification", "repeat interval elapsed", 1), 0, nil)
	f(strings.Replace(firing, "first notification", "new alerts added", 1), 1, nil)
	state := func(s string) string {
		return strings.Replace(firing, `"status":"firing","labels"`, `"status":"`+s+`","labels"`, 1)
	}
	f(state("resolved"), 0, nil)
	f(strings.Replace(firing, `"version":"4"`, `"version":"5"`, 1), 0, ErrMalformed)
	f(strings.Replace(firing, `"0123456789abcdef"`, `""`, 1), 0, ErrMalformed)
	f(strings.Replace(firing, `"0123456789abcdef"`, `"../x"`, 1), 0, ErrMalformed)
	f(strings.Replace(firing, `"startsAt":"2026-08-22T10:00:00Z",`, "", 1), 0, ErrMalformed)
	f(strings.Replace(firing, `"2026-08-22T10:00:00Z"`, `"yesterday"`, 1), 0, ErrMalformed)
	f(state("odd"), 0, ErrMalformed)
	f("", 0, ErrMalformed)
	f("[]", 0, ErrMalformed)
	f(`{"version":"4"}`, 0, nil)
	f(`{"version":"4","alerts":[`+strings.Repeat("{},", 1000)+"{}]}", 0, ErrMalformed)
	f(strings.Repeat(" ", MaxBody)+firing, 0, ErrTooLarge)
}

// TestAlertEvent holds the events of the same and of another alert against each other.
func TestAlertEvent(t *testing.T) {
	event := func(body string) trigger.Event {
		t.Helper()
		alerts, err := Alerts([]byte(body))
		if err != nil || len(alerts) != 1 {
			t.Fatal(alerts, err)
		}
		return alerts[0].Event()
	}
	e := event(firing)
	if e.Reason != "the alert Drift fires: amount drifts" || e.Context.Model != "churn" ||
		!strings.Contains(e.Context.Evidence, `"alertname":"Drift"`) {
		t.Errorf("%+v", e)
	}
	f := func(old, after string, same bool) {
		t.Helper()
		if got := event(strings.Replace(firing, old, after, 1)); (got.ID == e.ID) != same {
			t.Errorf("%s to %s: %s, %s", old, after, got.ID, e.ID)
		}
	}
	f("first notification", "unknown", true)
	f("amount drifts", "it drifts more", true)
	f("2026-08-22T10:00:00Z", "2026-08-22T12:00:00+02:00", true)
	f("2026-08-22T10:00:00Z", "2026-08-22T10:00:01Z", false)
	f("0123456789abcdef", "0123456789abcdee", false)
}

func TestAuthentic(t *testing.T) {
	f := func(header, token string, ok bool) {
		t.Helper()
		h := http.Header{}
		if header != "" {
			h.Set("Authorization", header)
		}
		err := Authentic(h, token)
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrNotAuthentic) {
			t.Errorf("%q, %q: %v", header, token, err)
		}
	}
	f("Bearer t0ken", "t0ken", true)
	f("Bearer t0kem", "t0ken", false)
	f("Bearer t0ke", "t0ken", false)
	f("Basic t0ken", "t0ken", false)
	f("", "t0ken", false)
	f("Bearer ", "", false)
	f("", "", false)
}

const (
	everybody = "It's a Secret to Everybody"
	signing   = "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="
	sha       = "40f0a7c0ffee40f0a7c0ffee40f0a7c0ffee40f0"
	pushJSON  = `{"ref":"refs/heads/main","before":"0000000000000000000000000000000000000000",` +
		`"after":"` + sha + `","compare":"https://git.example/ml/train/compare","commits":[],` +
		`"repository":{"full_name":"ml/train","default_branch":"main"},"pusher":{"name":"ann"}}`
	gitlabJSON = `{"object_kind":"push","ref":"refs/heads/main","after":"` + sha + `","project":` +
		`{"path_with_namespace":"ml/train","web_url":"https://gitlab.example/ml/train"}}`
)

// headers of a delivery of GitHub, Gitea and GitLab.
func github(body, key string) http.Header {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(body))
	h := http.Header{}
	h.Set("X-GitHub-Event", "push")
	h.Set("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	return h
}

func gitlab(token string) http.Header {
	h := http.Header{}
	h.Set("X-Gitlab-Event", "Push Hook")
	h.Set("X-Gitlab-Token", token)
	h.Set("Idempotency-Key", "f5e5f430-f57b-4e6e-9fac-d9128cd7232f")
	return h
}

func signed(t *testing.T, body string, at time.Time) http.Header {
	t.Helper()
	s, err := notify.ParseSecret(signing)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	h.Set("X-Gitlab-Event", "Push Hook")
	h.Set("webhook-id", "msg_1")
	h.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	h.Set("webhook-signature", s.Sign("msg_1", at, []byte(body)))
	return h
}

// with changes one header.
func with(h http.Header, key, value string) http.Header {
	h = h.Clone()
	h.Set(key, value)
	return h
}

// TestGitHubVector has the example of GitHub's documents.
func TestGitHubVector(t *testing.T) {
	const sum = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	h := with(http.Header{}, "X-Hub-Signature-256", "sha256="+sum)
	p, err := ReadPush(h, []byte("Hello, World!"), everybody, t0)
	if p != nil || err != nil {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestReadPush(t *testing.T) {
	secret := everybody
	f := func(h http.Header, body, delivery string, fault error) {
		t.Helper()
		p, err := ReadPush(h, []byte(body), secret, t0)
		switch {
		case !errors.Is(err, fault) || fault == nil && err != nil:
			t.Errorf("%v: %v, want %v", h, err, fault)
		case err != nil && (p != nil || secret != "" && strings.Contains(err.Error(), secret)):
			t.Errorf("%v: %+v, %v", h, p, err)
		case err == nil && delivery == "" && p != nil:
			t.Errorf("%v: %+v is no push", h, p)
		case delivery != "" && (p == nil || p.Delivery != delivery || p.Repository != "ml/train" ||
			p.Ref != "refs/heads/main" || p.Commit != sha || p.Link == ""):
			t.Errorf("%v: %+v", h, p)
		}
	}
	const id, key = "72d3162e-cc78-11e3-81ab-4c9367dc0958", "f5e5f430-f57b-4e6e-9fac-d9128cd7232f"
	const formType = "application/x-www-form-urlencoded"
	good := github(pushJSON, secret)
	f(good, pushJSON, id, nil)
	f(with(good, "X-Gitea-Event", "push"), pushJSON, id, nil)
	f(with(good, "X-GitHub-Event", "ping"), pushJSON, "", nil)
	f(with(good, "X-GitHub-Event", "workflow_run"), pushJSON, "", nil)
	f(good, pushJSON+" ", "", ErrNotAuthentic)
	f(with(good, "X-Hub-Signature-256", "sha256="), pushJSON, "", ErrNotAuthentic)
	f(with(good, "X-Hub-Signature-256", "sha256=zz"), pushJSON, "", ErrNotAuthentic)
	f(with(good, "X-Hub-Signature-256", ""), pushJSON, "", ErrNotAuthentic)
	f(http.Header{}, pushJSON, "", ErrNotAuthentic)
	form := "payload=" + url.QueryEscape(pushJSON)
	f(with(github(form, secret), "Content-Type", formType), form, id, nil)
	f(with(github("%zz", secret), "Content-Type", formType), "%zz", "", ErrMalformed)
	deleted := strings.Replace(pushJSON, sha, strings.Repeat("0", 40), 1)
	f(github(deleted, secret), deleted, "", nil)
	odd := strings.Replace(pushJSON, sha, "--upload-pack=x", 1)
	f(github(odd, secret), odd, "", ErrMalformed)
	f(github("{}", secret), "{}", "", ErrMalformed)
	f(github("[", secret), "[", "", ErrMalformed)
	f(good, strings.Repeat("x", MaxBody+1), "", ErrTooLarge)

	f(gitlab(secret), gitlabJSON, key, nil)
	f(with(gitlab(secret), "X-Gitlab-Event", "Tag Push Hook"), gitlabJSON, key, nil)
	f(with(gitlab(secret), "X-Gitlab-Event", "Issue Hook"), gitlabJSON, "", nil)
	f(gitlab(secret+"x"), gitlabJSON, "", ErrNotAuthentic)
	f(signed(t, gitlabJSON, t0), gitlabJSON, "", ErrNotAuthentic) // the secret is no token

	secret = signing
	f(signed(t, gitlabJSON, t0), gitlabJSON, "msg_1", nil)
	f(signed(t, gitlabJSON, t0.Add(-6*time.Minute)), gitlabJSON, "", ErrNotAuthentic)
	f(signed(t, gitlabJSON, t0.Add(6*time.Minute)), gitlabJSON, "", ErrNotAuthentic)
	f(with(signed(t, gitlabJSON, t0), "webhook-id", "msg_2"), gitlabJSON, "", ErrNotAuthentic)
	f(signed(t, gitlabJSON, t0), gitlabJSON+" ", "", ErrNotAuthentic)

	secret = "another"
	f(good, pushJSON, "", ErrNotAuthentic)
	secret = ""
	f(good, pushJSON, "", ErrNotAuthentic)
	f(gitlab("x"), gitlabJSON, "", ErrNotAuthentic)
}

// TestPushReplayed sends a push again under another delivery id: its event is the same.
func TestPushReplayed(t *testing.T) {
	read := func(h http.Header) *Push {
		t.Helper()
		p, err := ReadPush(h, []byte(pushJSON), everybody, t0)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first, again := read(github(pushJSON, everybody)), read(with(github(pushJSON, everybody),
		"X-GitHub-Delivery", "another"))
	if first.Delivery == again.Delivery || first.Event().ID != again.Event().ID ||
		first.Event().Context.Extra["commit"] != sha {
		t.Errorf("%+v, %+v", first, again)
	}
	nameless := github(pushJSON, everybody)
	nameless.Del("X-GitHub-Delivery")
	if read(nameless).Delivery == "" {
		t.Error("a delivery without an id has none here either")
	}
}

func TestSeen(t *testing.T) {
	var s Seen
	add := func(id string, at time.Duration, fresh bool) {
		t.Helper()
		text, err := json.Marshal(s) // as it is stored
		if err != nil {
			t.Fatal(err)
		}
		var stored Seen
		if err := json.Unmarshal(text, &stored); err != nil {
			t.Fatal(err)
		}
		after, got := stored.Add(id, t0.Add(at))
		if got != fresh {
			t.Errorf("%s at %v: %v", id, at, got)
		}
		s = after
	}
	add("a", 0, true)
	add("a", time.Hour, false)
	add("b", 24*time.Hour, true)
	add("a", 6*24*time.Hour, false)
	add("c", 7*24*time.Hour, true)
	if len(s.Deliveries) != 2 {
		t.Errorf("%+v", s)
	}
	add("b", 7*24*time.Hour, false)
	for n := range 3 * maxSeen {
		s, _ = s.Add(fmt.Sprint(n), t0.Add(8*24*time.Hour))
	}
	if len(s.Deliveries) != maxSeen {
		t.Errorf("%d are remembered", len(s.Deliveries))
	}
	if _, fresh := s.Add(fmt.Sprint(3*maxSeen-1), t0); fresh {
		t.Error("the latest is not known")
	}
}

// FuzzIncoming gives anything: it must not panic, and what is taken names a commit.
func FuzzIncoming(f *testing.F) {
	f.Add([]byte(firing))
	f.Add([]byte(pushJSON))
	f.Add([]byte(gitlabJSON))
	f.Add([]byte(`{"version":"4","alerts":[{"status":"firing"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		alerts, err := Alerts(body)
		for _, a := range alerts {
			if e := a.Event(); err != nil || !strings.HasPrefix(e.ID, "alert/") {
				t.Errorf("%+v, %v", e, err)
			}
		}
		p, err := ReadPush(gitlab(everybody), body, everybody, t0)
		if p != nil && (err != nil || !commit.MatchString(p.Commit) || p.Delivery == "") {
			t.Errorf("%+v, %v", p, err)
		}
	})
}
