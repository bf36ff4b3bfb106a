package ort

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// startLog returns the writing end of a pipe whose lines go to log until it is
// closed. A full pipe drops lines: the library must never wait for a log.
func startLog(log *slog.Logger) (fd int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return 0, fmt.Errorf("ort: cannot make a pipe for log lines: %w", err)
	}
	if err := unix.SetNonblock(ends[1], true); err != nil {
		return 0, fmt.Errorf("ort: cannot make a pipe for log lines: %w", err)
	}
	go drainLog(os.NewFile(uintptr(ends[0]), "log of ONNX Runtime"), log)
	return ends[1], nil
}

// drainLog turns the library's lines into records: severity, log id (the
// model's name) and message, with a unit separator between them.
func drainLog(r *os.File, log *slog.Logger) {
	defer r.Close()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), "\x1f", 3)
		if len(parts) != 3 {
			continue
		}
		log.Log(context.Background(), level(parts[0], parts[2]), "onnxruntime: "+message(parts[2]),
			"model", parts[1])
	}
}

// level returns the level of a line. Why a run failed is in its error: the
// line says nothing new, and would let clients fill the log.
func level(severity, text string) slog.Level {
	if strings.HasPrefix(text, "Non-zero status code returned while running") {
		return slog.LevelDebug
	}
	switch severity {
	case "0":
		return slog.LevelDebug
	case "1":
		return slog.LevelInfo
	case "2":
		return slog.LevelWarn
	}
	return slog.LevelError
}
