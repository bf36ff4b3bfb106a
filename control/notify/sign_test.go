package notify

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The example of Svix's manual for webhooks of Standard Webhooks.
const (
	goldenSecret    = "whsec_plJ3nmyCDGBKInavdOK15jsl"
	goldenID        = "msg_loFOjxBNrRLzqYUf"
	goldenTime      = 1731705121
	goldenBody      = `{"event_type":"ping","data":{"success":true}}`
	goldenSignature = "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
)

func secret(t *testing.T, text string) Secret {
	t.Helper()
	s, err := ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseSecret(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		s, err := ParseSecret(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if shown := fmt.Sprintf("%v %s", s, s); shown != "whsec_... whsec_..." {
			t.Errorf("a secret shows itself: %s", shown)
		}
	}
	f(goldenSecret, "")
	f(strings.TrimPrefix(goldenSecret, "whsec_"), "")
	f("whsec_", "0 bytes; 16")
	f("whsec_AAAA", "3 bytes; 16")
	f("whsec_plJ3nmyCDGBKInavdOK15js!", "base64")
	f("hunter2", "base64")
}

func TestVerify(t *testing.T) {
	s, at := secret(t, goldenSecret), time.Unix(goldenTime, 0)
	if got := s.Sign(goldenID, at, []byte(goldenBody)); got != goldenSignature {
		t.Errorf("Sign returns %s, want %s", got, goldenSignature)
	}
	// That of the tests of the libraries of Standard Webhooks.
	other := secret(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").Sign(
		"msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; other != want {
		t.Errorf("Sign returns %s, want %s", other, want)
	}
	type change func(h http.Header)
	set := func(key, value string) change { return func(h http.Header) { h.Set(key, value) } }
	f := func(body string, now time.Time, c change, ok bool) {
		t.Helper()
		h := make(http.Header)
		h.Set("webhook-id", goldenID)
		h.Set("webhook-timestamp", fmt.Sprint(goldenTime))
		h.Set("webhook-signature", goldenSignature)
		c(h)
		err := s.Verify(h, []byte(body), now)
		if ok != (err == nil) || err != nil && !errors.Is(err, ErrSignature) {
			t.Errorf("Verify returns %v, want success to be %v", err, ok)
		}
	}
	as := func(http.Header) {}
	f(goldenBody, at, as, true)
	f(goldenBody, at.Add(5*time.Minute), as, true)
	f(goldenBody, at.Add(-5*time.Minute), as, true)
	f(goldenBody, at.Add(5*time.Minute+time.Second), as, false) // a replay
	f(goldenBody, at.Add(-5*time.Minute-time.Second), as, false)
	f(goldenBody+" ", at, as, false)
	f(goldenBody, at, set("webhook-id", goldenID+"2"), false)
	f(goldenBody, at, set("webhook-id", ""), false)
	f(goldenBody, at, set("webhook-timestamp", fmt.Sprint(goldenTime+1)), false)
	f(goldenBody, at, set("webhook-timestamp", "now"), false)
	f(goldenBody, at, set("webhook-signature", ""), false)
	f(goldenBody, at, set("webhook-signature", goldenSignature[3:]), false)
	f(goldenBody, at, set("webhook-signature", "v1a,AAAA "+goldenSignature+" v1,AAAA"), true)
	f(goldenBody, at, set("webhook-signature", "v1,AAAA v1a"+goldenSignature[2:]), false)
	s = secret(t, "whsec_plJ3nmyCDGBKInavdOK15jsm")
	f(goldenBody, at, as, false)
	s = Secret{}
	f(goldenBody, at, as, false)
}
