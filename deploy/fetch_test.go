// Package deploy_test runs the scripts of this folder the way a person does,
// and looks at what they leave behind.
package deploy_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	library = "libonnxruntime.so.1.32.0"
	wheel   = "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl"
)

// content stands for the library in the wheels that are made here. Most of it
// is packed to nothing.
var content = append([]byte("the library"), make([]byte, 1<<20)...)

// fetcher runs fetch-onnxruntime.sh on a cache folder, with a python3 whose
// pip does what a test wants.
type fetcher struct {
	t      *testing.T
	script string
	tools  string // a folder with python3
	cache  string
	wheel  []byte // what the script takes for right
}

func newFetcher(t *testing.T) *fetcher {
	t.Helper()
	for _, name := range []string{"bash", "python3", "sha256sum"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("this machine has no %s", name)
		}
	}
	f := &fetcher{t: t, tools: t.TempDir(), cache: filepath.Join(t.TempDir(), "cache"),
		wheel: newWheel(t, "onnxruntime/capi/"+library, content)}
	f.expect(f.wheel, content)
	return f
}

// newWheel makes an archive of one file.
func newWheel(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// expect writes the script anew, with the sums of this wheel and library: the
// published one has 18 MB and lies in the network.
func (f *fetcher) expect(wheel, library []byte) {
	f.t.Helper()
	text, err := os.ReadFile("fetch-onnxruntime.sh")
	if err != nil {
		f.t.Fatal(err)
	}
	for name, of := range map[string][]byte{"wheel": wheel, "library": library} {
		line := regexp.MustCompile(`(?m)^` + name + `_sum=[0-9a-f]{64}$`)
		if len(line.FindAll(text, -1)) != 1 {
			f.t.Fatalf("the script has no line %s_sum", name)
		}
		text = line.ReplaceAll(text, fmt.Appendf(nil, "%s_sum=%x", name, sha256.Sum256(of)))
	}
	f.script = f.write(filepath.Join(f.t.TempDir(), "fetch-onnxruntime.sh"), text)
}

func (f *fetcher) write(file string, text []byte) string {
	f.t.Helper()
	if err := os.WriteFile(file, text, 0o755); err != nil {
		f.t.Fatal(err)
	}
	return file
}

// pip makes a python3 whose `pip download` runs a piece of shell script, in
// which $dest is the folder to download to.
func (f *fetcher) pip(body string) {
	f.t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(filepath.Join(f.tools, "python3"), []byte(`#!/bin/sh
case "$1 $2 $3" in
"-m pip --version") exit 0 ;;
"-m pip download") ;;
*) exec `+python+` "$@" ;;
esac
while [ "$1" != --dest ]; do shift; done
dest=$2
`+body+"\n"))
}

// pipGives makes a python3 whose pip downloads one file.
func (f *fetcher) pipGives(name string, content []byte) {
	f.t.Helper()
	file := f.write(filepath.Join(f.t.TempDir(), "served"), content)
	f.pip(`cp "` + file + `" "$dest/` + name + `"`)
}

func (f *fetcher) command(shell string) *exec.Cmd {
	cmd := exec.Command("bash", "-c", shell, f.script, f.cache)
	cmd.Env = []string{"PATH=" + f.tools + ":" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	return cmd
}

// run runs the script and returns its exit status and what it wrote.
func (f *fetcher) run(cmd *exec.Cmd) (status int, stdout, stderr string) {
	f.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// fails wants status 1, a text, nothing for the caller to take for a path, and
// the cache as it was.
func (f *fetcher) fails(want string) {
	f.t.Helper()
	f.failsAs(f.command(`exec "$0" "$1"`), want)
}

func (f *fetcher) failsAs(cmd *exec.Cmd, want string) {
	f.t.Helper()
	before := f.cached()
	status, stdout, stderr := f.run(cmd)
	if status != 1 || stdout != "" {
		f.t.Errorf("status %d with %q on standard output", status, stdout)
	}
	if !strings.Contains(stderr, "cannot fetch ONNX Runtime 1.32.0: "+want) {
		f.t.Errorf("got\n%swant %s", stderr, want)
	}
	if after := f.cached(); after != before {
		f.t.Errorf("the cache had\n%sand has\n%s", before, after)
	}
}

// works wants the path, and the library alone in the cache.
func (f *fetcher) works() {
	f.t.Helper()
	status, stdout, stderr := f.run(f.command(`exec "$0" "$1"`))
	file := filepath.Join(f.cache, "onnxruntime-1.32.0", library)
	if status != 0 || stdout != file+"\n" {
		f.t.Errorf("status %d with %q on standard output, want %s; it says\n%s", status, stdout,
			file, stderr)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, content) {
		f.t.Errorf("the library has %d bytes, %v", len(got), err)
	}
	want := "onnxruntime-1.32.0\nonnxruntime-1.32.0/" + library + "\n"
	if got := f.cached(); got != want {
		f.t.Errorf("the cache has\n%swant\n%s", got, want)
	}
}

// cached lists what is in the cache.
func (f *fetcher) cached() string {
	f.t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(f.cache, func(path string, _ os.DirEntry, err error) error {
		if err == nil && path != f.cache {
			fmt.Fprintln(&list, strings.TrimPrefix(path, f.cache+"/"))
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		f.t.Fatal(err)
	}
	return list.String()
}

func TestFetch(t *testing.T) {
	f := newFetcher(t)
	f.pipGives(wheel, f.wheel)
	f.works()
	f.pip("echo pip was called >&2; exit 1")
	f.works() // what is there and right is not fetched again

	// What a run left that was killed outright goes with the next download.
	left := filepath.Join(f.cache, "fetch.aB3xYz")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	f.write(filepath.Join(left, wheel), f.wheel[:100])
	yesterday := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(left, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(f.cache, "onnxruntime-1.32.0")); err != nil {
		t.Fatal(err)
	}
	f.pipGives(wheel, f.wheel)
	f.works()

	// A damaged library is fetched again, and stays as long as there is no better one.
	damaged := content[:len(content)/2]
	f.write(filepath.Join(f.cache, "onnxruntime-1.32.0", library), damaged)
	f.pip("echo 'ERROR: no route to host' >&2; exit 1")
	f.fails("pip could not download it")
	f.pipGives(wheel, f.wheel)
	f.works()
}

func TestFetchFails(t *testing.T) {
	f := newFetcher(t)
	f.pip("echo 'ERROR: no route to host' >&2; exit 1")
	f.fails("pip could not download it (see above); check the network and pip's index, " +
		"then try again")
	f.pip(`echo half >"$dest/` + wheel + `.part"; kill -9 $$`)
	f.fails("pip could not download it (see above)")
	f.pipGives(wheel, f.wheel[:len(f.wheel)/2])
	f.fails("the wheel has the wrong SHA-256 sum: it is damaged or not the\npublished one; " +
		"try again, and do not use it if the message stays")
	f.pipGives(wheel, append(bytes.Clone(f.wheel), 0))
	f.fails("the wheel has the wrong SHA-256 sum")
	f.pipGives("onnxruntime-1.32.0-py3-none-any.whl", f.wheel)
	f.fails("pip gave another file than " + wheel)
	f.pip("exit 0")
	f.fails("pip gave another file than " + wheel)

	other := newWheel(t, "onnxruntime/capi/another.so", content)
	f.expect(other, content)
	f.pipGives(wheel, other)
	f.fails("the wheel could not be unpacked into " + f.cache)
	f.expect(f.wheel, []byte("another library"))
	f.pipGives(wheel, f.wheel)
	f.fails("the unpacked library has the wrong SHA-256 sum")

	// A file that may not grow is what a full disk looks like.
	f.expect(f.wheel, content)
	f.failsAs(f.command(`ulimit -f 100; exec "$0" "$1"`),
		"the wheel could not be unpacked into "+f.cache+"; is the disk full?")
	f.works()
}

func TestFetchWithoutTools(t *testing.T) {
	f := newFetcher(t)
	f.write(filepath.Join(f.tools, "python3"), []byte("#!/bin/sh\nexit 1\n"))
	f.fails("python3 has no pip; install it (Debian: python3-pip)")

	// A PATH with the tools that the script needs up to there, and no python3.
	for _, name := range []string{"bash", "cut", "dirname", "sha256sum", "uname"} {
		file, err := exec.LookPath(name)
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(file, filepath.Join(f.tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(f.tools, "python3")); err != nil {
		t.Fatal(err)
	}
	cmd := f.command(`exec bash "$0" "$1"`)
	cmd.Env = []string{"PATH=" + f.tools}
	f.failsAs(cmd, "python3 is not there; install it")
}

// TestFetchNoCache wants a cache folder that cannot be used to be told.
func TestFetchNoCache(t *testing.T) {
	f := newFetcher(t)
	f.pipGives(wheel, f.wheel)
	file := f.write(filepath.Join(t.TempDir(), "file"), nil)
	f.cache = filepath.Join(file, "cache")
	f.fails("the cache folder " + f.cache + " cannot be made")
	f.cache = "/proc/self/fdinfo" // nobody can write there, not even root
	_, stdout, stderr := f.run(f.command(`exec "$0" "$1"`))
	if !strings.Contains(stderr, "the cache folder "+f.cache+" cannot be written to") ||
		stdout != "" {
		t.Errorf("got %s", stderr)
	}
	// Where there is a folder in the library's place, nothing may be moved into it.
	f.cache = t.TempDir()
	inTheWay := filepath.Join(f.cache, "onnxruntime-1.32.0", library)
	if err := os.MkdirAll(inTheWay, 0o755); err != nil {
		t.Fatal(err)
	}
	f.fails("the library could not be put into " + filepath.Dir(inTheWay))
}

// TestFetchInterrupted wants nothing left of a download that Ctrl-C or a kill ends.
func TestFetchInterrupted(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		f := newFetcher(t)
		begun := filepath.Join(f.tools, "begun")
		f.pip(`echo half >"$dest/` + wheel + `"; touch ` + begun + `; exec sleep 60`)
		cmd := f.command(`exec "$0" "$1"`)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a terminal has it
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { _, err := os.Stat(begun); return err == nil })
		if err := syscall.Kill(-cmd.Process.Pid, signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Errorf("%v: status 0", signal)
		}
		if got := f.cached(); got != "" {
			t.Errorf("%v: the cache has\n%s", signal, got)
		}
	}
}

// waitFor asks until it is so.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	ask := time.NewTicker(5 * time.Millisecond)
	defer ask.Stop()
	tooLong := time.After(30 * time.Second)
	for !so() {
		select {
		case <-ask.C:
		case <-tooLong:
			t.Fatal("it takes too long")
		}
	}
}
