package model

import "testing"

func TestGrown(t *testing.T) {
	f := func(one, two []int64, want int) {
		t.Helper()
		if got := grown(one, two); got != want {
			t.Errorf("from %v to %v the axis %d has grown, want %d", one, two, got, want)
		}
	}
	f([]int64{1, 3}, []int64{2, 3}, 0)
	f([]int64{2, 1, 128}, []int64{2, 2, 128}, 1) // as the state of a recurrent net
	f([]int64{1}, []int64{2}, 0)
	f([]int64{3, 1}, []int64{3, 1}, -1)        // a value for all rows
	f([]int64{4, 3}, []int64{8, 3}, -1)        // several lines a row
	f([]int64{1, 1}, []int64{2, 2}, -1)        // each row with each
	f([]int64{1, 5}, []int64{2, 7}, -1)        // as long as the data make it
	f([]int64{1, 3}, []int64{2, 3, 1}, -1)     // another rank
	f([]int64{}, []int64{}, -1)                // a scalar
	f([]int64{0, 3}, []int64{0, 3}, -1)        // nothing found
	f([]int64{1, 0, 2}, []int64{2, 0, 2}, 0)   // nothing in each row
	f([]int64{16, 1, 1}, []int64{16, 2, 1}, 1) // the batch behind the time
}
