package delivery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/syncer"
)

// kept is what is known of the endpoint adds, read while nothing of it changed.
type kept struct {
	model    syncer.Status
	endpoint control.EndpointStatus
	rollout  *rollout.State // under way; nil
}

// stable is the version that has to serve beside the canary.
func (k *kept) stable() string {
	champion := k.model.Aliases["champion"]
	switch {
	case k.rollout != nil && k.rollout.Phase != rollout.Pending:
		return k.rollout.Stable.Version
	case k.endpoint.Promoted != nil &&
		slices.Contains(k.endpoint.Promoted.Over, champion):
		return k.endpoint.Promoted.Version
	}
	return champion
}

// arms are the arms that have to be in force, as the admin port shows them.
func (k *kept) arms() string {
	if k.rollout == nil || k.rollout.Phase == rollout.Pending {
		return fmt.Sprintf("%s 100%% ", k.stable())
	}
	w := k.rollout.Weight()
	return fmt.Sprintf("%s %v%% %s %v%% ", k.stable(), 100-w, k.rollout.Canary.Version, w)
}

// read reads what is known, and the sum of its revisions.
func (s *siege) read(t *testing.T) (k kept, revisions uint64) {
	t.Helper()
	get := func(plural, name string) []byte {
		r, err := s.admin.Resource(t.Context(), plural, name)
		if err != nil {
			t.Fatal(err)
		}
		revisions += r.Revision
		return r.Status
	}
	k.model = decode[syncer.Status](t, get("models", "adds"))
	k.endpoint = decode[control.EndpointStatus](t, get("endpoints", "adds"))
	if name := k.endpoint.Rollout; name != "" {
		status := decode[control.RolloutStatus](t, get("rollouts", name))
		k.rollout = &status.State
	}
	return k, revisions
}

// inForce wants the endpoints to be as was decided last. A decision is stored a moment before it
// is in force.
func (s *siege) inForce(t *testing.T) {
	t.Helper()
	var want, got string
	over := time.Now().Add(5 * time.Second)
	for time.Now().Before(over) {
		k, before := s.read(t)
		want, got = k.arms(), s.table(t)
		if _, after := s.read(t); before == after && want == got {
			return
		}
	}
	t.Errorf("in force is %q, decided was %q", got, want)
}

// table returns the arms of the endpoint adds that are in force. All of them must be ready.
func (s *siege) table(t *testing.T) (text string) {
	t.Helper()
	resp, err := s.client.Get("http://server/endpoints/adds")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var e struct {
		Arms []struct {
			Version string
			Percent float64
			Ready   bool
			Reason  string
		}
	}
	err = json.NewDecoder(resp.Body).Decode(&e)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the endpoint is shown with status %d, %v", resp.StatusCode, err)
	}
	for _, a := range e.Arms {
		text += fmt.Sprintf("%s %v%% ", a.Version, a.Percent)
		if !a.Ready {
			text += "not ready: " + a.Reason
		}
	}
	return text
}

// inspect reads the store of a server that was killed.
func (s *siege) inspect(t *testing.T) {
	t.Helper()
	cfg := store.DefaultConfig()
	cfg.Path = filepath.Join(s.dir, "data", "control.db")
	b, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	list, _, err := b.List(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	underWay := make(map[string]string) // rollouts by endpoint
	var other store.Resource
	var pushes []byte
	for _, r := range list {
		switch r.Kind {
		case config.KindEndpoint:
			if r.Name == "other" {
				other = r
			}
			underWay[r.Name] = decode[control.EndpointStatus](t, r.Status).Rollout
		case control.KindPushed:
			pushes = r.Status
		}
	}
	for _, r := range list {
		if r.Kind == control.KindRollout {
			s.whole(t, decode[control.RolloutStatus](t, r.Status), underWay)
		}
	}
	for endpoint, name := range underWay {
		if name != "" && s.seen[name].Phase == "" {
			t.Errorf("endpoint %s has rollout %s, which is not there", endpoint, name)
		}
		if name != "" {
			s.moving++
		}
	}
	if text := s.operator.lost(other); text != "" {
		t.Error(text)
	}
	if text := s.pusher.lost(t, pushes); text != "" {
		t.Error(text)
	}
}

// whole wants no half of a rollout, and nothing that is further back than it was.
func (s *siege) whole(t *testing.T, r control.RolloutStatus, underWay map[string]string) {
	t.Helper()
	now, before := r.State, s.seen[r.State.ID]
	s.seen[now.ID] = now
	done := now.Phase == rollout.Done
	if done == (underWay[now.Endpoint] == now.ID) {
		t.Errorf("rollout %s is in phase %s, endpoint %s has rollout %q", now.ID, now.Phase,
			now.Endpoint, underWay[now.Endpoint])
	}
	if done && (now.Verdict == "" || now.Ended.IsZero() || len(r.Actions) < 2) {
		t.Errorf("rollout %s has no verdict or not what follows from it: %+v", now.ID, r.Actions)
	}
	if now.Turn < before.Turn || before.Phase == rollout.Done && now.Verdict != before.Verdict {
		t.Errorf("rollout %s was at turn %d (%s), is at %d (%s)", now.ID, before.Turn,
			before.Verdict, now.Turn, now.Verdict)
	}
	if n := len(now.History); n > 0 {
		last := now.History[n-1]
		if last.To != now.Phase || last.Step != now.Step || last.Weight != now.Weight() {
			t.Errorf("the last transition of rollout %s is %+v, its state %s, step %d, %v %%",
				now.ID, last, now.Phase, now.Step, now.Weight())
		}
	}
}

// lost says which version that was acknowledged is not in the record of pushes.
func (p *pusher) lost(t *testing.T, record []byte) (text string) {
	t.Helper()
	got := decode[struct {
		Versions []struct{ Name, Digest string }
		Aliases  map[string]string
	}](t, record)
	have := make(map[string]bool)
	for _, v := range got.Versions {
		have[v.Name] = v.Digest != ""
	}
	p.note(func() {
		for n := max(1, p.acked-90); n <= p.acked; n++ { // a hundred are kept
			if !have[strconv.Itoa(n)] {
				text += fmt.Sprintf("version %d was acknowledged and is lost; ", n)
			}
		}
		challenger, _ := strconv.Atoi(got.Aliases["challenger"])
		if p.acked > 1 && challenger != p.acked && challenger != p.tried {
			text += fmt.Sprintf("the alias names version %d, not %d", challenger, p.acked)
		}
	})
	return text
}

// audited wants all that was acknowledged to the operator in the audit log, and returns how many
// changes those are.
func (s *siege) audited(t *testing.T) (found int) {
	t.Helper()
	var before uint64
	s.operator.mu.Lock()
	defer s.operator.mu.Unlock()
	for {
		page, err := s.admin.Audit(t.Context(), store.Query{Kind: config.KindEndpoint,
			Name: "other", Before: before, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page {
			before = c.Revision
			want, ok := s.operator.acked[c.Revision]
			if ok && (c.New == nil || timeoutOf(c.New.Spec) != want || c.By.Who != "operator") {
				t.Errorf("revision %d is audited as %+v", c.Revision, c)
			}
			if ok {
				found++
			}
		}
		if len(page) < 1000 {
			break
		}
	}
	if found != len(s.operator.acked) {
		t.Errorf("of %d acknowledged changes %d are in the audit log", len(s.operator.acked), found)
	}
	return found
}
