//go:build !invariants

package tensor

// invariants is the build tag of the same name.
const invariants = false
