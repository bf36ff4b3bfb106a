package layout

import (
	"slices"
	"strings"
	"testing"
)

func TestCompareVersions(t *testing.T) {
	f := func(sorted string) {
		t.Helper()
		want := strings.Fields(sorted)
		got := slices.Clone(want)
		slices.Reverse(got)
		slices.SortFunc(got, CompareVersions)
		if !slices.Equal(got, want) {
			t.Errorf("sorted are %v, want %v", got, want)
		}
	}
	f("1 2 10 18446744073709551615 v9 v10 v10a")
	f("1 01")
	f("7 2026-11-23 2026-11-24")
	f("v1.2 v1.10 v2")
	f("a a0 a00 a1")
	f("99999999999999999999 100000000000000000000 x")
}

func TestSelect(t *testing.T) {
	versions := []VersionDir{{Version: "1"}, {Version: "2"}, {Version: "10"}, {Version: "v3"}}
	f := func(config, want string) {
		t.Helper()
		cfg, _, err := ParseConfig([]byte(config))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range Select(versions, cfg) {
			got = append(got, v.Version)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s selects %v, want %s", config, got, want)
		}
	}
	f(``, "v3")
	f(`version_policy { latest { } }`, "v3")
	f(`version_policy { latest { num_versions: 2 } }`, "10 v3")
	f(`version_policy { latest { num_versions: 4294967295 } }`, "1 2 10 v3")
	f(`version_policy { all { } }`, "1 2 10 v3")
	f(`version_policy { specific { versions: [ 10, 1, 7 ] } }`, "1 10")
	f(`version_policy { specific { } }`, "")
	named := `parameters { key: "specific_versions" value: { string_value: "[\"v3\"]" } }`
	f(named, "v3")
	f(named+` version_policy { specific { versions: 2 } }`, "2 v3")
	if got := Select(nil, nil); len(got) != 0 {
		t.Errorf("of no versions %v are selected", got)
	}
}
