//go:build invariants

package tensor

// invariants makes memory that was given up look like it.
const invariants = true
