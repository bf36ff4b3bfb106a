package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/api/apitest"
	"github.com/millrace-ml/millrace/control/store"
)

// patience bounds every wait of a test.
const patience = time.Minute

const (
	asJSON = "application/json"
	asYAML = "application/yaml"
)

// reply is an answer.
type reply struct {
	status int
	header http.Header
	body   string
}

// ask sends a request: "PUT /path", then lines with headers, and a body.
func ask(t *testing.T, p *apitest.Plane, what, body string) reply {
	t.Helper()
	what, headers, _ := strings.Cut(what, "\n")
	method, path, _ := strings.Cut(what, " ")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(headers) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text)}
}

// want holds an answer against a status and texts that must be in it.
func (r reply) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status is %d, want %d: %s", r.status, status, r.body)
	}
	for _, text := range texts {
		if !strings.Contains(r.body, text) {
			t.Errorf("%q is missing in %s", text, r.body)
		}
	}
}

// into decodes an answer.
func into[T any](t *testing.T, r reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("cannot read %s: %v", r.body, err)
	}
	return v
}

// Headers behind what is asked.
const (
	jsonBody = "\nContent-Type: " + asJSON
	yamlBody = "\nContent-Type: " + asYAML
)

// serveFiled serves an endpoint of the settings file, and rollouts.
func serveFiled(t *testing.T) *apitest.Plane {
	t.Helper()
	p := apitest.Serve(t, nil)
	txn := store.Txn{By: store.Author{Who: "test"}, Put: []store.Resource{
		{Key: store.Key{Kind: "Endpoint", Name: "filed"}, Owner: control.OwnerFile,
			Spec: []byte(`{}`)},
		{Key: store.Key{Kind: "Rollout", Name: "filed/10"}, Owner: control.OwnerAPI},
		{Key: store.Key{Kind: "Rollout", Name: "filed/9"}, Owner: control.OwnerAPI},
		{Key: store.Key{Kind: "Rollout", Name: "other/1"}, Owner: control.OwnerAPI},
	}}
	if _, err := p.Bolt.Txn(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPut(t *testing.T) {
	p := serveFiled(t)
	f := table(t, p)
	put := "PUT /api/v1/endpoints/fraud"
	f(put+jsonBody, `{"stable":"3"}`, 201, `"action":"created"`, `"revision":5`)
	f(put+jsonBody, `{"stable":"3"}`, 200, `"action":"unchanged"`)
	f(put+yamlBody, "stable: 007", 200, `"new":{"stable":"007"}`)
	f(put+jsonBody, `{"stabel":"3"}`, 400, "did you mean stable?", `"key":"stabel"`)
	f(put+jsonBody, `{"timeout":"-1s","priority":99}`, 400, "endpoint fraud: timeout",
		"endpoint fraud: priority")
	f(put+jsonBody, `{"stable":`, 400, "not JSON")
	f(put+yamlBody, "a: [", 400, "not YAML")
	f(put+jsonBody, `[]`, 400, "no mapping")
	f(put+jsonBody, `{}{}`, 400, "2 documents")
	f(put+jsonBody, `{"spec":{},"name":"else"}`, 400, `the name in the body is \"else\"`)
	f(put+jsonBody, `{"spec":{},"kind":"Model"}`, 400, `the kind in the body is \"Model\"`)
	f(put+jsonBody, `{"spec":{},"revision":"x"}`, 400, "must be a number")
	f(put+jsonBody+"\nIf-Match: W/x", `{}`, 400, "If-Match")
	f(put+"?dry_run=maybe"+jsonBody, `{}`, 400, "dry_run")
	f(put+"\n"+"Content-Type: text/plain", `{}`, 415, "must be application/json or")
	f(put, `{}`, 415, "Content-Type")
	f(put+jsonBody, `{"stable":"`+strings.Repeat("x", 17<<20)+`"}`, 413, "larger than 16777216")
	f("PUT /api/v1/endpoints/filed"+jsonBody, `{"stable":"1"}`, 409, "settings file")
	f("PUT /api/v1/endpoints/filed?take_over=true"+jsonBody, `{"stable":"1"}`, 200, `"changed"`)
	f("PUT /api/v1/endpoints/"+strings.Repeat("x", 600)+jsonBody, `{}`, 400, "endpoint xxx")
	f("PUT /api/v1/sources/lake"+jsonBody, `{"folder":{"path":"/data"}}`, 201)
	f("PUT /api/v1/models/a%2Fb%20%25%C3%A9"+jsonBody, `{"source":"lake"}`, 201, `"name":"a/b %é"`)
	f("GET /api/v1/models/a%2Fb%20%25%C3%A9", "", 200, `"source":"lake"`)
}

// table returns the function of a table of requests and answers.
func table(t *testing.T, p *apitest.Plane) func(what, body string, status int, texts ...string) {
	return func(what, body string, status int, texts ...string) {
		t.Helper()
		ask(t, p, what, body).want(t, status, texts...)
	}
}

func TestStatuses(t *testing.T) {
	p := serveFiled(t)
	f, put := table(t, p), "PUT /api/v1/endpoints/fraud"
	f(put+jsonBody, `{"stable":"007"}`, 201)
	f("PUT /api/v1/sources/lake"+jsonBody, `{"folder":{"path":"/data"}}`, 201)
	f("PUT /api/v1/models/m"+jsonBody, `{"source":"lake"}`, 201)
	f("GET /api/v1/endpoints/none", "", 404, "not found: Endpoint none")
	f("GET /api/v1/endpoints", "", 200, `"name":"filed"`, `"name":"fraud"`)
	f("GET /api/v1/rollouts?endpoint=filed", "", 200, `"name":"filed/9"`)
	f("GET /api/v1/rollouts/filed/10", "", 200, `"name":"filed/10"`)
	f("GET /api/v1/rollouts/filed%2F10", "", 200, `"name":"filed/10"`)
	f("GET /api/v1/endpoints/none/rollouts", "", 404)
	f("GET /api/v1/endpoints/filed/rollouts?limit=x", "", 400, "limit")
	f("DELETE /api/v1/endpoints/none", "", 404)
	f("DELETE /api/v1/sources/lake", "", 400, "model m: source")
	f("DELETE /api/v1/endpoints/fraud?dry_run=true", "", 200, `"deleted"`)
	f("DELETE /api/v1/endpoints/fraud", "", 200, `"old":{"stable":"007"}`)
	f("DELETE /api/v1/endpoints/fraud", "", 404)
	f("DELETE /api/v1/rollouts/filed/10", "", 405, "only GET or HEAD")
	f("PATCH /api/v1/endpoints/fraud", "", 405, "DELETE or GET or HEAD or PUT")
	f("GET /api/v1/nothing", "", 404, "GET /api/v1 lists")
	f("GET /api/v1/audit?limit=x", "", 400, "limit")
	f("GET /api/v1/watch?from=x", "", 400, "from")
	f("GET /api/v1/watch?kind=endpoints", "", 400, "must be one of Source, Model,")
	f("GET /api/v1/watch\nLast-Event-ID: x", "", 400, "Last-Event-ID")
	f("GET /api/v1/watch?from=99", "", 410, "not kept")
	f("POST /api/v1/endpoints/fraud/rollout/dance", "", 404, "only start, pause")
	f("POST /api/v1/endpoints/fraud/rollout/pause"+jsonBody, `{"who":"me"}`, 400, "unknown field")
	f("POST /api/v1/endpoints/done/rollout/pause", "", 409, "it is done")
	f("POST /api/v1/endpoints/fraud/rollout/pause\nOrigin: http://evil.example", "", 403, "origin")
	f("POST /api/v1/endpoints/fraud/rollout/promote"+jsonBody, `{"by":"ann"}`, 200, "to promote")
	f("POST /api/v1/sources/broken/sync", "", 502, "answers HTML")
	f("POST /api/v1/sources/lake/sync", "", 200)
	f("POST /api/v1/sources/lake/webhook"+jsonBody+"\nX-Event: moved", `{"a":1}`, 200)
	f("POST /api/v1/sources/lake/webhook", "forged", 401, "not authentic")
	p.SetDown(true)
	f("GET /api/v1/endpoints", "", 503, "a test has taken it away")
	f(put+jsonBody, `{}`, 503, "not running")
	f("GET /api/v1/watch", "", 503)
	f("GET /api/v1/audit", "", 503)
	want := []string{"promote fraud by ann", "sync lake", `webhook lake moved {"a":1}`}
	if got := p.Told(); !slices.Equal(got, want) {
		t.Errorf("the control plane was told %q, want %q", got, want)
	}
}

// Rollouts come by their numbers, which are not in the order of texts.
func TestRolloutsOf(t *testing.T) {
	p := apitest.Serve(t, nil)
	txn := store.Txn{By: store.Author{Who: "test"}, Put: []store.Resource{
		{Key: store.Key{Kind: "Endpoint", Name: "e/x"}, Spec: []byte(`{}`)}}}
	for _, name := range []string{"e/x/9", "e/x/10", "e/x/11", "e/1"} {
		txn.Put = append(txn.Put, store.Resource{Key: store.Key{Kind: "Rollout", Name: name}})
	}
	if _, err := p.Bolt.Txn(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	var names []string
	list := into[api.List](t, ask(t, p, "GET /api/v1/endpoints/e%2Fx/rollouts", ""))
	for _, r := range list.Items {
		names = append(names, r.Name)
	}
	if want := []string{"e/x/9", "e/x/10", "e/x/11"}; !slices.Equal(names, want) {
		t.Errorf("rollouts are %q, want %q", names, want)
	}
	if list.Revision != 5 {
		t.Errorf("revision is %d, want 5", list.Revision)
	}
	last := into[api.List](t, ask(t, p, "GET /api/v1/endpoints/e%2Fx/rollouts?limit=1", ""))
	if len(last.Items) != 1 || last.Items[0].Name != "e/x/11" {
		t.Errorf("the last rollout is %+v", last.Items)
	}
}

// Of two operators who have read the same, the second to write is told.
func TestTwoOperators(t *testing.T) {
	p := apitest.Serve(t, nil)
	const path = "PUT /api/v1/endpoints/fraud"
	ask(t, p, path+jsonBody, `{"stable":"1"}`).want(t, 201)
	tag := ask(t, p, "GET /api/v1/endpoints/fraud", "").header.Get("ETag")
	ask(t, p, path+jsonBody+"\nIf-Match: "+tag, `{"stable":"2"}`).want(t, 200)
	ask(t, p, path+jsonBody+"\nIf-Match: "+tag, `{"stable":"3"}`).want(t, 409, "is at revision 2")
	ask(t, p, path+jsonBody, `{"spec":{"stable":"3"},"revision":1}`).want(t, 409)
	ask(t, p, path+"?dry_run=1"+jsonBody, `{"spec":{"stable":"3"},"revision":1}`).want(t, 409)
	ask(t, p, path+jsonBody+"\nIf-None-Match: *", `{}`).want(t, 409, "is there already")
	ask(t, p, "DELETE /api/v1/endpoints/fraud\nIf-Match: \"1\"", "").want(t, 409)
	ask(t, p, "GET /api/v1/endpoints/fraud", "").want(t, 200, `"stable":"2"`)
	ask(t, p, path+jsonBody, `{"spec":{"stable":"4"},"revision":2}`).want(t, 200)
	ask(t, p, "DELETE /api/v1/endpoints/fraud\nIf-Match: \"3\"", "").want(t, 200)
}

const settings = `
sources: [{name: lake, folder: {path: /data}}]
models:
  - name: fraud
    source: lake
endpoints:
  - &e {name: fraud, stable: 1.10}
  - {name: copy, model: fraud, timeout: 5s, limits: {concurrency: 7}}
`

func TestApply(t *testing.T) {
	p := apitest.Serve(t, nil)
	apply := func(query, kind, body string) reply {
		t.Helper()
		return ask(t, p, "POST /api/v1/apply"+query+"\nContent-Type: "+kind, body)
	}
	apply("?dry_run=true", asYAML, settings).want(t, 200, `"dry_run":true`, `"created"`)
	ask(t, p, "GET /api/v1/models/fraud", "").want(t, 404)
	apply("", asYAML, settings).want(t, 200, `"new":{"stable":"1.10"}`)
	if e := into[api.Effects](t, apply("", asYAML, settings)); len(e.Effects) != 4 ||
		slices.ContainsFunc(e.Effects, func(e api.Effect) bool { return e.Action != "unchanged" }) {
		t.Errorf("the same again does %+v", e)
	}
	// All or nothing.
	apply("", asYAML, "models: [{name: more}]\nendpoints: [{name: bad, priority: 99}]").want(t, 400,
		"endpoint bad: priority")
	ask(t, p, "GET /api/v1/models/more", "").want(t, 404)
	// What GET answers can be applied, and is refused when it is stale.
	list := ask(t, p, "GET /api/v1/endpoints", "").body
	apply("", asJSON, list).want(t, 200, `"unchanged"`)
	apply("", asYAML, "kind: Endpoint\nname: copy\nspec: {model: fraud}").want(t, 200, `"changed"`)
	apply("", asJSON, list).want(t, 409)
	apply("", asYAML, "endpoints: [{name: a}]\n---\nendpoints: [{name: b}]\n---\n").want(t, 200,
		`"name":"a"`, `"name":"b"`)
	apply("", asJSON, `[{"kind":"Endpoint","name":"c"}]`).want(t, 200, `"name":"c"`)

	f := func(kind, body string, status int, texts ...string) {
		t.Helper()
		apply("", kind, body).want(t, status, texts...)
	}
	f(asYAML, "server: {http: x}\nendpoints: []", 400, `"key":"server"`, "settings file")
	f(asYAML, "endpoints: {name: x}", 400, "must be a list")
	f(asYAML, "endpoints: [{stable: 1}]", 400, "endpoints[0].name", "is missing")
	f(asYAML, "endpoints: [{name: x, stable: 1, stable: 2}]", 400, "endpoints[0].stable",
		"twice (line 1)")
	f(asYAML, "endpoints: [{name: x, stable: }]", 400, "has no value")
	f(asYAML, "a: &a [*a]\nendpoints: []", 400, "more than")
	f(asYAML, bomb(), 400, "more than")
	f(asYAML, "endpoints: [{name: x}, {name: x}]", 400, "Endpoint x", "is there twice")
	f(asYAML, "", 400, "no resources")
	f(asYAML, "hello", 400, "neither settings nor a resource")
	f(asYAML, "{kind: Robot, name: x}", 400, "must be one of Source, Model, Endpoint")
	f(asYAML, "{kind: Endpoint, spec: {}}", 400, "no name")
	f(asYAML, "{kind: Endpoint, name: x, specs: {}}", 400, "unknown key")
	f(asYAML, "{kind: Endpoint, name: x, spec: 7}", 400, "no mapping")
	f(asYAML, "models: [{name: m, source: nowhere}]", 400, "model m: source", "nowhere")
	f("application/xml", "<a/>", 415)
}

// bomb is YAML that is small and unfolds to 10^9 values.
func bomb() string {
	text := "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
	for i := 1; i < 9; i++ {
		text += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i, i,
			strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), i-1)
	}
	return text
}

func TestDiff(t *testing.T) {
	p := apitest.Serve(t, nil)
	ask(t, p, "POST /api/v1/apply"+yamlBody, settings).want(t, 200)
	next := strings.Replace(settings, "concurrency: 7", "concurrency: 8", 1)
	r := ask(t, p, "POST /api/v1/diff"+yamlBody, next)
	r.want(t, 200, `"dry_run":true`)
	var diffs []string
	for _, e := range into[api.Effects](t, r).Effects {
		if e.Diff != "" {
			diffs = append(diffs, e.Diff)
		}
	}
	want := `--- endpoint copy (in force)
+++ endpoint copy (new)
@@ -1,4 +1,4 @@
 limits:
-  concurrency: 7
+  concurrency: 8
 model: fraud
 timeout: 5s
`
	if len(diffs) != 1 || diffs[0] != want {
		t.Errorf("diffs are %q, want %q", diffs, want)
	}
	ask(t, p, "GET /api/v1/endpoints/copy", "").want(t, 200, `"concurrency":7`)
}

func TestAudit(t *testing.T) {
	p := apitest.Serve(t, nil)
	for i := range 5 {
		who := []string{"ann", "bob"}[i%2]
		ask(t, p, "PUT /api/v1/endpoints/e"+jsonBody+"\n"+api.UserHeader+": "+who,
			fmt.Sprintf(`{"stable":"%d"}`, i))
	}
	ask(t, p, "DELETE /api/v1/endpoints/e", "").want(t, 200)
	f := func(query string, want ...uint64) {
		t.Helper()
		var got []uint64
		for _, c := range into[api.Changes](t, ask(t, p, "GET /api/v1/audit"+query, "")).Changes {
			got = append(got, c.Revision)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: revisions are %v, want %v", query, got, want)
		}
	}
	f("", 6, 5, 4, 3, 2, 1)
	f("?who=bob", 4, 2)
	f("?who=anonymous&kind=Endpoint&name=e", 6)
	f("?limit=2", 6, 5)
	f("?limit=2&before=5", 4, 3)
	f("?kind=Model")
	ask(t, p, "GET /api/v1/audit?limit=1", "").want(t, 200, `"from":"127.0.0.1:`,
		`"new":null`)
}

func TestBackup(t *testing.T) {
	p := apitest.Serve(t, nil)
	ask(t, p, "PUT /api/v1/endpoints/e"+jsonBody, `{"stable":"1"}`).want(t, 201)
	r := ask(t, p, "GET /api/v1/backup", "")
	if got := r.header.Get("Content-Type"); r.status != 200 || got != "application/octet-stream" {
		t.Fatalf("status %d, type %q", r.status, got)
	}
	file := filepath.Join(t.TempDir(), "copy")
	writeFile(t, file, r.body)
	cfg := store.DefaultConfig()
	cfg.Path = filepath.Join(t.TempDir(), "control.db")
	if err := store.Restore(file, cfg.Path, store.Author{Who: "test"}); err != nil {
		t.Fatal(err)
	}
	b, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Get(t.Context(), store.Key{Kind: "Endpoint", Name: "e"}); err != nil {
		t.Error(err)
	}
	if err := p.Bolt.Close(); err != nil {
		t.Fatal(err)
	}
	ask(t, p, "GET /api/v1/backup", "").want(t, 503, "closed")
}

// All paths of the OpenAPI document are routed, and all of its references lead somewhere.
func TestOpenAPI(t *testing.T) {
	p := apitest.Serve(t, nil)
	r := ask(t, p, "GET /api/v1/openapi.json", "")
	doc := into[struct {
		OpenAPI    string
		Paths      map[string]map[string]struct{ OperationID string }
		Components struct{ Schemas map[string]any }
	}](t, r)
	if doc.OpenAPI != "3.1.0" || len(doc.Paths) < 15 {
		t.Fatalf("version %q with %d paths", doc.OpenAPI, len(doc.Paths))
	}
	refs := regexp.MustCompile(`"#/components/schemas/(\w+)"`)
	for _, m := range refs.FindAllStringSubmatch(r.body, -1) {
		if _, ok := doc.Components.Schemas[m[1]]; !ok {
			t.Errorf("there is no schema %s", m[1])
		}
	}
	seen := make(map[string]bool)
	p.SetDown(true) // so that nothing is done
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.OperationID == "" || seen[op.OperationID] {
				t.Errorf("%s %s has no id of its own: %q", method, path, op.OperationID)
			}
			seen[op.OperationID] = true
			filled := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, "x")
			r := ask(t, p, strings.ToUpper(method)+" "+filled, "")
			if r.status == 405 || strings.Contains(r.body, "GET /api/v1 lists") {
				t.Errorf("%s %s is not routed: %d %s", method, path, r.status, r.body)
			}
		}
	}
	index := ask(t, p, "GET /api/v1", "")
	index.want(t, 200, `"/api/v1/endpoints/{name}"`, `"/api/v1/rollouts/{name}"`)
}

func TestYAML(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		got, err := api.YAML([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%s becomes %q, %v, want %q", in, got, err, want)
		}
	}
	f(`{"b":"3","a":3,"c":true,"d":"true","e":null,"f":1.10}`,
		"a: 3\nb: \"3\"\nc: true\nd: \"true\"\ne: null\nf: 1.10\n")
	f(`{"l":[{"x":1},"y"],"m":{}}`, "l:\n  - x: 1\n  - y\nm: {}\n")
	f(`{"t":"a\nb\u007f\ud83d\ude00"}`, "t: \"a\\nb\\x7F\\U0001F600\"\n")
	if _, err := api.YAML([]byte(`{`)); err == nil {
		t.Error("half a JSON text is taken")
	}
}

func TestUnified(t *testing.T) {
	lines := func(n int, change func(i int) string) []byte {
		fields := make(map[string]string)
		for i := range n {
			fields[fmt.Sprintf("k%03d", i)] = change(i)
		}
		text, _ := json.Marshal(fields)
		return text
	}
	same := func(int) string { return "v" }
	before := lines(40, same)
	key := store.Key{Kind: "Model", Name: "m"}
	if got := api.Diff(key, before, before); got != "" {
		t.Errorf("equal texts differ: %s", got)
	}
	got := api.Diff(key, before, lines(40, func(i int) string {
		return map[bool]string{true: "w", false: "v"}[i == 3 || i == 8 || i == 30]
	}))
	for _, want := range []string{"@@ -1,12 +1,12 @@\n", "@@ -28,7 +28,7 @@\n",
		"-k008: v\n+k008: w\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	got = api.Diff(key, nil, []byte(`{"a":1}`))
	if !strings.Contains(got, "@@ -0,0 +1,1 @@\n+a: 1\n") {
		t.Errorf("a new resource is\n%s", got)
	}
	// Texts beyond the bound of work are shown as replaced.
	large := api.Diff(key, lines(1100, same), lines(1100, func(int) string { return "w" }))
	if n := bytes.Count([]byte(large), []byte("\n-")); n != 1100 {
		t.Errorf("%d lines go, want 1100", n)
	}
}
