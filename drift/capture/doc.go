// Package capture builds references of samples that a tap has written to files.
//
// A [Builder] takes Parquet and JSON Lines files in any order, each request with its
// answer, and takes them apart as live ones are (see [drift.Rows]), so that the columns
// have the names that a monitor knows. It may be used by one goroutine at a time, and
// keeps no more rows than [reference.Options] say.
package capture
