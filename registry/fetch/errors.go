package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// What an Error wraps says what went wrong.
var (
	// ErrRefused is wrapped for URLs and addresses that must not be asked.
	ErrRefused = errors.New("fetch: refused")
	// ErrRedirect is wrapped for redirects that are not followed.
	ErrRedirect = errors.New("fetch: redirect not followed")
	// ErrConnection is wrapped when no connection could be made or it broke before an answer.
	ErrConnection = errors.New("fetch: no answer")
	// ErrTimeout is wrapped when the answer took too long or nothing came for too long.
	ErrTimeout = errors.New("fetch: too slow")
	// ErrStatus is wrapped when the answer's status is not 2xx.
	ErrStatus = errors.New("fetch: status")
	// ErrTooLarge is wrapped when a body has more than Config.MaxBytes.
	ErrTooLarge = errors.New("fetch: too large")
	// ErrCut is wrapped when a body ends too early.
	ErrCut = errors.New("fetch: half a file")
	// ErrSize is wrapped when a body has not the size that was wanted.
	ErrSize = errors.New("fetch: wrong size")
	// ErrContent is wrapped when something else came than what was asked for.
	ErrContent = errors.New("fetch: unexpected content")
	// ErrOpen is wrapped while a host that has failed too often is left alone.
	ErrOpen = errors.New("fetch: circuit breaker open")
	// ErrCredentials is wrapped when a password or token cannot be read.
	ErrCredentials = errors.New("fetch: no credentials")
)

// Error is what all calls return. It wraps one of the errors above and, where
// there is one, the cause.
type Error struct {
	Method     string
	URL        string        // as Redact writes it
	Kind       error         // one of the errors above
	Status     int           // of the answer; 0 when there was none
	Header     http.Header   // of an answer that is no success
	Body       []byte        // of an answer that is no success: its first maxErrorBody bytes
	RetryAfter time.Duration // how long the host asks to be left alone; 0 when it does not
	Detail     string        // for people
	Cause      error
}

func (e *Error) Error() string {
	text := "cannot " + e.Method + " " + e.URL + ": " + e.Kind.Error()
	if e.Status != 0 && e.Kind == ErrStatus {
		text += fmt.Sprintf(" %d %s", e.Status, http.StatusText(e.Status))
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Cause != nil {
		// What was refused says so itself.
		text += ": " + strings.TrimPrefix(e.Cause.Error(), e.Kind.Error()+": ")
	}
	return text
}

func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// Redact returns a URL for people: without user, password, fragment and the
// values of its query, which may be signatures and tokens.
func Redact(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	text := shown.String()
	if u.RawQuery == "" {
		return text
	}
	var keys []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		key, _, found := strings.Cut(pair, "=")
		if found {
			keys = append(keys, key+"=...")
		} else {
			keys = append(keys, "...") // a value without a key may be a token
		}
	}
	return text + "?" + strings.Join(keys, "&")
}

// maxErrorBody is how much of an answer that is no success is kept, in bytes.
const maxErrorBody = 16 << 10

// describe says what a body is, for people, in a line.
func describe(contentType string, body []byte) string {
	if isHTML(contentType, body) {
		if _, rest, found := bytes.Cut(body, []byte("<title>")); found {
			title, _, _ := bytes.Cut(rest, []byte("<"))
			return "an HTML page with the title " + fmt.Sprintf("%q", shorten(title))
		}
		return "an HTML page"
	}
	if len(body) == 0 {
		return "an empty body"
	}
	return shorten(body)
}

func isHTML(contentType string, body []byte) bool {
	return strings.HasPrefix(contentType, "text/html") ||
		strings.HasPrefix(http.DetectContentType(body), "text/html")
}

// shorten makes text that others have written fit into a line.
func shorten(text []byte) string {
	const most = 300 // bytes
	line := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, string(text[:min(len(text), most)]))
	return strings.Join(strings.Fields(line), " ")
}

// amount says how much of a file there is.
func amount(at, size int64) string {
	if size > 0 {
		return fmt.Sprintf("%d of %d bytes", at, size)
	}
	return fmt.Sprintf("%d bytes", at)
}
