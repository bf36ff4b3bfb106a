package route

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrCorrupt is returned by Load when a file is not one that Save has written,
// whole and unchanged, or is of a format that this version cannot read.
var ErrCorrupt = errors.New("route: not a file of endpoints")

// fileFormat changes when what a file says does.
const fileFormat = 1

// file is what is kept on disk. Content stays as it was written, byte by byte,
// so that its checksum can be computed.
type file struct {
	Format  int             `json:"millrace_endpoints_format"`
	SHA256  string          `json:"sha256"` // of Content
	Content json.RawMessage `json:"content"`
}

type fileContent struct {
	Endpoints []Spec  `json:"endpoints"`
	Aliases   Aliases `json:"aliases"`
}

// Save keeps endpoints and aliases in a file. Whenever it is interrupted, the
// file holds what it held before or what it is to hold; once Save has returned
// nil, the latter even after a loss of power.
func Save(path string, specs []Spec, aliases Aliases) error {
	data, err := encode(specs, aliases)
	if err == nil {
		err = replace(path, data)
	}
	if err != nil {
		return fmt.Errorf("cannot save the endpoints to %s: %w", path, err)
	}
	return nil
}

// Load returns what Save has kept. The error is fs.ErrNotExist when nothing was
// saved, and ErrCorrupt when what is there cannot be trusted.
func Load(path string) ([]Spec, Aliases, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot load the saved endpoints: %w", err)
	}
	specs, aliases, err := decode(data)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot load the endpoints saved in %s: %w", path, err)
	}
	return specs, aliases, nil
}

func encode(specs []Spec, aliases Aliases) ([]byte, error) {
	content, err := json.Marshal(fileContent{specs, aliases})
	if err != nil {
		return nil, err
	}
	return json.Marshal(file{fileFormat, checksum(content), content})
}

func decode(data []byte) ([]Spec, Aliases, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, nil, fmt.Errorf("%w: %d bytes that cannot be parsed: %w", ErrCorrupt,
			len(data), err)
	}
	if f.Format != fileFormat {
		return nil, nil, fmt.Errorf("%w: format %d, only %d can be read", ErrCorrupt, f.Format,
			fileFormat)
	}
	if got := checksum(f.Content); got != f.SHA256 {
		return nil, nil, fmt.Errorf("%w: the checksum is %s, but %.64q when it was written",
			ErrCorrupt, got, f.SHA256)
	}
	// An unknown key is a setting that would not be obeyed.
	d := json.NewDecoder(bytes.NewReader(f.Content))
	d.DisallowUnknownFields()
	var c fileContent
	if err := d.Decode(&c); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return c.Endpoints, c.Aliases, nil
}

func checksum(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// replace writes a new file beside the old one and puts it in its place.
func replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(dir)
}

// syncFolder makes the names in a folder last.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
