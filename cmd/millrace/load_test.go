package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/bench"
)

// childOf returns the process that a server has started to try models, 0 for none.
func childOf(pid int) int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		list, _ := os.ReadFile(task) // a thread may end at any time
		for child := range strings.FieldsSeq(string(list)) {
			line, _ := os.ReadFile("/proc/" + child + "/cmdline")
			if bytes.HasSuffix(line, []byte("\x00trial\x00")) {
				n, _ := strconv.Atoi(child)
				return n
			}
		}
	}
	return 0
}

// TestTrialKilled: the process that tries models is killed from outside. The
// model that it was at fails, a new process tries the others.
func TestTrialKilled(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"digits", "iris", "wine"} {
		copyModel(t, name, dir)
	}
	// Nothing has passed before, so that there is something to try.
	file := write(t, filepath.Join(t.TempDir(), "m.yaml"),
		"repository: {trial: {cache: "+t.TempDir()+"}}\n")
	p := spawn(t, append(anyPort, "-c", file, "--models", dir)...)
	child := 0
	eventually(t, "a trial begins", func() bool {
		child = childOf(p.Cmd.Process.Pid)
		return child != 0
	})
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.WaitListening()
	got := p.ask("models")
	got.want(t, 0, "the process that tried it died: killed")
	if n := strings.Count(got.out, "READY"); n != 2 {
		t.Errorf("%d models are ready, want 2:\n%s", n, got.out)
	}
}

// TestNewVersion copies a new version in while requests come at half of what
// the server can do: none fails, and the new version answers.
func TestNewVersion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of load")
	}
	dir := t.TempDir()
	copyModel(t, "mlp", filepath.Join(dir, "models"))
	file := write(t, filepath.Join(dir, "m.yaml"),
		"repository: {paths: [models], mode: poll, poll_interval: 200ms}\n")
	p := launch(t, append(anyPort, "-c", file)...)

	load := func(args ...string) measured {
		t.Helper()
		got := p.ask(append([]string{"bench", "mlp", "--json"}, args...)...)
		got.want(t, 0)
		var m measured
		if err := json.Unmarshal([]byte(got.out), &m); err != nil {
			t.Fatalf("%v: %s", err, got.out)
		}
		return m
	}
	full := load("--concurrency", "32", "--warmup", "200ms", "--duration", "500ms")
	ran := make(chan measured, 1)
	go func() {
		ran <- load("--rate", fmt.Sprint(full.Rate/2), "--warmup", "0s", "--duration", "4s")
	}()
	eventually(t, "requests come", func() bool { return p.ask("models").status == 0 })
	model := filepath.Join(dir, "models", "mlp")
	err := os.CopyFS(filepath.Join(model, "2"), os.DirFS(filepath.Join(model, "1")))
	if err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("0,", 63) + "0"
	eventually(t, "version 2 answers", func() bool {
		return strings.Contains(p.ask("infer", "mlp", "-i", zeros).out, "version 2")
	})
	select {
	case m := <-ran:
		t.Fatalf("version 2 came after the load: %+v", m)
	default:
	}
	m := <-ran
	if m.Failed != 0 || m.OK == 0 || m.Statuses["200"] != m.OK {
		t.Errorf("%d of %d requests failed: %v", m.Failed, m.OK+m.Failed, m.Errors)
	}
	p.ask("infer", "mlp", "-i", zeros).want(t, 0, "version 2")
	eventually(t, "version 1 is gone", func() bool {
		return !strings.Contains(p.ask("models").out, "mlp    1        READY")
	})
}

// TestTermUnderLoad: SIGTERM while clients send as fast as they can. Each gets
// good answers until its connection is closed, and the status is 0.
func TestTermUnderLoad(t *testing.T) {
	dir := t.TempDir()
	copyModel(t, "mlp", dir)
	p := launch(t, append(anyPort, "--models", dir)...)
	time.AfterFunc(300*time.Millisecond, func() { _ = p.Cmd.Process.Signal(syscall.SIGTERM) })
	got := p.ask("bench", "mlp", "--json", "--warmup", "0s", "--duration", "600ms",
		"--timeout", "2s")
	var m measured
	if err := json.Unmarshal([]byte(got.out), &m); err != nil {
		t.Fatalf("%v: %s%s", err, got.out, got.errors)
	}
	if m.OK == 0 || m.Statuses["200"] != m.OK {
		t.Errorf("%d good answers, %v", m.OK, m.Statuses)
	}
	// A connection that was not accepted any more is no request lost.
	allowed := map[string]bool{"connection refused": true, "connection reset by peer": true}
	for _, e := range m.Errors {
		if !allowed[e.Text] {
			t.Errorf("%d requests failed by %s", e.Count, e.Text)
		}
	}
	if status := p.Status(); status != 0 {
		t.Errorf("status is %d", status)
	}
}

// TestBench sends each kind of load for a moment.
func TestBench(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, append(anyPort, "--models", samples)...)
	brief := []string{"--warmup", "0s", "--duration", "100ms", "--grpc", p.Addresses["grpc"]}
	f := func(args ...string) ended {
		t.Helper()
		return p.ask(append(append([]string{"bench"}, args...), brief...)...)
	}
	f("mlp").want(t, 0, "model mlp, json, 1 rows a request", "closed loop, 16 clients",
		"status 200", "latency", "generator busy")
	f("mlp", "--rate", "200").want(t, 0, "200/s on schedule, at most 64 under way",
		"answered        20 in", "failed          0", "sent late")
	f("digits", "--protocol", "binary", "--rows", "4").want(t, 0, "digits, binary, 4 rows")
	f("simple_string", "--protocol", "grpc", "--concurrency", "2").want(t, 0,
		"simple_string, grpc, 1 rows", "status OK", "closed loop, 2 clients")
	f("tips", "--rows", "3").want(t, 0, "tips, json, 3 rows")
	csv := write(t, filepath.Join(dir, "iris.csv"), "5.1,3.5,1.4,0.2\n6.3,3.3,6,2.5\n1,2,3,4\n")
	f("iris", "--data", csv).want(t, 0, "iris, json, 3 rows")
	f("iris", "--data", csv, "--rows", "2").want(t, 0, "iris, json, 2 rows")
	f("iris", "--input", "5.1,3.5,1.4,0.2", "--rows", "2").want(t, 0, "iris, json, 2 rows")
	f("iris", "--shape", "X=5,4").want(t, 0, "iris, json, 5 rows")

	var m measured
	got := f("mlp", "--json", "--rate", "100", "--rows", "2")
	if err := json.Unmarshal([]byte(got.out), &m); err != nil || m.OK != 10 || m.Rows != 2 ||
		m.RowsPerSecond != 2*m.Rate || m.Protocol != bench.HTTP {
		t.Errorf("%+v, %v", m, err)
	}

	f("iris", "--rows", "65").want(t, 1, "requests failed; most often: status 400", "must be <=")
	f("nope").want(t, 1, "see `millrace models`")
	f("mlp", "--protocol", "soap").want(t, 1, "is none of json, binary, grpc")
	f("mlp", "--rate", "-1").want(t, 1, "rate is -1")
	f("mlp", "--rows", "-1").want(t, 1, "give a number from 1 on")
	f("mlp", "--shape", "x=1,5").want(t, 1, "takes the shape [-1,64]")
	f("mlp", "--data", filepath.Join(dir, "none")).want(t, 1, "no such file")
	millrace(t, "bench", "mlp", "--url", p.url(), "--protocol", "grpc", "--grpc",
		"127.0.0.1:1").want(t, 1, "cannot connect to 127.0.0.1:1", "--grpc for gRPC")
	millrace(t, "bench", "mlp", "--url", "127.0.0.1:1").want(t, 1, "start one with")
}

func TestHostOf(t *testing.T) {
	f := func(address, want string) {
		t.Helper()
		got, err := hostOf(address)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("hostOf(%q) = %q, %v", address, got, err)
		}
	}
	f("http://127.0.0.1:8000", "127.0.0.1:8000")
	f("http://host/", "host:80")
	f("host:1", "host:1")
	f("unix:/x", "unix:/x")
	f("https://host", "")
	f("http://host/prefix", "")
}
