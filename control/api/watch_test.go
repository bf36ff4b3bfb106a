package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/api/apitest"
	"github.com/millrace-ml/millrace/control/store"
)

// follow reads server-sent events until n changes have come; it returns their ids.
func follow(t *testing.T, url, last string, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("status is %d, type %q", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	var ids []string
	lines := bufio.NewScanner(resp.Body)
	for id := ""; len(ids) < n && lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			id = v
		}
		if strings.HasPrefix(lines.Text(), "data: ") {
			ids = append(ids, id)
		}
	}
	if len(ids) < n {
		t.Fatalf("the events end after %q: %v", ids, lines.Err())
	}
	return ids
}

func TestWatch(t *testing.T) {
	p := apitest.Serve(t, func(c *api.Config) { c.Heartbeat = 10 * time.Millisecond })
	put := func(kind string, i int) {
		status := 200
		if i == 0 {
			status = 201
		}
		ask(t, p, "PUT /api/v1/"+kind+"/x"+jsonBody,
			fmt.Sprintf(`{"timeout":"%ds"}`, i+1)).want(t, status)
	}
	for i := range 4 {
		put("endpoints", i)
	}
	ask(t, p, "PUT /api/v1/models/x"+jsonBody, `{}`).want(t, 201)
	f := func(query, last string, n int, want ...string) {
		t.Helper()
		if got := follow(t, p.URL+"/api/v1/watch"+query, last, n); !slices.Equal(got, want) {
			t.Errorf("%s after %q gives %q, want %q", query, last, got, want)
		}
	}
	f("?from=0", "", 5, "1", "2", "3", "4", "5")
	f("?from=0", "3", 2, "4", "5") // as a browser resumes
	f("?from=0&kind=Model", "", 1, "5")
	// One that waits gets what comes, and without from nothing of before.
	done := make(chan []string)
	begun := make(chan struct{})
	go func() {
		resp, err := http.Get(p.URL + "/api/v1/watch?kind=Endpoint")
		if err != nil {
			close(begun)
			done <- nil
			return
		}
		defer resp.Body.Close()
		close(begun)
		var seen []string
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			seen = append(seen, lines.Text())
			if strings.HasPrefix(lines.Text(), "data: ") {
				break
			}
		}
		done <- seen
	}()
	<-begun
	ask(t, p, "PUT /api/v1/models/y"+jsonBody, `{}`).want(t, 201)
	put("endpoints", 4)
	seen := <-done
	if len(seen) < 3 || seen[0] != ": from revision 5" || seen[len(seen)-3] != "id: 7" {
		t.Errorf("the watcher sees %q", seen)
	}
}

// Watchers beyond the bound are refused, and those that leave make room.
func TestWatchers(t *testing.T) {
	p := apitest.Serve(t, func(c *api.Config) { c.MaxWatchers = 1 })
	resp, err := http.Get(p.URL + "/api/v1/watch")
	if err != nil {
		t.Fatal(err)
	}
	ask(t, p, "GET /api/v1/watch", "").want(t, 429, "1 watch already")
	resp.Body.Close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		resp, err := http.Get(p.URL + "/api/v1/watch")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == 200 {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("a watcher that has left still counts")
		}
	}
}

// A watcher that reads nothing delays neither changes nor other watchers, and Close ends it.
func TestSlowWatcher(t *testing.T) {
	p := apitest.Serve(t, nil)
	slow, err := http.Get(p.URL + "/api/v1/watch?from=0")
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	const n = 30
	spec := []byte(`{"stable":"` + strings.Repeat("x", 500_000) + `"}`) // more than sockets hold
	for range n {
		_, err := p.Bolt.Txn(t.Context(), store.Txn{By: store.Author{Who: "test"},
			Put: []store.Resource{{Key: store.Key{Kind: "Endpoint", Name: "e"}, Spec: spec}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	resp, err := http.Get(p.URL + "/api/v1/watch?from=0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for last := fmt.Sprintf("id: %d", n); lines.Scan() && lines.Text() != last; {
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	p.API.Close()
	if _, err := io.Copy(io.Discard, slow.Body); err != nil {
		t.Errorf("the watch ends with %v", err)
	}
}
