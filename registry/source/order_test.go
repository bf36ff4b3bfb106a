package source

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestOrder puts versions in order, the newest first.
func TestOrder(t *testing.T) {
	f := func(names, want string) {
		t.Helper()
		var versions []Version
		for _, name := range strings.Fields(names) {
			v := Version{Name: name}
			if name, day, ok := strings.Cut(name, "@"); ok {
				v.Name, v.Created = name, time.Date(2026, 1, int(day[0]-'0'), 0, 0, 0, 0, time.UTC)
			}
			versions = append(versions, v)
		}
		for range 3 { // from any order
			order(versions)
			var got []string
			for _, v := range versions {
				got = append(got, v.Name)
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s: %v, want %s", names, got, want)
			}
			slices.Reverse(versions)
		}
	}
	f("1 2 10 9", "10 9 2 1")
	f("1@9 2@3 10@1", "10 2 1")
	f("b@1 a@2", "a b")
	f("1@9 2@3 x@5", "1 x 2")
	f("v1.9 v1.10 v1.10.1 v2", "v2 v1.10.1 v1.10 v1.9")
	f("2026-01-02 2026-01-10", "2026-01-10 2026-01-02")
	f("v01 v1 v002", "v002 v1 v01")
	f("1 01 001 2", "2 1 01 001")
	f("v99999999999999999999999 v100000000000000000000000", "v100000000000000000000000 "+
		"v99999999999999999999999")
}
