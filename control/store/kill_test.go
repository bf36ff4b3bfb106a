package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The variable that makes a process of this test another one: "kill" one that
// writes until it is killed, "rewrite" one that compacts and restores until then,
// "full" one that may not write large files, "open" one that only opens the store.
const (
	envRole  = "MILLRACE_STORE_TEST_ROLE"
	envPath  = "MILLRACE_STORE_TEST_PATH"
	envRound = "MILLRACE_STORE_TEST_ROUND"
)

func TestMain(m *testing.M) {
	path := os.Getenv(envPath)
	var err error
	switch os.Getenv(envRole) {
	case "":
		os.Exit(m.Run())
	case "kill":
		err = writeForever(path, os.Getenv(envRound))
	case "full":
		err = fillUp(path)
	case "rewrite":
		err = rewriteForever(path)
	case "open":
		err = refused(childConfig(path))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func childConfig(path string) Config {
	cfg := DefaultConfig()
	cfg.Path = path
	cfg.History.MaxChanges = 50 // so that old changes are forgotten all the time
	return cfg
}

// child returns such a process.
func child(t *testing.T, role, path, round string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envRole+"="+role, envPath+"="+path, envRound+"="+round)
	return cmd
}

// killWriters is how many goroutines of such a process write.
const killWriters = 3

// writeForever prints writer, number and revision of each transaction that was
// acknowledged. Each of them makes one resource, changes one that the writer
// has, and raises one that all share; every third also deletes the one made before.
func writeForever(path, round string) error {
	b, err := Open(childConfig(path))
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range killWriters {
		go func() {
			for n := 0; ; n++ {
				revision, err := b.Txn(context.Background(), killTxn(round, w, n))
				if err != nil {
					failed <- err
					return
				}
				fmt.Fprintln(os.Stdout, w, n, revision)
			}
		}()
	}
	return <-failed
}

func killKey(round string, w, n int) Key {
	return Key{"Made", fmt.Sprintf("%s-%d-%d", round, w, n)}
}

func killTxn(round string, w, n int) Txn {
	number := fmt.Sprint(n)
	txn := Txn{By: tester, Put: []Resource{
		{Key: killKey(round, w, n), Spec: []byte(number)},
		resource("Writer", fmt.Sprint(round, "-", w), number),
		resource("Shared", "shared", `"`+round+`"`),
	}}
	if n%3 == 2 {
		txn.Delete = []Key{killKey(round, w, n-1)}
	}
	return txn
}

// TestKill kills processes that write. All that was acknowledged is there, whole,
// and of each writer at most the one transaction more that was under way.
func TestKill(t *testing.T) {
	cfg := childConfig(config(t).Path)
	const rounds = 40
	highest := uint64(0)
	for round := range rounds {
		name := fmt.Sprint(round)
		acknowledged := killAfter(t, child(t, "kill", cfg.Path, name), 1+7*round%40)
		b, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for w := range killWriters {
			last := acknowledged[w].n
			highest = max(highest, acknowledged[w].revision)
			r, err := b.Get(t.Context(), Key{"Writer", fmt.Sprint(name, "-", w)})
			if last < 0 && errors.Is(err, ErrNotFound) {
				continue
			}
			if got := string(r.Spec); err != nil ||
				got != fmt.Sprint(last) && got != fmt.Sprint(last+1) {
				t.Fatalf("%s of writer %d is there, %d was acknowledged; %v", got, w, last, err)
			} else if got == fmt.Sprint(last+1) {
				last++
			}
			for n := 0; n <= last+1; n++ {
				_, err := b.Get(t.Context(), killKey(name, w, n))
				deleted := n%3 == 1 && n < last || n > last
				if deleted != errors.Is(err, ErrNotFound) {
					t.Errorf("%d of %d of writer %d: %v", n, last, w, err)
				}
			}
		}
		stats, err := b.Stats()
		if err != nil || stats.Revision < highest || stats.Changes > 60 {
			t.Errorf("%+v, %v; %d was acknowledged", stats, err, highest)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		checkFile(t, cfg.Path)
	}
}

// acknowledgement is the last of a writer; n is -1 where there is none.
type acknowledgement struct {
	n        int
	revision uint64
}

// killAfter runs a process and kills it after that many lines.
func killAfter(t *testing.T, cmd *exec.Cmd, lines int) (last [killWriters]acknowledgement) {
	t.Helper()
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for w := range last {
		last[w].n = -1
	}
	seen := 0
	for s := bufio.NewScanner(out); s.Scan(); {
		var w int
		var a acknowledgement
		if _, err := fmt.Sscan(s.Text(), &w, &a.n, &a.revision); err != nil {
			t.Fatalf("the process says %q", s.Text())
		}
		last[w] = a
		if seen++; seen == lines {
			cmd.Process.Kill() // SIGKILL; what it wrote before is still in the pipe
		}
	}
	cmd.Wait()
	if seen < lines {
		t.Fatalf("the process ended by itself: %s", said.String())
	}
	return last
}

// rewriteForever prints a line for each time that it has compacted the store, and
// restored it from the backup beside it.
func rewriteForever(path string) error {
	for n := 0; ; n++ {
		if err := errors.Join(Compact(path), Restore(path+".backup", path, tester)); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, 0, n, 0)
	}
}

// TestKillRewrite kills processes that compact and restore. The store is whole.
func TestKillRewrite(t *testing.T) {
	cfg, backup := backedUp(t)
	write(t, cfg.Path+".backup", read(t, backup))
	for round := range 12 {
		killAfter(t, child(t, "rewrite", cfg.Path, ""), 1+round%3)
		b, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := b.Get(t.Context(), Key{"Model", "a"}); err != nil || string(r.Spec) == `2` {
			t.Errorf("round %d: %s, %v", round, r.Spec, err)
		}
		put(t, b, "a", `3`)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		checkFile(t, cfg.Path)
	}
}

// TestSecondProcess wants another process to hear that there is one.
func TestSecondProcess(t *testing.T) {
	cfg := config(t)
	opened(t, cfg)
	said, err := child(t, "open", cfg.Path, "").CombinedOutput()
	if err == nil || !strings.Contains(string(said), "another process uses it") {
		t.Errorf("%s, %v", said, err)
	}
}

// fillUp writes until the disk is full, and again when there is room.
func fillUp(path string) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	setLimit := func(size uint64) error {
		limit.Cur = size
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	}
	if err := setLimit(32 << 20); err != nil {
		return err
	}
	b, err := Open(childConfig(path))
	if err != nil {
		return err
	}
	ctx := context.Background()
	large := `"` + strings.Repeat("x", 1<<19) + `"`
	write := func(n int) error {
		_, err := b.Txn(ctx, Txn{
			Put: []Resource{resource("Model", fmt.Sprint(n), large)}, By: tester})
		return err
	}
	written := 0
	for ; err == nil; written++ {
		err = write(written)
	}
	written--
	fmt.Fprintln(os.Stdout, err)
	for range 3 { // It stays as it is, and can be read.
		all, _, listed := b.List(ctx, "Model")
		if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), path) || listed != nil ||
			len(all) != written || written < 5 {
			return fmt.Errorf("%d resources of %d: %w, %w", len(all), written, listed, err)
		}
		err = write(written)
	}
	if err := setLimit(limit.Max); err != nil {
		return err
	}
	for n := range 2 * written {
		if err := write(n); err != nil {
			return fmt.Errorf("although there is room: %w", err)
		}
	}
	fmt.Fprintln(os.Stdout, 2*written, "written")
	return b.Close()
}

// TestFullDisk has a process write to a disk that is full, and looks at the store.
func TestFullDisk(t *testing.T) {
	cfg := config(t)
	cmd := child(t, "full", cfg.Path, "")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil || !strings.Contains(said.String(), "too large") {
		t.Errorf("%v: %s", err, said.String())
	}
	list, _, err := opened(t, cfg).List(t.Context(), "")
	if err != nil || !strings.Contains(said.String(), fmt.Sprint(len(list), " written")) {
		t.Errorf("%d resources, %v: %s", len(list), err, said.String())
	}
}

// TestMaxSize fills a store up. It says so, can be read, may have things deleted
// and made smaller, and goes on when there is room.
func TestMaxSize(t *testing.T) {
	cfg := config(t)
	cfg.History.MaxBytes = 4 << 20
	cfg.MaxSize = leastSize + 2*cfg.History.MaxBytes
	b := opened(t, cfg)
	const size = 1 << 18
	large := `"` + strings.Repeat("x", size) + `"`
	var err error
	written := 0
	for ; err == nil; written++ {
		_, err = b.Txn(t.Context(), Txn{
			Put: []Resource{resource("Model", fmt.Sprint(written), large)}, By: tester})
	}
	written--
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "max_size") ||
		written != cfg.maxBytes()/(size+60) {
		t.Fatalf("after %d: %v", written, err)
	}
	for i := range written {
		put(t, b, fmt.Sprint(i), large) // as large as before
	}
	put(t, b, "0", `1`)
	for i := range written {
		do(t, b, Txn{Delete: []Key{{"Model", fmt.Sprint(i)}}})
	}
	stats, err := b.Stats()
	if err != nil || stats.FileBytes > int64(cfg.MaxSize) || stats.Bytes != 0 {
		t.Errorf("%+v, %v", stats, err)
	}
	put(t, b, "a", large)
}

// TestFileBounded makes as many changes as come within a day or so, and wants the
// file no larger after the second half than after the first.
func TestFileBounded(t *testing.T) {
	cfg := config(t)
	cfg.History = History{MaxChanges: 2000, MaxBytes: 8 << 20, MaxAge: time.Hour}
	b := opened(t, cfg)
	fill(t, b, 1000, 1000)
	r := rand.New(rand.NewPCG(1, 2))
	half := func() int64 {
		for range 150 {
			txn := Txn{}
			for _, i := range r.Perm(1000)[:40] {
				name := fmt.Sprintf("model-%05d", i)
				txn.Put = append(txn.Put, resource("Model", name,
					`"`+strings.Repeat("y", r.IntN(2000))+`"`))
			}
			do(t, b, txn)
		}
		stats, err := b.Stats()
		if err != nil || stats.Changes != 2000 {
			t.Errorf("%+v, %v", stats, err)
		}
		return stats.FileBytes
	}
	if first, second := half(), half(); second > first || second > 48<<20 {
		t.Errorf("%d bytes, then %d", first, second)
	}
}

// TestReaderStays holds a reader's transaction open while much is written. It may
// not keep writers waiting, and what it takes of the file is used again.
func TestReaderStays(t *testing.T) {
	b := history(t, History{MaxChanges: 100, MaxBytes: 8 << 20, MaxAge: time.Hour})
	fill(t, b, 200, 1000)
	tx, err := b.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	half := func() int64 {
		for i := range 400 {
			put(t, b, fmt.Sprint(i%200), `"`+strings.Repeat("x", 10_000)+`"`)
		}
		stats, err := b.Stats()
		if err != nil {
			t.Error(err)
		}
		return stats.FileBytes
	}
	first := half()
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	if second := half(); second > first {
		t.Errorf("%d bytes, then %d", first, second)
	}
}
