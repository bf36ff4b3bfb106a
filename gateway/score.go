package gateway

import (
	"sync/atomic"

	"github.com/millrace-ml/millrace/gateway/route"
)

// scoring is who scores the answers of an endpoint.
type scoring struct {
	*route.Scorer
	faulty atomic.Bool // it has panicked, and the log says so
}

// SetScorers says who scores the answers of endpoints, by their names, also of those of
// later tables. A request under way has the scorer from before or this one.
func (c *Core) SetScorers(scorers map[string]*route.Scorer) {
	c.routingMu.Lock()
	defer c.routingMu.Unlock()
	next := make(map[string]*scoring, len(scorers))
	for name, s := range scorers {
		if next[name] = c.scorers[name]; next[name] == nil || next[name].Scorer != s {
			next[name] = &scoring{Scorer: s}
		}
	}
	c.scorers = next
	for name, e := range c.routing.Load().endpoints {
		e.scoring.Store(next[name])
	}
}

// score gives the answer its score, if the version that s is for has answered. An answer
// from the cache is scored anew: what it is held against may be another by now. Whatever
// goes wrong, the request has its answer.
func (c *Core) score(x *Exchange, s *scoring) {
	if s.Version != x.Version.Version() || s.Model != x.Version.Name() {
		return
	}
	defer func() {
		if fault := recover(); fault != nil && s.faulty.CompareAndSwap(false, true) {
			c.log.Error("the scorer of an endpoint panicked; such answers have no score",
				"endpoint", x.endpoint.Name, "panic", fault)
		}
	}()
	a := &x.Answer
	a.Score, a.Outlier, a.Scored = s.Score(x.Request.Inputs, a.Outputs)
}
