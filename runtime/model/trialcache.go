package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/millrace-ml/millrace/runtime/model/layout"
)

// trialVersion changes when what a trial proves does.
const trialVersion = "3"

// trialKey names a trial: the version's files and those of its warm-up
// requests, the library, and all that the job says of how it is loaded.
func trialKey(job trialJob, library string, warms bool) (string, error) {
	files, err := layout.Digest(job.Version.Dir)
	if err != nil {
		return "", err
	}
	warmups := ""
	if f := (layout.Folder{Dir: job.Dir}); warms {
		// A folder that is missing is found out by the request that needs it.
		warmups, _ = layout.Digest(f.WarmupDir())
	}
	job.Session.LogID = "" // copies under other names are not tried again
	session, err := json.Marshal(job.Session)
	if err != nil {
		return "", fmt.Errorf("cannot name the trial: %w", err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q%q%q%q%q%d%q", trialVersion, files, warmups, library,
		session, job.DefaultBatch, job.Config))
	return hex.EncodeToString(sum[:]), nil
}

// passed returns the remembered result of a digest.
func (c *TrialConfig) passed(key string) (trialResult, bool) {
	var r trialResult
	if c.Cache == "" {
		return r, false
	}
	text, err := os.ReadFile(filepath.Join(c.Cache, key))
	return r, err == nil && json.Unmarshal(text, &r) == nil
}

// remember keeps the result of a digest that has passed. Not being able to
// costs a trial at the next start, nothing else.
func (c *TrialConfig) remember(key string, r trialResult) {
	if c.Cache == "" {
		return
	}
	text, err := json.Marshal(r)
	if err != nil || os.MkdirAll(c.Cache, 0o755) != nil {
		return
	}
	file, err := os.CreateTemp(c.Cache, ".trial-*")
	if err != nil {
		return
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), filepath.Join(c.Cache, key))
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
}
