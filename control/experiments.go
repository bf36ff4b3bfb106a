package control

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route"
)

// KindTest is the kind of the records of A/B/n tests and bandits. Their names are ENDPOINT/NUMBER.
const KindTest = "Test"

// Test is the record of an A/B/n test or a bandit: of the arms of an endpoint for as long as they
// stay the same. It begins once they are in force, and ends when anything of its Setup changes.
type Test struct {
	Endpoint string `json:"endpoint"`
	Setup    Setup  `json:"setup"`

	Began  time.Time `json:"began"`
	Ended  time.Time `json:"ended,omitzero"`
	Reason string    `json:"reason,omitempty"` // why it ended

	// Before is what each arm's version had in rewards when the test began.
	Before []ArmCount  `json:"before"`
	Points []TestPoint `json:"points"` // over time, the last as of the latest save
	// Recorded is when it was last given to the outbox of experiments.
	Recorded time.Time `json:"recorded,omitzero"`
}

// Setup is what a test compares.
type Setup struct {
	Arms   []route.ArmSpec   `json:"arms,omitempty"` // the stable one first, no version is an alias
	Bandit *route.BanditSpec `json:"bandit,omitempty"`
}

// TestPoint is what the arms have had since the test began.
type TestPoint struct {
	Time time.Time  `json:"time"`
	Arms []ArmCount `json:"arms"`
}

// ArmCount is what the gateway has counted of an arm. It is about requests and rewards since the
// process began, and since ever, but in a TestPoint.
type ArmCount struct {
	Name    string `json:"-"`
	Version string `json:"-"` // that serves; as it is configured where that cannot

	Weight   int     `json:"weight"` // now, of route.FullWeight
	Requests uint64  `json:"requests"`
	Rewards  uint64  `json:"rewards"`
	Reward   float64 `json:"reward"` // their sum
}

// testRecord is what is kept of a test.
type testRecord = item[struct{}, Test]

// tested is what a process knows of a test beside its record.
type tested struct {
	offsets []int64    // to the counts of requests of this process, which give those of the test
	seen    []ArmCount // before the last change of what is in force; nil
}

// keepTests is how many records of tests an endpoint keeps, maxTestPoints how many points each.
const keepTests, maxTestPoints = 20, 200

// lookTests moves all tests on. Callers hold mu.
func (p *Plane) lookTests(now time.Time) {
	running := make(map[string]*testRecord)
	for _, t := range sorted(p.view.tests) {
		var err error
		switch s := &t.status; {
		case p.view.endpoints[s.Endpoint] != nil && s.Ended.IsZero():
			running[s.Endpoint] = t
		case p.view.endpoints[s.Endpoint] != nil:
		case s.Ended.IsZero():
			err = p.endTest(t, "the endpoint was deleted", now)
		case !s.Recorded.Before(s.Ended):
			err = p.commit(p.ctx, store.Txn{By: author, Delete: []store.Key{t.Key}})
		}
		p.complain("a test cannot end yet", err, "test", t.Name)
	}
	for _, e := range sorted(p.view.endpoints) {
		if t := running[e.Name]; t != nil || len(e.spec.Arms) > 0 {
			err := p.lookTest(e, t, now)
			p.complain("a test cannot go on; it is tried again", err, "endpoint", e.Name)
		}
	}
}

// lookTest moves the test of an endpoint on, which may be nil, or begins one.
func (p *Plane) lookTest(e *endpoint, t *testRecord, now time.Time) error {
	setup, known := p.setup(e)
	switch {
	case t == nil && (!known || len(setup.Arms) == 0):
		return nil
	case t == nil:
		return p.beginTest(e, setup, now)
	case known && len(setup.Arms) == 0:
		return p.endTest(t, "the arms were taken out", now)
	case known && !reflect.DeepEqual(setup, t.status.Setup):
		return p.endTest(t, "the arms have changed", now) // the next one begins at the next look
	}
	if at := p.tests[t.Name]; at != nil {
		at.seen = nil
	}
	return p.sampleTest(t, now)
}

// setup is what an endpoint's arms compare now, nothing where it has none; known is false while an
// arm names no version yet. What a rollout tries is no part of it.
func (p *Plane) setup(e *endpoint) (s Setup, known bool) {
	if len(e.spec.Arms) == 0 {
		return s, true
	}
	spec := p.view.build(e, nil)
	left := route.FullWeight
	for _, a := range spec.Arms {
		if a.Name == route.CanaryArm && e.spec.Canary != nil && e.spec.Canary.Watch != "" {
			continue
		}
		if a.Version = p.serving(a.Model, a.Version); a.Version == "" {
			return s, false
		}
		left -= a.Weight
		s.Arms = append(s.Arms, a)
	}
	s.Arms[0].Weight += left
	s.Bandit = spec.Bandit
	return s, true
}

// serving returns the version that an alias names, or the latest where the text is empty; "" where
// there is none.
func (p *Plane) serving(model, text string) string {
	if text != "" {
		return p.view.named(model, text)
	}
	v, err := p.models.Acquire([]byte(model), nil)
	if err != nil {
		return ""
	}
	defer v.Release()
	return v.Version()
}

// armCounts returns what was counted of the arms of a setup, nil while they are not in force.
func (p *Plane) armCounts(endpoint string, s Setup) []ArmCount {
	of := p.gateway.Observe(endpoint, "").Arms
	if of == nil {
		return nil
	}
	all := of()
	counts := make([]ArmCount, 0, len(s.Arms))
	for _, a := range s.Arms {
		i := slices.IndexFunc(all, func(c ArmCount) bool {
			return c.Name == a.Name && c.Version == a.Version
		})
		if i < 0 {
			return nil
		}
		counts = append(counts, all[i])
	}
	return counts
}

// beginTest writes a test down, once its arms are in force.
func (p *Plane) beginTest(e *endpoint, s Setup, now time.Time) error {
	before := p.armCounts(e.Name, s)
	if before == nil {
		return nil
	}
	number := p.view.lastTest(e.Name) + 1
	name := e.Name + "/" + strconv.Itoa(number)
	t := Test{Endpoint: e.Name, Setup: s, Began: now, Before: before}
	at := &tested{offsets: make([]int64, len(before))}
	first := TestPoint{Time: now, Arms: make([]ArmCount, len(before))}
	for i, c := range before {
		at.offsets[i], first.Arms[i].Weight = -int64(c.Requests), c.Weight
	}
	t.Points = []TestPoint{first}
	status := e.status
	status.event(now, false, fmt.Sprintf("test %s of %s begins", name, t.arms()))
	err := p.commit(p.ctx, store.Txn{By: author, Put: []store.Resource{e.with(status),
		{Key: store.Key{Kind: KindTest, Name: name}, Owner: OwnerAPI, Status: encode(t)},
	}, Delete: p.view.outdatedTests(e.Name, number)})
	if err != nil {
		return err
	}
	p.tests[name] = at
	p.log.Info("test begins", "endpoint", e.Name, "test", name, "arms", t.arms())
	return nil
}

// lastTest is the greatest number of an endpoint's tests, 0 where there are none.
func (v *view) lastTest(endpoint string) (last int) {
	for name, t := range v.tests {
		if t.status.Endpoint == endpoint {
			last = max(last, numberOf(name))
		}
	}
	return last
}

// outdatedTests lists the records of an endpoint's tests that make room for number next.
func (v *view) outdatedTests(endpoint string, next int) []store.Key {
	var keys []store.Key
	for name, t := range v.tests {
		if s := &t.status; s.Endpoint == endpoint && numberOf(name) <= next-keepTests &&
			!s.Ended.IsZero() && !s.Recorded.Before(s.Ended) {
			keys = append(keys, t.Key)
		}
	}
	return keys
}

// numberOf is N of the name ENDPOINT/N.
func numberOf(name string) int {
	n, _ := strconv.Atoi(name[strings.LastIndexByte(name, '/')+1:]) // 0 has no record
	return n
}

// sampleTest stores what the arms have had, if that is due: as often as the counts of rollouts.
func (p *Plane) sampleTest(t *testRecord, now time.Time) error {
	last := t.status.Points[len(t.status.Points)-1].Time
	since := now.Sub(last)
	every := min(max(last.Sub(t.status.Began)/savesPerAge, leastSave), mostSave)
	if since >= 0 && since < every {
		return nil
	}
	counts := p.countTest(t)
	if counts == nil {
		return nil
	}
	status := t.status
	status.Points = withPoint(status.Points, TestPoint{now, counts})
	return p.commit(p.ctx, store.Txn{By: author, Put: []store.Resource{t.with(status)}})
}

// countTest returns what the arms have had since the test began, nil while they are not in force.
func (p *Plane) countTest(t *testRecord) []ArmCount {
	s := &t.status
	counts := p.armCounts(s.Endpoint, s.Setup)
	if counts == nil {
		return nil
	}
	last := s.Points[len(s.Points)-1].Arms
	at := p.tests[t.Name]
	if at == nil { // it began in an earlier process
		at = &tested{offsets: make([]int64, len(last))}
		for i := range last {
			at.offsets[i] = int64(last[i].Requests)
		}
		p.tests[t.Name] = at
	}
	for i := range counts {
		c := &counts[i]
		c.Requests = max(uint64(max(int64(c.Requests)+at.offsets[i], 0)), last[i].Requests)
		c.Rewards -= min(c.Rewards, s.Before[i].Rewards)
		c.Reward = max(c.Reward-s.Before[i].Reward, 0)
	}
	return counts
}

// noteTests keeps what the arms of all tests have had, before other arms take their place. Callers
// hold mu.
func (p *Plane) noteTests() {
	for _, t := range p.view.tests {
		if !t.status.Ended.IsZero() {
			continue
		}
		if counts := p.countTest(t); counts != nil {
			p.tests[t.Name].seen = counts
		}
	}
}

// endTest writes down that a test is over. What was counted before its arms left is its last point.
func (p *Plane) endTest(t *testRecord, why string, now time.Time) error {
	status := t.status
	var counts []ArmCount
	if at := p.tests[t.Name]; at != nil {
		counts = at.seen
	}
	if counts == nil {
		counts = status.Points[len(status.Points)-1].Arms
	}
	status.Points = withPoint(status.Points, TestPoint{now, counts})
	status.Ended, status.Reason = now, why
	txn := store.Txn{By: author, Put: []store.Resource{t.with(status)}}
	if e := p.view.endpoints[status.Endpoint]; e != nil {
		of := e.status
		of.event(now, false, fmt.Sprintf("test %s is over, as %s: %s", t.Name, why,
			status.Sentence()))
		txn.Put = append(txn.Put, e.with(of))
	}
	if err := p.commit(p.ctx, txn); err != nil {
		return err
	}
	delete(p.tests, t.Name)
	p.log.Info("test ends", "endpoint", status.Endpoint, "test", t.Name, "reason", why)
	return nil
}

// withPoint adds a point to those of a test, in the place of the last where that is too close to
// the one before. Full, they lose each second one.
func withPoint(points []TestPoint, p TestPoint) []TestPoint {
	points = slices.Clone(points)
	if n := len(points); n > 1 {
		gap := max(leastSave, points[n-1].Time.Sub(points[0].Time)/(maxTestPoints/2))
		if p.Time.Sub(points[n-2].Time) < gap {
			points = points[:n-1]
		}
	}
	if n := len(points); n >= maxTestPoints {
		kept := points[:0]
		for i := 0; i < n; i += 2 {
			kept = append(kept, points[i])
		}
		points = kept
	}
	return append(points, p)
}

// saveTests stores what the arms of tests have had, at the end of the process. Callers hold mu.
func (p *Plane) saveTests(now time.Time) {
	for _, t := range p.view.tests {
		status := t.status
		if p.store == nil || !status.Ended.IsZero() ||
			now.Before(status.Points[len(status.Points)-1].Time) {
			continue
		}
		if counts := p.countTest(t); counts != nil {
			status.Points = withPoint(status.Points, TestPoint{now, counts})
			p.keepTest(t, status)
		}
	}
}
