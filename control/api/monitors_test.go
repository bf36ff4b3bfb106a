package api_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api/apitest"
	"github.com/millrace-ml/millrace/control/store"
)

func TestMonitors(t *testing.T) {
	p := apitest.Serve(t, nil)
	f := table(t, p)
	f("PUT /api/v1/endpoints/fraud"+jsonBody, `{}`, 201)
	f("PUT /api/v1/monitors/fraud"+jsonBody,
		`{"endpoint": "fraud", "reference": {"learn": 1000}, "false_alarm_every": "30d"}`, 201)
	f("PUT /api/v1/monitors/fraud"+jsonBody, `{"endpoint": "fraud", "reference": {}}`, 400,
		"monitor fraud: reference")
	f("PUT /api/v1/monitors/other"+jsonBody, `{"endpoint": "x", "reference": {"learn": 1000}}`, 400,
		"no endpoint is called")
	f("GET /api/v1/monitors/fraud", "", 200, `"kind":"Monitor"`)
	f("POST /api/v1/monitors/fraud/ack", "", 200, "told to ack")
	f("POST /api/v1/monitors/fraud/resolve"+jsonBody, `{"by": "ann"}`, 200, "told to resolve")
	f("POST /api/v1/monitors/done/ack", "", 409, "it is done")
	f("POST /api/v1/monitors/fraud/dance", "", 404, "only ack, resolve, reset")
	const windows = "/windows" + jsonBody
	f("POST /api/v1/monitors/fraud"+windows, `{"replica": "a", "sequence": 7, "rows": 5}`, 200,
		"{}")
	f("POST /api/v1/monitors/done"+windows, `{"replica": "a"}`, 409, "it is done")
	f("POST /api/v1/monitors/fraud"+windows, ``, 400, "there is no body")
	f("POST /api/v1/monitors/fraud"+windows, `{"rows": -5}`, 400, "cannot read the body")
	f("POST /api/v1/monitors/fraud"+windows, `{"rows": 1e30}`, 400, "cannot read the body")
	f("POST /api/v1/monitors/fraud"+windows, `{"window": "%"}`, 400, "cannot read the body")
	f("POST /api/v1/monitors/fraud"+windows, `{"weather": 5}`, 400, "unknown field")
	f("POST /api/v1/monitors/fraud"+windows, `{"replica": "`+strings.Repeat("a", 32<<20)+`"}`, 413,
		"larger than")
	f("POST /api/v1/monitors/fraud/windows", `{"rows": 5}`, 415, "Content-Type")
	f("DELETE /api/v1/monitors/fraud", "", 200, "deleted")
	txn := store.Txn{By: store.Author{Who: "test"}}
	for _, name := range []string{"fraud/10", "fraud/9"} {
		txn.Put = append(txn.Put, store.Resource{
			Key: store.Key{Kind: control.KindAlarm, Name: name}, Owner: control.OwnerAPI})
	}
	if _, err := p.Bolt.Txn(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	list := ask(t, p, "GET /api/v1/alarms", "")
	if i := strings.Index(list.body, "fraud/9"); i < 0 || i > strings.Index(list.body, "fraud/10") {
		t.Errorf("the alarms are %s", list.body)
	}
	f("GET /api/v1/alarms/fraud/9", "", 200, `"kind":"Alarm"`)
	want := []string{"ack fraud by anonymous", "resolve fraud by ann",
		"fraud counts 5 rows of a, number 7"}
	if got := p.Told(); !slices.Equal(got, want) {
		t.Errorf("the control plane was told %q, want %q", got, want)
	}
}
