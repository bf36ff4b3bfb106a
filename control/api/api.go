// Package api is the HTTP API of the control plane, below /api/v1 on the admin port.
//
// An [API] is an [http.Handler]. It reads resources from the store and gives every change to
// who makes it: [Resources], [Rollouts], [Sources], [Uploads], [Monitors], [Triggers] and [Hooks]
// are what it needs of the control plane. It decides nothing itself and keeps nothing but uploads
// under way, which lie in files and outlive the process. All of it may be used concurrently.
//
// The table in routes.go is all there is: the paths, GET /api/v1 and the OpenAPI document come
// from it. What is said and answered is JSON, in the types of wire.go; settings may also be
// YAML. A request of a browser page from elsewhere is refused. Who may do what is not decided
// here yet: whoever reaches the admin port may do all.
package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/store"
)

// Prefix is what all paths begin with.
const Prefix = "/api/v1"

// Resources is the side of the control plane that keeps resources.
type Resources interface {
	// Apply changes resources, or says what it would do.
	Apply(ctx context.Context, c control.Change) ([]control.Effect, error)
	// Store returns the store, or wraps control.ErrDown while there is none.
	Store() (store.Store, error)
}

// Rollouts is the side that tries versions.
type Rollouts interface {
	// Command does one of the Commands with the endpoint's rollout under way, or its last,
	// and returns a sentence on where it stands afterwards.
	Command(ctx context.Context, endpoint, command string, by store.Author) (string, error)
}

// Sources is the side that looks for versions.
type Sources interface {
	// Sync looks at a source now and returns when the look is over.
	Sync(ctx context.Context, source string) error
	// Webhook takes what a source sends by itself.
	Webhook(ctx context.Context, source string, h http.Header, body []byte) error
}

// Monitors is the side that watches endpoints for drift.
type Monitors interface {
	// Monitor does one of the MonitorCommands with a monitor, and returns a sentence on where it
	// stands afterwards.
	Monitor(ctx context.Context, monitor, command string, by store.Author) (string, error)
	// AddWindow has a monitor judge what one of another server has counted, once.
	AddWindow(monitor string, w *control.ReplicaWindow) error
}

// Triggers is the side that starts pipelines elsewhere.
type Triggers interface {
	// Trigger does one of the TriggerCommands with a trigger, and returns a sentence on where it
	// stands afterwards.
	Trigger(ctx context.Context, trigger, command string, s control.Start) (string, error)
	// Run does one of the RunCommands with a run.
	Run(ctx context.Context, run, command string, by store.Author) (string, error)
}

// Hooks is the side that takes what others send by themselves. Each call returns a sentence on what
// follows.
type Hooks interface {
	// AlertHook takes a webhook of Alertmanager.
	AlertHook(ctx context.Context, h http.Header, body []byte) (string, error)
	// PushHook takes a webhook of a Git host for a trigger.
	PushHook(ctx context.Context, trigger string, h http.Header, body []byte) (string, error)
}

// Uploads takes versions that were uploaded.
type Uploads interface {
	// Push takes a version in and returns its name.
	Push(ctx context.Context, p control.Push) (version string, err error)
}

// Commands lists what can be done with a rollout.
func Commands() []string {
	return []string{"start", "pause", "resume", "approve", "promote", "abort", "undo"}
}

// MonitorCommands lists what can be done with a monitor.
func MonitorCommands() []string {
	return []string{control.MonitorAcknowledge, control.MonitorResolve, control.MonitorReset}
}

// TriggerCommands lists what can be done with a trigger.
func TriggerCommands() []string {
	return []string{control.TriggerStart, control.TriggerStop, control.TriggerResume}
}

// RunCommands lists what can be done with a run.
func RunCommands() []string { return []string{control.RunCancel, control.RunRetry} }

// Config bounds the API.
type Config struct {
	UploadDir   string        // of uploads under way; made where there is none
	MaxUploads  int           // under way at once
	UploadBytes int64         // of all uploads under way
	UploadAge   time.Duration // without a byte, after which an upload is given up
	MaxWatchers int
	Heartbeat   time.Duration // between signs of life to watchers
	Version     string        // of the program, for the OpenAPI document
}

// DefaultConfig returns bounds for a server of its own. UploadDir has no default.
func DefaultConfig() Config {
	return Config{MaxUploads: 32, UploadBytes: 64 << 30, UploadAge: 24 * time.Hour,
		MaxWatchers: 256, Heartbeat: 15 * time.Second, Version: "unknown"}
}

// Validate lists all faults.
func (c Config) Validate() error {
	var faults []error
	check := func(ok bool, text string) {
		if !ok {
			faults = append(faults, errors.New("api: "+text))
		}
	}
	check(c.UploadDir != "", "the folder of uploads is not set")
	check(c.MaxUploads > 0 && c.UploadBytes > 0 && c.UploadAge > 0,
		"number, bytes and age of uploads must be above 0")
	check(c.MaxWatchers > 0 && c.Heartbeat > 0, "watchers and their heartbeat must be above 0")
	return errors.Join(faults...)
}

// Deps is the control plane. All fields are set.
type Deps struct {
	Resources Resources
	Rollouts  Rollouts
	Sources   Sources
	Uploads   Uploads
	Monitors  Monitors
	Triggers  Triggers
	Hooks     Hooks
	Backup    func(ctx context.Context, w io.Writer) error
	Log       *slog.Logger
}

// API answers requests.
type API struct {
	cfg      Config
	deps     Deps
	mux      http.ServeMux
	origin   *http.CrossOriginProtection
	uploads  *uploads
	watchers chan struct{} // has one for each of them
	closing  context.Context
	close    context.CancelFunc
	routes   []route
	document []byte // OpenAPI
}

// New returns an API. Close ends it.
func New(cfg Config, deps Deps) (*API, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	u, err := openUploads(cfg)
	if err != nil {
		return nil, err
	}
	a := &API{cfg: cfg, deps: deps, origin: http.NewCrossOriginProtection(), uploads: u,
		watchers: make(chan struct{}, cfg.MaxWatchers)}
	a.closing, a.close = context.WithCancel(context.Background())
	a.routes = a.table()
	for _, r := range a.routes {
		a.mux.HandleFunc(r.method+" "+Prefix+r.path, r.handle)
	}
	if a.document, err = document(cfg.Version, a.routes); err != nil {
		return nil, err
	}
	return a, nil
}

// Close ends the watches, which a server that shuts down would wait for in vain. Register it
// by [http.Server.RegisterOnShutdown].
func (a *API) Close() { a.close() }

// ServeHTTP answers a request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := a.origin.Check(r); err != nil {
		a.fail(w, &failure{status: http.StatusForbidden,
			text: "this request comes from a page of another origin, which may do nothing here"})
		return
	}
	if _, pattern := a.mux.Handler(r); pattern == "" {
		a.unrouted(w, r)
		return
	}
	a.mux.ServeHTTP(w, r)
}

// unrouted answers what has no route, or not with this method.
func (a *API) unrouted(w http.ResponseWriter, r *http.Request) {
	var q quiet
	a.mux.ServeHTTP(&q, r)
	allow := q.Header().Get("Allow")
	if q.status != http.StatusMethodNotAllowed {
		a.fail(w, &failure{status: http.StatusNotFound,
			text: "there is no " + r.URL.Path + "; GET " + Prefix + " lists what there is"})
		return
	}
	w.Header().Set("Allow", allow)
	a.fail(w, &failure{status: q.status, text: r.Method + " is not possible here, only " +
		strings.ReplaceAll(allow, ", ", " or ")})
}

// quiet is a ResponseWriter that keeps the status and drops the body.
type quiet struct {
	header http.Header
	status int
}

func (q *quiet) Header() http.Header {
	if q.header == nil {
		q.header = make(http.Header)
	}
	return q.header
}

func (q *quiet) WriteHeader(status int) { q.status = status }

func (q *quiet) Write(b []byte) (int, error) { return len(b), nil }
