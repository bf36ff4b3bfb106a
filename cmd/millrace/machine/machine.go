// Package machine reads what the machine and its container give a process:
// cores, memory, limits, features of the CPU.
//
// [Read] takes the file system that /proc and /sys lie in, so that it can be
// tried on any machine's files. What cannot be read is left zero: no machine
// has all of it.
package machine

import (
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Machine is what was read.
type Machine struct {
	CPU         string   `json:"cpu"`       // its model name
	Features    []string `json:"features"`  // those of Wanted that it has
	CPUQuota    float64  `json:"cpu_quota"` // cores that the cgroup allows, 0 for all
	Memory      int64    `json:"memory_bytes"`
	Available   int64    `json:"available_bytes"`
	MemoryLimit int64    `json:"memory_limit_bytes"` // of the cgroup, 0 for none
	HugePages   string   `json:"transparent_hugepages"`
	Governor    string   `json:"cpu_governor"`
	Backlog     int      `json:"somaxconn"` // connections that wait to be accepted at most
	GPU         bool     `json:"nvidia_gpu"`
}

// Wanted are the CPU features that ONNX Runtime's kernels use.
var Wanted = []string{"avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16",
	"amx_tile", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve"}

// maxFile bounds what is read of one file.
const maxFile = 1 << 20

// Read reads the machine that the files of root are of; paths start without a slash.
func Read(root fs.FS) Machine {
	var m Machine
	m.cpu(text(root, "proc/cpuinfo"))
	m.Memory, m.Available = memory(text(root, "proc/meminfo"))
	g := findGroups(text(root, "proc/self/cgroup"), text(root, "proc/self/mountinfo"))
	m.CPUQuota, m.MemoryLimit = g.cpuQuota(root), g.memoryLimit(root)
	if m.MemoryLimit >= m.Memory && m.Memory > 0 {
		m.MemoryLimit = 0
	}
	m.HugePages = chosen(text(root, "sys/kernel/mm/transparent_hugepage/enabled"))
	m.Governor = strings.TrimSpace(text(root,
		"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
	m.Backlog, _ = strconv.Atoi(strings.TrimSpace(text(root, "proc/sys/net/core/somaxconn")))
	_, err := fs.Stat(root, "dev/nvidia0")
	m.GPU = err == nil
	return m
}

// Has says whether the CPU has one of the features.
func (m *Machine) Has(features ...string) bool {
	return slices.ContainsFunc(features,
		func(f string) bool { return slices.Contains(m.Features, f) })
}

// text returns a file's content, "" when it cannot be read.
func text(root fs.FS, name string) string {
	content, err := fs.ReadFile(root, name)
	if err != nil || len(content) > maxFile && path.Base(name) != "cpuinfo" {
		return ""
	}
	return string(content)
}

// cpu reads /proc/cpuinfo of x86 ("flags") and ARM ("Features").
func (m *Machine) cpu(info string) {
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			m.CPU = strings.TrimSpace(value)
		case "flags", "Features":
			has := strings.Fields(value)
			m.Features = slices.DeleteFunc(slices.Clone(Wanted),
				func(f string) bool { return !slices.Contains(has, f) })
			return // the cores are alike
		}
	}
}

// memory reads /proc/meminfo, in bytes.
func memory(info string) (total, available int64) {
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "MemTotal":
			total = n << 10
		case "MemAvailable":
			available = n << 10
		}
	}
	return total, available
}

// chosen returns the word in brackets of "always [madvise] never".
func chosen(list string) string {
	_, rest, _ := strings.Cut(list, "[")
	word, _, ok := strings.Cut(rest, "]")
	if !ok {
		return ""
	}
	return word
}
