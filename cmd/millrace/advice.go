package main

import (
	"os"

	"github.com/millrace-ml/millrace/control/config"
)

// ownFiles is how many descriptors a server needs beside its connections.
const ownFiles = 256

// minBacklog is how many connections should be able to wait while the server
// is busy: clients that come at once by the hundreds are usual.
const minBacklog = 1024

// limits advises about bounds that bursts and large models run into.
func (d *diagnosis) limits(cfg *config.Config) {
	l := &cfg.Server.Limits
	if want := uint64(l.Connections) + ownFiles; d.OpenFiles > 0 && d.OpenFiles < want {
		d.advise("server.limits.connections is %d, but %d files may be open: raise the limit to "+
			"%d (ulimit -n, or LimitNOFILE= of the service), or lower the number of connections",
			l.Connections, d.OpenFiles, want)
	}
	if b := d.Machine.Backlog; b > 0 && b < minBacklog {
		d.advise("the system lets %d new connections wait: raise net.core.somaxconn to %d, "+
			"or clients of a burst are turned away", b, minBacklog)
	}
	memory, what := d.Machine.Memory, "the machine has"
	if d.Machine.MemoryLimit > 0 {
		memory, what = d.Machine.MemoryLimit, "the cgroup allows"
	}
	if memory <= 0 {
		return
	}
	if trial := int64(cfg.Repository.Trial.Memory); trial > memory {
		d.advise("a model on trial may take %s, but %s %s: set repository.trial.memory below "+
			"that, or a model that eats memory can end the server with it", amount(trial), what,
			amount(memory))
	}
	if inFlight := int64(l.BytesInFlight); inFlight > memory/2 {
		d.advise("request bodies may take %s together, but %s %s: lower "+
			"server.limits.bytes_in_flight", amount(inFlight), what, amount(memory))
	}
}

// speed advises about what costs time.
func (d *diagnosis) speed(cfg *config.Config) {
	m := &d.Machine
	if m.CPUQuota > 0 && m.CPUQuota < float64(d.Cores) {
		d.advise("the cgroup allows the time of %.3g of %d cores, and holds all threads up when "+
			"it is used up: raise the CPU limit, or give whole cores (cpuset) and set "+
			"models[].instances to as many", m.CPUQuota, d.Cores)
	}
	if d.GOMAXPROCS < d.Cores && (cfg.Server.Threads > 0 || os.Getenv("GOMAXPROCS") != "") {
		d.advise("%d threads run Go code on %d cores, so that requests wait while models run: "+
			"take server.threads out of the settings and GOMAXPROCS out of the environment",
			d.GOMAXPROCS, d.Cores)
	}
	if m.Governor == "powersave" {
		d.advise("the CPU's frequency governor is powersave: set it to performance")
	}
	if len(m.Features) > 0 && !m.Has("avx2", "asimd") {
		d.advise("the CPU has no AVX2, or the hypervisor hides it: ONNX Runtime's fast kernels " +
			"need it; choose another type of machine")
	}
	if _, ok := d.provider("cuda"); m.GPU && d.Version != "" && !ok {
		d.advise("there is an NVIDIA GPU, but this ONNX Runtime has no CUDA provider: name a GPU " +
			"build by runtime.library and set runtime.providers to cuda")
	}
}
