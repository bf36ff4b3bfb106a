package gateway_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// TestMain lets the test binary be the child that tries models.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "trial" {
		os.Exit(model.TrialMain(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// server is a front on two listeners: what comes through address is for the
// lane, what comes through memory, which is no socket, is not.
type server struct {
	core            *gateway.Core
	front           *gateway.HTTP
	address         string
	network, memory *fasthttp.Client
	hidden          string // address of a socket that the lane takes for none
}

// hiding is a listener whose connections do not show that they are sockets.
type hiding struct{ net.Listener }

func (h hiding) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	return struct{ net.Conn }{c}, err
}

// serve serves the models of a folder until the test ends.
func serve(t testing.TB, mode model.Mode, folder string,
	set func(*gateway.Config, *gateway.HTTPConfig)) *server {
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
	models, err := model.Open(context.Background(), model.Options{
		Runtime: rt, Repositories: []string{folder}, Mode: mode,
		Trial: model.DefaultTrialConfig(), Defaults: model.DefaultDefaults(), Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg, httpCfg := gateway.DefaultConfig(), gateway.DefaultHTTPConfig()
	if set != nil {
		set(&cfg, &httpCfg)
	}
	core := gateway.New(cfg, models, log)
	front, err := gateway.NewHTTP(core, httpCfg, log)
	if err != nil {
		t.Fatal(err)
	}
	memory := fasthttputil.NewInmemoryListener()
	network, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hidden, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	for _, ln := range []net.Listener{network, memory, hiding{hidden}} {
		serving.Go(func() {
			if err := front.Serve(ln); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := front.Shutdown(ctx); err != nil {
			t.Errorf("cannot shut down: %v", err)
		}
		serving.Wait()
		if err := models.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	address := network.Addr().String()
	return &server{
		core: core, front: front, address: address, hidden: hidden.Addr().String(),
		network: &fasthttp.Client{Dial: func(string) (net.Conn,
			error) {
			return net.Dial("tcp", address)
		}},
		memory: &fasthttp.Client{Dial: func(string) (net.Conn, error) { return memory.Dial() }},
	}
}

// TestClosedBefore has a server that is shut down before it serves, as by a signal at
// the start.
func TestClosedBefore(t *testing.T) {
	core := serve(t, model.ModeNone, t.TempDir(), nil).core
	front, err := gateway.NewHTTP(core, gateway.DefaultHTTPConfig(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := front.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := front.Serve(ln); err != nil {
		t.Errorf("to serve after the end: %v", err)
	}
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Errorf("%v is still listened on", c.RemoteAddr())
	}
}

// post sends a body and returns status and answer.
func post(t *testing.T, c *fasthttp.Client, path string, body []byte) (int, []byte) {
	t.Helper()
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	req.SetRequestURI("http://millrace" + path)
	req.Header.SetMethod("POST")
	req.SetBody(body)
	if err := c.DoTimeout(req, resp, time.Minute); err != nil {
		t.Fatalf("POST %s: %v", path, err)
	}
	return resp.StatusCode(), resp.Body()
}

// answer is the part of an answer that is held against what is expected.
type answer struct {
	Outputs []struct {
		Name, Datatype string
		Shape          []int64
		Data           []any
	}
}

// TestSampleModels sends the requests beside each sample model and holds the
// answers against those of the library that trained it.
func TestSampleModels(t *testing.T) {
	const folder = "../configs/models"
	s := serve(t, model.ModeNone, folder, nil)
	files, err := filepath.Glob(filepath.Join(folder, "*", "expected.json"))
	if err != nil || len(files) < 9 {
		t.Fatalf("found %d files of expected answers: %v", len(files), err)
	}
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var expected struct {
				Cases []struct {
					Request    json.RawMessage
					Response   answer
					Rtol, Atol float64
				}
			}
			if err := json.Unmarshal(text, &expected); err != nil {
				t.Fatal(err)
			}
			for i, c := range expected.Cases {
				for _, client := range []*fasthttp.Client{s.network, s.memory} {
					status, body := post(t, client, "/v2/models/"+name+"/infer", c.Request)
					if status != 200 {
						t.Fatalf("case %d: status %d: %s", i, status, body)
					}
					var got answer
					if err := json.Unmarshal(body, &got); err != nil {
						t.Fatalf("case %d: %v: %s", i, err, body)
					}
					compare(t, got, c.Response, tolerance{c.Rtol, c.Atol})
				}
			}
		})
	}
}

type tolerance struct{ relative, absolute float64 }

func compare(t *testing.T, got, want answer, tol tolerance) {
	t.Helper()
	if len(got.Outputs) != len(want.Outputs) {
		t.Fatalf("%d outputs, want %d", len(got.Outputs), len(want.Outputs))
	}
	for i, w := range want.Outputs {
		g := got.Outputs[i]
		if g.Name != w.Name || g.Datatype != w.Datatype || len(g.Data) != len(w.Data) {
			t.Errorf("output %d is %s %s of %d, want %s %s of %d", i,
				g.Name, g.Datatype, len(g.Data), w.Name, w.Datatype, len(w.Data))
			continue
		}
		for k := range w.Data {
			a, isNumber := g.Data[k].(float64)
			b, _ := w.Data[k].(float64)
			if !isNumber && g.Data[k] != w.Data[k] ||
				isNumber && math.Abs(a-b) > tol.absolute+tol.relative*math.Abs(b) {
				t.Errorf("%s[%d] is %v, want %v", w.Name, k, g.Data[k], w.Data[k])
			}
		}
	}
}
