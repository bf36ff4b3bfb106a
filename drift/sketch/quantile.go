package sketch

// Quantile returns the value below which a share of the numbers is, from the counts of a
// numeric layout's bins, for people: between two edges as if they were spread evenly, and
// an edge for what is beyond the outermost. It returns false without numbers.
func (l *Layout) Quantile(counts []uint64, share float64) (x float64, ok bool) {
	if !l.IsNumeric() || len(counts) != l.Bins() {
		return 0, false
	}
	numbers := counts[:l.Regular()]
	total := 0.0
	for _, n := range numbers {
		total += float64(n)
	}
	left := min(max(share, 0), 1) * total
	for i, n := range numbers {
		if left <= float64(n) && n > 0 {
			low := l.edges[max(i-1, 0)]
			high := l.edges[min(i, len(l.edges)-1)]
			part := left / float64(n)
			return low*(1-part) + high*part, true
		}
		left -= float64(n)
	}
	return l.edges[len(l.edges)-1], total > 0
}
