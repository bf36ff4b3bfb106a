package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kinds of resources.
const (
	KindSource   = "Source"
	KindModel    = "Model"
	KindEndpoint = "Endpoint"
	KindMonitor  = "Monitor"
	KindTrigger  = "Trigger"
)

// Kinds lists the kinds, in the order in which one needs those before it.
func Kinds() []string {
	return []string{KindSource, KindModel, KindEndpoint, KindMonitor, KindTrigger}
}

// Resource is a part of the settings that can change while the server runs. Its Spec is a JSON
// object with the keys of the settings file but name; what has no key is the default.
type Resource struct {
	Kind string          `json:"kind"`
	Name string          `json:"name"`
	Spec json.RawMessage `json:"spec"`
}

// Resources lists the resources, kind by kind.
func (c *Config) Resources() []Resource {
	var all []Resource
	add := func(kind, name string, v any) {
		all = append(all, Resource{kind, name, encode(reflect.ValueOf(v))})
	}
	for _, s := range c.Sources {
		add(KindSource, s.Name, s)
	}
	for _, m := range c.Models {
		add(KindModel, m.Name, m)
	}
	for _, e := range c.Endpoints {
		add(KindEndpoint, e.Name, e)
	}
	for _, m := range c.Monitors {
		add(KindMonitor, m.Name, m)
	}
	for _, t := range c.Triggers {
		add(KindTrigger, t.Name, t)
	}
	return all
}

// Add puts a resource in the place of the one of its kind and name, or at the end. Its error is
// an Error that lists what the spec has wrong in itself; Validate knows the rest.
func (c *Config) Add(r Resource) error {
	switch r.Kind {
	case KindSource:
		return add(&c.Sources, r, func(s *Source) *string { return &s.Name })
	case KindModel:
		return add(&c.Models, r, func(m *Model) *string { return &m.Name })
	case KindEndpoint:
		return add(&c.Endpoints, r, func(e *Endpoint) *string { return &e.Name })
	case KindMonitor:
		return add(&c.Monitors, r, func(m *Monitor) *string { return &m.Name })
	case KindTrigger:
		return add(&c.Triggers, r, func(t *Trigger) *string { return &t.Name })
	}
	return newError("", []Fault{{Key: "kind",
		Text: fmt.Sprintf("is %q, must be one of %s", r.Kind, strings.Join(Kinds(), ", "))}})
}

// Remove takes a resource out and says whether it was there.
func (c *Config) Remove(kind, name string) bool {
	before := c.resources()
	switch kind {
	case KindSource:
		c.Sources = slices.DeleteFunc(c.Sources, func(s Source) bool { return s.Name == name })
	case KindModel:
		c.Models = slices.DeleteFunc(c.Models, func(m Model) bool { return m.Name == name })
	case KindEndpoint:
		c.Endpoints = slices.DeleteFunc(c.Endpoints,
			func(e Endpoint) bool { return e.Name == name })
	case KindMonitor:
		c.Monitors = slices.DeleteFunc(c.Monitors, func(m Monitor) bool { return m.Name == name })
	case KindTrigger:
		c.Triggers = slices.DeleteFunc(c.Triggers, func(t Trigger) bool { return t.Name == name })
	}
	return c.resources() < before
}

// resources is how many there are.
func (c *Config) resources() int {
	return len(c.Sources) + len(c.Models) + len(c.Endpoints) + len(c.Monitors) + len(c.Triggers)
}

func add[T any](list *[]T, r Resource, name func(*T) *string) error {
	v, err := Decode[T](r.Spec)
	if err != nil {
		return err
	}
	if own := *name(&v); own != "" && own != r.Name {
		return newError("", []Fault{{Key: "name",
			Text: fmt.Sprintf("is %q, but the resource is called %q", own, r.Name)}})
	}
	*name(&v) = r.Name
	for i := range *list {
		if *name(&(*list)[i]) == r.Name {
			*list = slices.Clone(*list)
			(*list)[i] = v
			return nil
		}
	}
	*list = append(*list, v)
	return nil
}

// Decode reads the spec of a resource: a Source, Model or Endpoint, without its name.
func Decode[T any](spec json.RawMessage) (T, error) {
	var v T
	plain, err := plainJSON(spec)
	if err != nil {
		return v, newError("", []Fault{{Text: "not JSON: " + err.Error()}})
	}
	d := decoder{lines: make(map[string]int)}
	if root := d.parse(plain); root != nil {
		d.decode(root, reflect.ValueOf(&v).Elem(), "")
	}
	for i := range d.faults {
		d.faults[i].Line = 0
	}
	return v, newError("", d.faults)
}

// plainJSON writes a JSON text anew, so that YAML reads it alike: without escapes of
// characters that YAML has no pairs for.
func plainJSON(text []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the object")
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return out.Bytes(), err
}

// encode writes a value as a JSON object with the keys of the settings file. What is the
// default is left out, and so is the name.
func encode(v reflect.Value) json.RawMessage {
	fields := make(map[string]any)
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); key != "name" || v.Field(i).IsZero() {
			put(fields, key, v.Field(i))
		}
	}
	text, _ := json.Marshal(fields) // of texts, numbers, lists and maps alone
	return text
}

func put(fields map[string]any, key string, v reflect.Value) {
	if !v.IsZero() {
		fields[key] = document(v)
	}
}

// document makes of a value what its JSON consists of.
func document(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case Size:
		return x.String()
	}
	switch v.Kind() {
	case reflect.Pointer:
		return document(v.Elem())
	case reflect.Struct:
		fields := make(map[string]any)
		for i := range v.NumField() {
			put(fields, v.Type().Field(i).Tag.Get("yaml"), v.Field(i))
		}
		return fields
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = document(v.Index(i))
		}
		return list
	}
	return v.Interface()
}

var listed = regexp.MustCompile(`^(sources|models|endpoints|monitors|triggers)\[(\d+)\]\.?`)

// Named puts the names of resources in the place of their numbers in an Error's keys, for those
// who see no file: `endpoint fraud: canary.steps[1]`.
func (c *Config) Named(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	named := &Error{File: e.File, Faults: slices.Clone(e.Faults)}
	for i := range named.Faults {
		f := &named.Faults[i]
		m := listed.FindStringSubmatch(f.Key)
		if m == nil {
			continue
		}
		at, _ := strconv.Atoi(m[2])
		name := ""
		switch {
		case m[1] == "sources" && at < len(c.Sources):
			name = "source " + c.Sources[at].Name
		case m[1] == "models" && at < len(c.Models):
			name = "model " + c.Models[at].Name
		case m[1] == "endpoints" && at < len(c.Endpoints):
			name = "endpoint " + c.Endpoints[at].Name
		case m[1] == "monitors" && at < len(c.Monitors):
			name = "monitor " + c.Monitors[at].Name
		case m[1] == "triggers" && at < len(c.Triggers):
			name = "trigger " + c.Triggers[at].Name
		}
		if name != "" {
			f.Key = strings.TrimSuffix(name+": "+strings.TrimPrefix(f.Key, m[0]), ": ")
		}
	}
	slices.SortStableFunc(named.Faults, func(a, b Fault) int { return cmp.Compare(a.Key, b.Key) })
	return named
}

// OnlyResources says whether an error is an Error whose faults are all of resources. The rest of
// the Config that came with it may then be used.
func OnlyResources(err error) bool {
	var e *Error
	return errors.As(err, &e) && !slices.ContainsFunc(e.Faults, func(f Fault) bool {
		return !listed.MatchString(f.Key)
	})
}
