package control

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/pipeline"
)

// commandDir is the folder, in that of the server's data, of runs of local commands.
const commandDir = "commands"

// triggerAuthor is who makes the changes that follow from events and from what pipelines say.
var triggerAuthor = store.Author{Who: "trigger", From: store.Self}

// driver takes a run that has not ended to its end.
type driver struct {
	run  trigger.Run   // ahead of its record by no more than Due and Faults. Guarded by Plane.mu.
	news chan struct{} // has room for one: the record has changed
}

// opened is a pipeline that is ready for the runs of a trigger.
type opened struct {
	spec      config.Trigger
	guarantee trigger.Guarantee
	trigger.Pipeline
	close func()
}

// pipelineOf returns the pipeline of a trigger as its spec is now. One that cannot be opened is a
// pipeline that says so to whoever calls it. Callers hold mu.
func (p *Plane) pipelineOf(name string) *opened {
	t := p.view.triggers[name]
	if t == nil {
		return &opened{Pipeline: broken{errors.New("the trigger is gone")}}
	}
	if o := p.pipelines[name]; o != nil && reflect.DeepEqual(o.spec, t.spec) {
		return o
	}
	p.closePipeline(name)
	o := &opened{spec: t.spec, close: func() {}}
	dir, err := filepath.Abs(filepath.Join(p.cfg.Data, commandDir))
	var to *pipeline.Pipeline
	if err == nil {
		to, err = pipeline.Open(t.spec.Pipeline(dir))
	}
	p.complain("a pipeline cannot be opened; its runs wait", err, "trigger", name)
	if err != nil {
		o.guarantee, o.Pipeline = trigger.Blind, broken{err} // what it is to be is not known
		return o
	}
	o.guarantee, o.Pipeline, o.close = to.Guarantee, to, to.Close
	p.pipelines[name] = o
	return o
}

// closePipeline lets go of what waits for more calls; calls under way come to their end.
func (p *Plane) closePipeline(name string) {
	if o := p.pipelines[name]; o != nil {
		o.close()
		delete(p.pipelines, name)
	}
}

// broken is a pipeline that cannot be called.
type broken struct{ why error }

func (b broken) fault() error { return &trigger.Fault{Text: b.why.Error()} }

// Start says why it cannot.
func (b broken) Start(context.Context, trigger.Run) (trigger.Status, error) {
	return trigger.Status{}, b.fault()
}

// Status says why it cannot.
func (b broken) Status(context.Context, trigger.Run) (trigger.Status, error) {
	return trigger.Status{}, b.fault()
}

// Cancel says why it cannot.
func (b broken) Cancel(context.Context, string) error { return b.fault() }

// current returns a run as it is now. Callers hold mu.
func (p *Plane) current(id string) trigger.Run {
	if d := p.drivers[id]; d != nil {
		return d.run
	}
	return p.view.starts[id].status
}

// drive takes a run on whose record has changed, to its end if it has not ended. Callers hold mu.
func (p *Plane) drive(id string) {
	run := p.view.starts[id].status
	if d := p.drivers[id]; d != nil {
		d.run = run
		select {
		case d.news <- struct{}{}:
		default:
		}
	} else if !run.State.Done() {
		d := &driver{run: run, news: make(chan struct{}, 1)}
		p.drivers[id] = d
		what := "a run begins"
		if run.Calls > 0 {
			what = "a run goes on"
		}
		p.log.Info(what, "trigger", run.Trigger, "run", run.Name(), "reason", run.Reason)
		if !p.cfg.manual {
			p.spawn(func() { p.driveRun(id, d) })
		}
	}
	if !run.State.Done() {
		return
	}
	p.ends[ending{run.Trigger, run.State}]++
	if run.State == trigger.Suppressed {
		p.log.Info("a run does not begin", "trigger", run.Trigger, "event", run.Event, "why",
			run.Error)
		return
	}
	delete(p.drivers, id)
	p.log.Info("a run has ended", "trigger", run.Trigger, "run", run.Name(), "state",
		string(run.State), "error", run.Error, "link", run.Link)
}

// abandon lets go of a run whose record has left. Callers hold mu.
func (p *Plane) abandon(id string) {
	if d := p.drivers[id]; d != nil {
		delete(p.drivers, id)
		select {
		case d.news <- struct{}{}:
		default:
		}
	}
}

// ending is how a run of a trigger has ended.
type ending struct {
	trigger string
	state   trigger.State
}

// driveAll takes all runs on that have not ended.
func (p *Plane) driveAll() {
	for id, it := range p.view.starts {
		if !it.status.State.Done() {
			p.drive(id)
		}
	}
}

// driveRun turns a run until it has ended or the plane closes.
func (p *Plane) driveRun(id string, d *driver) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-d.news:
		case <-timer.C:
		}
		next, more := p.turn(id, d, time.Now())
		if !more {
			return
		}
		timer.Reset(time.Until(next))
	}
}

// tryAgain is how long what could not be stored, or has to wait for others, rests.
const tryAgain = time.Second

// turn does what is to be done for a run now. It returns when there is more to do, if there is.
func (p *Plane) turn(id string, d *driver, now time.Time) (next time.Time, more bool) {
	began := time.Now()
	run, action, to := p.before(id, d, now)
	if to == nil {
		return run.Due, !run.State.Done()
	}
	ctx, cancel := p.untilSettled(action)
	defer cancel()
	p.step("call")
	o := trigger.Act(ctx, to, run, action)
	p.step("called")
	o.Jitter = rand.Float64()
	for {
		run, err := p.after(id, d, o, now.Add(time.Since(began)))
		if err == nil {
			return run.Due, !run.State.Done()
		}
		select {
		case <-p.ctx.Done(): // what came of it is found out again
			return time.Time{}, false
		case <-time.After(tryAgain):
		}
	}
}

// before stores that something is about to be done for a run, and returns at what pipeline; nil
// where there is nothing to do.
func (p *Plane) before(id string, d *driver, now time.Time) (
	trigger.Run, trigger.Action, trigger.Pipeline) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drivers[id] != d {
		d.run.State = trigger.Cancelled // its trigger is gone
		return d.run, trigger.Wait, nil
	}
	run, action := d.run.Turn(now)
	wait := func() (trigger.Run, trigger.Action, trigger.Pipeline) {
		run := d.run
		run.Due = now.Add(tryAgain)
		return run, trigger.Wait, nil
	}
	if action == trigger.Start && d.run.State == trigger.Pending && p.busy() >= p.maxRuns() {
		return wait()
	}
	err := p.keepRun(d, run)
	p.complain("a run cannot go on, since it cannot be stored; it is tried again", err, "run", id)
	switch {
	case err != nil:
		return wait()
	case action == trigger.Wait:
		return run, action, nil
	}
	return run, action, p.pipelineOf(run.Trigger)
}

// after stores what came of it.
func (p *Plane) after(id string, d *driver, o trigger.Observation, now time.Time) (
	trigger.Run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drivers[id] != d {
		d.run.State = trigger.Cancelled // its trigger is gone
		return d.run, nil
	}
	run := d.run.Next(o, now)
	err := p.keepRun(d, run)
	p.complain("what a pipeline says cannot be stored; that is tried again", err, "run", id)
	return run, err
}

// keepRun stores a run, unless it has only got another time to look: each change takes room from
// the audit log, and after a crash it is looked at anyway.
func (p *Plane) keepRun(d *driver, run trigger.Run) error {
	same := run
	same.Due, same.Faults = d.run.Due, d.run.Faults
	if reflect.DeepEqual(same, d.run) {
		d.run = run
		return nil
	}
	// What is known of a start is to be kept also while the server ends.
	return p.commit(context.WithoutCancel(p.ctx), store.Txn{By: triggerAuthor,
		Put: []store.Resource{p.runRecord(run)}})
}

// busy counts the runs of all triggers that may be under way elsewhere.
func (p *Plane) busy() (n int) {
	for _, d := range p.drivers {
		if d.run.State == trigger.Starting || d.run.State == trigger.Running {
			n++
		}
	}
	return n
}

// maxRuns is how many there may be.
func (p *Plane) maxRuns() int {
	if p.file == nil {
		return config.Default().Server.Pipelines.MaxRuns
	}
	return p.file.Server.Pipelines.MaxRuns
}

// settleTime is how long a start may go on when the server ends: one that is broken off has
// perhaps started something.
const settleTime = 5 * time.Second

// untilSettled is a context for a call.
func (p *Plane) untilSettled(a trigger.Action) (context.Context, context.CancelFunc) {
	if a != trigger.Start {
		return context.WithCancel(p.ctx)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.ctx))
	stop := context.AfterFunc(p.ctx, func() {
		timer := time.AfterFunc(settleTime, cancel)
		context.AfterFunc(ctx, func() { timer.Stop() })
	})
	return ctx, func() { stop(); cancel() }
}

// closePipelines lets go of all pipelines whose trigger has changed or left.
func (p *Plane) closePipelines() {
	for name, o := range p.pipelines {
		if t := p.view.triggers[name]; t == nil || !reflect.DeepEqual(o.spec, t.spec) {
			p.closePipeline(name)
		}
	}
}

// keepRuns and keepSuppressed are how many records a trigger keeps of runs that have ended before
// this day, and of those that were never to start.
const keepRuns, keepSuppressed = 50, 20

// outdatedStarts lists the records of a trigger's runs that make room.
func outdatedStarts(history []trigger.Run, now time.Time) []store.Key {
	if len(history) <= keepSuppressed {
		return nil
	}
	history = slices.Clone(history)
	slices.SortFunc(history, func(a, b trigger.Run) int { return b.Began.Compare(a.Began) })
	var keys []store.Key
	suppressed, ended := 0, 0
	for i := range history {
		r := &history[i]
		switch {
		case !r.State.Done():
			continue
		case r.State == trigger.Suppressed:
			if suppressed++; suppressed <= keepSuppressed {
				continue
			}
		default:
			if ended++; ended <= keepRuns || now.Sub(r.Began) < 25*time.Hour {
				continue
			}
		}
		keys = append(keys, store.Key{Kind: KindRun, Name: r.ID})
	}
	return keys
}

// tidyCommands removes what commands have left of runs that are not on record any more.
func (p *Plane) tidyCommands() error {
	return pipeline.Tidy(filepath.Join(p.cfg.Data, commandDir), func(name string) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.view.starts[name] != nil {
			return true
		}
		i := strings.LastIndexByte(name, '-') // a later attempt
		return i > 0 && p.view.starts[name[:i]] != nil
	})
}
