package compare

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace-ml/millrace/bench/models"
)

// Bars of the issue "Serving core".
const (
	barIdle   = 40.0 // MB
	barStart  = 1.5  // s
	barModel  = 2.0  // MB
	barReload = 1.10 // of the memory before
)

const megabyte = 1e6

func megabytes(bytes int64) string { return fmt.Sprintf("%.0f MB", float64(bytes)/megabyte) }

// bareMemory returns what a C program takes that only has these models in
// sessions of ONNX Runtime, each run once.
func (l *lab) bareMemory(ctx context.Context, files map[string]string) (int64, error) {
	c, err := l.newLimit(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	for name, file := range files {
		if err := c.Load(name, file); err != nil {
			return 0, err
		}
		if _, err := c.Run(name, 1, 1, 0); err != nil {
			return 0, err
		}
	}
	return resident(c.PID())
}

// sampleFiles returns the model files of the sample repository.
func (l *lab) sampleFiles() (map[string]string, error) {
	found, err := filepath.Glob(filepath.Join(l.samples(), "*", "*", "model.onnx"))
	if err != nil || len(found) == 0 {
		return nil, fmt.Errorf("there are no sample models in %s", l.samples())
	}
	files := make(map[string]string, len(found))
	for _, f := range found {
		files[filepath.Base(filepath.Dir(filepath.Dir(f)))] = f
	}
	return files, nil
}

// settle waits until the server's memory has stopped to change.
func settle(ctx context.Context, p *process) (bytes int64, err error) {
	for unchanged := 0; unchanged < 4; {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		now, err := p.memory()
		if err != nil {
			return 0, err
		}
		if d := now - bytes; d < megabyte/2 && d > -megabyte/2 {
			unchanged++
		} else {
			unchanged = 0
		}
		bytes = now
	}
	return bytes, nil
}

// idleMemory measures what the server takes beyond its models.
func idleMemory(ctx context.Context, l *lab) ([]Figure, error) {
	files, err := l.sampleFiles()
	if err != nil {
		return nil, err
	}
	bare, err := l.bareMemory(ctx, files)
	if err != nil {
		return nil, err
	}
	served, err := l.servedMemory(ctx, l.samples())
	if err != nil {
		return nil, err
	}
	return []Figure{{
		Name: "memory beyond ONNX Runtime's own, idle with the sample models",
		Unit: "MB", Bar: barIdle,
		Value:  float64(served-bare) / megabyte,
		Detail: fmt.Sprintf("%s - %s", megabytes(served), megabytes(bare)),
	}}, nil
}

// servedMemory returns what a server takes that has a repository loaded.
func (l *lab) servedMemory(ctx context.Context, repository string) (int64, error) {
	p, err := l.serve(ctx, "--models", repository)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	if err := p.ready(ctx); err != nil {
		return 0, err
	}
	return settle(ctx, p)
}

// simpleRequest is answered by Triton's well-known model "simple".
func simpleRequest() (path string, body []byte) {
	in := func(name string) models.Input {
		return models.Input{Name: name, Datatype: "INT32", Dims: []int64{1, 16}, Value: 3}
	}
	r := jsonRequest("simple", []models.Input{in("INPUT0"), in("INPUT1")}, nil)
	return r.Path, r.Body
}

// startTime measures from the start of the process to the first answer.
func startTime(ctx context.Context, l *lab) ([]Figure, error) {
	if _, err := l.sampleFiles(); err != nil {
		return nil, err
	}
	// The first start has to try the models in a child process.
	if err := os.RemoveAll(l.serverCache()); err != nil {
		return nil, fmt.Errorf("cannot forget the trials: %w", err)
	}
	first, err := l.firstAnswer(ctx)
	if err != nil {
		return nil, err
	}
	rounds := l.rounds(5)
	v, err := alternate(rounds, func() (float64, error) { return l.firstAnswer(ctx) })
	if err != nil {
		return nil, err
	}
	return []Figure{{
		Name: "start to first answer with all sample models", Unit: "s", Bar: barStart,
		Value: middle(v[0]), Detail: fmt.Sprintf("the first time %.2f s", first),
	}}, nil
}

func (l *lab) firstAnswer(ctx context.Context) (seconds float64, err error) {
	p, err := l.serve(ctx, "--models", l.samples())
	if err != nil {
		return 0, err
	}
	defer p.stop()
	if err := p.ready(ctx); err != nil {
		return 0, err
	}
	path, body := simpleRequest()
	if err := post(ctx, p, path, body); err != nil {
		return 0, err
	}
	return time.Since(p.began).Seconds(), nil
}

// post sends one request and insists on a good answer.
func post(ctx context.Context, p *process, path string, body []byte) error {
	url := "http://" + p.addresses["http"] + path
	r, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("cannot post to %s: %w", path, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("cannot post to %s: %w", path, err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s was answered with %s: %s", path, answer.Status, bytes.TrimSpace(text))
	}
	return nil
}

// manyModels measures what each of many small models adds.
func manyModels(ctx context.Context, l *lab) ([]Figure, error) {
	count := 500
	if l.cfg.Short {
		count = 50
	}
	tree := filepath.Join(l.header, "test_data", "sklearn_randomforest.onnx")
	repository := filepath.Join(l.dir, "many")
	defer os.RemoveAll(repository)
	files := make(map[string]string, count)
	for i := range count {
		name := fmt.Sprintf("tree_%03d", i)
		if err := addModel(repository, name, tree, ""); err != nil {
			return nil, err
		}
		files[name] = filepath.Join(repository, name, "1", "model.onnx")
	}
	bare, err := l.bareMemory(ctx, files)
	if err != nil {
		return nil, err
	}
	served, err := l.servedMemory(ctx, repository)
	if err != nil {
		return nil, err
	}
	return []Figure{{
		Name: fmt.Sprintf("%d tree models of 66 kB: a model beyond ONNX Runtime's own", count),
		Unit: "MB", Bar: barModel, Value: float64(served-bare) / megabyte / float64(count),
		Detail: fmt.Sprintf("%s - %s", megabytes(served), megabytes(bare)),
	}}, nil
}

// reloads loads and unloads a large model again and again.
func reloads(ctx context.Context, l *lab) ([]Figure, error) {
	times := 200
	if l.cfg.Short {
		times = 20
	}
	repository := filepath.Join(l.dir, "reload")
	defer os.RemoveAll(repository)
	if err := addModel(repository, models.LargeMLP, l.paths[models.LargeMLP], ""); err != nil {
		return nil, err
	}
	small := filepath.Join(l.samples(), mlp, "1", "model.onnx")
	if err := addModel(repository, mlp, small, ""); err != nil {
		return nil, err
	}
	p, err := l.serve(ctx, "--models", repository, "--mode", "explicit")
	if err != nil {
		return nil, err
	}
	defer p.stop()
	// What ONNX Runtime sets up once, with the first model, is not the large one's.
	if err := reload(ctx, p, mlp, func() error { return nil }); err != nil {
		return nil, err
	}
	before, err := settle(ctx, p)
	if err != nil {
		return nil, err
	}
	var most int64
	weigh := func() error {
		now, err := p.memory()
		most = max(most, now)
		return err
	}
	began := time.Now()
	for range times {
		if err := reload(ctx, p, models.LargeMLP, weigh); err != nil {
			return nil, err
		}
	}
	each := time.Since(began) / time.Duration(times)
	after, err := settle(ctx, p)
	if err != nil {
		return nil, err
	}
	return []Figure{{
		Name: fmt.Sprintf("a 63 MB model loaded and unloaded %d times: memory over before", times),
		Bar:  barReload, Value: float64(after) / float64(before),
		Detail: fmt.Sprintf("%s before, %s after, %s at most, %v each", megabytes(before),
			megabytes(after), megabytes(most), each.Round(time.Millisecond)),
	}}, nil
}

// reload loads a model, calls then, and unloads the model.
func reload(ctx context.Context, p *process, model string, then func() error) error {
	path := "/v2/repository/models/" + model
	if err := post(ctx, p, path+"/load", nil); err != nil {
		return err
	}
	if err := then(); err != nil {
		return err
	}
	return post(ctx, p, path+"/unload", nil)
}
