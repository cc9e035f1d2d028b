// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// A Network is how a program reaches others: TCP, or a host of testnet.
type Network interface {
	// Dial connects to addr; the caller bounds it with ctx.
	Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// Lookup returns the addresses of a host name or of a literal address.
	Lookup(ctx context.Context, host string) ([]netip.Addr, error)
	// Listen accepts connections on "HOST:PORT", HOST empty for all addresses
	// of both families.
	Listen(ctx context.Context, addr string) (net.Listener, error)
}

// TCP returns the Network of this host. Its connections have TCP_NODELAY,
// a user time-out and keep-alive set.
func TCP() Network { return tcp{} }

// tcpUserTimeout is how long sent bytes may stay unacknowledged, or KeepAlive.Timeout when that is longer. Keep-alive probes
// find a dead peer where IPA's PING doesn't: before Run, and while Finish waits.
const tcpUserTimeout = 20 * time.Second

var tcpKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 4}

type tcp struct{}

func (tcp) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return tune(c.(*net.TCPConn))
}

func (tcp) Lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil { // whose zone LookupNetIP drops
		return []netip.Addr{a.Unmap()}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	return addrs, err
}

func (tcp) Listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // it doesn't know the user time-out
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return tcpListener{ln.(*net.TCPListener)}, nil
}

// A tcpListener sets the options of what it accepts.
type tcpListener struct{ *net.TCPListener }

func (l tcpListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return tune(c)
}

// tune sets the options of a connection, or closes it.
func tune(c *net.TCPConn) (net.Conn, error) { // it has TCP_NODELAY from package net
	err := c.SetKeepAliveConfig(tcpKeepAlive)
	if err == nil {
		err = setUserTimeout(c, tcpUserTimeout)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
