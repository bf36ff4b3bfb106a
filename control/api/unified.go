package api

import (
	"fmt"
	"strings"
)

// contextLines are shown around what differs.
const contextLines = 3

// maxCells bounds the work of finding what two texts have in common. Beyond it all is shown
// as replaced.
const maxCells = 1 << 20

// edit is a line that stays (' '), goes ('-') or comes ('+').
type edit struct {
	op   byte
	line string
}

// unified returns the unified diff of two texts, "" when they are equal.
func unified(name string, before, after []string) string {
	edits := compare(before, after)
	var out strings.Builder
	a, b := 0, 0 // lines of both before edits[i]
	for i := 0; i < len(edits); {
		if edits[i].op == ' ' {
			i, a, b = i+1, a+1, b+1
			continue
		}
		if out.Len() == 0 {
			fmt.Fprintf(&out, "--- %s (in force)\n+++ %s (new)\n", name, name)
		}
		from := max(0, i-contextLines)
		to := hunkEnd(edits, i)
		hunk := edits[from:to]
		countA, countB := sizes(hunk)
		startA, startB := a-(i-from), b-(i-from)
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", place(startA, countA), place(startB, countB))
		for _, e := range hunk {
			out.WriteByte(e.op)
			out.WriteString(strings.TrimSuffix(e.line, "\n") + "\n")
		}
		i, a, b = to, startA+countA, startB+countB
	}
	return out.String()
}

// hunkEnd returns where the hunk ends whose first change is at i.
func hunkEnd(edits []edit, i int) int {
	last := i
	for j := i; j < len(edits) && j <= last+2*contextLines; j++ {
		if edits[j].op != ' ' {
			last = j
		}
	}
	return min(len(edits), last+1+contextLines)
}

func sizes(hunk []edit) (a, b int) {
	for _, e := range hunk {
		if e.op != '+' {
			a++
		}
		if e.op != '-' {
			b++
		}
	}
	return a, b
}

// place says where a hunk lies in a text, from 1; an empty one lies behind its line.
func place(start, count int) string {
	if count > 0 {
		start++
	}
	return fmt.Sprintf("%d,%d", start, count)
}

// compare finds the edits that make b of a, by their longest common subsequence.
func compare(a, b []string) []edit {
	var head, tail []edit
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		head = append(head, edit{' ', a[0]})
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail = append(tail, edit{' ', a[len(a)-1]})
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	edits := head
	if len(a)*len(b) <= maxCells {
		edits = append(edits, common(a, b)...)
	} else {
		edits = append(edits, all('-', a)...)
		edits = append(edits, all('+', b)...)
	}
	for i := range tail {
		edits = append(edits, tail[len(tail)-1-i])
	}
	return edits
}

func all(op byte, lines []string) []edit {
	edits := make([]edit, len(lines))
	for i, line := range lines {
		edits[i] = edit{op, line}
	}
	return edits
}

// common is compare for what is small. longest[i][j] is the length of the longest common
// subsequence of a[i:] and b[j:].
func common(a, b []string) []edit {
	longest := make([][]int32, len(a)+1)
	for i := range longest {
		longest[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			if a[i] == b[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			}
		}
	}
	var edits []edit
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			edits = append(edits, edit{' ', a[i]})
			i, j = i+1, j+1
		case longest[i+1][j] >= longest[i][j+1]:
			edits = append(edits, edit{'-', a[i]})
			i++
		default:
			edits = append(edits, edit{'+', b[j]})
			j++
		}
	}
	return append(append(edits, all('-', a[i:])...), all('+', b[j:])...)
}
