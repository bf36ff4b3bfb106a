package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
)

// writeTimeout is how long a watcher may take to read what was sent to it. One that is slower is
// cut off; it comes back with Last-Event-ID.
const writeTimeout = 30 * time.Second

// watched is what Watch gives: a change, or the error that ends it.
type watched struct {
	event store.Event
	err   error
}

// watch sends changes after a revision as server-sent events, whose ids are revisions.
func (a *API) watch(w http.ResponseWriter, r *http.Request) {
	select {
	case a.watchers <- struct{}{}:
		defer func() { <-a.watchers }()
	default:
		a.fail(w, &failure{status: http.StatusTooManyRequests,
			text: fmt.Sprintf("%d watch already, and more may not", cap(a.watchers))})
		return
	}
	s, err := a.deps.Resources.Store()
	if err != nil {
		a.fail(w, err)
		return
	}
	kind := r.URL.Query().Get("kind")
	kinds := append(config.Kinds(), control.KindRollout, control.KindAlarm, control.KindRun)
	if kind != "" && !slices.Contains(kinds, kind) {
		a.fail(w, bad("kind is %q, must be one of %s", kind, strings.Join(kinds, ", ")))
		return
	}
	_, now, err := s.List(r.Context(), noKind)
	from := now
	if err == nil {
		from, err = after(r, now)
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(a.closing, cancel)()
	stream := &stream{w: w, control: http.NewResponseController(w), kind: kind, last: from}
	if err := stream.run(changes(ctx, s, from), now, a.cfg.Heartbeat); err != nil && !stream.begun {
		a.fail(w, err)
	}
}

// noKind is a kind of which there are no resources: listing it tells the revision.
const noKind = "none"

// after returns the revision that a watcher has seen.
func after(r *http.Request, now uint64) (uint64, error) {
	id := r.Header.Get("Last-Event-ID")
	if id == "" && !r.URL.Query().Has("from") {
		return now, nil
	}
	if id == "" {
		return number(r, "from")
	}
	from, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return 0, bad("Last-Event-ID is %q, must be a revision", id)
	}
	return from, nil
}

// changes hands over what Watch gives, until ctx is done.
func changes(ctx context.Context, s store.Store, from uint64) <-chan watched {
	c := make(chan watched)
	go func() {
		defer close(c)
		for event, err := range s.Watch(ctx, from) {
			select {
			case c <- watched{event, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return c
}

// stream is what one watcher gets.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	kind    string // "" for all
	last    uint64 // revision that the watcher knows of
	begun   bool
}

// run sends changes until they end, or the watcher is gone. Where the first thing must be a
// change or an error, nothing is sent before it, so that the error becomes a status.
func (s *stream) run(changes <-chan watched, now uint64, heartbeat time.Duration) error {
	if s.last == now {
		if err := s.begin(); err != nil {
			return err
		}
	}
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case c, ok := <-changes:
			if !ok {
				return nil
			}
			if c.err != nil {
				return s.end(c.err)
			}
			if err := s.event(c.event); err != nil {
				return err
			}
		case <-ticker.C:
			if err := s.alive(); err != nil {
				return err
			}
		}
	}
}

func (s *stream) begin() error {
	s.begun = true
	s.w.Header().Set("Content-Type", "text/event-stream")
	s.w.Header().Set("Cache-Control", "no-store")
	// The connection lasts longer than the server's bounds for requests.
	if err := s.control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return s.send(": from revision %d\n\n", s.last)
}

// event sends a change, if the watcher wants that kind.
func (s *stream) event(e store.Event) error {
	if !s.begun {
		if err := s.begin(); err != nil {
			return err
		}
	}
	s.last = e.Revision
	if s.kind != "" && s.kind != e.Kind {
		return nil
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return s.send("id: %d\nevent: change\ndata: %s\n\n", e.Revision, text)
}

// alive tells the watcher that nothing is lost, and where it would go on.
func (s *stream) alive() error {
	if !s.begun {
		return nil
	}
	return s.send(": alive\nid: %d\n\n", s.last)
}

// end tells a watcher whose changes are gone that it must list again.
func (s *stream) end(err error) error {
	if s.begun && errors.Is(err, store.ErrCompacted) {
		text, _ := json.Marshal(Failure{Error: err.Error()}) // of texts alone
		return errors.Join(err, s.send("event: gone\ndata: %s\n\n", text))
	}
	return err
}

func (s *stream) send(format string, args ...any) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.w, format, args...); err != nil {
		return err
	}
	return s.control.Flush()
}
