package detect

import "sort"

// Average returns the evidence of several streams together, the mean of theirs.
func Average(evidence []float64) float64 {
	if len(evidence) == 0 {
		return 0
	}
	sum := 0.0
	for _, m := range evidence {
		sum += m
	}
	return sum / float64(len(evidence))
}

// Name returns the streams that have left their reference, strongest evidence
// first. By the rule of e-BH (Wang and Ramdas, arXiv 2009.02824) these are the k
// with the most, for the greatest k for which all k have K A / k or more, of K
// streams and with an alarm once in A ticks.
func Name(evidence []float64, every float64) []int {
	order := make([]int, len(evidence))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return evidence[order[a]] > evidence[order[b]] })
	for k := len(order); k > 0; k-- {
		if evidence[order[k-1]]*float64(k) >= float64(len(order))*every {
			return order[:k]
		}
	}
	return nil
}
