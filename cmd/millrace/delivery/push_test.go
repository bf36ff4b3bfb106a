package delivery_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
)

// desk is a server with an endpoint adds, and an engineer who pushes versions of it.
type desk struct {
	*server
	t       *testing.T
	traffic *load
	mu      sync.Mutex
	last    map[string]time.Time // when the latest request was sent that a version answered
}

// sit starts a server whose rollouts have the rest of the settings of a canary, and pushes a
// first version. Requests come as long as the test runs.
func sit(t *testing.T, canary string, env ...string) *desk {
	t.Helper()
	if testing.Short() {
		t.Skip("waits for rollouts; make test runs it")
	}
	dir := t.TempDir()
	write(t, dir, `
sources: [{name: inbox, push: true}]
models: [{name: adds, source: inbox, batching: {max_batch_size: 1}}]
endpoints:
  - name: adds
    stable: "@champion"
    canary: {watch: "@challenger", guards: [{metric: errors}], then: {alias: champion}, `+
		canary+`}
`)
	d := &desk{server: launch(t, dir, env...), t: t, last: make(map[string]time.Time)}
	d.traffic = d.load("adds", nil)
	for x := range faultyFrom + 2 {
		d.traffic.rows = append(d.traffic.rows, infer("x", []float32{float32(x)}))
	}
	said := d.must("push", "adds", modelFile(t, 1), "--version", "1", "--alias", "champion")
	if !contains(said, "adds has version 1 (1 files, ") {
		t.Errorf("push says %q", said)
	}
	until(t, "version 1 serves", 30*time.Second, func() bool {
		a, err := d.traffic.ask(0)
		return err == nil && a.status == http.StatusOK
	})
	d.traffic.check = d.note
	d.traffic.start(4)
	t.Cleanup(func() {
		d.traffic.end()
		if wrong := d.traffic.wrong.Load(); wrong != nil {
			t.Error(*wrong)
		}
	})
	return d
}

// modelFile writes version n of the model.
func modelFile(t *testing.T, n int) string {
	t.Helper()
	limit := float32(never)
	if !sound(n) {
		limit = faultyFrom - 0.5
	}
	file := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(file, adds(float32(n), limit), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// note checks an answer and keeps when its request was sent.
func (d *desk) note(a answer) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.sent.After(d.last[a.version]) {
		d.last[a.version] = a.sent
	}
	return checkSum(a)
}

// lastSent returns when the latest request was sent that a version answered.
func (d *desk) lastSent(version string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last[version]
}

// challenge pushes version n as the challenger.
func (d *desk) challenge(n int) {
	d.t.Helper()
	d.must("push", "adds", modelFile(d.t, n), "--version", strconv.Itoa(n), "--alias", "challenger")
}

// says waits until a command says all of the texts, whatever spaces its columns have.
func (d *desk) says(command string, texts ...string) {
	d.t.Helper()
	said := ""
	over := time.Now().Add(30 * time.Second)
	for !contains(said, texts...) {
		if time.Now().After(over) {
			d.t.Fatalf("%s does not say %q, but\n%s", command, texts, said)
		}
		said, _ = d.millrace(strings.Fields(command)...) // what it says tells
		said = strings.Join(strings.Fields(said), " ")
	}
}

// refused wants a command to fail with a text.
func (d *desk) refused(command, text string) {
	d.t.Helper()
	if said, err := d.millrace(strings.Fields(command)...); err == nil || !contains(said, text) {
		d.t.Errorf("%s: %v, must have %q:\n%s", command, err, text, said)
	}
}

var (
	promoted   = regexp.MustCompile(`version 3 was promoted after [\d,]+ of its requests`)
	rolledBack = regexp.MustCompile(
		`version 4 was rolled back after [\d,]+ of its requests.* canary \d+ of \d+ \(`)
)

// TestPush goes the way of an engineer: push, watch, undo, look it up.
func TestPush(t *testing.T) {
	d := sit(t, "steps: [10, 50], step: {min_time: 500ms, min_requests: 50}")
	watched := d.watch()
	watched.shows("waiting for a rollout of adds to begin")
	d.challenge(3)
	watched.shows("rollout   adds/1: version 3 beside 1", "step 1 of 2", "step 2 of 2",
		"weight    [######......] 50 %", "GUARD", "errors", "successful")
	watched.ends(0)
	d.says("get endpoints", "adds")
	d.says("describe model adds", "champion, challenger")
	until(t, "only version 3 serves", 10*time.Second, func() bool {
		return time.Since(d.lastSent("1")) > 300*time.Millisecond
	})

	called := time.Now()
	said := d.must("rollout", "undo", "adds")
	returned := time.Now()
	if !contains(said, "took the promotion of version 3 back: version 1 is stable again") {
		t.Errorf("undo says %q", said)
	}
	until(t, "version 1 serves again", time.Second, func() bool {
		return d.lastSent("1").After(returned)
	})
	d.says("describe endpoint adds", "took the promotion of version 3 back",
		"rollout start adds` tries it again")
	d.says("describe model adds", "1 Ready champion")
	late := d.lastSent("3").Sub(returned)
	if late > 0 {
		t.Errorf("%v after undo had returned, a request was sent that version 3 answered", late)
	}
	t.Logf("undo took %v; the last request that version 3 answered was sent %v before its end",
		returned.Sub(called).Round(time.Millisecond), -late.Round(time.Millisecond))
	d.refused("rollout undo adds", "nothing was promoted")

	watched = d.watch()
	watched.shows("waiting for a rollout of adds to begin")
	d.challenge(4)
	watched.shows("version 4 beside 1", "step 1 of 2", "failed")
	watched.ends(1)
	said = d.must("rollout", "history", "adds")
	if !promoted.MatchString(said) || !rolledBack.MatchString(said) ||
		strings.Index(said, "adds/1") < strings.Index(said, "adds/2") {
		t.Errorf("history says\n%s", said)
	}
	d.endsAtOnce()
}

// endsAtOnce wants a server to end though somebody watches it.
func (d *desk) endsAtOnce() {
	d.t.Helper()
	watched := d.watch()
	watched.shows("waiting for a rollout of adds to begin")
	began := time.Now()
	d.Signal(syscall.SIGTERM)
	if status := d.Status(); status != 0 || time.Since(began) > 10*time.Second {
		d.t.Errorf("the server ended with status %d after %v", status, time.Since(began))
	}
}

// TestCommands does with rollouts what people may say, two at once, too.
func TestCommands(t *testing.T) {
	d := sit(t, "steps: [20], step: {min_time: 1h, min_requests: 50}")
	d.refused("rollout pause adds", "no rollout under way")
	d.refused("rollout start adds", "nothing to try")
	d.challenge(3)
	d.says("rollout status adds", "step 1 of 1, since", "20 %")
	d.must("rollout", "pause", "adds")
	d.says("rollout status adds", "step 1 of 1, paused", "20 %")
	d.refused("rollout undo adds", "abort it")
	d.must("rollout", "resume", "adds")
	d.must("rollout", "abort", "adds")
	d.says("rollout status adds", "failed", "aborted it")
	d.says("describe endpoint adds", "Waiting", "version 3 was rolled back")
	d.must("rollout", "start", "adds")
	d.says("rollout status adds", "adds/2", "step 1 of 1, since")

	// Of those who speak at once one decides, and the others are told.
	won := d.atOnce(func(c *apiclient.Client, i int) error {
		_, err := c.Command(t.Context(), "adds", []string{"promote", "abort"}[i%2])
		return err
	}, "not possible now")
	d.says("rollout status adds", "adds/2", []string{"successful", "failed"}[won%2])
	r, err := d.client("test").Resource(t.Context(), "endpoints", "adds")
	if err != nil {
		t.Fatal(err)
	}
	d.atOnce(func(c *apiclient.Client, i int) error {
		_, err := c.Apply(t.Context(), fmt.Appendf(nil, `{kind: Endpoint, name: adds, revision: %d,
			spec: {stable: "@champion", timeout: %ds}}`, r.Revision, 10+i),
			apiclient.Options{TakeOver: true})
		return err
	}, "is at revision")
}

// client returns a client for somebody.
func (d *desk) client(user string) *apiclient.Client {
	c, err := apiclient.New(d.Addresses["admin"], user)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// atOnce has six people do something at once, and returns whose was done. The others are refused
// with a text.
func (d *desk) atOnce(do func(c *apiclient.Client, i int) error, refusal string) (won int) {
	d.t.Helper()
	var wait sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		c := d.client("operator-" + strconv.Itoa(i))
		wait.Go(func() { errs[i] = do(c, i) })
	}
	wait.Wait()
	done := 0
	for i, err := range errs {
		switch {
		case err == nil:
			won = i
			done++
		case !strings.Contains(err.Error(), refusal):
			d.t.Errorf("operator %d is told %v, must have %q", i, err, refusal)
		}
	}
	if done != 1 {
		d.t.Errorf("%d of %d operators at once have their way", done, len(errs))
	}
	return won
}

// TestPushFaults pushes what is cut off and goes on, and what is no model.
func TestPushFaults(t *testing.T) {
	d := sit(t, "steps: [50], step: {min_time: 100ms, min_requests: 20}")
	const half = 8 << 20
	folder := t.TempDir()
	for name, content := range map[string][]byte{"model.onnx": adds(3, never),
		"notes.bin": make([]byte, 2*half)} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	way := d.slowWay(half)
	push := command("push", "adds", folder, "--version", "3", "--alias", "challenger", "--admin",
		way.url)
	if err := push.Start(); err != nil {
		t.Fatal(err)
	}
	<-way.full
	_ = push.Process.Kill()
	_ = push.Wait() // the status says nothing after a kill
	close(way.free)
	way.passed.Store(0)
	d.must("push", "adds", folder, "--version", "3", "--alias", "challenger", "--admin", way.url)
	if n := way.passed.Load(); n > half+half/2 {
		t.Errorf("the second push sent %d bytes, of which %d were there", n, half)
	}
	d.says("rollout status adds", "version 3 beside 1", "successful")

	junk := filepath.Join(t.TempDir(), "junk.onnx")
	if err := os.WriteFile(junk, []byte("<html>not found</html>"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.must("push", "adds", junk, "--version", "5", "--alias", "challenger")
	d.says("describe model adds", "5 Failed", "model.onnx is not a complete ONNX model")
	d.says("describe endpoint adds", "adds/1")
	d.refused("push adds "+modelFile(t, 7)+" --version 3", "was pushed with other files")
	d.refused("push nobody "+junk, `there is no model "nobody" whose source is for pushes`)
}

// slowWay is a way to the admin port that lets so many bytes of files pass and stops.
type slowWay struct {
	url    string
	passed atomic.Int64
	full   chan struct{} // closed when it stops
	free   chan struct{} // closed to let all pass
}

func (d *desk) slowWay(most int64) *slowWay {
	w := &slowWay{full: make(chan struct{}), free: make(chan struct{})}
	var once sync.Once
	to, err := url.Parse("http://" + d.Addresses["admin"])
	if err != nil {
		d.t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) {} // the client is gone
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body := r.Body
		r.Body = io.NopCloser(readerFunc(func(b []byte) (int, error) {
			n, err := body.Read(b)
			if w.passed.Add(int64(n)) > most {
				once.Do(func() { close(w.full) })
				select {
				case <-w.free:
				case <-r.Context().Done():
					return 0, r.Context().Err()
				}
			}
			return n, err
		}))
		proxy.ServeHTTP(rw, r)
	}))
	d.t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
