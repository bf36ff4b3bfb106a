//go:build !invariants

package batch

// invariants is the build tag of the same name.
const invariants = false
