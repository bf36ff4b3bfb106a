// Package notify asks and tells others: a [Gate] asks a webhook whether a rollout may go
// on, a [Notice] tells Slack, Microsoft Teams or a webhook what has happened to a rollout
// or an alarm.
//
// Webhooks are those of Standard Webhooks: the headers webhook-id, webhook-timestamp
// and webhook-signature, made by [Secret.Sign] and checked by [Secret.Verify]. An
// event's id is the same however often it is sent, so that a receiver can leave out
// repetitions. Calls go through package fetch: addresses are checked, redirects are
// not followed, and errors name the receiver in place of its URL, since the URL of a
// chat's webhook is itself a secret.
//
// All methods of a Gate and a Notice may be called concurrently. Neither keeps
// anything on disk: a notice that waits when the process ends is lost.
package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/registry/fetch"
)

// Format is how an event is written.
type Format string

// The formats that receivers take.
const (
	Webhook Format = "webhook" // an Event as JSON
	Slack   Format = "slack"   // for an incoming webhook of Slack
	Teams   Format = "teams"   // an Adaptive Card for a workflow of Microsoft Teams
)

// Receiver says who is asked or told, and how.
type Receiver struct {
	Name   string // for people
	Format Format
	Secret string       // "whsec_..." signs webhooks; empty leaves them unsigned
	Fetch  fetch.Config // its Origin is the URL that is called
}

// DefaultReceiver has all but the name and the URL.
func DefaultReceiver() Receiver {
	cfg := fetch.DefaultConfig()
	cfg.MaxBytes = 64 << 10 // an answer is a sentence
	cfg.Timeout = 10 * time.Second
	cfg.IdleTimeout = cfg.Timeout
	cfg.Attempts = 3
	cfg.Backoff = time.Second
	cfg.MaxBackoff = 5 * time.Minute
	return Receiver{Format: Webhook, Fetch: cfg}
}

// Validate lists all faults.
func (r Receiver) Validate() error {
	var faults []error
	if r.Name == "" {
		faults = append(faults, errors.New("name: is missing"))
	}
	switch r.Format {
	case Webhook:
	case Slack, Teams:
		if r.Secret != "" {
			faults = append(faults, fmt.Errorf("secret: %s checks no signature; leave it out",
				r.Format))
		}
	default:
		faults = append(faults, fmt.Errorf("format: %.40q; webhook, slack and teams are allowed",
			r.Format))
	}
	if r.Secret != "" {
		if _, err := ParseSecret(r.Secret); err != nil {
			faults = append(faults, fmt.Errorf("secret: %w", err))
		}
	}
	return errors.Join(append(faults, r.Fetch.Validate())...)
}

// The types of events that a Gate asks about.
const (
	BeforeStart     = "rollout.before_start"
	BeforeStep      = "rollout.before_step"
	BeforePromotion = "rollout.before_promotion"
	AfterEnd        = "rollout.after_end"
)

// The types of events of an alarm.
const (
	AlarmRaised       = "alarm.raised"
	AlarmAcknowledged = "alarm.acknowledged"
	AlarmResolved     = "alarm.resolved"
)

// Event is something that happens to a rollout or an alarm.
type Event struct {
	// ID names this event among all, as in "fraud-17/before_step-2/1": rollout, stage
	// and attempt. Whoever sends the event again gives the same.
	ID   string    `json:"-"`
	Type string    `json:"type"` // as in "rollout.before_step"
	Time time.Time `json:"timestamp"`
	Data Data      `json:"data"`
}

// Data is what an event tells. It has one of Rollout and Alarm, whose keys stand beside
// the others in JSON.
type Data struct {
	*Rollout
	*Alarm
	Endpoint string `json:"endpoint"`
	Model    string `json:"model"`
	Reason   string `json:"reason"`
	Sentence string `json:"sentence"` // says to people what happens
	Link     string `json:"link"`     // where they see more
}

// Rollout is what an event tells of a rollout alone.
type Rollout struct {
	ID     string  `json:"rollout"`
	Stable string  `json:"stable"` // version
	Canary string  `json:"canary"` // version
	Step   int     `json:"step"`
	Weight float64 `json:"weight"` // percent of the requests that go to the canary
}

// Alarm is what an event tells of an alarm alone. Its reason is that of the event.
type Alarm struct {
	ID         string    `json:"alarm"` // as in "fraud/3"
	Monitor    string    `json:"monitor"`
	Version    string    `json:"version"`
	Kind       string    `json:"kind"`     // as in "drift"
	Features   []string  `json:"features"` // that have drifted, as far as it can be told
	Began      time.Time `json:"began"`    // about
	Raised     time.Time `json:"raised"`
	By         string    `json:"acknowledged_by,omitempty"`
	Resolution string    `json:"resolution,omitempty"` // why it is over
}

// Validate lists all faults.
func (e Event) Validate() error {
	var faults []error
	if e.ID == "" {
		faults = append(faults, errors.New("it has no id"))
	}
	if e.Type == "" {
		faults = append(faults, errors.New("it has no type"))
	}
	if e.Time.IsZero() {
		faults = append(faults, errors.New("it has no time"))
	}
	r := e.Data.Rollout
	if (r == nil) == (e.Data.Alarm == nil) {
		faults = append(faults, errors.New("it is not of one rollout or alarm"))
	}
	if r != nil && (math.IsNaN(r.Weight) || math.IsInf(r.Weight, 0)) {
		faults = append(faults, errors.New("its weight is no number"))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("notify: the event %q cannot be sent: %w", e.ID, err)
	}
	return nil
}

// cut returns the event with all texts shortened to so many bytes.
func (e Event) cut(most int) Event {
	d := &e.Data
	texts := []*string{&e.Type, &d.Endpoint, &d.Model, &d.Reason, &d.Sentence, &d.Link}
	if d.Rollout != nil {
		r := *d.Rollout
		d.Rollout, texts = &r, append(texts, &r.ID, &r.Stable, &r.Canary)
	}
	if d.Alarm != nil {
		a := *d.Alarm
		a.Features = slices.Clone(a.Features[:min(len(a.Features), maxFeatures)])
		d.Alarm = &a
		texts = append(texts, &a.ID, &a.Monitor, &a.Version, &a.Kind, &a.By, &a.Resolution)
		for i := range a.Features {
			texts = append(texts, &a.Features[i])
		}
	}
	for _, text := range texts {
		*text = shorten(*text, most)
	}
	return e
}

// shorten cuts a text after so many bytes.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

// Bounds. Standard Webhooks wants payloads below 20 KB; a field of Slack may have 2000
// characters, its name included.
const (
	maxPayload  = 20_000
	maxText     = 1900 // bytes of one text
	maxFeatures = 10
)

// payload writes an event in a format, with its texts as long as there is room for.
func payload(f Format, e Event) ([]byte, error) {
	for most := maxText; ; most /= 2 {
		var v any
		switch short := e.cut(most); f {
		case Slack:
			v = slack(short)
		case Teams:
			v = teams(short)
		default:
			short.Time = short.Time.UTC()
			v = short
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			return nil, fmt.Errorf("notify: the event %q cannot be sent: %w", e.ID, err)
		}
		if body := bytes.TrimSpace(b.Bytes()); len(body) < maxPayload || most == 0 {
			return body, nil
		}
	}
}

// caller makes the calls of one receiver.
type caller struct {
	Receiver
	secret Secret
	client *fetch.Client
}

func newCaller(r Receiver) (*caller, error) {
	err := r.Validate()
	c := &caller{Receiver: r}
	if err == nil && r.Secret != "" {
		c.secret, err = ParseSecret(r.Secret)
	}
	if err == nil {
		c.client, err = fetch.New(r.Fetch)
	}
	if err != nil {
		return nil, fmt.Errorf("notify: the receiver %q cannot be used: %w", r.Name, err)
	}
	return c, nil
}

// post makes one call and returns the answer's body. A fetch.Error names the receiver.
func (c *caller) post(ctx context.Context, e Event) ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	body, err := payload(c.Format, e)
	if err != nil {
		return nil, err
	}
	req := fetch.Request{Method: http.MethodPost, URL: c.Fetch.Origin, Body: body,
		Header: http.Header{"Content-Type": {"application/json"}}}
	if c.Format == Webhook {
		// A full stop would blur where the id ends in what is signed.
		id, now := strings.ReplaceAll(url.QueryEscape(e.ID), ".", "%2E"), time.Now()
		req.Idempotent = true
		req.Header.Set(headerID, id)
		req.Header.Set(headerTime, strconv.FormatInt(now.Unix(), 10))
		if c.secret.key != nil {
			req.Header.Set(headerSignature, c.secret.Sign(id, now, body))
		}
	}
	resp, err := c.client.Do(ctx, req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	if fault, ok := errors.AsType[*fetch.Error](err); ok {
		named := *fault
		named.Method, named.URL = "reach", c.Name
		return nil, &named
	}
	return text, err
}
