// Command gendoc writes docs/config.md from the types of package config: their
// tags, their comments and the default values.
//
//	go run ./gendoc FILE
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/config"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendoc FILE")
		os.Exit(2)
	}
	page, err := page()
	if err == nil {
		err = os.WriteFile(os.Args[1], page, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot write the settings page:", err)
		os.Exit(1)
	}
}

const intro = `# Settings

<!-- Made from control/config by "make docs". -->

One YAML file holds the settings: ` + "`millrace serve -c FILE`" + `. Every key may be left out.
A key that nobody knows, a wrong type or an impossible value is an error that names file, line, key
and what is allowed; all errors come at once. Relative paths start at the file's folder.
Flags of ` + "`serve`" + ` stand above the file.

SIGHUP reads the file again. Log level, the list of models to load, sources, models, endpoints,
monitors, triggers and caches change at once; what needs a new start is logged by name. A file with
errors changes nothing.

Sources, models, endpoints, monitors and triggers are resources: what the API and
` + "`millrace apply`" + `
change while the server runs stays over restarts, see [control.md](control.md).

Sizes are written ` + "`64MiB`" + `, ` + "`10MB`" + ` or in bytes, durations ` +
	"`1ms`" + `, ` + "`30s`" + `, ` + "`5m`" + `, ` + "`7d`" + `.

` + "```yaml" + `
server:
  http: 0.0.0.0:8000
  grpc: 0.0.0.0:8001
repository:
  paths: [models]
  mode: poll
models:
  - name: fraud
    batching: {max_batch_size: 64, max_queue_delay: 1ms}
` + "```" + `
`

// page returns the whole page.
func page() ([]byte, error) {
	_, here, _, _ := runtime.Caller(0)
	sources, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(here)), "*.go"))
	if err != nil {
		return nil, err
	}
	w := writer{comments: make(map[string]string)}
	for _, source := range sources {
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		w.comment(file)
	}
	w.WriteString(intro)
	defaults := config.Default()
	w.section("", reflect.ValueOf(defaults))
	return []byte(w.String()), nil
}

// comment takes the comments of a file's types, by "Type" and "Type.Field".
func (w *writer) comment(file *ast.File) {
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			t := spec.(*ast.TypeSpec)
			w.comments[t.Name.Name] = oneLine(gen.Doc)
			s, ok := t.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range s.Fields.List {
				for _, name := range f.Names {
					w.comments[t.Name.Name+"."+name.Name] = oneLine(f.Doc)
				}
			}
		}
	}
}

func oneLine(g *ast.CommentGroup) string { return strings.Join(strings.Fields(g.Text()), " ") }

type writer struct {
	strings.Builder
	comments map[string]string
}

// section writes the table of one struct and then those of the structs in it.
func (w *writer) section(key string, v reflect.Value) {
	t := v.Type()
	if key != "" {
		_, rest, _ := strings.Cut(w.comments[t.Name()], " ")
		rest = strings.TrimPrefix(strings.TrimPrefix(rest, "is "), "says ")
		fmt.Fprintf(w, "\n## %s\n\n%s%s\n", key, strings.ToUpper(rest[:1]), rest[1:])
		w.table(v)
	}
	for i := range t.NumField() {
		f := v.Field(i)
		name := t.Field(i).Tag.Get("yaml")
		if key != "" {
			name = key + "." + name
		}
		switch {
		case f.Kind() == reflect.Struct:
			w.section(name, f)
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			w.section(name+"[]", reflect.Zero(f.Type().Elem()))
		case f.Kind() == reflect.Pointer && f.Type().Elem().Kind() == reflect.Struct:
			w.section(name, reflect.Zero(f.Type().Elem()))
		}
	}
}

func (w *writer) table(v reflect.Value) {
	head := "\n| key | value | default | meaning |\n|---|---|---|---|\n"
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Type.Kind() == reflect.Struct || f.Type.Kind() == reflect.Pointer &&
			f.Type.Elem().Kind() == reflect.Struct {
			continue
		}
		fmt.Fprintf(w, "%s| `%s` | %s | %s | %s |\n", head, f.Tag.Get("yaml"),
			values(f.Type, f.Tag),
			defaultOf(v.Field(i)), w.comments[v.Type().Name()+"."+f.Name])
		head = ""
	}
}

// values says what a key takes.
func values(t reflect.Type, tag reflect.StructTag) string {
	if enum, ok := tag.Lookup("enum"); ok {
		return "`" + strings.ReplaceAll(enum, ",", "`, `") + "`"
	}
	limits := ""
	if low, ok := tag.Lookup("min"); ok {
		limits = fmt.Sprintf(", %s to %s", low, tag.Get("max"))
	}
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration" + limits
	case reflect.TypeFor[config.Size]():
		return "size" + limits
	}
	switch t.Kind() {
	case reflect.Pointer:
		return values(t.Elem(), tag)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return "list, see below"
		}
		return "list of " + values(t.Elem(), tag)
	case reflect.Map:
		return "mapping"
	case reflect.Bool:
		return "`true`, `false`"
	case reflect.String:
		return "text"
	}
	return "number" + limits
}

func defaultOf(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return "" // such keys have no value of their own
	}
	if d, ok := v.Interface().(time.Duration); ok {
		return "`" + config.FormatDuration(d) + "`"
	}
	if v.Kind() == reflect.String && v.String() == "" {
		return ""
	}
	return fmt.Sprintf("`%v`", v.Interface())
}
