package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of Standard Webhooks.
const (
	headerID        = "webhook-id"
	headerTime      = "webhook-timestamp"
	headerSignature = "webhook-signature"
)

// ErrSignature is returned for a webhook that was not sent by who knows the secret,
// or not now.
var ErrSignature = errors.New("notify: webhook not authentic")

// Secret is what sender and receiver of webhooks share. ParseSecret makes one.
type Secret struct{ key []byte }

// minKey is the shortest key that is taken, in bytes: 128 bits cannot be guessed.
const minKey = 16

// ParseSecret reads "whsec_" and base64; the prefix may be left out. Its error does not
// repeat the secret.
func ParseSecret(text string) (Secret, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
	if err != nil {
		return Secret{}, errors.New(`it has to be "whsec_" and base64`)
	}
	if len(key) < minKey {
		return Secret{}, fmt.Errorf("it has %d bytes; %d are needed", len(key), minKey)
	}
	return Secret{key}, nil
}

// String hides the secret.
func (s Secret) String() string { return "whsec_..." }

// Sign returns the signature of a webhook, where its time counts in seconds:
//
//	v1,base64(HMAC-SHA256(secret, id + "." + time + "." + body))
func (s Secret) Sign(id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, s.key)
	_, _ = fmt.Fprintf(mac, "%s.%d.%s", id, at.Unix(), body) // a hash takes everything
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// maxSkew is how far the time of a webhook may be from ours, as the libraries of
// Standard Webhooks have it.
const maxSkew = 5 * time.Minute

// Verify checks the headers of a webhook, which may have several signatures, separated
// by spaces, while a secret is replaced. Within the five minutes that a webhook is
// taken for, leave out those whose webhook-id has come before. Its error is
// ErrSignature.
func (s Secret) Verify(h http.Header, body []byte, now time.Time) error {
	id, sent := h.Get(headerID), h.Get(headerTime)
	seconds, err := strconv.ParseInt(sent, 10, 64)
	if id == "" || err != nil || s.key == nil {
		return fmt.Errorf("%w: the secret, its id or its time is missing", ErrSignature)
	}
	at := time.Unix(seconds, 0)
	if skew := now.Sub(at); skew > maxSkew || skew < -maxSkew {
		return fmt.Errorf("%w: it was sent at another time than now", ErrSignature)
	}
	want := []byte(s.Sign(id, at, body))
	for signature := range strings.SplitSeq(h.Get(headerSignature), " ") {
		if hmac.Equal(want, []byte(signature)) {
			return nil
		}
	}
	return fmt.Errorf("%w: it has no signature of the secret", ErrSignature)
}
