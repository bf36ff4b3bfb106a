package control

import (
	"strings"
	"testing"
	"time"
)

// TestData starts when enough was written, also over a restart.
func TestData(t *testing.T) {
	b := open(t)
	b.now = time.Now()
	written := 1000 // before the trigger was there
	b.cfg.Written = func(endpoint string) int {
		if endpoint != "e" {
			t.Errorf("%s is asked for", endpoint)
		}
		return written
	}
	b.restart()
	b.aliases("1", "1")
	b.put("Endpoint", "e", fixed("1"), "Trigger", "train", commandTrigger("/dev/null", says,
		`, "cooldown": "0s", "on": {"data": {"endpoint": "e", "rows": 100}}`))
	halted := func(taps, want string) {
		t.Helper()
		c := parse(t, "taps: ["+taps+"]\n")
		if err := b.Reload(t.Context(), &c); err != nil {
			t.Fatal(err)
		}
		b.look(time.Second)
		got := b.Plane.view.triggers["train"].status.Halted
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("taps %s: it waits because %q, want %q", taps, got, want)
		}
	}
	halted("", "no tap keeps files of e")
	halted("{name: t, cloudevents: {url: 'http://x'}}", "no tap keeps files of e")
	halted("{name: t, files: {path: p, format: jsonl}}", "")
	f := func(rows int, want string) {
		t.Helper()
		written += rows
		b.look(time.Second)
		b.finish()
		b.stand("train", want)
	}
	f(0, "")
	f(60, "")
	b.restart()
	written = 0
	f(0, "")
	f(39, "")
	f(1, "succeeded")
	f(99, "succeeded")
	f(1000, "succeeded succeeded")
	if run := b.runsOf("train")[0]; run.Context.Endpoint != "e" || run.Context.Version != "1" {
		t.Errorf("%+v", run)
	}
}
