package millrace_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	link      = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ +(.*?)\s*$`)
	fenced    = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan  = regexp.MustCompile("`[^`\n]*`")
	notAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinks follows each link of the documentation that leads into the
// checkout: the file must be there, and the heading in it.
func TestLinks(t *testing.T) {
	files := checkedIn(t)
	found := 0
	for _, page := range files {
		if filepath.Ext(page) != ".md" {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(withoutCode(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			found++
			target, anchor, _ := strings.Cut(m[1], "#")
			file := page
			if target != "" {
				file = path.Join(path.Dir(page), target)
			}
			switch {
			case !isThere(files, file):
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
			case anchor != "" && !slices.Contains(anchors(t, file), anchor):
				t.Errorf("%s: %s has no heading for #%s", page, file, anchor)
			}
		}
	}
	if found < 50 {
		t.Errorf("the documentation has %d links only", found)
	}
}

// withoutCode returns a page's text without what stands in it as code.
func withoutCode(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return codeSpan.ReplaceAllString(fenced.ReplaceAllString(string(text), ""), "")
}

// isThere says whether a file, or one in a folder of that name, is committed.
func isThere(files []string, name string) bool {
	return slices.ContainsFunc(files, func(f string) bool {
		return f == name || within(f, strings.TrimSuffix(name, "/"))
	})
}

// anchors lists the names by which the headings of a page can be linked to.
func anchors(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
		name := notAnchor.ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

var goFile = regexp.MustCompile("`([a-z_/]+\\.go)`")

// TestNamedFiles finds each Go file that a page names, by the end of its path.
func TestNamedFiles(t *testing.T) {
	files := checkedIn(t)
	found := 0
	for _, page := range files {
		if filepath.Ext(page) != ".md" {
			continue
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range goFile.FindAllStringSubmatch(string(text), -1) {
			found++
			if !slices.ContainsFunc(files, func(f string) bool {
				return f == m[1] || strings.HasSuffix(f, "/"+m[1])
			}) {
				t.Errorf("%s names %s, which is not there", page, m[1])
			}
		}
	}
	if found < 30 {
		t.Errorf("the documentation names %d files only", found)
	}
}
