package mlflow

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"
)

// The classes of errors. An Error is one of them, or of none: then the server
// found the request wrong.
var (
	// ErrNotFound is returned for a model, version, alias, run or file that is not there.
	ErrNotFound = errors.New("mlflow: not found")
	// ErrExists is returned when something of that name is there already.
	ErrExists = errors.New("mlflow: exists already")
	// ErrDenied is returned for missing or wrong credentials, missing rights, and
	// a host name that the server was not told to allow.
	ErrDenied = errors.New("mlflow: denied")
	// ErrUnavailable is returned when the same call may succeed later.
	ErrUnavailable = errors.New("mlflow: server unavailable")
	// ErrForeign is returned for an answer that is not MLflow's: a page of a proxy,
	// another server, or JSON of another shape.
	ErrForeign = errors.New("mlflow: not an answer of MLflow")
	// ErrTruncated is returned for an answer or a file that ends too early.
	ErrTruncated = errors.New("mlflow: answer cut off")
	// ErrSize is returned for a file that is longer than the server said.
	ErrSize = errors.New("mlflow: wrong size")
	// ErrDirect is returned for files that do not lie behind the server's artifact
	// proxy, but in a storage that has to be read directly.
	ErrDirect = errors.New("mlflow: artifacts are not served by the MLflow server")
	// ErrURI is returned for a model URI or a name that cannot be used.
	ErrURI = errors.New("mlflow: unusable URI")
	// ErrLimit is returned before sending what MLflow would refuse as too long.
	ErrLimit = errors.New("mlflow: too long")
	// ErrWebhook is returned for a webhook whose signature or time is wrong.
	ErrWebhook = errors.New("mlflow: webhook not authentic")
)

// Error is an answer that is not the one that was asked for.
type Error struct {
	Op      string // the call: its method and its path below /api/2.0/
	Status  int    // of HTTP
	Code    string // MLflow's error_code; empty when the answer was not MLflow's
	Message string // MLflow's, or what came instead
	Err     error  // the class, may be nil
}

func (e *Error) Error() string {
	text := fmt.Sprintf("cannot %s: HTTP %d", e.Op, e.Status)
	if e.Code != "" {
		text += " " + e.Code
	}
	return text + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// classes maps MLflow's codes to classes; the status decides about the others.
var classes = map[string]error{
	"RESOURCE_DOES_NOT_EXIST": ErrNotFound,
	"NOT_FOUND":               ErrNotFound,
	"RESOURCE_ALREADY_EXISTS": ErrExists,
	"ALREADY_EXISTS":          ErrExists,
}

// fault makes an Error of an answer whose status is none of success.
func fault(resp *http.Response, op string) error {
	e := &Error{Op: op, Status: resp.StatusCode}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxFault))
	var answer struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	if err == nil && json.Unmarshal(text, &answer) == nil && answer.Code != "" {
		e.Code, e.Message = answer.Code, cut(answer.Message)
	} else {
		e.Message = excerpt(text)
	}
	class, known := classes[e.Code]
	switch s := e.Status; {
	case known:
		e.Err = class
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		e.Err = ErrDenied
	case s == http.StatusRequestTimeout || s == http.StatusTooManyRequests,
		s >= 500 && s != http.StatusNotImplemented:
		e.Err = ErrUnavailable
	case e.Code == "":
		e.Err = ErrForeign
	}
	return e
}

// excerpt quotes the start of a text that is not MLflow's.
func excerpt(text []byte) string {
	if len(text) == 0 {
		return "no text"
	}
	words := strings.ToValidUTF8(string(text), "?")
	return fmt.Sprintf("%q", cut(strings.Join(strings.Fields(words), " ")))
}

// maxMessage is how much of another's text an error repeats, in characters.
const maxMessage = 300

func cut(text string) string {
	if utf8.RuneCountInString(text) <= maxMessage {
		return text
	}
	return string([]rune(text)[:maxMessage]) + " ..."
}
