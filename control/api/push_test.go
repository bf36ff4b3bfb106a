package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/api/apitest"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func file(path, content string) api.File {
	sum := sha256.Sum256([]byte(content))
	return api.File{Path: path, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

func begin(t *testing.T, p *apitest.Plane, m api.Manifest) reply {
	t.Helper()
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return ask(t, p, "POST /api/v1/models/fraud/push"+jsonBody, string(body))
}

const octets = "\nContent-Type: application/octet-stream"

func TestPush(t *testing.T) {
	p := apitest.Serve(t, nil)
	model, data := strings.Repeat("onnx", 50_000), strings.Repeat("weights", 30_000)
	m := api.Manifest{Version: "7", Aliases: []string{"champion"},
		Files: []api.File{file("model.onnx", model), file("data/w.bin", data), file("empty", "")}}
	u := into[api.Upload](t, begin(t, p, m))
	at := "/api/v1/models/fraud/push/" + u.ID
	ask(t, p, "POST "+at+"/commit", "").want(t, 409, "0 of 200000 bytes")
	cut(t, p.URL+at+"/data/w.bin?offset=0", data)

	// Whoever begins the same again learns what has come, and goes on there.
	var again api.Upload
	eventually(t, func() bool {
		again = into[api.Upload](t, begin(t, p, m))
		return again.Files[1].Offset > 0
	})
	offset := again.Files[1].Offset
	if again.ID != u.ID || again.Files[0].Offset != 0 || offset >= int64(len(data)) {
		t.Fatalf("after a cut the upload is %+v", again)
	}
	ask(t, p, "PUT "+at+"/data/w.bin?offset=1"+octets, data).want(t, 409, `"offset":`)
	rest := func() (r reply) {
		eventually(t, func() bool { // the server may still hold the request that was cut
			offset = into[api.Upload](t, begin(t, p, m)).Files[1].Offset
			r = ask(t, p, "PUT "+at+"/data/w.bin?offset="+itoa(offset)+octets, data[offset:])
			return r.status != 423
		})
		return r
	}
	rest().want(t, 200, `"offset":210000`)
	ask(t, p, "PUT "+at+"/model.onnx?offset=0"+octets, model).want(t, 200)
	ask(t, p, "POST "+at+"/commit"+"\n"+api.UserHeader+": ann", "").want(t, 201, `"version":"7"`)
	if p.Pushed("fraud/7/model.onnx") != model || p.Pushed("fraud/7/data/w.bin") != data {
		t.Error("what was pushed is not what came")
	}
	if want := []string{"push fraud 7 [champion] by ann"}; !slices.Equal(p.Told(), want) {
		t.Errorf("the control plane was told %q, want %q", p.Told(), want)
	}
	ask(t, p, "POST "+at+"/commit", "").want(t, 404, "begin it again")
	if left, err := os.ReadDir(filepath.Join(p.Dir, "uploads")); err != nil || len(left) > 0 {
		t.Errorf("left is %v, %v", left, err)
	}
}

func itoa(n int64) string { b, _ := json.Marshal(n); return string(b) }

// cut sends the first half of a body and breaks the connection.
func cut(t *testing.T, url, body string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, "PUT", url, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	if _, err := io.WriteString(w, body[:len(body)/2]); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = w.CloseWithError(context.Canceled) // which always succeeds
	<-ended
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
}

// Bytes that are not those of the sum are refused, and can be sent again.
func TestPushWrongSum(t *testing.T) {
	p := apitest.Serve(t, nil)
	m := api.Manifest{Files: []api.File{file("model.onnx", "right")}}
	u := into[api.Upload](t, begin(t, p, m))
	at := "/api/v1/models/fraud/push/" + u.ID
	ask(t, p, "PUT "+at+"/model.onnx"+octets, "wrong").want(t, 200)
	ask(t, p, "POST "+at+"/commit", "").want(t, 422, "send it again", `"offset":0`)
	ask(t, p, "PUT "+at+"/model.onnx"+octets, "right").want(t, 200)
	ask(t, p, "POST "+at+"/commit", "").want(t, 201, `"version":"1"`)
}

func TestPushRefused(t *testing.T) {
	p := apitest.Serve(t, func(c *api.Config) { c.UploadBytes, c.MaxUploads = 1000, 2 })
	f := func(status int, text string, files ...api.File) {
		t.Helper()
		begin(t, p, api.Manifest{Files: files}).want(t, status, text)
	}
	ok := file("a", "x")
	f(400, "has 0 files")
	f(400, "path", file("../etc/passwd", "x"))
	f(400, "path", file("/etc/passwd", "x"))
	f(400, "path", file("a/./b", "x"))
	f(400, "path", file(`a\b`, "x"))
	f(400, "path", file("", "x"))
	f(400, "twice", ok, ok)
	f(400, "is a file and a folder", file("a", "x"), file("a/b", "x"))
	f(400, "64 lower-case", api.File{Path: "a", SHA256: "ABC"})
	f(400, "has -1 bytes", api.File{Path: "a", Size: -1, SHA256: ok.SHA256})
	f(413, "larger than 1000", api.File{Path: "a", Size: 1 << 62, SHA256: ok.SHA256},
		api.File{Path: "b", Size: 1 << 62, SHA256: ok.SHA256})
	f(200, `"offset":0`, api.File{Path: "a", Size: 900, SHA256: ok.SHA256})
	f(429, "under way", api.File{Path: "a", Size: 901, SHA256: ok.SHA256}) // too many bytes
	f(200, `"id"`, ok)
	f(429, "under way", file("c", "y")) // too many uploads

	u := into[api.Upload](t, begin(t, p, api.Manifest{Files: []api.File{ok}}))
	at := "PUT /api/v1/models/fraud/push/" + u.ID
	ask(t, p, at+"/b"+octets, "x").want(t, 404, "no file")
	ask(t, p, at+"/a"+jsonBody, "x").want(t, 415)
	ask(t, p, at+"/a?offset=-1"+octets, "x").want(t, 400)
	ask(t, p, at+"/a?offset=18446744073709551615"+octets, "x").want(t, 409)
	ask(t, p, at+"/a"+octets, "xyz").want(t, 413)
	ask(t, p, strings.Replace(at, "fraud", "other", 1)+"/a"+octets, "x").want(t, 404)
	ask(t, p, "PUT /api/v1/models/fraud/push/nothing/a"+octets, "x").want(t, 404)
	ask(t, p, "POST /api/v1/models/fraud/push"+jsonBody, `{"file":[]}`).want(t, 400)
	ask(t, p, "POST /api/v1/models/fraud/push"+jsonBody,
		`{"version":"`+strings.Repeat("x", 2<<20)+`"}`).want(t, 413)
}

// Uploads outlive the server; those that nobody goes on with are given up.
func TestPushRestart(t *testing.T) {
	var dir string
	first := apitest.Serve(t, func(c *api.Config) { dir = c.UploadDir })
	m := api.Manifest{Files: []api.File{file("model.onnx", "content")}}
	u := into[api.Upload](t, begin(t, first, m))
	ask(t, first, "PUT /api/v1/models/fraud/push/"+u.ID+"/model.onnx"+octets, "con").want(t, 200)
	if err := os.Mkdir(filepath.Join(dir, "half"), 0o700); err != nil { // cut off at its beginning
		t.Fatal(err)
	}
	second := apitest.Serve(t, func(c *api.Config) { c.UploadDir = dir })
	again := into[api.Upload](t, begin(t, second, m))
	if again.ID != u.ID || again.Files[0].Offset != 3 {
		t.Errorf("after a restart the upload is %+v", again)
	}
	third := apitest.Serve(t, func(c *api.Config) {
		c.UploadDir, c.UploadAge = dir, time.Nanosecond
	})
	if u := into[api.Upload](t, begin(t, third, m)); u.Files[0].Offset != 0 {
		t.Errorf("an old upload goes on: %+v", u)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != u.ID {
		t.Errorf("left is %v, %v", left, err)
	}
}
