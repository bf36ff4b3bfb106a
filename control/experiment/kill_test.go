package experiment

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The variables that make a process of this test one that adds records to the outbox of
// a folder, and sends them to an MLflow server if there is one, until it is killed.
const (
	envDir   = "MILLRACE_EXPERIMENT_TEST_DIR"
	envRound = "MILLRACE_EXPERIMENT_TEST_ROUND"
	envURI   = "MILLRACE_EXPERIMENT_TEST_URI"
)

func TestMain(m *testing.M) {
	if os.Getenv(envDir) == "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, addForever(os.Getenv(envDir), os.Getenv(envRound)))
	os.Exit(1)
}

// killRecord is the record of a round, running at first and then finished.
func killRecord(round string, n int) Record {
	r := record(fmt.Sprint(round, "-", n/2), Running, 3)
	if n%2 == 1 {
		r = record(r.ID, Finished, 40)
		r.Artifacts = []Artifact{{"note.txt", []byte(r.ID)}}
	}
	return r
}

// addForever prints id and status of each record that was acknowledged.
func addForever(dir, round string) error {
	o, err := Open(config(dir))
	if err != nil {
		return err
	}
	if uri := os.Getenv(envURI); uri != "" {
		client, err := newClient(uri)
		if err != nil {
			return err
		}
		go o.Run(context.Background(), client)
	}
	for n := 0; ; n++ {
		r := killRecord(round, n)
		if err := o.Add(r); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, r.ID, r.Status)
		for os.Getenv(envURI) != "" && o.Stats().Waiting > 2 {
			<-time.After(5 * time.Millisecond)
		}
	}
}

// killRounds kills processes at random instants and returns the status of each record
// that was acknowledged last.
func killRounds(t *testing.T, dir, uri string, most time.Duration) map[string]Status {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	acknowledged := make(map[string]Status)
	for round := range 30 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), envDir+"="+dir, envRound+"="+fmt.Sprint(round),
			envURI+"="+uri)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		var timer *time.Timer
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			id, status, ok := strings.Cut(lines.Text(), " ")
			if !ok {
				t.Fatalf("it says %q", lines.Text())
			}
			acknowledged[id] = Status(status)
			if timer == nil {
				timer = time.AfterFunc(time.Duration(rng.Int64N(int64(most))),
					func() { _ = cmd.Process.Kill() })
			}
		}
		_ = cmd.Wait() // killed
		if code := cmd.ProcessState.ExitCode(); code != -1 {
			t.Fatalf("it has ended by itself, with %d", code)
		}
	}
	return acknowledged
}

// TestKill kills processes that add records. All that was acknowledged is there, and
// nothing is damaged.
func TestKill(t *testing.T) {
	cfg := config(t.TempDir())
	acknowledged := killRounds(t, cfg.Dir, "", 60*time.Millisecond)
	o := open(t, cfg)
	list, err := o.Records()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records were acknowledged, %d are there", len(acknowledged), len(list))
	there := make(map[string]Record)
	for _, s := range list {
		there[s.Record.ID] = s.Record
	}
	for id, status := range acknowledged {
		r, ok := there[id]
		if !ok || status == Finished && r.Status != Finished ||
			len(r.Series[0].Points) != map[Status]int{Running: 3, Finished: 40}[r.Status] {
			t.Errorf("%s was %s, and is %s with %d points", id, status, r.Status,
				len(r.Series[0].Points))
		}
	}
	if len(list) > len(acknowledged)+30 {
		t.Errorf("%d records, %d acknowledged in 30 rounds", len(list), len(acknowledged))
	}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil || len(entries) != len(list) {
		t.Errorf("%d files of %d records, %v", len(entries), len(list), err)
	}
}
