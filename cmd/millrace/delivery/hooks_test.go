package delivery_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/notify"
)

// office has a gate that rollouts ask, and a chat that is told of them.
type office struct {
	*httptest.Server
	secret notify.Secret
	mu     sync.Mutex
	open   bool     // Guarded by mu, as all below.
	asked  []string // types of events at the gate
	ids    []string // of these
	chat   []string // headlines
	faults []string
}

const gateSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func openOffice(t *testing.T) *office {
	t.Helper()
	secret, err := notify.ParseSecret(gateSecret)
	if err != nil {
		t.Fatal(err)
	}
	o := &office{secret: secret}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /gate", o.gate)
	mux.HandleFunc("POST /chat", o.listen)
	o.Server = httptest.NewServer(mux)
	t.Cleanup(o.Close)
	return o
}

// gate answers a rollout that asks, if it can show the secret.
func (o *office) gate(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = o.secret.Verify(r.Header, body, time.Now())
	}
	var e notify.Event
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	if err != nil {
		o.faults = append(o.faults, err.Error())
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	o.asked = append(o.asked, e.Type)
	o.ids = append(o.ids, r.Header.Get("webhook-id"))
	if !o.open {
		_, _ = io.WriteString(w, `{"allow": false, "reason": "the office is closed"}`)
	}
}

// listen takes messages as an incoming webhook of Slack does.
func (o *office) listen(_ http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var message struct {
		Text   string
		Blocks []json.RawMessage
	}
	if err := json.NewDecoder(r.Body).Decode(&message); err != nil || len(message.Blocks) == 0 {
		o.faults = append(o.faults, fmt.Sprintf("a message has %d blocks, %v",
			len(message.Blocks), err))
	}
	o.chat = append(o.chat, message.Text)
}

// TestHooks has a gate that denies at first, and a chat.
func TestHooks(t *testing.T) {
	t.Parallel()
	o := openOffice(t)
	d := sit(t, fmt.Sprintf(`steps: [50], step: {min_time: 100ms, min_requests: 20},
      hooks: [{url: '%s/gate', secret_env: GATE_SECRET}],
      notify: [{kind: slack, url_env: CHAT_URL}]`, o.URL),
		"GATE_SECRET="+gateSecret, "CHAT_URL="+o.URL+"/chat")
	d.challenge(3)
	d.says("rollout status adds", "pending", "does not agree: the office is closed")
	if !d.lastSent("3").IsZero() {
		t.Error("the canary has answered before the gate agreed")
	}
	o.mu.Lock()
	o.open = true
	o.mu.Unlock()
	d.says("rollout status adds", "successful")
	until(t, "the chat is told", 10*time.Second, func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return slices.ContainsFunc(o.chat, promoted.MatchString) &&
			slices.Contains(o.asked, notify.AfterEnd)
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	want := []string{notify.BeforeStart, notify.BeforePromotion, notify.AfterEnd}
	if !slices.Equal(slices.Compact(slices.Clone(o.asked)), want) || o.asked[1] != want[0] {
		t.Errorf("the gate was asked %q, want %q, the first twice", o.asked, want)
	}
	slices.Sort(o.ids)
	if len(slices.Compact(slices.Clone(o.ids))) != len(o.ids) {
		t.Errorf("different questions have the same id: %q", o.ids)
	}
	if len(o.faults) > 0 {
		t.Errorf("the office complains: %s", strings.Join(o.faults, "; "))
	}
	t.Logf("the chat reads\n%s", strings.Join(o.chat, "\n"))
}
