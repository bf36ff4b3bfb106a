package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetStart takes the pages of the program and its libraries out of the process's memory. Those
// that it goes on to use come back at their next use, from where the system keeps files; most of
// them only the start has read.
func forgetStart() error {
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("cannot read what is mapped: %w", err)
	}
	var start, end uintptr
	constant := false // the lines are about a file's pages that cannot be written to
	for in := bufio.NewScanner(bytes.NewReader(maps)); in.Scan(); {
		f := strings.Fields(in.Text())
		switch {
		case len(f) >= 5 && !strings.HasSuffix(f[0], ":"): // addresses, rights, ..., inode
			constant = f[1][1] == '-' && f[4] != "0"
			if _, err := fmt.Sscanf(f[0], "%x-%x", &start, &end); err != nil {
				return fmt.Errorf("cannot read what is mapped: %w: %q", err, in.Text())
			}
		case constant && f[0] == "Anonymous:" && f[1] == "0": // nor were any before
			_, _, e := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
			if e != 0 {
				return fmt.Errorf("cannot let go of a file's pages: %w", e)
			}
		}
	}
	return nil
}
