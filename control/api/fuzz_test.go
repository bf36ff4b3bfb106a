package api

import (
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// FuzzDocuments wants that whatever comes is refused, or is resources with kind, name and a
// spec that is a JSON object.
func FuzzDocuments(f *testing.F) {
	for _, text := range []string{
		"endpoints: [{name: a, stable: 007}]\n---\nmodels: []", "{kind: Endpoint, name: x}",
		"items: [{kind: Model, name: m, revision: 3, spec: {}}]", "a: &a [*a]", "? [1, 2]\n: 3",
		`[{"kind":"Source","name":"s","spec":{"push":true},"status":null}]`, "--- \n---\n",
		"!!binary x",
		"endpoints: [{name: .inf}, {name: 2026-01-01}, {name: 0x10}, {name: ~}]", "<<: {a: 1}",
	} {
		f.Add(text, true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text string, yaml bool) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(text))
		r.Header.Set("Content-Type", typeJSON)
		if yaml {
			r.Header.Set("Content-Type", typeYAML)
		}
		docs, err := documents(httptest.NewRecorder(), r)
		if err != nil {
			return
		}
		items, err := resources(docs)
		if err == nil && len(items) == 0 {
			t.Error("neither resources nor an error")
		}
		for _, it := range items {
			var spec map[string]any
			if it.Kind == "" || it.Name == "" || json.Unmarshal(it.Spec, &spec) != nil {
				t.Errorf("%q is taken for %+v", text, it)
			}
		}
	})
}

// FuzzCompare wants that the edits lead from one text to the other.
func FuzzCompare(f *testing.F) {
	f.Add("a\nb\nc\n", "a\nc\nd\n")
	f.Add("", "x\n")
	f.Add("x\ny\nx\n", "y\nx\ny\n")
	f.Fuzz(func(t *testing.T, before, after string) {
		a := slices.Collect(strings.Lines(before))
		b := slices.Collect(strings.Lines(after))
		var gone, come []string
		for _, e := range compare(a, b) {
			if e.op != '+' {
				gone = append(gone, e.line)
			}
			if e.op != '-' {
				come = append(come, e.line)
			}
		}
		if !slices.Equal(gone, a) || !slices.Equal(come, b) {
			t.Errorf("%q to %q is %q to %q", a, b, gone, come)
		}
		if got := unified("x", a, b); (got == "") != slices.Equal(a, b) {
			t.Errorf("the diff of %q and %q is %q", a, b, got)
		}
	})
}
