package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds what a file with aliases of aliases can unfold to.
const maxNodes = 100_000

// decoder fills a Config from YAML nodes and gathers the faults.
type decoder struct {
	faults []Fault
	lines  map[string]int // where each key stands
	nodes  int
}

func (d *decoder) fault(n *yaml.Node, key, format string, args ...any) {
	d.faults = append(d.faults, Fault{n.Line, key, fmt.Sprintf(format, args...)})
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// parse returns the file's one document, nil when it is empty.
func (d *decoder) parse(text []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		d.syntax(err)
		return nil
	}
	if err := dec.Decode(&second); err == nil {
		d.fault(&second, "", "a second document starts here; settings are one document")
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
	}
	return doc.Content[0]
}

func (d *decoder) syntax(err error) {
	f := Fault{Text: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		f.Line, _ = strconv.Atoi(m[1])
		f.Text = strings.Replace(f.Text, m[0], "", 1)
	}
	d.faults = append(d.faults, f)
}

// decode puts the node's value into v, which stands at key.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if d.nodes++; d.nodes > maxNodes {
		if d.nodes == maxNodes+1 {
			d.fault(n, key, "more than %d values", maxNodes)
		}
		return
	}
	if _, ok := d.lines[key]; !ok {
		d.lines[key] = n.Line
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		d.fault(n, key, "has no value; give it one or take the key out")
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, v, key)
	case reflect.Slice:
		d.sequence(n, v, key)
	case reflect.Map:
		d.table(n, v, key)
	default:
		d.scalar(n, v, key)
	}
}

// pairs calls f with each key of a mapping and its value, and reports doubles.
func (d *decoder) pairs(n *yaml.Node, key string, f func(name, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.fault(n, key, "is %s, must be a mapping (key: value)", kindOf(n))
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i]
		if line, twice := seen[name.Value]; twice {
			d.fault(name, join(key, name.Value), "is there twice, first in line %d", line)
			continue
		}
		seen[name.Value] = name.Line
		f(name, n.Content[i+1])
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, key string) {
	d.pairs(n, key, func(name, value *yaml.Node) {
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("yaml") == name.Value {
				d.decode(value, v.Field(i), join(key, name.Value))
				return
			}
		}
		d.fault(name, join(key, name.Value), "%s", unknown(name.Value, v.Type()))
	})
}

// unknown says what may stand in place of an unknown key.
func unknown(name string, t reflect.Type) string {
	keys := keysOf(t)
	if best := nearest(name, keys); best != "" {
		return fmt.Sprintf("unknown key; did you mean %s?", best)
	}
	text := "unknown key; allowed are " + strings.Join(keys, ", ")
	if places := placesOf(name, reflect.TypeFor[Config](), ""); len(places) > 0 {
		text += "; there is " + strings.Join(places, " and ")
	}
	return text
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		keys = append(keys, t.Field(i).Tag.Get("yaml"))
	}
	return keys
}

// placesOf lists where a key of that name belongs.
func placesOf(name string, t reflect.Type, key string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		if t.Kind() == reflect.Slice {
			key += "[]"
		}
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var found []string
	for i := range t.NumField() {
		f := t.Field(i)
		at := join(key, f.Tag.Get("yaml"))
		if f.Tag.Get("yaml") == name {
			found = append(found, at)
		}
		found = append(found, placesOf(name, f.Type, at)...)
	}
	return found
}

func (d *decoder) sequence(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.SequenceNode {
		d.fault(n, key, "is %s, must be a list (- value)", kindOf(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		d.decode(c, list.Index(i), fmt.Sprintf("%s[%d]", key, i))
	}
	v.Set(list)
}

func (d *decoder) table(n *yaml.Node, v reflect.Value, key string) {
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, key, func(name, value *yaml.Node) {
		text := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, text, join(key, name.Value))
		v.SetMapIndex(reflect.ValueOf(name.Value), text)
	})
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.ScalarNode {
		d.fault(n, key, "is %s, must be %s", kindOf(n), describe(v.Type()))
		return
	}
	var err error
	switch v.Interface().(type) {
	case time.Duration:
		var t time.Duration
		if t, err = parseDuration(n.Value); err == nil {
			v.SetInt(int64(t))
		}
	case Size:
		var s Size
		if s, err = ParseSize(n.Value); err == nil {
			v.SetInt(int64(s))
		}
	default:
		err = d.plain(n, v)
	}
	if err != nil {
		d.fault(n, key, "is %q, must be %s", n.Value, describe(v.Type()))
	}
}

var errType = errors.New("config: wrong type")

// plain decodes Go's own types.
func (d *decoder) plain(n *yaml.Node, v reflect.Value) error {
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
		return nil
	case reflect.Bool:
		if n.Tag != "!!bool" {
			return errType
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
		return nil
	case reflect.Float64:
		if n.Tag != "!!int" && n.Tag != "!!float" {
			return errType
		}
		f, err := strconv.ParseFloat(n.Value, 64)
		v.SetFloat(f)
		return err
	}
	if n.Tag != "!!int" {
		return errType
	}
	i, err := strconv.ParseInt(n.Value, 0, 64)
	if err == nil {
		v.SetInt(i)
	}
	return err
}

// describe says for people what values a type has.
func describe(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return `a duration such as "1ms", "30s" or "7d"`
	case reflect.TypeFor[Size]():
		return `a size such as "64MiB"`
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return strconv.Quote(n.Value)
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
