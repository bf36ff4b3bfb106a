package apiclient

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/store"
)

// ErrGone is returned by Watch when changes were missed that are not kept any more: list again.
var ErrGone = errors.New("apiclient: changes in between are not kept")

// Pauses before a watch that was cut begins again.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 5 * time.Second
)

// maxEvent bounds a line of a watch: a resource with its spec and status, twice escaped at most.
const maxEvent = 4 * store.MaxResource

// Watch gives each change of a kind ("" for all) after a revision, in order, until ctx is done
// or each returns an error. A connection that breaks is made anew, for as long as there was one.
func (c *Client) Watch(ctx context.Context, from uint64, kind string,
	each func(store.Event) error) error {
	w := watch{client: c, kind: kind, last: from, each: each}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		began := w.connected
		err := w.run(ctx)
		var status *StatusError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case w.failed != nil:
			return w.failed
		case errors.As(err, &status) && status.Status == http.StatusGone, errors.Is(err, ErrGone):
			return ErrGone
		case w.connected == 0,
			errors.As(err, &status) && status.Status < http.StatusInternalServerError:
			return err
		}
		if w.connected > began {
			pause = firstPause
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// watch is one Watch over all of its connections.
type watch struct {
	client    *Client
	kind      string
	last      uint64
	each      func(store.Event) error
	connected int   // how often
	failed    error // what each returned
}

// run watches over one connection.
func (w *watch) run(ctx context.Context) error {
	q := url.Values{"from": {strconv.FormatUint(w.last, 10)}}
	if w.kind != "" {
		q.Set("kind", w.kind)
	}
	resp, err := w.client.send(ctx, call{"GET", path("watch"), q, typed{}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	w.connected++
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	kind := ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			kind = value
		case "id":
			if w.last, err = strconv.ParseUint(value, 10, 64); err != nil {
				return fmt.Errorf("cannot read the id of a change: %w", err)
			}
		case "data":
			if kind == "gone" {
				return ErrGone
			}
			var e store.Event
			if err := json.Unmarshal([]byte(value), &e); err != nil {
				return fmt.Errorf("cannot read a change: %w", err)
			}
			if w.failed = w.each(e); w.failed != nil {
				return w.failed
			}
		}
	}
	return lines.Err()
}
