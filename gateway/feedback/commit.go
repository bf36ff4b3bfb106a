package feedback

import (
	"errors"
	"fmt"
	"runtime"
	"time"
)

// call is feedback on its way to the file. The committer fills in decision,
// result and err before it closes done.
type call struct {
	id       id
	hash     hash
	reward   *float64 // nil when there is only a label
	decision *Decision
	result   Result
	err      error
	done     chan struct{}
}

// maxBatch bounds the calls of one transaction.
const maxBatch = 1024

// run is the committer: it writes all calls that wait in one transaction, so
// that they share its fsyncs, while the next ones gather. Calls are handed over
// without a buffer: what it does not take is still the caller's.
func (l *Ledger) run() {
	defer close(l.stopped)
	batch := make([]*call, 0, maxBatch)
	for {
		select {
		case c := <-l.calls:
			batch = append(batch[:0], c)
		case <-l.closing:
			return
		}
		runtime.Gosched() // Those who were just answered may have more: one fsync for all.
		for more := true; more && len(batch) < maxBatch; {
			select {
			case c := <-l.calls:
				batch = append(batch, c)
			default:
				more = false
			}
		}
		err := l.commit(batch)
		for _, c := range batch {
			c.err = err
			close(c.done)
		}
		clear(batch)
	}
}

// commit decides the calls' results and makes them durable.
func (l *Ledger) commit(batch []*call) error {
	if l.broken != nil {
		return l.broken
	}
	ch := l.stage(batch, time.Now())
	if len(ch.given) == 0 {
		return nil
	}
	if err := l.store.write(ch); err != nil {
		err = fmt.Errorf("%w %s: %w", ErrFile, l.cfg.Path, err)
		if errors.Is(err, errDamaged) {
			l.broken = err
		}
		return err
	}
	l.mu.Lock()
	l.kept.apply(ch)
	l.mu.Unlock()
	for _, c := range batch {
		if c.result == Accepted {
			l.pending.drop(c.hash)
		}
	}
	return nil
}

// stage works out what the calls change. It looks decisions up once more: only
// the committer drops those that have feedback, so none can count twice, however
// few ids are remembered.
func (l *Ledger) stage(batch []*call, now time.Time) *change {
	ch := &change{
		at:       now.UnixNano(),
		expired:  now.Add(-l.cfg.TTL).UnixNano(),
		given:    make(map[id]bool, len(batch)),
		series:   make(map[key]*Series),
		revision: l.kept.revision,
	}
	for _, c := range batch {
		if ch.given[c.id] || l.remembers(c.id, ch.at) {
			c.result = Duplicate
			continue
		}
		var at int64
		if c.decision, at = l.pending.get(c.hash); c.decision == nil {
			c.result = Unknown
			continue
		}
		c.result = Accepted
		ch.given[c.id] = true
		ch.revision++
		if c.reward != nil {
			d := c.decision
			s := ch.change(&l.kept, key{d.Endpoint, d.Model, d.Version})
			s.add(at/int64(time.Second), *c.reward)
			s.coarsen(now.Unix())
		}
	}
	ch.excess = len(l.kept.given) + len(ch.given) - l.cfg.Capacity
	return ch
}

// change is what one transaction changes.
type change struct {
	at       int64 // of the feedback, Unix nanoseconds
	expired  int64 // ids with feedback that is as old are forgotten
	excess   int   // ids that are to be forgotten because there are too many
	given    map[id]bool
	series   map[key]*Series // new values of these; nil drops one
	revision uint64
	forgot   []row // what the transaction has removed
}

// maxSeries bounds the versions whose rewards are kept.
const maxSeries = 4096

// change returns a copy of a series that may be changed. One that is new takes
// the place of the one that had no reward for longest, if there are too many.
func (ch *change) change(k *kept, name key) *Series {
	if s := ch.series[name]; s != nil {
		return s
	}
	old := k.series[name]
	if old == nil {
		old = &Series{Endpoint: name.endpoint, Model: name.model, Version: name.version}
		if len(k.series)+len(ch.series) >= maxSeries {
			ch.dropOldest(k)
		}
	}
	ch.series[name] = old.clone()
	return ch.series[name]
}

func (ch *change) dropOldest(k *kept) {
	var oldest *Series
	for name, s := range k.series {
		_, changed := ch.series[name]
		if !changed && (oldest == nil || s.last() < oldest.last()) {
			oldest = s
		}
	}
	if oldest != nil {
		ch.series[oldest.key()] = nil
	}
}

// kept is what the file says, in memory. Series are never changed, but replaced.
type kept struct {
	replica  string // whose counts these are; random, since the file was made
	revision uint64 // feedback that was accepted since
	given    map[id]int64
	series   map[key]*Series
}

// apply makes a change that is on disk.
func (k *kept) apply(ch *change) {
	k.revision = ch.revision
	for id := range ch.given {
		k.given[id] = ch.at
	}
	for _, r := range ch.forgot {
		if k.given[r.id] == r.at { // else it has had feedback again
			delete(k.given, r.id)
		}
	}
	for name, s := range ch.series {
		if s == nil {
			delete(k.series, name)
		} else {
			k.series[name] = s
		}
	}
}
