package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/cmd/millrace/machine"
	"github.com/millrace-ml/millrace/control/config"
)

// elsewhere writes a settings file whose addresses are free sockets.
func elsewhere(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	return write(t, filepath.Join(dir, "m.yaml"), "server: {http: 'unix:"+dir+"/h', grpc: 'unix:"+
		dir+"/g', admin: 'unix:"+dir+"/a'}\n"+more)
}

func TestDoctor(t *testing.T) {
	file := elsewhere(t, "")
	got := millrace(t, "doctor", "-c", file)
	got.want(t, 0, "ONNX Runtime", "providers", "CPUExecutionProvider", "cores", "GOMAXPROCS",
		"memory", "open files", "trial cache", cache, "unix:", "free")
	left, _ := filepath.Glob(filepath.Join(cache, "millrace", "trials", ".doctor-*"))
	sockets, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "[hga]"))
	if len(left)+len(sockets) > 0 {
		t.Errorf("it leaves %v %v behind", left, sockets)
	}
	got = millrace(t, "doctor", "-c", file, "--json")
	got.want(t, 0)
	var d diagnosis
	if err := json.Unmarshal([]byte(got.out), &d); err != nil || d.Version == "" || d.Cores < 1 ||
		d.Machine.Memory == 0 || d.OpenFiles == 0 || len(d.Addresses) != 3 || len(d.Faults) > 0 {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestDoctorFaults: what keeps a server from starting is told all at once.
func TestDoctorFaults(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "m.yaml"), "server: {http: '"+l.Addr().String()+"', "+
		"grpc: '', admin: 'unix:"+filepath.Join(dir, "none", "a")+"'}\n"+
		"runtime: {library: nowhere.so, providers: [{name: cuda}]}\n"+
		"repository: {paths: [gone], trial: {cache: m.yaml}}\n")
	millrace(t, "doctor", "-c", file).want(t, 1, "A server could not start:",
		"cannot use the library of the configuration", "nowhere.so",
		"cannot listen for http: "+l.Addr().String()+" is taken by another program",
		"cannot listen for admin", "cannot read the model repository", "gone",
		"the trial cache cannot be written", "could not start; the reasons stand above")

	write(t, file, "serve: {}\n")
	millrace(t, "doctor", "-c", file).want(t, 1, "m.yaml:1: serve: unknown key", "ONNX Runtime")

	cmd := command("doctor", "-c", elsewhere(t, "runtime: {providers: [{name: tensorrt}]}\n"))
	finish(t, cmd).want(t, 0, "runtime.providers asks for tensorrt, which this library has not")

	broken := write(t, filepath.Join(dir, "libonnxruntime.so"), "no library")
	cmd = command("doctor", "-c", elsewhere(t, ""))
	cmd.Env = append(cmd.Env, "MILLRACE_ONNXRUNTIME="+broken)
	finish(t, cmd).want(t, 1, "cannot load "+broken, "another one may be named by")
}

// TestFree: a living server's socket is told from a dead one's, which stays.
func TestFree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	f := func(want string) {
		t.Helper()
		err := availability("unix:" + path)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
		}
	}
	f("")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f("another server answers")
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f("")
	if _, err := os.Stat(path); err != nil {
		t.Error("the socket of a dead server is removed")
	}
	write(t, path+"d", "a file")
	path += "d"
	f("is there and is no socket")
}

// TestAdvice: each piece of advice is given when it is due, and only then.
func TestAdvice(t *testing.T) {
	const gib = 1 << 30
	sound := func() *diagnosis {
		return &diagnosis{Cores: 8, GOMAXPROCS: 8, OpenFiles: 1 << 20, Version: "1.32.0",
			Providers: []string{"CUDAExecutionProvider", "CPUExecutionProvider"},
			Machine: machine.Machine{Features: []string{"avx2"}, Memory: 64 * gib, Backlog: 4096,
				Governor: "performance", GPU: true}}
	}
	f := func(want string, change func(*diagnosis, *config.Config)) {
		t.Helper()
		d, cfg := sound(), config.Default()
		if change != nil {
			change(d, &cfg)
		}
		d.limits(&cfg)
		d.speed(&cfg)
		if want == "" && len(d.Advice) > 0 || want != "" && (len(d.Advice) != 1 ||
			!strings.Contains(d.Advice[0], want)) {
			t.Errorf("advice is %q, want %q", d.Advice, want)
		}
	}
	f("", nil)
	f("the cgroup allows the time of 1.5 of 8 cores", func(d *diagnosis, _ *config.Config) {
		d.Machine.CPUQuota = 1.5
	})
	f("", func(d *diagnosis, _ *config.Config) { d.Machine.CPUQuota = 8 })
	f("raise the limit to 16640", func(d *diagnosis, _ *config.Config) { d.OpenFiles = 1024 })
	f("", func(d *diagnosis, c *config.Config) {
		d.OpenFiles, c.Server.Limits.Connections = 1024, 512
	})
	f("raise net.core.somaxconn", func(d *diagnosis, _ *config.Config) { d.Machine.Backlog = 128 })
	f("a model on trial may take 8.0 GiB, but the cgroup allows 4.0 GiB",
		func(d *diagnosis, _ *config.Config) { d.Machine.MemoryLimit = 4 * gib })
	f("request bodies may take 1.0 GiB together, but the machine has 1.5 GiB",
		func(d *diagnosis, c *config.Config) {
			d.Machine.Memory, c.Repository.Trial.Memory = 3*gib/2, gib
		})
	f("4 threads run Go code on 8 cores", func(d *diagnosis, c *config.Config) {
		d.GOMAXPROCS, c.Server.Threads = 4, 4
	})
	f("", func(d *diagnosis, c *config.Config) {
		d.Cores, d.GOMAXPROCS, c.Server.Threads = 1, 1, 1
	})
	f("governor is powersave", func(d *diagnosis, _ *config.Config) {
		d.Machine.Governor = "powersave"
	})
	f("the CPU has no AVX2", func(d *diagnosis, _ *config.Config) {
		d.Machine.Features = []string{"avx"}
	})
	f("", func(d *diagnosis, _ *config.Config) { d.Machine.Features = []string{"asimd"} })
	f("has no CUDA provider", func(d *diagnosis, _ *config.Config) { d.Providers = nil })
}
