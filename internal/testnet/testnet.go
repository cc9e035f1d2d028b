// SPDX-License-Identifier: GPL-2.0-or-later

// Package testnet is a network in memory for tests: hosts with addresses and
// names, buffered streams with deadlines, and faults (cut, down, stall, delay,
// fragments). It behaves as TCP does where programs can tell: a stream loses no
// bytes in its middle, a refused dial fails at once, a dead host is silent.
// It works inside testing/synctest bubbles.
//
// A scripted peer that behaves as a C program, for tests of either end of a
// connection, is Peer.
package testnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A Net joins hosts.
type Net struct {
	mu      sync.Mutex
	hosts   map[netip.Addr]*Host
	names   map[string][]netip.Addr
	changed chan struct{} // closed and made anew when a waiting dial may go on
}

// New returns an empty network.
func New() *Net {
	return &Net{
		hosts:   make(map[netip.Addr]*Host),
		names:   make(map[string][]netip.Addr),
		changed: make(chan struct{}),
	}
}

// A Host is one machine of a Net. It has its loopback addresses besides those
// it was made with. It implements link.Network.
type Host struct {
	n         *Net
	addrs     []netip.Addr // guarded by n.mu, as all below
	listeners map[netip.AddrPort]*listener
	conns     map[*conn]struct{} // the ends here, as long as the other end lives
	port      uint16             // last ephemeral port
	fault     fault
	acceptErr []error
}

// A fault is what is wrong with a host's network; it is copied into each of its
// connections.
type fault struct {
	down, stall bool
	delay       time.Duration
	fragment    int
}

// Host returns the host with these addresses (the first one is its source address for
// that family), making it when new.
func (n *Net) Host(addrs ...string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	var h *Host
	parsed := parseAddrs(addrs)
	for _, a := range parsed {
		if h = n.hosts[a]; h != nil {
			break
		}
	}
	if h == nil {
		h = &Host{n: n, listeners: make(map[netip.AddrPort]*listener), conns: make(map[*conn]struct{}), port: 32767}
	}
	for _, a := range parsed {
		switch n.hosts[a] {
		case nil:
			n.hosts[a] = h
			h.addrs = append(h.addrs, a)
		case h:
		default:
			panic("testnet: " + a.String() + " belongs to another host")
		}
	}
	return h
}

// Name makes a host name known, for Lookup; no address removes it.
func (n *Net) Name(name string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(addrs) == 0 {
		delete(n.names, name)
		return
	}
	n.names[name] = parseAddrs(addrs)
}

func parseAddrs(addrs []string) []netip.Addr {
	out := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		out[i] = netip.MustParseAddr(a).Unmap()
	}
	return out
}

// wake lets waiting dials look again; n.mu is held.
func (n *Net) wakeLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Lookup implements link.Network: literal addresses, names given to Name, and
// localhost. A name that isn't known is a *net.DNSError with IsNotFound; a host that is
// down gets no answer before ctx ends.
func (h *Host) Lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	if host == "localhost" {
		return []netip.Addr{netip.IPv6Loopback(), v4Loopback}, nil
	}
	for {
		h.n.mu.Lock()
		down, changed := h.fault.down, h.n.changed
		addrs := h.n.names[host]
		h.n.mu.Unlock()
		switch {
		case down:
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, &net.DNSError{Err: "i/o timeout", Name: host, IsTimeout: true, IsTemporary: true}
			}
		case len(addrs) == 0:
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		default:
			return append([]netip.Addr(nil), addrs...), nil
		}
	}
}

var v4Loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Dial implements link.Network. It fails as TCP does: connection refused where nobody
// listens, no route to an address that no host has, network unreachable without a
// source address of the family; with either host down it hangs until ctx ends.
func (h *Host) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	for {
		h.n.mu.Lock()
		near, wait, err := h.dialLocked(addr)
		changed := h.n.changed
		delay := h.fault.delay
		h.n.mu.Unlock()
		if err != nil {
			return fail(err)
		}
		if !wait {
			if delay > 0 {
				select {
				case <-time.After(delay):
				case <-ctx.Done():
					near.abort()
					return fail(ctx.Err())
				}
			}
			if ctx.Err() != nil {
				near.abort()
				return fail(ctx.Err())
			}
			return near, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
}

// dialLocked makes the connection, or says that the dial has to wait.
func (h *Host) dialLocked(to netip.AddrPort) (near *conn, wait bool, err error) {
	var peer *Host
	var src netip.Addr
	if to.Addr().IsLoopback() {
		peer, src = h, to.Addr()
	} else {
		for _, a := range h.addrs {
			if a.Is4() == to.Addr().Is4() {
				src = a
				break
			}
		}
		if !src.IsValid() {
			return nil, false, syscall.ENETUNREACH
		}
		if peer = h.n.hosts[to.Addr()]; peer == nil {
			return nil, false, syscall.EHOSTUNREACH
		}
	}
	if peer != h && (h.fault.down || peer.fault.down) {
		return nil, true, nil
	}
	ln := peer.listenerLocked(to)
	if ln == nil {
		return nil, false, syscall.ECONNREFUSED
	}
	h.port++
	if h.port == 0 {
		h.port = 32768
	}
	near, far := newPair(h, peer, netip.AddrPortFrom(src, h.port), to)
	select {
	case ln.backlog <- far:
	default:
		return nil, true, nil // the backlog is full: as the kernel, drop the SYN
	}
	h.conns[near] = struct{}{}
	peer.conns[far] = struct{}{}
	return near, false, nil
}

// listenerLocked returns who listens on an address of h, exact ones before wildcards.
func (h *Host) listenerLocked(a netip.AddrPort) *listener {
	if ln := h.listeners[a]; ln != nil {
		return ln
	}
	if a.Addr().Is4() {
		if ln := h.listeners[netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())]; ln != nil {
			return ln
		}
	}
	return h.listeners[netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port())]
}

// Listen implements link.Network. Port 0 takes a free one. An empty host and
// "::" accept both families, "0.0.0.0" IPv4 only.
func (h *Host) Listen(ctx context.Context, addr string) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: fmt.Errorf("%s: %w", addr, err)}
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fail(err)
	}
	p, err := net.LookupPort("tcp", port)
	if err != nil {
		return fail(err)
	}
	ip := netip.IPv6Unspecified()
	if host != "" {
		addrs, err := h.Lookup(ctx, host)
		if err != nil {
			return fail(err)
		}
		ip = addrs[0]
	}
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	if !ip.IsUnspecified() && !ip.IsLoopback() && h.n.hosts[ip] != h {
		return fail(syscall.EADDRNOTAVAIL)
	}
	at := netip.AddrPortFrom(ip, uint16(p))
	if p == 0 {
		for at = netip.AddrPortFrom(ip, 32768); h.takenLocked(at); {
			at = netip.AddrPortFrom(ip, at.Port()+1)
		}
	} else if h.takenLocked(at) {
		return fail(syscall.EADDRINUSE)
	}
	ln := &listener{h: h, addr: at, backlog: make(chan *conn, backlog), closed: make(chan struct{})}
	h.listeners[at] = ln
	h.n.wakeLocked()
	return ln, nil
}

func (h *Host) takenLocked(a netip.AddrPort) bool {
	for l := range h.listeners {
		if l.Port() == a.Port() && (l.Addr() == a.Addr() || l.Addr().IsUnspecified() || a.Addr().IsUnspecified()) {
			return true
		}
	}
	return false
}

// backlog is how many connections wait for Accept before further dials hang.
const backlog = 128

type listener struct {
	h       *Host
	addr    netip.AddrPort
	backlog chan *conn
	closed  chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: err}
	}
	select {
	case <-l.closed:
		return fail(net.ErrClosed)
	default:
	}
	select {
	case c := <-l.backlog:
		l.h.n.mu.Lock()
		l.h.n.wakeLocked()
		var err error
		if len(l.h.acceptErr) > 0 {
			err = l.h.acceptErr[0]
			l.h.acceptErr = l.h.acceptErr[1:]
		}
		l.h.n.mu.Unlock()
		if err != nil {
			c.abort()
			return fail(err)
		}
		return c, nil
	case <-l.closed:
		return fail(net.ErrClosed)
	}
}

// Close resets the connections that wait for Accept.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.h.n.mu.Lock()
		delete(l.h.listeners, l.addr)
		l.h.n.mu.Unlock()
		for {
			select {
			case c := <-l.backlog:
				c.abort()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

// FailAccept makes the next calls of Accept on h's listeners that would return a
// connection fail with these errors instead, one after the other.
func (h *Host) FailAccept(errs ...error) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.acceptErr = append(h.acceptErr, errs...)
}

// Cut resets all connections of h, as when its process is killed. Its listeners
// stay. The far end of a connection whose path is down hears nothing; what it sends
// after Up gets a reset.
func (h *Host) Cut() {
	for _, c := range h.list() {
		c.abort()
	}
}

// Conns returns how many connections have a live end at h.
func (h *Host) Conns() int {
	n := 0
	for _, c := range h.list() {
		c.p.mu.Lock()
		if !c.goneLocked() {
			n++
		}
		c.p.mu.Unlock()
	}
	return n
}

func (h *Host) list() []*conn {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	cs := make([]*conn, 0, len(h.conns))
	for c := range h.conns {
		cs = append(cs, c)
	}
	return cs
}

// Down takes h off the network until Up, silently: connections stay half-open (what
// is sent waits in the sender's buffer), dials from and to it hang. Connections of h
// with itself go on.
func (h *Host) Down() { h.set(func(f *fault) { f.down = true }) }

// Up ends Down and Stall; what was held arrives.
func (h *Host) Up() { h.set(func(f *fault) { f.down, f.stall = false, false }) }

// Stall holds what h's peers send (h stops reading): their buffers fill.
func (h *Host) Stall() { h.set(func(f *fault) { f.stall = true }) }

// Delay holds each byte to and from h, written from now on, for d; a dial from h takes d, too.
func (h *Host) Delay(d time.Duration) { h.set(func(f *fault) { f.delay = d }) }

// Fragment delivers at most n bytes to and from h per read; 0: no limit.
func (h *Host) Fragment(n int) { h.set(func(f *fault) { f.fragment = n }) }

func (h *Host) set(change func(*fault)) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	change(&h.fault)
	for c := range h.conns {
		c.p.mu.Lock()
		c.fault = h.fault
		c.p.cond.Broadcast()
		c.p.mu.Unlock()
	}
	h.n.wakeLocked()
}
