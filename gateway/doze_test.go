package gateway

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDoze: of two that wait each event wakes one up, and one that came before is not missed.
func TestDoze(t *testing.T) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(event)
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, event, &ev); err != nil {
		t.Fatal(err)
	}
	d, err := newDoze(epoll)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	happen := func() {
		t.Helper()
		if _, err := unix.Write(event, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
	}
	happen() // before anybody waits
	woken := make(chan int)
	const rounds = 1000
	for waiter := range 2 {
		go func() {
			var events [1]unix.EpollEvent
			for range rounds {
				n := 0
				d.wait(func() bool {
					n, _ = unix.EpollWait(epoll, events[:], 0)
					return n > 0
				})
				woken <- waiter
			}
		}()
	}
	var count [2]int
	for range 2*rounds - 1 {
		select {
		case waiter := <-woken:
			count[waiter]++
		case <-time.After(10 * time.Second):
			t.Fatalf("an event was missed after %v", count)
		}
		happen()
	}
	count[<-woken]++
	if count[0] != rounds || count[1] != rounds {
		t.Errorf("woken %v times", count)
	}
}
