package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/store"
)

// small reads a bounded body; into may be nil for one of any kind. An empty one leaves it as
// it is.
func small(w http.ResponseWriter, r *http.Request, into any) ([]byte, error) {
	return bounded(http.MaxBytesReader(w, r.Body, maxSmall), r, into)
}

// bounded reads a body that has a bound.
func bounded(from io.Reader, r *http.Request, into any) ([]byte, error) {
	body, err := io.ReadAll(from)
	if err != nil {
		return nil, fmt.Errorf("cannot read the body: %w", err)
	}
	if into == nil || len(body) == 0 {
		return body, nil
	}
	if _, err := mediaType(r, typeJSON); err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return nil, bad("cannot read the body: %v", err)
	}
	return body, nil
}

// unbounded lifts the server's bounds of time from a request that may take long.
func unbounded(w http.ResponseWriter) error {
	c := http.NewResponseController(w)
	return errors.Join(c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{}))
}

// command does something with a rollout.
func (a *API) command(w http.ResponseWriter, r *http.Request) {
	command, by := r.PathValue("command"), author(r)
	var body struct {
		By string `json:"by"`
	}
	_, err := small(w, r, &body)
	if err == nil && !slices.Contains(Commands(), command) {
		err = &failure{status: http.StatusNotFound, text: fmt.Sprintf(
			"a rollout knows no %q, only %s", command, strings.Join(Commands(), ", "))}
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	if body.By != "" {
		by.Who = body.By
	}
	sentence, err := a.deps.Rollouts.Command(r.Context(), r.PathValue("name"), command, by)
	if err != nil {
		a.fail(w, err)
		return
	}
	answer(w, http.StatusOK, Sentence{sentence})
}

// sync looks at a source.
func (a *API) sync(w http.ResponseWriter, r *http.Request) {
	_, err := small(w, r, nil)
	if err == nil {
		err = unbounded(w)
	}
	if err == nil {
		err = otherwise(a.deps.Sources.Sync(r.Context(), r.PathValue("name")),
			http.StatusBadGateway)
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// webhook hands over what a source sends.
func (a *API) webhook(w http.ResponseWriter, r *http.Request) {
	body, err := small(w, r, nil)
	if err == nil {
		err = otherwise(a.deps.Sources.Webhook(r.Context(), r.PathValue("name"), r.Header, body),
			http.StatusBadRequest)
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// audit answers a page of the audit log.
func (a *API) audit(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	q := store.Query{Kind: query.Get("kind"), Name: query.Get("name"), Who: query.Get("who")}
	limit, err := number(r, "limit")
	if err == nil {
		q.Limit = int(min(limit, 1<<20)) // the store has a bound of its own
		q.Before, err = number(r, "before")
	}
	if err == nil {
		q.Quiet, err = flag(r, "quiet")
	}
	var s store.Store
	if err == nil {
		s, err = a.deps.Resources.Store()
	}
	page := []store.Change{}
	if err == nil {
		var found []store.Change
		found, err = s.Audit(r.Context(), q)
		page = append(page, found...)
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	answer(w, http.StatusOK, Changes{page})
}

// backup sends a copy of what the control plane knows. One that cannot be sent to its end breaks
// off, so that nobody takes a part for the whole.
func (a *API) backup(w http.ResponseWriter, r *http.Request) {
	if err := unbounded(w); err != nil {
		a.fail(w, err)
		return
	}
	out := &begun{ResponseWriter: w}
	err := a.deps.Backup(r.Context(), out)
	switch {
	case err != nil && out.yes:
		a.deps.Log.Warn("a backup broke off", "to", r.RemoteAddr, "error", err)
		panic(http.ErrAbortHandler) // which is how a handler breaks the connection
	case err != nil:
		a.fail(w, err)
	}
}

// begun is a ResponseWriter of bytes that knows whether there were any.
type begun struct {
	http.ResponseWriter
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	if !b.yes {
		b.yes = true
		b.Header().Set("Content-Type", typeBytes)
		b.Header().Set("Content-Disposition", `attachment; filename="millrace-backup.zip"`)
	}
	return b.ResponseWriter.Write(p)
}

// index lists what there is.
func (a *API) index(w http.ResponseWriter, _ *http.Request) {
	type entry struct {
		Method  string `json:"method"`
		Path    string `json:"path"`
		Summary string `json:"summary"`
	}
	list := make([]entry, len(a.routes))
	for i, r := range a.routes {
		list[i] = entry{r.method, Prefix + r.openPath(), r.summary}
	}
	answer(w, http.StatusOK, struct {
		Version string  `json:"version"`
		Paths   []entry `json:"paths"`
	}{a.cfg.Version, list})
}

// openAPI answers the OpenAPI document.
func (a *API) openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", typeJSON)
	_, _ = w.Write(a.document) // who is gone needs no answer
}
