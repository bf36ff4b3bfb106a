package mlflow_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/registry/mlflow"
)

// serve starts a server and returns a client of it, below the prefix /x.
func serve(t *testing.T, handler http.HandlerFunc) *mlflow.Client {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return client(t, mlflow.Config{URI: s.URL + "/x/"})
}

func client(t testing.TB, cfg mlflow.Config) *mlflow.Client {
	t.Helper()
	c, err := mlflow.New(cfg, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConfig(t *testing.T) {
	f := func(cfg mlflow.Config, want string) {
		t.Helper()
		_, err := mlflow.New(cfg, http.DefaultClient)
		if want == "" && err != nil || want != "" && (err == nil ||
			!strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
	f(mlflow.Config{URI: "http://mlflow:5000"}, "")
	f(mlflow.Config{URI: "https://mlflow/pre/fix/", Username: "u", Password: "p"}, "")
	f(mlflow.Config{URI: "mlflow:5000"}, "http://host:5000")
	f(mlflow.Config{URI: "sqlite:///x"}, "http://host:5000")
	f(mlflow.Config{URI: ""}, "http://host:5000")
	f(mlflow.Config{URI: "http://u:p@mlflow"}, "username")
	f(mlflow.Config{URI: "http://mlflow/#/models"}, "fragment")
	f(mlflow.Config{URI: "http://m", Username: "u", Token: "t"}, "only one")
	f(mlflow.Config{URI: "http://m", Password: "p"}, "no username")
}

// TestRequests holds the requests against what MLflow takes.
func TestRequests(t *testing.T) {
	ctx := context.Background()
	ref := mlflow.Ref{Name: "a b/ü:'&#", Version: "3"}
	f := func(call func(*mlflow.Client) error, want string) {
		t.Helper()
		var got string
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got = r.Method + " " + r.RequestURI + " " + string(body)
			if r.Method != "GET" && r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s has the type %q", got, r.Header.Get("Content-Type"))
			}
			_, _ = w.Write([]byte(`{}`))
		})
		_ = call(c) // the answer lacks things, at times
		got = strings.Replace(got, "/x/api/2.0/mlflow/", "", 1)
		if strings.TrimSpace(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	const name = `"a b/ü:'\u0026#"`
	const quoted = "name=a+b%2F%C3%BC%3A%27%26%23"
	f(func(c *mlflow.Client) error { _, err := c.GetModel(ctx, ref.Name); return err },
		"GET registered-models/get?"+quoted)
	f(func(c *mlflow.Client) error { _, err := c.GetVersion(ctx, ref); return err },
		"GET model-versions/get?"+quoted+"&version=3")
	f(func(c *mlflow.Client) error { _, err := c.DownloadURI(ctx, ref); return err },
		"GET model-versions/get-download-uri?"+quoted+"&version=3")
	f(func(c *mlflow.Client) error {
		_, err := c.VersionByAlias(ctx, ref.Name, "champion")
		return err
	}, "GET registered-models/alias?alias=champion&"+quoted)
	f(func(c *mlflow.Client) error { return c.SetAlias(ctx, ref, "champion") },
		`POST registered-models/alias {"alias":"champion","name":`+name+`,"version":"3"}`)
	f(func(c *mlflow.Client) error { return c.DeleteAlias(ctx, ref.Name, "champion") },
		`DELETE registered-models/alias {"alias":"champion","name":`+name+`}`)
	f(func(c *mlflow.Client) error { return c.SetStage(ctx, ref, "Staging", true) },
		`POST model-versions/transition-stage {"archive_existing_versions":true,"name":`+name+
			`,"stage":"Staging","version":"3"}`)
	f(func(c *mlflow.Client) error { return c.SetVersionTag(ctx, ref, "k", "v") },
		`POST model-versions/set-tag {"key":"k","name":`+name+`,"value":"v","version":"3"}`)
	f(func(c *mlflow.Client) error { return c.DeleteVersionTag(ctx, ref, "k") },
		`DELETE model-versions/delete-tag {"key":"k","name":`+name+`,"version":"3"}`)
	f(func(c *mlflow.Client) error { return c.SetModelTag(ctx, ref.Name, "k", "v") },
		`POST registered-models/set-tag {"key":"k","name":`+name+`,"value":"v"}`)
	f(func(c *mlflow.Client) error { return c.DeleteModelTag(ctx, ref.Name, "k") },
		`DELETE registered-models/delete-tag {"key":"k","name":`+name+`}`)
	f(func(c *mlflow.Client) error {
		for _, err := range c.Models(ctx, "name LIKE 'a%'") {
			return err
		}
		return nil
	}, "GET registered-models/search?filter=name+LIKE+%27a%25%27&max_results=500&"+
		"order_by=name+ASC")
}

func TestCredentials(t *testing.T) {
	f := func(cfg mlflow.Config, want string) {
		t.Helper()
		var got string
		s := httptest.NewServer(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) { got = r.Header.Get("Authorization") }))
		defer s.Close()
		cfg.URI = s.URL
		if err := client(t, cfg).SetModelTag(context.Background(), "m", "k", "v"); err != nil {
			t.Error(err)
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(mlflow.Config{}, "")
	f(mlflow.Config{Token: "abc"}, "Bearer abc")
	f(mlflow.Config{Username: "u", Password: "p"}, "Basic dTpw")
}

// TestBrokenAnswers gives answers that are not those of MLflow.
func TestBrokenAnswers(t *testing.T) {
	f := func(status int, body string, class error, text string) {
		t.Helper()
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		})
		_, err := c.GetModel(context.Background(), "m")
		var fault *mlflow.Error
		if !errors.Is(err, class) || !errors.As(err, &fault) || fault.Status != status ||
			!strings.Contains(err.Error(), text) {
			t.Errorf("%d %q: %v, want %v with %q", status, body, err, class, text)
		}
	}
	const good = `{"registered_model": {"name": "m"`
	f(200, "<html>\n<h1>Log in</h1>", mlflow.ErrForeign, `"<html> <h1>Log in</h1>"`)
	f(404, "<html>not here", mlflow.ErrForeign, "HTTP 404")
	f(502, "<html>Bad Gateway", mlflow.ErrUnavailable, "Bad Gateway")
	f(429, "", mlflow.ErrUnavailable, "no text")
	f(401, "You are not authenticated", mlflow.ErrDenied, "not authenticated")
	f(403, "Invalid Host header - possible DNS rebinding attack detected", mlflow.ErrDenied,
		"Host header")
	f(200, "", mlflow.ErrTruncated, "empty")
	f(200, good, mlflow.ErrTruncated, "cut off")
	f(200, good+"}}{}", mlflow.ErrForeign, "follows")
	f(200, good+"}} bad", mlflow.ErrForeign, "invalid character")
	f(200, "null", mlflow.ErrForeign, "null")
	f(200, "[]", mlflow.ErrForeign, "no JSON object")
	f(200, "{}", mlflow.ErrForeign, `lacks the model "m"`)
	f(200, `{"registered_model": {"name": "other"}}`, mlflow.ErrForeign, "lacks")
	f(200, `{"registered_model": {"name": 7}}`, mlflow.ErrForeign, "name")
	f(200, `{"registered_model": {"name": "m", "tags": {"k": "v"}}}`, mlflow.ErrForeign, "tags")
	f(404, `{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no m"}`, mlflow.ErrNotFound,
		"RESOURCE_DOES_NOT_EXIST: no m")
	f(400, `{"error_code": "RESOURCE_ALREADY_EXISTS", "message": "m"}`, mlflow.ErrExists, "m")
	f(500, `{"error_code": "INTERNAL_ERROR", "message": "`+strings.Repeat("é", 1e6)+`"}`,
		mlflow.ErrUnavailable, "HTTP 500")
	f(200, good+strings.Repeat(" ", 32<<20)+"}}", mlflow.ErrForeign, "more than 33554432 bytes")
}

// TestRefusal wants a request that MLflow finds wrong to be of no class.
func TestRefusal(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error_code": "INVALID_PARAMETER_VALUE", "message": "bad"}`))
	})
	err := c.SetModelTag(context.Background(), "m", "k", "v")
	var fault *mlflow.Error
	if !errors.As(err, &fault) || fault.Err != nil || fault.Code != "INVALID_PARAMETER_VALUE" {
		t.Errorf("got %v", err)
	}
	_, err = c.VersionByAlias(context.Background(), "m", "nope")
	if !errors.Is(err, mlflow.ErrNotFound) {
		t.Errorf("an alias: %v", err)
	}
}

// TestWrongLength ends the connection before Content-Length is reached.
func TestWrongLength(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n"+
			`{"registered_model": {"name": "m"}}`)
	})
	_, err := c.GetModel(context.Background(), "m")
	if !errors.Is(err, mlflow.ErrTruncated) {
		t.Errorf("got %v", err)
	}
}

// TestRedirect finds that a POST which was redirected has become a GET.
func TestRedirect(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		_, _ = w.Write([]byte(`{}`))
	})
	err := c.SetModelTag(context.Background(), "m", "k", "v")
	if !errors.Is(err, mlflow.ErrForeign) || !strings.Contains(err.Error(), "redirected") {
		t.Errorf("got %v", err)
	}
}

// TestPages follows tokens, and gives up on those that never end.
func TestPages(t *testing.T) {
	tokens := []string{"", "a=", "b"}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		i := slices.Index(tokens, r.URL.Query().Get("page_token"))
		page := map[string]any{"model_versions": []map[string]any{{"name": "m",
			"version": fmt.Sprint(i), "creation_timestamp": i}}}
		if i+1 < len(tokens) {
			page["next_page_token"] = tokens[i+1]
		}
		_ = json.NewEncoder(w).Encode(page)
	})
	var got []string
	for v, err := range c.Versions(context.Background(), "name = 'm'") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %d", v.Name, v.Version, v.CreatedMillis))
	}
	if want := []string{"m 0 0", "m 1 1", "m 2 2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	f := func(token func(n int) string, most int) {
		t.Helper()
		n := 0
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			n++
			_, _ = fmt.Fprintf(w, `{"next_page_token": %q}`, token(n))
		})
		var last error
		for _, err := range c.Versions(context.Background(), "") {
			last = err
		}
		if !errors.Is(last, mlflow.ErrForeign) || n != most {
			t.Errorf("%d pages, then %v", n, last)
		}
	}
	f(func(int) string { return "same" }, 2)
	f(func(n int) string { return fmt.Sprint(n) }, 10_000)
}

func TestEquals(t *testing.T) {
	f := func(value, want string) {
		t.Helper()
		got, err := mlflow.Equals("name", value)
		if got != want || want == "" && !errors.Is(err, mlflow.ErrURI) {
			t.Errorf("%s: %s, %v", value, got, err)
		}
	}
	f("plain", "name = 'plain'")
	f("o'neill", `name = "o'neill"`)
	f(`say "hi"`, `name = 'say "hi"'`)
	f(`'"`, "")
	f(`ends\`, "")
}
