package control

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route"
)

// file is a file to push.
func file(path string, content []byte) PushFile {
	sum := sha256.Sum256(content)
	return PushFile{Path: path, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
}

// push pushes a version of model m, unless it was, and has the source looked at.
func (b *bench) push(version string, aliases ...string) error {
	b.mu.Lock()
	it := b.view.pushed["m"]
	there := it != nil && it.status.find(version) >= 0
	b.mu.Unlock()
	if !there {
		content := onnx("wine", version[0]-'0')
		if _, err := b.Push(b.t.Context(), Push{Model: "m", Version: version, Aliases: aliases,
			Files: []PushFile{file("model.onnx", content)}, By: ana}); err != nil {
			return err
		}
	}
	return b.Sync(b.t.Context(), "inbox")
}

// deliver takes version 2 from a push to its promotion, from wherever that was left.
func (b *bench) deliver() error {
	_, err := b.Apply(b.t.Context(), texts("Source", "inbox", `{"push": true, "poll": "24h"}`,
		"Model", "m", `{"source": "inbox"}`,
		"Endpoint", "e", `{"model": "m", "stable": "@champion", "canary": {"watch": "@challenger",
			"steps": [10], "guards": [{"metric": "errors"}], "then": {"alias": "champion"}}}`))
	if err == nil {
		err = b.push("1", "champion")
	}
	if err == nil {
		err = b.push("2", "challenger")
	}
	if err != nil {
		return err
	}
	for range 40 {
		b.traffic(3000, 0)
		b.look(10 * time.Second)
		if s := b.status("e"); s.Rollout == "" && s.Former != nil {
			break
		}
	}
	b.act()
	if err := b.Sync(b.t.Context(), "inbox"); err != nil {
		return err
	}
	b.look(time.Second)
	return nil
}

// outcome is what is left in the end: it has to be the same whatever happened on the way.
func (b *bench) outcome() string {
	b.mu.Lock()
	registry := b.view.pushed["m"].status.Aliases
	box, err := b.openOutbox(localOutbox)
	b.mu.Unlock()
	if err != nil {
		return err.Error()
	}
	s := b.status("e")
	return fmt.Sprintf("rollouts %d, promoted %v, registry %v, runs %d, %s", s.Rollouts,
		s.Promoted != nil, registry, box.Stats().Records, b.actions())
}

// TestKilled kills the plane before and after each thing that it does: what it leaves is copied
// from under it, and another plane goes on from there. That has to put in force what was, when
// nothing was decided since, and come to the same end.
func TestKilled(t *testing.T) {
	b := open(t)
	kills, running := 0, make(chan struct{}, 8) // they wait for disks and timers most of the time
	var others sync.WaitGroup
	b.cfg.step = func(what string) {
		if strings.HasPrefix(what, "act") {
			b.mu.Lock() // the others come with it
			defer b.mu.Unlock()
		}
		kills++
		l := b.leave(fmt.Sprintf("%d (%s)", kills, what))
		l.decided = what == "committed" || what == "publish"
		running <- struct{}{}
		others.Go(func() { l.goOn(); <-running })
	}
	b.Plane.cfg.step = b.cfg.step
	err := b.deliver()
	others.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if got := b.outcome(); got != end {
		t.Errorf("in the end %s, want %s", got, end)
	}
	if kills < 40 {
		t.Errorf("it was killed %d times", kills)
	}
}

const end = "rollouts 1, promoted false, registry map[challenger:2 champion:2], runs 1, " +
	"e/1 tags=2, e/1 experiment, e/1 alias champion=2"

// left is what a killed plane leaves.
type left struct {
	*bench  // that goes on with it
	at      string
	decided bool // something that is not in force yet
	specs   []route.Spec
	aliases route.Aliases
}

// leave copies what is on disk, and what is in force.
func (b *bench) leave(at string) *left {
	dir := filepath.Join(b.t.TempDir(), "data")
	out, err := exec.Command("cp", "-r", "--sparse=always", b.cfg.Data, dir).CombinedOutput()
	if err != nil {
		b.t.Errorf("%v: %s", err, out)
	}
	b.gw.mu.Lock()
	defer b.gw.mu.Unlock()
	return &left{at: at, specs: b.gw.specs, aliases: b.gw.aliases,
		bench: &bench{t: b.t, now: b.now, cfg: Config{Data: dir, File: "millrace.yaml",
			Log: slog.New(slog.DiscardHandler), manual: true}}}
}

// goOn starts another plane and takes it to the end.
func (l *left) goOn() {
	l.gw = &fakeGateway{t: l.t, counted: make(map[string]Observed), asked: make(map[string]int)}
	file := config.Default()
	p, err := Open(l.cfg, l.gw, loaded, &file)
	if err != nil {
		l.t.Errorf("killed at %s it does not start: %v", l.at, err)
		return
	}
	l.Plane = p
	defer l.close()
	if specs, aliases := stored(l.t, p.store).table(); !l.decided && l.specs != nil &&
		!(reflect.DeepEqual(l.specs, specs) && reflect.DeepEqual(l.aliases, aliases)) {
		l.t.Errorf("killed at %s, stored is\n%+v %v, in force was\n%+v %v", l.at, specs, aliases,
			l.specs, l.aliases)
	}
	l.gw.check(p)
	if err := l.deliver(); err != nil {
		l.t.Errorf("killed at %s: %v", l.at, err)
		return
	}
	if got := l.outcome(); got != end {
		l.t.Errorf("killed at %s: in the end %s, want %s", l.at, got, end)
	}
	l.serves("stable=2")
}

// TestPushKilled has a push of which only the files came to be kept: nobody needs them.
func TestPushKilled(t *testing.T) {
	b := open(t)
	b.put("Source", "inbox", `{"push": true}`, "Model", "m", `{"source": "inbox"}`)
	if err := b.push("1", "champion"); err != nil {
		t.Fatal(err)
	}
	works := b.fail()
	if err := b.push("2"); err == nil {
		t.Error("a push that cannot be recorded succeeds")
	}
	works()
	pins := func() (all []string) {
		for _, v := range b.artifacts.List() {
			for _, who := range v.Pins {
				if strings.HasPrefix(who, pinPrefix) {
					all = append(all, who)
				}
			}
		}
		return all
	}
	if got := pins(); len(got) != 2 {
		t.Errorf("before the restart %v are pinned", got)
	}
	b.restart()
	if got := pins(); len(got) != 1 || got[0] != "pushed/m/1" {
		t.Errorf("after it %v are pinned", got)
	}
	other := file("model.onnx", onnx("wine", 4))
	_, err := b.Push(t.Context(), Push{Model: "m", Version: "1", Files: []PushFile{other}, By: ana})
	if err == nil || !strings.Contains(err.Error(), "give another version") {
		t.Errorf("other files under a version that is there: %v", err)
	}
	if got := pins(); len(got) != 1 {
		t.Errorf("after a push that was refused %v are pinned", got)
	}
	_, err = b.Push(t.Context(), Push{Model: "n", Files: []PushFile{other}, By: ana})
	if !errors.Is(err, store.ErrNotFound) {
		t.Error("a model without a source for pushes takes one")
	}
}

// TestStoreFails has a store that cannot be written in the midst of a rollout: what serves goes
// on, and the decision is made when it can be kept.
func TestStoreFails(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint("")
	b.look(0)
	b.look(time.Second)
	works := b.fail()
	for range 20 {
		b.traffic(3000, 150)
		b.look(10 * time.Second)
	}
	b.serves("stable=1 canary=2:1000")
	if _, err := b.Apply(t.Context(), texts("Endpoint", "e", fixed("3"))); err == nil {
		t.Error("a change is applied that cannot be kept")
	}
	b.serves("stable=1 canary=2:1000")
	if n := b.log.count("a rollout cannot go on"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	works()
	b.look(time.Second)
	b.serves("stable=1")
	if s := b.state(); s.Verdict != "failed" {
		t.Errorf("the rollout is %s: %s", s.Verdict, s.Reason)
	}
	if list, _, err := b.store.List(t.Context(), KindRollout); err != nil || len(list) != 1 {
		t.Errorf("%d records, %v", len(list), err)
	}
}
