package mlflow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/mlflow"
)

const root = "mlflow-artifacts:/1/ü x"

// TestOpen reads a file from servers with and without ranges.
func TestOpen(t *testing.T) {
	const content = "0123456789"
	ranges := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	}
	whole := func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(content)) }
	other := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-9/10")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write([]byte(content))
	}
	cut := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = w.Write([]byte(content[:7]))
	}
	type part struct{ size, offset int64 }
	f := func(h http.HandlerFunc, p part, want string, class error) {
		t.Helper()
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.RequestURI != "/x/api/2.0/mlflow-artifacts/artifacts/1/%C3%BC%20x/a%3F/b%25" {
				t.Errorf("asked for %s", r.RequestURI)
			}
			h(w, r)
		})
		r, err := c.Open(context.Background(), root, mlflow.File{Path: "a?/b%", Size: p.size},
			p.offset)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
			_ = r.Close()
		}
		if string(got) != want || !errors.Is(err, class) {
			t.Errorf("%+v: %q, %v; want %q, %v", p, got, err, want, class)
		}
	}
	for _, h := range []http.HandlerFunc{ranges, whole} {
		f(h, part{10, 0}, content, nil)
		f(h, part{10, 4}, "456789", nil)
		f(h, part{10, 10}, "", nil)
		f(h, part{-1, 4}, "456789", nil)
		f(h, part{12, 0}, content, mlflow.ErrTruncated)
		f(h, part{12, 4}, "456789", mlflow.ErrTruncated)
		f(h, part{8, 0}, "01234567", mlflow.ErrSize)
		f(h, part{8, 4}, "4567", mlflow.ErrSize)
	}
	f(whole, part{15, 12}, "", mlflow.ErrTruncated)
	f(other, part{10, 4}, "", mlflow.ErrForeign)
	f(cut, part{10, 0}, "0123456", mlflow.ErrTruncated)
	f(cut, part{-1, 0}, "0123456", mlflow.ErrTruncated)
	f(cut, part{10, 8}, "", mlflow.ErrTruncated)
}

// TestPlaces wants files from the server's own proxy only, and no way out of a root.
func TestPlaces(t *testing.T) {
	var host string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		host = r.Host
		_, _ = w.Write([]byte(`{"files": [{"path": "f", "is_dir": false, "file_size": 1}]}`))
	})
	f := func(root, name string, class error) {
		t.Helper()
		_, err := c.List(context.Background(), root)
		r, openErr := c.Open(context.Background(), root, mlflow.File{Path: name, Size: -1}, 0)
		if openErr == nil {
			_ = r.Close()
		}
		if err == nil {
			err = openErr
		}
		if !errors.Is(err, class) {
			t.Errorf("%s of %s: %v, want %v", name, root, err, class)
		}
	}
	f("mlflow-artifacts:/1/x", "f", nil)
	f("mlflow-artifacts:/1/x///", "f", nil)
	f("mlflow-artifacts:///1/x", "f", nil)
	f("mlflow-artifacts://"+host+"/1/x", "f", nil)
	f("mlflow-artifacts://other:5000/1/x", "f", mlflow.ErrDirect)
	f("s3://bucket/1", "f", mlflow.ErrDirect)
	f("file:///etc", "f", mlflow.ErrDirect)
	f("/etc", "f", mlflow.ErrDirect)
	f("mlflow-artifacts:/1/../2", "f", mlflow.ErrURI)
	for _, name := range []string{"", ".", "..", "../f", "/f", "a/../f", "a//f", `a\f`, "a\x00"} {
		f("mlflow-artifacts:/1", name, mlflow.ErrURI)
	}
}

// TestList lists folders, and refuses names and amounts that cannot be true.
func TestList(t *testing.T) {
	f := func(list func(dir string) string, want string, class error) {
		t.Helper()
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, `{"files": [%s]}`, list(r.URL.Query().Get("path")))
		})
		files, err := c.List(context.Background(), root)
		if !errors.Is(err, class) || err == nil && fmt.Sprint(files) != want {
			t.Errorf("%v, %v; want %s, %v", files, err, want, class)
		}
	}
	f(func(dir string) string {
		switch dir {
		case "1/ü x":
			return `{"path": "z", "is_dir": false, "file_size": 3}, {"path": "d", "is_dir": true}`
		case "1/ü x/d":
			return `{"path": "y", "is_dir": false, "file_size": 0}, {"path": "x"}`
		}
		return ""
	}, "[{d/x -1} {d/y 0} {z 3}]", nil)
	f(func(string) string { return "" }, "", mlflow.ErrNotFound)
	f(func(string) string { return `{"path": "d", "is_dir": true}` }, "", mlflow.ErrLimit)
	f(func(string) string { return strings.Repeat(`{"path": "a"},`, 1e5) + `{"path": "b"}` }, "",
		mlflow.ErrLimit)
	for _, name := range []string{"../up", "..", "a/b", "/abs", `a\\b`, "", "."} {
		f(func(string) string { return `{"path": "` + name + `"}` }, "", mlflow.ErrForeign)
	}
}

// TestUpload wants the body as it is, and no success that a proxy has made up.
func TestUpload(t *testing.T) {
	var got, answer string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = fmt.Sprintf("%s %s %d %s", r.Method, r.RequestURI, r.ContentLength, body)
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, answer)
	})
	body := []byte("evidence")
	f := mlflow.File{Path: "a b/e.json", Size: int64(len(body))}
	if err := c.Upload(context.Background(), root, f, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	want := "PUT /x/api/2.0/mlflow-artifacts/artifacts/1/%C3%BC%20x/a%20b/e.json 8 evidence"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	answer, got = "{}", ""
	unsized := io.MultiReader(bytes.NewReader(body))
	if err := c.Upload(context.Background(), root, f, unsized); err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
	answer = "<html>Log in"
	err := c.Upload(context.Background(), root, f, bytes.NewReader(body))
	if !errors.Is(err, mlflow.ErrForeign) {
		t.Errorf("got %v", err)
	}
}
