// Package incoming reads webhooks that events come by: alerts of Alertmanager, and
// pushes of GitHub, GitLab and Gitea.
//
// [Authentic], [Alerts] and [ReadPush] check and read them, as pure functions of headers,
// body and secret; [Seen] leaves out deliveries that have come before. Who answers the webhook
// reads at most [MaxBody] bytes, stores the Seen and the runs of the events, and answers
// only then: with 400, 401 or 413 for the errors of this package, which are not told
// again, and with 503 for its own, which are.
package incoming

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// MaxBody bounds a webhook, in bytes. A push that is larger is one of thousands of
// files, of which nothing is read here but its head.
const MaxBody = 4 << 20

var (
	// ErrTooLarge is returned for a body of more than MaxBody.
	ErrTooLarge = errors.New("incoming: webhook too large")
	// ErrNotAuthentic is returned for a webhook that was not sent by who knows the secret.
	ErrNotAuthentic = errors.New("incoming: webhook not authentic")
	// ErrMalformed is returned for a webhook that cannot be read.
	ErrMalformed = errors.New("incoming: webhook malformed")
)

// Authentic checks the bearer token of a webhook that is not signed, as Alertmanager
// sends it by its http_config. An empty token lets nobody in.
func Authentic(h http.Header, token string) error {
	got, found := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	if !found || !equal(got, token) {
		return fmt.Errorf("%w: the header Authorization has not the token", ErrNotAuthentic)
	}
	return nil
}

// equal compares secrets in a time that does not depend on them, nor on their lengths.
func equal(got, want string) bool {
	a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return want != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// Seen are the latest deliveries. It is a value: Add returns another.
type Seen struct {
	Deliveries []Delivery `json:"deliveries"` // the oldest first
}

// Delivery is one that has come.
type Delivery struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
}

// How many deliveries are remembered, and for how long. Signatures of Git hosts hold no
// time; a delivery that comes again after that is kept out by the run of its event.
const (
	maxSeen = 1000
	seenFor = 7 * 24 * time.Hour
)

// Add remembers a delivery, and says whether it is new.
func (s Seen) Add(id string, now time.Time) (after Seen, fresh bool) {
	for _, d := range s.Deliveries {
		if d.ID == id {
			return s, false
		}
	}
	kept := make([]Delivery, 0, len(s.Deliveries)+1)
	for _, d := range s.Deliveries[max(0, len(s.Deliveries)+1-maxSeen):] {
		if now.Sub(d.At) < seenFor {
			kept = append(kept, d)
		}
	}
	return Seen{append(kept, Delivery{id, now})}, true
}
