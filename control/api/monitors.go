package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/control"
)

// monitorRoutes are those of monitors and alarms, beside what all kinds have.
func (a *API) monitorRoutes() []route {
	return []route{
		{"POST", "/monitors/{name}/{command}", "Do something with a monitor: " +
			strings.Join(MonitorCommands(), ", "), "", "By", "Sentence", a.monitorCommand},
		{"POST", "/monitors/{name}/windows", "Have a monitor judge what a replica has counted, " +
			"once for each sequence number; 409 says that it is of another version or settings",
			"", "Window", "Nothing", a.monitorWindow},
		{"GET", "/alarms", "List alarms, of each monitor the latest last", "", "", "List",
			a.list("alarms")},
		{"GET", "/alarms/{name...}", "Read an alarm, MONITOR/NUMBER", "", "", "Resource",
			a.get("alarms")},
	}
}

// maxWindow bounds what a replica has counted: some megabytes are a thousand features in ten
// segments.
const maxWindow = 32 << 20 // bytes

// monitorWindow takes what a replica has counted.
func (a *API) monitorWindow(w http.ResponseWriter, r *http.Request) {
	var window control.ReplicaWindow
	body, err := bounded(http.MaxBytesReader(w, r.Body, maxWindow), r, &window)
	if err == nil && len(body) == 0 {
		err = bad("there is no body")
	}
	if err == nil {
		err = a.deps.Monitors.AddWindow(r.PathValue("name"), &window)
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// monitorCommand does something with a monitor.
func (a *API) monitorCommand(w http.ResponseWriter, r *http.Request) {
	command, by := r.PathValue("command"), author(r)
	var body struct {
		By string `json:"by"`
	}
	_, err := small(w, r, &body)
	if err == nil && !slices.Contains(MonitorCommands(), command) {
		err = &failure{status: http.StatusNotFound, text: fmt.Sprintf(
			"a monitor knows no %q, only %s", command, strings.Join(MonitorCommands(), ", "))}
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	if body.By != "" {
		by.Who = body.By
	}
	sentence, err := a.deps.Monitors.Monitor(r.Context(), r.PathValue("name"), command, by)
	if err != nil {
		a.fail(w, err)
		return
	}
	answer(w, http.StatusOK, Sentence{sentence})
}
