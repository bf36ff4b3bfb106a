package control

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/notify"
)

var metricNotices = define("millrace_notices_total",
	"Notices of rollouts and alarms, by the environment variable with the receiver's address: "+
		"`sent`, `refused` by the receiver, or `dropped`, as there were too many, or the "+
		"receiver was away for a day.", "receiver", "result")

// address is where notices go, and how.
type address struct {
	kind, url, secret string
}

// notices sends notices to an address.
type notices struct {
	*notify.Notice
	receiver string // for people and metrics
}

// inform has receivers told of an event. It never waits, and what cannot be sent is logged.
// Callers hold mu.
func (p *Plane) inform(receivers []config.Notice, e notify.Event) {
	for _, r := range receivers {
		to, err := p.notice(r)
		if err == nil {
			err = to.Send(e)
		}
		if err != nil {
			p.log.Warn("somebody is not told of what happens", "event", e.ID, "kind", r.Kind,
				"error", err)
		}
	}
}

// notice returns who sends notices to a receiver. Callers hold mu.
func (p *Plane) notice(n config.Notice) (*notices, error) {
	to := address{n.Kind, os.Getenv(n.URLEnv), ""}
	if to.url == "" {
		return nil, fmt.Errorf("the environment variable %s has no address", n.URLEnv)
	}
	if n.SecretEnv != "" {
		if to.secret = os.Getenv(n.SecretEnv); to.secret == "" {
			return nil, fmt.Errorf("the environment variable %s has no secret", n.SecretEnv)
		}
	}
	if sends := p.notices[to]; sends != nil {
		return sends, nil
	}
	r := notify.DefaultReceiver()
	r.Name, r.Format, r.Secret = n.URLEnv, notify.Format(n.Kind), to.secret
	r.Fetch.Origin, r.Fetch.Allow = to.url, hostOf(to.url)
	sends, err := notify.NewNotice(r, p.log)
	if err != nil {
		return nil, err
	}
	p.notices[to] = &notices{sends, n.URLEnv}
	return p.notices[to], nil
}

// collectNotices counts what became of notices, by receiver.
func (p *Plane) collectNotices(send sender) {
	all := make(map[string]notify.NoticeStats)
	for _, n := range p.notices {
		sum, one := all[n.receiver], n.Stats()
		sum.Sent += one.Sent
		sum.Refused += one.Refused
		sum.Dropped += one.Dropped
		all[n.receiver] = sum
	}
	for receiver, s := range all {
		send(metricNotices, float64(s.Sent), receiver, "sent")
		send(metricNotices, float64(s.Refused), receiver, "refused")
		send(metricNotices, float64(s.Dropped), receiver, "dropped")
	}
}

// closeNotices sends what waits, for a few seconds.
func (p *Plane) closeNotices() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	for _, n := range p.notices {
		if err := n.Close(ctx); err != nil {
			p.log.Warn("a notice was not sent", "error", err)
		}
	}
}
