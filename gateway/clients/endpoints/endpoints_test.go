// Package endpoints_test calls the endpoints of a real server with clients as
// people install them, and with a browser.
package endpoints_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/clients/venv"
)

// patience bounds the waits for the server.
const patience = time.Minute

func TestEndpoints(t *testing.T) {
	interpreter := venv.Python(t, "requirements.txt")
	dir := t.TempDir()
	addresses := serve(t, dir)
	f := func(script string, args ...string) {
		t.Helper()
		t.Run(strings.TrimSuffix(script, ".py"), func(t *testing.T) {
			t.Parallel()
			venv.Run(t, interpreter, script, args...)
		})
	}
	f("test_tritonclient.py", addresses["http"], addresses["grpc"])
	f("test_kserve.py", addresses["http"], addresses["grpc"])
	f("test_invocations.py", addresses["http"])
	f("test_mlflow.py", addresses["http"], filepath.Join(dir, "models"))
	t.Run("test_page", func(t *testing.T) {
		t.Parallel()
		browser, err := exec.LookPath("chromium")
		if err != nil {
			t.Fatal("no chromium is installed; deploy/fetch-browser.sh brings one")
		}
		venv.Run(t, interpreter, "test_page.py", browser, screenshots(t), addresses["http"])
	})
}

// screenshots returns the folder that MILLRACE_SCREENSHOTS names, or one that
// goes with the test.
func screenshots(t *testing.T) string {
	if dir := os.Getenv("MILLRACE_SCREENSHOTS"); dir != "" {
		return dir
	}
	return t.TempDir()
}

// models lays out the sample models as settings.yaml wants them, and models for
// the comparison with MLflow.
func models(t *testing.T, dir string) {
	t.Helper()
	const samples = "../../../configs/models"
	place := func(from, to string) {
		t.Helper()
		if err := os.CopyFS(filepath.Join(dir, to), os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	place(samples, "")
	for _, name := range []string{"iris", "simple", "tips"} {
		place(filepath.Join(samples, name, "1"), filepath.Join(name, "2"))
	}
	place("testdata/columns", "columns")
	place("testdata/progress", "progress")
	text, err := os.ReadFile(filepath.Join(samples, "diabetes", "1", "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "progress", "model.onnx"), text)
	write(t, filepath.Join(dir, "iris", "config.pbtxt"), []byte(`parameters {
		key: "feature_names"
		value { string_value:
			"[\"sepal_length\",\"sepal_width\",\"petal_length\",\"petal_width\"]" }
	}`))
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// serve starts a server with everything in dir, and returns its addresses by
// protocol. The server ends with the test, and has to do so well.
func serve(t *testing.T, dir string) (addresses map[string]string) {
	t.Helper()
	models(t, filepath.Join(dir, "models"))
	settings, err := os.ReadFile("settings.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file, binary := filepath.Join(dir, "settings.yaml"), filepath.Join(dir, "millrace")
	write(t, file, settings)
	build := exec.Command("go", "build", "-o", binary, "../../../cmd/millrace")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build millrace: %v\n%s", err, out)
	}
	cmd := exec.Command(binary, "serve", "-c", file)
	// A test that dies takes the server with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	listening := make(chan string, 1)
	go watch(stderr, listening, said)
	t.Cleanup(func() {
		timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		text := <-said
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("the server ended: %v\n%s", err, text)
		}
	})
	select {
	case line := <-listening:
		addresses = make(map[string]string)
		for _, m := range addressPattern.FindAllStringSubmatch(line, -1) {
			addresses[m[1]] = m[2]
		}
	case <-time.After(patience):
	}
	if len(addresses) != 3 {
		t.Fatal("the server does not say where it listens")
	}
	return addresses
}

var addressPattern = regexp.MustCompile(`\b(http|grpc|admin)=(\S+)`)

// watch sends the line that says where a server listens, and at its end all lines.
func watch(stderr io.Reader, listening, said chan<- string) {
	var all []string
	for in := bufio.NewScanner(stderr); in.Scan(); {
		all = append(all, in.Text())
		if strings.HasPrefix(in.Text(), "listening ") {
			listening <- in.Text()
		}
	}
	close(listening)
	said <- strings.Join(all, "\n")
}
