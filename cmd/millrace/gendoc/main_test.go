package main

import (
	"bytes"
	"os"
	"testing"
)

// TestPageIsFresh: the page of metrics is as the code says.
func TestPageIsFresh(t *testing.T) {
	got, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, page()) {
		t.Error("docs/metrics.md is stale: run `make docs`")
	}
}
