package shadow

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// TestMain lets the test binary be the child that tries models.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "trial" {
		os.Exit(model.TrialMain(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// samples is the folder of the sample models.
const samples = "../../configs/models"

// bias changes the bias of a digit in a copy of the digits model.
func bias(t *testing.T, by float32) func([]byte) []byte {
	return func(onnx []byte) []byte {
		// The initializer's name, and the head of its ten numbers.
		at := bytes.Index(onnx, []byte("B\x02b2J\x28"))
		if at < 0 {
			t.Fatal("the model has no bias b2")
		}
		onnx = bytes.Clone(onnx)
		copy(onnx[at+6:], little(by))
		return onnx
	}
}

// add copies a sample model into a folder.
func add(t *testing.T, from, to string, change func([]byte) []byte) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(filepath.Join(samples, from))); err != nil {
		t.Fatal(err)
	}
	if change == nil {
		return
	}
	path := filepath.Join(to, "1", "model.onnx")
	onnx, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(onnx), 0o644); err != nil {
		t.Fatal(err)
	}
}

// open serves a repository until the test ends.
func open(t *testing.T, root string) *model.Repository {
	t.Helper()
	found, err := ort.FindLibrary("")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	rt, err := ort.Open(ort.Config{Library: found.Path, Logger: log, Level: slog.LevelError})
	if err != nil {
		t.Fatal(err)
	}
	r, err := model.Open(context.Background(), model.Options{
		Runtime: rt, Repositories: []string{root}, Mode: model.ModeNone,
		Trial: model.DefaultTrialConfig(), Defaults: model.DefaultDefaults(), Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// start starts a Mirror that ends before its repository.
func start(t *testing.T, cfg Config, r Runner, log *slog.Logger) *Mirror {
	t.Helper()
	m, err := New(cfg, r, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, m) })
	return m
}

func end(t *testing.T, m *Mirror) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.Close(ctx); err != nil {
		t.Error(err)
	}
	if m.bytes != 0 {
		t.Errorf("%d bytes are still counted", m.bytes)
	}
}

// client sends requests to a model and takes samples of them.
type client struct {
	models *model.Repository
	name   string
	pool   *tap.Pool
	random *rand.Rand
}

func newClient(models *model.Repository, name string, pool *tap.Pool) client {
	return client{models, name, pool, rand.New(rand.NewPCG(1, 2))}
}

// ask runs random rows on the stable version and returns the sample of it.
func (c client) ask(t *testing.T, rows int) *tap.Sample {
	t.Helper()
	v, err := c.models.Acquire([]byte(c.name), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	var mem tensor.Arena
	defer mem.Free()
	var ticket batch.Ticket
	for _, spec := range v.Signature().Inputs {
		in := tensor.Tensor{Name: spec.Name, Datatype: spec.Datatype}
		n := 1
		for d, size := range spec.Shape {
			if d == spec.BatchAxis {
				size = int64(rows)
			}
			in.Shape = append(in.Shape, size)
			n *= int(size)
		}
		var data []byte
		for range n {
			data = tensor.AppendRandom(data, spec.Datatype, 16*c.random.Float64(), c.random)
		}
		if in.Data, err = mem.Alloc(len(data)); err != nil {
			t.Fatal(err)
		}
		copy(in.Data, data)
		ticket.Inputs = append(ticket.Inputs, in)
	}
	inputs := ticket.Inputs
	if err := v.Do(&ticket); err != nil {
		t.Fatal(err)
	}
	defer ticket.Release()
	s := c.pool.Take([]byte("id"), inputs, ticket.Outputs)
	s.Endpoint, s.Model, s.Version, s.Route = "e", c.name, v.Version(), "stable"
	s.Outcome, s.Status, s.Time = "ok", 200, time.Now()
	s.Compute = time.Duration(ticket.Times.End - ticket.Times.ComputeStart)
	return s
}

// until waits for a report.
func until(t *testing.T, m *Mirror, what string, ok func(s *Snapshot) bool) Snapshot {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		s := m.Report().Snapshot()
		if ok(&s) {
			return s
		}
		select {
		case <-deadline:
			t.Fatalf("still not: %s; %+v", what, s)
		case <-tick.C:
		}
	}
}

// blocking is a Runner that hangs until it is opened.
type blocking struct {
	Runner
	open chan struct{}
}

func (b *blocking) Acquire(name, version []byte) (*model.Version, error) {
	<-b.open
	return b.Runner.Acquire(name, version)
}

// nothing is a Runner that has no version.
type nothing struct{}

func (nothing) Acquire([]byte, []byte) (*model.Version, error) { return nil, model.ErrNotReady }
