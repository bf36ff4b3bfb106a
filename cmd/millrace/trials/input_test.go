package trials_test

import (
	"fmt"
	"path/filepath"
	"testing"
)

// TestBadEndpoints starts and checks files with faults: the texts say the file,
// the line, the key and what is wrong.
func TestBadEndpoints(t *testing.T) {
	t.Parallel()
	f := func(rest string, line int, parts ...string) {
		t.Helper()
		dir := repository(t, 1)
		file := settings(t, dir, "endpoints:\n  - name: fraud\n    model: sum\n"+rest)
		parts = append(parts, fmt.Sprintf("%s:%d: ", filepath.Base(file), headLines+line),
			"endpoints[0]")
		for _, word := range []string{"serve", "check"} {
			status, said := finish(t, word, "-c", file)
			if status != 1 {
				t.Errorf("the status of %s is %d:\n%s", word, status, said)
			}
			wantTexts(t, said, parts...)
		}
	}
	f("    canary: {version: '2', weight: -1}\n", 4, "canary.weight: is -1, must be 0 to 100")
	f("    canary: {version: '2', weight: .nan}\n", 4, "canary.weight", "must be a number")
	f("    canary: {version: '2', weight: .inf}\n", 4, "canary.weight")
	f("    canary: {version: '2', weight: 60}\n"+
		"    arms: [{name: c, version: '2', weight: 41}]\n", 5, "sum to 101 %")
	f("    canary: {version: '@none', weight: 5}\n", 4, "canary.version",
		`model "sum" has no alias "none"`)
	f("    canary: {version: '2', weight: 0}\n    rules:\n"+
		"      - {header: x-team, prefix: ri, arm: canary}\n"+
		"      - {header: x-team, exact: risk, arm: stable}\n", 7, "rules[1]", "never matches")
	f("    bandit: {policy: thompson}\n", 4, "bandit", "2 arms")
	f("    shadows: [{version: '2', percent: 101}]\n", 4, "shadows[0].percent")
	f("    limits: {requests_per_second: -1}\n", 4, "limits.requests_per_second")
}
