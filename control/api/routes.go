package api

import (
	"net/http"
	"strings"
)

// route is one thing that the API does.
type route struct {
	method, path string // path as ServeMux takes it, below Prefix
	summary      string
	query        string // names of parameters, with spaces between
	body, answer string // names of schemas; "" for none
	handle       http.HandlerFunc
}

// openPath is the path as OpenAPI writes it.
func (r *route) openPath() string { return strings.ReplaceAll(r.path, "...}", "}") }

// table is all that the API does.
func (a *API) table() []route {
	const change = "dry_run take_over"
	all := []route{
		{"GET", "", "List what there is", "", "", "Index", a.index},
		{"GET", "/openapi.json", "This document", "", "", "OpenAPI", a.openAPI},
		{"POST", "/apply", "Make or change all of some resources, or none", change,
			"Documents", "Effects", a.apply},
		{"POST", "/diff", "Say what apply would change, with a unified diff of each spec",
			"take_over", "Documents", "Effects", a.diff},
		{"GET", "/watch", "Follow changes as server-sent events, whose ids are revisions",
			"from kind", "", "Events", a.watch},
		{"GET", "/audit", "Read who changed what, the latest first",
			"kind name who quiet before limit", "", "Changes", a.audit},
		{"GET", "/backup", "Copy the store and what monitors have learned, as a ZIP archive",
			"", "", "Bytes", a.backup},
		{"GET", "/endpoints/{name}/rollouts", "List the rollouts of an endpoint, the latest last",
			"limit", "", "List", a.rolloutsOf},
		{"POST", "/endpoints/{name}/rollout/{command}", "Do something with a rollout: " +
			strings.Join(Commands(), ", "), "", "By", "Sentence", a.command},
		{"POST", "/sources/{name}/sync", "Look at a source now; the answer comes when that is over",
			"", "", "Nothing", a.sync},
		{"POST", "/sources/{name}/webhook", "Take what a source sends by itself", "", "Anything",
			"Nothing", a.webhook},
		{"POST", "/models/{name}/push", "Begin an upload of a version, or go on with it", "",
			"Manifest", "Upload", a.pushBegin},
		{"PUT", "/models/{name}/push/{id}/{path...}", "Send bytes of a file from an offset on",
			"offset", "Bytes", "Received", a.pushFile},
		{"POST", "/models/{name}/push/{id}/commit", "Make a version of an upload that is whole", "",
			"", "Pushed", a.pushCommit},
		{"GET", "/triggers/{name}/runs", "List the runs of a trigger, the latest last", "limit", "",
			"List", a.runsOf},
		{"POST", "/triggers/{name}/{command}", "Do something with a trigger: " +
			strings.Join(TriggerCommands(), ", "), "", "Start", "Sentence", a.triggerCommand},
		{"GET", "/runs", "List runs of pipelines, the latest last", "trigger", "", "List",
			a.list("runs")},
		{"GET", "/runs/{name}", "Read a run", "", "", "Resource", a.get("runs")},
		{"POST", "/runs/{name}/{command}", "Do something with a run: " +
			strings.Join(RunCommands(), ", "), "", "By", "Sentence", a.runCommand},
		{"POST", "/hooks/alertmanager", "Take what Alertmanager sends", "", "Anything", "Sentence",
			a.alertHook},
		{"POST", "/hooks/git/{name}", "Take what a Git host sends for a trigger", "", "Anything",
			"Sentence", a.pushHook},
		{"GET", "/rollouts", "List rollouts, of each endpoint the latest last", "endpoint",
			"", "List", a.list("rollouts")},
		{"GET", "/rollouts/{name...}", "Read a rollout, ENDPOINT/NUMBER", "", "", "Resource",
			a.get("rollouts")},
		{"GET", "/tests", "List A/B tests and bandits, of each endpoint the latest last",
			"endpoint", "", "List", a.list("tests")},
		{"GET", "/tests/{name...}", "Read an A/B test or a bandit, ENDPOINT/NUMBER", "", "",
			"Resource", a.get("tests")},
	}
	all = append(all, a.monitorRoutes()...)
	for _, plural := range []string{"sources", "models", "endpoints", "monitors", "triggers"} {
		kind := strings.ToLower(Kind(plural))
		all = append(all,
			route{"GET", "/" + plural, "List " + plural, "", "", "List", a.list(plural)},
			route{"GET", "/" + plural + "/{name}", "Read one " + kind, "", "", "Resource",
				a.get(plural)},
			route{"PUT", "/" + plural + "/{name}", "Make or change one " + kind +
				"; If-Match or revision refuse a stale change", change, "Spec", "Effect",
				a.put(plural)},
			route{"DELETE", "/" + plural + "/{name}", "Delete one " + kind, change, "", "Effect",
				a.delete(plural)},
		)
	}
	return all
}
