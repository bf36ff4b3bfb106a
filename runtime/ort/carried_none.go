//go:build !embedort

package ort

// carried says that no library lies inside this binary.
func carried() (path string, ok bool, err error) { return "", false, nil }
