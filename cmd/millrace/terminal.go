package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// onTerminal says whether a stream is read by a person.
func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// progressAfter is how long something may take before people want to know.
const progressAfter = time.Second

// progress shows on a terminal what is being done, once it takes longer than a
// second, until the returned function is called. text may change meanwhile.
func progress(w io.Writer, text func() string) (done func()) {
	if !onTerminal(w) {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	began := time.Now()
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressAfter / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if since := time.Since(began); since >= progressAfter {
					fmt.Fprintf(w, "\r\x1b[K%s (%ds)", text(), int(since.Seconds()))
				}
			case <-end:
				fmt.Fprint(w, "\r\x1b[K")
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}

// table writes lines of tab-separated columns.
func table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 8, 2, ' ', 0) }
