package control

import (
	"archive/zip"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/store"
)

// backup returns a backup of the plane.
func (b *bench) backup() []byte {
	b.t.Helper()
	var text bytes.Buffer
	if err := b.Backup(b.t.Context(), &text); err != nil {
		b.t.Fatal(err)
	}
	return text.Bytes()
}

// learned writes what monitors have learned.
func (b *bench) learned(text string, monitors ...string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Join(b.cfg.Data, monitorDir), 0o755); err != nil {
		b.t.Fatal(err)
	}
	for _, name := range monitors {
		path := filepath.Join(b.cfg.Data, monitorDir, name+".json")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
}

// archive is a ZIP archive of files that are all the same.
func archive(t *testing.T, content []byte, names ...string) []byte {
	t.Helper()
	var text bytes.Buffer
	z := zip.NewWriter(&text)
	for _, name := range names {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

// saved writes a backup into a file and returns its path.
func saved(t *testing.T, backup []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kept.zip")
	if err := os.WriteFile(path, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBackup has a monitor learn a reference, and another plane go on with it.
func TestBackup(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion"}`)
	s := newStream(b)
	b.put("Monitor", "watch", `{"endpoint": "e", "reference": {"learn": 1000}, "ignore": ["label",
		"probabilities.0", "probabilities.1", "probabilities.2", "probabilities.class"]}`,
		"Monitor", "new", `{"endpoint": "e", "reference": {"learn": 1000000}}`)
	b.opened()
	s.ticks(60, monitor.StateAlarm)
	if got := s.status().State; got != monitor.StateOK {
		t.Fatalf("the state is %s", got)
	}
	b.restart() // which keeps what was learned
	text := b.backup()
	kept := saved(t, text)
	learned, err := os.ReadFile(b.monitorFile("watch"))
	if err != nil {
		t.Fatal(err)
	}
	b.close()
	b.cfg.Data = filepath.Join(t.TempDir(), "data")
	b.learned("{}", "watch", "gone") // of another server
	if err := Restore(kept, b.cfg.Data, ana); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(b.cfg.Data, monitorDir, "watch.json"))
	if err != nil || !bytes.Equal(got, learned) {
		t.Errorf("%v: %d bytes were learned, %d come back", err, len(learned), len(got))
	}
	left, err := filepath.Glob(filepath.Join(b.cfg.Data, "*", "*"))
	if err != nil || strings.Contains(fmt.Sprint(left), "gone") {
		t.Errorf("%v: left is %q", err, left)
	}
	b.start(config.Default())
	b.opened()
	s.ticks(1, monitor.StateAlarm)
	if st := s.status(); st.State != monitor.StateOK {
		t.Errorf("the monitor that has learned is %s: %s", st.State, st.Reason)
	}
	err = Restore(kept, b.cfg.Data, ana)
	if err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("restored under a plane: %v", err)
	}
}

// TestRestoreRefuses leaves everything as it is where a backup is none.
func TestRestoreRefuses(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", fixed("1"), "Monitor", "watch",
		`{"endpoint": "e", "reference": {"learn": 1000}}`)
	b.learned("{}", "watch")
	whole := b.backup()
	var alone bytes.Buffer
	if err := b.store.Backup(t.Context(), &alone); err != nil {
		t.Fatal(err)
	}
	b.close()
	of := func(names ...string) []byte { return archive(t, alone.Bytes(), names...) }
	f := func(backup []byte, want string) {
		t.Helper()
		before := contents(t, b.cfg.Data)
		got := fmt.Sprint(Restore(saved(t, backup), b.cfg.Data, ana))
		if !strings.Contains(got, want) {
			t.Errorf("%.200s, want %s", got, want)
		}
		if want != "<nil>" && contents(t, b.cfg.Data) != before {
			t.Errorf("%s: the data have changed", want)
		}
	}
	f(nil, "cannot restore")
	f([]byte("a text"), "cannot restore")
	for _, n := range []int{1, 100, len(whole) / 2, len(whole) - 1} {
		f(whole[:n], "cannot restore")
	}
	spoiled := bytes.Clone(whole)
	spoiled[200] ^= 1
	f(spoiled, "cannot restore")
	f(of(), "control.db")
	f(of("monitors/watch.json"), "control.db")
	f(of("control.db", "control.db"), "exists")
	for _, name := range []string{"../control.db", "monitors/../../x.json", "monitors/..",
		"monitors/x.json/y.json", "endpoints.json", "monitors/x", "/monitors/x.json"} {
		f(of("control.db", name), "which this version does not know")
	}
	f(alone.Bytes(), "<nil>") // of an older version
	f(of("control.db"), "<nil>")
	left, err := os.ReadDir(filepath.Join(b.cfg.Data, monitorDir))
	if err != nil || len(left) != 0 {
		t.Errorf("%v: %v is left of monitors that the backup does not have", err, left)
	}
	f(whole, "<nil>")
	b.start(config.Default())
	if b.view.monitors["watch"] == nil {
		t.Error("the monitor is not there")
	}
}

// contents is what files a folder of data has, but for those that any opening changes.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range []string{"*", "*/*"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, _ := os.ReadFile(path) // none of a folder
			fmt.Fprintf(&all, "%s %x\n", path, text)
		}
	}
	return all.String()
}

// envRestore makes a process of this test one that restores what it names until it is killed: a
// folder of data, and backups.
const envRestore = "MILLRACE_CONTROL_TEST_RESTORE"

// TestRestoreKilled kills processes that restore two backups in turn. What they leave is one of the
// stores, and of each monitor what one backup has of it or nothing.
func TestRestoreKilled(t *testing.T) {
	if all := filepath.SplitList(os.Getenv(envRestore)); len(all) > 0 {
		for n := 0; ; n++ {
			if err := Restore(all[1+n%2], all[0], ana); err != nil {
				t.Fatal(err)
			}
			fmt.Println("restored")
		}
	}
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", fixed("1"))
	var names []string
	for n := range 20 {
		names = append(names, fmt.Sprintf("watch%d", n))
		b.put("Monitor", names[n], `{"endpoint": "e", "reference": {"learn": 1000}}`)
	}
	var backups [2]string
	for i := range backups {
		b.learned(strings.Repeat(fmt.Sprint(i), 100_000), names...)
		backups[i] = saved(t, b.backup())
	}
	data := filepath.Join(t.TempDir(), "data")
	r := rand.New(rand.NewPCG(14, 5))
	for range 12 {
		killRestore(t, strings.Join([]string{data, backups[0], backups[1]},
			string(filepath.ListSeparator)), time.Duration(r.IntN(60))*time.Millisecond)
		intact(t, data)
	}
	if err := Restore(backups[0], data, ana); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(data, restoreDir)); err == nil {
		t.Error("what was unpacked is left")
	}
}

// intact wants a folder of data to have a store, and what monitors have learned of one backup.
func intact(t *testing.T, data string) {
	t.Helper()
	cfg := store.DefaultConfig()
	cfg.Path = filepath.Join(data, storeFile)
	kept, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Get(t.Context(), store.Key{Kind: "Monitor", Name: "watch19"}); err != nil {
		t.Error(err)
	}
	if err := kept.Close(); err != nil {
		t.Error(err)
	}
	paths, err := filepath.Glob(filepath.Join(data, monitorDir, "*"))
	if err != nil || len(paths) != 0 && len(paths) != 20 {
		t.Errorf("%v: %d files of monitors are left", err, len(paths))
	}
	var first []byte
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if first == nil {
			first = text
		}
		if err != nil || len(text) != 100_000 || !bytes.Equal(text, first) {
			t.Errorf("%v: %s has %d bytes, or is of another backup", err, path, len(text))
		}
	}
}

// killRestore starts such a process, and kills it some time after it has restored once.
func killRestore(t *testing.T, what string, after time.Duration) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestRestoreKilled$")
	cmd.Env = append(os.Environ(), envRestore+"="+what)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	<-time.After(after)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
}
