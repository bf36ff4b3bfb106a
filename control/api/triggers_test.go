package api_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/api/apitest"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/incoming"
)

func TestTriggers(t *testing.T) {
	p := apitest.Serve(t, nil)
	f := table(t, p)
	f("PUT /api/v1/triggers/train"+jsonBody, `{"command": {"argv": ["/bin/true"]}}`, 201, "created")
	f("GET /api/v1/triggers/train", "", 200, `"kind":"Trigger"`)
	f("POST /api/v1/triggers/train/start", "", 200, "told to start")
	f("POST /api/v1/triggers/train/start"+jsonBody,
		`{"id": "7", "parameters": {"a": "b"}, "by": "ann"}`, 200, "told to start")
	f("POST /api/v1/triggers/train/start"+jsonBody, `{"parameter": {}}`, 400, "unknown field")
	f("POST /api/v1/triggers/train/dance", "", 404, "only start, stop, resume")
	f("POST /api/v1/triggers/busy/start", "", 409, "has not ended")
	f("POST /api/v1/runs/r1/cancel", "", 200, "told to cancel")
	f("POST /api/v1/runs/r1/start", "", 404, "only cancel, retry")
	f("POST /api/v1/runs/done/retry", "", 409, "it is done")
	f("POST /api/v1/hooks/alertmanager"+jsonBody, `{}`, 200, "it is taken")
	f("POST /api/v1/hooks/alertmanager", "forged", 401, "not authentic")
	f("POST /api/v1/hooks/alertmanager", "odd", 400, "malformed")
	f("POST /api/v1/hooks/alertmanager", "late", 503, "HTML")
	f("POST /api/v1/hooks/alertmanager", strings.Repeat("x", 10<<20), 413, "larger than")
	f("POST /api/v1/hooks/alertmanager\nSec-Fetch-Site: cross-site", "{}", 403, "origin")
	f("POST /api/v1/hooks/git/train", "pushed", 200, "it is taken")
	f("POST /api/v1/hooks/git/none", "pushed", 404, "not found")
	f("GET /api/v1/hooks/git/train", "", 405, "only POST")
	f("DELETE /api/v1/triggers/train", "", 200, "deleted")
	want := []string{"start train map[] by anonymous", "start train 7map[a:b] by ann",
		"cancel r1 by anonymous", "alert {}", "push for train", "alert pushed"}
	if got := p.Told(); !slices.Equal(got, want) {
		t.Errorf("the control plane was told %q, want %q", got, want)
	}
	if incoming.MaxBody >= 10<<20 {
		t.Error("10 MB are no large webhook")
	}
}

// TestRuns lists runs in the order of their beginnings, of one trigger or of all.
func TestRuns(t *testing.T) {
	p := apitest.Serve(t, nil)
	txn := store.Txn{By: store.Author{Who: "test"}, Put: []store.Resource{
		{Key: store.Key{Kind: "Trigger", Name: "train"}, Spec: []byte(`{}`)}}}
	began := time.Date(2026, 11, 25, 22, 0, 0, 0, time.UTC)
	for i, id := range []string{"c", "a", "b"} {
		run := trigger.Run{ID: id, Trigger: "train", Began: began.Add(time.Duration(i) * time.Hour)}
		if id == "a" {
			run.Trigger = "other"
		}
		status, err := json.Marshal(run)
		if err != nil {
			t.Fatal(err)
		}
		txn.Put = append(txn.Put, store.Resource{Key: store.Key{Kind: "Run", Name: id},
			Status: status})
	}
	if _, err := p.Bolt.Txn(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	f := func(path, want string) {
		t.Helper()
		var names []string
		for _, r := range into[api.List](t, ask(t, p, "GET "+path, "")).Items {
			names = append(names, r.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s lists %q, want %q", path, got, want)
		}
	}
	f("/api/v1/runs", "c a b")
	f("/api/v1/runs?trigger=other", "a")
	f("/api/v1/triggers/train/runs", "c b")
	f("/api/v1/triggers/train/runs?limit=1", "b")
	ask(t, p, "GET /api/v1/triggers/none/runs", "").want(t, 404)
}
