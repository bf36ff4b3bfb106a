package model

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-ml/millrace/runtime/model/configpb"
	"github.com/millrace-ml/millrace/runtime/model/layout"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Batching says what is known about putting the requests of a version together.
type Batching string

// What a version's batching can be.
const (
	BatchingNone     Batching = "none"     // the version has no batch axis, or asks for none
	BatchingProven   Batching = "proven"   // two rows in one run give what two runs give
	BatchingUnproven Batching = "unproven" // asked for, but no made-up input could be run
)

// Checked is what Check has found out about one version, or about a folder of
// which no version can be looked at.
type Checked struct {
	Repository string
	Model      string
	Version    string // "" for a folder without versions
	File       string
	Configured bool // there is a config.pbtxt
	Batching   Batching
	Signature  *tensor.Signature     // nil when there are faults
	Config     *configpb.ModelConfig // completed; nil when there are faults
	Warnings   []string
	Faults     []string
}

// Check tries every version that a server with these options would load, as
// the server does, and serves nothing. report is called once for each, as soon
// as it is known. names restricts it to some models; none means all.
func Check(ctx context.Context, opts Options, report func(Checked), names ...string) error {
	r := &Repository{opts: opts, log: opts.Logger}
	r.trials = trials{cfg: opts.Trial, log: opts.Logger}
	defer r.trials.close()
	wanted := make(map[string]bool)
	for _, name := range names {
		wanted[name] = true
	}
	first := make(map[string]string) // repository by model
	for _, root := range opts.Repositories {
		folders, err := layout.Scan(root)
		if err != nil {
			return err
		}
		for _, f := range folders {
			if len(wanted) > 0 && !wanted[f.Name] {
				continue
			}
			if other, twice := first[f.Name]; twice {
				f.Warnings = append(f.Warnings,
					fmt.Sprintf("it is in %s too, and that one serves", other))
			} else {
				first[f.Name] = root
			}
			if err := r.checkFolder(ctx, root, f, report); err != nil {
				return err
			}
		}
		if len(wanted) == 0 {
			reportEmpty(root, folders, report)
		}
	}
	return nil
}

// reportEmpty reports the folders that hold nothing to serve.
func reportEmpty(root string, models []layout.Folder, report func(Checked)) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return // Scan has just read it; what is gone since is no model.
	}
	known := make(map[string]bool)
	for _, f := range models {
		known[f.Name] = true
	}
	for _, e := range entries {
		if e.IsDir() && !known[e.Name()] && !strings.HasPrefix(e.Name(), ".") {
			report(Checked{Repository: root, Model: e.Name(), Batching: BatchingNone,
				Warnings: []string{"it is not served: there is neither model.onnx, " +
					"nor 1/model.onnx, nor a config.pbtxt in it"}})
		}
	}
}

// checkFolder reports each version of a folder that is wanted. A faulty folder
// still has its model files looked at, so that all faults come at once.
func (r *Repository) checkFolder(ctx context.Context, root string, f layout.Folder,
	report func(Checked)) error {
	base := Checked{Repository: root, Model: f.Name, Configured: f.Config != nil,
		Batching: BatchingNone, Warnings: f.Warnings}
	p := r.plan(f)
	if p.Fault != nil {
		base.Faults = lines(p.Fault)
		for _, v := range p.Versions {
			err := v.Fault
			if err == nil {
				err = layout.CheckModel(v)
			}
			if err != nil {
				base.Faults = append(base.Faults, fmt.Sprintf("version %s: %v", v.Version, err))
			}
		}
		report(base)
		return nil
	}
	versions := layout.Select(p.Versions, p.Config)
	if len(versions) == 0 {
		base.Faults = []string{fmt.Sprintf("there is no version to load: put the model at %s, or "+
			"change version_policy", filepath.Join(f.Name, "1", "model.onnx"))}
		report(base)
		return nil
	}
	for _, v := range versions {
		c := base
		c.Version, c.File = v.Version, v.File
		if err := r.checkVersion(ctx, &p, v, &c); err != nil {
			c.Faults = lines(err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		report(c)
	}
	return nil
}

func (r *Repository) checkVersion(ctx context.Context, p *plan, v layout.VersionDir,
	c *Checked) error {
	if v.Fault != nil {
		return v.Fault
	}
	if err := layout.CheckModel(v); err != nil {
		return err
	}
	result, err := r.try(ctx, p, v)
	if err != nil {
		return err
	}
	loaded, err := r.open(p, v, result)
	if err != nil {
		return err
	}
	c.Signature, c.Config = loaded.sig, loaded.cfg
	loaded.drain()
	if !result.Ran {
		c.Warnings = append(c.Warnings,
			"the trial could not run it on made-up inputs; the first request will show")
	}
	switch {
	case c.Signature.MaxBatchSize == 0:
	case result.Batched:
		c.Batching = BatchingProven
	default:
		c.Batching = BatchingUnproven
	}
	return nil
}

// lines takes joined errors apart.
func lines(err error) []string { return strings.Split(err.Error(), "\n") }
