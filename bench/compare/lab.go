package compare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/bench"
	"github.com/millrace-ml/millrace/bench/models"
	"github.com/millrace-ml/millrace/bench/ortlimit"
)

// oneSuffix marks the copy of a model that is served one row at a time.
const oneSuffix = "_one"

// The multi-layer perceptron 64-256-256-10 among the sample models.
const mlp = "mlp"

var mlpInputs = []models.Input{{Name: "x", Datatype: "FP32", Dims: []int64{models.Batch, 64}}}

// lab has what the scenarios share: the running limits, and one server with
// all models whose speed is measured.
type lab struct {
	cfg    Config
	dir    string // temporary, for repositories
	header string // folder of the binding's module
	paths  map[string]string
	limit  *ortlimit.Limit
	echo   *process

	repository string
	server     *process // nil until needed
}

func newLab(ctx context.Context, cfg Config) (*lab, error) {
	l := &lab{cfg: cfg}
	if err := l.open(ctx); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// open fetches what is measured and starts the limits.
func (l *lab) open(ctx context.Context) (err error) {
	cfg := &l.cfg
	if _, err := os.Stat(cfg.Server); err != nil {
		return fmt.Errorf("cannot find the server, run make build: %w", err)
	}
	if l.dir, err = os.MkdirTemp("", "millrace-bench-"); err != nil {
		return fmt.Errorf("cannot make a folder for repositories: %w", err)
	}
	if l.header, err = ortlimit.ModuleDir(ctx); err != nil {
		return err
	}
	names := []string{models.LargeMLP}
	for _, m := range models.Catalogue() {
		names = append(names, m.Name)
	}
	if l.paths, err = models.Ensure(ctx, cfg.Cache, names...); err != nil {
		return err
	}
	if l.limit, err = l.newLimit(ctx); err != nil {
		return err
	}
	for _, m := range models.Catalogue() {
		if err := l.limit.Load(m.Name, l.paths[m.Name], limitInputs(m.Inputs)...); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program: %w", err)
	}
	l.echo, err = launch(ctx, nil, self, "echo")
	return err
}

func (l *lab) close() {
	for _, p := range []*process{l.server, l.echo} {
		if p != nil {
			p.stop()
		}
	}
	if l.limit != nil {
		_ = l.limit.Close()
	}
	if l.dir != "" {
		_ = os.RemoveAll(l.dir)
	}
}

// newLimit starts a C program of its own.
func (l *lab) newLimit(ctx context.Context) (*ortlimit.Limit, error) {
	program, err := ortlimit.Build(ctx, l.cfg.Cache)
	if err != nil {
		return nil, err
	}
	return ortlimit.Start(ctx, program, l.cfg.Library)
}

func limitInputs(inputs []models.Input) []ortlimit.Input {
	var out []ortlimit.Input
	for _, in := range inputs {
		out = append(out, ortlimit.Input{Name: in.Name, Dims: in.Dims, Value: in.Value})
	}
	return out
}

// samples is the repository of sample models.
func (l *lab) samples() string { return filepath.Join(l.cfg.Root, "configs", "models") }

// mainServer returns the server that has all models, and starts it at first.
func (l *lab) mainServer(ctx context.Context) (*process, error) {
	if l.server != nil {
		return l.server, nil
	}
	l.repository = filepath.Join(l.dir, "models")
	for _, m := range models.Catalogue() {
		if err := addModel(l.repository, m.Name, l.paths[m.Name], ""); err != nil {
			return nil, err
		}
		one := m.Name + oneSuffix
		if err := addModel(l.repository, one, l.paths[m.Name], oneRow(&m)); err != nil {
			return nil, err
		}
	}
	sample := os.DirFS(filepath.Join(l.samples(), mlp))
	if err := os.CopyFS(filepath.Join(l.repository, mlp), sample); err != nil {
		return nil, fmt.Errorf("cannot copy the sample model: %w", err)
	}
	p, err := l.serve(ctx, "--models", l.repository)
	if err != nil {
		return nil, err
	}
	l.server = p
	return p, p.ready(ctx)
}

// serverCache is where the servers remember which models they have tried.
func (l *lab) serverCache() string { return filepath.Join(l.dir, "cache") }

// serve starts a server with these flags.
func (l *lab) serve(ctx context.Context, args ...string) (*process, error) {
	all := append([]string{"serve", "--http", "127.0.0.1:0",
		"--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, args...)
	p, err := launch(ctx, []string{
		"MILLRACE_ONNXRUNTIME=" + l.cfg.Library,
		"XDG_CACHE_HOME=" + l.serverCache(),
	}, l.cfg.Server, all...)
	if err != nil {
		return nil, err
	}
	for _, protocol := range []string{"http", "grpc", "admin"} {
		if p.addresses[protocol] == "" {
			p.stop()
			return nil, fmt.Errorf("the server does not say where it listens for %s", protocol)
		}
	}
	return p, nil
}

// addModel puts a model file into a repository.
func addModel(repository, name, file, config string) error {
	dir := filepath.Join(repository, name, "1")
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		var data []byte
		if data, err = os.ReadFile(file); err == nil {
			err = os.WriteFile(filepath.Join(dir, "model.onnx"), data, 0o644)
		}
	}
	if err == nil && config != "" {
		err = os.WriteFile(filepath.Join(repository, name, "config.pbtxt"), []byte(config), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot put model %s into the repository: %w", name, err)
	}
	return nil
}

// span scales a measuring time for a short look.
func (l *lab) span(d time.Duration) time.Duration {
	if l.cfg.Short {
		return max(d/4, 200*time.Millisecond)
	}
	return d
}

func (l *lab) rounds(n int) int {
	if l.cfg.Short {
		return 1
	}
	return n
}

// load runs the generator against p and insists on good answers only.
func (l *lab) load(ctx context.Context, p *process, e encoding, change func(*bench.Config)) (
	bench.Result, error) {
	c := bench.DefaultConfig()
	c.Address, c.Warmup = p.addresses["http"], 200*time.Millisecond
	if e == asGRPC {
		c.Protocol, c.Address = bench.GRPC, p.addresses["grpc"]
	}
	change(&c)
	r, err := bench.Run(ctx, c)
	switch {
	case err != nil:
		return r, err
	case r.Failed > 0:
		return r, fmt.Errorf("%d of %d requests to %s failed: %v", r.Failed, r.OK+r.Failed,
			c.Requests[0].Path, r.Errors[0].Text)
	case r.OK == 0:
		return r, errors.New("no request was answered")
	}
	return r, nil
}

// measurement takes its time and returns what it measured.
type measurement func() (float64, error)

// alternate runs all measurements in turn, n times, and returns each one's values. Every second
// turn is in the opposite order: what a measurement finds depends on the one before.
func alternate(n int, measure ...measurement) ([][]float64, error) {
	values := make([][]float64, len(measure))
	for round := range n {
		runtime.GC() // of the generator, now rather than in a measurement
		for k := range measure {
			i := k
			if round%2 == 1 {
				i = len(measure) - 1 - k
			}
			v, err := measure[i]()
			if err != nil {
				return nil, err
			}
			values[i] = append(values[i], v)
		}
	}
	return values, nil
}

// median returns the middle of the values that f gives for each round.
func median(rounds int, f func(round int) float64) float64 {
	values := make([]float64, rounds)
	for i := range values {
		values[i] = f(i)
	}
	slices.Sort(values)
	return (values[(rounds-1)/2] + values[rounds/2]) / 2
}
