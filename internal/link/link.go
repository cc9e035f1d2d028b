// SPDX-License-Identifier: GPL-2.0-or-later

// Package link is one RSPRO connection: rspro over ipa, with keep-alive,
// requests and their responses, a bounded writer, and the schedule by which a
// caller comes back.
package link

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/rspro"
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
func TCP() Network { return nil }

// Options say how a Conn behaves.
type Options struct {
	// Listener is true on the accepting end: it answers ID_ACK with ID_ACK.
	Listener bool
	// Handle takes every PDU that isn't the response to an outstanding Request.
	// It is called in the read loop, so it must not block, and the PDU's byte
	// slices are valid only until it returns.
	Handle func(*Conn, rspro.PDU)
	// Log gets one line an event; its field peer should name the other end.
	Log *logrus.Entry
}

// A Conn is one RSPRO connection. Its methods may be called from any goroutine,
// from within Handle and from response callbacks, and never block on the network.
type Conn struct{}

// New makes a Conn of an established stream; nothing is read or written before Run.
// What is sent before Run is queued.
func New(nc net.Conn, o Options) *Conn { return nil }

// Run serves the connection until it ends and returns the reason: the error
// given to Close or Finish, ctx's cause, io.EOF when the peer closed, or a fault
// of stream, framing or keep-alive. When it returns all goroutines of c have
// ended, the stream is closed and the callbacks of all outstanding requests were called.
func (c *Conn) Run(ctx context.Context) error { return nil }

// Send queues a message that has no response (tag 0). A full queue ends the connection.
func (c *Conn) Send(m rspro.Message) error { return nil }

// Reply queues the response m to the request req, with req's tag.
func (c *Conn) Reply(req rspro.PDU, m rspro.Message) error { return nil }

// Request queues a request with a tag of its own and calls done exactly once:
// in the read loop with the response, or with ErrTimeout after d (0: no limit), or
// with the reason when the connection ends. Responses are matched by tag
// and type, and where the tag is unknown, to the oldest outstanding request of that type.
// m passed to done is valid only until done returns.
func (c *Conn) Request(m rspro.Message, d time.Duration, done func(m rspro.Message, err error)) {}

// Probe sends a PING at once and reports on the channel whether a PONG came within d.
func (c *Conn) Probe(d time.Duration) <-chan bool { return nil }

// Close ends the connection at once; Run returns err. Further calls do nothing.
func (c *Conn) Close(err error) {}

// Finish ends the connection when all that is queued was written; Run returns err.
func (c *Conn) Finish(err error) {}

// Done is closed when the connection is ending.
func (c *Conn) Done() <-chan struct{} { return nil }

// RemoteAddr returns the peer's address; IPv4-mapped ones as IPv4.
func (c *Conn) RemoteAddr() netip.AddrPort { return netip.AddrPort{} }

// LocalAddr returns our end's address; IPv4-mapped ones as IPv4.
func (c *Conn) LocalAddr() netip.AddrPort { return netip.AddrPort{} }
