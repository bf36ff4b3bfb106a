package notify

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func gate(t *testing.T, r Receiver) *Gate {
	t.Helper()
	g, err := NewGate(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func TestGateAnswers(t *testing.T) {
	f := func(status int, body string, allowed bool, reason string) {
		t.Helper()
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
		got := gate(t, receiver(url+"/hooks/T0KEN")).Ask(t.Context(), event("x"))
		if got.Allowed != allowed || !strings.Contains(got.Reason, reason) ||
			strings.Contains(got.Reason, "T0KEN") || !allowed && got.Reason == "" {
			t.Errorf("%d %.60s: got %+v, want %v with %q", status, body, got, allowed, reason)
		}
	}
	f(204, "", true, "")
	f(200, "ok", true, "")
	f(200, "{}", true, "")
	f(202, `{"allow": true, "reason": "night shift"}`, true, "night shift")
	f(200, `{"allow": null}`, true, "")
	f(200, ` {"allow": false, "reason": "frozen until Monday"}`, false, "frozen until Monday")
	f(200, `{"allow": false}`, false, "says not why")
	f(200, `{"allow": "no"}`, false, "cannot be read")
	f(200, `{"allow": tru`, false, "cannot be read")
	f(200, "<html>Sign in</html>", false, "web page")
	f(200, strings.Repeat("x", 100_000), false, "too large")
	f(403, `{"allow": true, "reason": "no ticket"}`, false, "no ticket")
	f(404, "nothing here", false, "cannot reach approvals: fetch: status 404 Not Found: nothing")
	f(410, "", false, "410 Gone")
	f(500, "oops", false, "500")
}

// TestGateRepeats holds a repetition against the call that failed.
func TestGateRepeats(t *testing.T) {
	var ids []string
	var at []time.Time
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := secret(t, goldenSecret).Verify(r.Header, body, time.Now()); err != nil {
			t.Error(err)
		}
		ids, at = append(ids, r.Header.Get("webhook-id")), append(at, time.Now())
		if len(ids) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	got := gate(t, receiver(url)).Ask(t.Context(), event("fraud.v2/before_step 2/1"))
	if !got.Allowed || len(ids) != 2 || ids[0] != ids[1] ||
		ids[0] != "fraud%2Ev2%2Fbefore_step+2%2F1" || at[1].Sub(at[0]) < time.Second {
		t.Errorf("%+v after %q at %v", got, ids, at)
	}
}

// TestGateShut asks those who cannot or must not be asked.
func TestGateShut(t *testing.T) {
	f := func(r Receiver, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got := gate(t, r).Ask(ctx, event("x"))
		if got.Allowed || !strings.Contains(got.Reason, want) || ctx.Err() != nil {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
	slow := receiver(serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // or its end is not noticed
		<-r.Context().Done()
	}))
	slow.Fetch.Timeout = 200 * time.Millisecond
	f(slow, "too slow")

	endless := receiver(serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	endless.Fetch.Timeout = 200 * time.Millisecond
	f(endless, "too slow")

	target := serve(t, func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect is followed")
	})
	for _, status := range []int{301, 302, 303, 307, 308} {
		f(receiver(serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target, status)
		})), "redirect not followed")
	}

	metadata := receiver("http://169.254.169.254/latest")
	f(metadata, "link-local or metadata address")
	local := receiver(serve(t, func(http.ResponseWriter, *http.Request) { t.Error("asked") }))
	local.Fetch.Allow = nil
	f(local, "loopback address")

	away := receiver("http://127.0.0.1:1")
	f(away, "no answer")
}

// TestGateKnowsSecret sends with one secret what is checked with another.
func TestGateKnowsSecret(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := secret(t, goldenSecret).Verify(r.Header, body, time.Now()); err != nil {
			http.Error(w, fmt.Sprintf(`{"reason": %q}`, err), http.StatusUnauthorized)
		}
	})
	r := receiver(url)
	if got := gate(t, r).Ask(t.Context(), event("x")); !got.Allowed {
		t.Errorf("the right secret: %+v", got)
	}
	for _, other := range []string{"", "whsec_plJ3nmyCDGBKInavdOK15jsm"} {
		r.Secret = other
		got := gate(t, r).Ask(t.Context(), event("x"))
		if got.Allowed || !strings.Contains(got.Reason, "not authentic") {
			t.Errorf("the secret %q: %+v", other, got)
		}
	}
	r.Format, r.Secret = Slack, ""
	if _, err := NewGate(r); err == nil {
		t.Error("a chat can be asked")
	}
}
