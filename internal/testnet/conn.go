// SPDX-License-Identifier: GPL-2.0-or-later

package testnet

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufSize is how many bytes one direction of a connection holds before a Write waits.
const bufSize = 64 << 10

// A pair is one connection: two ends that share a lock. It is a sync.Cond that
// Read and Write wait on, since that blocks durably in a synctest bubble.
type pair struct {
	mu   sync.Mutex
	cond *sync.Cond
}

// A conn is one end of a pair. Its fields are guarded by p.mu, but for those that never change.
type conn struct {
	p             *pair
	h             *Host
	peer          *conn
	local, remote *net.TCPAddr

	fault fault // of the host

	in     []byte // sent to this end and not read yet
	marks  []mark // when delayed bytes of in arrive
	fin    bool   // the peer sends no more
	finAt  time.Time
	closed bool  // by Close
	reset  error // the connection was reset

	readBy, writeBy deadline
	arrival         *time.Timer // wakes a reader when delayed bytes arrive
}

// A mark says that n bytes (after those of the marks before) arrive at a time.
type mark struct {
	n  int
	at time.Time
}

func newPair(h, peer *Host, from, to netip.AddrPort) (near, far *conn) {
	p := &pair{}
	p.cond = sync.NewCond(&p.mu)
	// Like a dual-stack socket, the accepting end shows IPv4 addresses in their mapped form.
	local, remote := net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to)
	near = &conn{p: p, h: h, local: local, remote: remote, fault: h.fault}
	far = &conn{p: p, h: peer, peer: near, local: mapped(to), remote: mapped(from), fault: peer.fault}
	near.peer = far
	return near, far
}

func mapped(a netip.AddrPort) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port()))
}

// pathDown reports whether nothing gets through.
func (c *conn) pathDown() bool {
	return c.h != c.peer.h && (c.fault.down || c.peer.fault.down)
}

// arrivedLocked returns how many bytes can be read and, with none, when that changes by itself.
func (c *conn) arrivedLocked(now time.Time) (int, time.Time) {
	n := len(c.in)
	for _, m := range c.marks {
		n -= m.n
	}
	for len(c.marks) > 0 && !c.marks[0].at.After(now) {
		n += c.marks[0].n
		c.marks = c.marks[1:]
	}
	switch {
	case n > 0:
		return n, time.Time{}
	case len(c.marks) > 0:
		return 0, c.marks[0].at
	case c.fin && c.finAt.After(now):
		return 0, c.finAt
	}
	return 0, time.Time{}
}

func (c *conn) Read(b []byte) (int, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	for {
		if c.closed {
			return 0, c.opError("read", net.ErrClosed)
		}
		if c.readBy.passed() {
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		}
		if len(b) == 0 {
			return 0, nil
		}
		if c.reset != nil || !c.fault.stall && !c.pathDown() {
			n, next := c.arrivedLocked(time.Now())
			switch {
			case n > 0:
				for _, f := range []int{c.fault.fragment, c.peer.fault.fragment} {
					if f > 0 {
						n = min(n, f)
					}
				}
				n = copy(b, c.in[:n])
				c.in = append(c.in[:0], c.in[n:]...)
				c.p.cond.Broadcast()
				return n, nil
			case c.reset != nil:
				return 0, c.opError("read", c.reset)
			case !next.IsZero():
				c.wakeAtLocked(next)
			case c.fin:
				return 0, io.EOF
			}
		}
		c.p.cond.Wait()
	}
}

func (c *conn) wakeAtLocked(t time.Time) {
	if c.arrival == nil {
		c.arrival = time.AfterFunc(time.Until(t), c.wake)
	} else {
		c.arrival.Reset(time.Until(t))
	}
}

func (c *conn) wake() {
	c.p.mu.Lock()
	c.p.cond.Broadcast()
	c.p.mu.Unlock()
}

func (c *conn) Write(b []byte) (int, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	done := 0
	for {
		switch {
		case c.closed:
			return done, c.opError("write", net.ErrClosed)
		case c.reset != nil:
			return done, c.opError("write", syscall.EPIPE)
		case c.peer.fin:
			return done, c.opError("write", syscall.EPIPE)
		case c.writeBy.passed():
			return done, c.opError("write", os.ErrDeadlineExceeded)
		case done == len(b):
			return done, nil
		case (c.peer.closed || c.peer.reset != nil) && !c.pathDown():
			// Nobody is there any more: the answer to the segment is a reset.
			c.resetLocked()
			return done, c.opError("write", syscall.ECONNRESET)
		}
		if n := min(len(b)-done, bufSize-len(c.peer.in)); n > 0 {
			c.peer.in = append(c.peer.in, b[done:done+n]...)
			if d := c.fault.delay + c.peer.fault.delay; d > 0 {
				c.peer.marks = append(c.peer.marks, mark{n, time.Now().Add(d)})
			}
			done += n
			c.p.cond.Broadcast()
			continue
		}
		c.p.cond.Wait()
	}
}

// resetLocked ends c as a reset from the peer does.
func (c *conn) resetLocked() {
	if c.reset == nil {
		c.reset = syscall.ECONNRESET
		c.p.cond.Broadcast()
	}
}

// CloseWrite sends a FIN: the peer reads io.EOF after what was written before.
func (c *conn) CloseWrite() error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.finLocked()
	return nil
}

func (c *conn) finLocked() {
	if p := c.peer; !p.fin {
		p.fin, p.finAt = true, time.Now().Add(c.fault.delay+p.fault.delay)
		c.p.cond.Broadcast()
	}
}

// Close sends a FIN, or a reset when there are bytes nobody has read, as Linux does.
func (c *conn) Close() error {
	c.p.mu.Lock()
	if c.closed {
		c.p.mu.Unlock()
		return c.opError("close", net.ErrClosed)
	}
	if len(c.in) > 0 && c.reset == nil && !c.pathDown() {
		c.peer.resetLocked()
	}
	c.finLocked()
	c.closeLocked()
	over := c.overLocked()
	c.p.mu.Unlock()
	c.forget(over)
	return nil
}

func (c *conn) closeLocked() {
	c.closed = true
	for _, t := range []*time.Timer{c.arrival, c.readBy.timer, c.writeBy.timer} {
		if t != nil {
			t.Stop()
		}
	}
	c.p.cond.Broadcast()
}

// abort resets both ends; the far one only when the path is up.
func (c *conn) abort() {
	c.p.mu.Lock()
	c.resetLocked()
	c.in, c.marks = nil, nil
	if !c.pathDown() {
		c.peer.resetLocked()
	}
	over := c.overLocked()
	c.p.mu.Unlock()
	c.forget(over)
}

// goneLocked reports whether this end is no more.
func (c *conn) goneLocked() bool { return c.closed || c.reset != nil }

// overLocked reports whether neither end is there any more. Until then both hosts' faults matter.
func (c *conn) overLocked() bool { return c.goneLocked() && c.peer.goneLocked() }

// forget takes a connection that is over from the hosts' lists.
func (c *conn) forget(over bool) {
	if over {
		c.h.n.mu.Lock()
		delete(c.h.conns, c)
		delete(c.peer.h.conns, c.peer)
		c.h.n.mu.Unlock()
	}
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// A deadline is that of one direction of a conn.
type deadline struct {
	at    time.Time // zero: none
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !d.at.After(time.Now()) }

func (c *conn) setLocked(d *deadline, t time.Time) {
	d.at = t
	switch {
	case t.IsZero():
		if d.timer != nil {
			d.timer.Stop()
		}
	case d.timer == nil:
		d.timer = time.AfterFunc(time.Until(t), c.wake)
	default:
		d.timer.Reset(time.Until(t))
	}
	c.p.cond.Broadcast()
}

func (c *conn) setDeadlines(read, write bool, t time.Time) error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	if read {
		c.setLocked(&c.readBy, t)
	}
	if write {
		c.setLocked(&c.writeBy, t)
	}
	return nil
}

func (c *conn) SetDeadline(t time.Time) error      { return c.setDeadlines(true, true, t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.setDeadlines(true, false, t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(false, true, t) }
