package main

import (
	"bytes"
	"os"
	"testing"
)

// The page of settings is as the code says.
func TestPageIsFresh(t *testing.T) {
	want, err := page()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/config.md is stale: run `make docs`")
	}
}
