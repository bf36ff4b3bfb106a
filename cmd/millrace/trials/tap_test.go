package trials_test

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// tapSettings writes all requests of an endpoint to files in dir.
func tapSettings(dir, format string, flush time.Duration) string {
	return fmt.Sprintf(`endpoints:
  - {name: fraud, model: sum, stable: "1"}
taps:
  - name: training
    queue: 100000
    files: {path: '%s', format: %s, flush: %s}
`, dir, format, flush)
}

// answers are the times at which requests were answered. Request number n has
// the id "n" and the input n.
type answers struct {
	next atomic.Int64
	mu   sync.Mutex
	at   map[string]time.Time
}

// load sends requests from several clients until so many were answered or the
// server is gone.
func (a *answers) load(p *process, until int64) *sync.WaitGroup {
	wait := new(sync.WaitGroup)
	for range 4 {
		wait.Go(func() {
			for n := a.next.Add(1); n <= until; n = a.next.Add(1) {
				id := fmt.Sprint(n)
				got, err := p.send(request{endpoint: "fraud", x: float32(n), id: id})
				if err != nil {
					return
				}
				if got.status != 200 || got.id != id {
					p.t.Errorf("request %s is answered with %+v", id, got)
					return
				}
				a.mu.Lock()
				a.at[id] = time.Now()
				a.mu.Unlock()
			}
		})
	}
	return wait
}

// hold holds samples against the answers: none is there twice or other than it
// was sent, and none is missing that was answered before a time.
func (a *answers) hold(t *testing.T, samples []sample, before time.Time) (missing int) {
	t.Helper()
	found := make(map[string]bool)
	for _, s := range samples {
		var n int64
		if _, err := fmt.Sscan(s.ID, &n); err != nil || !s.whole(float32(n)) || found[s.ID] {
			t.Fatalf("a sample is %+v; %v; it was there before: %v", s, err, found[s.ID])
		}
		found[s.ID] = true
	}
	for id, at := range a.at {
		if found[id] {
			continue
		}
		if missing++; at.Before(before) {
			t.Errorf("request %s is missing, which was answered %v too early for that", id,
				before.Sub(at))
		}
	}
	return missing
}

// TestTap kills a server (kill -9) while it writes samples under load: all files
// are readable, and at most the last flush is missing. The next server goes on.
func TestTap(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of load")
	}
	t.Parallel()
	f := func(format string) {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			testTap(t, format)
		})
	}
	f("parquet")
	f("jsonl")
}

func testTap(t *testing.T, format string) {
	// What came between the last flush and the death, of which the fsync takes a
	// while on a busy machine.
	const flush, slack = 500 * time.Millisecond, time.Second
	dir := repository(t, 1)
	samples := filepath.Join(dir, "samples")
	file := settings(t, dir, tapSettings("samples", format, flush))
	p := launch(t, file)
	a := &answers{at: make(map[string]time.Time)}
	wait := a.load(p, math.MaxInt64)
	written := func() float64 {
		return p.metric("millrace_tap_samples_total", `result="written"`)
	}
	eventually(t, "several flushes are over", func() bool {
		return written() > 0 && time.Since(a.first()) > 5*flush+flush/2
	})
	safe := written()
	lost := p.metric("millrace_tap_samples_total", `result="dropped"`) +
		p.metric("millrace_samples_unseen_total")
	p.kill()
	killed := time.Now()
	wait.Wait()
	if t.Failed() {
		return
	}
	if lost > 0 {
		t.Fatalf("%v samples were dropped", lost)
	}
	whole := readSamples(t, samples, format) // without any help
	p = launch(t, file)
	got := readSamples(t, samples, format)
	if float64(len(got)) < safe || len(got) < len(whole) {
		t.Errorf("%d samples are there, %d before the start; %v were written", len(got),
			len(whole), safe)
	}
	missing := a.hold(t, got, killed.Add(-flush-slack))
	t.Logf("%s: of %d answers %d are missing after kill -9; %v were counted as written",
		format, len(a.at), missing, safe)
	if names := underWay(t, samples); len(names) > 0 {
		t.Errorf("these were not ended: %v", names)
	}

	a.load(p, a.next.Load()+200).Wait()
	p.term()
	all := readSamples(t, samples, format)
	if now := a.hold(t, all, killed.Add(-flush-slack)); now != missing {
		t.Errorf("%d are missing, %d were before the next run", now, missing)
	}
}

// first returns when the first request was answered, or now.
func (a *answers) first() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := time.Now()
	for _, at := range a.at {
		if at.Before(first) {
			first = at
		}
	}
	return first
}

// folder is one with files of a tap that can be spoilt and mended.
type folder struct {
	path, format string
	spoil        func() (removed float64) // samples, at most
	mend         func()
}

// failing has the files of a tap fail and mends them: requests are answered all
// the while, what is lost is counted, the log tells of both, and every sample
// that is counted as written is there, but for those that spoil has removed.
func failing(t *testing.T, p *process, f *folder) {
	t.Helper()
	dir, format := f.path, f.format
	a := &answers{at: make(map[string]time.Time)}
	count := func(result string) float64 {
		return p.metric("millrace_tap_samples_total", `tap="training"`, `result="`+result+`"`)
	}
	send := func(what string, until func() bool) {
		t.Helper()
		eventually(t, what, func() bool {
			a.load(p, a.next.Load()+20).Wait()
			return t.Failed() || until()
		})
	}
	send("samples are written", func() bool { return count("written") > 0 })
	at := p.Said()
	gone := f.spoil()
	send("samples fail", func() bool { return count("failed") > 100 })
	wantTexts(t, p.WaitFor(at, "samples cannot be written"), "tap=training", "no ")
	at = p.Said()
	kept := readSamples(t, dir, format)
	f.mend()
	before := count("written")
	send("samples are written again", func() bool { return count("written") > before+100 })
	p.WaitFor(at, "samples are written again")
	if n := strings.Count(p.Output(), "samples cannot be written"); n != 1 {
		t.Errorf("the log says %d times that samples cannot be written", n)
	}
	written := count("written")
	samples := readSamples(t, dir, format)
	if format == "jsonl" {
		samples = append(samples, readSamples(t, dir, "jsonl.open")...)
	}
	a.hold(t, samples, time.Time{})
	t.Logf("of %d requests, all answered, %v samples were written and %v failed; %d are there",
		len(a.at), written, count("failed"), len(samples))
	if float64(len(samples)) < written-gone || len(samples) < len(kept) {
		t.Errorf("%d samples are there; %v were written, %v of them removed; %d were there before",
			len(samples), written, gone, len(kept))
	}
}

// TestNoFolder takes the folder of a tap away, and brings it back.
func TestNoFolder(t *testing.T) {
	t.Parallel()
	f := func(format string) {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			dir := repository(t, 1)
			p := launch(t, settings(t, dir, tapSettings("samples", format,
				100*time.Millisecond)))
			samples := filepath.Join(dir, "samples")
			failing(t, p, &folder{samples, format, func() float64 {
				// In one step: files may come while a folder is being emptied.
				if err := os.Rename(samples, filepath.Join(t.TempDir(), "gone")); err != nil {
					t.Fatal(err)
				}
				return p.metric("millrace_tap_samples_total", `result="written"`)
			}, func() {
				if err := os.Mkdir(samples, 0o755); err != nil {
					t.Fatal(err)
				}
			}})
			p.term()
		})
	}
	f("parquet")
	f("jsonl")
}

// disk starts a server that has a small disk of its own at a path, which the
// test sees at another one.
func disk(t *testing.T, file, path string) (p *process, seen string) {
	t.Helper()
	if out, err := exec.Command("unshare", "-Urm", "true").CombinedOutput(); err != nil {
		t.Skipf("nothing can be mounted here: %v %s", err, out)
	}
	inner := command("serve", "-c", file)
	cmd := exec.Command("unshare", append([]string{"-Urm", "sh", "-c",
		`mkdir -p "$0" && mount -t tmpfs -o size=4m none "$0" && exec "$@"`, path},
		inner.Args...)...)
	cmd.Env, cmd.SysProcAttr = inner.Env, inner.SysProcAttr
	p = run(t, cmd)
	return p, filepath.Join("/proc", fmt.Sprint(p.Cmd.Process.Pid), "root", path)
}

// TestFullDisk fills the disk of a tap, a small one that only the server has.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	f := func(format string) {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			dir := repository(t, 1)
			p, seen := disk(t, settings(t, dir, tapSettings("samples", format,
				100*time.Millisecond)), filepath.Join(dir, "samples"))
			ballast := filepath.Join(seen, "ballast")
			failing(t, p, &folder{seen, format, func() float64 {
				fill(t, ballast)
				return 0
			}, func() { empty(t, ballast) }})
			p.term()
		})
	}
	f("parquet")
	f("jsonl")
}

// TestFullData fills the disk with the rewards: feedback that finds no room is
// refused and may be sent again, requests are answered, and nothing that was
// accepted is lost.
func TestFullData(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1)
	file := settings(t, dir, "endpoints:\n  - {name: fraud, model: sum, stable: '1'}\n")
	p, seen := disk(t, file, filepath.Join(dir, "data"))
	give := func(id string) (int, string) {
		status, text, err := p.post("/v2/feedback", `{"id": "`+id+`", "reward": 1}`)
		if err != nil {
			t.Fatal(err)
		}
		return status, text
	}
	ballast, refused := filepath.Join(seen, "ballast"), ""
	var accepted []string
	fill(t, ballast)
	for i := 0; refused == ""; i++ {
		id := fmt.Sprint(i)
		p.ask(request{endpoint: "fraud", id: id})
		switch status, text := give(id); {
		case status == 200:
			accepted = append(accepted, id)
		case status != 503 || !contains(text, "could not be kept"):
			t.Fatalf("feedback %s is answered with %d %s", id, status, text)
		default:
			refused = id
			t.Logf("after %d that were accepted: %d %s", i, status, text)
		}
		if i > 100_000 {
			t.Fatal("a full disk takes all feedback")
		}
	}
	p.ask(request{endpoint: "fraud"})
	if n := p.metric("millrace_feedback_total", `result="failed"`); n != 1 {
		t.Errorf("%v are counted as failed", n)
	}
	empty(t, ballast)
	if status, text := give(refused); status != 200 || !contains(text, `"accepted"`) {
		t.Errorf("feedback that is sent again is answered with %d %s", status, text)
	}
	for _, id := range append(accepted, refused) {
		if status, text := give(id); status != 200 || !contains(text, `"duplicate"`) {
			t.Fatalf("feedback %s that was accepted is answered with %d %s", id, status, text)
		}
	}
	p.term()
}

// empty makes room on a disk.
func empty(t *testing.T, ballast string) {
	t.Helper()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !contains(err.Error(), syscall.ENOSPC.Error()) {
		t.Fatalf("the disk does not fill: %v", err)
	}
}
