package fetch

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestDoer(t *testing.T) {
	var asked atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n := asked.Add(1)
		switch r.URL.Path {
		case "/404":
			w.Header().Set("Content-Type", "text/test")
			w.WriteHeader(404)
			io.WriteString(w, "nothing")
		case "/range":
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
		case "/echo":
			if n == 1 {
				w.WriteHeader(503)
				return
			}
			w.Header().Set("X-Got", r.Header.Get("X-Sent"))
			io.Copy(w, r.Body)
		}
	})
	var doer interface {
		Do(*http.Request) (*http.Response, error)
	} = client(t, quick(s.URL)).Doer()
	f := func(method, path, body string, header ...string) (*http.Response, string) {
		t.Helper()
		asked.Store(0)
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path,
			strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := doer.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.Request != r || resp.ContentLength != int64(len(text)) {
			t.Errorf("got %+v: %v", resp, err)
		}
		return resp, string(text)
	}
	resp, text := f("GET", "/404", "")
	if resp.Status != "404 Not Found" || text != "nothing" ||
		resp.Header.Get("Content-Type") != "text/test" {
		t.Errorf("got %q, %+v", text, resp)
	}
	resp, text = f("GET", "/range", "", "Range", "bytes=30-")
	if resp.StatusCode != 206 || text != content[30:] {
		t.Errorf("got %q, %+v", text, resp)
	}
	if resp, text = f("POST", "/echo", "body", "X-Sent", "yes"); resp.StatusCode != 503 {
		t.Errorf("got %q, %+v", text, resp)
	}
	resp, text = f("POST", "/echo", "body", "X-Sent", "yes", "Idempotency-Key", "1")
	if resp.StatusCode != 200 || text != "body" || resp.Header.Get("X-Got") != "yes" {
		t.Errorf("got %q, %+v", text, resp)
	}
}

func TestDoerRefuses(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { t.Error("the server was asked") })
	doer := client(t, quick(s.URL)).Doer()
	for url, kind := range map[string]error{"http://169.254.169.254/": ErrRefused,
		s.URL + "/large": ErrTooLarge} {
		r, err := http.NewRequest("PUT", url, bytes.NewReader(make([]byte, maxBody+1)))
		if kind == ErrRefused {
			r, err = http.NewRequest("PUT", url, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := doer.Do(r); !errors.Is(err, kind) {
			t.Errorf("got the error %v, want %v", err, kind)
		}
	}
}
