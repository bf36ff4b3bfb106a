package fetch

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// forbidden are the addresses that no public server has, beside those that
// net/netip knows of: private, loopback, link-local (with the metadata address
// 169.254.169.254 of most clouds), multicast and unspecified ones. From the
// special-purpose registries of IANA.
var forbidden = prefixes(
	"0.0.0.0/8",        // this network
	"100.64.0.0/10",    // carrier-grade NAT, and a cloud's metadata at 100.100.100.200
	"168.63.129.16/32", // a cloud's metadata
	"192.0.0.0/24",     // protocol assignments
	"192.0.2.0/24",     // documentation
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"240.0.0.0/4",      // reserved, and broadcast
	"64:ff9b:1::/48",   // NAT64 of a local network
	"100::/64",         // discard
	"2001::/23",        // protocol assignments, with Teredo
	"2001:db8::/32",    // documentation
	"fec0::/10",        // site-local
)

// embeds are the prefixes of addresses that lead to the IPv4 address that they
// hold from a byte on.
var embeds = []struct {
	prefix netip.Prefix
	at     int // bytes
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64, RFC 6052
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4, RFC 3056
	{netip.MustParsePrefix("::/96"), 12},        // IPv4-compatible, RFC 4291 2.5.5.1
}

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// guard decides which addresses may be dialled.
type guard struct {
	networks []netip.Prefix
	hosts    []string // lower case
}

// newGuard reads the entries of Config.Allow: networks, addresses and host names.
func newGuard(allow []string) (guard, error) {
	var g guard
	for _, entry := range allow {
		if addr, err := netip.ParseAddr(entry); err == nil {
			addr = addr.Unmap()
			g.networks = append(g.networks, netip.PrefixFrom(addr, addr.BitLen()))
		} else if network, err := netip.ParsePrefix(entry); err == nil {
			g.networks = append(g.networks, network.Masked())
		} else if entry == "" || strings.ContainsAny(entry, "/:* \t") {
			return g, fmt.Errorf("%q is neither a network, an address nor a host name", entry)
		} else {
			g.hosts = append(g.hosts, strings.ToLower(strings.TrimSuffix(entry, ".")))
		}
	}
	return g, nil
}

// check says why an address must not be dialled. named says that the host it
// belongs to is allowed by name: then it may be private or loopback, but not
// one where only a cloud's metadata or no single host answers.
func (g guard) check(addr netip.Addr, named bool) error {
	addr = addr.Unmap()
	contains := func(p netip.Prefix) bool { return p.Contains(addr.WithZone("")) }
	if slices.ContainsFunc(g.networks, contains) {
		return nil
	}
	for _, e := range embeds {
		if contains(e.prefix) && !addr.IsUnspecified() && !addr.IsLoopback() {
			bytes := addr.As16()
			return g.check(netip.AddrFrom4([4]byte(bytes[e.at:e.at+4])), named)
		}
	}
	kind := ""
	switch {
	case !addr.IsValid():
		kind = "no address"
	case addr == netip.MustParseAddr("fd00:ec2::254"):
		kind = "a metadata address"
	case addr.IsUnspecified():
		kind = "the unspecified address"
	case addr.IsLinkLocalUnicast():
		kind = "a link-local or metadata address"
	case addr.IsMulticast():
		kind = "a multicast address"
	case addr.IsLoopback() && !named:
		kind = "a loopback address"
	case addr.IsPrivate() && !named:
		kind = "a private address"
	case slices.ContainsFunc(forbidden, contains):
		kind = "a special-purpose address"
	}
	if kind == "" {
		return nil
	}
	return fmt.Errorf("%w: %v is %s; allow its network where that is meant", ErrRefused, addr, kind)
}

// dial connects to one of a host's addresses. Each address is checked just before
// it is dialled, so it does not matter what names resolve to at other times.
func (g guard) dial(ctx context.Context, network, hostPort string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	named := slices.Contains(g.hosts, strings.ToLower(strings.TrimSuffix(host, ".")))
	d := net.Dialer{
		Timeout:   dialTimeout,
		KeepAlive: dialTimeout,
		Control: func(network, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil || !strings.HasPrefix(network, "tcp") {
				return fmt.Errorf("%w: %s address %q", ErrRefused, network, address)
			}
			return g.check(ap.Addr(), named)
		},
	}
	return d.DialContext(ctx, network, hostPort)
}

// dialTimeout bounds one connection's setup, and is the interval of its probes.
const dialTimeout = 15 * time.Second
