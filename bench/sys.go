package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below go to the kernel without telling Go's scheduler: none of them
// can block, and at 30,000 requests/s the scheduler's share would show.

// send writes to a non-blocking socket.
func send(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// receive reads from a non-blocking socket; b is not empty.
func receive(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
	return int(n), errno
}

// ready fetches the events that are there, without waiting.
func ready(epoll int, events []unix.EpollEvent) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll),
		uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// await sleeps until one of the descriptors can be read or d is over. Unlike
// Go's timers, which round up to a millisecond, it is exact to some
// microseconds on a thread that called exactTimers. The scheduler is not told:
// its monitor would look after the processor that this thread keeps, and be at
// work as much as the sender is.
func await(d time.Duration, fds ...unix.PollFd) {
	ts := unix.NsecToTimespec(int64(max(d, 0)))
	// An interrupted sleep is a short one.
	_, _, _ = syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(fds))),
		uintptr(len(fds)), uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
}

// exactTimers binds the goroutine to a thread of its own, for good: the thread
// ends with the goroutine. The kernel otherwise rounds sleeps up by 50 us.
func exactTimers() {
	runtime.LockOSThread()
	_, _ = unix.PrctlRetInt(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
}

// timer lets a goroutine sleep to the microsecond and leaves its processor to
// others meanwhile: a timerfd that Go's poller waits for.
type timer struct {
	fd   int
	file *os.File // owns fd
}

func newTimer() (timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return timer{}, fmt.Errorf("cannot make a timer: %w", err)
	}
	return timer{fd, os.NewFile(uintptr(fd), "timer")}, nil
}

// wake ends sleep, now and from now on.
func (t timer) wake() { _ = t.file.SetReadDeadline(time.Unix(1, 0)) }

func (t timer) close() { _ = t.file.Close() }

// sleep returns when d, which is above 0, is over, or after wake.
func (t timer) sleep(d time.Duration) {
	value := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if unix.TimerfdSettime(t.fd, 0, &value, nil) == nil {
		var expirations [8]byte
		_, _ = t.file.Read(expirations[:]) // It fails after wake.
	}
}

// cpuTime returns the CPU time used so far by who: a thread or the process.
func cpuTime(who int) time.Duration {
	var u unix.Rusage
	if unix.Getrusage(who, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resolve turns an address of the config into one to connect to.
func resolve(ctx context.Context, address string) (family int, to unix.Sockaddr, err error) {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: path}, nil
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot parse address: %w", err)
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot resolve port: %w", err)
	}
	if host == "" {
		host = "localhost"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot resolve host: %w", err)
	}
	ip := ips[0].Unmap()
	if ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: ip.As4()}, nil
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: ip.As16()}, nil
}

// dial starts to connect; the socket is writable when that has succeeded or failed.
func dial(family int, to unix.Sockaddr) (fd int, err error) {
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if family != unix.AF_UNIX {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.Connect(fd, to)
	}
	if err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
