package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/api/apitest"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// said is how a command line of this process ended.
type said struct {
	out string
	err error
}

// admin runs a command line against a control plane, in this process.
func admin(t *testing.T, url string, args ...string) said {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(append(args, "--admin", url))
	err := root.ExecuteContext(ctx)
	return said{out.String(), err}
}

// want holds an error ("" for none) and texts against what was said.
func (s said) want(t *testing.T, err string, texts ...string) {
	t.Helper()
	switch {
	case err == "" && s.err != nil:
		t.Errorf("error: %v", s.err)
	case err != "" && (s.err == nil || !strings.Contains(s.err.Error(), err)):
		t.Errorf("the error is %v, must have %q", s.err, err)
	}
	for _, text := range texts {
		if !strings.Contains(s.out, text) {
			t.Errorf("%q is missing in\n%s", text, s.out)
		}
	}
}

const resources = `
sources: [{name: lake, folder: {path: /data}}, {name: inbox, push: true}]
models: [{name: fraud, source: inbox}]
endpoints: [{name: fraud, stable: "1", canary: {watch: "@challenger"}}]
`

func TestApplyGetDescribe(t *testing.T) {
	t.Setenv("MILLRACE_USER", "ann")
	p := apitest.Serve(t, nil)
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "a.yaml"), resources)
	write(t, filepath.Join(dir, "b.json"),
		`{"kind":"Endpoint","name":"copy","spec":{"model":"fraud"}}`)
	write(t, filepath.Join(dir, "README.md"), "not read")
	f := func(err string, args []string, texts ...string) {
		t.Helper()
		admin(t, p.URL, args...).want(t, err, texts...)
	}
	args := func(line string) []string { return strings.Fields(line) }
	f("exit status 1", args("diff -f "+file), "+++ endpoint fraud (new)", "+stable: \"1\"")
	f("", args("apply --dry-run -f "+file), "endpoint fraud would be created")
	f("", args("get ep"), "there are no endpoints")
	f("", args("apply -f "+dir), "source lake created", "endpoint copy created")
	f("", args("diff -f "+file))
	f("", args("apply -f "+file), "model fraud unchanged")
	f("", args("get endpoints"), "NAME", "watches @challenger", "copy", "api")
	f("", args("get source"), "folder", "push", "30s")
	f("", args("get model fraud"), "inbox")
	f("", args("get ep fraud -o json"), `"kind": "Endpoint"`, `"watch": "@challenger"`)
	f("", args("get ep -o yaml"), "items:", "    stable: \"1\"\n")
	f("", args("describe ep fraud"), "Owner:     api", "  canary:\n    watch: '@challenger'")
	f("", args("describe model fraud"), "source: inbox")
	f("", args("describe source lake"), "path: /data")
	f("not found", args("describe ep nobody"))
	f("is no kind", args("get thing"))
	f("must be table, json or yaml", args("get ep -o xml"))
	f("0 names are given", args("describe ep"))
	f("name a file", args("apply"))
	f("no such file", args("apply -f nowhere.yaml"))
	f("no .yaml", args("apply -f "+t.TempDir()))
	f("endpoint fraud: priority", args("apply -f "+write(t, filepath.Join(t.TempDir(), "bad.yaml"),
		"endpoints: [{name: fraud, priority: 99}]")))
	f("", args("delete ep copy --dry-run"), "endpoint copy would be deleted")
	f("", args("delete ep copy"), "endpoint copy deleted")
	f("not found", args("delete ep copy"))
	f("", args("audit"), "ann", "deleted", "Endpoint  copy")
	f("", args("audit ep copy --diff"), "-model: fraud", "+model: fraud")
	f("", args("audit --who nobody -o json"), `"changes": []`)
	f("", args("sync"), "source inbox is up to date", "source lake is up to date")
	f("answers HTML", args("sync broken"))

	// What get prints can be applied, and is refused once somebody has changed it.
	list := admin(t, p.URL, "get", "ep", "-o", "yaml").out
	again := write(t, filepath.Join(t.TempDir(), "list.yaml"), list)
	f("", args("apply -f "+again), "endpoint fraud unchanged")
	f("", args("apply -f "+write(t, filepath.Join(t.TempDir(), "next.yaml"),
		"endpoints: [{name: fraud, stable: 2}]")), "endpoint fraud changed")
	f("is at revision", args("apply -f "+again))
}

func TestNoControlPlane(t *testing.T) {
	admin(t, "http://127.0.0.1:1", "get", "ep").want(t, "start a server with `millrace serve`")
	admin(t, "unix:/nowhere/socket", "get", "ep").want(t, "no control plane answers")
	admin(t, "nonsense://", "get", "ep").want(t, "no address of an admin port")
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	admin(t, other.URL, "get", "ep").want(t, "is this its admin port?")
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<html>")) // a test's client reads it
	}))
	defer page.Close()
	admin(t, page.URL, "get", "ep").want(t, "an admin port of millrace?")
	p := apitest.Serve(t, nil)
	p.SetDown(true)
	admin(t, p.URL, "get", "ep").want(t, "a test has taken it away")
}

// An editor changes the text; what cannot be applied is kept.
func TestEdit(t *testing.T) {
	p := apitest.Serve(t, nil)
	t.Setenv("TMPDIR", t.TempDir())
	file := write(t, filepath.Join(t.TempDir(), "a.yaml"), resources)
	admin(t, p.URL, "apply", "-f", file).want(t, "")
	f := func(editor, err string, texts ...string) error {
		t.Helper()
		t.Setenv("VISUAL", editor)
		s := admin(t, p.URL, "edit", "ep", "fraud")
		s.want(t, err, texts...)
		return s.err
	}
	_ = f("true", "", "nothing is changed")
	_ = f(`sed -i 's/stable: "1"/stable: "2"/'`, "", "endpoint fraud changed")
	_ = f("false", "the editor false failed")
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("where nothing was changed these are left: %v, %v", left, err)
	}
	err = f(`sed -i 's/stable:/stabel:/'`, "did you mean stable?")
	_, name, _ := strings.Cut(err.Error(), "apply -f ")
	text, readErr := os.ReadFile(strings.TrimSuffix(name, "`"))
	if readErr != nil || !strings.Contains(string(text), "stabel:") {
		t.Errorf("the text is not kept: %q, %v", text, readErr)
	}
	_ = f(`sed -i 's/revision: .*/revision: 1/;s/"2"/"3"/'`, "is at revision")
}

func TestPushCommand(t *testing.T) {
	p := apitest.Serve(t, nil)
	dir := t.TempDir()
	large := strings.Repeat("0123456789", 300_000)
	file := write(t, filepath.Join(dir, "v8.onnx"), large)
	s := admin(t, p.URL, "push", "fraud", file, "--alias", "@challenger", "--alias", "b")
	s.want(t, "", "fraud has version 1 (1 files, 2.9 MiB)")
	if p.Pushed("fraud/1/model.onnx") != large {
		t.Error("another file came")
	}
	if told := p.Told(); !strings.HasPrefix(told[0], "push fraud 1 [challenger b] by ") {
		t.Errorf("the control plane was told %q", told)
	}
	folder := filepath.Join(dir, "version")
	write(t, filepath.Join(folder, "model.onnx"), "m")
	write(t, filepath.Join(folder, "data", "a b%.bin"), "w")
	write(t, filepath.Join(folder, "empty"), "")
	s = admin(t, p.URL, "push", "a/b", folder, "--version", "7", "-o", "json")
	s.want(t, "", `"version": "7"`, `"bytes": 2`)
	if p.Pushed("a/b/7/data/a b%.bin") != "w" {
		t.Errorf("the folder's files did not come: %v", p.Told())
	}
	if err := os.Symlink(file, filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	admin(t, p.URL, "push", "fraud", folder).want(t, "is no regular file")
	admin(t, p.URL, "push", "fraud", filepath.Join(dir, "nowhere")).want(t, "no such file")
	admin(t, p.URL, "push", "fraud", t.TempDir()).want(t, "has no files")
}

// A connection that breaks in the middle of a push costs only what was under way.
func TestPushCut(t *testing.T) {
	p := apitest.Serve(t, nil)
	to, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	var puts, received atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(to)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			r.Body = http.MaxBytesReader(nil, r.Body, 1<<20) // so many bytes in one go
			if puts.Add(1) == 1 {
				received.Store(r.ContentLength)
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) {
		panic(http.ErrAbortHandler) // the client's connection breaks, too
	}
	large := strings.Repeat("0123456789", 300_000)
	file := write(t, filepath.Join(t.TempDir(), "v8.onnx"), large)
	admin(t, server.URL, "push", "fraud", file).want(t, "", "fraud has version 1")
	if n := puts.Load(); n < 3 || p.Pushed("fraud/1/model.onnx") != large {
		t.Errorf("after %d parts another file came", n)
	}
	if received.Load() != int64(len(large)) {
		t.Errorf("the first part was of %d bytes, not of all", received.Load())
	}
}

func TestBackupRestore(t *testing.T) {
	p := apitest.Serve(t, nil)
	file := write(t, filepath.Join(t.TempDir(), "a.yaml"), resources)
	admin(t, p.URL, "apply", "-f", file).want(t, "")
	dir := t.TempDir()
	kept, data := filepath.Join(dir, "kept"), filepath.Join(dir, "data")
	admin(t, p.URL, "backup", kept).want(t, "")
	millrace(t, "restore", kept, "--data", data).want(t, 0, "is restored")
	cfg := store.DefaultConfig()
	cfg.Path = filepath.Join(data, "control.db")
	b, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), store.Key{Kind: "Model", Name: "fraud"}); err != nil {
		t.Error(err)
	}
	millrace(t, "restore", kept, "--data", data).want(t, 1, "cannot restore") // it is in use
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	millrace(t, "restore", file, "--data", data).want(t, 1, "cannot restore")
	// What cannot be copied to its end leaves no file.
	if err := p.Bolt.Close(); err != nil {
		t.Fatal(err)
	}
	admin(t, p.URL, "backup", filepath.Join(dir, "half")).want(t, "closed")
	left, err := os.ReadDir(dir)
	names := make([]string, len(left))
	for i := range left {
		names[i] = left[i].Name()
	}
	if err != nil || !slices.Equal(names, []string{"data", "kept"}) {
		t.Errorf("left is %q, %v", names, err)
	}
}

// aRollout is a rollout in its first step, with requests of both arms.
func aRollout(t *testing.T, requests uint64) rollout.State {
	t.Helper()
	began := time.Now().Add(-time.Minute)
	s := rollout.Begin("fraud/2", rollout.DefaultSpec(), rollout.Subject{Endpoint: "fraud",
		Model: "fraud", Stable: rollout.VersionRef{Version: "7"},
		Canary: rollout.VersionRef{Version: "8"}}, began)
	arm := func(n, errors uint64) trial.Arm {
		return trial.Arm{Requests: n, Picked: n, Errors: errors,
			Latency: make([]uint64, len(trial.Bounds))}
	}
	counts := trial.Counts{Cells: []trial.Cell{{Rho: 0.01, Canary: arm(requests, 1),
		Stable: arm(99*requests, requests)}}}
	for i := range 3 {
		s, _ = s.Next(rollout.Observation{Counts: counts}, began.Add(time.Duration(i)*time.Second))
	}
	return s
}

// keep stores a rollout.
func keep(t *testing.T, p *apitest.Plane, s rollout.State) {
	t.Helper()
	status, err := json.Marshal(control.RolloutStatus{State: s})
	if err == nil {
		_, err = p.Bolt.Txn(t.Context(), store.Txn{By: store.Author{Who: "test"},
			Put: []store.Resource{{Key: store.Key{Kind: control.KindRollout, Name: s.ID},
				Owner: control.OwnerAPI, Status: status}}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRollout(t *testing.T) {
	p := apitest.Serve(t, nil)
	file := write(t, filepath.Join(t.TempDir(), "a.yaml"), resources)
	f := func(err, line string, texts ...string) {
		t.Helper()
		admin(t, p.URL, strings.Fields(line)...).want(t, err, texts...)
	}
	f("", "apply -f "+file)
	f("", "rollout status fraud", "fraud has had no rollout")
	f("", "rollout history fraud", "fraud has had no rollout")
	f("not found", "rollout status nobody")
	f("name one endpoint", "rollout pause")
	for _, c := range api.Commands() {
		f("", "rollout "+c+" fraud", "told to "+c)
	}
	f("it is done", "rollout undo done")
	s := aRollout(t, 50)
	keep(t, p, s)
	f("", "rollout status fraud", "version 8 beside 7", "step 1 of 4, since", "1 %",
		"canary 50 (1 errors), stable 4950 (50 errors)", "GUARD", "latency p99", "non_finite",
		"version 8 is tried beside 7")
	f("", "rollout status fraud -o json", `"phase": "step"`)
	f("", "rollout history fraud", "fraud/2", "step 1")
	f("", "get rollouts", "fraud/2", "step")
	f("", "describe ep fraud", "Rollout fraud/2:", "is tried beside 7")
	f("", "describe rollout fraud/2", "History:", "the first step begins")
}

// A rollout that is followed to its end tells by its exit status how it ended.
func TestRolloutWatch(t *testing.T) {
	f := func(command rollout.Command, text string, status error) {
		t.Helper()
		p := apitest.Serve(t, func(c *api.Config) { c.Heartbeat = 10 * time.Millisecond })
		file := write(t, filepath.Join(t.TempDir(), "a.yaml"), resources)
		admin(t, p.URL, "apply", "-f", file).want(t, "")
		s := aRollout(t, 50)
		old := s
		old.ID, old.Phase, old.Verdict = "fraud/1", rollout.Done, rollout.Failed
		keep(t, p, old)
		c, err := apiclient.New(p.URL, "")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		begun, ended := make(chan struct{}), make(chan error, 1)
		out := &until{text: "waiting for a rollout of fraud to begin",
			reached: sync.OnceFunc(func() { close(begun) })}
		go func() { ended <- newView(out).follow(ctx, c, "fraud") }()
		<-begun
		keep(t, p, s)
		if s, err = s.Command(command, "ann", time.Now()); err != nil {
			t.Fatal(err)
		}
		s, _ = s.Next(rollout.Observation{}, time.Now())
		keep(t, p, s)
		if err := <-ended; !errors.Is(err, status) {
			t.Errorf("%s: %v, want %v", command, err, status)
		}
		if !strings.Contains(out.String(), "is tried beside 7") ||
			!strings.Contains(out.String(), text) {
			t.Errorf("%s shows\n%s", command, out)
		}
	}
	f(rollout.Abort, "ann aborted it", exitStatus(1))
	f(rollout.Promote, "ann promoted it", nil)
}

func TestGetWatch(t *testing.T) {
	p := apitest.Serve(t, nil)
	file := write(t, filepath.Join(t.TempDir(), "a.yaml"), resources)
	admin(t, p.URL, "apply", "-f", file).want(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := apiclient.New(p.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	out := &until{text: "is deleted", reached: cancel}
	ended := make(chan error, 1)
	g := getting{client: c, flags: &adminFlags{}, out: out, plural: "endpoints", watch: true}
	go func() { ended <- g.run(ctx) }()
	for {
		_ = admin(t, p.URL, "apply", "-f", file) // makes it where it is not
		_ = admin(t, p.URL, "delete", "ep", "fraud")
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) || !strings.Contains(out.String(), "@challenger") {
				t.Errorf("%v after\n%s", err, out)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// until is a buffer that tells when a text has come.
type until struct {
	bytes.Buffer
	text    string
	reached func()
}

func (u *until) Write(b []byte) (int, error) {
	n, err := u.Buffer.Write(b)
	if strings.Contains(u.Buffer.String(), u.text) {
		u.reached()
	}
	return n, err
}

// The block of a rollout fits the terminal and is drawn over itself.
func TestRolloutBlock(t *testing.T) {
	r := control.RolloutStatus{State: aRollout(t, 50), Held: "a freeze until 8:00"}
	block := rolloutBlock(&r, 60, time.Now())
	for line := range strings.Lines(block) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 60 {
			t.Errorf("a line has %d columns: %s", n, line)
		}
	}
	if !strings.Contains(block, "held      a freeze until 8:00") {
		t.Errorf("the block is\n%s", block)
	}
	var out bytes.Buffer
	v := view{out: &out, live: true}
	for range 2 {
		if err := v.draw(&r); err != nil {
			t.Fatal(err)
		}
	}
	if want := fmt.Sprintf("\x1b[%dA\r\x1b[J", v.drawn); strings.Count(out.String(), want) != 1 {
		t.Errorf("%q is missing in %q", want, out.String())
	}
}
