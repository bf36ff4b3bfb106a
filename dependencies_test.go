package millrace_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var requirement = regexp.MustCompile(`(?m)^(?:require )?\t?([^\s(]+) (v\S+)`)

// TestDependencies wants each module that is imported on its page, in the
// version that go.mod has, and none there that is not imported.
func TestDependencies(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	versions := make(map[string]string)
	for _, m := range requirement.FindAllStringSubmatch(string(text), -1) {
		versions[m[1]] = m[2]
	}
	imported := make(map[string]bool)
	for _, s := range sources(t) {
		for _, spec := range s.file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			for m := range versions {
				if within(name, m) {
					imported[m] = true
				}
			}
		}
	}
	page, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for m := range versions {
		line := "| " + m + " | " + versions[m] + " | "
		switch listed := strings.Contains(string(page), "\n| "+m+" | v"); {
		case imported[m] && !strings.Contains(string(page), "\n"+line):
			t.Errorf("docs/dependencies.md lacks the line %s", line)
		case listed && !imported[m]:
			t.Errorf("docs/dependencies.md lists %s, which nothing imports", m)
		}
	}
	if len(imported) < 10 {
		t.Errorf("only %d modules are imported", len(imported))
	}
}
