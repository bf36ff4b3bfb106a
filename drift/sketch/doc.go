// Package sketch counts the values of a feature in bins that were fixed
// beforehand, so that counts of replicas and of hours add up exactly.
//
//   - [Layout] says which bin a [Value] falls in: the intervals of a numeric feature
//     between quantiles of a reference, or the categories of another one; and for
//     each the bins of what ought not to be there. It is immutable and shared.
//   - [Sketch] counts. It belongs to one goroutine at a time.
//
// Any value may be put into any sketch, also one of another type than the feature
// has: it lands in a bin that says so. Nothing here tests anything: see package
// detect for that.
package sketch
