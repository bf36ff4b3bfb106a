package wire

import (
	"fmt"
	"strings"
)

// maxListed and maxListedBytes bound the names in an error text, maxCompared
// those that are looked at for one that is near.
const (
	maxListed      = 16
	maxListedBytes = 200
	maxCompared    = 256
)

// targets returns how many inputs or columns there are, and their names.
func (t *table) targets() (int, func(i int) string) {
	if t.named {
		columns := t.sig.Inputs[0].Columns
		return len(columns), func(i int) string { return columns[i].Name }
	}
	return len(t.sig.Inputs), func(i int) string { return t.sig.Inputs[i].Name }
}

// list names those of n for which is holds, and counts those that are too many
// to name.
func list(n int, name func(i int) string, is func(i int) bool) string {
	var b strings.Builder
	listed, left := 0, 0
	for i := range n {
		switch {
		case !is(i):
			continue
		case listed == maxListed || b.Len() > maxListedBytes:
			left++
			continue
		case listed > 0:
			b.WriteString(", ")
		}
		listed++
		b.WriteString("'" + string(shorten([]byte(name(i)))) + "'")
	}
	if left > 0 {
		fmt.Fprintf(&b, " and %d more", left)
	}
	return b.String()
}

func all(int) bool { return true }

// expected says what the model takes: columns where it has those, unless names
// of inputs were given.
func (t *table) expected() string {
	if len(t.seen) == 0 {
		t.choose(nil)
	}
	n, name := t.targets()
	return "the model takes " + list(n, name, all)
}

// unknown refuses a name.
func (t *table) unknown(name []byte) error {
	hint := ""
	if near := t.nearest(string(shorten(name))); near != "" {
		hint = fmt.Sprintf("; did you mean '%s'?", near)
	}
	where := ""
	if t.inRows {
		where = fmt.Sprintf("row %d: ", t.row)
	}
	return fmt.Errorf("%w: %sunexpected %q: %s%s", ErrBadRequest, where, shorten(name),
		t.expected(), hint)
}

// lacks names what must not be missing but is.
func (t *table) lacks(absent func(i int) bool) error {
	n, name := t.targets()
	missing := list(n, name, func(i int) bool { return absent(i) && !t.optional(i) })
	if missing == "" { // it is missing in this row only
		missing = list(n, name, absent)
	}
	where := ""
	if t.inRows {
		where = fmt.Sprintf("row %d: ", t.row)
	}
	return fmt.Errorf("%w: %sit is missing %s; %s", ErrBadRequest, where, missing, t.expected())
}

func (t *table) optional(i int) bool {
	if t.named {
		return t.sig.Inputs[0].Columns[i].Optional
	}
	return t.sig.Inputs[i].Optional
}

// nearest returns the name that needs the fewest changes, "" where all need many.
func (t *table) nearest(name string) string {
	n, nameOf := t.targets()
	best, least := "", 1+len(name)/4
	for i := range min(n, maxCompared) {
		other := nameOf(i)
		if len(other) > 2*len(name)+2 {
			continue
		}
		if d := distance(strings.ToLower(name), strings.ToLower(other)); d <= least {
			best, least = other, d-1
		}
	}
	return best
}

// distance counts the letters to change, put in or leave out to make b of a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
