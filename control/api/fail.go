package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"syscall"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/incoming"
	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/mlflow"
)

// failure is an error with its status.
type failure struct {
	status int
	text   string
	offset *int64
	cause  error
}

func (f *failure) Error() string {
	if f.text == "" && f.cause != nil {
		return f.cause.Error()
	}
	return f.text
}

func (f *failure) Unwrap() error { return f.cause }

// bad is a request that cannot be.
func bad(format string, args ...any) error {
	return &failure{status: http.StatusBadRequest, text: fmt.Sprintf(format, args...)}
}

// statuses is the only place where an error of the control plane becomes a status. The first
// match wins.
var statuses = [...]struct {
	err    error
	status int
}{
	{config.ErrInvalid, http.StatusBadRequest},
	{store.ErrInvalid, http.StatusBadRequest},
	{store.ErrNotFound, http.StatusNotFound},
	{store.ErrConflict, http.StatusConflict},
	{control.ErrOwned, http.StatusConflict},
	{artifact.ErrInvalid, http.StatusBadRequest},
	{artifact.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{artifact.ErrMismatch, http.StatusUnprocessableEntity},
	{artifact.ErrFull, http.StatusInsufficientStorage},
	{mlflow.ErrWebhook, http.StatusUnauthorized},
	{control.ErrNotNow, http.StatusConflict},
	{rollout.ErrNotNow, http.StatusConflict},
	{monitor.ErrNotNow, http.StatusConflict},
	{monitor.ErrState, http.StatusConflict},
	{monitor.ErrCounts, http.StatusBadRequest},
	{control.ErrWindow, http.StatusBadRequest},
	{control.ErrOtherMonitor, http.StatusConflict},
	{control.ErrNotOpen, http.StatusServiceUnavailable},
	{trigger.ErrNotNow, http.StatusConflict},
	{incoming.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{incoming.ErrNotAuthentic, http.StatusUnauthorized},
	{incoming.ErrMalformed, http.StatusBadRequest},
	{store.ErrCompacted, http.StatusGone},
	{control.ErrDown, http.StatusServiceUnavailable},
	{store.ErrClosed, http.StatusServiceUnavailable},
	{store.ErrFull, http.StatusInsufficientStorage},
	{syscall.ENOSPC, http.StatusInsufficientStorage},
	{store.ErrFile, http.StatusServiceUnavailable},
	{io.ErrUnexpectedEOF, http.StatusBadRequest}, // of a client that went away
	{syscall.ECONNRESET, http.StatusBadRequest},
}

// statusOf returns the status of an error, 0 for one that is not known.
func statusOf(err error) int {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return http.StatusRequestEntityTooLarge
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	if f := new(failure); errors.As(err, &f) {
		return f.status
	}
	return 0
}

// otherwise gives an error that the table does not know a status.
func otherwise(err error, status int) error {
	if err == nil || statusOf(err) != 0 {
		return err
	}
	return &failure{status: status, cause: err}
}

// fail answers with an error.
func (a *API) fail(w http.ResponseWriter, err error) {
	status := cmp.Or(statusOf(err), http.StatusInternalServerError)
	body := Failure{Error: err.Error()}
	if f := new(failure); errors.As(err, &f) {
		body.Offset = f.offset
	}
	if e := new(config.Error); errors.As(err, &e) {
		for _, f := range e.Faults {
			body.Faults = append(body.Faults, Fault{f.Key, f.Text})
		}
	}
	if m := new(http.MaxBytesError); errors.As(err, &m) {
		body.Error = fmt.Sprintf("the body is larger than %d bytes", m.Limit)
	}
	if status == http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		a.deps.Log.Error("a request to the control API failed", "error", err)
	}
	answer(w, status, body)
}

// answer writes a value as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // who is gone needs no answer
}

// mediaType wants a body to be of one of the types, and returns which it is.
func mediaType(r *http.Request, allowed ...string) (string, error) {
	got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	for _, t := range allowed {
		if err == nil && got == t {
			return t, nil
		}
	}
	return "", &failure{status: http.StatusUnsupportedMediaType,
		text: fmt.Sprintf("the Content-Type is %q, must be %s", r.Header.Get("Content-Type"),
			strings.Join(allowed, " or "))}
}
