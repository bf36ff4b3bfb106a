package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/syncer"
)

func newGet() *cobra.Command {
	var f adminFlags
	var watch bool
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "List resources of a running server: endpoints (ep), runs of triggers and so on",
		Args:  ofKind(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, plural, err := f.of(args[0])
			if err != nil {
				return err
			}
			g := getting{client: c, flags: &f, out: cmd.OutOrStdout(), plural: plural, watch: watch}
			if len(args) > 1 {
				g.name = args[1]
			}
			return g.run(cmd.Context())
		},
	}
	f.registerOutput(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on and show each change")
	cmd.AddCommand(newGetLoop())
	return cmd
}

// getting is one get.
type getting struct {
	client *apiclient.Client
	flags  *adminFlags
	out    io.Writer
	plural string
	name   string // "" for all
	watch  bool
}

func (g *getting) run(ctx context.Context) error {
	from, err := g.show(ctx)
	if err != nil || !g.watch {
		return err
	}
	for {
		err := g.client.Watch(ctx, from, api.Kind(g.plural), g.change)
		if !errors.Is(err, apiclient.ErrGone) {
			return err
		}
		if from, err = g.show(ctx); err != nil {
			return err
		}
	}
}

// show prints what there is, and returns the revision to watch from.
func (g *getting) show(ctx context.Context) (uint64, error) {
	var list api.List
	var err error
	if g.name == "" || g.watch { // only a list knows the revision of the store
		if list, err = g.client.List(ctx, g.plural); err != nil {
			return 0, err
		}
	}
	if g.name != "" {
		r, err := g.client.Resource(ctx, g.plural, g.name)
		if err != nil {
			return 0, err
		}
		return list.Revision, g.flags.print(g.out, r, func(w io.Writer) error {
			return printResources(w, g.plural, []store.Resource{r})
		})
	}
	return list.Revision, g.flags.print(g.out, list, func(w io.Writer) error {
		if len(list.Items) == 0 {
			_, err := fmt.Fprintf(w, "there are no %s\n", g.plural)
			return err
		}
		return printResources(w, g.plural, list.Items)
	})
}

// change prints a change.
func (g *getting) change(e store.Event) error {
	switch {
	case g.name != "" && e.Name != g.name:
		return nil
	case g.flags.output == "json" || g.flags.output == "yaml":
		return g.flags.print(g.out, e, nil)
	case e.Resource == nil:
		_, err := fmt.Fprintf(g.out, "%s is deleted\n", values.Printable(e.Name))
		return err
	}
	return printRows(g.out, g.plural, []store.Resource{*e.Resource})
}

// columns are the headers of the kinds.
var columns = map[string]string{
	"sources":   "NAME\tTYPE\tPOLL\tOWNER\tSTATE",
	"models":    "NAME\tSOURCE\tALIASES\tVERSIONS\tOWNER\tSTATE",
	"endpoints": "NAME\tMODEL\tSTABLE\tCANARY\tROLLOUT\tOWNER\tSTATE",
	"monitors":  "NAME\tENDPOINT\tVERSION\tSTATE\tSINCE\tEVIDENCE\tALARMS\tOWNER\tREASON",
	"alarms":    "NAME\tENDPOINT\tVERSION\tAGE\tSTATE\tREASON",
	"rollouts":  "NAME\tVERSION\tBESIDE\tSTATE\tWEIGHT\tREQUESTS\tAGE",
	"tests":     "NAME\tSTATE\tAGE\tFOUND",
	"triggers":  "NAME\tON\tSTARTS\tOWNER\tSTATE",
	"runs":      "NAME\tTRIGGER\tSTATE\tAGE\tTOOK\tREASON",
}

// printResources writes a table.
func printResources(w io.Writer, plural string, list []store.Resource) error {
	t := table(w)
	fmt.Fprintln(t, columns[plural])
	return errors.Join(printRows(t, plural, list), t.Flush())
}

// printRows writes a line for each resource.
func printRows(w io.Writer, plural string, list []store.Resource) error {
	row := map[string]func(store.Resource) ([]string, error){"sources": sourceRow,
		"models": modelRow, "endpoints": endpointRow, "rollouts": rolloutRow, "tests": testRow,
		"triggers": triggerRow,
		"runs":     runRow,
		"monitors": monitorRow, "alarms": alarmRow}[plural]
	for _, r := range list {
		cells, err := row(r)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", r.Key, err)
		}
		for i := range cells {
			cells[i] = cmp.Or(values.Printable(cells[i]), "-")
		}
		if _, err := fmt.Fprintln(w, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return nil
}

// decode reads the status of a resource, which may not be there yet.
func decode[T any](status json.RawMessage) (v T, err error) {
	if len(status) > 0 {
		err = json.Unmarshal(status, &v)
	}
	return v, err
}

func sourceRow(r store.Resource) ([]string, error) {
	spec, err := config.Decode[config.Source](r.Spec)
	if err != nil {
		return nil, err
	}
	status, err := decode[control.SourceStatus](r.Status)
	poll := ""
	if !spec.Push {
		poll = spec.PollInterval().String()
	}
	return []string{r.Name, sourceType(&spec), poll, r.Owner, cmp.Or(status.Error, "ok")}, err
}

func sourceType(s *config.Source) string {
	for name, is := range map[string]bool{"mlflow": s.MLflow != nil, "folder": s.Folder != nil,
		"git": s.Git != nil, "blob": s.Blob != nil, "oci": s.OCI != nil, "https": s.HTTPS != nil,
		"push": s.Push} {
		if is {
			return name
		}
	}
	return ""
}

func modelRow(r store.Resource) ([]string, error) {
	spec, err := config.Decode[config.Model](r.Spec)
	if err != nil {
		return nil, err
	}
	status, err := decode[syncer.Status](r.Status)
	aliases := status.Aliases
	if spec.Source == "" {
		aliases = spec.Aliases
	}
	var named, states []string
	for _, a := range slices.Sorted(maps.Keys(aliases)) {
		named = append(named, a+"="+aliases[a])
	}
	for _, v := range status.Versions {
		states = append(states, fmt.Sprintf("%s %s", v.Name, strings.ToLower(string(v.State))))
	}
	return []string{r.Name, spec.Source, strings.Join(named, ", "), shortList(states), r.Owner,
		cmp.Or(status.Error, "ok")}, err
}

// shownVersions is how many versions a table shows of a model; describe shows all.
const shownVersions = 3

func shortList(list []string) string {
	if extra := len(list) - shownVersions; extra > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:shownVersions], ", "), extra)
	}
	return strings.Join(list, ", ")
}

func endpointRow(r store.Resource) ([]string, error) {
	spec, err := config.Decode[config.Endpoint](r.Spec)
	if err != nil {
		return nil, err
	}
	status, err := decode[control.EndpointStatus](r.Status)
	stable, canary := cmp.Or(spec.Stable, "latest"), ""
	if status.Promoted != nil {
		stable = status.Promoted.Version + " (promoted)"
	}
	switch k := spec.Canary; {
	case k != nil && k.Watch != "":
		canary = "watches " + k.Watch
	case k != nil:
		canary = fmt.Sprintf("%s, %v %%", k.Version, k.Weight)
	}
	return []string{r.Name, cmp.Or(spec.Model, r.Name), stable, canary, status.Rollout, r.Owner,
		cmp.Or(status.Waiting, "ok")}, err
}

func testRow(r store.Resource) ([]string, error) {
	status, err := decode[control.Test](r.Status)
	if err != nil {
		return nil, err
	}
	state := "running"
	if !status.Ended.IsZero() {
		state = "ended"
	}
	return []string{r.Name, state, age(time.Since(status.Began)), status.Sentence()}, nil
}

func rolloutRow(r store.Resource) ([]string, error) {
	status, err := decode[control.RolloutStatus](r.Status)
	s := &status.State
	state := string(cmp.Or(string(s.Verdict), string(s.Phase)))
	if s.Paused && s.Verdict == "" {
		state = "paused"
	}
	canary, _ := s.Seen.Counts.Arms()
	return []string{r.Name, s.Canary.Version, s.Stable.Version, state,
		fmt.Sprintf("%v %%", s.Weight()), fmt.Sprint(canary.Requests),
		age(time.Since(s.Began))}, err
}
