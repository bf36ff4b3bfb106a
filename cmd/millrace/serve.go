package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/runtime/model"
)

// serveFlags are what the command line says; they stand above the file.
type serveFlags struct {
	file              string
	models, load      []string
	http, grpc, admin string
	mode, name        string
	logLevel, logForm string
}

func newServe() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve (-c FILE | --models DIR)",
		Short: "Serve the models of a folder",
		Long: "serve loads models and answers requests until SIGTERM or Ctrl-C; " +
			"then it answers what is\n" +
			"under way and ends. A second signal ends it at once. " +
			"SIGHUP reads the settings file again.",
		Example: "  millrace serve --models configs/models\n" +
			"  millrace serve -c millrace.yaml --http 0.0.0.0:8000",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (config.Config, error) { return f.config(cmd.Flags().Changed) }
			return serve(cmd.Context(), load, f.file)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "config", "c", "", "settings file (YAML); see docs/config.md")
	flags.StringArrayVar(&f.models, "models", nil, "folder with models; may be repeated")
	flags.StringVar(&f.http, "http", "",
		"address of REST: host:port, unix:/path, or empty for none")
	flags.StringVar(&f.grpc, "grpc", "", "address of gRPC")
	flags.StringVar(&f.admin, "admin", "", "address of /metrics and health")
	flags.StringVar(&f.mode, "mode", "",
		"none, poll or explicit: what decides which models are loaded")
	flags.StringArrayVar(&f.load, "load", nil,
		"model to load at start in mode explicit; * for all; may be repeated")
	flags.StringVar(&f.name, "name", "", "the server's name in its metadata")
	flags.StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error")
	flags.StringVar(&f.logForm, "log-format", "", "text or json")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	_ = cmd.MarkFlagDirname("models")
	return cmd
}

// config returns the settings of a server, which needs folders with models.
func (f *serveFlags) config(given func(string) bool) (config.Config, error) {
	c, err := f.settings(given)
	if (err == nil || config.OnlyResources(err)) && len(c.Repository.Paths)+len(c.Sources) == 0 {
		return c, errors.New("there is no folder with models; give one with --models DIR, " +
			"or a settings file with repository.paths by -c FILE")
	}
	return c, err
}

// settings puts the flags that were given over the file or the defaults.
func (f *serveFlags) settings(given func(string) bool) (config.Config, error) {
	c := config.Default()
	var fault error // of the endpoints alone
	if f.file != "" {
		if c, fault = config.Load(f.file); fault != nil && !config.OnlyResources(fault) {
			return c, fault
		}
	}
	if len(f.models) > 0 {
		c.Repository.Paths = f.models
	}
	if len(f.load) > 0 {
		c.Repository.Load = f.load
	}
	for _, o := range [...]struct {
		flag, value string
		into        *string
	}{
		{"http", f.http, &c.Server.HTTP}, {"grpc", f.grpc, &c.Server.GRPC},
		{"admin", f.admin, &c.Server.Admin}, {"mode", f.mode, &c.Repository.Mode},
		{"name", f.name, &c.Server.Name}, {"log-level", f.logLevel, &c.Server.Log.Level},
		{"log-format", f.logForm, &c.Server.Log.Format},
	} {
		if given(o.flag) {
			*o.into = o.value
		}
	}
	if c.Repository.Trial.Cache == "" {
		if dir, err := os.UserCacheDir(); err == nil {
			c.Repository.Trial.Cache = filepath.Join(dir, "millrace", "trials")
		}
	}
	if err := c.Validate(); err != nil && !config.OnlyResources(err) {
		return c, err
	}
	return c, fault
}

// heapFloor counts as memory in use when the collector decides when to run,
// and is never touched, so that it takes none: the server itself keeps a few
// megabytes only, and without it gRPC's garbage would make the collector run
// all the time. Up to twice as much garbage may gather.
const heapFloor = 32 << 20

// spareThreads is how many threads more than cores run Go code. One that runs a
// model or waits for requests holds its place until Go's monitor takes it away;
// without some to spare, gRPC, shadows and taps would wait for that.
const spareThreads = 2

// goThreads returns how many threads of the server run Go code at once: as many
// as the settings or the environment say, else by the number of cores. It is
// asked before any is set.
func goThreads(configured int) int {
	switch {
	case configured > 0:
		return configured
	case os.Getenv("GOMAXPROCS") != "":
		return runtime.GOMAXPROCS(0)
	}
	return runtime.GOMAXPROCS(0) + spareThreads
}

// serve runs a server until ctx is done.
func serve(ctx context.Context, load func() (config.Config, error), file string) error {
	cfg, fault := load()
	if fault != nil && !config.OnlyResources(fault) {
		return fault
	}
	runtime.GOMAXPROCS(goThreads(cfg.Server.Threads))
	floor := make([]byte, heapFloor)
	defer runtime.KeepAlive(floor)
	level := new(slog.LevelVar)
	log := newLogger(cfg.Server.Log, level)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	s := &server{cfg: cfg, log: log, level: level, file: file, fault: fault}
	if err := s.start(ctx); err != nil {
		return err
	}
	logLoaded(log, s.models.Index(false))
	fmt.Fprintln(os.Stderr, s.listening())
	if err := forgetStart(); err != nil {
		log.Debug("what only the start has needed stays in memory", "error", err)
	}
	for {
		select {
		case <-hangup:
			if file == "" {
				log.Warn("SIGHUP is for a settings file; there is none")
				continue
			}
			next, err := load()
			if err != nil {
				log.Error("the settings are not taken over; those in force stay", "error", err)
				continue
			}
			s.reload(ctx, next)
		case err := <-s.failed:
			return errors.Join(err, s.stop())
		case <-ctx.Done():
			log.Info("ending", "reason", "signal", "grace", cfg.Server.Grace)
			return s.stop()
		}
	}
}

// logLoaded says in one line what the server begins with.
func logLoaded(log *slog.Logger, index []model.IndexEntry) {
	ready := 0
	var failed []string
	for _, e := range index {
		switch e.State {
		case model.StateReady:
			ready++
		case model.StateUnavailable:
			failed = append(failed, e.Name)
		}
	}
	if len(failed) > 0 {
		log.Warn("models loaded, but not all", "ready", ready, "failed", len(failed), "models",
			strings.Join(failed, " "), "reasons", "see `millrace models`")
		return
	}
	log.Info("models loaded", "ready", ready, "failed", 0)
}

// newLogger logs to standard error.
func newLogger(c config.Log, level *slog.LevelVar) *slog.Logger {
	level.Set(levelOf(c.Level))
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// levelOf returns a level by its name, which Validate has checked.
func levelOf(name string) slog.Level {
	var l slog.Level
	_ = l.UnmarshalText([]byte(strings.ToUpper(name)))
	return l
}
