//go:build invariants

package batch

// invariants makes the package check itself: what was released is overwritten,
// and a wrong release panics.
const invariants = true
