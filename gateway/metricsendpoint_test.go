package gateway_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/cache"
	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/tap"
)

// useAll puts an endpoint with all that it may have before the sample model
// simple, and sends requests until its shadow has run.
func (s *server) useAll(t *testing.T) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cfg := feedback.DefaultConfig()
	cfg.Path = filepath.Join(t.TempDir(), "feedback.db")
	ledger, err := feedback.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	files, err := tap.NewFiles(tap.FilesConfig{Path: t.TempDir(), Format: tap.JSONL}, log)
	if err != nil {
		t.Fatal(err)
	}
	sink := tap.NewSink(tap.SinkConfig{}, files, log)
	t.Cleanup(func() {
		_ = ledger.Close()
		_ = sink.Close(context.Background())
	})
	s.core.SetLedger(ledger)
	s.core.SetTaps([]gateway.Tap{{Name: "all", Sink: sink, Percent: 100}})
	if err := s.core.SetCaches(map[string]cache.Config{"simple": {MaxBytes: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	s.set(t, nil, route.Spec{Name: "e", Arms: arms("9", route.FullWeight),
		Limits: route.LimitSpec{Adaptive: true},
		Shadows: []route.ShadowSpec{{Name: "copy", Model: "simple", Version: "1", Percent: 100},
			{Name: "other", Model: "digits", Percent: 100}}})
	s.ways()[0].infer(t, askE, zeros, "x-request-id: told")
	if status, body := post(t, s.memory, "/v2/feedback",
		[]byte(`{"id":"told","reward":0.25}`)); status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	late, tick := time.After(10*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if status, body := post(t, s.memory, askE, []byte(zeros)); status != 200 {
			t.Fatalf("status %d: %s", status, body)
		}
		text := s.metrics(t)
		if strings.Contains(text, `millrace_shadow_compared_total{endpoint="e",result="agreed",`+
			`shadow="copy"} 1`) {
			break
		}
		select {
		case <-late:
			t.Fatalf("the shadow has not run: %s", text)
		case <-tick.C:
		}
	}
	if got, ok := s.core.ShadowReport("e", "copy"); !ok || got.Compared == 0 ||
		got.Agreed != got.Compared || got.Version != "1" || got.Failed != 0 {
		t.Errorf("in short the shadow has found %+v", got)
	}
	for _, name := range [][2]string{{"e", "nobody"}, {"nobody", "copy"}} {
		if got, ok := s.core.ShadowReport(name[0], name[1]); ok {
			t.Errorf("shadow %v, which is not there, has found %+v", name, got)
		}
	}
}
