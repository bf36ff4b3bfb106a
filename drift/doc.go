// Package drift tells whether the rows that an endpoint sees, and its answers, have
// left what its model was trained on.
//
//   - [Rows] takes requests and answers apart into rows of values.
//   - A [Window] counts rows by the bins of a reference: those of one replica since
//     its last tick. Windows add up, and have a binary form to be sent in.
//   - A [Monitor] takes one window a tick, with the rows of all replicas, and says
//     how strong the evidence of drift is and which features it comes from.
//   - A [SegmentWindow] and a [SegmentMonitor] do so for each frequent value of a column.
//
// The packages below do the work: sketch counts, reference says what is normal,
// detect decides, distance describes; performance looks at labels and scores, and
// capture makes references of samples. All is decided by counts and by the times that
// are handed in; no clock is read. What is here belongs to one goroutine at a
// time; a profile is shared.
package drift
