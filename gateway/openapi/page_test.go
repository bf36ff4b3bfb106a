package openapi_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
	"github.com/millrace-ml/millrace/gateway/openapi"
)

// maxPage bounds the page: it is sent in one piece.
const maxPage = 60 << 10

// The page is small, needs nothing from elsewhere, and makes no HTML of texts.
func TestPage(t *testing.T) {
	page := openapi.Page()
	if len(page) > maxPage {
		t.Errorf("the page has %d bytes, %d at most", len(page), maxPage)
	}
	for _, banned := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML",
		"document.write", "eval(", "/*css*/", "/*js*/", "src=", "url(", "@import"} {
		if bytes.Contains(page, []byte(banned)) {
			t.Errorf("the page has %q", banned)
		}
	}
	for _, link := range regexp.MustCompile(`(?:https?:)?//[\w.]+\.\w+[^'"]*`).FindAll(page, -1) {
		if string(link) != "http://www.w3.org/2000/svg" {
			t.Errorf("the page names %s", link)
		}
	}
}

// The policy allows the page's own style and script, and nothing else inline.
func TestCSP(t *testing.T) {
	f := func(directive, tag string) {
		t.Helper()
		parts := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllSubmatch(
			openapi.Page(), -1)
		if len(parts) != 1 || len(parts[0][1]) < 1000 {
			t.Fatalf("the page has %d of <%s>", len(parts), tag)
		}
		sum := sha256.Sum256(parts[0][1])
		want := directive + " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
		if !strings.Contains(openapi.CSP, want) {
			t.Errorf("%s lacks %s", openapi.CSP, want)
		}
	}
	f("style-src", "style")
	f("script-src", "script")
	if !strings.HasPrefix(openapi.CSP, "default-src 'none'; ") ||
		strings.Contains(openapi.CSP, "unsafe") {
		t.Error(openapi.CSP)
	}
}

// TestStandard holds the document against OpenAPI 3.1, and its examples against
// its schemas.
func TestStandard(t *testing.T) {
	interpreter := venv.Python(t, "requirements.txt")
	for name, services := range map[string][]openapi.Service{"zoo": zoo(), "empty": nil} {
		path := filepath.Join(t.TempDir(), name+".json")
		if err := os.WriteFile(path, document(t, services...), 0o644); err != nil {
			t.Fatal(err)
		}
		venv.Run(t, interpreter, "test_document.py", path)
	}
}

// serve serves the page, a document, and answers that tell what was asked.
func serve(t *testing.T, describe http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", openapi.CSP)
		_, _ = w.Write(openapi.Page())
	})
	mux.HandleFunc("GET /openapi.json", describe)
	mux.HandleFunc("POST /v2/models/tips/infer", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":"bad input: <b>no</b>"}`, http.StatusBadRequest)
	})
	mux.HandleFunc("POST /predict/sequence", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"id":9007199254740993,"score":NaN,"text":"a, b: {c}"}`)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if len(body) == 0 {
			body = []byte("null")
		}
		w.Header().Set("x-millrace-version", "7")
		w.Header().Set("x-millrace-route", "canary")
		fmt.Fprintf(w, `{"method":%q,"path":%q,"tenant":%q,"body":%s}`, r.Method,
			r.URL.EscapedPath(), r.Header.Get("x-tenant"), body)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// TestBrowser drives the page in a real browser. Screenshots go to the folder
// that MILLRACE_SCREENSHOTS names.
func TestBrowser(t *testing.T) {
	interpreter := venv.Python(t, "requirements.txt")
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("no chromium is installed; deploy/fetch-browser.sh brings one")
	}
	text := document(t, zoo()...)
	shots := os.Getenv("MILLRACE_SCREENSHOTS")
	if shots == "" {
		shots = t.TempDir()
	}
	var asked atomic.Int32
	venv.Run(t, interpreter, "test_page.py", browser, shots,
		serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) }),
		serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(document(t)) }),
		serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write(text)
		}))
}
