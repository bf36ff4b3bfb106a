package trials_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

// wantTexts wants parts in a text, in which a log may have escaped quotes.
func wantTexts(t *testing.T, text string, parts ...string) {
	t.Helper()
	text = strings.ReplaceAll(text, `\"`, `"`)
	for _, part := range parts {
		if !contains(text, part) {
			t.Errorf("%q is missing in\n%s", part, text)
		}
	}
}

// TestBrokenHangup: a file with errors changes nothing, whatever they are; the
// next good one is taken over.
func TestBrokenHangup(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1, 2)
	const good = "endpoints:\n  - {name: fraud, model: sum, stable: %q}\n"
	file := settings(t, dir, fmt.Sprintf(good, "1"))
	p := launch(t, file)
	f := func(rest string, parts ...string) {
		t.Helper()
		settings(t, dir, rest)
		wantTexts(t, p.hangup(), append(parts, "those in force stay")...)
		if a := p.ask(request{endpoint: "fraud"}); a.version != "1" {
			t.Errorf("version %s answers after %s", a.version, rest)
		}
	}
	at := func(line int) string { return fmt.Sprintf("millrace.yaml:%d: ", headLines+line) }
	f("endpoints:\n  - {name: fraud, model: sum, stable: '@nobody'}\n",
		at(2)+"endpoints[0].stable", `no alias "nobody"`)
	f("endpoints:\n  - {name: fraud, model: sum, canary: {version: '2', weight: 101}}\n",
		at(2)+"endpoints[0].canary.weight")
	f("endpoints:\n  - {name: [\n", "millrace.yaml")
	f("endpoints: {}\nmodles: []\n", at(2)+"modles")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantTexts(t, p.hangup(), "those in force stay", "cannot read the settings")
	settings(t, dir, fmt.Sprintf(good, "2"))
	wantTexts(t, p.hangup(), "settings taken over")
	if a := p.ask(request{endpoint: "fraud"}); a.version != "2" {
		t.Errorf("version %s answers by the good file", a.version)
	}
}

// TestLastGood starts with faulty endpoints: those last in force serve. Without
// any, or with ones that cannot be trusted, the server says so and ends.
func TestLastGood(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1, 2)
	const faulty = "endpoints:\n  - {name: fraud, model: sum, stable: '@nobody'}\n"
	file := settings(t, dir, faulty)
	table := filepath.Join(dir, "data", "endpoints.json")
	refused := func(texts ...string) {
		t.Helper()
		status, said := finish(t, "serve", "-c", file)
		if status != 1 {
			t.Errorf("the status is %d", status)
		}
		wantTexts(t, said, append(texts,
			fmt.Sprintf("millrace.yaml:%d: endpoints[0].stable", headLines+2))...)
	}
	refused()

	settings(t, dir, "endpoints:\n  - name: fraud\n    model: sum\n    stable: '1'\n"+
		"    rules: [{header: x-user, exact: risk, arm: two}]\n"+
		"    arms: [{name: two, version: '2', weight: 0}]\n")
	p := launch(t, file)
	p.kill()
	kept, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}

	settings(t, dir, faulty)
	p = launch(t, file)
	wantTexts(t, p.Output(), "those last in force serve", "endpoints[0].stable")
	for user, want := range map[string]string{"risk": "2", "sales": "1"} {
		if a := p.ask(request{endpoint: "fraud", user: user}); a.version != want {
			t.Errorf("%s gets version %s, not %s", user, a.version, want)
		}
	}
	wantTexts(t, p.hangup(), "those in force stay")
	if a := p.ask(request{endpoint: "fraud", user: "risk"}); a.version != "2" {
		t.Errorf("version %s answers after SIGHUP", a.version)
	}
	p.term()
	if again, err := os.ReadFile(table); err != nil || string(again) != string(kept) {
		t.Errorf("the endpoints that are kept have changed: %v\n%s", err, again)
	}

	// The store of the control plane has them, too. Without it, the file is what there is.
	plane := filepath.Join(dir, "data", "control.db")
	store, err := os.ReadFile(plane)
	if err != nil {
		t.Fatal(err)
	}
	write(t, plane, "")
	p = launch(t, file)
	wantTexts(t, p.Output(), "the control plane does not run", "control.db")
	if a := p.ask(request{endpoint: "fraud", user: "risk"}); a.version != "2" {
		t.Errorf("version %s answers without a control plane", a.version)
	}
	p.term()
	for _, text := range []string{"", string(kept[:len(kept)/2]), "{}",
		strings.Replace(string(kept), `"risk"`, `"rest"`, 1)} {
		write(t, table, text)
		refused("control.db")
	}
	// A good store and a good file need none of it.
	write(t, plane, string(store))
	settings(t, dir, "endpoints:\n  - {name: fraud, model: sum, stable: '2'}\n")
	p = launch(t, file)
	if a := p.ask(request{endpoint: "fraud"}); a.version != "2" {
		t.Errorf("version %s answers", a.version)
	}
}

// TestHangupUnderLoad takes over one file after the other while requests come:
// none fails, and each is answered by one of the two.
func TestHangupUnderLoad(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1, 2)
	rest := func(version string) string {
		return "endpoints:\n  - {name: fraud, model: sum, stable: '" + version + "'}\n"
	}
	p := launch(t, settings(t, dir, rest("1")))
	stop := make(chan struct{})
	var answered [3]atomic.Int64
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := p.send(request{endpoint: "fraud"})
				if err != nil || a.status != 200 || a.version != "1" && a.version != "2" {
					t.Errorf("the answer is %+v, %v", a, err)
					return
				}
				answered[a.version[0]-'0'].Add(1)
			}
		})
	}
	for i := range 20 {
		version := 1 + i%2
		settings(t, dir, rest(fmt.Sprint(version)))
		wantTexts(t, p.hangup(), "settings taken over")
		if a := p.ask(request{endpoint: "fraud"}); a.version != fmt.Sprint(version) {
			t.Errorf("version %s answers, not %d", a.version, version)
		}
		before := answered[version].Load()
		eventually(t, "requests come", func() bool {
			return t.Failed() || answered[version].Load() > before
		})
	}
	close(stop)
	wait.Wait()
	p.term()
}

// TestLostVersions starts with a good file whose versions are missing or
// damaged: an arm that cannot serve gives its requests to the stable version,
// and the admin port says why.
func TestLostVersions(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1, 2)
	write(t, filepath.Join(dir, "models", "sum", "2", "model.onnx"), "damaged")
	file := settings(t, dir, `endpoints:
  - name: fraud
    model: sum
    stable: "1"
    arms: [{name: damaged, version: "2", weight: 40}, {name: missing, version: "9", weight: 40}]
  - {name: lost, model: sum, stable: "9"}
  - {name: torn, model: sum, stable: "2"}
`)
	_, said := finish(t, "check", "-c", file)
	wantTexts(t, said, `endpoint "fraud", arm damaged: version "2" of model "sum" would not`,
		`endpoint "fraud", arm missing: version "9"`, `endpoint "lost", stable: version "9"`)
	p := launch(t, file)
	wantTexts(t, p.Output(), `endpoint "fraud", arm missing`, `endpoint "torn", stable`)
	for range 50 {
		if a := p.ask(request{endpoint: "fraud"}); a.version != "1" {
			t.Fatalf("the answer is %+v", a)
		}
	}
	for _, arm := range []string{"damaged", "missing"} {
		if n := p.metric("millrace_endpoint_fallbacks_total", `route="`+arm+`"`); n == 0 {
			t.Errorf("no request of arm %s is counted as one that the stable version took", arm)
		}
	}
	wantTexts(t, p.admin("/endpoints/fraud"), "'sum' version 9 is not found",
		"'sum' version 2 is UNAVAILABLE", "not a complete ONNX model")
	for endpoint, part := range map[string]string{"lost": "9", "torn": "2"} {
		a, err := p.send(request{endpoint: endpoint})
		if err != nil || a.status < 400 || !contains(a.text, part) || !contains(a.text, "sum") {
			t.Errorf("%s is answered with %+v, %v", endpoint, a, err)
		}
	}
}
