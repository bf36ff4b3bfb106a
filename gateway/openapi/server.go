package openapi

import (
	"fmt"
	"net/http"
)

// tagServer is the tag of what is not about one service. The tags of services
// have a space.
const tagServer = "server"

// Headers of answers; components describes them.
const (
	headerVersion   = "x-millrace-version"
	headerRoute     = "x-millrace-route"
	headerRequestID = "x-request-id"
	headerCache     = "x-millrace-cache"
	headerScore     = "x-millrace-outlier-score"
	headerOutlier   = "x-millrace-outlier"
	headerRetry     = "Retry-After"
)

// errorForm is the form that a protocol gives its errors.
type errorForm struct {
	prefix string // of the names of its responses
	schema string // of their bodies
}

var (
	plainErrors  = &errorForm{"Error", "Error"}
	mlflowErrors = &errorForm{"MLflowError", "MLflowError"}
	readyErrors  = &errorForm{"NotReady", "Ready"} // of the server's readiness alone
)

// name returns the name of the response with that status.
func (f *errorForm) name(status int) string { return fmt.Sprint(f.prefix, status) }

// failures are the statuses that an inference may be answered with beside 200.
var failures = []struct {
	status int
	text   string
}{
	{http.StatusBadRequest, "The request is wrong: type, shape, a name or broken JSON."},
	{http.StatusNotFound, "There is no model or endpoint of that name, or no such version."},
	{http.StatusRequestEntityTooLarge, "The body is too large, as it is or unpacked."},
	{http.StatusUnprocessableEntity, "The model itself failed on these values."},
	{http.StatusTooManyRequests, "Too much is in flight or waiting. Try again later."},
	{http.StatusNotImplemented, "The server cannot do this, or is not set up for it."},
	{http.StatusServiceUnavailable, "The model is not ready, or the server is shutting down."},
	{http.StatusGatewayTimeout, "The request's time was over before its turn came."},
}

func inferFailures() []int {
	var all []int
	for _, f := range failures {
		all = append(all, f.status)
	}
	return all
}

// components are the parts that several paths refer to.
func components() object {
	text := object{"type": "string"}
	responses := object{}
	for _, f := range failures {
		for _, form := range []*errorForm{plainErrors, mlflowErrors, readyErrors} {
			if form == readyErrors && f.status != http.StatusServiceUnavailable {
				continue
			}
			response := object{"description": f.text, "content": object{
				contentJSON: object{"schema": reference("schemas", form.schema)}}}
			if f.status == http.StatusTooManyRequests {
				response["headers"] = object{headerRetry: reference("headers", headerRetry)}
			}
			responses[form.name(f.status)] = response
		}
	}
	header := func(description string, schema object) object {
		return object{"description": description, "schema": schema}
	}
	return object{
		"headers": object{
			headerVersion: header("The version of the model that answered.", text),
			headerRoute: header("The arm of the endpoint that the request went to, "+
				"or pinned where it insisted on a version.", text),
			headerCache: header("Whether the answer came from the cache, where there is one.",
				object{"type": "string", "enum": []any{"hit", "miss", "shared"}}),
			headerScore: header("How unusual the rows are: the greatest score of theirs, where a "+
				"monitor has outlier_score.", object{"type": "number"}),
			headerOutlier: header("Whether a row is an outlier, beside the score.",
				object{"type": "boolean"}),
			headerRequestID: header("The id of the request, which feedback names.", text),
			headerRetry: header("Seconds to wait before another try.",
				object{"type": "integer"}),
		},
		"responses": responses,
		"schemas": object{
			"Error": record(object{"error": text}, "error"),
			"MLflowError": record(object{"error_code": text, "message": text},
				"error_code", "message"),
			"Parameters": object{"type": "object", "additionalProperties": object{
				"type": []any{"string", "number", "boolean"}}},
			"Ready": record(object{"ready": object{"type": "boolean"}}, "ready"),
			"Tensor": record(object{"name": text, "datatype": text, "shape": object{
				"type": "array", "items": object{"type": "integer", "minimum": -1}}},
				"name", "datatype", "shape"),
		},
	}
}

// server adds the paths that are not about one service.
func (b *builder) server() {
	text, flag := object{"type": "string"}, object{"type": "boolean"}
	strings := object{"type": "array", "items": text}
	free := object{"type": "object"}
	get := func(path, summary string, answer object, failures ...int) {
		b.add("get", path, operation{summary: summary, tag: tagServer, answer: answer,
			errors: plainErrors, failures: failures})
	}
	get("/v2", "Name, version and extensions of the server",
		record(object{"name": text, "version": text, "extensions": strings}, "name", "version"))
	get("/v2/health/live", "Does the process answer?", record(object{"live": flag}, "live"))
	b.add("get", "/v2/health/ready", operation{summary: "Are requests welcome?",
		tag: tagServer, answer: reference("schemas", "Ready"), errors: readyErrors,
		failures: []int{http.StatusServiceUnavailable}})
	get("/v2/models/stats", "Statistics of all models", record(object{
		"model_stats": object{"type": "array", "items": free}}, "model_stats"))
	get("/v1/models", "Names that clients may call", record(object{"models": strings}, "models"))
	get("/v2/logging", "Log settings", free)
	b.add("post", "/v2/logging", operation{summary: "Change log settings", tag: tagServer,
		request: body(free, fields{{"log_verbose_level", 0}}), answer: free,
		errors: plainErrors, failures: []int{http.StatusBadRequest}})
	b.add("get", "/ping", operation{summary: "Can predictions be had? (MLflow)", tag: tagServer,
		text: true, errors: mlflowErrors,
		failures: []int{http.StatusNotFound, http.StatusServiceUnavailable}})
	b.add("get", "/version", operation{summary: "Version of the server (MLflow)",
		tag: tagServer, text: true})
	b.repository()
	b.feedback()
}

// repository adds the repository extension.
func (b *builder) repository() {
	text := object{"type": "string"}
	index := object{"type": "array", "items": record(object{
		"name": text, "version": text, "state": text, "reason": text}, "name")}
	b.add("post", "/v2/repository/index", operation{
		summary: "All models with state and reason", tag: tagServer, optional: true,
		request: body(record(object{"ready": object{"type": "boolean"}}), fields{}),
		answer:  index, errors: plainErrors, failures: []int{http.StatusBadRequest}})
	b.add("get", "/v2/repository/index", operation{summary: "All models with state and reason",
		tag: tagServer, answer: index, errors: plainErrors})
	parameters := body(record(object{"parameters": object{"type": "object"}}), fields{})
	for _, verb := range []string{"load", "unload"} {
		b.add("post", "/v2/repository/models/{model}/"+verb, operation{
			summary: verb + " a model, where the server's settings allow it", tag: tagServer,
			parameters: []string{"model"}, optional: true, request: parameters,
			errors: plainErrors, failures: []int{http.StatusBadRequest, http.StatusNotFound}})
	}
}

// feedback adds what takes rewards.
func (b *builder) feedback() {
	text := object{"type": "string"}
	schema := record(object{
		"id":     object{"type": "string", "description": "x-request-id of the answer"},
		"reward": object{"type": "number", "minimum": 0, "maximum": 1},
		"label":  object{"description": "the true answer, in any form"},
	}, "id")
	b.add("post", "/v2/feedback", operation{
		summary: "Tell how good an endpoint's answer was", tag: tagServer,
		request: body(schema, fields{{"id", "x-request-id of an answer"}, {"reward", 1}}),
		answer: record(object{"id": text, "result": text, "endpoint": text, "route": text,
			"version": text}, "id", "result"),
		errors: plainErrors, failures: []int{http.StatusBadRequest, http.StatusNotFound,
			http.StatusRequestEntityTooLarge}})
}

// body is a JSON body of a request by content type. A nil example is left out.
func body(schema object, example any) object {
	media := object{"schema": schema}
	if example != nil {
		media["example"] = example
	}
	return object{contentJSON: media}
}

// answerHeaders are the headers that answers of a kind of service have.
func answerHeaders(kind string) []string {
	if kind == KindModel {
		return []string{headerVersion}
	}
	return []string{headerVersion, headerRoute, headerRequestID, headerCache, headerScore,
		headerOutlier}
}
