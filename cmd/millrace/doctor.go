package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/cmd/millrace/machine"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/runtime/ort"
)

func newDoctor() *cobra.Command {
	var f serveFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say whether a server could start here, and what would make it faster",
		Long: "doctor looks at what a server needs and what it gets from the machine: ONNX " +
			"Runtime, cores,\nmemory, limits, addresses, folders. It ends with status 1 when a " +
			"server could not start.",
		Example: "  millrace doctor\n" +
			"  millrace doctor -c millrace.yaml\n" +
			"  millrace doctor --json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := f.examine(cmd.Context())
			write := d.print
			if asJSON {
				write = d.json
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return err
			}
			if len(d.Faults) > 0 {
				return errors.New("a server could not start; the reasons stand above")
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "config", "c", "", "settings file that is looked at too")
	flags.StringArrayVar(&f.models, "models", nil,
		"folder with models that is looked at too; may be repeated")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	_ = cmd.MarkFlagDirname("models")
	return cmd
}

// diagnosis is what doctor finds.
type diagnosis struct {
	Library    string          `json:"library"`
	Origin     string          `json:"library_origin"`
	Version    string          `json:"library_version"`
	Providers  []string        `json:"execution_providers"`
	Machine    machine.Machine `json:"machine"`
	Cores      int             `json:"cores"`
	GOMAXPROCS int             `json:"gomaxprocs"`
	OpenFiles  uint64          `json:"open_files_limit"`
	TrialCache string          `json:"trial_cache"`
	Addresses  []address       `json:"addresses"`
	Faults     []string        `json:"faults"` // why a server could not start
	Advice     []string        `json:"advice"` // what would make it faster or safer
}

// address is where a server would listen.
type address struct {
	For  string `json:"for"`
	At   string `json:"address"`
	Free bool   `json:"free"`
}

func (d *diagnosis) fault(format string, args ...any) {
	d.Faults = append(d.Faults, fmt.Sprintf(format, args...))
}

func (d *diagnosis) advise(format string, args ...any) {
	d.Advice = append(d.Advice, fmt.Sprintf(format, args...))
}

// examine looks at everything; a fault does not end it.
func (f *serveFlags) examine(ctx context.Context) *diagnosis {
	d := &diagnosis{
		Machine: machine.Read(os.DirFS("/")), Cores: runtime.NumCPU(),
		Faults: []string{}, Advice: []string{},
	}
	cfg, err := f.settings(func(string) bool { return false })
	d.GOMAXPROCS = goThreads(cfg.Server.Threads)
	if err != nil {
		d.fault("%v", err)
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		d.OpenFiles = limit.Cur
	}
	d.library(&cfg)
	d.trial(ctx)
	if err == nil { // what else there is to say would be about settings that nobody wants
		d.TrialCache = cfg.Repository.Trial.Cache
		d.addresses(&cfg)
		d.folders(&cfg)
		d.limits(&cfg)
		d.speed(&cfg)
	}
	return d
}

// library loads ONNX Runtime.
func (d *diagnosis) library(cfg *config.Config) {
	found, err := ort.FindLibrary(cfg.Runtime.Library)
	if err != nil {
		d.fault("%v", err)
		return
	}
	d.Library, d.Origin = found.Path, found.Origin
	rt, err := ort.Open(ort.Config{Library: found.Path, Logger: quiet()})
	if err != nil {
		d.fault("%v; another one may be named by runtime.library or %s", err, ort.Env)
		return
	}
	d.Version, d.Providers = rt.Version(), rt.Providers()
	for _, p := range cfg.Runtime.Providers {
		if _, ok := d.provider(p.Name); !ok && !cfg.Runtime.Fallback {
			d.advise("no model will load: runtime.providers asks for %s, which this library has "+
				"not; take it out, set runtime.fallback, or use another library", p.Name)
		}
	}
}

// provider returns the library's name of an execution provider.
func (d *diagnosis) provider(name string) (string, bool) {
	for _, has := range d.Providers {
		if strings.EqualFold(has, name) || strings.EqualFold(has, name+"ExecutionProvider") {
			return has, true
		}
	}
	return "", false
}

// trialTimeout bounds how long the process that tries models takes to start.
const trialTimeout = 10 * time.Second

// trial starts and ends the process that tries models.
func (d *diagnosis) trial(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	exe, err := os.Executable()
	if err == nil {
		err = exec.CommandContext(ctx, exe, "trial").Run() // no model on its input: it ends
	}
	if err != nil {
		d.fault("cannot start the process that tries models, so that none would be loaded: %v", err)
	}
}

// addresses looks whether a server could listen.
func (d *diagnosis) addresses(cfg *config.Config) {
	for _, a := range [...]address{
		{"http", cfg.Server.HTTP, true}, {"grpc", cfg.Server.GRPC, true},
		{"admin", cfg.Server.Admin, true},
	} {
		if a.At == "" {
			continue
		}
		if err := availability(a.At); err != nil {
			a.Free = false
			d.fault("cannot listen for %s: %v", a.For, err)
		}
		d.Addresses = append(d.Addresses, a)
	}
}

// availability says why a server could not listen at an address. Unlike listen it
// leaves the socket of a dead server where it is.
func availability(at string) error {
	if path, ok := strings.CutPrefix(at, unixPrefix); ok {
		if _, err := os.Lstat(path); err == nil {
			return abandoned(path)
		}
	}
	l, err := listen(at)
	if err != nil {
		return err
	}
	return l.Close()
}

// folders looks at the folders that are read and written.
func (d *diagnosis) folders(cfg *config.Config) {
	for _, path := range cfg.Repository.Paths {
		if _, err := os.ReadDir(path); err != nil {
			d.fault("cannot read the model repository: %v", err)
		}
	}
	if d.TrialCache == "" {
		d.advise("every start tries all models anew: there is no cache folder; set " +
			"repository.trial.cache, or HOME")
		return
	}
	err := os.MkdirAll(d.TrialCache, 0o755)
	if err == nil {
		var probe *os.File
		if probe, err = os.CreateTemp(d.TrialCache, ".doctor-*"); err == nil {
			err = errors.Join(probe.Close(), os.Remove(probe.Name()))
		}
	}
	if err != nil {
		d.advise("every start tries all models anew: the trial cache cannot be written (%v); set "+
			"repository.trial.cache", err)
	}
}

func (d *diagnosis) json(w io.Writer) error { return json.NewEncoder(w).Encode(d) }

// print writes a table, the faults and the advice.
func (d *diagnosis) print(w io.Writer) error {
	t := table(w)
	if d.Library != "" {
		fmt.Fprintf(t, "ONNX Runtime\t%s\n  library\t%s\n  found\t%s\n  providers\t%s\n",
			orUnknown(d.Version), d.Library, d.Origin, orUnknown(strings.Join(d.Providers, ", ")))
	}
	m := &d.Machine
	fmt.Fprintf(t, "CPU\t%s\n  features\t%s\n", orUnknown(m.CPU),
		orUnknown(strings.Join(m.Features, " ")))
	quota := ""
	if m.CPUQuota > 0 {
		quota = fmt.Sprintf(", the cgroup allows the time of %.3g", m.CPUQuota)
	}
	fmt.Fprintf(t, "cores\t%d%s\n  GOMAXPROCS\t%d\n", d.Cores, quota, d.GOMAXPROCS)
	memory := fmt.Sprintf("%s, %s available", amount(m.Memory), amount(m.Available))
	if m.MemoryLimit > 0 {
		memory += ", the cgroup allows " + amount(m.MemoryLimit)
	}
	fmt.Fprintf(t, "memory\t%s\n", memory)
	fmt.Fprintf(t, "open files\t%d at most\n", d.OpenFiles)
	fmt.Fprintf(t, "trial cache\t%s\n", orUnknown(d.TrialCache))
	for _, a := range d.Addresses {
		state := "free"
		if !a.Free {
			state = "cannot be used"
		}
		fmt.Fprintf(t, "%s\t%s, %s\n", a.For, a.At, state)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	list := func(title string, texts []string) {
		if len(texts) == 0 {
			return
		}
		fmt.Fprintf(w, "\n%s\n", title)
		for _, text := range texts {
			fmt.Fprintf(w, "  - %s\n", strings.ReplaceAll(text, "\n", "\n    "))
		}
	}
	list("A server could not start:", d.Faults)
	list("What would make it better:", d.Advice)
	if len(d.Faults)+len(d.Advice) == 0 {
		fmt.Fprintln(w, "\nA server can start here, and there is nothing to improve.")
	}
	return nil
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

// amount writes a size for people.
func amount(n int64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
}
