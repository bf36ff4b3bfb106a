package trials_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
)

// users is how many users the tests of a canary have.
const users = 2000

// assign returns the version of each user.
func (p *process) assign(endpoint string) []string {
	p.t.Helper()
	versions := make([]string, users)
	const clients = 8
	var wait sync.WaitGroup
	for c := range clients {
		wait.Go(func() {
			for i := c; i < users; i += clients {
				a, err := p.send(request{endpoint: endpoint, user: fmt.Sprint("user-", i)})
				if err != nil || a.status != 200 {
					p.t.Errorf("user %d is answered with %+v, %v", i, a, err)
					return
				}
				versions[i] = a.version
			}
		})
	}
	wait.Wait()
	if p.t.Failed() {
		p.t.FailNow()
	}
	return versions
}

func canarySettings(t *testing.T, dir string, weight float64) string {
	return settings(t, dir, fmt.Sprintf(`endpoints:
  - name: fraud
    model: sum
    stable: "1"
    canary: {version: "2", weight: %v}
    sticky: {header: x-user}
`, weight))
}

// TestCanary raises the weight of a canary while the server runs: nobody leaves
// it. The next server, after kill -9, and another one give everybody the same
// version.
func TestCanary(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1, 2)
	file := canarySettings(t, dir, 5)
	p := launch(t, file)
	before := p.assign("fraud")
	canarySettings(t, dir, 25)
	if line := p.hangup(); !contains(line, "settings taken over") {
		t.Fatal(line)
	}
	after := p.assign("fraud")
	var counts [2]int
	for i := range users {
		if before[i] == "2" {
			counts[0]++
		}
		if after[i] == "2" {
			counts[1]++
		}
		if before[i] == "2" && after[i] != "2" {
			t.Errorf("user %d has left the canary for version %s", i, after[i])
		}
	}
	// Five standard deviations: sqrt(2000 * 0.05 * 0.95) = 9.7, and 19.4 at 25 %.
	if counts[0] < 100-49 || counts[0] > 100+49 || counts[1] < 500-97 || counts[1] > 500+97 {
		t.Errorf("%v of %d users are in the canary of 5 and 25 %%", counts, users)
	}
	t.Logf("%v of %d users are in the canary of 5 and 25 %%", counts, users)

	other := launch(t, canarySettings(t, repository(t, 1, 2), 25))
	same(t, "another server", after, other.assign("fraud"))
	p.kill()
	p = launch(t, file)
	same(t, "the server after kill -9", after, p.assign("fraud"))
	p.term()
	other.term()
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	for i := range want {
		if want[i] != got[i] {
			t.Fatalf("%s gives user %d version %s, not %s", what, i, got[i], want[i])
		}
	}
}

// TestOneOwner: the folder of what is kept is of one server at a time.
func TestOneOwner(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1, 2)
	file := canarySettings(t, dir, 5)
	p := launch(t, file)
	status, said := finish(t, "serve", "-c", file)
	wantTexts(t, said, filepath.Join(dir, "data", "control.db"), "another process")
	if status != 1 {
		t.Errorf("the status is %d", status)
	}
	p.ask(request{endpoint: "fraud"})
}
