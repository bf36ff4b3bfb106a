package syncer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/proof"
	"github.com/millrace-ml/millrace/runtime/model"
)

// proving has the versions of a bench proven, and notes which were asked.
func proving(b *bench) *[]string {
	asked := new([]string)
	b.cfg.Prove = func(ctx context.Context, name, version, dir string) (string, error) {
		*asked = append(*asked, version)
		v, err := b.models.Acquire([]byte(name), []byte(version))
		if err != nil {
			return "", err
		}
		defer v.Release()
		report, err := proof.Check(ctx, v, dir, proof.DefaultConfig())
		return report.String(), err
	}
	return asked
}

// example is a model with an input example of that many columns.
func example(t *testing.T, columns int) map[string][]byte {
	files := sample(t, "iris")
	row := strings.TrimSuffix(strings.Repeat("1, ", columns), ", ")
	files["serving_input_example.json"] = fmt.Appendf(nil, `{"inputs": [[%s]]}`, row)
	return files
}

// TestProve keeps what serves in place until a version comes that shows that it may.
func TestProve(t *testing.T) {
	b := newBench(t, model.ModeNone)
	asked := proving(b)
	was := func(versions ...string) {
		t.Helper()
		slices.Sort(*asked)
		if !slices.Equal(*asked, versions) {
			t.Errorf("%v were asked, want %v", *asked, versions)
		}
		*asked = nil
	}
	b.src.set(t, "m", "1", example(t, 4))
	b.looks("1:Ready [1]")
	b.src.set(t, "m", "2", example(t, 5))
	b.looks("2:Failed 1:Ready [1 2]") // the newest is wanted, the one before serves
	b.reason("2", "proof: the version has failed: input example: ")
	b.looks("2:Failed 1:Ready [1 2]")
	was("1", "2")
	b.src.aliases(t, "m", "champion 1", "challenger 2")
	b.looks("2:Failed 1:Ready @champion=1 [1 2]")
	b.src.aliases(t, "m", "champion 2")
	b.looks("2:Failed 1:Ready @champion=1 [1 2]")
	was()
	n := b.notes["m"]["2"]
	n.askAgain = time.Now()
	b.notes["m"]["2"] = n
	b.looks("2:Failed 1:Ready @champion=1 [1 2]")
	was("2")
	b.src.set(t, "m", "2", example(t, 4))
	b.looks("2:Ready 1:Ready @champion=2 [1 2]")
	was("2")

	b.Syncer = New(b.cfg) // after a restart nobody is asked who was Ready
	b.looks("2:Ready @champion=2 [2]")
	was()
	b.src.set(t, "m", "3", example(t, 4))
	b.src.aliases(t, "m", "champion 3")
	prove := b.cfg.Prove
	ctx, cancel := context.WithCancel(t.Context())
	b.cfg.Prove = func(ctx context.Context, name, version, dir string) (string, error) {
		cancel()
		return prove(ctx, name, version, dir)
	}
	b.model.Status = b.Sync(ctx, b.src, []Model{b.model})["m"]
	if got, want := b.line(), "3:Fetching 2:Ready @champion=2 [2 3]"; got != want {
		t.Errorf("stopped, it is %s, want %s", got, want)
	}
}
