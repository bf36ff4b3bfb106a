package delivery_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Size of the terminal.
const lines, columns = 24, 80

// terminal is a command that runs on a terminal of its own.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	ended  chan struct{} // closed when all is read

	mu   sync.Mutex
	text strings.Builder // that was shown. Guarded by mu
	at   int             // up to which it was looked at
}

// watch runs `rollout status --watch` on a terminal.
func (d *desk) watch() *terminal {
	d.t.Helper()
	master, slave := openTerminal(d.t)
	x := &terminal{t: d.t, master: master, ended: make(chan struct{}),
		cmd: command("rollout", "status", "adds", "--watch")}
	x.cmd.Env = append(x.cmd.Env, "MILLRACE_ADMIN=http://"+d.Addresses["admin"])
	x.cmd.Stdout, x.cmd.Stderr = slave, slave
	if err := x.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	_ = slave.Close()
	go x.read()
	d.t.Cleanup(func() {
		_ = x.cmd.Process.Kill() // it may have ended before
		<-x.ended
		_ = x.cmd.Wait() // told by ends
		_ = master.Close()
	})
	return x
}

// openTerminal returns both ends of a terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ,
			&unix.Winsize{Row: lines, Col: columns})
	}
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	return master, slave
}

// read keeps what is shown, until the command has ended.
func (x *terminal) read() {
	defer close(x.ended)
	b := make([]byte, 4096)
	for {
		n, err := x.master.Read(b)
		x.mu.Lock()
		x.text.Write(b[:n])
		x.mu.Unlock()
		if err != nil {
			return // nobody has the other end any more
		}
	}
}

// shows waits for texts to be shown, one after the other.
func (x *terminal) shows(texts ...string) {
	x.t.Helper()
	for _, text := range texts {
		until(x.t, "the terminal shows "+strconv.Quote(text), time.Minute, func() bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			i := strings.Index(x.text.String()[x.at:], text)
			if i >= 0 {
				x.at += i
			}
			return i >= 0
		})
	}
}

// ends wants the command to end with a status, and its picture to fit the terminal.
func (x *terminal) ends(status int) {
	x.t.Helper()
	select {
	case <-x.ended:
	case <-time.After(time.Minute):
		x.t.Fatal("the command does not end")
	}
	_ = x.cmd.Wait() // the status is below
	if got := x.cmd.ProcessState.ExitCode(); got != status {
		x.t.Errorf("the status is %d, want %d", got, status)
	}
	for line := range strings.Lines(x.text.String()) {
		line = line[strings.LastIndexByte(line, '\x1b')+1:]
		if n := len([]rune(strings.TrimRight(line, "\r\n"))); n > columns {
			x.t.Errorf("a line has %d columns: %q", n, line)
		}
	}
}
