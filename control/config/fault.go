package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrInvalid is what every Error is.
var ErrInvalid = errors.New("config: invalid settings")

// Fault is one thing that is wrong with the settings.
type Fault struct {
	Line int    // in the file, from 1; 0 where the value is from elsewhere
	Key  string // "server.limits.body_bytes", "models[2].name"
	Text string // what is wrong, and what is allowed
}

// Error is everything that is wrong with the settings.
type Error struct {
	File   string // "" where they are not from a file
	Faults []Fault
}

// Error lists the faults, one a line, each with its place.
func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		var place string
		switch {
		case e.File != "" && f.Line > 0:
			place = fmt.Sprintf("%s:%d: ", e.File, f.Line)
		case e.File != "":
			place = e.File + ": "
		}
		if f.Key != "" {
			place += f.Key + ": "
		}
		lines[i] = place + f.Text
	}
	return strings.Join(lines, "\n")
}

// Is says that an Error is ErrInvalid.
func (e *Error) Is(target error) bool { return target == ErrInvalid }

// newError returns nil when there are no faults.
func newError(file string, faults []Fault) error {
	if len(faults) == 0 {
		return nil
	}
	slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
	return &Error{File: file, Faults: faults}
}

// maxWord is the longest word, in bytes, that may be a mistyped one.
const maxWord = 64

// nearest returns the word that is most like name, or "" when none is.
func nearest(name string, words []string) string {
	if len(name) > maxWord {
		return ""
	}
	best, bestDistance := "", max(1, len(name)/3)+1
	for _, w := range words {
		if d := distance(name, w); d < bestDistance {
			best, bestDistance = w, d
		}
	}
	return best
}

// distance is the number of edits, or swaps of neighbours, that make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
