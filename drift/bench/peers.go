package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// environment is one of the two that Python needs, as the tools exclude each other's
// numpy, and what is run in it, all at once.
type environment struct {
	name, requirements string
	jobs               []string
}

//go:embed peers.py
var script []byte

//go:embed river.txt
var riverRequirements string

//go:embed alibi.txt
var alibiRequirements string

var environments = []environment{
	{"river", riverRequirements, []string{"river", "kswin", "evidently"}},
	{"alibi", alibiRequirements, []string{"cvm", "mmd", "lsdd"}},
}

// runPeers installs the others and runs them, both environments at once.
func (s settings) runPeers(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(s.dir, "peers.py"), script, 0o644); err != nil {
		return fmt.Errorf("cannot write the script: %w", err)
	}
	faults := make(chan error)
	jobs := 0
	for _, e := range environments {
		python, err := s.install(ctx, e)
		if err != nil {
			return err
		}
		for _, job := range e.jobs {
			jobs++
			go func() { faults <- s.command(ctx, python, "peers.py", job, s.dir) }()
		}
	}
	var all error
	for range jobs {
		all = errors.Join(all, <-faults)
	}
	return all
}

// install makes a virtual environment, once for each content of the requirements.
func (s settings) install(ctx context.Context, e environment) (python string, err error) {
	dir := filepath.Join(s.dir, fmt.Sprintf("%s-%.6x", e.name,
		sha256.Sum256([]byte(e.requirements))))
	python = filepath.Join(dir, "bin", "python")
	done := filepath.Join(dir, "done")
	if _, err := os.Stat(done); err == nil {
		return python, nil
	}
	s.logger.Info("install others' detectors", "environment", e.name)
	list := filepath.Join(s.dir, e.name+".txt")
	if err := os.WriteFile(list, []byte(e.requirements), 0o644); err != nil {
		return "", fmt.Errorf("cannot write the requirements: %w", err)
	}
	if err := s.command(ctx, "python3", "-m", "venv", "--clear", dir); err != nil {
		return "", err
	}
	if err := s.command(ctx, python, "-m", "pip", "install", "-q", "-r", list); err != nil {
		return "", err
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		return "", fmt.Errorf("cannot finish the environment: %w", err)
	}
	return python, nil
}

func (s settings) command(ctx context.Context, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = s.dir
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("cannot run %s %q: %w", name, args, err)
	}
	return nil
}

// readPeers reads what the others have shown.
func (s settings) readPeers() (all []figure, err error) {
	for _, e := range environments {
		for _, job := range e.jobs {
			text, err := os.ReadFile(filepath.Join(s.dir, job+".json"))
			if err != nil {
				return nil, fmt.Errorf("cannot read the others' figures: %w", err)
			}
			var some []figure
			if err := json.Unmarshal(text, &some); err != nil {
				return nil, fmt.Errorf("cannot read the others' figures of %s: %w", job, err)
			}
			all = append(all, some...)
		}
	}
	return all, nil
}
