package artifact

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The variables that make a process of this test another one.
const (
	envDir   = "MILLRACE_ARTIFACT_TEST_DIR"
	envRound = "MILLRACE_ARTIFACT_TEST_ROUND"
	envLimit = "MILLRACE_ARTIFACT_TEST_LIMIT" // bytes that a file may have
)

func TestMain(m *testing.M) {
	dir := os.Getenv(envDir)
	switch {
	case dir == "":
		os.Exit(m.Run())
	case os.Getenv(envLimit) != "":
		limited(dir)
	default:
		round, _ := strconv.ParseUint(os.Getenv(envRound), 10, 64)
		workForever(dir, round)
	}
}

func fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(1)
}

// folder is where a killed process makes folders, beside its store.
func folder(dir string, n int) string { return filepath.Join(dir+"-folders", strconv.Itoa(n)) }

// workForever ingests, pins, unpins, materializes and collects, and prints what
// was acknowledged.
func workForever(dir string, round uint64) {
	cfg := DefaultConfig()
	cfg.Dir, cfg.KeepUnused, cfg.MaxBytes = dir, 0, 4<<20
	s, err := Open(cfg)
	if err != nil {
		fatal(err)
	}
	rng := rand.New(rand.NewPCG(round, 1))
	for n := 0; ; n++ {
		// Half of the files come again, so that there is something to share.
		digest, err := s.Ingest(context.Background(), "test", func(w *Writer) error {
			for i := range 3 {
				content := randomContent(rng.Uint64N(40))
				err := w.Rest(fmt.Sprint("f", i), int64(len(content)), sum(content),
					bytes.NewReader(content[w.Partial(sum(content)):]))
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = s.Pin(digest, "test")
		}
		if errors.Is(err, ErrFull) || errors.Is(err, ErrNotFound) {
			err = nil
		} else if err == nil {
			fmt.Fprintln(os.Stdout, "pinned", digest)
			to := folder(dir, int(round)*100_000+n)
			if err = s.Materialize(context.Background(), digest, to); err == nil {
				fmt.Fprintln(os.Stdout, "folder", digest, to)
			}
		}
		if pinned := pinned(s); err == nil && len(pinned) > 5 {
			out := pinned[rng.IntN(len(pinned))]
			fmt.Fprintln(os.Stdout, "unpinning", out)
			err = s.Unpin(out, "test")
		}
		if err == nil && n%3 == 0 {
			_, err = s.Collect(context.Background(), time.Now().Add(time.Second))
		}
		if err != nil {
			fatal(err)
		}
	}
}

func pinned(s *Store) []string {
	var list []string
	for _, v := range s.List() {
		if len(v.Pins) > 0 {
			list = append(list, v.Digest)
		}
	}
	return list
}

// randomContent makes the file of a seed: up to 100 KB.
func randomContent(seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 2))
	content := make([]byte, rng.IntN(100_000))
	for i := range content {
		content[i] = byte(rng.Uint32())
	}
	return content
}

// child returns a process of this test with variables.
func child(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// linesPerRound is about how much a process acknowledges before it is killed.
const linesPerRound = 15

// TestKill kills processes that work on a store at random instants. Whatever was
// acknowledged is there and whole, and the store's account is that of the disk.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	rng := rand.New(rand.NewPCG(3, 4))
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	sure := make(map[string]bool)      // versions that are pinned
	folders := make(map[string]string) // digests by folder
	acknowledged := 0
	for round := range rounds {
		cmd := child(t, envDir+"="+dir, envRound+"="+strconv.Itoa(round))
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		killed := make(chan struct{})
		kill := func() {
			time.AfterFunc(time.Duration(rng.IntN(10_000))*time.Microsecond, func() {
				close(killed)
				cmd.Process.Kill() // SIGKILL; what it wrote before is still in the pipe
			})
		}
		left := rng.IntN(2 * linesPerRound)
		for lines := bufio.NewScanner(out); ; acknowledged++ {
			if left == 0 {
				kill()
			}
			left--
			if !lines.Scan() {
				break
			}
			switch words := strings.Fields(lines.Text()); words[0] {
			case "pinned":
				sure[words[1]] = true
			case "unpinning":
				delete(sure, words[1])
			case "folder":
				folders[words[2]] = words[1]
			}
		}
		cmd.Wait()
		select {
		case <-killed:
		default:
			t.Fatalf("the process ended by itself: %s", said.String())
		}
		checkKilled(t, dir, sure)
	}
	for to, digest := range folders {
		checkFolder(t, to, digest)
	}
	t.Logf("%d rounds, %d lines, %d folders", rounds, acknowledged, len(folders))
}

// checkKilled opens the store of a killed process.
func checkKilled(t *testing.T, dir string, sure map[string]bool) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Dir = dir
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pinned := pinned(s)
	for digest := range sure {
		if !slices.Contains(pinned, digest) {
			t.Errorf("version %s was pinned and is not", digest)
		}
	}
	for _, v := range s.List() {
		if v.Damaged {
			t.Errorf("version %s is damaged", v.Digest)
		}
		if err := s.Verify(t.Context(), v.Digest); err != nil {
			t.Error(err)
		}
	}
	var used int64
	for _, name := range onDisk(t, s) {
		if strings.HasPrefix(name, "blobs/") || strings.HasPrefix(name, "partial/") {
			info, err := s.root.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			used += info.Size()
		}
		if strings.HasPrefix(name, "temp/") {
			t.Errorf("%s is left", name)
		}
	}
	if used != s.Used() {
		t.Errorf("%d bytes are in use, %d on disk", s.Used(), used)
	}
}

// checkFolder checks that a folder has the files of a version.
func checkFolder(t *testing.T, dir, digest string) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var m Manifest
	for i := range 3 {
		name := fmt.Sprint("f", i)
		sha, size, err := hashFile(t.Context(), root, name)
		if err != nil {
			t.Fatal(err)
		}
		m = append(m, File{name, size, sha})
	}
	if got := m.Digest(); got != digest {
		t.Errorf("%s holds version %s, not %s", dir, got, digest)
	}
}

// limited works where a file may have few bytes only, which is what a full disk
// looks like: what does not fit fails, and what does is taken afterwards.
func limited(dir string) {
	limit, err := strconv.ParseUint(os.Getenv(envLimit), 10, 64)
	if err != nil {
		fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Dir = dir
	s, err := Open(cfg)
	if err != nil {
		fatal(err)
	}
	large := bytes.Repeat([]byte("x"), int(limit)+1)
	for _, digest := range []string{"", sum(large)} {
		_, err := s.Ingest(context.Background(), "large", func(w *Writer) error {
			if err := w.File("small", -1, "", strings.NewReader("loose")); err != nil {
				return err
			}
			return w.File("large", -1, digest, bytes.NewReader(large))
		})
		if !errors.Is(err, unix.EFBIG) {
			fatal("a file of more than the limit:", err)
		}
		fmt.Fprintln(os.Stdout, err)
		if s.Used() != 0 {
			fatal(s.Used(), "bytes are in use")
		}
	}
	_, err = s.Ingest(context.Background(), "small", func(w *Writer) error {
		return w.File("small", -1, "", io.LimitReader(strings.NewReader("weights"), 7))
	})
	if err != nil {
		fatal(err)
	}
	os.Exit(0) // without Close
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	out, err := child(t, envDir+"="+dir, envLimit+"=300000").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `cannot ingest large: cannot store "large"`) {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := Open(func() Config { c := DefaultConfig(); c.Dir = dir; return c }())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := onDisk(t, s); len(got) != 2 || s.Used() != 7 {
		t.Errorf("%d bytes in %q", s.Used(), got)
	}
}

// TestNoSpace fills a file system of its own, where this process may make one.
func TestNoSpace(t *testing.T) {
	cfg := config(t)
	if err := unix.Mount("none", cfg.Dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount a file system:", err)
	}
	defer unix.Unmount(cfg.Dir, unix.MNT_DETACH)
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	digest := ingest(t, s, "a", strings.Repeat("a", 500_000))
	_, err = s.Ingest(t.Context(), "large", files("b", strings.Repeat("b", 300_000), "c",
		strings.Repeat("c", 600_000)))
	want(t, err, unix.ENOSPC, "no space left")
	if s.Used() != 500_000 {
		t.Errorf("%d bytes are in use", s.Used())
	}
	checkVersions(t, s, digest, ingest(t, s, "b", strings.Repeat("b", 300_000)))
	if err := s.Verify(t.Context(), digest); err != nil {
		t.Error(err)
	}
}
