// Package reference holds what live data are compared with: how the values of each
// feature were distributed in the data that a model was trained on.
//
//   - [Collector] takes rows, from a file ([FromCSV], [FromParquet]) or the first
//     live ones, and builds a profile of them.
//   - [Profile] is the reference: for each [Feature] the bins and their counts, and
//     for all numeric ones together the [Joint] projections. It is small, has no
//     rows in it, and is written as JSON. It is immutable once built or read.
//
// Nothing here is safe for concurrent writes.
package reference
