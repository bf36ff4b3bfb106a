package machine

import (
	"os"
	"reflect"
	"testing"
	"testing/fstest"
)

const gib = 1 << 30

// files makes a file system of pairs of name and content.
func files(pairs ...string) fstest.MapFS {
	root := make(fstest.MapFS)
	for i := 0; i < len(pairs); i += 2 {
		root[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return root
}

const (
	mountsTwo = "24 1 0:22 / /sys rw - sysfs sysfs rw\n" +
		"30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	mountsOne = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	groupsOne = "8:memory:/box/a:b\n3:cpu,cpuacct:/box\n0::/\n"
)

// found are limits: cores and bytes.
type found struct {
	cpu    float64
	memory int64
}

func TestLimits(t *testing.T) {
	f := func(want found, cgroup, mounts string, pairs ...string) {
		t.Helper()
		pairs = append(pairs, "proc/self/cgroup", cgroup, "proc/self/mountinfo", mounts)
		m := Read(files(pairs...))
		if got := (found{m.CPUQuota, m.MemoryLimit}); got != want {
			t.Errorf("found %+v, want %+v", got, want)
		}
	}
	const at = "sys/fs/cgroup/"
	const quota, period = at + "cpu,cpuacct/box/cpu.cfs_quota_us", at +
		"cpu,cpuacct/box/cpu.cfs_period_us"
	f(found{}, "", "")
	f(found{}, "0::/a\n", mountsTwo)
	f(found{1.5, 2 * gib}, "0::/a/b\n", mountsTwo, at+"a/b/cpu.max", "150000 100000\n",
		at+"a/b/memory.max", "2147483648\n")
	f(found{}, "0::/a\n", mountsTwo, at+"a/cpu.max", "max 100000\n", at+"a/memory.max", "max\n")
	// A group above sets the lower limit.
	f(found{2, gib}, "0::/a/b\n", mountsTwo, at+"a/b/cpu.max", "400000 100000", at+"a/cpu.max",
		"200000 100000", at+"a/memory.max", "1073741824", at+"a/b/memory.max", "2147483648")
	// A container sees its own group as the root of the mount.
	f(found{0.5, gib}, "0::/\n", mountsTwo, at+"cpu.max", "50000 100000",
		at+"memory.max", "1073741824")
	// A path of the host, of which the mount shows a part.
	const part = "30 24 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	f(found{4, 0}, "0::/docker/x/deep\n", part, at+"deep/cpu.max", "400000 100000")
	f(found{4, 0}, "0::/elsewhere\n", part, at+"cpu.max", "400000 100000")
	// Version 1, and a path with a colon.
	f(found{3, gib}, groupsOne, mountsOne, quota, "300000\n", period, "100000\n",
		at+"memory/box/a:b/memory.limit_in_bytes", "1073741824\n")
	f(found{}, groupsOne, mountsOne, quota, "-1\n", period, "100000\n",
		at+"memory/box/a:b/memory.limit_in_bytes", "9223372036854771712\n")
	// Files that make no sense are no limits.
	for _, broken := range []string{"", "x", "100000", "1 0", "-5 100000", "Inf 1", "1 NaN"} {
		f(found{}, "0::/\n", mountsTwo, at+"cpu.max", broken, at+"memory.max", "-1")
	}
	f(found{}, "no\n1:2\n::::\n", "a b c\n - \n1 2 3 4 5 - cgroup2\n")
	// A limit above what there is, is none.
	f(found{}, "0::/\n", mountsTwo, at+"memory.max", "2147483648", "proc/meminfo",
		"MemTotal: 1048576 kB\n")
}

func TestRead(t *testing.T) {
	got := Read(files(
		"proc/cpuinfo", "processor : 0\nmodel name\t: Some CPU @ 2GHz\n"+
			"flags\t\t: fpu avx2 avx fma\n\nprocessor : 1\nmodel name : other\nflags : amx_tile\n",
		"proc/meminfo", "MemTotal:       16384 kB\nMemFree: x kB\nMemAvailable:    8192 kB\n",
		"sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n",
		"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n",
		"proc/sys/net/core/somaxconn", "4096\n", "dev/nvidia0", ""))
	want := Machine{CPU: "Some CPU @ 2GHz", Features: []string{"avx", "avx2", "fma"},
		Memory: 16 << 20, Available: 8 << 20, HugePages: "madvise", Governor: "powersave",
		Backlog: 4096, GPU: true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if !got.Has("avx512f", "fma") || got.Has("avx512f") {
		t.Error("Has does not know the features")
	}
	arm := Read(files("proc/cpuinfo", "processor : 0\nFeatures : fp asimd i8mm\n"))
	if !reflect.DeepEqual(arm.Features, []string{"asimd", "i8mm"}) {
		t.Errorf("features of ARM: %v", arm.Features)
	}
	if chosen("always madvise") != "" || chosen("") != "" || chosen("[never") != "" {
		t.Error("a word without brackets is taken")
	}
}

// TestThisMachine reads the real files: they are there and make sense.
func TestThisMachine(t *testing.T) {
	m := Read(os.DirFS("/"))
	if m.Memory <= 0 || m.Available <= 0 || m.Available > m.Memory {
		t.Errorf("%+v", m)
	}
}

func FuzzGroups(f *testing.F) {
	f.Add(groupsOne, mountsOne, "150000 100000")
	f.Add("0::/a/../b\n", mountsTwo, "max 1")
	f.Fuzz(func(t *testing.T, cgroup, mounts, content string) {
		for _, at := range findGroups(cgroup, mounts) {
			for _, folder := range at.folders() {
				if len(folder) > len(at.mount)+len(at.path)+1 {
					t.Errorf("folder %q of %+v", folder, at)
				}
			}
		}
		if c := cores(content, "100000"); c < 0 {
			t.Errorf("%v cores", c)
		}
	})
}
