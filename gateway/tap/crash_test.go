package tap_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// TestMain lets the test binary be the child that is killed or has no room.
func TestMain(m *testing.M) {
	switch os.Args[1] {
	case "crash":
		crashChild(os.Args[2], os.Args[3])
	case "full":
		fullChild(os.Args[2], os.Args[3])
	}
	os.Exit(m.Run())
}

// child returns a command that runs this binary as a child.
func child(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// childSink is a sink for files in a child.
func childSink(dir, format string, flush time.Duration, log *slog.Logger) (*tap.Pool, *tap.Sink) {
	files, err := tap.NewFiles(
		tap.FilesConfig{Path: dir, Format: format, RotateBytes: 300_000}, log)
	if err != nil {
		panic(err)
	}
	return tap.NewPool(100, 1<<24), tap.NewSink(tap.SinkConfig{Queue: 50, Flush: flush}, files, log)
}

// crashChild writes until it is killed, and tells how many samples are safe.
func crashChild(dir, format string) {
	p, k := childSink(dir, format, 20*time.Millisecond, slog.New(slog.DiscardHandler))
	last := int64(0)
	in := everything(true)
	for i := 0; ; i++ {
		if s := p.Take(fmt.Append(nil, i), in, nil); s != nil {
			s.Endpoint, s.Time = fmt.Sprint("e", i%3), time.Now()
			k.Offer(s)
			s.Release()
		}
		if n := k.Stats().Written; n > last {
			last = n
			fmt.Println(n)
		}
	}
}

// After kill -9 all files are readable, nothing that was safe is missing, and
// no record is there in part. Each round goes on in the folder of the last.
func TestKill(t *testing.T) {
	for _, format := range formats {
		dir := t.TempDir()
		safe := int64(0)
		for round := range 3 {
			cmd := child(t, "crash", dir, format)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			var told int64
			for lines.Scan() {
				if _, err := fmt.Sscan(lines.Text(), &told); err != nil {
					t.Fatal(err)
				}
				if told > int64(30+25*round) {
					break
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			for lines.Scan() { // what it told before it died
				_, _ = fmt.Sscan(lines.Text(), &told)
			}
			_ = cmd.Wait()
			read(t, dir, "*."+format) // without any help
			safe += told
			d := open(t, tap.FilesConfig{Path: dir, Format: format})
			rows := read(t, dir, "*")
			if told == 0 || int64(len(rows)) < safe {
				t.Fatalf("%s: %d rows of %d that were safe", format, len(rows), safe)
			}
			in := everything(true)
			for _, r := range rows[:min(len(rows), 20)] {
				for i := range in {
					if format == tap.Parquet || in[i].Datatype < tensor.FP16 {
						wantTensor(t, r, "input."+in[i].Name, &in[i])
					}
				}
			}
			d.close()
		}
	}
}

// limit bounds the size that files may get to, which is how a full disk looks
// to who writes: what fits is written, the rest is not.
func limit(bytes uint64) {
	var l unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_FSIZE, &l)
	if err == nil {
		l.Cur = min(bytes, l.Max)
		err = unix.Setrlimit(unix.RLIMIT_FSIZE, &l)
	}
	if err != nil {
		panic(err)
	}
}

// fullChild writes with room, without, and with it again. Random data does not
// compress, so that no file of one sample fits.
func fullChild(dir, format string) {
	signal.Ignore(syscall.SIGXFSZ)
	var log bytes.Buffer
	p, k := childSink(dir, format, time.Millisecond, slog.New(slog.NewTextHandler(&log, nil)))
	offered, random := int64(0), rand.New(rand.NewPCG(1, 2))
	write := func(until func(tap.Stats) bool) {
		x := floats("x", 10_000)
		for i := 0; !until(k.Stats()); i++ {
			for j := 0; j < len(x.Data); j += 8 {
				binary.LittleEndian.PutUint64(x.Data[j:], random.Uint64())
			}
			if s := p.Take(fmt.Append(nil, i), []tensor.Tensor{x}, nil); s != nil {
				s.Endpoint, s.Time = "e", time.Now()
				if k.Offer(s) {
					offered++
				}
				s.Release()
			}
		}
	}
	write(func(s tap.Stats) bool { return s.Written >= 20 })
	limit(30_000)
	write(func(s tap.Stats) bool { return s.Failed >= 50 })
	limit(1 << 40)
	before := k.Stats().Written
	write(func(s tap.Stats) bool { return s.Written >= before+20 })
	if err := k.Close(context.Background()); err != nil {
		panic(err)
	}
	s := k.Stats()
	fmt.Printf("%d %d %d\n%s", offered, s.Written, s.Failed, log.String())
	os.Exit(0)
}

// A full disk costs samples, is logged once, harms no file, and is over when it
// is over.
func TestFullDisk(t *testing.T) {
	for _, format := range formats {
		dir := t.TempDir()
		out, err := child(t, "full", dir, format).Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", format, err, out)
		}
		var offered, written, failed int
		if _, err := fmt.Sscan(string(out), &offered, &written, &failed); err != nil {
			t.Fatalf("%s: %v\n%s", format, err, out)
		}
		if offered != written+failed || failed < 50 || written < 40 {
			t.Errorf("%s: of %d samples %d were written and %d failed", format, offered, written,
				failed)
		}
		text := string(out)
		if strings.Count(text, "cannot be written") != 1 ||
			strings.Count(text, "file too large") < 1 ||
			strings.Count(text, "written again") != 1 || strings.Count(text, "\n") != 3 {
			t.Errorf("%s: the log is\n%s", format, text)
		}
		// A sample that counts as lost may still be there; none that is safe is missing.
		rows := len(read(t, dir, "*"))
		if rows < written || rows > offered {
			t.Errorf("%s: %d rows of %d that were written and %d that failed", format, rows,
				written, failed)
		}
	}
}
