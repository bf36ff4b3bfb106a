package experiment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/millrace-ml/millrace/registry/fetch"
	"github.com/millrace-ml/millrace/registry/mlflow"
)

// Run sends records to MLflow until ctx is done, in the order in which they came. While
// MLflow cannot be reached it waits, longer each time. What MLflow does not take is set
// aside with its reason, and what MLflow fails on goes behind the others.
func (o *Outbox) Run(ctx context.Context, client *mlflow.Client) {
	for failures := 0; ctx.Err() == nil; {
		id, version, ok := o.next()
		if !ok {
			select {
			case <-o.wake:
			case <-ctx.Done():
			}
			continue
		}
		err := o.send(ctx, client, id, version)
		if err == nil {
			if failures > 0 {
				o.cfg.Logger.Info("records can be sent to MLflow again")
			}
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if judge(err) == refused && o.setAside(id, version, err) == nil {
			o.cfg.Logger.Warn("MLflow does not take a record", "id", id, "reason", err)
			continue
		}
		if judge(err) == stuck {
			err = errors.Join(err, o.postpone(id))
		}
		if failures++; failures == 1 {
			o.cfg.Logger.Warn("cannot send a record to MLflow", "id", id, "reason", err)
		}
		wait(ctx, o.pause(failures, rand.Float64()))
	}
}

// pause returns how long to wait after so many failures in a row: between half and all
// of backoff * 2^(failures-1), as random says.
func (o *Outbox) pause(failures int, random float64) time.Duration {
	most := o.cfg.Backoff
	for i := 1; i < failures && most < o.cfg.MaxBackoff; i++ {
		most *= 2
	}
	most = min(most, o.cfg.MaxBackoff)
	return most/2 + time.Duration(random*float64(most/2))
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// fate is what an error means for a record.
type fate int

const (
	away    fate = iota // no record can be sent now
	stuck               // this one cannot, and perhaps later
	refused             // this one never can
)

// judge looks at why a record could not be sent.
func judge(err error) fate {
	fault, answered := errors.AsType[*mlflow.Error](err)
	_, network := errors.AsType[net.Error](err)
	_, fetched := errors.AsType[*fetch.Error](err)
	switch {
	case errors.Is(err, mlflow.ErrLimit), errors.Is(err, mlflow.ErrURI):
		return refused
	case network, fetched:
		return away
	case !answered:
		return stuck
	case errors.Is(err, mlflow.ErrDenied), errors.Is(err, mlflow.ErrForeign),
		errors.Is(err, mlflow.ErrTruncated):
		return away
	case fault.Status == http.StatusInternalServerError:
		return stuck
	case errors.Is(err, mlflow.ErrUnavailable):
		return away
	}
	return refused
}

// next returns the record that is to be sent next, and its version.
func (o *Outbox) next() (id string, version uint64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var first *item
	for i, it := range o.items {
		if !it.sent && !it.refused && (first == nil || it.seq < first.seq) {
			id, first = i, it
		}
	}
	if first == nil {
		return "", 0, false
	}
	return id, first.version, true
}

// setAside notes why MLflow does not take a version of a record.
func (o *Outbox) setAside(id string, version uint64, reason error) error {
	return o.update(id, func(e *entry, now uint64) {
		if now == version {
			e.Refused = reason.Error()
		}
	})
}

// postpone puts a record behind all others.
func (o *Outbox) postpone(id string) error {
	return o.update(id, func(e *entry, _ uint64) { e.Seq = o.seq + 1 })
}

// update changes a record's file, if the record is still there. f is called under mu
// with what it holds and the record's version.
func (o *Outbox) update(id string, f func(e *entry, version uint64)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	it := o.items[id]
	if it == nil {
		return nil
	}
	e, _, err := o.read(fileName(id))
	if err != nil {
		return err
	}
	f(&e, it.version)
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return o.write(e, text)
}

// delivery is a version of a record on its way.
type delivery struct {
	o      *Outbox
	client *mlflow.Client
	record Record
	have   progress // as on disk
}

// send sends what MLflow has not of a record.
func (o *Outbox) send(ctx context.Context, client *mlflow.Client, id string, version uint64) error {
	o.mu.Lock()
	e, _, err := o.read(fileName(id))
	o.mu.Unlock()
	if errors.Is(err, fs.ErrNotExist) { // it had to make room
		return nil
	}
	d := &delivery{o, client, e.Record, e.Progress}
	for _, step := range []func(context.Context) error{d.run, d.params, d.points, d.files, d.end} {
		if err == nil {
			err = step(ctx)
		}
	}
	if err != nil {
		return err
	}
	return o.update(id, func(e *entry, now uint64) {
		e.Sent = now == version
		o.sent++
	})
}

// save notes what MLflow has got. The record's file may hold a later version by now.
func (d *delivery) save(p progress) error {
	d.have = p
	return d.o.update(d.record.ID, func(e *entry, _ uint64) { e.Progress = p })
}

// settle is how long MLflow may still be at work on a call that was cut off, by our end
// or by a timeout. Before that a run that was asked for may not be found yet.
const settle = 2 * time.Second

// run finds the run, or begins one. That it asks for one is on disk before it does.
func (d *delivery) run(ctx context.Context) error {
	if d.have.RunID != "" {
		return nil
	}
	if asked := d.have.Asked; !asked.IsZero() {
		wait(ctx, min(settle, settle-time.Since(asked)))
	}
	p := d.have.clone()
	experiment, err := d.client.Experiment(ctx, d.record.Experiment)
	if err != nil {
		return err
	}
	run, err := d.client.FindRun(ctx, experiment, TagID, d.record.ID)
	if errors.Is(err, mlflow.ErrNotFound) {
		p.Asked = time.Now()
		if err := d.save(p); err != nil {
			return err
		}
		run, err = d.client.CreateRun(ctx, mlflow.NewRun{ExperimentID: experiment,
			Name: d.record.Name, Start: d.record.Start, Tags: mlflow.Tags{TagID: d.record.ID}})
	}
	if err != nil {
		return err
	}
	p.RunID, p.Root = run.ID, run.ArtifactURI
	return d.save(p)
}

// params logs new params, and all tags.
func (d *delivery) params(ctx context.Context) error {
	params, p := d.record.params(d.have)
	tags := maps.Clone(mlflow.Tags(d.record.Tags))
	delete(tags, TagID)
	err := d.client.LogBatch(ctx, d.have.RunID, mlflow.Batch{Params: params, Tags: tags})
	if err != nil || len(params) == 0 {
		return err
	}
	return d.save(p)
}

func (d *delivery) points(ctx context.Context) error {
	for {
		points, p := d.record.batch(d.have)
		if len(points) == 0 {
			return nil
		}
		err := d.client.LogBatch(ctx, d.have.RunID, mlflow.Batch{Metrics: points})
		if err == nil {
			err = d.save(p)
		}
		if err != nil {
			return err
		}
	}
}

// files uploads new and changed artifacts. A server without an artifact proxy can have
// none of them; its run is then one without.
func (d *delivery) files(ctx context.Context) error {
	for _, a := range d.record.Artifacts {
		digest := sha256.Sum256(a.Content)
		name := hex.EncodeToString(digest[:])
		if d.have.Files[a.Path] == name {
			continue
		}
		err := d.client.Upload(ctx, d.have.Root, mlflow.File{Path: a.Path,
			Size: int64(len(a.Content))}, bytes.NewReader(a.Content))
		if errors.Is(err, mlflow.ErrDirect) {
			d.o.cfg.Logger.Warn("artifacts are not sent", "id", d.record.ID, "reason", err)
			return nil
		}
		if err != nil {
			return err
		}
		p := d.have.clone()
		if p.Files == nil {
			p.Files = make(map[string]string)
		}
		p.Files[a.Path] = name
		if err := d.save(p); err != nil {
			return err
		}
	}
	return nil
}

// end ends the run of a record that is done.
func (d *delivery) end(ctx context.Context) error {
	status := map[Status]string{Finished: "FINISHED", Failed: "FAILED"}[d.record.Status]
	if status == "" {
		return nil
	}
	return d.client.EndRun(ctx, d.have.RunID, status, d.record.End)
}
