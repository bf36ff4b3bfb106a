package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/incoming"
)

// oneOf wants a command to be one that there is.
func oneOf(what, command string, commands []string) error {
	if slices.Contains(commands, command) {
		return nil
	}
	return &failure{status: http.StatusNotFound, text: fmt.Sprintf("a %s knows no %q, only %s",
		what, command, strings.Join(commands, ", "))}
}

// triggerCommand does something with a trigger.
func (a *API) triggerCommand(w http.ResponseWriter, r *http.Request) {
	command := r.PathValue("command")
	body := struct {
		By string `json:"by"`
		control.Start
	}{}
	_, err := small(w, r, &body)
	if err == nil {
		err = oneOf("trigger", command, TriggerCommands())
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	body.Start.By = author(r)
	body.Start.By.Who = cmp.Or(body.By, body.Start.By.Who)
	sentence, err := a.deps.Triggers.Trigger(r.Context(), r.PathValue("name"), command, body.Start)
	a.say(w, sentence, err)
}

// runCommand does something with a run.
func (a *API) runCommand(w http.ResponseWriter, r *http.Request) {
	command, by := r.PathValue("command"), author(r)
	var body struct {
		By string `json:"by"`
	}
	_, err := small(w, r, &body)
	if err == nil {
		err = oneOf("run", command, RunCommands())
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	by.Who = cmp.Or(body.By, by.Who)
	sentence, err := a.deps.Triggers.Run(r.Context(), r.PathValue("name"), command, by)
	a.say(w, sentence, err)
}

// say answers with a sentence, or an error.
func (a *API) say(w http.ResponseWriter, sentence string, err error) {
	if err != nil {
		a.fail(w, err)
		return
	}
	answer(w, http.StatusOK, Sentence{sentence})
}

// alertHook hands over what Alertmanager sends.
func (a *API) alertHook(w http.ResponseWriter, r *http.Request) {
	a.hook(w, r, a.deps.Hooks.AlertHook)
}

// pushHook hands over what a Git host sends.
func (a *API) pushHook(w http.ResponseWriter, r *http.Request) {
	a.hook(w, r, func(ctx context.Context, h http.Header, body []byte) (string, error) {
		return a.deps.Hooks.PushHook(ctx, r.PathValue("name"), h, body)
	})
}

// hook reads a webhook. A fault of ours is 503, so that it is sent again.
func (a *API) hook(w http.ResponseWriter, r *http.Request,
	take func(context.Context, http.Header, []byte) (string, error)) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, incoming.MaxBody))
	if err != nil {
		a.fail(w, fmt.Errorf("cannot read the webhook: %w", err))
		return
	}
	sentence, err := take(r.Context(), r.Header, body)
	a.say(w, sentence, otherwise(err, http.StatusServiceUnavailable))
}

// runsOf answers the runs of a trigger.
func (a *API) runsOf(w http.ResponseWriter, r *http.Request) {
	limit, err := number(r, "limit")
	var s store.Store
	if err == nil {
		s, err = a.deps.Resources.Store()
	}
	if err == nil {
		_, err = s.Get(r.Context(), store.Key{Kind: config.KindTrigger, Name: r.PathValue("name")})
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	a.answerList(w, r, listing{kind: control.KindRun, trigger: r.PathValue("name"), limit: limit})
}

// ofTrigger leaves the runs of one trigger, or of all where it is "", in the order of their
// beginnings. A record that cannot be read comes first.
func ofTrigger(items []store.Resource, name string) []store.Resource {
	began := make(map[string]time.Time, len(items))
	items = slices.DeleteFunc(items, func(r store.Resource) bool {
		var run trigger.Run
		_ = json.Unmarshal(r.Status, &run)
		began[r.Name] = run.Began
		return name != "" && run.Trigger != name
	})
	slices.SortStableFunc(items, func(a, b store.Resource) int {
		return began[a.Name].Compare(began[b.Name])
	})
	return items
}
