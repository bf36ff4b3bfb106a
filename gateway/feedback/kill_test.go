package feedback

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// The variables that make a process of this test one that gives feedback until
// it is killed.
const (
	envPath  = "MILLRACE_FEEDBACK_TEST_PATH"
	envRound = "MILLRACE_FEEDBACK_TEST_ROUND"
)

// givers is how many goroutines of such a process give feedback.
const givers = 4

func TestMain(m *testing.M) {
	if path := os.Getenv(envPath); path != "" {
		giveForever(path, os.Getenv(envRound))
	}
	os.Exit(m.Run())
}

func killConfig(path string) Config {
	return Config{Path: path, Capacity: 1 << 16, TTL: time.Hour}
}

// nthID is the nth id of a goroutine of a process.
func nthID(round string, giver, n int) string { return fmt.Sprintf("%s-%d-%d", round, giver, n) }

// giveForever prints the goroutine of each feedback that was accepted.
func giveForever(path, round string) {
	l, err := Open(killConfig(path))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for giver := range givers {
		wg.Go(func() {
			for n := 0; ; n++ {
				id, reward := nthID(round, giver, n), 1.0
				decide(l, id)
				if _, result, err := l.Give(Given{ID: id, Reward: &reward}); result != Accepted {
					fmt.Fprintln(os.Stderr, id, result, err)
					os.Exit(1)
				}
				fmt.Fprintln(os.Stdout, giver)
			}
		})
	}
	wg.Wait()
}

// killAfter runs such a process, kills it after that many lines and returns how
// much of each goroutine was accepted for certain.
func killAfter(t *testing.T, path, round string, lines int) (accepted [givers]int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envPath+"="+path, envRound+"="+round)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for s := bufio.NewScanner(out); s.Scan(); {
		giver, err := strconv.Atoi(s.Text())
		if err != nil {
			t.Fatalf("the process says %q", s.Text())
		}
		accepted[giver]++
		if seen++; seen == lines {
			cmd.Process.Kill() // SIGKILL; what it wrote before is still in the pipe
		}
	}
	cmd.Wait()
	if seen < lines {
		t.Fatalf("the process ended by itself: %s", said.String())
	}
	return accepted
}

// TestKill kills processes that give feedback. All that was accepted is there,
// once; of each goroutine at most the one feedback more that was under way.
func TestKill(t *testing.T) {
	path := fresh(t)
	const rounds = 6
	var accepted [rounds][givers]int
	certain := 0
	for round := range rounds {
		accepted[round] = killAfter(t, path, strconv.Itoa(round), 20+60*round)
		for _, n := range accepted[round] {
			certain += n
		}
	}
	l, err := Open(killConfig(path))
	if err != nil {
		t.Fatal(err)
	}
	more := int(counted(l)) - certain
	if more < 0 || more > rounds*givers {
		t.Errorf("%d rewards count more than were accepted", more)
	}
	replay := func() {
		for round, all := range accepted {
			for giver, n := range all {
				for i := range n {
					id := nthID(strconv.Itoa(round), giver, i)
					give(t, l, id, Duplicate)
					decide(l, id)
					give(t, l, id, Duplicate)
				}
				// The one that was under way: whoever was killed tries it again.
				id, reward := nthID(strconv.Itoa(round), giver, n), 1.0
				decide(l, id)
				if _, _, err := l.Give(Given{ID: id, Reward: &reward}); err != nil {
					t.Error(err)
				}
			}
		}
		if n := int(counted(l)); n != certain+rounds*givers {
			t.Errorf("%d rewards count, want %d", n, certain+rounds*givers)
		}
	}
	replay()
	replay()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	checkFile(t, path)
}

// checkFile has bbolt check the whole file.
func checkFile(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
