package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/notify"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// Webhook is a receiver of Standard Webhooks at the server's address. A run has
// succeeded when it was delivered: what the receiver makes of it is not known.
type Webhook struct {
	SecretFile, SecretEnv string // hold "whsec_" and base64
}

func (w *Webhook) secret() secret { return secret{w.SecretFile, w.SecretEnv} }

func (w *Webhook) validate() error { return w.secret().validate("secret", true) }

func (w *Webhook) guarantee() trigger.Guarantee { return trigger.Keeps }

func (w *Webhook) open(c Config) (runs, *conn, error) {
	server, err := dial(c.Server, w.secret())
	if err != nil {
		return nil, nil, err
	}
	server.base = c.Server.Origin // as it is; nothing is below it
	return &webhook{w.secret(), server, c}, server, nil
}

// webhook delivers runs. A run's External is its webhook-id, our Name.
type webhook struct {
	secret secret
	conn   *conn
	config Config
}

// Start delivers a run. Its id is the same each time, so that the receiver can leave
// out repetitions.
func (p *webhook) Start(ctx context.Context, r trigger.Run) (trigger.Status, error) {
	text, err := p.secret.read()
	if err != nil {
		return trigger.Status{}, err
	}
	key, err := notify.ParseSecret(text)
	if err != nil {
		return trigger.Status{}, &trigger.Fault{Text: "the webhook's secret cannot be used: " +
			err.Error()}
	}
	body, err := json.Marshal(map[string]any{"type": "trigger.run",
		"timestamp": r.Began.UTC().Format(time.RFC3339),
		"data":      map[string]any{"trigger": r.Trigger, "parameters": p.config.inputs(r)}})
	if err != nil {
		return trigger.Status{}, &trigger.Fault{Kind: trigger.ErrRefused, Text: err.Error()}
	}
	now := time.Now()
	h := http.Header{}
	h.Set("Webhook-Id", r.Name())
	h.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	h.Set("Webhook-Signature", key.Sign(r.Name(), now, body))
	_, err = p.conn.call(ctx, request{method: http.MethodPost, header: h, body: body, repeat: true,
		starts: true}, nil)
	if f, ok := errors.AsType[*trigger.Fault](err); ok {
		if u, parseErr := url.Parse(p.conn.base); parseErr == nil { // it may be a secret itself
			f.Text = strings.ReplaceAll(f.Text, fetch.Redact(u), "the webhook")
		}
	}
	return trigger.Status{State: trigger.Succeeded, External: r.Name()}, err
}

// Status says that what was delivered is done.
func (p *webhook) Status(context.Context, string) (trigger.Status, error) {
	return trigger.Status{State: trigger.Succeeded}, nil
}

// Cancel cannot take back what was delivered.
func (p *webhook) Cancel(context.Context, string) error {
	return &trigger.Fault{Text: "what was delivered to a webhook cannot be cancelled"}
}
