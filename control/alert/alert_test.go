package alert_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/alert"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// server is as Alertmanager's API v2 is: postableAlerts in, and an empty 200 out.
func server(t *testing.T, statuses ...int) (address string, bodies *[]string) {
	t.Helper()
	bodies = new([]string)
	var calls atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		n := int(calls.Add(1))
		if r.Method != http.MethodPost || r.URL.Path != "/am/api/v2/alerts" ||
			r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s with %v", r.Method, r.URL, r.Header)
		}
		*bodies = append(*bodies, string(text))
		w.WriteHeader(statuses[min(n, len(statuses))-1])
	}))
	t.Cleanup(s.Close)
	return s.URL + "/am/", bodies
}

var one = alert.Alert{Labels: map[string]string{"alertname": "MillraceDrift"},
	Annotations: map[string]string{"summary": "age left the reference"},
	StartsAt:    time.Unix(1e9, 0).UTC(), EndsAt: time.Unix(1e9+300, 0).UTC(),
	GeneratorURL: "http://h:8002/api/v1/monitors/m"}

func TestPost(t *testing.T) {
	address, bodies := server(t, 200)
	c, err := alert.New(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Post(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	const want = `[{"labels":{"alertname":"MillraceDrift"},` +
		`"annotations":{"summary":"age left the reference"},` +
		`"startsAt":"2001-09-09T01:46:40Z","endsAt":"2001-09-09T01:51:40Z",` +
		`"generatorURL":"http://h:8002/api/v1/monitors/m"}]`
	if len(*bodies) != 1 || (*bodies)[0] != want || !json.Valid([]byte(want)) {
		t.Errorf("it gets %s", *bodies)
	}
}

// What may go better is tried again, what is refused is not.
func TestFaults(t *testing.T) {
	f := func(calls int, want error, statuses ...int) {
		t.Helper()
		address, bodies := server(t, statuses...)
		c, err := alert.New(address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = c.Post(t.Context(), one)
		if len(*bodies) != calls || !errors.Is(err, want) {
			t.Errorf("%v: %d calls, %v", statuses, len(*bodies), err)
		}
	}
	f(2, nil, 503, 200)
	f(1, fetch.ErrStatus, 500)
	f(2, fetch.ErrStatus, 503)
	f(1, fetch.ErrStatus, 400)
	if _, err := alert.New("alertmanager"); err == nil || !strings.Contains(err.Error(), "no URL") {
		t.Errorf("an address without a scheme: %v", err)
	}
}
