package deploy_test

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// libc are the files of glibc.
var libc = []string{"libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "libresolv.so.2",
	"librt.so.1"}

// release builds the release file in a folder of its own.
func release(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("building the release takes a minute")
	}
	library := os.Getenv("MILLRACE_ONNXRUNTIME")
	if library == "" {
		t.Skip("MILLRACE_ONNXRUNTIME names no library; `make test` sets it")
	}
	if _, err := exec.LookPath("g++"); err != nil {
		t.Skip("this machine has no g++, whose C++ library the release takes along")
	}
	folder := t.TempDir()
	out, err := exec.Command("./release.sh", library, "v0-test", folder).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	left, err := filepath.Glob("../runtime/ort/embedded/*.zst")
	if err != nil || len(left) > 0 {
		t.Errorf("packed libraries are left: %q, %v", left, err)
	}
	check := exec.Command("sha256sum", "--check", "--quiet", "millrace-linux-amd64.sha256")
	check.Dir = folder
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return filepath.Join(folder, "millrace-linux-amd64")
}

// TestRelease builds the release once and runs it in several surroundings.
func TestRelease(t *testing.T) {
	binary := release(t)
	t.Run("file", func(t *testing.T) { checkFile(t, binary) })
	t.Run("empty environment", func(t *testing.T) { checkEmptyEnvironment(t, binary) })
	t.Run("libc only", func(t *testing.T) { checkLibcOnly(t, binary) })
}

// checkFile wants nothing needed but libc, and a size that downloads quickly.
func checkFile(t *testing.T, binary string) {
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	needs, err := f.ImportedLibraries()
	if err != nil || len(needs) == 0 {
		t.Fatal(needs, err)
	}
	for _, name := range needs {
		if !slices.Contains(libc, name) {
			t.Errorf("the release needs %s", name)
		}
	}
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 90e6 { // a third of it is for object storage of three makers
		t.Errorf("the release has %d bytes", info.Size())
	}
}

// checkEmptyEnvironment serves in an empty folder, without HOME and PATH.
func checkEmptyEnvironment(t *testing.T, binary string) {
	folder, models := t.TempDir(), copyModels(t, t.TempDir())
	cmd := exec.Command(binary, serve(models)...)
	cmd.Dir, cmd.Env = folder, []string{}
	s := start(t, cmd)
	s.answers()
	for _, file := range s.openFiles() {
		if file != binary && !strings.HasPrefix(file, models) {
			t.Errorf("it holds the file %s", file)
		}
	}
	s.ends()
	if got := list(t, folder); got != "" {
		t.Errorf("it left behind\n%s", got)
	}

	version := exec.Command(binary, "version")
	version.Env = []string{}
	out, err := version.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "v0-test") {
		t.Errorf("version says %v\n%s", err, out)
	}
}

// checkLibcOnly serves in a file system that has the binary, the models, libc
// and /proc, and wants it to be the same afterwards.
func checkLibcOnly(t *testing.T, binary string) {
	if err := exec.Command("unshare", "-rm", "true").Run(); err != nil {
		t.Skipf("this machine does not let a test change its root folder: unshare -rm: %v", err)
	}
	root := t.TempDir()
	for _, dir := range []string{"proc", "tmp", "models"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, binary, filepath.Join(root, "millrace"))
	copyModels(t, filepath.Join(root, "models"))
	copyLibc(t, binary, root)
	before := list(t, root)

	args := []string{"-rm", "sh", "-c",
		`mount --rbind /proc "$0/proc" && exec env -i "$(command -v chroot)" "$0" "$@"`,
		root, "/millrace"}
	cmd := exec.Command("unshare", append(args, serve("/models")...)...)
	s := start(t, cmd)
	s.answers()
	s.ends()
	if after := list(t, root); after != before {
		t.Errorf("the file system had\n%sand has\n%s", before, after)
	}
}

func serve(models string) []string {
	return []string{"serve", "--models", models, "--http", "127.0.0.1:0", "--grpc", "",
		"--admin", ""}
}

// copyLibc copies the dynamic linker that the binary asks for and libc, as
// they lie on this machine.
func copyLibc(t *testing.T, binary, root string) {
	t.Helper()
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name, err := f.Section(".interp").Data()
	if err != nil {
		t.Fatal(err)
	}
	linker := string(bytes.TrimRight(name, "\x00"))
	copyFile(t, linker, filepath.Join(root, linker))
	for _, dir := range []string{"/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib"} {
		if _, err := os.Stat(filepath.Join(dir, libc[0])); err != nil {
			continue
		}
		for _, name := range libc {
			copyFile(t, filepath.Join(dir, name), filepath.Join(root, dir, name))
		}
		return
	}
	t.Skip("libc lies where this test does not look")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o755); err != nil {
		t.Fatal(err)
	}
}

// copyModels copies the sample models.
func copyModels(t *testing.T, to string) string {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS("../configs/models")); err != nil {
		t.Fatal(err)
	}
	return to
}

// list names all that is in a folder.
func list(t *testing.T, dir string) string {
	t.Helper()
	var names strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != dir {
			fmt.Fprintln(&names, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names.String()
}

// server is a release that runs.
type server struct {
	t     *testing.T
	cmd   *exec.Cmd
	url   string
	said  *bytes.Buffer // complete when lines is closed
	lines chan string
}

// start starts a server and waits for its address.
func start(t *testing.T, cmd *exec.Cmd) *server {
	t.Helper()
	s := &server{t: t, cmd: cmd, said: new(bytes.Buffer), lines: make(chan string, 1000)}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	go func() {
		defer close(s.lines)
		for text := bufio.NewScanner(stderr); text.Scan(); {
			fmt.Fprintln(s.said, text.Text())
			s.lines <- text.Text()
		}
	}()
	tooLong := time.After(time.Minute)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				t.Fatalf("the server ended: %v\n%s", cmd.Wait(), s.said)
			}
			if address, is := strings.CutPrefix(line, "listening http="); is {
				s.url = "http://" + address
				return s
			}
		case <-tooLong:
			t.Fatal("the server does not listen")
		}
	}
}

// answers sends the sample of a written 7 and wants its class.
func (s *server) answers() {
	s.t.Helper()
	sample, err := os.ReadFile("../configs/models/digits/sample.json")
	if err != nil {
		s.t.Fatal(err)
	}
	url := s.url + "/v2/models/digits/infer"
	r, err := http.Post(url, "application/json", bytes.NewReader(sample))
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		s.t.Fatalf("%s %v\n%s", r.Status, err, body)
	}
	if !bytes.Contains(body, []byte(":7:seven")) {
		s.t.Errorf("a written 7 is answered with %s", body)
	}
}

// kernel matches files that are not on a disk.
var kernel = regexp.MustCompile(`^/(?:dev|proc|sys)/|^/memfd:`)

// openFiles lists the files on disk that the server holds.
func (s *server) openFiles() []string {
	s.t.Helper()
	var files []string
	fds := fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid)
	entries, err := os.ReadDir(fds)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, entry := range entries {
		file, err := os.Readlink(filepath.Join(fds, entry.Name()))
		if err == nil && strings.HasPrefix(file, "/") && !kernel.MatchString(file) {
			files = append(files, file)
		}
	}
	return files
}

// ends ends the server and wants status 0.
func (s *server) ends() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	tooLong := time.AfterFunc(time.Minute, func() { _ = s.cmd.Process.Kill() })
	defer tooLong.Stop()
	for range s.lines { // to the end
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the server ended with %v\n%s", err, s.said)
	}
}
