package layout

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
)

// CompareVersions orders version names: numbers by value, other names after
// them, with runs of digits compared by value ("v9" before "v10").
func CompareVersions(a, b string) int {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	switch {
	case errX == nil && errY == nil && x != y:
		return cmp.Compare(x, y)
	case (errX == nil) != (errY == nil):
		if errX == nil {
			return -1
		}
		return 1
	}
	return natural(a, b)
}

func natural(a, b string) int {
	for a != "" && b != "" {
		x, restA := leading(a)
		y, restB := leading(b)
		if x[0] <= '9' && x[0] >= '0' && y[0] <= '9' && y[0] >= '0' {
			u, v := strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Or(cmp.Compare(len(u), len(v)), strings.Compare(u, v),
				cmp.Compare(len(x), len(y))); c != 0 {
				return c
			}
		} else if c := strings.Compare(x, y); c != 0 {
			return c
		}
		a, b = restA, restB
	}
	return cmp.Compare(len(a), len(b))
}

// leading splits the longest run of digits, or one other byte, off s.
func leading(s string) (run, rest string) {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	n = max(n, 1)
	return s[:n], s[n:]
}

// Select returns the versions that a configuration asks for: the latest one
// where it says nothing.
func Select(versions []VersionDir, cfg *configpb.ModelConfig) []VersionDir {
	names, _ := versionNames(cfg.GetParameters()[ParameterVersions].GetStringValue())
	switch p := cfg.GetVersionPolicy().GetPolicyChoice().(type) {
	case *configpb.ModelVersionPolicy_All_:
		return versions
	case *configpb.ModelVersionPolicy_Specific_:
		for _, n := range p.Specific.GetVersions() {
			names = append(names, strconv.FormatInt(n, 10))
		}
	case *configpb.ModelVersionPolicy_Latest_:
		n := min(max(int64(p.Latest.GetNumVersions()), 1), int64(len(versions)))
		return versions[int64(len(versions))-n:]
	default:
		if names == nil {
			return versions[max(0, len(versions)-1):]
		}
	}
	return slices.DeleteFunc(slices.Clone(versions), func(v VersionDir) bool {
		return !slices.Contains(names, v.Version)
	})
}
