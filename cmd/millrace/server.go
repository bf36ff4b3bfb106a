package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/grpc"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// server is everything that serve has started, in the order of the fields. It
// is stopped in the opposite order, within one grace time.
type server struct {
	cfg   config.Config
	log   *slog.Logger
	level *slog.LevelVar

	file  string // of the settings, for people
	fault error  // of the settings' resources: those last in force serve

	models    *model.Repository
	core      *gateway.Core
	endpoints *endpoints
	plane     *control.Plane
	api       *api.API
	fronts    []front
	failed    chan error // a front that ended by itself
	wait      sync.WaitGroup
}

// front is a listener and what answers on it.
type front struct {
	name     string
	listener net.Listener
	serve    func(net.Listener) error
	shutdown func(context.Context) error
}

// start starts bottom-up and returns when requests are answered. The
// addresses are taken first: one that is not free is not found out after
// minutes of loading.
func (s *server) start(ctx context.Context) error {
	cfg := &s.cfg
	s.failed = make(chan error, 3)
	for _, l := range [...]struct{ name, address string }{
		{"http", cfg.Server.HTTP}, {"grpc", cfg.Server.GRPC}, {"admin", cfg.Server.Admin},
	} {
		if l.address == "" {
			continue
		}
		ln, err := listen(l.address)
		if err != nil {
			s.closeListeners()
			return fmt.Errorf("cannot listen for %s: %w", l.name, err)
		}
		s.fronts = append(s.fronts, front{name: l.name, listener: ln})
	}
	if err := s.open(ctx); err != nil {
		s.closeListeners()
		return err
	}
	for i := range s.fronts {
		if err := s.equip(&s.fronts[i]); err != nil {
			s.closeListeners()
			return err
		}
	}
	for i := range s.fronts {
		f := &s.fronts[i]
		s.wait.Go(func() {
			if err := f.serve(f.listener); err != nil {
				s.failed <- err
			}
		})
	}
	return nil
}

// open loads the library and the models.
func (s *server) open(ctx context.Context) error {
	rt, err := openRuntime(s.cfg.Runtime.Library, s.log, s.level.Level())
	if err != nil {
		return err
	}
	s.models, err = model.Open(ctx, modelOptions(&s.cfg, rt, s.log))
	if err != nil {
		return fmt.Errorf("cannot open the model repository: %w; "+
			"see `millrace check DIR` for what lies in a folder", err)
	}
	s.core = gateway.New(coreConfig(&s.cfg, s.level), s.models, s.log)
	if s.endpoints, err = openEndpoints(s); err != nil {
		return err
	}
	if err := s.openPlane(); err != nil {
		return errors.Join(err, s.endpoints.close(context.Background()))
	}
	return nil
}

// openPlane starts the control plane. Without it what was in force last serves.
func (s *server) openPlane() error {
	file := &s.cfg
	if s.fault != nil {
		file = nil
		s.log.Error("the sources, models and endpoints of the settings are faulty; those last in "+
			"force serve", "error", s.fault)
	}
	cfg := control.Config{Data: s.cfg.Server.Data, File: s.file, Log: s.log, Admin: s.admin(),
		Written: s.endpoints.writtenOf, Scorers: s.core.SetScorers}
	var err error
	s.plane, err = control.Open(cfg, s.endpoints, s.models, file)
	if err != nil {
		if kept := s.endpoints.publishKept(); kept != nil {
			return errors.Join(s.fault, err)
		}
		s.log.Error("the control plane does not run; the endpoints last in force serve", "error",
			err)
		s.plane = control.Down(cfg, err)
	}
	s.endpoints.monitors.plane.Store(s.plane)
	if err := s.core.Register(s.plane); err != nil {
		return err
	}
	at := api.DefaultConfig()
	at.UploadDir, at.Version = filepath.Join(s.cfg.Server.Data, uploadDir), version
	s.api, err = api.New(at, api.Deps{Resources: s.plane, Rollouts: s.plane, Sources: s.plane,
		Uploads: s.plane, Monitors: s.plane, Triggers: s.plane, Hooks: s.plane,
		Backup: s.plane.Backup, Log: s.log})
	return err
}

// admin is where others find the admin port, empty where it has no address of the network.
func (s *server) admin() string {
	for _, f := range s.fronts {
		at, ok := f.listener.Addr().(*net.TCPAddr)
		if f.name != "admin" || !ok {
			continue
		}
		if name, err := os.Hostname(); err == nil && at.IP.IsUnspecified() {
			return net.JoinHostPort(name, strconv.Itoa(at.Port))
		}
		return at.String()
	}
	return ""
}

// openRuntime finds and loads ONNX Runtime.
func openRuntime(library string, log *slog.Logger, level slog.Level) (*ort.Runtime, error) {
	found, err := ort.FindLibrary(library)
	if err != nil {
		return nil, err
	}
	// Below warnings the library speaks of every step of loading a model.
	return ort.Open(ort.Config{Library: found.Path, Logger: log, Level: max(level, slog.LevelWarn)})
}

// equip gives a front what answers on it.
func (s *server) equip(f *front) error {
	limits := &s.cfg.Server.Limits
	switch f.name {
	case "http":
		c := gateway.DefaultHTTPConfig()
		c.HeaderBytes, c.Connections = int(limits.HeaderBytes), limits.Connections
		c.ReadTimeout, c.IdleTimeout = limits.ReadTimeout, limits.IdleTimeout
		h, err := gateway.NewHTTP(s.core, c, s.log)
		if err != nil {
			return err
		}
		f.serve, f.shutdown = h.Serve, h.Shutdown
	case "grpc":
		c := grpc.DefaultConfig()
		c.MaxMessageBytes = int(limits.BodyBytes)
		c.HTTP.HeaderBytes, c.HTTP.Connections = int(limits.HeaderBytes), limits.Connections
		c.HTTP.ReadTimeout = limits.ReadTimeout
		g, err := grpc.New(s.core, c, s.log)
		if err != nil {
			return err
		}
		f.serve, f.shutdown = g.Serve, g.Shutdown
	case "admin":
		h := &http.Server{Handler: adminHandler(s.core, s.api), ReadTimeout: time.Minute,
			IdleTimeout: 5 * time.Minute}
		h.RegisterOnShutdown(s.api.Close) // watches would hold it
		f.shutdown = h.Shutdown
		f.serve = func(ln net.Listener) error {
			if err := h.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("cannot serve on %s: %w", ln.Addr(), err)
			}
			return nil
		}
	}
	return nil
}

// adminHandler serves what is not for clients.
func adminHandler(core *gateway.Core, plane http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(api.Prefix, plane)
	mux.Handle(api.Prefix+"/", plane)
	mux.Handle("GET /metrics", core.Handler())
	mux.HandleFunc("GET /v2/health/live", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v2/health/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !core.Ready() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	core.HandleStatus(mux)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// listening is the line that says where the server answers.
func (s *server) listening() string {
	words := []string{"listening"}
	for _, f := range s.fronts {
		address := f.listener.Addr().String()
		if f.listener.Addr().Network() == "unix" {
			address = unixPrefix + address
		}
		words = append(words, f.name+"="+address)
	}
	return strings.Join(words, " ")
}

// stop ends top-down: readiness fails, the fronts stop taking connections and
// answer what is under way, then the models close.
func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Server.Grace)
	defer cancel()
	s.core.Drain()
	faults := make([]error, len(s.fronts))
	var wait sync.WaitGroup
	for i, f := range s.fronts {
		if f.name == "admin" {
			continue // metrics are there to the end
		}
		wait.Go(func() { faults[i] = f.shutdown(ctx) })
	}
	wait.Wait()
	if n := s.core.InFlight(); n > 0 {
		s.log.Warn("requests were not answered within the grace time", "requests", n)
	}
	faults = append(faults, s.plane.Close(), s.endpoints.close(ctx), s.models.Close(ctx))
	for _, f := range s.fronts {
		if f.name == "admin" {
			faults = append(faults, f.shutdown(ctx))
		}
	}
	s.wait.Wait()
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("cannot end within %v: %w; raise server.grace", s.cfg.Server.Grace, err)
	}
	s.log.Info("ended")
	return nil
}

func (s *server) closeListeners() {
	for _, f := range s.fronts {
		_ = f.listener.Close()
	}
}

// unixPrefix marks an address that is the path of a Unix socket.
const unixPrefix = "unix:"

// listen takes an address. A socket that a dead server left behind is replaced.
func listen(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, unixPrefix)
	if !ok {
		ln, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf(
				"%s is taken by another program; give another port, or 0 for a free one", address)
		}
		return ln, err
	}
	ln, err := net.Listen("unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	if err := abandoned(path); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("cannot remove the old socket: %w", err)
	}
	return net.Listen("unix", path)
}

// abandoned returns nil when a path is the socket of a server that is gone, and
// else why it must be left alone.
func abandoned(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is there and is no socket; give another path", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return fmt.Errorf("another server answers on %s; give another path", path)
	}
	return nil
}

// coreConfig is the part of the settings that admits and answers requests.
func coreConfig(c *config.Config, level *slog.LevelVar) gateway.Config {
	g := gateway.DefaultConfig()
	l := &c.Server.Limits
	g.Name, g.Version = c.Server.Name, version
	g.MaxBodyBytes, g.MaxBytesInFlight = int64(l.BodyBytes), int64(l.BytesInFlight)
	g.MaxInFlight, g.RequestTimeout = int64(l.RequestsInFlight), l.RequestTimeout
	g.ShedStatus, g.NullNaN, g.LogLevel = l.RetryStatus, c.Server.JSON.NaN == "null", level
	return g
}

// modelOptions is the part of the settings that loads and runs models.
func modelOptions(c *config.Config, rt *ort.Runtime, log *slog.Logger) model.Options {
	d := model.DefaultDefaults()
	r := &c.Runtime
	d.Session = ort.SessionConfig{
		IntraOpThreads: r.IntraOpThreads, InterOpThreads: r.InterOpThreads,
		Parallel:   r.InterOpThreads > 1,
		GraphLevel: r.GraphLevel, DisableArena: !r.Arena, Spinning: r.Spinning,
		Providers: providers(r.Providers), Fallback: r.Fallback, Entries: r.Entries,
	}
	return model.Options{
		Runtime: rt, Repositories: c.Repository.Paths, Mode: model.Mode(c.Repository.Mode),
		Startup: slices.Clone(c.Repository.Load), PollInterval: c.Repository.PollInterval,
		Trial: model.TrialConfig{
			Memory: int64(c.Repository.Trial.Memory), Timeout: c.Repository.Trial.Timeout,
			Cache: c.Repository.Trial.Cache,
		},
		Synced:   filepath.Join(c.Server.Data, control.ModelDir),
		Defaults: d, Models: modelSettings(c.Models), Logger: log,
	}
}
