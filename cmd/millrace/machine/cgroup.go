package machine

import (
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// unlimited is from where on a limit in bytes is none: version 1 writes the
// largest multiple of a page instead of a word.
const unlimited = math.MaxInt64 >> 1

// groups is where the control groups of a process lie, for each controller.
// The unified hierarchy of version 2 has the name "".
type groups map[string]group

// group is a process's place in a hierarchy.
type group struct {
	mount string // where the hierarchy is mounted, without a leading slash
	path  string // below the mount
}

// findGroups reads /proc/self/cgroup and /proc/self/mountinfo.
func findGroups(cgroup, mountinfo string) groups {
	paths := make(map[string]string)
	for line := range strings.Lines(cgroup) {
		// id:controllers:path; the path may hold colons
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for name := range strings.SplitSeq(parts[1], ",") {
			paths[name] = parts[2]
		}
	}
	found := make(groups)
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		root, mount := fields[3], strings.TrimPrefix(fields[4], "/")
		switch kind[0] {
		case "cgroup2":
			found.add("", group{mount, below(root, paths[""])})
		case "cgroup":
			for option := range strings.SplitSeq(kind[2], ",") {
				if p, ok := paths[option]; ok {
					found.add(option, group{mount, below(root, p)})
				}
			}
		}
	}
	return found
}

// add keeps the first mount of a controller.
func (g groups) add(controller string, at group) {
	if _, ok := g[controller]; !ok {
		g[controller] = at
	}
}

// below returns a group's path in a mount that shows the hierarchy from root
// on. In a container the path may be the one of the host, outside of the root.
func below(root, p string) string {
	if rest, ok := strings.CutPrefix(p, root); ok {
		return strings.Trim(rest, "/")
	}
	return ""
}

// folders lists the folder of a group and those above it: each may set a limit.
func (g group) folders() []string {
	var list []string
	for p := path.Clean("/" + g.path); ; p = path.Dir(p) {
		list = append(list, path.Join(g.mount, p))
		if p == "/" {
			return list
		}
	}
}

// least returns the least of the limits that read finds in the folders of a
// controller, 0 for none.
func least[T int64 | float64](g groups, controller string, read func(folder string) T) T {
	at, ok := g[controller]
	if !ok {
		return 0
	}
	var limits []T
	for _, folder := range at.folders() {
		if limit := read(folder); limit > 0 {
			limits = append(limits, limit)
		}
	}
	if len(limits) == 0 {
		return 0
	}
	return slices.Min(limits)
}

// cpuQuota returns how many cores' time the groups allow, 0 for all.
func (g groups) cpuQuota(root fs.FS) float64 {
	two := least(g, "", func(folder string) float64 {
		quota, period, _ := strings.Cut(strings.TrimSpace(text(root, folder+"/cpu.max")), " ")
		return cores(quota, period)
	})
	if two > 0 {
		return two
	}
	return least(g, "cpu", func(folder string) float64 {
		return cores(strings.TrimSpace(text(root, folder+"/cpu.cfs_quota_us")),
			strings.TrimSpace(text(root, folder+"/cpu.cfs_period_us")))
	})
}

// cores divides a quota by its period; "max" and -1 are no quota.
func cores(quota, period string) float64 {
	q, err := strconv.ParseFloat(quota, 64)
	p, errPeriod := strconv.ParseFloat(period, 64)
	if err != nil || errPeriod != nil || q <= 0 || p <= 0 || math.IsInf(q, 0) || math.IsInf(p, 0) {
		return 0
	}
	return q / p
}

// memoryLimit returns the bytes that the groups allow, 0 for no limit.
func (g groups) memoryLimit(root fs.FS) int64 {
	file := func(name string) func(string) int64 {
		return func(folder string) int64 {
			n, err := strconv.ParseInt(strings.TrimSpace(text(root, folder+"/"+name)), 10, 64)
			if err != nil || n >= unlimited {
				return 0
			}
			return n
		}
	}
	if two := least(g, "", file("memory.max")); two > 0 {
		return two
	}
	return least(g, "memory", file("memory.limit_in_bytes"))
}
