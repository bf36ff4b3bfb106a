package main

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

// TestForgetStart: what was read of files leaves the process's memory, and what is needed of it is
// there all the same.
func TestForgetStart(t *testing.T) {
	pages := func() int {
		t.Helper()
		text, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		kB, err := strconv.Atoi(regexp.MustCompile(`RssFile:\s+(\d+) kB`).
			FindStringSubmatch(string(text))[1])
		if err != nil {
			t.Fatal(err)
		}
		return kB
	}
	before := pages()
	if err := forgetStart(); err != nil {
		t.Fatal(err)
	}
	after := pages()
	t.Logf("%d kB before, %d kB after", before, after)
	if after >= before {
		t.Errorf("%d kB of files are in memory, before there were %d", after, before)
	}
}
