package ort_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestSlots holds the places in api.h against the header that the binding
// brings along.
func TestSlots(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}",
		"github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Fatalf("cannot find the binding's folder: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)),
		"onnxruntime_c_api.h"))
	if err != nil {
		t.Fatal(err)
	}
	header := regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`).ReplaceAllString(string(text), "")
	ours, err := os.ReadFile("api.h")
	if err != nil {
		t.Fatal(err)
	}

	slots := apiSlots(t, header)
	used := regexp.MustCompile(`\bSLOT_(\w+) = (\d+),`).FindAllStringSubmatch(string(ours), -1)
	if len(used) < 40 {
		t.Fatalf("api.h names %d slots only", len(used))
	}
	for _, m := range used {
		want, ok := slots[m[1]]
		if got, _ := strconv.Atoi(m[2]); !ok || got != want {
			t.Errorf("api.h has %s in slot %d, the header in %d (there: %v)", m[1], got, want, ok)
		}
	}

	// The slots of a version are there from that version on, so the header that
	// the slots were read from must not be newer than the version asked for.
	version := func(in, pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(in)
		if m == nil {
			t.Fatalf("cannot find %s", pattern)
		}
		return m[1]
	}
	asked := version(string(ours), `MR_API_VERSION = (\d+)`)
	if has := version(header, `#define ORT_API_VERSION (\d+)`); has != asked {
		t.Errorf("api.h asks for version %s of the C API, the header is of %s", asked, has)
	}
}

// apiSlots numbers the members of the struct OrtApi, all of them pointers to
// functions, which the header declares in four ways.
func apiSlots(t *testing.T, header string) map[string]int {
	t.Helper()
	body := regexp.MustCompile(`(?s)\nstruct OrtApi \{(.*?)\n\};`).FindStringSubmatch(header)
	if body == nil {
		t.Fatal("the header has no struct OrtApi")
	}
	member := regexp.MustCompile(`(?s)\(ORT_API_CALL\s*\*\s*(\w+)\)|\bORT_API2_STATUS\((\w+)|` +
		`\bORT_CLASS_RELEASE\((\w+)|\bORT_API_T\([^,]+,\s*(\w+)`)
	slots := make(map[string]int)
	for declaration := range strings.SplitSeq(body[1], ";") {
		m := member.FindStringSubmatch(declaration)
		if m == nil {
			if strings.TrimSpace(declaration) != "" {
				t.Errorf("cannot read this member of OrtApi:%s", declaration)
			}
			continue
		}
		name := m[1] + m[2] + m[4]
		if m[3] != "" {
			name = "Release" + m[3]
		}
		slots[name] = len(slots)
	}
	return slots
}
