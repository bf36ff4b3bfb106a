package api

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/store"
)

// UserHeader names who makes a request, for the audit log.
const UserHeader = "X-Millrace-User"

// List is resources, and the revision of the store to watch from.
type List struct {
	Revision uint64           `json:"revision"`
	Items    []store.Resource `json:"items"`
}

// Effect is what a change does to one resource.
type Effect struct {
	control.Effect
	Diff string `json:"diff,omitempty"` // unified, of the YAML, where it was asked for
}

// Effects is what a change does.
type Effects struct {
	DryRun  bool     `json:"dry_run,omitempty"`
	Effects []Effect `json:"effects"`
}

// Failure is the body of an answer that is not a success.
type Failure struct {
	Error  string  `json:"error"`
	Faults []Fault `json:"faults,omitempty"` // of specs
	Offset *int64  `json:"offset,omitempty"` // where the upload of a file goes on
}

// Fault is one thing that is wrong with a spec.
type Fault struct {
	Key  string `json:"key"`
	Text string `json:"text"`
}

// Sentence says where a rollout stands.
type Sentence struct {
	Sentence string `json:"sentence"`
}

// Manifest is what somebody wants to upload.
type Manifest struct {
	Version string   `json:"version,omitempty"` // "" lets the server choose
	Aliases []string `json:"aliases,omitempty"`
	Files   []File   `json:"files"`
}

// File is one file of a Manifest.
type File struct {
	Path   string `json:"path"` // relative, with slashes
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Upload is an upload under way. Asking for the same one again returns it with what has come.
type Upload struct {
	ID    string     `json:"id"`
	Files []Received `json:"files"`
}

// Received is how much of a file has come.
type Received struct {
	Path   string `json:"path"`
	Offset int64  `json:"offset"`
}

// Pushed is the version that an upload has become.
type Pushed struct {
	Version string `json:"version"`
}

// Changes is a page of the audit log, the latest first.
type Changes struct {
	Changes []store.Change `json:"changes"`
}

// YAML writes a JSON text as YAML, keys sorted.
func YAML(text []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(yamlNode(v)); err != nil {
		return nil, err
	}
	return out.Bytes(), e.Close()
}

// yamlNode makes a node of what JSON consists of. The encoder quotes texts that would else be
// something other than a text.
func yamlNode(v any) *yaml.Node {
	scalar := func(tag, text string) *yaml.Node {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
	}
	switch x := v.(type) {
	case map[string]any:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, key := range slices.Sorted(maps.Keys(x)) {
			n.Content = append(n.Content, scalar("!!str", key), yamlNode(x[key]))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range x {
			n.Content = append(n.Content, yamlNode(item))
		}
		return n
	case string:
		return scalar("!!str", x)
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: x.String()}
	case bool:
		if x {
			return scalar("!!bool", "true")
		}
		return scalar("!!bool", "false")
	}
	return scalar("!!null", "null")
}
