package incoming

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/notify"
	"github.com/millrace-ml/millrace/control/trigger"
)

// Push is a push to a Git repository.
type Push struct {
	Delivery   string // for Seen: the same when the host sends it again
	Repository string // owner/name
	Ref        string // as in refs/heads/main
	Commit     string // the ref is at now
	Link       string
}

// pushBody is what the hosts send.
type pushBody struct {
	Ref     string `json:"ref"`
	After   string `json:"after"`
	Compare string `json:"compare"`
	// GitHub and Gitea.
	Repository struct {
		FullName string `json:"full_name"`
	} `json:"repository"`
	// GitLab.
	Project struct {
		Path string `json:"path_with_namespace"`
		URL  string `json:"web_url"`
	} `json:"project"`
}

// ReadPush checks and reads a webhook of GitHub, GitLab or Gitea. It is nil for one that
// is authentic and no push of commits: a ping, another event, a ref that was deleted.
//
// GitHub and Gitea sign the body with the secret. GitLab sends it as it is, or signs by
// Standard Webhooks if it is a signing token, "whsec_..."; then the time must be that of
// now.
func ReadPush(h http.Header, body []byte, secret string, now time.Time) (*Push, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: %d bytes; %d are allowed", ErrTooLarge, len(body), MaxBody)
	}
	host, err := authenticate(h, body, secret, now)
	if err != nil {
		return nil, err
	}
	if event := h.Get(host.event); event != "push" && event != "Push Hook" &&
		event != "Tag Push Hook" {
		return nil, nil
	}
	text := body
	if strings.HasPrefix(h.Get("Content-Type"), "application/x-www-form-urlencoded") {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, fmt.Errorf("%w: the form cannot be read", ErrMalformed)
		}
		text = []byte(form.Get("payload"))
	}
	var b pushBody
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("%w: no JSON of a push: %w", ErrMalformed, err)
	}
	return b.push(host.delivery(h, body))
}

var commit = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

func (b pushBody) push(delivery string) (*Push, error) {
	p := &Push{Delivery: delivery, Repository: b.Repository.FullName, Ref: b.Ref, Commit: b.After,
		Link: b.Compare}
	if b.Project.Path != "" {
		p.Repository = b.Project.Path
		p.Link = b.Project.URL + "/-/commit/" + b.After
	}
	switch {
	case p.Repository == "" || !strings.HasPrefix(p.Ref, "refs/"):
		return nil, fmt.Errorf("%w: it names no repository or no ref", ErrMalformed)
	case !commit.MatchString(p.Commit):
		return nil, fmt.Errorf("%w: %.80q is no commit", ErrMalformed, p.Commit)
	case strings.Trim(p.Commit, "0") == "": // the ref was deleted
		return nil, nil
	}
	return p, nil
}

// Event returns what a trigger may start for: once for each commit that a ref comes to.
func (p *Push) Event() trigger.Event {
	return trigger.Event{
		ID:     "push/" + p.Repository + "/" + p.Ref + "/" + p.Commit,
		Reason: fmt.Sprintf("%s of %s is at the commit %.12s", p.Ref, p.Repository, p.Commit),
		Context: trigger.Context{Extra: map[string]string{"repository": p.Repository, "ref": p.Ref,
			"commit": p.Commit}},
	}
}

// host is where a Git host's webhooks have their event and the delivery's id.
type host struct {
	event string
	ids   []string // the first that is there
}

// Gitea sends the headers of GitHub, too.
var (
	githubHost = host{"X-GitHub-Event", []string{"X-GitHub-Delivery"}}
	gitlabHost = host{"X-Gitlab-Event", []string{"Webhook-Id", "Idempotency-Key",
		"X-Gitlab-Event-UUID"}}
)

// delivery returns the delivery's id, or the body's hash where there is none. The header
// is signed at Standard Webhooks only: who replays a delivery with another header meets
// the run of the same commit.
func (k host) delivery(h http.Header, body []byte) string {
	for _, key := range k.ids {
		if id := h.Get(key); id != "" {
			return fmt.Sprintf("%.200s", id)
		}
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// authenticate checks a webhook, and says which host's it is.
func authenticate(h http.Header, body []byte, secret string, now time.Time) (host, error) {
	fail := func(why string) (host, error) {
		return host{}, fmt.Errorf("%w: %s", ErrNotAuthentic, why)
	}
	switch {
	case secret == "":
		return fail("no secret is set here")
	case h.Get("Webhook-Signature") != "":
		s, err := notify.ParseSecret(secret)
		if err != nil {
			return fail("the secret set here is no signing token: " + err.Error())
		}
		if err := s.Verify(h, body, now); err != nil {
			return fail(err.Error())
		}
		return gitlabHost, nil
	case h.Get("X-Gitlab-Token") != "":
		if !equal(h.Get("X-Gitlab-Token"), secret) {
			return fail("X-Gitlab-Token is another than the secret set here")
		}
		return gitlabHost, nil
	}
	signature, found := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
	if !found {
		return fail("it is not signed: set a secret at the Git host")
	}
	got, err := hex.DecodeString(signature)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	if err != nil || !hmac.Equal(got, mac.Sum(nil)) {
		return fail("X-Hub-Signature-256 is not that of the secret set here")
	}
	return githubHost, nil
}
