package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/shadow"
)

// endpointStatus is what people see of an endpoint.
type endpointStatus struct {
	Name    string            `json:"name"`
	Arms    []armStatus       `json:"arms"`
	Shadows []shadow.Snapshot `json:"shadows"`
}

// armStatus is what people see of an arm.
type armStatus struct {
	Name    string  `json:"name"`
	Model   string  `json:"model"`
	Version string  `json:"version"` // that serves now
	Percent float64 `json:"percent"`
	Ready   bool    `json:"ready"`
	Reason  string  `json:"reason,omitempty"` // why it cannot serve
	// What feedback says of the version, discounted by the half-life of the bandit.
	Rewards    float64 `json:"rewards"`
	MeanReward float64 `json:"mean_reward"`
}

// HandleStatus adds the state of endpoints to an admin port's paths: the
// weights, versions and rewards of all, what the shadows of one have found, and
// the counts of rewards in the form in which those of replicas are merged.
func (c *Core) HandleStatus(mux *http.ServeMux) {
	mux.HandleFunc("GET /endpoints", func(w http.ResponseWriter, _ *http.Request) {
		list := []endpointStatus{}
		for _, e := range c.Table().Endpoints() {
			list = append(list, c.endpointStatus(e.Name))
		}
		writeJSON(w, http.StatusOK, list)
	})
	mux.HandleFunc("GET /endpoints/{name}", func(w http.ResponseWriter, r *http.Request) {
		c.answerStatus(w, r, func(s *endpointStatus) any { return s })
	})
	mux.HandleFunc("GET /feedback", func(w http.ResponseWriter, _ *http.Request) {
		counts := feedback.Counts{}
		if ledger := c.ledger.Load(); ledger != nil {
			counts = ledger.Counts()
		}
		writeJSON(w, http.StatusOK, counts)
	})
	mux.HandleFunc("GET /endpoints/{name}/shadows", func(w http.ResponseWriter, r *http.Request) {
		c.answerStatus(w, r, func(s *endpointStatus) any { return s.Shadows })
	})
}

func (c *Core) answerStatus(w http.ResponseWriter, r *http.Request,
	part func(*endpointStatus) any) {
	name := r.PathValue("name")
	if c.Table().Endpoint([]byte(name)) == nil {
		writeJSON(w, http.StatusNotFound,
			map[string]string{"error": fmt.Sprintf("there is no endpoint '%.64s'", name)})
		return
	}
	s := c.endpointStatus(name)
	writeJSON(w, http.StatusOK, part(&s))
}

// Evidence returns what feedback says of the versions behind an endpoint's arms, in
// their order.
func (c *Core) Evidence(e *route.Endpoint, now time.Time) []route.Evidence {
	var halfLife time.Duration
	if e.Bandit != nil {
		halfLife = e.Bandit.HalfLife
	}
	ledger := c.ledger.Load()
	if ledger == nil {
		return nil
	}
	return ledger.Counts().Evidence(e.Name, c.serving(e), halfLife, now)
}

// serving lists the versions behind an endpoint's arms, as they are named where they cannot serve.
func (c *Core) serving(e *route.Endpoint) []feedback.Arm {
	arms := make([]feedback.Arm, len(e.Arms))
	for i := range e.Arms {
		a := &e.Arms[i]
		arms[i] = feedback.Arm{Model: string(a.Model), Version: string(a.Version)}
		if v, err := c.models.Acquire(a.Model, a.Version); err == nil {
			arms[i].Version = v.Version()
			v.Release()
		}
	}
	return arms
}

// ArmCount is what was counted of an arm: requests since the process began, and the rewards of its
// version since ever.
type ArmCount struct {
	Name, Version string
	Weight        int // of route.FullWeight
	Requests      uint64
	Rewards       route.Evidence
}

// ArmCounts returns what was counted of an endpoint's arms, in their order; nothing where there is
// no such endpoint.
func (c *Core) ArmCounts(endpoint string) []ArmCount {
	e := c.routing.Load().endpoints[endpoint]
	if e == nil {
		return nil
	}
	versions := c.serving(e.Endpoint)
	rewards := make([]route.Evidence, len(e.Arms))
	if ledger := c.ledger.Load(); ledger != nil {
		rewards = ledger.Counts().Evidence(e.Name, versions, 0, time.Time{})
	}
	counts := make([]ArmCount, len(e.Arms))
	for i := range e.Arms {
		a := &e.Arms[i]
		counts[i] = ArmCount{Name: a.Name, Version: versions[i].Version, Weight: a.Weight,
			Rewards: rewards[i]}
		for label := range e.arms[i].outcomes {
			counts[i].Requests += e.arms[i].outcomes[label].Load()
		}
	}
	return counts
}

func (c *Core) endpointStatus(name string) endpointStatus {
	s := endpointStatus{Name: name, Shadows: []shadow.Snapshot{}}
	e := c.routing.Load().endpoints[name]
	if e == nil {
		return s
	}
	for i := range e.Arms {
		a := &e.Arms[i]
		arm := armStatus{Name: a.Name, Model: string(a.Model), Version: string(a.Version),
			Percent: float64(a.Weight) / 100}
		if v, err := c.models.Acquire(a.Model, a.Version); err == nil {
			arm.Version, arm.Ready = v.Version(), true
			v.Release()
		} else {
			arm.Reason = err.Error()
		}
		s.Arms = append(s.Arms, arm)
	}
	for i, k := range c.Evidence(e.Endpoint, time.Now()) {
		if s.Arms[i].Rewards = k.N; k.N > 0 {
			s.Arms[i].MeanReward = k.Reward / k.N
		}
	}
	for i := range e.consumers {
		if m := e.consumers[i].mirror; m != nil {
			s.Shadows = append(s.Shadows, m.Report().Snapshot())
		}
	}
	return s
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil { // what is not finite cannot be written
		status = http.StatusInternalServerError
		text = []byte(`{"error": "cannot write the answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // the client may have left
}
