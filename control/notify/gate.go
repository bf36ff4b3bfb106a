package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/millrace-ml/millrace/registry/fetch"
)

// Answer says whether a rollout may go on, and if not why.
type Answer struct {
	Allowed bool
	Reason  string // for people; may be empty when it is allowed
}

// Gate asks a webhook whether a rollout may go on. Close it after use.
type Gate struct{ to *caller }

// NewGate returns a gate. It asks nobody yet.
func NewGate(r Receiver) (*Gate, error) {
	if r.Format != Webhook {
		return nil, errors.New("notify: only a webhook can be asked; set its format to webhook")
	}
	c, err := newCaller(r)
	if err != nil {
		return nil, err
	}
	return &Gate{c}, nil
}

// Close closes the connections that wait for more calls.
func (g *Gate) Close() { g.to.client.Close() }

// Ask asks, as often and as long as the receiver's Fetch says. A status of 2xx allows,
// unless the body is {"allow": false, "reason": "..."}. Whatever else comes, or nothing
// in time, does not allow: a gate that cannot be asked is shut.
func (g *Gate) Ask(ctx context.Context, e Event) Answer {
	body, err := g.to.post(ctx, e)
	if err != nil {
		return held(err)
	}
	return read(body)
}

// opinion is the JSON that a gate may answer with.
type opinion struct {
	Allow  *bool  `json:"allow"`
	Reason string `json:"reason"`
}

// read reads the body of an answer whose status allows.
func read(body []byte) Answer {
	body = bytes.TrimSpace(body)
	switch {
	case bytes.HasPrefix(body, []byte("<")):
		return Answer{Reason: "a web page came, perhaps to sign in, where an answer was expected"}
	case !bytes.HasPrefix(body, []byte("{")):
		return Answer{Allowed: true}
	}
	var o opinion
	if err := json.Unmarshal(body, &o); err != nil {
		return Answer{Reason: `the answer cannot be read; {"allow": true} or ` +
			`{"allow": false, "reason": "why"} is expected: ` + err.Error()}
	}
	if o.Allow == nil || *o.Allow {
		return Answer{Allowed: true, Reason: o.Reason}
	}
	if o.Reason == "" {
		o.Reason = "the webhook does not allow it, and says not why"
	}
	return Answer{Reason: o.Reason}
}

// held makes an answer of an error: with the receiver's own reason, if it gave one.
func held(err error) Answer {
	var o opinion
	fault, ok := errors.AsType[*fetch.Error](err)
	if ok && json.Unmarshal(fault.Body, &o) == nil && o.Reason != "" {
		return Answer{Reason: o.Reason}
	}
	return Answer{Reason: err.Error()}
}
