package openapi

import (
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"strings"
)

//go:embed page/page.html
var pageHTML string

//go:embed page/page.css
var pageCSS string

//go:embed page/page.js
var pageJS string

var page = []byte(strings.NewReplacer("/*css*/", pageCSS, "/*js*/", pageJS).Replace(pageHTML))

// CSP is the Content-Security-Policy to send with [Page]. The page loads nothing
// from elsewhere, asks nobody but the server that it came from, and runs no
// script but its own.
var CSP = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
	"connect-src 'self'; img-src data:; style-src " + hash(pageCSS) +
	"; script-src " + hash(pageJS)

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Page returns the page that shows the services of /openapi.json and sends
// requests to them. It is HTML in one piece; the caller must not change it.
func Page() []byte { return page }
