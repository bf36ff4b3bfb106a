package mlflow

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// maxSkew is how far the time of a webhook may be from ours, as MLflow advises.
const maxSkew = 5 * time.Minute

// VerifyWebhook checks that a webhook was sent by who knows the secret, at most five
// minutes before or after now. The header X-MLflow-Delivery-Id, which stays the same
// when a delivery is repeated, is part of what is signed:
//
//	v1,base64(HMAC-SHA256(secret, id + "." + time + "." + body))
//
// Its error is ErrWebhook.
func VerifyWebhook(secret string, h http.Header, body []byte, now time.Time) error {
	id, sent := h.Get("X-MLflow-Delivery-Id"), h.Get("X-MLflow-Timestamp")
	seconds, err := strconv.ParseInt(sent, 10, 64)
	switch {
	case secret == "":
		return fmt.Errorf("%w: there is no secret to check it with", ErrWebhook)
	case id == "" || err != nil:
		return fmt.Errorf("%w: it has no delivery id or no time", ErrWebhook)
	}
	if skew := now.Sub(time.Unix(seconds, 0)); skew > maxSkew || skew < -maxSkew {
		return fmt.Errorf("%w: it was sent at another time than now", ErrWebhook)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, sent, body) // a hash takes everything
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	if !hmac.Equal([]byte(want), []byte(h.Get("X-MLflow-Signature"))) {
		return fmt.Errorf("%w: its signature is not that of the secret", ErrWebhook)
	}
	return nil
}
