package batch

import (
	"strings"
	"testing"
	"time"
)

func TestPolicyDecide(t *testing.T) {
	const delay = 5 * time.Millisecond
	f := func(p Policy, rows int, age time.Duration, take int) (wait time.Duration) {
		t.Helper()
		got, wait := p.Decide(rows, age)
		if got != take || (take == 0) != (wait > 0) || wait > p.Delay {
			t.Errorf("%+v: Decide(%d, %v) = %d, %v; want %d rows", p, rows, age, got, wait, take)
		}
		return wait
	}
	greedy := Policy{Max: 8}
	f(greedy, 1, 0, 1)
	f(greedy, 8, 0, 8)
	f(greedy, 20, 0, 8)
	patient := Policy{Max: 8, Delay: delay}
	if wait := f(patient, 7, time.Millisecond, 0); wait != delay-time.Millisecond {
		t.Errorf("waits for %v, want what is left of the delay", wait)
	}
	f(patient, 8, 0, 8)
	f(patient, 1, delay, 1)
	f(patient, 7, time.Hour, 7)
	choosy := Policy{Max: 8, Delay: delay, Preferred: []int{4, 2, 6}}
	f(choosy, 1, 0, 0)
	f(choosy, 2, 0, 2)
	f(choosy, 5, 0, 4)
	f(choosy, 7, 0, 6)
	f(choosy, 8, 0, 8)
	f(choosy, 5, delay, 5)
	learned := Policy{Max: 3, Delay: delay, Preferred: []int{4}} // less than is preferred pays
	f(learned, 2, 0, 0)
	f(learned, 4, 0, 3)
}

// TestValidateListsAllFaults has a fault in each key.
func TestValidateListsAllFaults(t *testing.T) {
	good := DefaultConfig()
	if err := good.Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	bad := Config{MaxBatchSize: -1, MaxQueueDelay: time.Hour, PreferredSizes: []int{0},
		PriorityLevels: 100, DefaultPriority: 101, Queue: make([]QueuePolicy, 200),
		MaxRuns: -1, LatencyTarget: -1}
	err := bad.Validate()
	for _, key := range [...]string{"max_batch_size", "max_queue_delay", "preferred_batch_size",
		"priority_levels", "default_priority_level", "queue policies", "queue size", "queue bytes",
		"runs at once", "latency_target"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("no fault of %s in: %v", key, err)
		}
	}
}

// TestQueueOrder pushes tickets, written as level and number, takes some out
// of the middle, and checks the order of service.
func TestQueueOrder(t *testing.T) {
	f := func(pushed, removed, want string) {
		t.Helper()
		q := queue{levels: make([]list, 4)}
		byName := make(map[string]*Ticket)
		names := make(map[*Ticket]string)
		for _, name := range strings.Fields(pushed) {
			p := &Ticket{level: int(name[0] - '0'), Rows: 2, bytes: 5}
			byName[name], names[p] = p, name
			q.push(p)
		}
		for _, name := range strings.Fields(removed) {
			q.remove(byName[name])
		}
		var got []string
		for q.first() != nil {
			left := len(names) - len(strings.Fields(removed)) - len(got)
			if q.count != left || q.rows != 2*left || q.bytes != int64(5*left) {
				t.Errorf("%d waiting: counts %d requests, %d rows, %d bytes", left, q.count, q.rows,
					q.bytes)
			}
			got = append(got, names[q.first()])
			q.remove(q.first())
		}
		if s := strings.Join(got, " "); s != want || q.count != 0 || q.rows != 0 || q.bytes != 0 {
			t.Errorf("served %q, want %q; left: %+v", s, want, q)
		}
	}
	f("", "", "")
	f("0a", "", "0a")
	f("0a 0b 0c", "", "0a 0b 0c")
	f("1a 0b 2c 0d 1e", "", "0b 0d 1a 1e 2c")
	f("0a 0b 0c 0d", "0b", "0a 0c 0d")
	f("0a 0b 0c", "0a 0c", "0b")
	f("0a 1b 0c", "0a 0c 1b", "")
	f("3a 0b", "0b", "3a")
}
