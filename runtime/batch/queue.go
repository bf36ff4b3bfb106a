package batch

// queue holds the waiting tickets of one batcher: a list for each priority
// level, first come first served within a level, and one last list for those
// whose waiting time is over and whose policy says to serve them last.
// Guarded by Batcher.mu.
type queue struct {
	levels []list
	count  int
	rows   int
	bytes  int64
}

// list is a doubly linked list through Ticket.prev and Ticket.next, so that a
// ticket that gives up leaves at once, wherever it stands.
type list struct {
	head, tail *Ticket
	count      int
}

// push puts the ticket at the end of its level.
func (q *queue) push(t *Ticket) {
	l := &q.levels[t.level]
	t.prev, t.next = l.tail, nil
	if l.tail == nil {
		l.head = t
	} else {
		l.tail.next = t
	}
	l.tail = t
	l.count++
	q.count++
	q.rows += t.Rows
	q.bytes += t.bytes
	t.state = queued
}

// remove takes the ticket out; callers set its state.
func (q *queue) remove(t *Ticket) {
	l := &q.levels[t.level]
	if t.prev == nil {
		l.head = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.tail = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
	l.count--
	q.count--
	q.rows -= t.Rows
	q.bytes -= t.bytes
}

// first returns the ticket that is served next, nil when none waits.
func (q *queue) first() *Ticket {
	for i := range q.levels {
		if q.levels[i].head != nil {
			return q.levels[i].head
		}
	}
	return nil
}
