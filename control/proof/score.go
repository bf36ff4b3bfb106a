package proof

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Metric is how a golden set is scored, by scikit-learn's names.
type Metric string

// The metrics. Those of classes take the class itself, a number that is rounded to one, or
// a score for each class, of which the highest wins: the classes are 0, 1, 2 ... then.
const (
	Accuracy         Metric = "accuracy"          // share of the rows with the right class
	BalancedAccuracy Metric = "balanced_accuracy" // mean of that share over the classes
	ROCAUC           Metric = "roc_auc"           // of the score of class 1, where 0 and 1 are
	R2               Metric = "r2"                // share of the variance that is explained
	MAE              Metric = "mae"               // mean of the absolute errors
	RMSE             Metric = "rmse"              // root of the mean of the squared errors
)

// Score is what a version has got on a golden set.
type Score struct {
	Metric Metric
	Value  float64
	Bound  float64 // that it has to reach; of MAE and RMSE, not to exceed
	Rows   int
}

// Enough says whether the score will do.
func (s Score) Enough() bool {
	if metrics[s.Metric].isError {
		return s.Value <= s.Bound
	}
	return s.Value >= s.Bound
}

// String is the score with what is needed.
func (s Score) String() string {
	limit := "at least"
	if metrics[s.Metric].isError {
		limit = "at most"
	}
	return fmt.Sprintf("%s %.4g over %s, %s %.4g is needed", s.Metric, s.Value,
		count(s.Rows, "row"), limit, s.Bound)
}

// sample is a row's answer and what is expected of it: classes, or numbers as float64.
type sample struct{ got, want any }

// metric is how one of them is computed.
type metric struct {
	read    func(row []any, want any) (sample, error) // of an output's values for a row
	score   func(samples []sample) (float64, error)   // there is at least one
	isError bool                                      // the less of it, the better
}

var metrics = map[Metric]metric{
	Accuracy:         {read: classes, score: accuracy},
	BalancedAccuracy: {read: classes, score: balancedAccuracy},
	ROCAUC:           {read: ranks, score: rocAUC},
	R2:               {read: numbers, score: r2},
	MAE:              {read: numbers, score: mae, isError: true},
	RMSE:             {read: numbers, score: rmse, isError: true},
}

func metricNames() string {
	var names []string
	for _, m := range slices.Sorted(maps.Keys(metrics)) {
		names = append(names, string(m))
	}
	return strings.Join(names, ", ")
}

// farthest names the row whose answer is the farthest off, if there is such a one.
func farthest(samples []sample) string {
	worst := slices.MaxFunc(samples, func(a, b sample) int { return cmp.Compare(a.off(), b.off()) })
	if worst.off() == 0 {
		return ""
	}
	return fmt.Sprintf("; row %d is %s, expected %s", slices.Index(samples, worst),
		text(worst.got), text(worst.want))
}

// off is how far an answer is from what is expected.
func (s sample) off() float64 {
	g, ok := s.got.(float64)
	w, ok2 := s.want.(float64)
	switch {
	case ok && ok2:
		return math.Abs(g - w)
	case s.got == s.want:
		return 0
	}
	return 1
}

// classes reads a row whose answer is a class.
func classes(row []any, want any) (sample, error) {
	if len(row) == 1 {
		return sample{class(row[0]), class(want)}, nil
	}
	best, most := 0, math.Inf(-1)
	for i, v := range row {
		f, ok := number(v)
		if !ok {
			return sample{}, fmt.Errorf("it has %d values, and %s is no score", len(row), text(v))
		}
		if f > most {
			best, most = i, f
		}
	}
	return sample{float64(best), class(want)}, nil
}

// class makes classes of different datatypes the same: strings stay as they are.
func class(v any) any {
	if f, ok := number(v); ok {
		return math.Round(f)
	}
	return v
}

// ranks reads a row whose answer is a score for class 1, or one for class 0 and one for 1.
func ranks(row []any, want any) (sample, error) {
	s, err := numbers(row[len(row)-1:], want)
	switch {
	case err != nil:
		return s, err
	case len(row) > 2:
		return s, fmt.Errorf("it has scores for %d classes, there must be two", len(row))
	case s.want != 0.0 && s.want != 1.0:
		return s, fmt.Errorf("%s is expected, must be 0 or 1", text(want))
	}
	return s, nil
}

// numbers reads a row whose answer is a number.
func numbers(row []any, want any) (sample, error) {
	if len(row) != 1 {
		return sample{}, fmt.Errorf("it has %d values, there must be one", len(row))
	}
	g, ok := number(row[0])
	w, ok2 := number(want)
	if !ok || !ok2 {
		return sample{}, fmt.Errorf("%s is no number", text(row[0]))
	}
	return sample{g, w}, nil
}

func accuracy(samples []sample) (float64, error) {
	right := 0
	for _, s := range samples {
		if s.got == s.want {
			right++
		}
	}
	return float64(right) / float64(len(samples)), nil
}

// balancedAccuracy is the mean of the recalls of the classes that are expected.
func balancedAccuracy(samples []sample) (float64, error) {
	right, all := make(map[any]float64), make(map[any]float64)
	for _, s := range samples {
		all[s.want]++
		if s.got == s.want {
			right[s.want]++
		}
	}
	sum := 0.0
	for c := range all {
		sum += right[c] / all[c]
	}
	return sum / float64(len(all)), nil
}

// rocAUC is the chance that a row of class 1 has a higher score than one of class 0, where
// equal scores count one half: (R - n1(n1+1)/2) / (n0 n1), with R the sum of the ranks of
// class 1 (Mann and Whitney).
func rocAUC(samples []sample) (float64, error) {
	sorted := slices.SortedFunc(slices.Values(samples), func(a, b sample) int {
		return cmp.Compare(a.got.(float64), b.got.(float64))
	})
	ones, rankSum := 0.0, 0.0
	for from := 0; from < len(sorted); {
		to := from
		for to < len(sorted) && sorted[to].got == sorted[from].got {
			to++
		}
		rank := float64(from+1+to) / 2 // the mean of from+1 ... to
		for _, s := range sorted[from:to] {
			if s.want == 1.0 {
				ones, rankSum = ones+1, rankSum+rank
			}
		}
		from = to
	}
	zeros := float64(len(samples)) - ones
	if zeros == 0 || ones == 0 {
		return 0, errors.New("roc_auc needs rows of class 0 and of class 1")
	}
	return (rankSum - ones*(ones+1)/2) / (zeros * ones), nil
}

// r2 is 1 - sum (want-got)^2 / sum (want-mean)^2.
func r2(samples []sample) (float64, error) {
	mean := 0.0
	for _, s := range samples {
		mean += s.want.(float64) / float64(len(samples))
	}
	squares := 0.0
	for _, s := range samples {
		d := s.want.(float64) - mean
		squares += d * d
	}
	if squares == 0 {
		return 0, errors.New("r2 needs expected values that are not all the same")
	}
	return 1 - meanSquare(samples)*float64(len(samples))/squares, nil
}

func mae(samples []sample) (float64, error) {
	sum := 0.0
	for _, s := range samples {
		sum += math.Abs(s.got.(float64) - s.want.(float64))
	}
	return sum / float64(len(samples)), nil
}

func rmse(samples []sample) (float64, error) { return math.Sqrt(meanSquare(samples)), nil }

func meanSquare(samples []sample) float64 {
	sum := 0.0
	for _, s := range samples {
		d := s.want.(float64) - s.got.(float64)
		sum += d * d
	}
	return sum / float64(len(samples))
}
