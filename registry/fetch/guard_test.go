package fetch

import (
	"errors"
	"net/netip"
	"testing"
)

func TestGuard(t *testing.T) {
	f := func(addr string, allowed, named bool, allow ...string) {
		t.Helper()
		g, err := newGuard(allow)
		if err != nil {
			t.Fatal(err)
		}
		for isNamed, want := range map[bool]bool{false: allowed, true: named} {
			err := g.check(netip.MustParseAddr(addr), isNamed)
			if want != (err == nil) || err != nil && !errors.Is(err, ErrRefused) {
				t.Errorf("%s, named %v: %v", addr, isNamed, err)
			}
		}
	}
	for _, addr := range []string{"1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.0",
		"2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"} {
		f(addr, true, true)
	}
	// A name lets what is private pass, however it is written.
	for _, addr := range []string{"127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1",
		"192.168.1.1", "::1", "fc00::1", "fd12:3456::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
		"64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::", "::10.0.0.1"} {
		f(addr, false, true)
	}
	for _, addr := range []string{"0.0.0.0", "0.1.2.3", "::", "169.254.169.254", "169.254.0.1",
		"::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::",
		"::ffff:0.0.0.0", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "224.0.0.1",
		"239.255.255.255", "ff02::1", "255.255.255.255", "240.0.0.1", "100.64.0.1",
		"100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "192.0.2.1",
		"64:ff9b:1::a00:1", "2001::1", "2001:db8::1", "fec0::1", "100::1", "::169.254.169.254"} {
		f(addr, false, false)
	}
	f("10.1.2.3", true, true, "10.0.0.0/8")
	f("::ffff:10.1.2.3", true, true, "10.0.0.0/8")
	f("64:ff9b::10.1.2.3", true, true, "10.0.0.0/8")
	f("11.1.2.3", true, true, "10.0.0.0/8")
	f("192.168.1.1", false, true, "10.0.0.0/8", "192.168.1.2")
	f("192.168.1.1", true, true, "10.0.0.0/8", "192.168.1.1")
	f("169.254.169.254", true, true, "169.254.169.254")
	f("169.254.169.253", false, false, "169.254.169.254")
	f("fe80::1%eth0", true, true, "fe80::/10")
	for _, bad := range []string{"", "10.0.0.0/33", "http://host", "host:80", "*.host", "a b"} {
		if _, err := newGuard([]string{bad}); err == nil {
			t.Errorf("the entry %q is allowed", bad)
		}
	}
}

// FuzzGuard dials whatever the wire may hold: an address that is refused stays so
// in each of its other forms.
func FuzzGuard(f *testing.F) {
	for _, addr := range []string{"10.0.0.1", "169.254.169.254", "1.1.1.1", "127.0.0.1"} {
		bytes := netip.MustParseAddr(addr).As4()
		f.Add(bytes[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != 4 {
			return
		}
		var g guard
		plain := g.check(netip.AddrFrom4([4]byte(b)), false)
		for _, e := range embeds[:2] {
			bytes := e.prefix.Addr().As16()
			copy(bytes[e.at:], b)
			if err := g.check(netip.AddrFrom16(bytes), false); (err == nil) != (plain == nil) {
				t.Errorf("%v: %v, but %v", netip.AddrFrom16(bytes), err, plain)
			}
		}
		mapped := netip.AddrFrom16(netip.AddrFrom4([4]byte(b)).As16())
		if err := g.check(mapped, false); (err == nil) != (plain == nil) {
			t.Errorf("%v: %v, but %v", mapped, err, plain)
		}
	})
}
