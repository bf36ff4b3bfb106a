package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// maxFile bounds a settings file, in bytes.
const maxFile = 1 << 20

// Load reads the file at path over the default values. Relative paths in it
// start at its folder.
func Load(path string) (Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the settings: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the settings: %w", err)
	}
	if len(text) > maxFile {
		return Config{},
			newError(path, []Fault{{Text: fmt.Sprintf("larger than %d bytes", maxFile)}})
	}
	c, err := Parse(path, text)
	c.resolve(filepath.Dir(path))
	return c, err
}

// Parse reads text over the default values. name stands in errors.
func Parse(name string, text []byte) (Config, error) {
	c := Default()
	d := decoder{lines: make(map[string]int)}
	if root := d.parse(text); root != nil {
		d.decode(root, reflect.ValueOf(&c).Elem(), "")
	}
	faults := d.faults
	wrong := make(map[string]bool)
	for _, f := range d.faults {
		wrong[f.Key] = true
	}
	for _, f := range append(c.check(), c.untapped()...) {
		if !wrong[f.Key] {
			f.Line = d.line(f.Key)
			faults = append(faults, f)
		}
	}
	return c, newError(name, faults)
}

// line returns where a key stands, or the nearest key above it.
func (d *decoder) line(key string) int {
	for {
		if line, ok := d.lines[key]; ok {
			return line
		}
		i := strings.LastIndexAny(key, ".[")
		if i < 0 {
			return d.lines[""]
		}
		key = key[:i]
	}
}

// resolve makes the paths of a file in folder dir independent of the working directory.
func (c *Config) resolve(dir string) {
	abs := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	for i := range c.Repository.Paths {
		abs(&c.Repository.Paths[i])
	}
	abs(&c.Runtime.Library)
	abs(&c.Repository.Trial.Cache)
	abs(&c.Server.Data)
	for i := range c.Models {
		if g := c.Models[i].Golden; g != nil {
			abs(&g.File)
		}
	}
	for i := range c.Sources {
		s := &c.Sources[i]
		if s.Folder != nil {
			abs(&s.Folder.Path)
		}
		s.Access.resolve(abs)
	}
	for i := range c.Monitors {
		abs(&c.Monitors[i].Reference.File)
		if a := c.Monitors[i].Alertmanager; a != nil {
			a.Access.resolve(abs)
		}
	}
	for i := range c.Triggers {
		c.Triggers[i].resolve(abs)
	}
	abs(&c.Server.Pipelines.AlertTokenFile)
	for i := range c.Taps {
		if f := c.Taps[i].Files; f != nil {
			abs(&f.Path)
		}
	}
}
