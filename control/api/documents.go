package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
)

// The types of bodies.
const (
	typeJSON  = "application/json"
	typeYAML  = "application/yaml"
	typeXYAML = "application/x-yaml"
	typeText  = "text/yaml"
	typeBytes = "application/octet-stream"
)

// Bounds of bodies.
const (
	maxBody  = 16 << 20 // bytes
	maxSmall = 1 << 20  // bytes, where no lists of resources come
	maxNodes = 1 << 18  // values that YAML with aliases may unfold to
	maxDepth = 64       // of a value in others
)

// documents reads the YAML or JSON documents of a body, as what JSON consists of.
func documents(w http.ResponseWriter, r *http.Request) ([]any, error) {
	kind, err := mediaType(r, typeJSON, typeYAML, typeXYAML, typeText)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("cannot read the body: %w", err)
	}
	var all []any
	if kind == typeJSON {
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		for {
			var v any
			if err := d.Decode(&v); errors.Is(err, io.EOF) {
				return all, nil
			} else if err != nil {
				return nil, bad("not JSON: %v", err)
			}
			all = append(all, v)
		}
	}
	u := unfolder{}
	d := yaml.NewDecoder(bytes.NewReader(body))
	for {
		var n yaml.Node
		if err := d.Decode(&n); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, bad("not YAML: %v", err)
		}
		if v := u.value(n.Content[0], ""); v != nil {
			all = append(all, v)
		}
	}
	if len(u.faults) > 0 {
		return nil, &config.Error{Faults: u.faults}
	}
	return all, nil
}

// unfolder makes of YAML what JSON consists of.
type unfolder struct {
	nodes, depth int
	faults       []config.Fault
}

func (u *unfolder) fault(n *yaml.Node, key, text string) {
	u.faults = append(u.faults, config.Fault{Line: n.Line, Key: key,
		Text: fmt.Sprintf("%s (line %d)", text, n.Line)})
}

func (u *unfolder) value(n *yaml.Node, key string) any {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	u.depth++
	defer func() { u.depth-- }()
	if u.nodes++; u.nodes > maxNodes || u.depth > maxDepth {
		if len(u.faults) == 0 {
			u.fault(n, "", fmt.Sprintf("more than %d values, or more than %d in each other",
				maxNodes, maxDepth))
		}
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		fields := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			at := name
			if key != "" {
				at = key + "." + name
			}
			if _, twice := fields[name]; twice {
				u.fault(n.Content[i], at, "is there twice")
			}
			fields[name] = u.value(n.Content[i+1], at)
		}
		return fields
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i := range n.Content {
			list[i] = u.value(n.Content[i], fmt.Sprintf("%s[%d]", key, i))
		}
		return list
	}
	return scalar(n)
}

// scalar keeps how a number is written, as the settings file does: version 1.10 is not 1.1. A
// number that JSON cannot write stays a text.
func scalar(n *yaml.Node) any {
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		if b, err := strconv.ParseBool(n.Value); err == nil {
			return b
		}
	case "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			return json.Number(n.Value)
		}
	}
	return n.Value
}

// item is a resource that somebody writes, and the revision that it must have, if any.
type item struct {
	config.Resource
	revision *uint64
}

// sections are the keys of the settings file that hold resources.
var sections = map[string]string{
	"sources": config.KindSource, "models": config.KindModel, "endpoints": config.KindEndpoint,
	"monitors": config.KindMonitor,
	"triggers": config.KindTrigger,
}

// resources finds the resources in documents: settings with lists of them, a resource, a list
// of resources, or a List as GET answers it.
func resources(documents []any) ([]item, error) {
	var all []item
	var faults []config.Fault
	for _, d := range documents {
		items, f := found(d, "")
		all, faults = append(all, items...), append(faults, f...)
	}
	seen := make(map[store.Key]bool)
	for _, it := range all {
		key := store.Key{Kind: it.Kind, Name: it.Name}
		if seen[key] {
			faults = append(faults, config.Fault{Key: key.String(), Text: "is there twice"})
		}
		seen[key] = true
	}
	switch {
	case len(faults) > 0:
		return nil, &config.Error{Faults: faults}
	case len(all) == 0:
		return nil, bad("there are no resources in it; give a list of endpoints, for example")
	}
	return all, nil
}

func found(document any, key string) ([]item, []config.Fault) {
	fault := func(key, text string) ([]item, []config.Fault) {
		return nil, []config.Fault{{Key: key, Text: text}}
	}
	if list, ok := document.([]any); ok {
		return each(list, key, found)
	}
	fields, ok := document.(map[string]any)
	if !ok {
		return fault(key, "is neither settings nor a resource with kind, name and spec")
	}
	if _, ok := fields["kind"]; ok {
		it, err := written(fields)
		if err != nil {
			return fault(key, err.Error())
		}
		return []item{it}, nil
	}
	if list, ok := fields["items"].([]any); ok && key == "" {
		return each(list, "items", found)
	}
	var all []item
	var faults []config.Fault
	for _, section := range slices.Sorted(maps.Keys(fields)) {
		kind, ok := sections[section]
		list, isList := fields[section].([]any)
		switch {
		case !ok:
			faults = append(faults, config.Fault{Key: section, Text: "belongs to the settings " +
				"file of the server; here are " + strings.Join(slices.Sorted(maps.Keys(sections)),
				", ") + ", or resources with kind, name and spec"})
			continue
		case !isList:
			faults = append(faults, config.Fault{Key: section,
				Text: "must be a list (- name: ...)"})
			continue
		}
		items, f := each(list, section, func(v any, key string) ([]item, []config.Fault) {
			return listed(kind, v, key)
		})
		all, faults = append(all, items...), append(faults, f...)
	}
	return all, faults
}

func each(list []any, key string, f func(any, string) ([]item, []config.Fault)) (
	all []item, faults []config.Fault) {
	for i, v := range list {
		items, f := f(v, fmt.Sprintf("%s[%d]", key, i))
		all, faults = append(all, items...), append(faults, f...)
	}
	return all, faults
}

// listed reads an entry of a section of the settings.
func listed(kind string, v any, key string) ([]item, []config.Fault) {
	fields, ok := v.(map[string]any)
	name := text(fields["name"])
	if !ok || name == "" {
		return nil, []config.Fault{{Key: key + ".name", Text: "is missing"}}
	}
	spec := maps.Clone(fields)
	delete(spec, "name")
	it := item{Resource: config.Resource{Kind: kind, Name: name}}
	var err error
	if it.Spec, err = json.Marshal(spec); err != nil {
		return nil, []config.Fault{{Key: key, Text: err.Error()}}
	}
	return []item{it}, nil
}

// passed are the fields of a resource that GET answers and nobody can write.
var passed = []string{"created", "updated", "owner", "status"}

// written reads a resource as GET answers it.
func written(fields map[string]any) (it item, err error) {
	for key := range fields {
		if !slices.Contains(passed, key) &&
			!slices.Contains([]string{"kind", "name", "spec", "revision"}, key) {
			return it, fmt.Errorf("has the unknown key %q; a resource has kind, name, spec and "+
				"revision", key)
		}
	}
	it.Kind, it.Name = text(fields["kind"]), text(fields["name"])
	if it.Kind == "" || it.Name == "" {
		return it, errors.New("has no kind or no name")
	}
	spec, ok := fields["spec"].(map[string]any)
	if !ok && fields["spec"] != nil {
		return it, errors.New("has a spec that is no mapping")
	}
	if spec == nil {
		spec = map[string]any{}
	}
	if v, ok := fields["revision"]; ok {
		n, err := strconv.ParseUint(text(v), 10, 64)
		if err != nil {
			return it, fmt.Errorf("has the revision %q, must be a number", text(v))
		}
		it.revision = &n
	}
	it.Spec, err = json.Marshal(spec)
	return it, err
}

// text returns a text or number as it is written.
func text(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case json.Number:
		return x.String()
	}
	return ""
}
