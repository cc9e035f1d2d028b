// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"remsim/internal/link"
)

// A network is TCP as one peer sees it, with faults on demand.
type network struct {
	meter *meter
	from  netip.Addr // where connections come from; zero: the system's choice

	mu       sync.Mutex
	conns    []*conn
	listener net.Listener // for the next Listen; nil: it makes one
}

// Dial implements link.Network.
func (n *network) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var nc net.Conn
	var err error
	if n.from.IsValid() && to.Addr().Is4() && to.Addr().IsLoopback() {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.from, 0))}
		nc, err = d.DialContext(ctx, "tcp", to.String())
	} else {
		nc, err = link.TCP().Dial(ctx, to)
	}
	if err != nil {
		n.meter.refused.Add(1)
		return nil, err
	}
	n.meter.dialled.Add(1)
	return n.add(nc), nil
}

// Lookup implements link.Network.
func (n *network) Lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return link.TCP().Lookup(ctx, host)
}

// Listen implements link.Network.
func (n *network) Listen(ctx context.Context, addr string) (net.Listener, error) {
	n.mu.Lock()
	ln := n.listener
	n.listener = nil
	n.mu.Unlock()
	if ln == nil {
		var err error
		if ln, err = link.TCP().Listen(ctx, addr); err != nil {
			return nil, err
		}
	}
	return &listener{ln, n}, nil
}

// listen makes the listener for the next Listen.
func (n *network) listen(ctx context.Context, addr string) (net.Listener, error) {
	ln, err := link.TCP().Listen(ctx, addr)
	n.mu.Lock()
	n.listener = ln
	n.mu.Unlock()
	return ln, err
}

// close closes a listener that nobody has taken.
func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listener != nil {
		n.listener.Close()
	}
}

func (n *network) add(nc net.Conn) *conn {
	c := &conn{Conn: nc, n: n}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, c)
	return c
}

func (n *network) remove(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := slices.Index(n.conns, c); i >= 0 {
		n.conns = slices.Delete(n.conns, i, i+1)
	}
}

// some returns a connection, chosen by pick of how many there are; nil: there is none.
func (n *network) some(pick func(n int) int) *conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.conns) == 0 {
		return nil
	}
	return n.conns[pick(len(n.conns))]
}

// cutAll cuts all connections.
func (n *network) cutAll() {
	n.mu.Lock()
	all := slices.Clone(n.conns)
	n.mu.Unlock()
	for _, c := range all {
		c.cut()
	}
}

// heal ends the connections that hang.
func (n *network) heal() {
	n.mu.Lock()
	all := slices.Clone(n.conns)
	n.mu.Unlock()
	for _, c := range all {
		if c.hung.Load() != nil {
			c.cut()
		}
	}
}

type listener struct {
	net.Listener
	n *network
}

func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.n.add(nc), nil
}

// A conn is one end of a connection.
type conn struct {
	net.Conn
	n    *network
	hung atomic.Pointer[chan struct{}] // closed with the connection; nil: it doesn't hang
	once sync.Once
}

// hang has the connection be as one whose other end has vanished: what comes is lost, and so is what is sent.
func (c *conn) hang() {
	ch := make(chan struct{})
	c.hung.CompareAndSwap(nil, &ch)
}

// cut resets the connection.
func (c *conn) cut() {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // fails with a closed one
	}
	c.Close()
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if hung := c.hung.Load(); hung != nil {
		<-*hung
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if c.hung.Load() != nil {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *conn) Close() (err error) {
	c.once.Do(func() {
		err = c.Conn.Close()
		c.hang()
		close(*c.hung.Load())
		c.n.remove(c)
	})
	return err
}
