package api

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// schemas are those of the bodies, by their names.
//
//go:embed schemas.json
var schemas []byte

// object is a JSON object whose keys are sorted.
type object = map[string]any

// media are the types of bodies that are not JSON, by the names of their schemas.
var media = map[string][]string{
	"Documents": {typeJSON, typeYAML},
	"Spec":      {typeJSON, typeYAML},
	"Bytes":     {typeBytes},
	"Events":    {"text/event-stream"},
}

// parameters are those of queries that are no texts.
var parameters = map[string]object{
	"dry_run":   {"type": "boolean", "description": "only say what would be"},
	"take_over": {"type": "boolean", "description": "take what the settings file has, too"},
	"from":      {"type": "integer", "minimum": 0, "description": "the revision that is known"},
	"before":    {"type": "integer", "minimum": 0, "description": "the last revision of a page"},
	"quiet":     {"type": "boolean", "description": "leave out what millrace has only found"},
	"limit":     {"type": "integer", "minimum": 1, "description": "only so many, the latest"},
	"offset":    {"type": "integer", "minimum": 0, "description": "bytes that have come"},
}

// document writes the OpenAPI 3.1 document of the routes.
func document(version string, routes []route) ([]byte, error) {
	var components object
	if err := json.Unmarshal(schemas, &components); err != nil {
		return nil, fmt.Errorf("cannot read the schemas of the API: %w", err)
	}
	paths := make(map[string]object)
	for i := range routes {
		r := &routes[i]
		at := Prefix + r.openPath()
		if paths[at] == nil {
			paths[at] = object{}
		}
		paths[at][strings.ToLower(r.method)] = operation(r)
	}
	return json.Marshal(object{
		"openapi":    "3.1.0",
		"info":       object{"title": "Millrace control API", "version": version},
		"paths":      paths,
		"components": object{"schemas": components},
	})
}

var (
	wildcard = regexp.MustCompile(`\{(\w+)\}`)
	notWord  = regexp.MustCompile(`\W+`)
)

// operation describes a route.
func operation(r *route) object {
	path := r.openPath()
	id := notWord.ReplaceAllString(strings.ToLower(r.method)+path, "_")
	op := object{
		"operationId": strings.Trim(id, "_"),
		"summary":     r.summary,
		"responses": object{
			"2XX":     object{"description": "it is done", "content": content(r.answer)},
			"default": object{"description": "it is not done", "content": content("Failure")},
		},
	}
	var list []any
	for _, m := range wildcard.FindAllStringSubmatch(path, -1) {
		list = append(list, object{"name": m[1], "in": "path", "required": true,
			"schema": object{"type": "string"}})
	}
	for _, name := range strings.Fields(r.query) {
		schema := parameters[name]
		if schema == nil {
			schema = object{"type": "string"}
		}
		list = append(list, object{"name": name, "in": "query", "schema": schema})
	}
	if r.method == "PUT" && r.body == "Spec" || r.method == "DELETE" {
		list = append(list, object{"name": "If-Match", "in": "header",
			"schema": object{"type": "string", "description": "the revision that it must have"}})
	}
	if len(list) > 0 {
		op["parameters"] = list
	}
	if r.body != "" {
		op["requestBody"] = object{"content": content(r.body), "required": r.body != "By"}
	}
	return op
}

// content is a body with a schema.
func content(schema string) object {
	types := media[schema]
	if types == nil {
		types = []string{typeJSON}
	}
	c := object{}
	for _, t := range types {
		c[t] = object{"schema": object{"$ref": "#/components/schemas/" + schema}}
	}
	return c
}
