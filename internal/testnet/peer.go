// SPDX-License-Identifier: GPL-2.0-or-later

package testnet

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"remsim/internal/ipa"
	"remsim/internal/rspro"
)

// tagC is the tag of a C program's connectClientRes.
const tagC = 2342

// A Peer is one end of an RSPRO connection that does what a test tells it, with the habits
// of a C program: its messages carry tag 0, its connectClientRes 2342, and it
// answers PING. It sends a PING of its own only when told.
//
//	p := testnet.DialPeer(t, host, "10.0.0.1:9998")
//	p.Send(&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &slot.Client{ID: 1}})
//	res := testnet.Expect[*rspro.ConnectClientRes](p)
//	p.Quiet(time.Second)
//
// Its methods are for the test's goroutine: where something other than expected
// comes, or nothing in time, they end the test with what came.
type Peer struct {
	// Patience is how long Expect waits; 5 s at first.
	Patience time.Duration

	t      testing.TB
	nc     net.Conn
	pdus   chan rspro.PDU
	ccm    chan []byte   // CCM payloads other than PING
	pings  atomic.Int64  // that came
	mute   atomic.Bool   // doesn't answer PING
	ended  chan struct{} // closed when the stream has ended
	reason error         // why, after ended
}

// NewPeer makes a Peer of a connection, which the end of the test closes.
func NewPeer(t testing.TB, nc net.Conn) *Peer {
	p := &Peer{
		Patience: 5 * time.Second,
		t:        t,
		nc:       nc,
		pdus:     make(chan rspro.PDU, 4096),
		ccm:      make(chan []byte, 64),
		ended:    make(chan struct{}),
	}
	go p.read()
	t.Cleanup(func() {
		nc.Close()
		<-p.ended
	})
	return p
}

// A Dialer is a Host, or link.TCP().
type Dialer interface {
	Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
}

// DialPeer connects to a literal "ADDR:PORT".
func DialPeer(t testing.TB, d Dialer, addr string) *Peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	nc, err := d.Dial(ctx, netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatalf("peer: %v", err)
	}
	return NewPeer(t, nc)
}

// AcceptPeer waits for a connection.
func AcceptPeer(t testing.TB, ln net.Listener) *Peer {
	t.Helper()
	type result struct {
		nc  net.Conn
		err error
	}
	got := make(chan result, 1)
	go func() {
		nc, err := ln.Accept()
		got <- result{nc, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			t.Fatalf("peer: %v", r.err)
		}
		return NewPeer(t, r.nc)
	case <-time.After(60 * time.Second):
		ln.Close()
		if r := <-got; r.nc != nil {
			r.nc.Close()
		}
		t.Fatal("peer: nobody connects within 60s")
	}
	return nil
}

// Identity is that of a C program.
func Identity(t rspro.ComponentType) rspro.ComponentIdentity {
	software := map[rspro.ComponentType]string{
		rspro.Client: "remsim-client", rspro.Server: "remsim-server", rspro.Bankd: "remsim-bankd",
	}[t]
	return rspro.ComponentIdentity{Type: t, Name: "testnet", Software: software, SWVersion: "1.1.3.14-4b36"}
}

func (p *Peer) read() {
	defer close(p.ended)
	r := ipa.NewReader(p.nc)
	for {
		s, b, err := r.Next()
		if err != nil {
			p.reason = err
			return
		}
		switch {
		case s == ipa.CCM && ipa.Type(b[0]) == ipa.Ping:
			p.pings.Add(1)
			if !p.mute.Load() {
				// An error comes to light at the next read.
				_, _ = p.nc.Write(ipa.AppendCCM(nil, ipa.Pong))
			}
		case s == ipa.CCM:
			select {
			case p.ccm <- append([]byte(nil), b...):
			default: // nobody looks at PONGs
			}
		default:
			// The message keeps slices of its frame: give it one of its own.
			pdu, err := rspro.Decode(append([]byte(nil), b...))
			if err != nil {
				p.reason = fmt.Errorf("frame %x: %w", b, err)
				p.nc.Close()
				return
			}
			select {
			case p.pdus <- pdu:
			default:
				p.reason = fmt.Errorf("%d messages that the test didn't take", cap(p.pdus))
				p.nc.Close()
				return
			}
		}
	}
}

// Send sends a message as a C program does, with tag 0 or 2342.
func (p *Peer) Send(m rspro.Message) {
	p.t.Helper()
	tag := int32(0)
	if m.Choice() == rspro.ChoiceConnectClientRes {
		tag = tagC
	}
	p.SendPDU(rspro.PDU{Version: rspro.Version, Tag: tag, Msg: m})
}

// Reply sends a message with the tag of a request, as our programs do.
func (p *Peer) Reply(req rspro.PDU, m rspro.Message) {
	p.t.Helper()
	p.SendPDU(rspro.PDU{Version: rspro.Version, Tag: req.Tag, Msg: m})
}

// SendPDU sends a PDU of any tag and version.
func (p *Peer) SendPDU(pdus ...rspro.PDU) {
	p.t.Helper()
	p.Write(Frames(p.t, pdus...))
}

// Post sends a PDU and tells whether that failed; other than the other methods it doesn't
// end the test.
func (p *Peer) Post(pdu rspro.PDU) error {
	b, err := pdu.Append(ipa.Begin(nil))
	if err != nil {
		return err
	}
	ipa.End(b)
	_, err = p.nc.Write(b)
	return err
}

// Frames returns the frames of PDUs, for sending them in parts or together.
func Frames(t testing.TB, pdus ...rspro.PDU) []byte {
	t.Helper()
	var b []byte
	for _, pdu := range pdus {
		start := len(b)
		var err error
		if b, err = pdu.Append(ipa.Begin(b)); err != nil {
			t.Fatalf("peer: %v: %v", pdu.Msg.Choice(), err)
		}
		ipa.End(b[start:])
	}
	return b
}

// Write sends bytes as they are. After a part of a frame the answer to a PING would
// get into it: let the first PING be answered before, or Mute.
func (p *Peer) Write(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatalf("peer: sending %x: %v", b, err)
	}
}

// WriteHex sends bytes given in hex, blanks allowed.
func (p *Peer) WriteHex(s string) {
	p.t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		p.t.Fatalf("peer: %v", err)
	}
	p.Write(b)
}

// Next returns the next PDU, whatever it is.
func (p *Peer) Next() rspro.PDU {
	p.t.Helper()
	pdu, err := p.next(p.Patience)
	if err != nil {
		p.t.Fatalf("peer: waiting for a message: %v", err)
	}
	return pdu
}

var errNothing = errors.New("nothing came")

func (p *Peer) next(d time.Duration) (rspro.PDU, error) {
	// Never 0: a timer that is due at once, in a select, has crashed Go 1.26's runtime in bubbles with the race detector.
	timer := time.NewTimer(max(d, time.Nanosecond))
	defer timer.Stop()
	select {
	case pdu := <-p.pdus:
		return pdu, nil
	case <-p.ended:
	case <-timer.C:
		return rspro.PDU{}, fmt.Errorf("%w within %v", errNothing, d)
	}
	select {
	case pdu := <-p.pdus: // came before the end
		return pdu, nil
	default:
		return rspro.PDU{}, fmt.Errorf("the connection ended: %w", p.reason)
	}
}

// Poll returns the next PDU, if one comes within d; false when none does or the connection
// ends. Like Post, it may be called from any goroutine.
func (p *Peer) Poll(d time.Duration) (rspro.PDU, bool) {
	pdu, err := p.next(d)
	return pdu, err == nil
}

// Expect returns the next PDU, which must be this message.
func (p *Peer) Expect(choice rspro.Choice) rspro.PDU {
	p.t.Helper()
	pdu, err := p.next(p.Patience)
	if err != nil {
		p.t.Fatalf("peer: waiting for %v: %v", choice, err)
	}
	if pdu.Msg.Choice() != choice {
		p.t.Fatalf("peer: got %v %+v, want %v", pdu.Msg.Choice(), pdu.Msg, choice)
	}
	return pdu
}

// Expect returns the next message of p, which must be an M.
func Expect[M rspro.Message](p *Peer) M {
	p.t.Helper()
	m, _ := ExpectPDU[M](p)
	return m
}

// ExpectPDU is Expect with the PDU around the message, for Reply.
func ExpectPDU[M rspro.Message](p *Peer) (M, rspro.PDU) {
	p.t.Helper()
	var want M
	pdu, err := p.next(p.Patience)
	if err != nil {
		p.t.Fatalf("peer: waiting for %T: %v", want, err)
	}
	m, ok := pdu.Msg.(M)
	if !ok {
		p.t.Fatalf("peer: got %v %+v, want %T", pdu.Msg.Choice(), pdu.Msg, want)
	}
	return m, pdu
}

// ExpectCCM returns the next CCM message that isn't a PING, which must be of this type.
func (p *Peer) ExpectCCM(t ipa.Type) []byte {
	p.t.Helper()
	select {
	case b := <-p.ccm:
		if ipa.Type(b[0]) != t {
			p.t.Fatalf("peer: got %v % x, want %v", ipa.Type(b[0]), b, t)
		}
		return b
	case <-p.ended:
		p.t.Fatalf("peer: waiting for %v: the connection ended: %v", t, p.reason)
	case <-time.After(p.Patience):
		p.t.Fatalf("peer: waiting for %v: nothing came within %v", t, p.Patience)
	}
	return nil
}

// Quiet passes when no RSPRO message comes for d and the connection stays.
func (p *Peer) Quiet(d time.Duration) {
	p.t.Helper()
	switch pdu, err := p.next(d); {
	case err == nil:
		p.t.Fatalf("peer: got %v %+v, want nothing for %v", pdu.Msg.Choice(), pdu.Msg, d)
	case !errors.Is(err, errNothing):
		p.t.Fatalf("peer: %v, want nothing for %v", err, d)
	}
}

// ExpectEnd passes when the other end ends the connection within d and no RSPRO
// message comes before. It returns io.EOF, or the reset.
func (p *Peer) ExpectEnd(d time.Duration) error {
	p.t.Helper()
	switch pdu, err := p.next(d); {
	case err == nil:
		p.t.Fatalf("peer: got %v %+v, want the end", pdu.Msg.Choice(), pdu.Msg)
	case errors.Is(err, errNothing):
		p.t.Fatalf("peer: still connected after %v", d)
	case errors.Is(p.reason, io.EOF):
		return io.EOF
	}
	return p.reason
}

// Pings returns how many PINGs came.
func (p *Peer) Pings() int { return int(p.pings.Load()) }

// Mute ends the answers to PING, or begins them again.
func (p *Peer) Mute(on bool) { p.mute.Store(on) }

// Done is closed when the stream has ended.
func (p *Peer) Done() <-chan struct{} { return p.ended }

// Conn returns the connection.
func (p *Peer) Conn() net.Conn { return p.nc }

// Close closes the connection and waits until its reader has ended.
func (p *Peer) Close() {
	p.nc.Close()
	<-p.ended
}
