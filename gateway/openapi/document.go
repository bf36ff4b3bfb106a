// Package openapi describes the running server: [Document] writes its OpenAPI
// document, with a typed path for everything that a client may call and for each
// protocol an example that the model takes, and [Page] is a page for the browser
// that reads the document and sends requests by it.
//
// A [Service] is an endpoint or a model under the name that clients call. The
// package keeps no state and answers nothing itself; all of it may be used
// concurrently.
package openapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Info says what server the document is of.
type Info struct {
	Title   string
	Version string
	// ServerURL is where clients reach the server. Empty for the address that the
	// document came from.
	ServerURL string
}

// The kinds of a [Service].
const (
	KindEndpoint = "endpoint"
	KindModel    = "model"
)

// Service is something that answers predictions.
type Service struct {
	Name        string // what clients call
	Kind        string // KindEndpoint or KindModel
	Version     string // that answers when none is asked for
	Description string
	Signature   *tensor.Signature
	// Example holds a value for some or all features of a row, by the name of the
	// input or of its column: numbers, booleans, strings, or slices of type []any.
	// Values that do not fit the model are not shown; made-up ones are.
	Example map[string]any
}

// object is a JSON object whose keys are sorted.
type object = map[string]any

// Document returns the OpenAPI 3.1 document of a server with these services, as
// JSON. It depends on nothing but the arguments, and not on the order of the
// services. An endpoint hides a model of the same name, as it does for requests.
func Document(info Info, services []Service) ([]byte, error) {
	shown, err := visible(services)
	if err != nil {
		return nil, err
	}
	b := builder{paths: make(map[string]object)}
	b.server()
	list, tags := make([]any, 0, len(shown)), []any{object{"name": tagServer}}
	for i := range shown {
		s := newService(&shown[i])
		list = append(list, b.service(s))
		tags = append(tags, object{"name": s.tag(), "description": s.Description})
	}
	doc := object{
		"openapi":             "3.1.0",
		"info":                object{"title": info.Title, "version": info.Version},
		"tags":                tags,
		"paths":               b.paths,
		"components":          components(),
		"x-millrace-services": list,
	}
	if info.ServerURL != "" {
		doc["servers"] = []any{object{"url": strings.TrimSuffix(info.ServerURL, "/")}}
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("cannot write the OpenAPI document: %w", err)
	}
	return text, nil
}

// visible returns the services that can be called by their names, in their order.
func visible(services []Service) ([]Service, error) {
	sorted := slices.Clone(services)
	slices.SortStableFunc(sorted, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	var shown []Service
	for i, s := range sorted {
		switch {
		case s.Name == "":
			return nil, fmt.Errorf("cannot describe a service without a name")
		case s.Kind != KindEndpoint && s.Kind != KindModel:
			return nil, fmt.Errorf("cannot describe %q: its kind is %q; %q and %q are allowed",
				s.Name, s.Kind, KindEndpoint, KindModel)
		case s.Signature == nil:
			return nil, fmt.Errorf("cannot describe %s %q: it has no signature", s.Kind, s.Name)
		case i > 0 && sorted[i-1].Name == s.Name && sorted[i-1].Kind == s.Kind:
			return nil, fmt.Errorf("cannot describe two services of kind %s and name %q", s.Kind,
				s.Name)
		case i > 0 && sorted[i-1].Name == s.Name:
			continue
		}
		shown = append(shown, s)
	}
	return shown, nil
}

// builder gathers the paths.
type builder struct {
	paths map[string]object
}

// add adds an operation, unless the path has it already: what the server itself
// answers hides a service of that name.
func (b *builder) add(method, path string, o operation) {
	if b.paths[path] == nil {
		b.paths[path] = object{}
	}
	if _, taken := b.paths[path][method]; !taken {
		b.paths[path][method] = o.object(method, path)
	}
}

// operation is one method of one path.
type operation struct {
	summary, description, tag string
	parameters                []string // names in the path
	request                   object   // by content type, nil for no body
	optional                  bool     // the body may be left out
	answer                    object   // schema, nil for an answer without a body
	text                      bool     // the answer is text
	headers                   []string // of a good answer
	errors                    *errorForm
	failures                  []int // statuses
}

func (o *operation) object(method, path string) object {
	op := object{
		"operationId": method + " " + path, "summary": o.summary, "tags": []any{o.tag},
		"responses": o.responses(),
	}
	if o.description != "" {
		op["description"] = o.description
	}
	var parameters []any
	for _, name := range o.parameters {
		parameters = append(parameters, object{"name": name, "in": "path", "required": true,
			"schema": object{"type": "string"}})
	}
	if parameters != nil {
		op["parameters"] = parameters
	}
	if o.request != nil {
		op["requestBody"] = object{"required": !o.optional, "content": o.request}
	}
	return op
}

func (o *operation) responses() object {
	good := object{"description": "It worked."}
	switch {
	case o.text:
		good["content"] = object{"text/plain": object{"schema": object{"type": "string"}}}
	case o.answer != nil:
		good["content"] = object{contentJSON: object{"schema": o.answer}}
	}
	if o.headers != nil {
		headers := object{}
		for _, name := range o.headers {
			headers[name] = reference("headers", name)
		}
		good["headers"] = headers
	}
	all := object{"200": good}
	for _, status := range o.failures {
		all[fmt.Sprint(status)] = reference("responses", o.errors.name(status))
	}
	return all
}

const contentJSON = "application/json"

func reference(kind, name string) object {
	return object{"$ref": "#/components/" + kind + "/" + name}
}
