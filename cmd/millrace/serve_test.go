package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestModels lists, and does not load where folders decide.
func TestModels(t *testing.T) {
	p := launch(t, append(anyPort, "--models", samples)...)
	p.WaitFor(0, "ready=12 failed=0")
	for _, args := range [][]string{{"models"}, {"models", "list"}} {
		p.ask(args...).want(t, 0, "MODEL", "iris", "READY")
	}
	p.ask("models", "--json").want(t, 0, `{"name":"iris","version":"1","state":"READY"}`)
	p.ask("models", "load", "iris").want(t, 1, "use mode explicit")
	p.ask("models", "unload", "iris").want(t, 1, "use mode explicit")
	p.ask("infer", "nope", "--input", "1").want(t, 1, "see `millrace models`")
	complete := func(words ...string) ended {
		last := len(words) - 1
		args := append([]string{"__complete"}, words[:last]...)
		return millrace(t, append(args, "--url", p.url(), words[last])...)
	}
	complete("infer", "").want(t, 0, "digits_fp16\ndigits_rnn\n")
	complete("bench", "").want(t, 0, "iris\n")
	complete("models", "unload", "").want(t, 0, "wine\n")
	complete("infer", "iris", "").want(t, 0, ":4")
	p.Signal(syscall.SIGTERM)
	if status := p.Status(); status != 0 {
		t.Errorf("status is %d after SIGTERM", status)
	}
	p.ask("models").want(t, 1, "no server answers", "start one with `millrace serve`")
	complete("infer", "").want(t, 0, ":4")
}

// TestSettings serves by a file with relative paths and Unix sockets, and
// takes the file over again on SIGHUP, unless it is wrong.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	copyModel(t, "iris", filepath.Join(dir, "models"))
	copyModel(t, "wine", filepath.Join(dir, "models"))
	text := "server: {http: 'unix:" + dir + "/http', grpc: 'unix:" + dir + "/grpc', " +
		"admin: 'unix:" + dir + "/admin', log: {level: %s}}\n" +
		"repository: {paths: [models], mode: explicit, load: [%s]}\n"
	file := write(t, filepath.Join(dir, "millrace.yaml"), fmt.Sprintf(text, "info", "iris"))
	p := launch(t, "-c", file)
	p.ask("infer", "iris", "--input", "5.1,3.5,1.4,0.2").want(t, 0, "setosa", "version 1")
	p.ask("models").want(t, 0, "wine", "not loaded")

	write(t, file, fmt.Sprintf(text, "info", "iris, wine"))
	p.Signal(syscall.SIGHUP)
	p.WaitFor(0, "settings taken over")
	p.ask("models").want(t, 0, "wine   1        READY")

	write(t, file, "server: {grace: 5}\nmodles: []\n")
	p.Signal(syscall.SIGHUP)
	line := p.WaitFor(0, "those in force stay")
	for _, want := range []string{"millrace.yaml:1: server.grace", "millrace.yaml:2: modles",
		"did you mean models?"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is missing in %s", want, line)
		}
	}
	p.ask("infer", "wine", "--input", strings.Repeat("1,", 12)+"1").want(t, 0, "version 1")

	p.ask("models", "unload", "iris").want(t, 0)
	p.ask("infer", "iris", "--input", "5.1,3.5,1.4,0.2").want(t, 1, "unloaded")
	p.ask("models", "load", "iris").want(t, 0)
	p.ask("models", "load", "nope").want(t, 1, "it is in no model repository")
	config := write(t, filepath.Join(dir, "c.json"), `{"max_batch_size": 2}`)
	p.ask("models", "load", "iris", "--config", config).want(t, 0)
	p.ask("infer", "iris", "--input", "1,2,3,4,1,2,3,4,1,2,3,4").want(t, 1, "must be <= 2")
	p.ask("models", "load", "iris", "--config", config+"x").want(t, 1, "cannot read")

	p.Signal(syscall.SIGINT)
	if status := p.Status(); status != 0 {
		t.Errorf("status is %d after SIGINT", status)
	}
	if _, err := os.Stat(filepath.Join(dir, "http")); err == nil {
		t.Error("the socket is left behind")
	}
}

// TestHangup without a file has nothing to read and changes nothing.
func TestHangup(t *testing.T) {
	dir := t.TempDir()
	copyModel(t, "iris", dir)
	p := launch(t, append(anyPort, "--models", dir)...)
	p.Signal(syscall.SIGHUP)
	p.WaitFor(0, "SIGHUP is for a settings file")
	p.ask("models").want(t, 0, "READY")
}

// half is a request of which the body is sent in two parts.
type half struct {
	conn net.Conn
	rest string
}

// sendHalf begins a request and leaves it unfinished.
func sendHalf(t *testing.T, p *process) half {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addresses["http"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	body := `{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}`
	_, err = fmt.Fprintf(conn, "POST /v2/models/iris/infer HTTP/1.1\r\nHost: a\r\n"+
		"Content-Length: %d\r\n\r\n%s", len(body), body[:20])
	if err != nil {
		t.Fatal(err)
	}
	return half{conn, body[20:]}
}

// finish sends the rest and returns the answer.
func (h half) finish(t *testing.T) (status int, body string) {
	t.Helper()
	if _, err := io.WriteString(h.conn, h.rest); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(h.conn), nil)
	if err != nil {
		t.Fatalf("a request that was accepted gets no answer: %v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// ready asks the admin port, which answers to the end.
func (p *process) ready() bool {
	resp, err := http.Get("http://" + p.Addresses["admin"] + "/v2/health/ready")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// TestDrain: on SIGTERM readiness fails first, new connections are refused,
// requests under way are answered, and the status is 0.
func TestDrain(t *testing.T) {
	dir := t.TempDir()
	copyModel(t, "iris", dir)
	p := launch(t, append(anyPort, "--models", dir)...)
	if !p.ready() {
		t.Fatal("the server is not ready")
	}
	requests := make([]half, 5)
	for i := range requests {
		requests[i] = sendHalf(t, p)
	}
	// The server reads what was sent before it is told to end.
	p.ask("infer", "iris", "--input", "1,2,3,4").want(t, 0)
	p.Signal(syscall.SIGTERM)
	eventually(t, "readiness fails", func() bool { return !p.ready() })
	for _, r := range requests {
		if status, body := r.finish(t); status != 200 || !strings.Contains(body, "setosa") {
			t.Errorf("status %d: %s", status, body)
		}
	}
	if status := p.Status(); status != 0 {
		t.Errorf("status is %d", status)
	}
	if _, err := net.Dial("tcp", p.Addresses["http"]); err == nil {
		t.Error("something still listens")
	}
}

// TestSecondSignal ends a server that waits for requests under way.
func TestSecondSignal(t *testing.T) {
	dir := t.TempDir()
	copyModel(t, "iris", dir)
	p := launch(t, append(anyPort, "--models", dir)...)
	sendHalf(t, p)
	p.ask("infer", "iris", "--input", "1,2,3,4").want(t, 0)
	p.Signal(syscall.SIGTERM)
	p.WaitFor(0, "msg=ending")
	select {
	case <-p.Ended:
		t.Fatal("the server does not wait for a request under way")
	default:
	}
	p.Signal(syscall.SIGTERM)
	if status := p.Status(); status != -1 {
		t.Errorf("status is %d, want the end by a signal", status)
	}
}

// TestGrace: what is not answered in time is given up, and that is a failure.
func TestGrace(t *testing.T) {
	dir := t.TempDir()
	copyModel(t, "iris", filepath.Join(dir, "models"))
	file := write(t, filepath.Join(dir, "m.yaml"), "server: {grace: 50ms}\n"+
		"repository: {paths: [models]}\n")
	p := launch(t, append(anyPort, "-c", file)...)
	sendHalf(t, p)
	p.ask("infer", "iris", "--input", "1,2,3,4").want(t, 0)
	p.Signal(syscall.SIGTERM)
	if status := p.Status(); status != 1 || !strings.Contains(p.Output(), "raise server.grace") {
		t.Errorf("status is %d", status)
	}
}

// TestAddresses: an address that is taken is told at once; the socket of a dead
// server is replaced, that of a living one is not.
func TestAddresses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	millrace(t, "serve", "--models", samples, "--http", "127.0.0.1:0", "--grpc", taken,
		"--admin", "").want(t, 1, "cannot listen for grpc: "+taken+" is taken by another program")

	dir := t.TempDir()
	copyModel(t, "iris", filepath.Join(dir, "models"))
	socket := "unix:" + filepath.Join(dir, "s")
	args := []string{"--models", filepath.Join(dir, "models"), "--http", socket, "--grpc", "",
		"--admin", ""}
	p := launch(t, args...)
	millrace(t, append([]string{"serve"}, args...)...).want(t, 1, "another server answers on")
	p.Signal(syscall.SIGKILL)
	p.Status()
	p = launch(t, args...)
	p.ask("models").want(t, 0, "READY")

	// What is no socket is somebody's file.
	precious := write(t, filepath.Join(dir, "precious"), "text")
	args[3] = "unix:" + precious
	millrace(t, append([]string{"serve"}, args...)...).want(t, 1, "is there and is no socket")
	if _, err := os.Stat(precious); err != nil {
		t.Error("a file that is no socket is removed")
	}
}

// TestNoStart: each reason not to start says what to do.
func TestNoStart(t *testing.T) {
	empty := t.TempDir()
	millrace(t, "serve").want(t, 1, "give one with --models DIR")
	millrace(t, "serve", "--models", filepath.Join(empty, "none")).want(t, 1,
		"cannot open the model repository", "see `millrace check DIR`")
	millrace(t, "serve", "--models", empty, "--http", "8000").want(t, 1, "server.http",
		"must be host:port such as")
	millrace(t, "serve", "-c", filepath.Join(empty, "none.yaml")).want(t, 1,
		"cannot read the settings")
	millrace(t, "serve", "--modles", "x").want(t, 1, "see `millrace serve --help`")
	millrace(t, "srve").want(t, 1, "unknown command")

	cmd := command(append([]string{"serve", "--models", samples}, anyPort...)...)
	cmd.Env = append(cmd.Env, "MILLRACE_ONNXRUNTIME=/nowhere/libonnxruntime.so")
	finish(t, cmd).want(t, 1, "cannot use the library of the environment MILLRACE_ONNXRUNTIME")

	// Nowhere to be found: another working directory, and no cache.
	abs, err := filepath.Abs(samples)
	if err != nil {
		t.Fatal(err)
	}
	cmd = command(append([]string{"serve", "--models", abs}, anyPort...)...)
	cmd.Dir = empty
	cmd.Env = []string{beMillrace + "=1", "HOME=" + empty}
	finish(t, cmd).want(t, 1, "no ONNX Runtime library found", "`make build` fetches it")
}

// TestEmpty: a folder without models is served; they may come later.
func TestEmpty(t *testing.T) {
	p := launch(t, append(anyPort, "--models", t.TempDir())...)
	p.WaitFor(0, "ready=0 failed=0")
	p.ask("models").want(t, 0, "the server has no models")
	p.ask("models", "--json").want(t, 0, "[]")
	if !p.ready() {
		t.Error("a server that has loaded all there is, is not ready")
	}
}
