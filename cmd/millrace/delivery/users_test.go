package delivery_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
)

// operator changes the timeout of an endpoint again and again, and keeps what was acknowledged, or
// seen.
type operator struct {
	admin *apiclient.Client
	mu    sync.Mutex
	acked map[uint64]int // timeouts in milliseconds, by revision. Guarded by mu, as all below.
	last  uint64         // revision that was acknowledged last
	tried int            // timeout that was asked for last, acknowledged or not
	wrong string
}

// leastTimeout is more than any request takes, in milliseconds.
const leastTimeout = 20_000

func (o *operator) run(ctx context.Context) {
	for timeout := leastTimeout; ctx.Err() == nil; timeout++ {
		if err := o.change(ctx, timeout); err != nil {
			var refused *apiclient.StatusError
			if errors.As(err, &refused) {
				o.complain(err.Error())
				return
			}
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// change reads the endpoint and changes it, if nobody else has.
func (o *operator) change(ctx context.Context, timeout int) error {
	old, err := o.admin.Resource(ctx, "endpoints", "other")
	var refused *apiclient.StatusError
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		err = nil // it is made
	}
	if err != nil {
		return err
	}
	if text := o.lost(old); text != "" {
		o.complain(text)
	}
	o.mu.Lock()
	o.tried = timeout
	o.mu.Unlock()
	effects, err := o.admin.Apply(ctx, fmt.Appendf(nil, `{"kind": "Endpoint", "name": "other",
		"revision": %d, "spec": {"model": "adds", "stable": "@champion", "timeout": "%dms"}}`,
		old.Revision, timeout), apiclient.Options{})
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = effects.Effects[0].Revision
	o.acked[o.last] = timeout
	return nil
}

// lost says what is missing in the endpoint: it is as acknowledged last, or as asked for since.
func (o *operator) lost(r store.Resource) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	got := timeoutOf(r.Spec)
	if r.Revision > o.last && got == o.tried {
		o.last, o.acked[r.Revision] = r.Revision, got // who has seen it relies on it
		return ""
	}
	if r.Revision == o.last && (o.last == 0 || got == o.acked[o.last]) {
		return ""
	}
	return fmt.Sprintf("the endpoint has timeout %d at revision %d; acknowledged was %d at %d, "+
		"asked for %d", got, r.Revision, o.acked[o.last], o.last, o.tried)
}

func (o *operator) complain(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.wrong == "" {
		o.wrong = text
	}
}

func (o *operator) fault() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wrong
}

// pusher pushes versions, each when the one before has its verdict.
type pusher struct {
	admin *apiclient.Client
	dir   string
	over  atomic.Bool // no more are wanted
	idle  atomic.Bool // no more come
	mu    sync.Mutex
	acked int // number of the version that was acknowledged last. Guarded by mu, as all below.
	tried int // of the one that was pushed last, acknowledged or not
	wrong string
}

func (p *pusher) run(ctx context.Context) {
	defer p.idle.Store(true)
	for n := 1; ctx.Err() == nil && !p.over.Load(); n++ {
		p.note(func() { p.tried = n })
		if !p.push(ctx, n) {
			return
		}
		p.note(func() { p.acked = n })
		if n > 1 && !p.decided(ctx, n) {
			return
		}
	}
}

func (p *pusher) note(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *pusher) fault() (text string) {
	p.note(func() { text = p.wrong })
	return text
}

// push pushes a version until that is acknowledged, and says whether it was.
func (p *pusher) push(ctx context.Context, n int) bool {
	limit := float32(never)
	if !sound(n) {
		limit = faultyFrom - 0.5
	}
	file := filepath.Join(p.dir, "v.onnx")
	if err := os.WriteFile(file, adds(float32(n), limit), 0o644); err != nil {
		p.note(func() { p.wrong = err.Error() })
		return false
	}
	for ctx.Err() == nil {
		up, err := apiclient.NewPush("adds", file)
		if err == nil {
			up.Manifest.Version, up.Manifest.Aliases = strconv.Itoa(n), []string{"challenger"}
			if n == 1 {
				up.Manifest.Aliases[0] = "champion"
			}
			_, err = p.admin.Push(ctx, up)
		}
		var refused *apiclient.StatusError
		switch {
		case err == nil:
			return true
		case errors.As(err, &refused):
			p.note(func() { p.wrong = fmt.Sprintf("version %d is refused: %v", n, err) })
			return false
		}
		pause(ctx, 20*time.Millisecond)
	}
	return false
}

// decided waits for the verdict on a version, and says whether it was the right one.
func (p *pusher) decided(ctx context.Context, n int) bool {
	for ctx.Err() == nil {
		pause(ctx, 50*time.Millisecond)
		list, err := p.admin.Rollouts(ctx, "adds", 1)
		if err != nil || len(list.Items) == 0 {
			continue
		}
		var status control.RolloutStatus
		if err := json.Unmarshal(list.Items[0].Status, &status); err != nil {
			p.note(func() { p.wrong = err.Error() })
			return false
		}
		s := &status.State
		if s.Canary.Version != strconv.Itoa(n) || s.Phase != rollout.Done {
			continue
		}
		if right := (s.Verdict == rollout.Successful) == sound(n); !right {
			p.note(func() { p.wrong = "the verdict is wrong: " + s.Sentence() })
			return false
		}
		return true
	}
	return false
}

// pause waits, unless ctx is done.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
