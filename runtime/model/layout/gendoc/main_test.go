package main

import (
	"bytes"
	"os"
	"testing"
)

// TestPageIsFresh: the page of config.pbtxt is as the code says.
func TestPageIsFresh(t *testing.T) {
	got, err := os.ReadFile("../../../../docs/config-pbtxt.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, page()) {
		t.Error("docs/config-pbtxt.md is stale: run `make docs`")
	}
}
