package syncer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/runtime/model"
)

// envKill makes a process of this test one that syncs below that folder until it is killed.
const envKill = "MILLRACE_SYNCER_TEST_KILL"

// syncForever changes a source and syncs, again and again. It prints what each Sync has
// begun and ended with.
func syncForever(dir string) {
	fatal := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cfg := artifact.DefaultConfig()
	cfg.Dir = filepath.Join(dir, "store")
	store, err := artifact.Open(cfg)
	if err != nil {
		fatal(err)
	}
	s := New(Config{Dir: filepath.Join(dir, "models"), Store: store,
		Models: folderIndex(filepath.Join(dir, "models")), Log: slog.New(slog.DiscardHandler)})
	src := &shelf{dir: filepath.Join(dir, "source"), store: store, pulls: make(map[string]int)}
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	m := Model{Name: "m", At: "m", Latest: 2}
	for {
		if err := change(rng, src.dir); err != nil {
			fatal(err)
		}
		fmt.Println("begun")
		m.Status = s.Sync(context.Background(), src, []Model{m})["m"]
		text, err := json.Marshal(m.Status)
		if err != nil {
			fatal(err)
		}
		fmt.Println(string(text))
	}
}

// change makes one version of the source another one, and sometimes removes one.
func change(rng *rand.Rand, dir string) error {
	version := filepath.Join(dir, "m", fmt.Sprint(1+rng.IntN(4)))
	dir = filepath.Join(dir, "half") // the source itself is never broken off
	err := errors.Join(os.MkdirAll(filepath.Dir(version), 0o755), os.RemoveAll(dir))
	if err != nil {
		return err
	}
	if err := os.Rename(version, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(dir); err != nil || rng.IntN(4) == 0 {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	made := time.UnixMilli(1_700_000_000_000 + rng.Int64N(1e9))
	for i := range 3 { // files that tell which version they are of
		content := fmt.Sprintf("%s %d", made.UTC(), i)
		err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.onnx", i)), []byte(content), 0o644)
		if err != nil {
			return err
		}
	}
	if err := os.Chtimes(dir, made, made); err != nil {
		return err
	}
	return os.Rename(dir, version)
}

// folderIndex is a repository that serves whatever has a folder, so that a process syncs
// often before it is killed.
type folderIndex string

func (f folderIndex) Sync(context.Context) error { return nil }

func (f folderIndex) Index(bool) []model.IndexEntry {
	var entries []model.IndexEntry
	for _, path := range glob(filepath.Join(string(f), "*/*/")) {
		entries = append(entries, model.IndexEntry{Name: filepath.Base(filepath.Dir(path)),
			Version: filepath.Base(path), State: model.StateReady})
	}
	return entries
}

func glob(pattern string) []string {
	paths, _ := filepath.Glob(pattern)
	return paths
}

// TestKill kills processes while they sync. What is in the folders is always whole, and
// the next process brings all in line by one Sync.
func TestKill(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	dir := t.TempDir()
	models := filepath.Join(dir, "models")
	rng := rand.New(rand.NewPCG(5, 6))
	within := 0
	for range rounds {
		if killed(t, dir, rng) {
			within++
		}
		for _, path := range glob(filepath.Join(models, "m", "[0-9]")) {
			whole(t, path)
		}
		cfg := artifact.DefaultConfig()
		cfg.Dir = filepath.Join(dir, "store")
		store, err := artifact.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		src := &shelf{dir: filepath.Join(dir, "source"), store: store,
			pulls: make(map[string]int)}
		s := New(Config{Dir: models, Store: store, Models: folderIndex(models),
			Log: slog.New(slog.DiscardHandler)})
		status := s.Sync(t.Context(), src, []Model{{Name: "m", At: "m", Latest: 2}})["m"]
		inLine(t, s, src, status)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if t.Logf("%d of %d were killed within a Sync", within, rounds); within < rounds/4 {
		t.Errorf("only %d of %d processes were killed within a Sync", within, rounds)
	}
}

// killed runs a process, kills it, and says whether that was within a Sync.
func killed(t *testing.T, dir string, rng *rand.Rand) bool {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envKill+"="+dir)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range 1 + 2*rng.IntN(4) { // the last line is that a Sync has begun
		if !lines.Scan() {
			break
		}
	}
	time.AfterFunc(time.Duration(rng.IntN(60_000))*time.Microsecond,
		func() { _ = cmd.Process.Kill() })
	line := "begun"
	for lines.Scan() {
		line = lines.Text()
	}
	_ = cmd.Wait()
	if said.Len() > 0 {
		t.Fatal(said.String())
	}
	return line == "begun"
}

// whole wants a folder to have the files of one version.
func whole(t *testing.T, path string) string {
	t.Helper()
	var all []string
	for i := range 3 {
		text, err := os.ReadFile(filepath.Join(path, fmt.Sprintf("%d.onnx", i)))
		if err != nil {
			t.Error(err)
		}
		all = append(all, strings.TrimSuffix(string(text), fmt.Sprint(" ", i)))
	}
	if all = slices.Compact(all); len(all) != 1 {
		t.Errorf("%s has files of %q", path, all)
	}
	return all[0]
}

// inLine wants folders and pins to be what the source has, and no more.
func inLine(t *testing.T, s *Syncer, src *shelf, status Status) {
	t.Helper()
	l, err := src.list("m")
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Versions) == 0 {
		return // what served last stays
	}
	want := make(map[string]bool)
	for i, v := range l.Versions[:min(2, len(l.Versions))] {
		want[v.Name] = true
		got := status.Versions[i]
		content := whole(t, filepath.Join(s.cfg.Dir, "m", v.Name))
		if got.Name != v.Name || got.State != Ready || content != fmt.Sprint(v.Created.UTC()) {
			t.Errorf("version %s of %v is %+v, with %s", v.Name, v.Created, got, content)
		}
	}
	pins := s.pins()["m"]
	for version, list := range pins {
		if len(list) != 1 || !want[version] {
			t.Errorf("version %s has the pins %v", version, list)
		}
	}
	folders := glob(filepath.Join(s.cfg.Dir, "m", "[0-9]"))
	if len(pins) != len(want) || len(folders) != len(want) {
		t.Errorf("pins are %v, folders %v, want %v", pins, folders, want)
	}
	if left := glob(filepath.Join(s.cfg.Dir, ".temp", "*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}
