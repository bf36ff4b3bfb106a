package control

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
)

// TestLoops has the plane do by itself what other tests do in its place.
func TestLoops(t *testing.T) {
	b := open(t)
	b.close()
	b.cfg.manual = false
	b.start(config.Default())
	b.put("Source", "inbox", `{"push": true, "poll": "24h"}`, "Model", "m", `{"source": "inbox"}`,
		"Endpoint", "e", `{"model": "m", "stable": "@champion", "canary": {"watch": "@challenger",
			"guards": [{"metric": "errors"}], "then": {"alias": "champion"}}}`)
	if err := b.push("1", "champion"); err != nil {
		t.Fatal(err)
	}
	if err := b.push("2", "challenger"); err != nil {
		t.Fatal(err)
	}
	b.eventually("the first step", func() bool { return b.state().Phase == rollout.Step })
	b.says("promote", "promoted")
	b.eventually("what follows is done", func() bool {
		return b.actions() == "e/1 tags=2, e/1 experiment, e/1 alias champion=2"
	})
	b.eventually("the registry's alias is in force", func() bool {
		return b.versions() == "2:Ready 1:Ready map[challenger:2 champion:2]" &&
			b.status("e").Promoted == nil
	})
	b.serves("stable=2")
	b.remove("Endpoint", "e")
	b.remove("Model", "m")
	b.eventually("its files are removed", func() bool { return b.folders() == "" })
}

// TestClose ends a plane in the midst of everything: a hook that does not answer, a source that
// is asked, people who change things. It may not hang, and leaves no goroutine.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	asked, over := make(chan struct{}, 100), make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-over
	}))
	t.Setenv("TEST_HOOK_SECRET", "whsec_bm9ib2R5IGtub3dzIHRoaXMgb25l")
	b := open(t)
	b.close()
	b.cfg.manual = false
	b.start(config.Default())
	b.aliases("1", "2")
	b.endpoint(`, "hooks": [{"url": "` + hook.URL + `", "secret_env": "TEST_HOOK_SECRET"}]`)
	b.put("Source", "registry", `{"mlflow": {"uri": "`+hook.URL+`"}}`,
		"Model", "k", `{"source": "registry"}`)
	<-asked // by one
	<-asked // and the other
	changes := make(chan struct{})
	go func() {
		defer close(changes)
		for version := 1; ; version = version%4 + 1 {
			c := texts("Endpoint", "f", fixed(string(rune('0'+version))))
			if _, err := b.Apply(t.Context(), c); err != nil {
				return // it is closed
			}
			_ = b.Sync(t.Context(), "nobody")
		}
	}()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		b.close()
	}()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("it hangs")
	}
	<-changes
	close(over)
	hook.Close()
	b.eventually("no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
	b.cfg.manual = true
	b.start(config.Default()) // as far as it came
	b.serves("stable=1")
}

// TestFaultySettings starts with settings that have faults: with what was in force last, and not
// at all where nothing was.
func TestFaultySettings(t *testing.T) {
	b := open(t)
	b.put("Endpoint", "e", fixed("2"))
	b.close()
	b.gw = &fakeGateway{t: t}
	var err error
	if b.Plane, err = Open(b.cfg, b.gw, loaded, nil); err != nil {
		t.Fatal(err)
	}
	b.serves("stable=2")
	cfg := b.cfg
	cfg.Data = t.TempDir()
	if _, err := Open(cfg, &fakeGateway{t: t}, loaded, nil); err == nil {
		t.Error("it starts with nothing")
	}
}
