package shadow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// TestMirror shadows models by a copy of themselves and by a wrong one.
func TestMirror(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"digits", "iris", "mlp", "tips"} {
		add(t, name, filepath.Join(root, name), nil)
		add(t, name, filepath.Join(root, name+"_copy"), nil)
	}
	add(t, "digits", filepath.Join(root, "digits_wrong"), bias(t, 50))
	r := open(t, root)
	f := func(stable, shadow string, rows int, agree bool) {
		t.Helper()
		const n = 60
		pool := tap.NewPool(n, 1<<24)
		c := newClient(r, stable, pool)
		m := start(t, config(shadow), r, slog.New(slog.DiscardHandler))
		for range n {
			s := c.ask(t, rows)
			if !m.Offer(s) {
				t.Errorf("%s: a sample was dropped", shadow)
			}
			s.Release()
		}
		s := until(t, m, "all are compared", func(s *Snapshot) bool { return s.Compared == n })
		end(t, m)
		if pool.Bytes() != 0 {
			t.Errorf("%s: samples of %d bytes are still held", shadow, pool.Bytes())
		}
		if agree != (s.Agreed == n) || !agree && s.Agreed != 0 || len(s.Errors) > 0 {
			t.Errorf("%s: of %d %d agreed: %v, %v", shadow, n, s.Agreed, s.Disagreed, s.Errors)
		}
		if s.Pairs != n || s.Version != "1" || s.Offered != n {
			t.Errorf("%s: %+v", shadow, s)
		}
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
		if agree {
			if s.ArgmaxRows != s.ArgmaxAgree || len(s.Examples) > 0 {
				t.Errorf("%s: %+v", shadow, s)
			}
			return
		}
		if s.ArgmaxRows != uint64(n*rows) || s.ArgmaxAgree == s.ArgmaxRows ||
			s.TopKRows != s.ArgmaxRows {
			t.Errorf("%s: argmax %d of %d, top of %d", shadow, s.ArgmaxAgree, s.ArgmaxRows,
				s.TopKRows)
		}
		if len(s.Examples) != 20 || s.Disagreed["value"] != n {
			t.Fatalf("%s: %d examples, %v", shadow, len(s.Examples), s.Disagreed)
		}
		e := s.Examples[0]
		if e.ID != "id" || e.Reason != "value" || e.Excess < 100 ||
			e.Excess < s.Examples[19].Excess || e.Inputs[0].Name != "image" ||
			len(e.Inputs[0].Data) != 64 || len(e.Stable[0].Data) != 10*rows ||
			e.Shadow[0].Data[0].(float32) < 0.5 {
			t.Errorf("%s: example %+v", shadow, e)
		}
	}
	f("digits", "digits_copy", 1, true)
	f("digits", "digits_copy", 5, true)
	f("digits", "digits_wrong", 1, false)
	f("iris", "iris_copy", 3, true)
	f("mlp", "mlp_copy", 1, true)
	f("tips", "tips_copy", 2, true)
}

// TestRunsTogether gathers the samples that wait.
func TestRunsTogether(t *testing.T) {
	root := t.TempDir()
	add(t, "digits", filepath.Join(root, "digits"), nil)
	r := open(t, root)
	gate := &blocking{Runner: nothing{}, open: make(chan struct{})}
	m := start(t, config("digits"), gate, slog.New(slog.DiscardHandler))
	defer close(gate.open)
	c := newClient(r, "digits", tap.NewPool(64, 1<<24))
	for range 40 {
		s := c.ask(t, 1)
		m.Offer(s)
		s.Release()
	}
	v, err := r.Acquire([]byte("digits"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	w := newWorker(m)
	jobs, err := w.gather(v)
	if err != nil || len(jobs) != maxTogether {
		t.Errorf("%d samples are together, error %v", len(jobs), err)
	}
	w.run(v, jobs)
	for i := range jobs {
		w.finish(&jobs[i], v)
	}
	w.letGo(w.samples)
	if s := m.Report().Snapshot(); s.Agreed != maxTogether {
		t.Errorf("%+v", s)
	}
	if n := v.Stats().Waiting; n != 0 {
		t.Errorf("%d requests still wait", n)
	}
}

// TestHangs offers samples to a shadow that does not come back.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &blocking{Runner: nothing{}, open: make(chan struct{})}
		cfg := config("m")
		cfg.QueueSize, cfg.QueueBytes = 10, 100
		m, err := New(cfg, gate, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		pool := tap.NewPool(100, 1<<20)
		offer := func(bytes int) bool {
			x := one(tensor.Tensor{Name: "y", Datatype: tensor.Uint8, Data: make([]byte, bytes)})
			s := pool.Take([]byte("id"), nil, x)
			defer s.Release()
			s.Route, s.Time = "stable", time.Now()
			return m.Offer(s)
		}
		f := func(bytes int, want bool, dropped string, count uint64) {
			t.Helper()
			if got := offer(bytes); got != want {
				t.Errorf("a sample of %d bytes: %v", bytes, got)
			}
			synctest.Wait()
			if s := m.Report().Snapshot(); dropped != "" && s.Dropped[dropped] != count {
				t.Errorf("%v are dropped", s.Dropped)
			}
		}
		for range 10 { // the worker hangs before it takes any
			f(1, true, "queue", 0)
		}
		f(1, false, "queue", 1)
		f(1, false, "queue", 2)
		f(91, false, "bytes", 1)

		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err = m.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) ||
			!strings.Contains(err.Error(), "shadow next") {
			t.Errorf("Close returned %v", err)
		}
		f(1, false, "not_ready", 1)
		close(gate.open)
		end(t, m)
		s := m.Report().Snapshot()
		if s.Offered != 14 || s.Dropped["not_ready"] != 11 || s.Compared != 0 {
			t.Errorf("%+v", s)
		}
		if pool.Bytes() > 0 {
			t.Errorf("samples of %d bytes are still held", pool.Bytes())
		}
	})
}

// TestNotReady lets a sample through to a shadow that is not there once a second.
func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		m, err := New(config("m"), nothing{}, slog.New(slog.NewTextHandler(&text, nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer end(t, m)
		pool := tap.NewPool(1, 1<<20)
		began := time.Now()
		f := func(after time.Duration, want bool) {
			t.Helper()
			s := pool.Take([]byte("id"), nil, one(words("x")))
			s.Route, s.Time = "stable", began.Add(after)
			if got := m.Offer(s); got != want {
				t.Errorf("after %v: %v", after, got)
			}
			s.Release()
			synctest.Wait()
		}
		f(0, true)
		f(time.Millisecond, false)
		f(999*time.Millisecond, false)
		f(time.Second, true)
		f(1999*time.Millisecond, false)
		if n := m.Report().Snapshot().Dropped["not_ready"]; n != 5 {
			t.Errorf("%d are dropped", n)
		}
		if n := strings.Count(text.String(), "\n"); n != 1 ||
			!strings.Contains(text.String(), "shadow pauses") {
			t.Errorf("the log has %d lines: %s", n, text.String())
		}
	})
}

// TestShedding offers samples while requests queue.
func TestShedding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &blocking{Runner: nothing{}, open: make(chan struct{})}
		m, err := New(config("m"), gate, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer end(t, m)
		defer close(gate.open)
		pool := tap.NewPool(10, 1<<20)
		began := time.Now()
		f := func(atMillis, queueMillis int, want bool) {
			t.Helper()
			s := pool.Take([]byte("id"), nil, one(words("x")))
			defer s.Release()
			s.Route, s.Time = "stable", began.Add(time.Duration(atMillis)*time.Millisecond)
			s.Queue = time.Duration(queueMillis) * time.Millisecond
			if got := m.Offer(s); got != want {
				t.Errorf("at %d ms: %v", atMillis, got)
			}
		}
		f(0, 20, true)
		f(50, 20, true)
		f(100, 20, false)
		f(150, 1, false)
		f(200, 20, true)
		if s := m.Report().Snapshot(); s.Dropped["load"] != 2 || s.Offered != 5 {
			t.Errorf("%+v", s)
		}
	})
}

// TestNotOffered passes by what is not to be compared.
func TestNotOffered(t *testing.T) {
	m := start(t, config("m"), nothing{}, slog.New(slog.DiscardHandler))
	pool := tap.NewPool(1, 1<<20)
	f := func(route string, outputs []tensor.Tensor) {
		t.Helper()
		s := pool.Take([]byte("id"), nil, outputs)
		defer s.Release()
		s.Route, s.Time = route, time.Now()
		if m.Offer(s) || m.Report().Snapshot().Offered != 0 {
			t.Error("it was taken")
		}
	}
	f("stable", nil)
	f("canary", one(words("x")))
}

// TestIncompatible replaces a shadow that takes other inputs by one that fits.
func TestIncompatible(t *testing.T) {
	root := t.TempDir()
	add(t, "digits", filepath.Join(root, "digits"), nil)
	add(t, "mlp", filepath.Join(root, "next"), nil)
	r := open(t, root)
	var mu sync.Mutex
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(lockedWriter{&mu, &text}, nil))
	m := start(t, config("next"), r, log)
	c := newClient(r, "digits", tap.NewPool(10, 1<<20))
	offer := func(after time.Duration) bool {
		s := c.ask(t, 1)
		defer s.Release()
		s.Time = s.Time.Add(after)
		return m.Offer(s)
	}
	offer(0)
	until(t, m, "it is incompatible", func(s *Snapshot) bool {
		return s.Dropped["incompatible"] == 1
	})
	until(t, m, "offers are refused", func(*Snapshot) bool { return !offer(0) })
	if err := os.RemoveAll(filepath.Join(root, "next")); err != nil {
		t.Fatal(err)
	}
	add(t, "digits", filepath.Join(root, "next"), nil)
	if err := r.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	offer(time.Minute)
	until(t, m, "it compares", func(s *Snapshot) bool { return s.Agreed == 1 })
	end(t, m)
	mu.Lock()
	defer mu.Unlock()
	if strings.Count(text.String(), "\n") != 2 || !strings.Contains(text.String(), "no \\\"x\\\"") {
		t.Errorf("the log says %s", text.String())
	}
}

// lockedWriter is for texts that tests read while others write.
type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

// TestFill maps the inputs of a request by their names.
func TestFill(t *testing.T) {
	spec := func(name string, d tensor.Datatype, optional bool) tensor.Spec {
		return tensor.Spec{Name: name, Datatype: d, Optional: optional}
	}
	in := func(name string, d tensor.Datatype) tensor.Tensor {
		return tensor.Tensor{Name: name, Datatype: d}
	}
	sig := &tensor.Signature{Inputs: []tensor.Spec{
		spec("a", tensor.FP32, false), spec("b", tensor.Bytes, true), spec("c", tensor.Int8, false),
	}}
	f := func(want string, inputs ...tensor.Tensor) {
		t.Helper()
		var j job
		err := j.fill(&tap.Sample{Inputs: inputs}, sig)
		if err != nil {
			if want == "" || !strings.Contains(err.Error(), want) || !errors.Is(err, errInputs) {
				t.Errorf("the error is %v, want %q", err, want)
			}
			return
		}
		if want != "" {
			t.Errorf("no error, want %q", want)
		}
		for i := range sig.Inputs {
			if got := j.inputs[i]; got.Name != sig.Inputs[i].Name {
				t.Errorf("input %d is %q", i, got.Name)
			}
		}
	}
	a, b, c := in("a", tensor.FP32), in("b", tensor.Bytes), in("c", tensor.Int8)
	f("", a, b, c)
	f("", c, b, a)
	f("", c, a)
	f("", a, in("b", tensor.Invalid), c)
	f("", a, c, in("d", tensor.Invalid))
	f(`no "c"`, a, b)
	f(`no "c"`, a, in("c", tensor.Invalid))
	f(`"a" is FP64, the shadow takes FP32`, in("a", tensor.FP64), c)
	f("more than", a, c, in("d", tensor.FP32))
}

// TestFailures counts runs that give no answer.
func TestFailures(t *testing.T) {
	root := t.TempDir()
	add(t, "digits", filepath.Join(root, "digits"), nil)
	r := open(t, root)
	c := newClient(r, "digits", tap.NewPool(10, 1<<20))
	f := func(set func(*Config, *tap.Sample), class string, compared uint64) {
		t.Helper()
		s := c.ask(t, 1)
		cfg := config("digits")
		cfg.Label = func(err error) string {
			switch {
			case errors.Is(err, batch.ErrDeadline):
				return "deadline"
			case errors.Is(err, model.ErrBadInput):
				return "bad_request"
			}
			return err.Error()
		}
		set(&cfg, s)
		m := start(t, cfg, r, slog.New(slog.DiscardHandler))
		m.Offer(s)
		s.Release()
		got := until(t, m, class, func(s *Snapshot) bool { return s.Errors[class] == 1 })
		if got.Compared != compared || got.Disagreed["error"] != compared {
			t.Errorf("%s: %+v", class, got)
		}
		n := len(got.Examples)
		if uint64(n) != compared || n > 0 && got.Examples[0].Error != class {
			t.Errorf("%s: examples %+v", class, got.Examples)
		}
	}
	f(func(c *Config, s *tap.Sample) { c.Deadline = 1 }, "deadline", 0)
	f(func(c *Config, s *tap.Sample) { s.Inputs[0].Shape[1] = 2 }, "bad_request", 1)
}

// TestConfig wants every fault listed.
func TestConfig(t *testing.T) {
	f := func(set func(*Config), faults ...string) {
		t.Helper()
		cfg := config("m")
		set(&cfg)
		err := cfg.Validate()
		if (err != nil) != (len(faults) > 0) {
			t.Errorf("the error is %v", err)
		}
		for _, fault := range faults {
			if err != nil && !strings.Contains(err.Error(), fault) {
				t.Errorf("%v does not say %q", err, fault)
			}
		}
		if m, err := New(cfg, nothing{}, slog.New(slog.DiscardHandler)); err == nil {
			end(t, m)
			t.Error("New took it")
		}
	}
	f(func(c *Config) { c.Shadow.Model = nil }, "no model")
	f(func(c *Config) { c.Shadow.Absolute, c.Shadow.Relative = -1, nan }, "absolute is -1", "NaN")
	f(func(c *Config) { c.Shadow.TopK = 33 }, "0 to 32")
	f(func(c *Config) { *c = Config{} }, "no model", "names the classes", "queue's size is 0",
		"queue's bytes are 0", "deadline is 0s", "interval is 0s")
	f(func(c *Config) { c.Examples, c.ExampleBytes, c.ExampleElements = -1, -1, -1 },
		"number of examples", "bytes of examples", "elements of examples")
	f(func(c *Config) { c.Target = -1 }, "target is -1ns")
}

// TestOfferAllocations offers to a shadow whose queue is full.
func TestOfferAllocations(t *testing.T) {
	gate := &blocking{Runner: nothing{}, open: make(chan struct{})}
	m := start(t, config("m"), gate, slog.New(slog.DiscardHandler))
	defer close(gate.open)
	pool := tap.NewPool(1, 1<<20)
	s := pool.Take([]byte("id"), nil, one(words("x")))
	defer s.Release()
	s.Route, s.Time = "stable", time.Now()
	if n := testing.AllocsPerRun(1000, func() { m.Offer(s) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkOffer(b *testing.B) {
	gate := &blocking{Runner: nothing{}, open: make(chan struct{})}
	m, err := New(config("m"), gate, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	s := tap.NewPool(1, 1<<20).Take([]byte("id"), nil, one(words("x")))
	s.Route, s.Time = "stable", time.Now()
	b.ReportAllocs()
	for b.Loop() {
		m.Offer(s)
	}
	close(gate.open)
}
