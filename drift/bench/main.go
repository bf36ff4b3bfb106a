// Command bench measures the drift detection of this repository, beside others' on the
// same streams, and writes the tables of docs/drift.md.
//
// Streams are drawn here, by fixed seeds, and written to files once. Python runs the
// others' detectors on them (peers.py), in environments of its own that pip fills. A
// stream's run length is how many rows it takes to a false alarm; ours is set to that
// which the other showed before delays are compared.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// settings say where to measure, and how much.
type settings struct {
	dir       string // of streams and figures
	document  string // whose tables are renewed
	only      string // one of the measurements; empty for all
	reuse     bool   // the others' figures of the last run
	streams   int    // for each figure
	slow      int    // of these for detectors that take milliseconds a row
	clean     int    // rows without drift, of one numeric feature
	reference int    // rows of each reference
	horizon   int    // ticks until which false alarms are waited for
	after     int    // rows until which drift is waited for
	days      int    // of the periodic stream
	logger    *slog.Logger
}

// full are the settings of the tables in docs/drift.md.
func full() settings {
	return settings{
		dir:       ".cache/drift-bench",
		document:  "docs/drift.md",
		streams:   400,
		slow:      40,
		clean:     20_000_000, // ADWIN takes 2,000,000 for one false alarm
		reference: 10_000,
		horizon:   5000,
		after:     3000,
		days:      60,
		logger:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}

func main() {
	s := full()
	flag.StringVar(&s.dir, "dir", s.dir, "folder for streams and environments")
	flag.StringVar(&s.document, "document", s.document, "document whose tables are renewed")
	flag.StringVar(&s.only, "only", "", "one alone: false-alarms, compare, published, periodic")
	flag.BoolVar(&s.reuse, "reuse", false, "take the others' figures of the last run")
	flag.IntVar(&s.slow, "slow", s.slow, "streams and alarms for the slow ones of the others")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run measures, and renews the document.
func (s settings) run(ctx context.Context) error {
	began := time.Now()
	var err error
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return fmt.Errorf("cannot find the folder: %w", err)
	}
	sections := make(map[string]string)
	if s.only == "" || s.only == "false-alarms" {
		if err := s.falseAlarms(sections); err != nil {
			return err
		}
	}
	if s.only != "false-alarms" {
		if err := s.beside(ctx, sections); err != nil {
			return err
		}
	}
	if s.only == "" {
		sections["run"] = fmt.Sprintf("Measured on %s with %s, in %v.\n",
			began.UTC().Format(time.DateOnly), runtime.Version(),
			time.Since(began).Round(time.Minute))
	}
	return renew(s.document, sections)
}

// beside measures what others are compared by.
func (s settings) beside(ctx context.Context, sections map[string]string) error {
	all := s.draw()
	if !s.reuse {
		if err := s.write(all); err != nil {
			return err
		}
		if err := s.runPeers(ctx); err != nil {
			return err
		}
	}
	peers, err := s.readPeers()
	if err != nil {
		return err
	}
	if s.only == "" || s.only == "compare" {
		if err := s.compare(sections, all, peers); err != nil {
			return err
		}
	}
	if s.only == "" || s.only == "published" {
		if err := s.published(sections); err != nil {
			return err
		}
	}
	if s.only == "" || s.only == "periodic" {
		return s.periodic(sections, peers)
	}
	return nil
}
