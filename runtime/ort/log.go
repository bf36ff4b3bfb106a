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

// nonblocking returns a descriptor of its own for f, which is closed.
func nonblocking(f *os.File) (int, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return 0, fmt.Errorf("ort: cannot make a pipe for log lines: %w", err)
	}
	return fd, unix.SetNonblock(fd, true)
}

// drainLog turns the library's lines into records: severity, log id (the
// model's name) and message, with a unit separator between them.
func drainLog(r *os.File, log *slog.Logger) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), "\x1f", 3)
		if len(parts) != 3 {
			continue
		}
		log.Log(context.Background(), level(parts[0]), "onnxruntime: "+parts[2], "model", parts[1])
	}
}

func level(severity string) slog.Level {
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
