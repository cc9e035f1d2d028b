// SPDX-License-Identifier: GPL-2.0-or-later

// Package link is one RSPRO connection: rspro over ipa, with keep-alive,
// requests and their responses, a bounded writer, and the schedule by which a
// caller comes back.
package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/ipa"
	"remsim/internal/rspro"
)

// MaxPDU is the longest PDU that is sent, in bytes, and the most that C programs
// encode: they close the connection on a frame over 1024 bytes.
const MaxPDU = 1016

const (
	writeTimeout = 10 * time.Second // for maxWrite bytes

	// maxWrite is how many bytes are written at once. A peer that reads slowly, such as one over
	// a mobile network, takes that much in time.
	maxWrite = 4 << 10
	// maxQueue is how many bytes wait for the writer. A bankd with 1023 slots is told
	// all its maps at once, in 37 KiB.
	maxQueue = 256 << 10
	// keepQueue is how much of a write buffer is kept for reuse.
	keepQueue = 8 << 10
)

// Why a connection ended, for errors.Is.
var (
	ErrClosed    = errors.New("link: connection closed")
	ErrTimeout   = errors.New("link: no response in time")
	ErrNoPong    = errors.New("link: no PONG")
	ErrQueueFull = errors.New("link: peer doesn't keep up: 256 KiB wait to be sent")
	ErrStalled   = errors.New("link: peer took next to nothing for 10s")
	ErrVersion   = errors.New("link: unsupported protocol version")
	ErrStrays    = errors.New("link: 100 messages out of place within a minute")
)

// Options say how a Conn behaves.
type Options struct {
	// Listener is true on the accepting end: it answers ID_ACK with ID_ACK, and ID_GET with who it is, for
	// Identify. The other end answers ID_GET as C programs do.
	Listener  bool
	KeepAlive KeepAlive
	// Identity goes into the connect response that refuses a peer of another protocol
	// version, and is what Identify is told. Without a name such a peer gets no response.
	Identity rspro.ComponentIdentity
	// Handle takes every PDU that isn't a response or unknown, in order.
	// It is called in the read loop, so it must not block, and the PDU's byte
	// slices are valid only until it returns. It is not called after Close or Finish.
	Handle func(*Conn, rspro.PDU)
	// Lingers says that Handle may call Linger.
	Lingers bool
	// Log gets one line an event; its field peer should name the other end. Nil: no log.
	// See SetLog.
	Log *logrus.Entry
}

// A Conn is one RSPRO connection. Its methods may be called from any goroutine,
// from within Handle and from response callbacks, and never block on the network.
//
// PDUs of another protocol version than ours end the connection, after a response with
// unsupportedProtocolVersion where there is one: who gets a PDU from a Conn needn't
// look at its version.
type Conn struct {
	nc   net.Conn
	o    Options
	log  atomic.Pointer[logrus.Entry]
	done chan struct{} // closed when the connection is ending

	mu      sync.Mutex
	out     []byte  // what waits to be written
	spare   []byte  // the other buffer, when nobody writes it
	writing bool    // somebody writes to nc: nobody else does
	prompt  *prompt // belongs to who writes; nil: nc has none
	end     endKind // how the connection is ending
	err     error   // why
	tag     int32   // of the last request
	calls   []*call // outstanding requests, oldest first
	probes  []*probe
	waiting bool        // a PING was sent and no PONG came yet
	alive   *time.Timer // next PING or the end of the wait for a PONG; nil before Run
	strays  quota       // messages out of place
	lines   quota       // of Quota

	reading *reading // nil unless Options.Lingers

	timers sync.WaitGroup // one for each callback of a timer that may still run
	tasks  sync.WaitGroup // the writer, when there is one, and who closes nc
	writer func()         // write, made once, so that no writer need allocate it
}

type endKind int

const (
	running   endKind = iota
	finishing         // ends when the queue is empty
	closing           // ends now
	ended             // Run has returned or is about to: nobody calls back any more
)

// New makes a Conn of an established stream; nothing is read or written before Run.
// What is sent before Run is queued.
func New(nc net.Conn, o Options) *Conn {
	c := &Conn{
		nc:   nc,
		o:    o,
		done: make(chan struct{}),
	}
	c.prompt, c.writer = newPrompt(nc), c.write
	c.o.KeepAlive = o.KeepAlive.orDefault()
	c.SetLog(o.Log)
	c.o.Log = nil // it need not outlive SetLog
	if err := c.o.KeepAlive.allow(c.nc); err != nil {
		c.Log().WithError(err).Warn("the peer may be given up before --keepalive-timeout")
	}
	c.out = ipa.AppendCCM(c.out, ipa.Ping)
	c.waiting = true
	return c
}

// SetLog has c write to another log from now on, as when its peer has said who it is. Nil: no log.
func (c *Conn) SetLog(log *logrus.Entry) { c.log.Store(orSilent(log)) }

// Log returns the log that c writes to.
func (c *Conn) Log() *logrus.Entry { return c.log.Load() }

// orSilent returns a log to write to where there may be none.
func orSilent(log *logrus.Entry) *logrus.Entry {
	if log == nil {
		return logrus.NewEntry(&logrus.Logger{Out: io.Discard, Formatter: new(logrus.TextFormatter)})
	}
	return log
}

// Run serves the connection until it ends and returns the reason: the error
// given to Close or Finish, ctx's cause, io.EOF when the peer closed, or a fault
// of stream, framing or keep-alive. When it returns all goroutines of c have
// ended but those that linger, the stream is closed and the callbacks of all outstanding requests were called.
func (c *Conn) Run(ctx context.Context) error {
	// A server has thousands that wait in read: nothing else is on their stacks.
	stop := c.begin(ctx)
	c.Close(c.read())
	if stop() {
		c.timers.Done()
	}
	return c.ending()
}

// begin is Run until there is something to read. stop is that of context.AfterFunc: as long as it returns true there is one in timers.
func (c *Conn) begin(ctx context.Context) (stop func() bool) {
	c.timers.Add(1)
	stop = context.AfterFunc(ctx, func() {
		defer c.timers.Done()
		c.Close(context.Cause(ctx))
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alive = time.AfterFunc(c.o.KeepAlive.Timeout, c.keepAlive)
	c.writeLocked() // what was sent before
	return stop
}

// ending is Run after there is nothing to read any more.
func (c *Conn) ending() error {
	c.tasks.Wait()

	c.mu.Lock()
	c.end = ended
	err := c.err
	calls, probes := c.calls, c.probes
	c.calls, c.probes = nil, nil
	c.alive.Stop()
	lines := c.lines.n
	c.mu.Unlock()
	c.leftOut(lines)

	for _, p := range probes {
		c.disarm(p.timer)
		p.up <- false
	}
	why := err
	if why == nil {
		why = ErrClosed
	}
	for _, call := range calls {
		c.disarm(call.timer)
		call.done(nil, why)
	}
	c.timers.Wait()
	return err
}

// read hands out what comes until the stream ends.
func (c *Conn) read() error {
	if c.o.Lingers {
		return c.readLingering()
	}
	r := ipa.NewReader(c.nc)
	for {
		if err := c.next(r); err != nil {
			return err
		}
	}
}

// next hands out the next frame.
func (c *Conn) next(r *ipa.Reader) error {
	s, b, err := r.Next()
	switch {
	case err != nil:
		return streamError(err)
	case s == ipa.CCM:
		return c.control(b)
	}
	return c.pdu(b)
}

// streamError leaves the addresses out of a stream's error: they are the log entry's
// business, and with their ports no two errors would be alike.
func streamError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("link: %s: %w", op.Op, op.Err)
	}
	return err
}

// control handles a CCM message.
func (c *Conn) control(b []byte) error {
	switch t := ipa.Type(b[0]); {
	case t == ipa.Ping:
		c.queueCCM(ipa.Pong)
	case t == ipa.Pong:
		c.pong()
	case t == ipa.IDGet:
		return c.identify(b)
	case t == ipa.IDAck && c.o.Listener:
		c.queueCCM(ipa.IDAck)
	case t == ipa.IDAck:
	default:
		c.Log().WithField("ccm", t).Debug("IPA control message ignored")
	}
	return nil
}

// identify answers an ID_GET.
func (c *Conn) identify(idGet []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != running {
		return nil
	}
	who := ipa.Unit()
	if c.o.Listener {
		who = listening(c.o.Identity)
	}
	out, err := ipa.AppendIDResp(c.out, idGet, who)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	if !c.o.Listener {
		out = ipa.AppendCCM(out, ipa.IDAck)
	}
	c.out = out
	if err := c.boundLocked(); err != nil {
		return err
	}
	c.writeLocked()
	return nil
}

// pdu handles an RSPRO message.
func (c *Conn) pdu(b []byte) error {
	p, err := rspro.Decode(b)
	if err != nil {
		return fmt.Errorf("link: bad PDU: %w", err)
	}
	select {
	case <-c.done:
		return nil
	default:
	}
	if p.Version != rspro.Version {
		err := fmt.Errorf("%w %d (%v); this is version %d", ErrVersion, p.Version, p.Msg.Choice(), rspro.Version)
		if m := refusal(p.Msg, c.o.Identity); m != nil {
			if err := c.Reply(p, m); err != nil {
				c.Log().WithError(err).Debug("no response to a peer of another version")
			}
		}
		c.Finish(err)
		return nil
	}
	switch m := p.Msg.(type) {
	case *rspro.Unknown:
		// Later editions of the protocol may have it: no fault.
		c.Quota(nil).WithField("message", m.Choice()).Info("unknown message passed over")
	case rspro.Response:
		if !c.response(p) {
			c.Stray(p, "no request of ours waits for it ("+m.ResultCode().String()+")")
		}
	default:
		if c.o.Handle != nil {
			c.o.Handle(c, p)
		}
	}
	return nil
}

// refusal returns the response that refuses a request for its protocol version, nil
// for a message that has no response.
func refusal(req rspro.Message, id rspro.ComponentIdentity) rspro.Message {
	const no = rspro.UnsupportedProtocolVersion
	switch req.(type) {
	case *rspro.ConnectBankReq:
		return &rspro.ConnectBankRes{Identity: id, Result: no}
	case *rspro.ConnectClientReq:
		return &rspro.ConnectClientRes{Identity: id, Result: no}
	case *rspro.CreateMappingReq:
		return &rspro.CreateMappingRes{Result: no}
	case *rspro.RemoveMappingReq:
		return &rspro.RemoveMappingRes{Result: no}
	case *rspro.ConfigClientIDReq:
		return &rspro.ConfigClientIDRes{Result: no}
	case *rspro.ConfigClientBankReq:
		return &rspro.ConfigClientBankRes{Result: no}
	case *rspro.SetAtrReq:
		return &rspro.SetAtrRes{Result: no}
	case *rspro.ResetStateReq:
		return &rspro.ResetStateRes{Result: no}
	}
	return nil
}

// Send queues a message that has no response (tag 0). A full queue ends the connection.
func (c *Conn) Send(m rspro.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendLocked(0, m)
}

// Post is Send by who calls Flush as soon as it holds no mutex: until then the message may wait.
func (c *Conn) Post(m rspro.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queueLocked(0, m)
}

// Flush writes what is queued, as far as the stream takes it without waiting; the rest is left to a
// goroutine. It spares a command that somebody waits for the change of goroutines, which takes longer
// than to write it. Whoever holds a mutex had better Send: it is a system call.
func (c *Conn) Flush() {
	c.mu.Lock()
	if c.prompt == nil || !c.mayWriteLocked() {
		c.writeLocked()
		c.mu.Unlock()
		return
	}
	c.writing = true
	b := c.takeLocked()
	c.mu.Unlock()
	if b == nil {
		return
	}
	n, err := c.prompt.write(b)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	if err != nil {
		c.endLocked(closing, streamError(err))
	}
	if n == len(b) {
		c.spareLocked(b)
	} else {
		c.out = slices.Concat(b[n:], c.out)
	}
	c.writeLocked()
}

// Reply queues the response m to the request req, with req's tag.
func (c *Conn) Reply(req rspro.PDU, m rspro.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendLocked(req.Tag, m)
}

// sendLocked queues m and has it written. An error says that nothing was queued.
func (c *Conn) sendLocked(tag int32, m rspro.Message) error {
	err := c.queueLocked(tag, m)
	if err == nil {
		c.writeLocked()
	}
	return err
}

// queueLocked encodes m into the queue. An error says that nothing was queued.
func (c *Conn) queueLocked(tag int32, m rspro.Message) error {
	if c.end != running {
		return ErrClosed
	}
	start := len(c.out)
	out := ipa.Begin(c.out)
	out, err := rspro.PDU{Version: rspro.Version, Tag: tag, Msg: m}.Append(out)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	if n := len(out) - start - ipa.Overhead; n > MaxPDU {
		return fmt.Errorf("link: %v of %d bytes, at most %d can be sent", m.Choice(), n, MaxPDU)
	}
	ipa.End(out[start:])
	c.out = out
	return c.boundLocked()
}

func (c *Conn) queueCCM(t ipa.Type) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queueCCMLocked(t)
}

func (c *Conn) queueCCMLocked(t ipa.Type) {
	if c.end == running {
		c.out = ipa.AppendCCM(c.out, t)
		if c.boundLocked() == nil {
			c.writeLocked()
		}
	}
}

// boundLocked ends the connection when the queue is full.
func (c *Conn) boundLocked() error {
	if len(c.out) > maxQueue {
		c.endLocked(closing, ErrQueueFull)
		return ErrQueueFull
	}
	return nil
}

// mayWriteLocked reports whether who asks may begin to write.
func (c *Conn) mayWriteLocked() bool {
	return c.alive != nil && !c.writing && c.end < closing
}

// writeLocked has what is queued written, and after that the connection ended if it is finishing. The writer is
// a goroutine that is there only while there is something to do.
func (c *Conn) writeLocked() {
	if c.mayWriteLocked() && (len(c.out) > 0 || c.end == finishing) {
		c.writing = true
		c.tasks.Add(1)
		go c.writer()
	}
}

// takeLocked takes what is queued, for who writes. Nil: there is nothing to write any more, for now or ever.
func (c *Conn) takeLocked() []byte {
	b := c.out
	if len(b) == 0 && c.end == finishing {
		c.endLocked(closing, nil)
	}
	if len(b) == 0 || c.end >= closing {
		c.writing = false
		return nil
	}
	c.out, c.spare = c.spare[:0], nil
	return b
}

// spareLocked keeps a buffer for reuse.
func (c *Conn) spareLocked(b []byte) {
	if cap(b) <= keepQueue {
		c.spare = b
	}
}

// write sends what is queued.
func (c *Conn) write() {
	defer c.tasks.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	for b := c.takeLocked(); b != nil; b = c.takeLocked() {
		c.mu.Unlock()
		err := c.writeOut(b)
		c.mu.Lock()
		if err != nil {
			c.endLocked(closing, streamError(err))
		}
		c.spareLocked(b)
	}
}

// writeOut writes b, of which the peer has to take a piece in time.
func (c *Conn) writeOut(b []byte) error {
	n, err := c.prompt.write(b)
	if b = b[n:]; len(b) == 0 || err != nil {
		return err
	}
	for piece := range slices.Chunk(b, maxWrite) {
		// A deadline that can't be set is that of a closed stream: Write will say so.
		_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := c.nc.Write(piece); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = ErrStalled
			}
			return err
		}
	}
	_ = c.nc.SetWriteDeadline(time.Time{}) // what is prompt has none
	return nil
}

// Close ends the connection at once; Run returns err. Further calls do nothing.
func (c *Conn) Close(err error) {
	c.mu.Lock()
	c.endLocked(closing, err)
	c.mu.Unlock()
}

// Finish ends the connection when all that is queued was written; Run returns
// err. What the peer sends from now on is dropped.
func (c *Conn) Finish(err error) {
	c.mu.Lock()
	c.endLocked(finishing, err)
	c.mu.Unlock()
}

// endLocked begins the end, or makes haste when it has begun.
func (c *Conn) endLocked(how endKind, err error) {
	if c.end >= how {
		return
	}
	if c.end == running {
		c.err = err
		close(c.done)
	}
	c.end = how
	if how == closing {
		c.tasks.Go(func() { c.nc.Close() })
		return
	}
	c.writeLocked()
}

// Done is closed when the connection is ending.
func (c *Conn) Done() <-chan struct{} { return c.done }

// RemoteAddr returns the peer's address; IPv4-mapped ones as IPv4.
func (c *Conn) RemoteAddr() netip.AddrPort { return addrPort(c.nc.RemoteAddr()) }

// LocalAddr returns our end's address; IPv4-mapped ones as IPv4.
func (c *Conn) LocalAddr() netip.AddrPort { return addrPort(c.nc.LocalAddr()) }

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
