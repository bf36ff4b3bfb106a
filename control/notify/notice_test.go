package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/fetch"
)

func notice(t *testing.T, r Receiver) *Notice {
	t.Helper()
	n, err := NewNotice(r, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = n.Close(ctx)
	})
	return n
}

func send(t *testing.T, n *Notice, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := n.Send(event(id)); err != nil {
			t.Fatal(err)
		}
	}
}

// expect takes the ids that have arrived from a channel.
func expect(t *testing.T, got <-chan string, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case g := <-got:
			if g != w {
				t.Fatalf("%s has arrived, want %s", g, w)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s has not arrived", w)
		}
	}
}

// verified tells the ids of webhooks that are authentic, and answers with the status
// that answer has for the nth.
func verified(t *testing.T, answer func(w http.ResponseWriter, n int) int) (
	http.HandlerFunc, <-chan string,
) {
	ids, n := make(chan string, 2*queueSize), 0
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := secret(t, goldenSecret).Verify(r.Header, body, time.Now()); err != nil {
			t.Error(err)
		}
		n++
		ids <- r.Header.Get("webhook-id")
		w.WriteHeader(answer(w, n))
	}, ids
}

// settled waits until a Notice has done with what was sent to it.
func settled(t *testing.T, n *Notice) NoticeStats {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return n.Stats()
}

// TestAway sends to a receiver that is away, and comes back.
func TestAway(t *testing.T) {
	answer, ids := verified(t, func(http.ResponseWriter, int) int { return 204 })
	server := httptest.NewServer(answer)
	address := server.Listener.Addr().String()
	r := receiver(server.URL)
	r.Fetch.MaxBackoff = 50 * time.Millisecond
	r.Fetch.BreakerTimeout = 50 * time.Millisecond
	n := notice(t, r)
	send(t, n, "1")
	expect(t, ids, "1")
	server.Close()
	send(t, n, "2", "3", "4")
	timer := time.NewTimer(300 * time.Millisecond) // while some attempts fail
	<-timer.C
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	back := &http.Server{Handler: answer, ReadHeaderTimeout: time.Minute}
	go func() { _ = back.Serve(listener) }()
	defer back.Close()
	expect(t, ids, "2", "3", "4")
	if got := settled(t, n); got != (NoticeStats{Sent: 4}) || len(ids) != 0 {
		t.Errorf("%+v, and %d more", got, len(ids))
	}
}

// TestFates answers in each of the ways that decide what becomes of a notice.
func TestFates(t *testing.T) {
	f := func(statuses []int, want NoticeStats, ids ...string) {
		t.Helper()
		answer, got := verified(t, func(_ http.ResponseWriter, n int) int {
			return statuses[min(n, len(statuses))-1]
		})
		n := notice(t, receiver(serve(t, answer)))
		send(t, n, "1", "2")
		expect(t, got, ids...)
		if stats := settled(t, n); stats != want || len(got) != 0 {
			t.Errorf("%v: %+v and %d more, want %+v", statuses, stats, len(got), want)
		}
	}
	f([]int{204}, NoticeStats{Sent: 2}, "1", "2")
	f([]int{500, 503, 408, 429, 200}, NoticeStats{Sent: 2}, "1", "1", "1", "1", "1", "2")
	f([]int{400, 200}, NoticeStats{Sent: 1, Refused: 1}, "1", "2")
	f([]int{302}, NoticeStats{Refused: 2}, "1", "2")
	f([]int{410}, NoticeStats{Dropped: 2, Disabled: true}, "1")
}

// TestRetryAfter is told to wait for a second.
func TestRetryAfter(t *testing.T) {
	var at []time.Time
	answer, ids := verified(t, func(w http.ResponseWriter, n int) int {
		at = append(at, time.Now())
		if n == 1 {
			w.Header().Set("Retry-After", "1")
			return 429
		}
		return 200
	})
	n := notice(t, receiver(serve(t, answer)))
	send(t, n, "1")
	expect(t, ids, "1", "1")
	if settled(t, n); at[1].Sub(at[0]) < time.Second {
		t.Errorf("it has come again after %v", at[1].Sub(at[0]))
	}
}

// TestOverflow sends more than can wait for a receiver that is slow.
func TestOverflow(t *testing.T) {
	goOn := make(chan struct{})
	answer, ids := verified(t, func(http.ResponseWriter, int) int { <-goOn; return 200 })
	n := notice(t, receiver(serve(t, answer)))
	send(t, n, "first")
	expect(t, ids, "first") // it is on its way, and waits no more
	var want []string
	start := time.Now()
	for i := range queueSize + 10 {
		id := fmt.Sprint(i)
		send(t, n, id)
		if want = append(want, id); i < 10 {
			want = nil
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Send waits: %v", took)
	}
	if got := n.Stats(); got != (NoticeStats{Dropped: 10, Waiting: queueSize}) {
		t.Errorf("%+v", got)
	}
	close(goOn)
	expect(t, ids, want...)
	if got := settled(t, n); got != (NoticeStats{Sent: queueSize + 1, Dropped: 10}) {
		t.Errorf("%+v", got)
	}
	send(t, n, "late")
	if got := n.Stats(); got.Dropped != 11 {
		t.Errorf("after Close: %+v", got)
	}
}

// TestClose ends a Notice whose receiver does not answer, or fails.
func TestClose(t *testing.T) {
	called := make(chan string, 1)
	hangs := notice(t, receiver(serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		called <- r.Header.Get("webhook-id")
		<-r.Context().Done()
	})))
	send(t, hangs, "1", "2")
	expect(t, called, "1")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := hangs.Close(ctx)
	if got := hangs.Stats(); !errors.Is(err, context.DeadlineExceeded) ||
		got != (NoticeStats{Dropped: 2}) {
		t.Errorf("%v, %+v", err, got)
	}

	r := receiver("http://127.0.0.1:1")
	r.Fetch.Backoff, r.Fetch.MaxBackoff = time.Hour, time.Hour
	away := notice(t, r)
	send(t, away, "1", "2")
	if got := settled(t, away); got != (NoticeStats{Dropped: 2}) {
		t.Errorf("%+v", got)
	}
}

// TestAge sends what is too old to be sent again.
func TestAge(t *testing.T) {
	answer, ids := verified(t, func(_ http.ResponseWriter, n int) int {
		return []int{503, 200}[min(n, 2)-1]
	})
	n := notice(t, receiver(serve(t, answer)))
	old := event("old")
	old.Time = time.Now().Add(-25 * time.Hour)
	if err := n.Send(old); err != nil {
		t.Fatal(err)
	}
	send(t, n, "new")
	expect(t, ids, "old", "new")
	if got := settled(t, n); got != (NoticeStats{Sent: 1, Dropped: 1}) {
		t.Errorf("%+v", got)
	}
	if err := n.Send(Event{}); err == nil {
		t.Error("an empty event can be sent")
	}
}

func TestChatsArrive(t *testing.T) {
	for _, format := range []Format{Slack, Teams} {
		got := make(chan string, 1)
		r := receiver(serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			h := r.Header
			if h.Get("webhook-id") != "" || h.Get("Content-Type") != "application/json" {
				t.Errorf("the headers are %v", h)
			}
			got <- string(body)
			_, _ = io.WriteString(w, "ok")
		}))
		r.Format, r.Secret = format, ""
		n := notice(t, r)
		e := event("x")
		want, err := payload(format, e)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Send(e); err != nil {
			t.Fatal(err)
		}
		expect(t, got, string(want))
		if stats := settled(t, n); stats.Sent != 1 {
			t.Errorf("%s: %+v", format, stats)
		}
	}
}

func TestPause(t *testing.T) {
	c := fetch.Config{Backoff: time.Second, MaxBackoff: 10 * time.Second}
	f := func(failures int, asked time.Duration, random float64, want time.Duration) {
		t.Helper()
		if got := pause(c, failures, asked, random); got != want {
			t.Errorf("%d, %v, %v: got %v, want %v", failures, asked, random, got, want)
		}
	}
	f(1, 0, 0, 500*time.Millisecond)
	f(1, 0, 0.5, 750*time.Millisecond)
	f(2, 0, 0, time.Second)
	f(4, 0, 0.5, 6*time.Second)
	f(5, 0, 0, 5*time.Second)
	f(1000, 0, 0, 5*time.Second)
	f(1, time.Minute, 0.5, time.Minute)
}

func TestJudge(t *testing.T) {
	f := func(err error, wait time.Duration, want fate) {
		t.Helper()
		if w, got := judge(err); w != wait || got != want {
			t.Errorf("%v: got %v, %v, want %v, %v", err, w, got, wait, want)
		}
	}
	status := func(s int, after time.Duration) error {
		return &fetch.Error{Kind: fetch.ErrStatus, Status: s, RetryAfter: after}
	}
	f(nil, 0, sent)
	f(errors.New("unusable"), 0, refused)
	f(status(503, time.Minute), time.Minute, later)
	f(status(429, 48*time.Hour), time.Hour, later)
	f(status(410, 0), 0, gone)
	f(status(401, 0), 0, refused)
	for kind, want := range map[error]fate{fetch.ErrRefused: refused, fetch.ErrRedirect: refused,
		fetch.ErrConnection: later, fetch.ErrTimeout: later, fetch.ErrOpen: later,
		fetch.ErrCredentials: later, fetch.ErrTooLarge: sent, fetch.ErrContent: sent} {
		f(&fetch.Error{Kind: kind}, 0, want)
	}
}
