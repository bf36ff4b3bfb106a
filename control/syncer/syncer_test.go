package syncer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/source"
	"github.com/millrace-ml/millrace/runtime/model"
)

var broken = map[string][]byte{"model.onnx": []byte("not a model")}

// TestAliases follows aliases through versions that come, fail and go.
func TestAliases(t *testing.T) {
	b := newBench(t, model.ModeNone)
	b.src.set(t, "m", "1", sample(t, "simple"))
	b.src.set(t, "m", "2", sample(t, "iris"))
	b.src.set(t, "m", "3", sample(t, "wine"))
	b.looks("3:Ready [3]") // the newest, where nothing else is wanted
	if v := b.model.Status.Versions[0]; v.RunID != "run-3" || v.TrainedIn != "trained-3" {
		t.Errorf("%+v", v)
	}
	b.src.aliases(t, "m", "champion 1")
	b.looks("1:Ready @champion=1 [1]") // once that is READY the newest leaves
	b.src.aliases(t, "m", "champion 2", "challenger 3")
	b.looks("3:Ready 2:Ready 1:Ready @challenger=3 @champion=2 [1 2 3]")
	b.looks("3:Ready 2:Ready @challenger=3 @champion=2 [2 3]") // one look later

	b.src.set(t, "m", "4", broken)
	b.src.aliases(t, "m", "champion 4", "challenger 9")
	b.looks("4:Failed 3:Ready 2:Ready 9:Gone @challenger=3 @champion=2 [2 3]")
	b.reason("4", "not a complete ONNX model")
	if b.src.pulled("m/4") != 1 || b.model.Status.Registry["champion"] != "4" {
		t.Errorf("%d pulls; %v", b.src.pulled("m/4"), b.model.Status.Registry)
	}
	b.looks("4:Failed 3:Ready 2:Ready 9:Gone @challenger=3 @champion=2 [2 3]")
	b.src.set(t, "m", "5", map[string][]byte{"model.pkl": nil})
	b.src.aliases(t, "m", "champion 5")
	b.looks("5:NotONNX 4:Failed 3:Ready 2:Ready @champion=2 [2 3]")
	b.reason("5", "convert: of its source")
	b.looks("5:NotONNX 4:Failed 2:Ready @champion=2 [2]") // an alias that has gone
	b.src.aliases(t, "m", "champion 2")
	b.looks("5:NotONNX 4:Failed 2:Ready @champion=2 [2]")
	if got := b.stored(); got != "model/m/2 m/2 m/config.pbtxt" {
		t.Errorf("stored is %s", got)
	}

	b.model.Wanted = []string{"1", "7"} // an endpoint needs them
	b.looks("5:NotONNX 4:Failed 2:Ready 1:Ready 7:Gone @champion=2 [1 2]")
	b.src.aliases(t, "m")
	if err := os.RemoveAll(filepath.Join(b.src.dir, "m", "1")); err != nil {
		t.Fatal(err)
	}
	b.model.Wanted = []string{"1"}
	b.looks("5:NotONNX 4:Failed 2:Ready 1:Ready [1 2]")
	b.reason("1", "deleted at the source")
	b.looks("5:NotONNX 4:Failed 1:Ready [1]")
	text, err := json.Marshal(b.model.Status)
	var again Status
	if err == nil {
		err = json.Unmarshal(text, &again)
	}
	b.model.Status = again
	if err != nil || b.line() != "5:NotONNX 4:Failed 1:Ready [1]" {
		t.Errorf("%v; %s", err, text)
	}
}

// TestLatest wants the newest versions, and the ones before until those are READY.
func TestLatest(t *testing.T) {
	b := newBench(t, model.ModeNone)
	b.model.Latest = 2
	for i, name := range []string{"simple", "iris", "wine"} {
		b.src.set(t, "m", fmt.Sprint(i+1), sample(t, name))
	}
	b.looks("3:Ready 2:Ready [2 3]")
	b.src.set(t, "m", "4", broken)
	b.looks("4:Failed 3:Ready 2:Ready [2 3]")
	b.src.set(t, "m", "4", sample(t, "diabetes"))
	b.looks("4:Ready 3:Ready [3 4]")
	pending := sample(t, "iris")
	pending["status"] = []byte("PENDING_REGISTRATION")
	b.src.set(t, "m", "5", pending)
	b.looks("4:Ready 3:Ready [3 4]")
	b.src.aliases(t, "m", "champion 5")
	b.looks("5:Wanted 4:Ready 3:Ready [3 4]")
	b.reason("5", "PENDING_REGISTRATION")
}

// TestReplaced has the content of a version change under its name, where the repository
// follows its folders itself and where it does not.
func TestReplaced(t *testing.T) {
	for _, mode := range []model.Mode{model.ModeNone, model.ModePoll} {
		b := newBench(t, mode)
		served := func() string {
			v, err := b.models.Acquire([]byte("m"), []byte("v.1"))
			if err != nil {
				return err.Error()
			}
			defer v.Release()
			return v.Signature().Inputs[0].Name
		}
		b.src.set(t, "m", "v.1", sample(t, "simple"))
		b.looks("v.1:Ready [v.1]")
		before, digest := served(), b.model.Status.Versions[0].Digest
		b.src.set(t, "m", "v.1", sample(t, "iris"))
		b.looks("v.1:Ready [v.1]")
		b.reason("v.1", "replaced")
		if served() == before || b.model.Status.Versions[0].Digest == digest {
			t.Errorf("%s: it still has the input %s, %v", mode, served(), b.model.Status)
		}
		b.looks("v.1:Ready [v.1]")
		b.reason("v.1", "replaced")
		if n := b.src.pulled("m/v.1"); n != 2 || b.stored() != "model/m/v.1 m/config.pbtxt m/v.1" {
			t.Errorf("%s: %d pulls; stored is %s", mode, n, b.stored())
		}
		b.src.set(t, "m", "v.1", map[string][]byte{"model.pkl": nil})
		b.looks("v.1:Ready [v.1]")
		b.reason("v.1", "the source has something newer")
	}
}

// TestBrokenSource wants a source that is down to change nothing but the error.
func TestBrokenSource(t *testing.T) {
	b := newBench(t, model.ModeNone)
	b.src.set(t, "m", "1", sample(t, "simple"))
	b.src.aliases(t, "m", "champion 1")
	b.looks("1:Ready @champion=1 [1]")
	looked := b.model.Status.Looked
	b.src.down = errors.New("no route to the registry")
	b.looks("1:Ready @champion=1 [1]")
	if s := b.model.Status; s.Error != "no route to the registry" || !s.Looked.After(looked) {
		t.Errorf("status %+v", s)
	}
	b.src.down = nil
	other := b.Sync(t.Context(), b.src, []Model{{Name: "n", At: "nobody"}, b.model})
	if e := other["n"].Error; !strings.Contains(e, "nobody") || other["m"].Error != "" {
		t.Errorf("status %+v", other)
	}
}

// TestFolder follows a real source, which says of new files that they may still change.
func TestFolder(t *testing.T) {
	b := newBench(t, model.ModePoll)
	b.src.set(t, "m", "1", sample(t, "simple"))
	open := func() source.Source {
		src, err := source.NewFolder(source.FolderConfig{Path: b.src.dir}, b.cfg.Store)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = src.Close() })
		return src
	}
	look := func(src source.Source, want string) {
		t.Helper()
		if got := b.sync(src); got != want {
			t.Errorf("%s, want %s; %+v", got, want, b.model.Status)
		}
	}
	src := open()
	b.model.Wanted = []string{"1"}
	look(src, "1:Wanted []")
	look(src, "1:Ready [1]")
	src, b.Syncer = open(), New(b.cfg)
	look(src, "1:Ready [1]")
	b.reason("1", "")
	b.src.set(t, "m", "2", sample(t, "iris"))
	b.model.Wanted = nil
	look(src, "1:Ready [1]")
	look(src, "2:Ready [2]")
}

// TestStopped ends a Sync while it fetches. The next one goes on at once.
func TestStopped(t *testing.T) {
	b := newBench(t, model.ModeNone)
	b.src.set(t, "m", "1", sample(t, "simple"))
	b.src.gate["1"] = make(chan string)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	b.model.Status = b.Sync(ctx, b.src, []Model{b.model})["m"]
	if got := b.line(); got != "1:Wanted []" {
		t.Errorf("%s; %+v", got, b.model.Status)
	}
	b.reason("1", "stopped")
	delete(b.src.gate, "1")
	b.looks("1:Ready [1]")
}

// TestPulls wants two pulls at a time, by all Syncs together, and all to be done.
func TestPulls(t *testing.T) {
	b := newBench(t, model.ModeNone)
	gate := make(chan string)
	models := make([][]Model, 2)
	for i := range 8 {
		name := fmt.Sprint("m", i)
		b.src.set(t, name, "1", sample(t, "simple"))
		models[i%2] = append(models[i%2], Model{Name: name, At: name})
	}
	b.src.gate["1"] = gate
	done := make(chan map[string]Status)
	for _, list := range models {
		go func() { done <- b.Sync(t.Context(), b.src, list) }()
	}
	end := time.Now().Add(10 * time.Second)
	for b.src.atOnce() < maxPulls && time.Now().Before(end) {
		runtime.Gosched()
	}
	for range 8 {
		<-gate
	}
	for range models {
		for name, status := range <-done {
			if status.Versions[0].State != Ready {
				t.Errorf("%s: %+v", name, status)
			}
		}
	}
	if n := b.src.atOnce(); n != maxPulls {
		t.Errorf("%d pulls at a time", n)
	}
}

// TestNames gives models and versions names that cannot be those of folders.
func TestNames(t *testing.T) {
	b := newBench(t, model.ModeNone)
	f := func(name, want string) {
		t.Helper()
		b.src.set(t, "m", "1", sample(t, "simple"))
		status := b.Sync(t.Context(), b.src, []Model{{Name: name, At: "m"}})[name]
		if v := status.Versions[0]; v.State != Failed || !strings.Contains(v.Reason, want) {
			t.Errorf("model %.20q: %+v", name, status)
		}
	}
	for _, name := range []string{"", "..", ".", "a/b", "../m", "mod\u202eel", "ｍ", "-m",
		strings.Repeat("m", 201), "a\x00b", ".temp"} {
		f(name, "registered:")
	}
	for _, version := range []string{"warmup", "MLmodel", "config.pbtxt", "model.onnx", "ä",
		strings.Repeat("1", 201)} {
		b.src.set(t, "n", version, sample(t, "simple"))
		b.model = Model{Name: "n", At: "n", Wanted: []string{version}}
		b.looks(version + ":Failed []")
		b.reason(version, "another name at its source")
	}
	if got := b.stored(); got != "" {
		t.Errorf("stored is %s", got)
	}
	b.src.set(t, "deep/ö", "V1", sample(t, "simple"))
	b.src.set(t, "deep/ö", "v1", sample(t, "iris"))
	b.model = Model{Name: "ours", At: "deep/ö", Latest: 2}
	b.looks("v1:Ready V1:Ready [V1 v1]")
}

// TestRestart has a new process find on disk all that the one before had done.
func TestRestart(t *testing.T) {
	b := newBench(t, model.ModeNone)
	b.src.set(t, "m", "1", sample(t, "simple"))
	b.src.set(t, "m", "2", sample(t, "iris"))
	b.model.Latest = 2
	b.looks("2:Ready 1:Ready [1 2]")
	half := filepath.Join(b.cfg.Dir, ".temp", "half")
	write(t, filepath.Join(half, "new", "model.onnx"), nil)
	if err := os.RemoveAll(filepath.Join(b.cfg.Dir, "m", "1")); err != nil { // by someone
		t.Fatal(err)
	}
	b.Syncer, b.model.Status = New(b.cfg), Status{}
	b.looks("2:Ready 1:Ready [1 2]")
	if n := b.src.pulled("m/2"); n != 1 {
		t.Errorf("what was here was pulled %d times", n)
	}
	b.src.set(t, "other", "1", sample(t, "simple"))
	b.Sync(t.Context(), b.src, []Model{{Name: "other", At: "other"}})
	if err := b.Retain(t.Context(), []string{"other"}); err != nil {
		t.Error(err)
	}
	want := "model/other/1 other/1 other/config.pbtxt"
	if got := b.stored(); got != want || len(b.models.Versions("m")) > 0 {
		t.Errorf("stored is %s, want %s", got, want)
	}
}

func TestPause(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	entry := &source.Version{Name: "1", Tags: map[string]string{"a": "1", "b": "2"}}
	same := &source.Version{Name: "1", Tags: map[string]string{"b": "2", "a": "1"}}
	other := &source.Version{Name: "1", Aliases: []string{"champion"}}
	n := note{replaced: true}
	for i, minutes := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
		n = n.failed(os.ErrNotExist, entry, now)
		until := now.Add(time.Duration(minutes) * time.Minute)
		if !n.waits(same, until.Add(-1)) || n.waits(same, until) || n.waits(other, now) {
			t.Errorf("after %d failures it waits until %v", i+1, n.until.Sub(now))
		}
	}
	if n = n.failed(os.ErrNotExist, other, now); n.failures != 1 || !n.replaced {
		t.Errorf("another entry leaves %+v", n)
	}
}

// TestStamp tells versions apart that a source has had under one name.
func TestStamp(t *testing.T) {
	f := func(made, digest string) (got time.Time) {
		t.Helper()
		v := source.Version{Name: "1"}
		if made != "" {
			var err error
			if v.Created, err = time.Parse(time.RFC3339Nano, made); err != nil {
				t.Fatal(err)
			}
		}
		if digest != "" {
			v.Tags = map[string]string{"digest": digest}
		}
		return stamp(&v)
	}
	seen := make(map[int64]bool)
	for _, got := range []time.Time{f("", ""), f("", "sha256:1"), f("", "sha256:2"),
		f("2026-01-01T00:00:00.001Z", ""), f("2026-01-01T00:00:00.002Z", ""),
		f("2026-01-01T00:00:00.001Z", "sha256:1"), f("1066-10-14T00:00:00Z", ""),
		f("9999-01-01T00:00:00Z", "")} {
		seen[got.UnixNano()] = true
	}
	if len(seen) != 6 || f("2026-01-01T00:00:00.001Z", "") != f("2026-01-01T00:00:00.0019Z", "") {
		t.Errorf("only %d differ", len(seen))
	}
}

// TestMany looks at many models of which nothing has changed.
func TestMany(t *testing.T) {
	const count, most = 2000, 200 * time.Millisecond
	dir := t.TempDir()
	src := &still{made: time.Unix(1_700_000_000, 0)}
	store := openStore(t, filepath.Join(dir, "store"))
	cfg := Config{Dir: filepath.Join(dir, "models"), Store: store, Models: src,
		Log: slog.New(slog.DiscardHandler)}
	s := New(cfg)
	shelf := newShelf(t, store)
	var models []Model
	pins := make(map[string][]string)
	digest := ""
	for i := range count {
		name := fmt.Sprintf("m%04d", i)
		if i%100 == 0 { // to take in 2,000 takes the store long
			shelf.set(t, name, "1", map[string][]byte{"model.onnx": []byte(name)})
			var err error
			if digest, err = shelf.PullAny(t.Context(), name, "1"); err != nil {
				t.Fatal(err)
			}
		}
		pins[digest] = append(pins[digest], pinName(name, "1"))
		write(t, filepath.Join(cfg.Dir, name, "1", "model.onnx"), []byte(name))
		at := stamp(&source.Version{Created: src.made})
		if err := os.Chtimes(filepath.Join(cfg.Dir, name, "1"), at, at); err != nil {
			t.Fatal(err)
		}
		models = append(models, Model{Name: name, At: name, Status: Status{
			Aliases: map[string]string{"champion": "1"}}})
	}
	text, err := json.Marshal(pins)
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "store", "pins.json"), text) // Pin by Pin takes long
	s.cfg.Store = openStore(t, filepath.Join(dir, "store"))
	best := time.Hour
	for range 5 {
		began := time.Now()
		statuses := s.Sync(t.Context(), src, models)
		best = min(best, time.Since(began))
		for name, status := range statuses {
			if len(statuses) != count || status.Aliases["champion"] != "1" {
				t.Fatalf("%s: %+v", name, status)
			}
		}
	}
	if t.Logf("%d models: %v", count, best); best > most {
		t.Errorf("it took %v, at most %v", best, most)
	}
}

// still is a source where nothing happens, and a repository that serves all of it.
type still struct {
	source.Source
	made  time.Time
	names []string
}

func (s *still) Look(_ context.Context, models []string) (map[string]source.Result, error) {
	s.names = models
	results := make(map[string]source.Result, len(models))
	for _, name := range models {
		results[name] = source.Result{Listing: source.Listing{
			Versions: []source.Version{{Name: "1", Created: s.made}},
			Aliases:  map[string]string{"champion": "1"}}}
	}
	return results, nil
}

func (s *still) Sync(context.Context) error { return errors.New("nothing has changed") }

func (s *still) Index(bool) []model.IndexEntry {
	var entries []model.IndexEntry
	for _, name := range s.names {
		entries = append(entries, model.IndexEntry{Name: name, Version: "1",
			State: model.StateReady})
	}
	return entries
}
