package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// serve runs a server that answers with h and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNew(t *testing.T) {
	f := func(address, base string) {
		t.Helper()
		c, err := New(address)
		switch {
		case base == "" && (err == nil || !strings.Contains(err.Error(), "give one such as")):
			t.Errorf("New(%q) gives %v", address, err)
		case base != "" && (err != nil || c.at.Base != base):
			t.Errorf("New(%q) = %+v, %v", address, c, err)
		}
	}
	f("127.0.0.1:8000", "http://127.0.0.1:8000")
	f("http://host:1/", "http://host:1")
	f("https://host/prefix", "https://host/prefix")
	f("unix:/tmp/x", "http://unix")
	f("ftp://host", "")
	f("http://", "")
	f("", "")
	f("http://a b", "")
}

// TestPaths: names are escaped, and each call asks what it should.
func TestPaths(t *testing.T) {
	var asked string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = r.Method + " " + r.URL.EscapedPath() + " " + string(body)
		answer := "{}"
		if strings.HasSuffix(r.URL.Path, "/index") {
			answer = `[{"name":"a","version":"1","state":"READY","reason":""}]`
		}
		_, _ = io.WriteString(w, answer)
	})
	f := func(err error, want string) {
		t.Helper()
		if err != nil || asked != want {
			t.Errorf("asked %q, %v; want %q", asked, err, want)
		}
	}
	ctx := t.Context()
	_, err := c.Server(ctx)
	f(err, "GET /v2 ")
	_, err = c.Model(ctx, "a/b c", "")
	f(err, "GET /v2/models/a%2Fb%20c ")
	_, err = c.Model(ctx, "m", "v 1")
	f(err, "GET /v2/models/m/versions/v%201 ")
	entries, err := c.Index(ctx)
	f(err, "POST /v2/repository/index ")
	if len(entries) != 1 || entries[0] != (Entry{"a", "1", "READY", ""}) {
		t.Errorf("index is %+v", entries)
	}
	f(c.Load(ctx, "m", ""), "POST /v2/repository/models/m/load ")
	f(c.Load(ctx, "m", `{"max_batch_size":1}`),
		`POST /v2/repository/models/m/load {"parameters":{"config":"{\"max_batch_size\":1}"}}`)
	f(c.Unload(ctx, "m"), "POST /v2/repository/models/m/unload ")
}

// TestErrors: what the server says comes through, and what to do when there is none.
func TestErrors(t *testing.T) {
	f := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
	status, body := 404, `{"error":"no such model"}`
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
	_, err := c.Model(t.Context(), "m", "")
	f(err, "no such model (status 404)")
	var said *StatusError
	if !errors.As(err, &said) || said.Status != 404 {
		t.Errorf("error is %#v", err)
	}
	status, body = 502, "<html>"
	_, err = c.Model(t.Context(), "m", "")
	f(err, "Bad Gateway (status 502)")
	status, body = 503, "{}"
	f(c.Load(t.Context(), "m", ""), "the server answers with status 503")
	status, body = 200, "<html>"
	_, err = c.Model(t.Context(), "m", "")
	f(err, "is this a server of the Open Inference Protocol?")
	_, err = c.Index(t.Context())
	f(err, "cannot read the server's index")

	c, _ = New("unix:" + filepath.Join(t.TempDir(), "none"))
	_, err = c.Index(t.Context())
	f(err, "start one with `millrace serve`")
	if !errors.Is(err, ErrNoServer) {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	_, err = c.Index(ctx)
	f(err, "did not answer in time")
}

// TestUnix asks over a Unix socket.
func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"name":"millrace"}`)
		})}}
	s.Start()
	defer s.Close()
	c, err := New("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Server(t.Context()); err != nil || got.Name != "millrace" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestInfer: the body is what the binary extension wants, and the answer is
// taken apart the same way.
func TestInfer(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		n, err := strconv.Atoi(r.Header.Get(headerLength))
		var head requestHead
		if err != nil || json.Unmarshal(body[:n], &head) != nil || len(head.Inputs) != 1 ||
			head.Inputs[0].Name != "x" || string(body[n:]) != "\x01\x02" ||
			head.Parameters["timeout"] != float64(1500) ||
			head.Parameters["binary_data_output"] != true {
			t.Errorf("request is %q", body)
		}
		answer := `{"model_name":"m","model_version":"3","outputs":[` +
			`{"name":"y","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}},` +
			`{"name":"z","shape":[1],"datatype":"BYTES",` +
			`"parameters":{"binary_data_size":6,"class_names":"[\"a\"]"}}]}`
		w.Header().Set(headerLength, strconv.Itoa(len(answer)))
		_, _ = io.WriteString(w, answer+"\x05\x06"+"\x02\x00\x00\x00hi")
	})
	a, err := c.Infer(t.Context(), &Request{Model: "m", Timeout: 1500, Inputs: []tensor.Tensor{
		{Name: "x", Datatype: tensor.Uint8, Shape: []int64{2}, Data: []byte{1, 2}}}})
	if err != nil {
		t.Fatal(err)
	}
	if a.Model != "m" || a.Version != "3" || len(a.Outputs) != 2 ||
		string(a.Outputs[0].Data) != "\x05\x06" || a.Outputs[1].ClassNames[0] != "a" {
		t.Errorf("answer is %+v", a)
	}
}

// TestScalarShape holds that a scalar's shape is [] in JSON, not null, whoever made the tensor.
func TestScalarShape(t *testing.T) {
	for _, shape := range [][]int64{nil, {}} {
		body, _, err := Body(&Request{Inputs: []tensor.Tensor{{Name: "sr",
			Datatype: tensor.Int64, Shape: shape, Data: make([]byte, 8)}}})
		if err != nil || !bytes.Contains(body, []byte(`"shape":[]`)) {
			t.Errorf("%#v is sent as %q, %v", shape, body, err)
		}
	}
}

func TestParseAnswer(t *testing.T) {
	f := func(body, length, want string) {
		t.Helper()
		_, err := parseAnswer([]byte(body), length)
		if err == nil || !errors.Is(err, errAnswer) || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
	output := func(fields string) string { return `{"outputs":[{"name":"y",` + fields + `}]}` }
	g := func(fields, data, want string) {
		t.Helper()
		head := output(fields)
		f(head+data, strconv.Itoa(len(head)), want)
	}
	f("{}", "", "does the server know binary tensors?")
	f("{}", "3", "is \"3\" for 2 bytes")
	f("{}", "-1", "is \"-1\"")
	f("{", "1", "unexpected end")
	g(`"shape":[1],"datatype":"UINT8","data":[1]`, "", "has no binary data")
	g(`"shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":2}`, "a", "no binary data")
	g(`"shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":-1}`, "", "no binary data")
	g(`"shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":1}`, "a", "takes 2 bytes")
	g(`"shape":[1],"datatype":"WHAT","parameters":{"binary_data_size":1}`, "a", "no size")
	g(`"shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":4}`, "\x09\x00\x00\x00",
		"cut short")
	g(`"shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1,"class_names":"x"}`, "a",
		"class names")
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`{"outputs":[{"name":"y","shape":[1],"datatype":"UINT8",`+
		`"parameters":{"binary_data_size":1}}]}a`), "88")
	f.Fuzz(func(t *testing.T, body []byte, length string) {
		a, err := parseAnswer(body, length)
		if err != nil {
			return
		}
		for i := range a.Outputs {
			if err := a.Outputs[i].Check(); err != nil {
				t.Error(err)
			}
		}
	})
}
