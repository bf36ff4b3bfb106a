// Command compare is behind `make bench`: it holds the server against its
// limits and prints a table of ratios. As `compare echo` it is the echo
// servers that it measures against.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/millrace-ml/millrace/bench/compare"
	"github.com/millrace-ml/millrace/bench/echo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := measure
	if len(os.Args) > 1 && os.Args[1] == "echo" {
		run = serveEcho
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// serveEcho runs the echo servers until the process is told to end.
func serveEcho(ctx context.Context) error {
	var listen [2]net.Listener
	for i := range listen {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("cannot listen: %w", err)
		}
		listen[i] = l
	}
	fmt.Fprintf(os.Stderr, "listening http=%s grpc=%s\n", listen[0].Addr(), listen[1].Addr())
	return echo.Serve(ctx, listen[0], listen[1])
}

func measure(ctx context.Context) error {
	var cfg compare.Config
	flag.StringVar(&cfg.Root, "root", ".", "root of the repository")
	flag.StringVar(&cfg.Server, "server", "bin/millrace", "the server program")
	flag.StringVar(&cfg.Library, "library", os.Getenv("MILLRACE_ONNXRUNTIME"),
		"ONNX Runtime's shared library")
	flag.StringVar(&cfg.Cache, "cache", ".cache/bench-models",
		"folder for fetched models and compiled programs")
	flag.StringVar(&cfg.Only, "only", "",
		"one scenario alone: "+strings.Join(compare.Names(), ", "))
	flag.BoolVar(&cfg.Short, "short", false, "a quick look: one round, a fraction of the time")
	jsonFile := flag.String("json", ".cache/bench.json", "file for the figures")
	document := flag.String("document", "docs/performance.md",
		"document whose table a full run renews; none if empty")
	flag.Parse()
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if cfg.Library == "" {
		return fmt.Errorf("cannot find ONNX Runtime: set MILLRACE_ONNXRUNTIME or -library")
	}
	for _, path := range []*string{&cfg.Root, &cfg.Server, &cfg.Library, &cfg.Cache} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("cannot find %s: %w", *path, err)
		}
		*path = absolute
	}
	report, err := compare.Run(ctx, cfg)
	if err != nil {
		return err
	}
	if err := report.Print(os.Stdout); err != nil {
		return err
	}
	if err := report.WriteJSON(*jsonFile); err != nil {
		return err
	}
	if *document != "" && cfg.Only == "" && !cfg.Short {
		if err := report.Renew(*document); err != nil {
			return err
		}
	}
	if !report.OK() {
		return errors.New("not all figures meet their bars")
	}
	return nil
}
