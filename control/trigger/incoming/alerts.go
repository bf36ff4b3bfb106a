package incoming

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

// Alert is one that fires.
type Alert struct {
	Fingerprint string            `json:"fingerprint"`
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	Link        string            `json:"generatorURL"`
}

// maxAlerts bounds the alerts of one webhook.
const maxAlerts = 1000

var fingerprint = regexp.MustCompile(`^[0-9a-f]{1,32}$`)

// Alerts reads a webhook of Alertmanager, version 4, and returns the alerts that fire.
// One that only says once more what it has said is empty. Check that it is Authentic
// before.
func Alerts(body []byte) ([]Alert, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: %d bytes; %d are allowed", ErrTooLarge, len(body), MaxBody)
	}
	var message struct {
		Version string  `json:"version"`
		Why     string  `json:"notification_reason"`
		Alerts  []Alert `json:"alerts"`
	}
	if err := json.Unmarshal(body, &message); err != nil {
		return nil, fmt.Errorf("%w: not the JSON of Alertmanager: %w", ErrMalformed, err)
	}
	switch {
	case message.Version != "4":
		return nil, fmt.Errorf("%w: it has the version %.20q, not \"4\"; leave out a payload of "+
			"your own in Alertmanager's receiver", ErrMalformed, message.Version)
	case len(message.Alerts) > maxAlerts:
		return nil, fmt.Errorf("%w: %d alerts; %d are allowed, set max_alerts in Alertmanager's "+
			"receiver", ErrMalformed, len(message.Alerts), maxAlerts)
	case message.Why == "repeat interval elapsed":
		return nil, nil
	}
	var firing []Alert
	for i, a := range message.Alerts {
		switch {
		case a.Status != "firing" && a.Status != "resolved":
			return nil, fmt.Errorf("%w: alerts[%d] has the status %.20q", ErrMalformed, i, a.Status)
		case a.Status == "resolved":
		case !fingerprint.MatchString(a.Fingerprint) || a.StartsAt.IsZero():
			return nil, fmt.Errorf("%w: alerts[%d] has no fingerprint or no startsAt", ErrMalformed,
				i)
		default:
			firing = append(firing, a)
		}
	}
	return firing, nil
}

// Event returns what a trigger may start for: the same for all copies of the alert, from
// its beginning to its end.
func (a Alert) Event() trigger.Event {
	reason := "the alert " + a.Labels["alertname"] + " fires"
	if summary := a.Annotations["summary"]; summary != "" {
		reason += ": " + summary
	}
	labels, err := json.Marshal(a.Labels)
	if err != nil { // texts can be written always
		labels = nil
	}
	return trigger.Event{
		ID:     "alert/" + a.Fingerprint + "/" + a.StartsAt.UTC().Format(time.RFC3339Nano),
		Reason: reason,
		Context: trigger.Context{Endpoint: a.Labels["endpoint"], Model: a.Labels["model"],
			Version: a.Labels["version"], Evidence: string(labels)},
	}
}
